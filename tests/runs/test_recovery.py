"""recovery: what a run whose outcome was left open has made is found; under a key it stays, else it is removed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from fakes import FakeContainers, FakeSwarm, container, service, until
from reconciler_cases import Journal, Json

from qmaster.errors import EngineAway
from qmaster.events.rows import Intent
from qmaster.runs import recovery
from qmaster.runs.callbacks import CallbackStore
from qmaster.runs.recovery import Recovery

pytestmark = pytest.mark.gen_test

RUN = "io.qmaster.run"
SERVICE, KEYED = Intent("one", "n1", "service"), Intent("one", "n1", "service", keyed=True)
CONTAINER = Intent("box", "n1", "container")


class Components:
    def __init__(self) -> None:
        self.swarm, self.containers, self.journal = FakeSwarm(), FakeContainers(), Journal()
        self.recovery = Recovery(self.swarm, self.containers, self.journal, CallbackStore(self.journal))

    def made(self, nonce: str = "n1") -> None:
        """The engine has both."""
        self.swarm.there = [service(Labels={RUN: nonce})]
        self.containers.there = [container(labels={RUN: nonce})]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.recovery.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "LOOK_EVERY", 0.001)
    monkeypatch.setattr(recovery, "SURE_AFTER", 0.05)


@pytest.mark.parametrize("intent", [SERVICE, CONTAINER])
async def test_what_nobody_was_told_of_is_removed(intent: Intent) -> None:
    """And then the intent is settled."""
    parts = Components()
    parts.made()
    parts.recovery.resume([intent])
    async with parts.running():
        await until(lambda: parts.journal.settled == ["n1"])
    removed = parts.swarm if intent.type == "service" else parts.containers
    assert "remove" in removed.names()


async def test_a_run_under_a_key_stays() -> None:
    """Whoever asks again is told of it."""
    parts = Components()
    parts.made()
    parts.recovery.look_for(KEYED)
    async with parts.running():
        await until(lambda: parts.journal.settled == ["n1"])
    assert "remove" not in parts.swarm.names()


async def test_a_container_under_a_key_that_was_never_started_is_started() -> None:
    """The process ended between Docker's two calls; whoever asks again is told of this one."""
    parts = Components()
    parts.containers.there = [container(labels={RUN: "n1"}, state={"Status": "created"})]
    parts.recovery.look_for(Intent("box", "n1", "container", keyed=True))
    async with parts.running():
        await until(lambda: parts.journal.settled == ["n1"])
    assert "start" in parts.containers.names()
    assert "remove" not in parts.containers.names()


async def test_what_has_only_the_name_is_left_alone() -> None:
    """It is somebody else's: the nonce tells."""
    parts = Components()
    parts.made("another")
    parts.recovery.look_for(SERVICE)
    async with parts.running():
        await until(lambda: parts.journal.settled == ["n1"])
    assert "remove" not in parts.swarm.names()


async def test_what_comes_true_late_is_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A create that timed out on a frozen engine may appear after the thaw."""
    monkeypatch.setattr(recovery, "SURE_AFTER", 60)  # so that a pause of the machine is no end of it
    parts = Components()
    parts.recovery.look_for(SERVICE)
    async with parts.running():
        await until(lambda: parts.swarm.names().count("service") > 2)
        assert parts.journal.settled == []
        parts.made()
        await until(lambda: "remove" in parts.swarm.names())


async def test_nothing_is_given_up_while_the_engine_is_away() -> None:
    """Only an engine that answers can say that something is not there."""
    parts = Components()
    parts.swarm.fails["service"] = EngineAway("away")
    parts.recovery.look_for(SERVICE)
    async with parts.running():
        await asyncio.sleep(0.1)
        assert parts.journal.settled == []
        del parts.swarm.fails["service"]
        await until(lambda: parts.journal.settled == ["n1"])


async def test_one_that_is_slow_delays_no_other() -> None:
    """Whoever began both: an engine may leave a single question unanswered for long."""
    parts = Components()
    parts.made("n2")
    service = parts.swarm.service

    async def slow(name_or_id: str) -> Json | None:
        return await service(name_or_id) if name_or_id == "one" else await asyncio.sleep(60, None)

    parts.swarm.service = slow  # type: ignore[method-assign]
    parts.recovery.resume([Intent("slow", "n1", "service"), Intent("one", "n2", "service")])
    async with parts.running():
        await until(lambda: parts.journal.settled == ["n2"])
