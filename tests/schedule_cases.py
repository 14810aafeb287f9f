"""Quartermasters that follow schedules on one swarm of plain data, under a clock of the test's."""

import asyncio
import contextlib
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from fakes import Fake, FakeConfigs, until
from version_cases import config, published

from qmaster.auth.authenticator import Identity
from qmaster.engine.configs import Config
from qmaster.engine.labels import CRON_CONFIG
from qmaster.errors import EngineAway, NotFound
from qmaster.events.journal import Journal
from qmaster.functions.asynchronous.invoker import Accepted, AsyncInvoker, Order
from qmaster.functions.schedules.claims import Claim, Ticks, claims_of
from qmaster.functions.schedules.scheduler import Pace, Scheduler
from qmaster.functions.versions.store import VersionData, VersionStore
from qmaster.models.functions import Version
from qmaster.models.invocations import InvocationView, Status
from qmaster.models.schedules import Schedule

BEGIN = 1_796_083_200.0  # 2026-12-01T00:00:00Z
MINUTE = 60.0
EVERY_MINUTE = Schedule(cron="* * * * *")


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.time = BEGIN - 30

    def __call__(self) -> float:
        return self.time


class FakeInvoker(Fake, AsyncInvoker):
    """Accept calls into the journal, and make none; ``end`` ends one."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.orders: list[Order] = []
        self.status: dict[str, Status] = {}
        self.listeners = []
        self._journal = journal
        self._number = 0

    def new_id(self) -> str:
        self._number += 1
        return f"{self._journal.id}-{self._number}-{random.getrandbits(32):08x}"

    async def accept(
        self, version: Version, order: Order, also: Callable[[sqlite3.Connection], object] | None = None
    ) -> Accepted:
        self.noted("accept", order.id)
        assert also is not None
        await self._journal.write(also)
        self.orders.append(order)
        self.status[order.id] = "queued"
        return Accepted(order.id, "queued")

    async def get(self, invocation_id: str, by: Identity) -> InvocationView:
        self.noted("get", invocation_id)
        for order in self.orders:
            if order.id == invocation_id:
                return self._view(order)
        raise NotFound("no such invocation")

    def end(self, order: Order, status: Status = "succeeded") -> None:
        self.status[order.id] = status
        for listener in self.listeners:
            listener(self._view(order), status)

    def _view(self, order: Order) -> InvocationView:
        return InvocationView(
            id=order.id,
            function=order.function,
            version=1,
            status=self.status[order.id],
            owner=order.owner,
            created_at="2026-12-01T00:00:00Z",
        )


class Lossy(FakeConfigs):
    """A swarm that loses some requests before they are carried out, and some answers after."""

    def __init__(self, *configs: Config, loses: float = 0.3) -> None:
        super().__init__(*configs)
        self.random = random.Random(1)
        self.loses = loses

    async def relabel(self, config: Config, labels: Mapping[str, str]) -> None:
        await self._maybe_lost()
        await super().relabel(config, labels)
        await self._maybe_lost()

    async def create(self, name: str, labels: Mapping[str, str], data: bytes) -> str:
        await self._maybe_lost()
        made = await super().create(name, labels, data)
        await self._maybe_lost()
        return made

    async def config(self, name_or_id: str) -> Config | None:
        await self._maybe_lost()
        return await super().config(name_or_id)

    async def _maybe_lost(self) -> None:
        await asyncio.sleep(0)
        if self.random.random() < self.loses:
            raise EngineAway("the answer was lost")


class Member:
    """One quartermaster of the swarm: its parts that follow schedules."""

    def __init__(self, configs: FakeConfigs, folder: Path, clock: Clock, ahead: float = 0.0) -> None:
        self.clock, self.ahead, self.folder, self.configs = clock, ahead, folder, configs
        self.journal = Journal(folder, 1000, 1)
        self.store = VersionStore(configs)
        self.invoker = FakeInvoker(self.journal)
        self.waked = 0
        pace = Pace(self.now, look_every=1000, spread=0.001)
        self.scheduler = Scheduler(self.store, Ticks(configs, self.journal), self.journal, self.invoker, pace)
        self.store.listeners.append(self.scheduler.versions_changed)
        self.invoker.listeners.append(self.scheduler.ended)
        self._task: asyncio.Task[None] | None = None

    def now(self) -> float:
        return self.clock.time + self.ahead

    @property
    def orders(self) -> list[Order]:
        return self.invoker.orders

    async def start(self) -> None:
        await self.journal.open()
        await self.store.reload()
        self._task = asyncio.create_task(self.scheduler.run())
        await self.settled()

    async def stop(self) -> None:
        """End it at once; what it was doing is not finished."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await self.journal.close()

    async def again(self) -> "Member":
        """A new process on the same journal, which knows of the same invocations."""
        await self.stop()
        new = Member(self.configs, self.folder, self.clock, self.ahead)
        new.invoker.orders, new.invoker.status = self.invoker.orders, self.invoker.status
        await new.start()
        return new

    async def settled(self) -> None:
        """Wait until it has done what is due now."""
        self.scheduler._wake.set()
        await until(self._is_settled)

    def _is_settled(self) -> bool:
        each = self.scheduler
        is_due = any(at <= self.now() for at in each._timers._times.values())
        return not (each._turns or each._changed or is_due) and each._looked == self.now() and not each._wake.is_set()


class Site:
    """Some quartermasters on one swarm, under one clock."""

    def __init__(self, configs: FakeConfigs, members: list[Member], clock: Clock) -> None:
        self.configs, self.members, self.clock = configs, members, clock

    @property
    def orders(self) -> list[Order]:
        return [order for each in self.members for order in each.orders]

    def ticks(self) -> list[str]:
        """The ticks that were called, in order."""
        return sorted(order.tick or "" for order in self.orders)

    def calls(self) -> Counter[tuple[str, str | None, bytes]]:
        return Counter((order.function, order.tick, order.payload) for order in self.orders)

    def claims(self, function: str = "f") -> list[Claim]:
        named = (each for each in self.configs.there.values() if each.name == CRON_CONFIG + function)
        return list(claims_of(next(named, None)).values())

    async def pass_time(self, seconds: float = MINUTE) -> None:
        self.clock.time += seconds
        await self.settled()

    async def settled(self) -> None:
        await asyncio.gather(*(each.settled() for each in self.members))

    async def publish(self, function: str, number: int, schedules: Sequence[Schedule], **fields: Any) -> None:
        """A version that all learn of at once."""
        made = at(published(schedules=list(schedules), **fields), self.clock.time)
        await self.members[0].store.add(function, number, made)
        for each in self.members[1:]:
            await each.store.refresh(function)
        await self.settled()


def at(made: VersionData, time: float) -> VersionData:
    """The same, published then."""
    return msgspec.structs.replace(made, published_at=datetime.fromtimestamp(time, UTC).isoformat())


def scheduled(function: str, *schedules: Schedule, number: int = 1, **fields: Any) -> Config:
    """The config of a version that was published just before the clock of the test begins."""
    made = at(published(schedules=list(schedules), **fields), BEGIN - 40)
    return msgspec.structs.replace(config(function, number), data=msgspec.json.encode(made))


@contextlib.asynccontextmanager
async def site(folder: Path, configs: FakeConfigs, aheads: Sequence[float] = (0.0,)) -> AsyncIterator[Site]:
    """Quartermasters whose clocks are ahead by so many seconds, each."""
    clock = Clock()
    members = [Member(configs, folder / str(number), clock, ahead) for number, ahead in enumerate(aheads)]
    made = Site(configs, members, clock)
    try:
        for each in members:
            await each.start()
        yield made
    finally:
        for each in made.members:
            await each.stop()
