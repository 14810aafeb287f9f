"""Starts that fail: when the next one may begin, and whether callers are told. Pure.

Each failure in a row doubles the pause.
"""

from __future__ import annotations

from ...errors import CannotStart
from ...models.functions import Version
from .endings import Trouble

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds
# Reasons that say nothing about the function: a node was lost, or a new leader of the swarm shut down what the last one
# had given out. Calls wait for the next start, unless it fails again and again.
PASSING = frozenset({"node_down", "orphaned", "stopped"})
TRIES = 3


class Backoff:
    """The failed starts of a version, or of the jobs of a function. Times are by the event loop's clock.

    Attributes:
        failures: how many starts have failed in a row.
        retry_at: when the next start may begin.
        trouble: why the last start failed; None: it succeeded.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.retry_at = 0.0
        self.trouble: Trouble | None = None

    def failed(self, trouble: Trouble, now: float) -> None:
        """Note a start that failed."""
        self.failures += 1
        self.retry_at = now + pause(self.failures)
        self.trouble = trouble

    def reset(self) -> None:
        """Note a start that succeeded, or that nothing is known against the next one."""
        self.failures, self.retry_at, self.trouble = 0, 0.0, None

    @property
    def tells_callers(self) -> bool:
        """Whether the last failure fails the calls that wait for a start."""
        return self.trouble is not None and (self.trouble.reason not in PASSING or self.failures >= TRIES)

    def refuses(self, now: float) -> bool:
        """Return whether a new call fails at once, where nothing runs that could serve it."""
        return self.tells_callers and now < self.retry_at

    def error(self, version: Version, now: float) -> CannotStart:
        """Return what callers are told."""
        reason, message, of_engine = self.trouble or Trouble("exit", "nothing starts")
        return CannotStart(f"{version.title} cannot start: {message}", reason, self.retry_at - now, of_engine)


def pause(failures: int) -> float:
    """Return the seconds until the next start, after so many that failed in a row."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 20)) if failures else 0.0
