"""held: how many connections may stay open at once."""

import resource

import pytest

from qmaster import held
from qmaster.errors import TooManyHeld
from qmaster.held import MOST, SHARE, SPARE, WANTED, Held, Kind


def take_all(made: Held, kind: Kind, owner: str = "root", limited: bool = False) -> int:
    """How many can be had."""
    for number in range(WANTED + 1):
        try:
            made.take(kind, owner, limited)
        except TooManyHeld:
            return number
    raise AssertionError("there is no end of them")


@pytest.mark.parametrize("kind", ["socket", "wait", "log"])
def test_there_are_so_many_of_a_kind(kind: Kind) -> None:
    """The next is told to close some; another kind is not hurt."""
    made = Held()
    assert take_all(made, kind) == MOST[kind]
    with pytest.raises(TooManyHeld, match=f"too many open {kind}s: close some"):
        made.take(kind, "bob", True)
    for other in set(MOST) - {kind}:
        made.take(other, "bob", True)


@pytest.mark.parametrize("kind", ["socket", "wait", "log"])
def test_one_token_has_a_share(kind: Kind) -> None:
    """So that none takes all of them; the root token is not limited."""
    made = Held()
    assert take_all(made, kind, "alice", limited=True) == MOST[kind] // SHARE
    with pytest.raises(TooManyHeld, match=f"too many open {kind}s of this token"):
        made.take(kind, "alice", True)
    made.take(kind, "bob", True)
    assert take_all(made, kind, "root") == MOST[kind] - MOST[kind] // SHARE - 1


def test_what_is_given_back_can_be_had_again() -> None:
    """Once, however often that is said; also by leaving a block."""
    made = Held()
    lease = made.take("log", "alice", True)
    assert take_all(made, "log", "alice", limited=True) == MOST["log"] // SHARE - 1
    lease.release()
    lease.release()
    with made.take("log", "alice", True), pytest.raises(TooManyHeld):
        made.take("log", "alice", True)
    assert take_all(made, "log", "alice", limited=True) == 1


def test_a_block_that_fails_gives_it_back() -> None:
    """Whatever it failed with."""
    made = Held()
    for _ in range(MOST["log"] + 1):
        with pytest.raises(KeyError), made.take("log", "alice", True):
            raise KeyError
    assert not made._by


def test_few_descriptors_leave_room_for_the_rest() -> None:
    """What is held never takes those that short calls and the engine need; of very few, that is half."""
    made = Held(3 * SPARE)
    assert take_all(made, "socket") == 2 * SPARE
    with pytest.raises(TooManyHeld):
        made.take("wait", "bob", True)
    assert take_all(Held(3 * SPARE), "socket", "alice", limited=True) == 2 * SPARE // SHARE
    assert take_all(Held(100), "socket") == 50
    assert take_all(Held(2), "socket", "alice", limited=True) == 1


def test_one_address_has_a_share_of_the_newcomers() -> None:
    """So that strangers in one place keep nobody out who comes from another."""
    made = Held()
    places = [take_all(made, "newcomer", address, limited=True) for address in ("a", "b", "c", "d", "e")]
    assert places == [MOST["newcomer"] // SHARE] * SHARE + [0]
    with pytest.raises(TooManyHeld, match="have not said who they are: close some, or come back later"):
        made.take("newcomer", "e", limited=True)


def test_newcomers_take_no_room_from_who_has_a_token() -> None:
    """They are ended where it is needed."""
    made = Held(20)
    assert take_all(made, "newcomer", "a", limited=True) == 2
    assert take_all(made, "socket") == 10
    made.take("newcomer", "b", limited=True)


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
    assert held.descriptors() == told
    assert wanted == [(soft, limits[1]) for soft in asked]
