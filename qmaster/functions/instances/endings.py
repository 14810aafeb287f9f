"""Pure: why an instance has ended or was not started, in words for its callers, the metrics and the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ...errors import CannotStart, EngineUnavailable, Forbidden, HttpError, TooManyRuns
from ...models.responses import Service
from ...runs.views.run_view import has_ended

LAST_LINES = 20
ERRORS_KEPT = 5  # of a function
MAX_MESSAGE = 1024  # characters of why an instance did not start; a function chooses them

# Why an instance ends; ``ended``: by itself, and the run says why.
Ending = Literal[
    "idle", "update", "lifetime", "policy", "room", "timeout", "init_timeout", "silent", "node_down", "ended"
]


class Trouble(NamedTuple):
    """Why a start failed; ``of_engine``: whether the message quotes the engine."""

    reason: str
    message: str
    of_engine: bool = False


class Death(NamedTuple):
    """How an instance ended that had calls: in words, with its exit code and the end of its output, as far as known."""

    words: str
    exit_code: int | None = None
    lines: Sequence[str] = ()


def death(view: Service | None) -> Death:
    """Return how the run of an instance ended; None: the engine has not shown it yet."""
    if view is None or not is_over(view):
        return Death("the connection of the instance closed before its answer")
    code = "an unknown exit code" if view.exit_code is None else f"exit code {view.exit_code}"
    result = view.result
    lines = [*result.stdout.splitlines(), *result.stderr.splitlines()] if result else []
    return Death(f"the instance ended with {code} before its answer", view.exit_code, lines[-LAST_LINES:])


def is_over(view: Service) -> bool:
    """Return whether the run of an instance has ended, or is gone."""
    return has_ended(view) or view.status == "removed"


def not_started(view: Service | None) -> Trouble:
    """Return why a run ended before it asked for a call."""
    if view is None or view.reason in (None, "exit", "oom"):
        known = death(view)
        code = "unknown" if known.exit_code is None else known.exit_code
        last = f": {known.lines[-1]}" if known.lines else ""
        return Trouble((view and view.reason) or "exit", f"it ended before its first call, with exit code {code}{last}")
    return Trouble(view.reason, view.error or f"it ended: {view.reason}", of_engine=True)


def refused(error: HttpError) -> Trouble:
    """Return why a start was refused."""
    if isinstance(error, CannotStart):
        return Trouble(error.reason, str(error), error.of_engine)
    if isinstance(error, Forbidden | TooManyRuns):
        return Trouble("policy", str(error))
    return Trouble("engine" if isinstance(error, EngineUnavailable) else "rejected", str(error), error.of_engine)
