"""instances.logs: the output of the instances that a function has or had."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest
from fakes import until
from swarm_cases import NOW

from qmaster.auth.authenticator import Identity
from qmaster.errors import EngineAway, NotFound, TooManyConnections
from qmaster.functions.instances import logs
from qmaster.functions.instances.logs import FunctionLog, FunctionLogs
from qmaster.models.responses import FunctionRef, Replicas, Service
from qmaster.runs.listing import ListQuery, Part
from qmaster.runs.logs import LogQuery, Piece

pytestmark = pytest.mark.gen_test

ROOT = Identity("root")


def instance(number: int, function: str | None = "hello", status: Any = "running") -> Service:
    return Service(
        id=f"s{number}",
        type="service",
        name=f"fn-{number}",
        image="busybox",
        command=None,
        labels={},
        owner="root",
        status=status,
        reason=None,
        error=None,
        exit_code=0 if status == "complete" else None,
        replicas=Replicas(1, 1, 0, 0),
        created_at=f"2026-01-01T00:00:{number:02d}Z",
        started_at=None,
        finished_at=str(NOW) if status == "complete" else None,
        removed_at=None,
        memory=None,
        cpus=None,
        tasks=[],
        function=FunctionRef(function, 1) if function else None,
    )


class Parts:
    """What there is, and what each instance writes; a followed one goes on until its gate is open."""

    def __init__(self) -> None:
        self.there: list[Service] = []
        self.gone: list[Service] = []
        self.exists, self.away = True, False
        self.gates: dict[str, asyncio.Event] = {}
        self.asked: list[tuple[str, bool]] = []
        self.slots = 10
        self.broken: set[str] = set()
        self.logs = FunctionLogs(cast(Any, self), cast(Any, self), cast(Any, self))

    # as the service of functions

    def get(self, name: str, by: Identity) -> None:
        assert by == ROOT
        if self.away:
            raise EngineAway("the functions are not known")
        if not self.exists or name != "hello":
            raise NotFound("no function")

    # as the listing

    async def parts(self, owner: str | None, wanted: ListQuery) -> AsyncIterator[Part]:
        assert owner is None
        yield Part([msgspec.json.encode(view) for view in self.there + self.gone if wanted.keeps(view)])

    # as the reader of logs, and its cache

    @property
    def cache(self) -> "Parts":
        return self

    def services(self) -> list[Service]:
        return self.there

    async def flow(self, view: Service, query: LogQuery) -> AsyncIterator[list[Piece]]:
        self.asked.append((view.id, query.follow))
        if view.id in self.broken:
            raise EngineAway("the engine is away")
        yield [Piece("", "stdout", f"{view.id} begins\n".encode(), None, view.id)]
        if query.follow:
            await self.gates.setdefault(view.id, asyncio.Event()).wait()
            yield [Piece("", "stdout", f"{view.id} ends\n".encode(), None, view.id)]

    def take(self) -> Callable[[], None]:
        if not self.slots:
            raise TooManyConnections("too many")
        self.slots -= 1

        def release() -> None:
            self.slots += 1

        return release

    def open(self, **query: Any) -> FunctionLog:
        return self.logs.open("hello", LogQuery(**query), ROOT, self.take)


async def lines(log: FunctionLog) -> list[str]:
    return [piece.data.decode().strip() async for batch in log.batches() for piece in batch]


async def test_the_output_is_that_of_all_instances_in_order() -> None:
    """The removed ones, the ended and those that run; the oldest first, none of another function."""
    parts = Parts()
    parts.there = [instance(4), instance(3, "other"), instance(2, status="complete"), instance(5, None)]
    parts.gone = [instance(1, status="removed"), instance(6, "other", "removed")]
    log = parts.open()
    assert await lines(log) == ["s1 begins", "s2 begins", "s4 begins"]
    assert log.several
    assert all(not follow for _, follow in parts.asked)


async def test_one_instance_needs_no_name() -> None:
    """Only several do."""
    parts = Parts()
    parts.there = [instance(1)]
    log = parts.open()
    assert (await lines(log), log.several) == (["s1 begins"], False)


async def test_what_cannot_be_read_is_said() -> None:
    """The others are read all the same."""
    parts = Parts()
    parts.there, parts.broken = [instance(1), instance(2)], {"s1"}
    assert await lines(parts.open()) == ["the output of fn-1 cannot be read: the engine is away", "s2 begins"]


async def test_who_sees_no_function_sees_no_log() -> None:
    """Before anything is read."""
    with pytest.raises(NotFound):
        Parts().logs.open("other", LogQuery(), ROOT, lambda: lambda: None)


async def test_instances_are_followed_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that end, those that start meanwhile; the log ends with the function, once all have ended."""
    monkeypatch.setattr(logs, "TICK", 0.01)
    parts = Parts()
    parts.there = [instance(1, status="complete"), instance(2)]
    log = parts.open(follow=True)
    said: list[str] = []

    async def read() -> None:
        async for batch in log.batches():
            said.extend(piece.data.decode().strip() for piece in batch)

    reading = asyncio.create_task(read())
    await until(lambda: said == ["s1 begins", "s2 begins"])
    parts.there.append(instance(3))
    await until(lambda: said[2:] == ["s3 begins"])
    assert log.several
    parts.gates["s2"].set()
    await until(lambda: said[3:] == ["s2 ends"])
    parts.away = True
    await asyncio.sleep(0.05)
    parts.away, parts.exists = False, False
    await asyncio.sleep(0.05)
    assert not reading.done()
    parts.gates["s3"].set()
    await reading
    assert said[4:] == ["s3 ends"]
    assert parts.slots == 10
    assert parts.asked == [("s1", False), ("s2", True), ("s3", True)]


async def test_a_slow_reader_is_not_hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take longer for a batch than the next look at the instances is away."""
    monkeypatch.setattr(logs, "TICK", 0.01)
    parts = Parts()
    parts.there, parts.exists = [instance(1)], True
    parts.gates["s1"] = asyncio.Event()
    parts.gates["s1"].set()
    said: list[bytes] = []
    async for batch in parts.open(follow=True).batches():
        await asyncio.sleep(0.05)
        said += [piece.data for piece in batch]
        parts.exists = not said
    assert said == [b"s1 begins\n", b"s1 ends\n"]


async def test_a_follower_takes_a_slot_for_each_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says once that there is none left, and follows the next when one is free; leaving gives all back."""
    monkeypatch.setattr(logs, "TICK", 0.01)
    parts = Parts()
    parts.there, parts.slots = [instance(1), instance(2), instance(3)], 2
    log = parts.open(follow=True).batches()
    said: list[str] = []

    async def read() -> None:
        async for batch in log:
            said.extend(piece.data.decode().strip() for piece in batch)

    reading = asyncio.create_task(read())
    await until(lambda: len(said) == 3)
    assert sorted(said) == [
        "not all instances are followed: too many logs of this token are open",
        "s1 begins",
        "s2 begins",
    ]
    parts.gates["s1"].set()
    await until(lambda: "s3 begins" in said)
    assert len(said) == 5
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await cast(Any, log).aclose()
    assert parts.slots == 2
