"""health: whether the engine is there and a manager, as pings and calls tell."""

import asyncio
from typing import Any

import pytest
from fakes import until
from raw_engine import Scripted

from qmaster.engine import health
from qmaster.engine.errors import EngineTimeout, EngineUnreached
from qmaster.engine.health import Health
from qmaster.errors import EngineAway, EngineRefused, NotAManager

pytestmark = pytest.mark.gen_test


class Pinged(Scripted):
    """A client whose pings go as ``pings`` say, one after the other and the last for ever."""

    def __init__(self, *pings: Exception | None, info: Any = None) -> None:
        super().__init__({"Swarm": {"ControlAvailable": True}} if info is None else info)
        self.pings = list(pings)
        self.pinged = 0

    async def ping(self) -> None:
        self.pinged += 1
        ping = self.pings.pop(0) if len(self.pings) > 1 else self.pings[0]
        if ping is not None:
            raise ping


OK = None
REFUSED, BROKEN, LATE = EngineUnreached("nothing there"), EngineAway("broke"), EngineTimeout("late")


async def test_it_is_not_ready_before_the_engine_has_answered() -> None:
    """But calls are tried: away is what is known, not what is feared."""
    client = Pinged(OK)
    watched = Health(client)
    assert isinstance(watched.trouble, EngineAway)
    assert client.away is None
    await watched._probe()
    assert [watched.trouble, client.away] == [None, None]


@pytest.mark.parametrize("info", [{"Swarm": "none"}, {"Swarm": {"LocalNodeState": 3}}, ["Swarm"]])
async def test_what_is_no_engine_does_not_end_the_watch(info: Any) -> None:
    """Else nobody would learn that an engine is there again."""
    watched = Health(Pinged(OK, info=info))
    await watched._probe()
    assert isinstance(watched.trouble, EngineAway)


async def test_an_engine_goes_and_comes_back() -> None:
    """`away` is set by a ping that failed, and taken back by one that did not."""
    client = Pinged(REFUSED, OK)
    watched = Health(client)
    await watched._probe()
    assert isinstance(client.away, EngineUnreached)
    assert watched.trouble is client.away
    await watched._probe()
    assert [watched.trouble, client.away] == [None, None]


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"LocalNodeState": "inactive", "ControlAvailable": False}, "docker swarm init"),
        ({"LocalNodeState": "active", "ControlAvailable": False}, "worker"),
        ({"LocalNodeState": "locked", "ControlAvailable": False}, "docker swarm unlock"),
        ({"LocalNodeState": "pending", "ControlAvailable": False}, "joining its swarm"),
        ({"LocalNodeState": "error", "Error": "no room on the disk"}, "(no room on the disk)"),
        ({"LocalNodeState": "error", "Error": "Swarm certificates have expired."}, "certificates have expired"),
        ({"LocalNodeState": "error"}, "'docker info'"),
        ({"LocalNodeState": "of another kind"}, "of another kind"),
        (None, "docker swarm init"),
    ],
)
async def test_an_engine_that_is_no_manager_is_trouble_but_not_away(node: Any, says: str) -> None:
    """Containers run on it."""
    client = Pinged(OK, info={"Swarm": node})
    watched = Health(client)
    await watched._probe()
    assert isinstance(watched.trouble, NotAManager)
    assert says in str(watched.trouble)
    assert ("swarm init" in str(watched.trouble)) is (says == "docker swarm init"), "it would destroy what there is"
    assert client.away is None


async def test_a_call_that_found_nothing_listening_is_believed() -> None:
    """The next call fails at once; a connection that broke is only asked about."""
    client = Pinged(OK)
    watched = Health(client)
    await watched._probe()
    client.suspect(EngineAway("broke"))
    assert client.away is None
    client.suspect(EngineUnreached("nothing there"))
    assert str(client.away) == str(watched.trouble) == "nothing there"


async def test_a_suspicion_wakes_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for its next turn; until cancelled it goes on."""
    monkeypatch.setattr(health, "PING_EVERY", 3600.0)
    client = Pinged(OK)
    watched = Health(client)
    watching = asyncio.create_task(watched.watch())
    await until(lambda: watched.trouble is None)
    asked = client.pinged
    client.pings = [REFUSED]
    client.suspect(EngineAway("broke"))
    await until(lambda: client.away)
    assert client.pinged > asked
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_the_watch_goes_on_while_the_engine_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sees it come back by itself."""
    monkeypatch.setattr(health, "PING_AWAY_EVERY", 0.001)
    client = Pinged(REFUSED, BROKEN, BROKEN, LATE, EngineRefused("starting"), OK)
    watched = Health(client)
    watching = asyncio.create_task(watched.watch())
    await until(lambda: client.away)
    await until(lambda: watched.trouble is None)
    watching.cancel()


@pytest.mark.parametrize("ticks", range(5))
async def test_the_watch_ends_when_cancelled_as_it_wakes(ticks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation is not lost to a wake-up of the same moment (as Python 3.11's wait_for can lose it)."""
    monkeypatch.setattr(health, "PING_EVERY", 3600.0)
    client = Pinged(OK)
    watched = Health(client)
    watching = asyncio.create_task(watched.watch())
    await until(lambda: watched.trouble is None)
    await asyncio.sleep(0.01)  # into its pause; were it not there yet, the cancellation would end it all the same
    client.suspect(EngineAway("broke"))
    for _ in range(ticks):
        await asyncio.sleep(0)
    watching.cancel()
    done, _ = await asyncio.wait([watching], timeout=1)
    watching.cancel()
    assert done
