"""limiter: nobody waits longer for what others have asked."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from fakes import until

from qmaster.errors import TooManyCalls
from qmaster.limiter import FairLimiter, act_for, acting_for, owner


class Lab:
    """Work that takes slots; ``runs`` has who holds how many, ``order`` who had one when."""

    def __init__(self, limiter: FairLimiter) -> None:
        self.limiter = limiter
        self.runs: Counter[str | None] = Counter()
        self.order: list[str | None] = []
        self.go: dict[str | None, asyncio.Semaphore] = {}

    def begin(self, whose: str | None, count: int = 1) -> list["asyncio.Task[None]"]:
        with acting_for(whose):
            return [asyncio.create_task(self._work(whose)) for _ in range(count)]

    def end(self, whose: str | None, count: int = 1) -> None:
        for _ in range(count):
            self._gate(whose).release()

    def _gate(self, whose: str | None) -> asyncio.Semaphore:
        return self.go.setdefault(whose, asyncio.Semaphore(0))

    async def _work(self, whose: str | None) -> None:
        async with self.limiter.slot():
            self.runs[whose] += 1
            self.order.append(whose)
            try:
                await self._gate(whose).acquire()
            finally:
                self.runs[whose] -= 1


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def leave(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.gen_test
async def test_one_owner_has_half_and_the_next_finds_a_slot() -> None:
    """However many of the first wait; each further one finds one too, while there are any."""
    lab = Lab(FairLimiter(8))
    tasks = []
    for whose, has in (("alice", 4), ("bob", 2), ("carol", 1), ("dan", 1), ("eve", 0)):
        tasks += lab.begin(whose, 12)
        await settle()
        assert lab.runs[whose] == has, whose
    assert lab.runs.total() == 8
    await leave(*tasks)
    assert lab.runs.total() == lab.limiter._held.total() == 0


@pytest.mark.gen_test
async def test_where_several_have_all_the_next_slot_is_for_who_has_none() -> None:
    """Owners together can take every slot; each that has one waits behind whoever comes after them without any."""
    lab = Lab(FairLimiter(8))
    tasks = []
    for whose in ("alice", "bob", "carol", "dan"):
        tasks += lab.begin(whose, 12)
        await settle()
    tasks += lab.begin("root", 2)
    await settle()
    for whose in ("alice", "root"):
        assert lab.runs["root"] == (whose == "root")
        lab.end(whose)
        await settle()
    assert lab.order[8:] == ["root", "root"]
    await leave(*tasks)


@pytest.mark.gen_test
async def test_who_waits_has_a_turn_owner_by_owner() -> None:
    """A call behind a hundred of another's is the next but one."""
    lab = Lab(FairLimiter(1))
    tasks = [*lab.begin("alice", 100), *lab.begin("bob", 2), *lab.begin("carol", 1)]
    await settle()
    for whose in ("alice", "alice", "bob", "carol", "alice"):
        lab.end(whose)
        await settle()
    assert lab.order[:6] == ["alice", "alice", "bob", "carol", "alice", "bob"]
    await leave(*tasks)


@pytest.mark.gen_test
async def test_work_without_an_owner_has_slots_of_its_own() -> None:
    """Any owners' crowd leaves them free; and it may take all that are free."""
    lab = Lab(FairLimiter(4, spare=2))
    tasks = [task for whose in "abcdefgh" for task in lab.begin(whose, 5)]
    await settle()
    assert lab.runs.total() == 4
    tasks += lab.begin(None, 3)
    await settle()
    assert lab.runs[None] == 2
    await leave(*tasks)
    tasks = lab.begin(None, 7)
    await settle()
    assert lab.runs[None] == lab.limiter.size == 6
    await leave(*tasks)


@pytest.mark.gen_test
async def test_a_wait_is_bounded_and_says_what_it_waited_for() -> None:
    """In time and in number; what has no owner waits as long as it takes."""
    limiter = FairLimiter(1, queued_for=0.05)
    lab = Lab(limiter)
    tasks = lab.begin("alice")
    await settle()
    for whose, says in (("alice", "this token's other calls"), ("bob", "the calls of others")):
        with acting_for(whose), pytest.raises(TooManyCalls, match=says):
            await limiter.take()
    patient = lab.begin(None)
    await asyncio.sleep(0.2)
    lab.end("alice")
    await until(lambda: lab.runs[None] == 1)
    await leave(*tasks, *patient)


@pytest.mark.gen_test
async def test_a_long_queue_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """To its owner; another may wait."""
    monkeypatch.setattr("qmaster.limiter.MAX_QUEUED", 3)
    lab = Lab(FairLimiter(1))
    tasks = lab.begin("alice", 4)
    await settle()
    with acting_for("alice"), pytest.raises(TooManyCalls, match="3 calls of this token wait"):
        await lab.limiter.take()
    tasks += lab.begin("bob")
    await settle()
    lab.end("alice", 2)
    await until(lambda: lab.runs["bob"] == 1)
    await leave(*tasks)


@pytest.mark.gen_test
@pytest.mark.parametrize("ticks", range(6))
async def test_no_slot_is_lost_where_one_leaves_as_its_turn_comes(ticks: int) -> None:
    """Before, at and after that moment."""
    lab = Lab(FairLimiter(1))
    first, second, third = (lab.begin(whose)[0] for whose in ("alice", "bob", "carol"))
    await settle()
    lab.end("alice")
    for _ in range(ticks):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    await until(lambda: lab.runs["carol"] == 1)
    lab.end("carol")
    await asyncio.gather(first, third)
    assert lab.limiter._held == Counter()
    assert not lab.limiter._waiting


@pytest.mark.gen_test
async def test_nobody_waits_any_longer_where_all_ends() -> None:
    """Each is told why; what has a slot keeps it."""
    lab = Lab(FairLimiter(1))
    first, *waiting = lab.begin("alice", 3)
    await settle()
    lab.limiter.refuse(lambda: KeyError("ends"))
    for each in waiting:
        with pytest.raises(KeyError):
            await each
    lab.end("alice")
    await first
    assert lab.limiter._held == Counter()


@pytest.mark.gen_test
async def test_the_owner_is_the_tasks_own() -> None:
    """And of what it begins; nobody else's changes."""

    async def inner() -> str | None:
        return owner()

    async def outer() -> str | None:
        act_for("alice")
        return await asyncio.create_task(inner())

    assert await asyncio.create_task(outer()) == "alice"
    assert owner() is None
    with acting_for("bob"):
        assert owner() == "bob"
    assert owner() is None
