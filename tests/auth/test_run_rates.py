"""authenticator: how many runs each token may begin in a minute."""

import pytest

from qmaster.auth.authenticator import RunRateLimiter
from qmaster.errors import TooManyRuns


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_so_many_runs_begin_in_a_minute() -> None:
    """The next is refused, and told when it may come; who is refused is not counted."""
    clock = Clock()
    rates = RunRateLimiter(clock)
    for _ in range(3):
        rates.begin("alice", 3)
        clock.now += 10
    for _ in range(5):
        with pytest.raises(TooManyRuns, match=r"^max_rate: .* 3 runs a minute.* in 30 s$") as refused:
            rates.begin("alice", 3)
        assert refused.value.headers == {"Retry-After": "30"}
    clock.now += 30
    rates.begin("alice", 3)
    with pytest.raises(TooManyRuns, match="in 10 s"):
        rates.begin("alice", 3)


def test_each_token_has_its_own() -> None:
    """And a smaller limit counts at once."""
    rates = RunRateLimiter(Clock())
    for _ in range(3):
        rates.begin("alice", 3)
    rates.begin("bob", 1)
    with pytest.raises(TooManyRuns):
        rates.begin("alice", 2)
    rates.begin("alice", 4)
