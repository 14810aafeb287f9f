"""authenticator: how often an address may send wrong tokens."""

import pytest

from qmaster.auth import authenticator
from qmaster.auth.authenticator import BURST, REGAINED_IN, RateLimiter
from qmaster.errors import TooManyWrongTokens


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def failures(made: RateLimiter, address: str, times: int) -> list[bool]:
    return [made.fail(address) for _ in range(times)]


def test_a_burst_is_let_through_and_no_more(clock: Clock) -> None:
    """The attempts after it are too many."""
    assert failures(RateLimiter(clock), "10.0.0.1", BURST + 3) == [False] * BURST + [True] * 3


def test_attempts_come_back_one_by_one(clock: Clock) -> None:
    """Also for who goes on trying meanwhile; never more than a burst."""
    made = RateLimiter(clock)
    failures(made, "10.0.0.1", BURST)
    clock.now += REGAINED_IN / 2
    assert made.fail("10.0.0.1")
    clock.now += REGAINED_IN / 2
    assert failures(made, "10.0.0.1", 2) == [False, True]
    clock.now += 1_000_000
    assert failures(made, "10.0.0.1", BURST + 1) == [False] * BURST + [True]


def test_who_is_told_to_come_back_may_do_so_then() -> None:
    """The header's seconds are those of one more attempt."""
    assert float(TooManyWrongTokens.headers["Retry-After"]) == REGAINED_IN


def test_addresses_are_apart(clock: Clock) -> None:
    """One does not use up another's."""
    made = RateLimiter(clock)
    failures(made, "10.0.0.1", BURST + 1)
    assert not made.fail("10.0.0.2")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:0:ffff::", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "", True),
        ("unix", "unix", True),
    ],
)
def test_what_one_caller_may_have_counts_as_one(clock: Clock, one: str, other: str, same: bool) -> None:
    """Of IPv6 that is a /64."""
    made = RateLimiter(clock)
    failures(made, one, BURST)
    assert made.fail(other) is same


def test_it_keeps_so_many_addresses(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """And forgets the one that it has not heard of for the longest time."""
    monkeypatch.setattr(authenticator, "MAX_ADDRESSES", 3)
    made = RateLimiter(clock)
    for address in ("1", "2", "3", "1", "4"):
        failures(made, address, BURST + 1)
    assert len(made._left) == 3
    assert [made.fail(address) for address in ("1", "3", "4")] == [True, True, True]
    assert not made.fail("2")
