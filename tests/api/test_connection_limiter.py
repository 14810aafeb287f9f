"""limits: how many connections may stay open at once."""

import functools
import resource

import pytest

from qmaster.api.limits import MOST, NAMES, SHARE, SPARE, WANTED, ConnectionLimiter, Kind, Slot, descriptors
from qmaster.errors import TooManyConnections


def take_all(made: ConnectionLimiter, kind: Kind, owner: str = "root", limited: bool = False) -> int:
    """How many can be had."""
    for number in range(WANTED + 1):
        try:
            made.take(kind, owner, limited)
        except TooManyConnections:
            return number
    raise AssertionError("there is no end of them")


@pytest.mark.parametrize("kind", ["socket", "wait", "call", "log"])
def test_there_are_so_many_of_a_kind(kind: Kind) -> None:
    """The next is told to close some; another kind is not hurt."""
    made = ConnectionLimiter()
    assert take_all(made, kind) == MOST[kind]
    with pytest.raises(TooManyConnections, match=f"too many {NAMES[kind]}; close some"):
        made.take(kind, "bob", True)
    for other in set(MOST) - {kind, "unauthenticated"}:
        made.take(other, "bob", True)


@pytest.mark.parametrize("kind", ["socket", "wait", "call", "log"])
def test_one_token_has_a_share(kind: Kind) -> None:
    """So that none takes all of them; the root token is not limited."""
    made = ConnectionLimiter()
    assert take_all(made, kind, "alice", limited=True) == MOST[kind] // SHARE
    with pytest.raises(TooManyConnections, match=f"too many {NAMES[kind]} of this token"):
        made.take(kind, "alice", True)
    made.take(kind, "bob", True)
    assert take_all(made, kind, "root") == MOST[kind] - MOST[kind] // SHARE - 1


def test_what_is_given_back_can_be_had_again() -> None:
    """Once, however often that is said; also by leaving a block."""
    made = ConnectionLimiter()
    slot = made.take("log", "alice", True)
    assert take_all(made, "log", "alice", limited=True) == MOST["log"] // SHARE - 1
    slot.release()
    slot.release()
    with made.take("log", "alice", True), pytest.raises(TooManyConnections):
        made.take("log", "alice", True)
    assert take_all(made, "log", "alice", limited=True) == 1


def test_a_block_that_fails_gives_it_back() -> None:
    """Whatever it failed with."""
    made = ConnectionLimiter()
    for _ in range(MOST["log"] + 1):
        with pytest.raises(KeyError), made.take("log", "alice", True):
            raise KeyError
    assert not made._by


def test_few_descriptors_leave_room_for_the_rest() -> None:
    """Long-lived connections never take those that short calls and the engine need; of very few, that is half."""
    made = ConnectionLimiter(3 * SPARE)
    assert take_all(made, "socket") == 2 * SPARE
    with pytest.raises(TooManyConnections):
        made.take("wait", "bob", True)
    assert take_all(ConnectionLimiter(3 * SPARE), "socket", "alice", limited=True) == 2 * SPARE // SHARE
    assert take_all(ConnectionLimiter(100), "socket") == 50
    assert take_all(ConnectionLimiter(2), "socket", "alice", limited=True) == 1


class Crowd:
    """Websockets that have shown no token."""

    def __init__(self, made: ConnectionLimiter) -> None:
        self.made = made
        self.ended: list[str] = []
        self.slots: dict[str, Slot] = {}

    def come(self, address: str, *names: str) -> None:
        for name in names:
            self.slots[name] = self.made.admit(address, functools.partial(self.ended.append, name))


def numbered(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


SHARED = MOST["unauthenticated"] // SHARE  # that one address may have


def test_the_oldest_unauthenticated_websocket_of_an_address_ends_for_the_next() -> None:
    """Nobody is kept out by those that wait already; the place is free for another once it is given back."""
    crowd = Crowd(ConnectionLimiter())
    crowd.come("a", *numbered("a", SHARED))
    assert crowd.ended == []
    crowd.come("a", "next", "and the next")
    assert crowd.ended == ["a0", "a1"]
    crowd.slots["a7"].release()
    crowd.slots["a0"].release()
    crowd.come("a", "one more")
    crowd.come("b", "from elsewhere")
    assert crowd.ended == ["a0", "a1"]
    for slot in crowd.slots.values():
        slot.release()
    assert not crowd.made._by
    assert not crowd.made._unauthenticated


def test_the_address_with_most_unauthenticated_gives_way_where_all_places_are_taken() -> None:
    """Not the one that came first: strangers in one place end nobody who comes from another."""
    crowd = Crowd(ConnectionLimiter())
    crowd.come("single", "single")
    for address in ("b", "c", "d"):
        crowd.come(address, *numbered(address, SHARED))
    crowd.come("e", *numbered("e", SHARED - 1))
    assert crowd.ended == []
    crowd.come("f", "f0", "f1")
    assert crowd.ended == ["b0", "c0"]


def test_unauthenticated_websockets_of_one_network_count_together() -> None:
    """Of IPv6 a /64 has one share, whichever of its addresses they come from."""
    crowd = Crowd(ConnectionLimiter())
    for number, name in enumerate(numbered("a", SHARED + 1)):
        crowd.come(f"2001:db8::{number:x}:1", name)
    crowd.come("2001:db8:0:1::1", "another network")
    assert crowd.ended == ["a0"]


def test_unauthenticated_websockets_take_no_slot_from_who_has_a_token() -> None:
    """They are ended where it is needed."""
    made = ConnectionLimiter(20)
    crowd = Crowd(made)
    crowd.come("a", "a0", "a1", "a2")
    assert take_all(made, "socket") == 10
    crowd.come("b", "b0")
    assert crowd.ended == ["a0"]


@pytest.mark.parametrize(
    ("limits", "asked", "told"),
    [
        ((1024, 1_048_576), [WANTED], WANTED),
        ((1024, 4096), [4096], 4096),
        ((1024, resource.RLIM_INFINITY), [WANTED], WANTED),
        ((1024, 1024), [], 1024),
        ((1_048_576, 1_048_576), [], 1_048_576),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), [], WANTED),
    ],
)
def test_it_asks_for_as_many_descriptors_as_it_has_use_for(
    limits: tuple[int, int], asked: list[int], told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as it may; it gives up none that it has."""
    wanted: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: wanted.append(pair))
    assert descriptors() == told
    assert wanted == [(soft, limits[1]) for soft in asked]
