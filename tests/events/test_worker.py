"""events.worker: work for one thread, in order, whose results come back to the loop."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from structlog.testing import capture_logs

from qmaster.events.worker import Worker

pytestmark = pytest.mark.gen_test(timeout=20)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("worker-of-a-test")
    yield made
    made.close()


async def test_work_is_done_in_the_thread_in_order(worker: Worker) -> None:
    """And what follows it on the loop, in the same order."""
    done: list[tuple[int, str]] = []
    names: list[str] = []

    def work(number: int) -> int:
        names.append(threading.current_thread().name)
        return number

    for number in range(10):
        worker.submit(partial(work, number), lambda each: done.append((each, threading.current_thread().name)))
    assert await worker.call(lambda: 10) == 10
    assert done == [(number, threading.current_thread().name) for number in range(10)]
    assert names == ["worker-of-a-test"] * 10


async def test_an_error_is_its_callers(worker: Worker) -> None:
    """The next one is served."""
    with pytest.raises(ZeroDivisionError):
        await worker.call(lambda: 1 // 0)
    assert await worker.call(lambda: 1) == 1


async def test_work_that_must_not_raise_and_does_ends_nothing(worker: Worker) -> None:
    """It is logged, and the thread goes on."""
    with capture_logs() as lines:
        worker.submit(lambda: 1 // 0, lambda result: None)
        assert await worker.call(lambda: 1) == 1
    assert [line["event"] for line in lines] == ["work_failed"]


async def test_a_caller_that_is_cancelled_harms_no_other(worker: Worker) -> None:
    """Its work ends if it has begun, and is left out if it has not."""
    going, done, errors = threading.Event(), list[str](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda loop, error: errors.append(error))
    first = asyncio.create_task(worker.call(lambda: going.wait(10)))
    second = asyncio.create_task(worker.call(lambda: done.append("second")))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    going.set()
    assert await worker.call(lambda: "third") == "third"
    assert (done, errors) == ([], [])


async def test_what_was_given_to_it_is_done_before_it_closes(worker: Worker) -> None:
    """What comes later is refused."""
    last = asyncio.create_task(worker.call(lambda: "last"))
    await asyncio.sleep(0)
    worker.close()
    assert await last == "last"
    with pytest.raises(RuntimeError):
        await worker.call(lambda: "too late")


def test_a_loop_that_has_ended_is_told_nothing(worker: Worker) -> None:
    """What was asked there is done, and the next loop is served."""
    going, done = threading.Event(), list[bool]()

    async def ask() -> None:
        worker.submit(lambda: going.wait(10), done.append)

    async def ask_again() -> int:
        return await worker.call(lambda: 2)

    asyncio.run(ask())
    with capture_logs() as lines:
        going.set()
        assert asyncio.run(ask_again()) == 2
    assert (done, lines) == ([], [])
