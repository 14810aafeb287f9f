"""How many lines of the log a caller may cause without a right to. The event loop owns it."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import Callable

import structlog

from .throttle import RateLimiter

# Lines at once, and the seconds for one more: of one address or token, and of all addresses that show no token.
EACH_BURST, EACH_REGAINED_IN = 100, 0.5
ALL_BURST, ALL_REGAINED_IN = 500, 0.05
REPORT_EVERY = 10.0  # seconds

log = structlog.get_logger(__name__)


class LineLimit:
    """Bounds the lines about refused calls and about calls without a token, and tells how many it left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._each = RateLimiter(clock, EACH_BURST, EACH_REGAINED_IN)
        self._all = RateLimiter(clock, ALL_BURST, ALL_REGAINED_IN)
        self._left_out: Counter[str] = Counter()

    def allows(self, event: str, by: str | None, address: str | None = None) -> bool:
        """Whether one more line is written; else it is counted.

        Args:
            event: the line's.
            by: whose token it was, None where it was nobody's.
            address: where the call came from.
        """
        if by is not None:
            over = self._each.fail(f"token {by}")
        else:
            over = self._each.fail(address or "") or self._all.fail("")
        if over:
            self._count(event)
        return not over

    def _count(self, event: str) -> None:
        if not self._left_out:  # in a context of its own, else the report had this request's id
            asyncio.get_running_loop().call_later(REPORT_EVERY, self.report, context=contextvars.Context())
        self._left_out[event] += 1

    def report(self) -> None:
        """Tell of each event how many of its lines were left out since the last time."""
        if self._left_out:
            log.warning("log_lines_left_out", count=self._left_out.total(), events=dict(self._left_out))
            self._left_out.clear()
