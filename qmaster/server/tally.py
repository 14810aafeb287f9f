"""Counts runs, how fast they and their news are, and logs their ends: from the events. Belongs to the event loop."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import structlog

from ..events.cloudevents import PREFIX, Event
from ..models.responses import Service
from ..runs.status import parse_time

_ENDS = ("complete", "failed")
# Others have no time of the engine's own: they are seen when they are looked for.
_TIMED = tuple(f"{PREFIX}service.{word}" for word in ("running", *_ENDS))

log = structlog.get_logger(__name__)


class Counts(Protocol):
    """What the tally needs of the metrics."""

    def run_started(self, kind: str) -> None: ...
    def run_ended(self, kind: str, status: str, reason: str) -> None: ...
    def queued(self, kind: str, seconds: float) -> None: ...
    def event_lag(self, seconds: float) -> None: ...


class Tally:
    """Reads each event as it is told.

    Args:
        clock: the time in seconds since 1970; what happened before this is made was not late, but seen late.
    """

    def __init__(self, counts: Counts, clock: Callable[[], float] = time.time) -> None:
        self._counts = counts
        self._clock = clock
        self._since = clock()

    def count(self, event: Event) -> None:
        view = event.view
        if not isinstance(view, Service):
            return
        self._count_lag(event)
        if event.topic == "service" and view.owner is not None:
            self._count_run(event, view)

    def _count_run(self, event: Event, view: Service) -> None:
        before = event.before.status if isinstance(event.before, Service) else None
        word = event.type.rpartition(".")[2]
        if word == "created":
            self._counts.run_started(view.type)
        elif word in _ENDS or (word == "removed" and before not in _ENDS):
            self._counts.run_ended(view.type, view.status, view.reason or "none")
            if event.before is not None or self._is_news(event):
                # A request's commit tells what others have done too: that is not logged as its.
                contextvars.Context().run(_log_end, view)
        elif word == "running":
            self._count_queue(event, view)

    def _count_queue(self, event: Event, view: Service) -> None:
        """Only of its first running: what runs again was waiting for its restart."""
        created, started = parse_time(view.created_at), parse_time(view.started_at)
        again = isinstance(event.before, Service) and event.before.started_at is not None
        if created and started and not again:
            self._counts.queued(view.type, max(0.0, (started - created).total_seconds()))

    def _count_lag(self, event: Event) -> None:
        at: datetime | None = parse_time(event.time)
        if at is not None and self._is_news(event) and (event.topic == "task" or event.type in _TIMED):
            self._counts.event_lag(max(0.0, self._clock() - at.timestamp()))

    def _is_news(self, event: Event) -> bool:
        """Whether it happened since this was made."""
        at = parse_time(event.time)
        return at is not None and at.timestamp() >= self._since


def _log_end(view: Service) -> None:
    failed = view.status == "failed" or view.reason not in (None, "exit", "stopped")
    started, finished = parse_time(view.started_at), parse_time(view.finished_at)
    (log.warning if failed else log.info)(
        "run_ended",
        run=view.id,
        name=view.name,
        owner=view.owner,
        status=view.status,
        reason=view.reason,
        exit_code=view.exit_code,
        seconds=round(max(0.0, (finished - started).total_seconds()), 3) if started and finished else None,
    )
