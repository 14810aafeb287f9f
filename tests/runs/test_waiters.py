"""Waiters: who waits for the end of a run is woken when it is over, when the time has passed, or when they leave."""

import asyncio
import time

import msgspec
import pytest
from fakes import service, task
from swarm_cases import NODES, NOW

from qmaster.models.responses import Result, Service
from qmaster.runs.results import Waiters, is_over
from qmaster.runs.views import status

pytestmark = pytest.mark.gen_test

LONG = 60.0
RESULT = Result(exit_code=0, stdout="", stderr="", truncated=False, tasks=[])


def view(state: str, owner: str | None = "root", result: Result | None = None) -> Service:
    shown = status.service(service(), [task(state, code=0)], NODES, NOW)
    return msgspec.structs.replace(shown, owner=owner, result=result)


GOING_ON, ENDED, READ = view("running"), view("complete"), view("complete", result=RESULT)
GONE = msgspec.structs.replace(GOING_ON, status="removed")
STOPPING = msgspec.structs.replace(READ, status="stopping")


def nobody() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("shown", "over"),
    [
        (GOING_ON, False),
        (ENDED, False),
        (READ, True),
        (view("failed", result=RESULT), True),
        (view("failed", owner=None), True),
        (STOPPING, False),
        (GONE, True),
    ],
)
def test_a_run_is_over_when_nothing_more_is_to_come(shown: Service, over: bool) -> None:
    """Ended and read, or gone; what somebody else started is not read."""
    assert is_over(shown) is over


async def test_a_wait_ends_with_the_run() -> None:
    """Not with a change before; everyone who waits for it is woken, and nobody else."""
    waiters = Waiters()
    two = [asyncio.create_task(waiters.until_over(GOING_ON, LONG, nobody())) for _ in range(2)]
    other = asyncio.create_task(waiters.until_over(msgspec.structs.replace(GOING_ON, id="s2"), 0.2, nobody()))
    await asyncio.sleep(0)
    assert len(waiters) == 3
    waiters.notice(ENDED)
    await asyncio.sleep(0)
    assert not any(task.done() for task in two)
    waiters.notice(READ)
    async with asyncio.timeout(5):
        await asyncio.gather(*two)
    assert not other.done()
    await other
    assert len(waiters) == 0


async def test_what_is_over_is_not_waited_for() -> None:
    """Nobody would wake the caller."""
    async with asyncio.timeout(5):
        await Waiters().until_over(READ, LONG, nobody())


async def test_a_wait_ends_with_its_time() -> None:
    """And is forgotten."""
    waiters, began = Waiters(), time.monotonic()
    await waiters.until_over(GOING_ON, 0.05, nobody())
    assert time.monotonic() - began >= 0.05
    assert len(waiters) == 0


async def test_a_wait_ends_with_its_caller() -> None:
    """Nothing is kept for one who has hung up."""
    waiters, left = Waiters(), nobody()
    task = asyncio.create_task(waiters.until_over(GOING_ON, LONG, left))
    await asyncio.sleep(0)
    left.set_result(None)
    async with asyncio.timeout(5):
        await task
    assert len(waiters) == 0


async def test_at_the_end_nobody_waits() -> None:
    """Those who do are answered with what is; who comes later too."""
    waiters = Waiters()
    task = asyncio.create_task(waiters.until_over(GOING_ON, LONG, nobody()))
    await asyncio.sleep(0)
    waiters.close()
    async with asyncio.timeout(5):
        await task
        await waiters.until_over(GOING_ON, LONG, nobody())
    assert len(waiters) == 0
