"""authenticator: how many lines of the log a caller may cause without a right to."""

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from qmaster.auth import authenticator
from qmaster.auth.authenticator import ALL_BURST, EACH_BURST, EACH_REGAINED_IN, LineLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.gen_test
async def test_a_caller_has_a_burst_and_then_some() -> None:
    """Of each address and each token by itself; what is left out comes back with time."""
    clock = Clock()
    limit = LineLimit(clock)
    assert [limit.allows("refused", None, "10.0.0.1") for _ in range(EACH_BURST + 2)].count(True) == EACH_BURST
    assert limit.allows("refused", None, "10.0.0.2")
    assert [limit.allows("refused", "alice") for _ in range(EACH_BURST + 2)].count(True) == EACH_BURST
    assert limit.allows("refused", "bob")
    clock.now += EACH_REGAINED_IN
    assert [limit.allows("refused", None, "10.0.0.1") for _ in range(2)] == [True, False]


@pytest.mark.gen_test
async def test_many_addresses_have_a_burst_together() -> None:
    """And leave the lines about those with a token alone."""
    limit = LineLimit(Clock())
    assert [limit.allows("request", None, f"2001:db8:{n:x}::1") for n in range(ALL_BURST + 9)].count(True) == ALL_BURST
    assert limit.allows("refused", "alice")


@pytest.mark.gen_test
async def test_what_was_left_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By event, after a while, once, and under nobody's request id."""
    monkeypatch.setattr(authenticator, "REPORT_EVERY", 0.05)
    structlog.contextvars.bind_contextvars(request="r-1")
    limit = LineLimit(Clock())
    with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        for event in ("refused", "request"):
            for _ in range(EACH_BURST):
                limit.allows(event, None, "10.0.0.1")
        for _ in range(500):
            if not lines:
                await asyncio.sleep(0.01)
        limit.report()
    structlog.contextvars.clear_contextvars()
    (line,) = lines
    assert line == {
        "event": "log_lines_left_out",
        "log_level": "warning",
        "count": EACH_BURST,
        "events": {"request": EACH_BURST},
    }
