"""Schedules on a swarm of three managers, with a quartermaster on each."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from schedule_cases import EVERY_MINUTE, FakeInvoker, at
from testbed import Bed, Engine, Server, Swarm, eventually
from version_cases import published

from qmaster.engine import Endpoint
from qmaster.engine import Engine as OurEngine
from qmaster.events.journal import Journal
from qmaster.functions.schedules import scheduler
from qmaster.functions.schedules.claims import Ticks
from qmaster.functions.schedules.scheduler import Pace, Scheduler
from qmaster.functions.versions.store import VersionStore
from qmaster.models.units import rfc3339

BEGIN = 1_796_083_200.0
IMAGE = "busybox:local"
Clock = Callable[[], float]


class Member:
    """What follows schedules in a quartermaster, on a real engine, under a clock that is sixty times as fast."""

    def __init__(self, engine: Engine, folder: Path, clock: Clock) -> None:
        self.ours = OurEngine(Endpoint.read(engine.host, {}))
        self.journal = Journal(folder, 1000, 1)
        self.store = VersionStore(self.ours.configs)
        self.invoker = FakeInvoker(self.journal)
        ticks = Ticks(self.ours.configs, self.journal)
        self.scheduler = Scheduler(self.store, ticks, self.journal, self.invoker, Pace(clock, look_every=0.05))
        self.store.listeners.append(self.scheduler.versions_changed)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.journal.open()
        # As in a quartermaster: calls fail at once while nothing listens at the engine's address.
        work = (self.ours.health.watch(), self.store.run(), self.scheduler.run())
        self._tasks = [asyncio.create_task(each) for each in work]
        await asyncio.wait_for(self.store.listed.wait(), 60)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.journal.close()
        await self.ours.close()


def fast_clock(clocks: float = 60.0) -> Clock:
    """A clock on which a minute lasts a second."""
    began = time.monotonic()
    return lambda: BEGIN - 30 + (time.monotonic() - began) * clocks


@pytest.mark.patient
@pytest.mark.timeout(600)  # elections take as long as they take
def test_each_tick_is_called_once_while_the_leader_is_lost(
    swarm: Swarm, tmp_path: Path, measured: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three quartermasters, a tick a second: none is called twice, and those that are missed follow the loss."""
    monkeypatch.setattr(scheduler, "LAST_PAUSE", 30.0)  # half a second of this clock
    swarm.promote(*swarm.workers)

    async def work() -> tuple[list[Member], list[float]]:
        clock = fast_clock()
        members = [Member(engine, tmp_path / engine.name, clock) for engine in swarm.nodes]
        await members[0].store.add("every-minute", 1, at(published(schedules=[EVERY_MINUTE]), clock()))
        for each in members:
            await each.start()
        times = [clock()]
        try:
            await asyncio.sleep(15)
            await asyncio.to_thread(swarm.manager.kill)
            times.append(clock())
            others = members[1:]
            before = called(others)
            async with asyncio.timeout(120):
                while called(others) < before + 10:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            times.append(clock())
            await asyncio.to_thread(swarm.manager.start)
            await asyncio.sleep(15)
            times.append(clock())
        finally:
            for each in members:
                await each.stop()
        return members, times

    members, (begin, lost, back, end) = asyncio.run(work())
    calls = Counter(order.tick for member in members for order in member.invoker.orders)
    assert max(calls.values()) == 1
    expected = minutes(begin, end)
    missed = [tick for tick in expected if tick not in calls]
    measured(f"{len(calls)} of {len(expected)} ticks were called, {len(missed)} missed while there was no leader")
    assert [tick for tick in missed if not rfc3339(lost - 60) < tick < rfc3339(back)] == []
    assert len(set(minutes(begin, lost)) & calls.keys()) >= 12
    assert all(member.invoker.orders for member in members)


def called(members: list[Member]) -> int:
    return sum(len(member.invoker.orders) for member in members)


def minutes(begin: float, end: float) -> list[str]:
    """The ticks between two times, but for the last ones, which may be under way."""
    first = int(begin // 60) + 1
    return [rfc3339(number * 60) for number in range(first, int(end // 60) - 1)]


@pytest.mark.patient
def test_a_job_runs_each_minute_on_one_of_three(bed: Bed, swarm: Swarm, start_server: StartServer) -> None:
    """Published at one quartermaster, called by one of them, and shown by all; deleted, its claims are gone."""
    swarm.promote(*swarm.workers)
    servers = [start_server(engine.host, *bed.runtime()) for engine in swarm.nodes]
    for server in servers:
        eventually(partial(ready, server), 60, "it is ready")
    body = {
        "runtime": "job",
        "image": IMAGE,
        "command": ["sh", "-c", 'echo "$QMASTER_INPUT"'],
        "memory": 8,
        "schedules": [{"cron": "* * * * *", "input": {"nightly": True}}],
    }
    reply = servers[0].call("PUT", "/functions/minutely", json=body)
    assert reply.status == 201, reply.text
    assert reply["schedules"][0]["last"] is None
    eventually(lambda: "succeeded" in [each["status"] for each in calls(servers)], 120, "one has succeeded", every=1)
    made = calls(servers)  # by now each of them has seen the tick
    ticks = [datetime.fromisoformat(each["scheduled_at"]) for each in made]
    assert sorted(set(ticks)) == sorted(ticks)
    assert all(tick.second == 0 for tick in ticks)
    assert next(each["output"] for each in made if each["status"] == "succeeded") == {"nightly": True}
    last = max(ticks)
    for server in servers:
        (shown,) = server.call("GET", "/functions/minutely")["schedules"]
        assert datetime.fromisoformat(shown["last"]) >= last
        assert shown["next"] > shown["last"]
    assert "qm-cron-minutely" in configs(swarm)
    assert servers[1].call("DELETE", "/functions/minutely").status == 200
    eventually(lambda: not [name for name in configs(swarm) if name.startswith("qm-")], 30, "its configs are gone")


def ready(server: Server) -> bool:
    return bool(server.call("GET", "/readyz").status == 200)


def calls(servers: list[Server]) -> list[dict[str, Any]]:
    """The calls that they have made."""
    made = []
    for server in servers:
        listed = server.call("GET", "/invocations?function=minutely")["invocations"]
        made += [server.call("GET", f"/invocations/{each['id']}").json for each in listed]
    return made


def configs(swarm: Swarm) -> list[str]:
    client: Any = swarm.manager.client()
    return [each["Spec"]["Name"] for each in client.configs()]
