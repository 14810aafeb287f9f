"""Runs a minute by outcome, how long they took, and the memory reserved on each node. Belongs to the event loop."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from ..errors import JournalUnwritable
from ..events.cloudevents import PREFIX, SERVICE_EVENTS, Event
from ..events.journal import Journal
from ..models.responses import ROOT, Node, Outcome, Service, outcome
from ..models.stats import NodeNumbers, RunNumbers
from ..models.units import parse_time
from .minutes import DAY, Series, SeriesByName

MOST_OWNERS = 250  # 42 KB each, where there are runs in every hour
MOST_NODES = 1000  # 6 KB each
MOST_EVENTS = 200_000  # of the journal that are read at the start
PAGE = 500  # events of the journal that are read at once: 5 ms of its thread
STARTED, COMPLETE, FAILED, STOPPED = range(4)
DURATION, QUEUED = range(2)
_OUTCOMES: dict[Outcome, int] = {"complete": COMPLETE, "failed": FAILED, "stopped": STOPPED}
_TYPES = [f"{PREFIX}service.{word}" for word in SERVICE_EVENTS]
_EVENTS = (
    "SELECT event FROM facts WHERE seq > ? AND seq <= ? AND type IN"  # noqa: S608 - text of ours
    f" ({', '.join(map(repr, _TYPES))}) ORDER BY seq"
)

log = structlog.get_logger(__name__)


class _KeptRun(Struct, frozen=True, gc=False):
    """What is counted of a run, as the journal has it."""

    id: str
    owner: str | None
    status: str
    reason: str | None
    exit_code: int | None
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    removed_at: str | None
    function: Any = None


class _KeptEvent(Struct, frozen=True, gc=False):
    type: str
    time: str
    data: _KeptRun


Run = Service | _KeptRun


class RunStats:
    """Numbers of each minute of the last day.

    A start counts in the minute of ``created_at``, an end in that of ``finished_at``: by the engine's clock, at most
    now. A run that was removed before an end was seen counts no end, as it has no ``outcome``. Instances of functions,
    and what quartermaster did not start, do not count.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._all = Series(4, 2)
        self._owners = SeriesByName(lambda: Series(4, 2), MOST_OWNERS)
        self._nodes = SeriesByName(lambda: Series(1, 0), MOST_NODES)

    # -- counted as events happen ----------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Count the start, the wait or the end that an event tells of, each once."""
        run, before = event.view, event.before
        if event.topic != "service" or not isinstance(run, Service):
            return
        word = event.type.rpartition(".")[2]
        if isinstance(before, Service):
            self._count(word, run, event.time, (before.started_at is not None, is_over(before)))
        else:  # of a run that is seen first, ``created`` tells the start
            self._count(word, run, event.time, (word != "created", False))

    def _count(self, word: str, run: Run, at: str, had: tuple[bool, bool]) -> None:
        """Count an event; ``had``: whether it had started to run, and ended, before."""
        if run.owner is None or run.function is not None:
            return
        if word == "created":
            self._add(run, STARTED, run.created_at or at)
        if run.started_at is not None and not had[0]:
            self._time(run, QUEUED, run.started_at, run.created_at, run.started_at)
        if word != "created" and is_over(run) and not had[1]:
            ended, how = run.finished_at or run.removed_at or at, outcome_of(run)
            if how is not None:
                self._add(run, _OUTCOMES[how], ended)
            self._time(run, DURATION, ended, run.started_at, run.finished_at)

    def _add(self, run: Run, which: int, at: str) -> None:
        minute = self._minute(at)
        if minute is not None:
            for series in self._series(run):
                series.count(minute, which)

    def _time(self, run: Run, which: int, at: str, start: str | None, end: str | None) -> None:
        minute, began, ended = self._minute(at), parse_time(start), parse_time(end)
        if minute is not None and began is not None and ended is not None:
            seconds = max(0.0, (ended - began).total_seconds())
            for series in self._series(run):
                series.observe(minute, which, seconds)

    def _series(self, run: Run) -> list[Series]:
        owner = run.owner or ROOT
        return [self._all] if owner == ROOT else [self._all, self._owners.use(owner)]

    def _minute(self, at: str) -> int | None:
        """Return the minute of a time, at most the present one; None if it is over a day ago."""
        told, now = parse_time(at), self.now()
        minute = now if told is None else min(int(told.timestamp()) // 60, now)
        return minute if minute > now - DAY else None

    # -- each minute -----------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the present minute since 1970."""
        return int(self._clock()) // 60

    def tick(self, nodes: Iterable[Node]) -> None:
        """Note what is reserved on the nodes, and reduce the minutes that are over. Call it once a minute."""
        now = self.now()
        for series in (self._all, self._owners):
            series.settle(now)
        for every in (self._all, self._owners, self._nodes):
            every.forget(now)
        reserved: dict[str, int] = {}
        for node in nodes:  # one that joins anew may have the name of one that is down
            reserved[node.hostname] = reserved.get(node.hostname, 0) + node.reserved.memory
        for hostname, memory in reserved.items():
            self._nodes.use(hostname).put(now, 0, memory + 1)  # 0: not known

    # -- after a restart -------------------------------------------------------------------------------------------

    async def recall(self, journal: Journal, until: int) -> None:
        """Count the last day's events of the journal, up to a sequence; later ones come as they happen."""
        had: dict[str, tuple[bool, bool]] = {}
        try:
            after = max(await journal.last_before(self._clock() - DAY * 60), until - MOST_EVENTS)
            while after < until:
                to = min(after + PAGE, until)
                for event in await journal.read(partial(_read, after=after, until=to)):
                    run, word = event.data, event.type.rpartition(".")[2]
                    self._count(word, run, event.time, had.get(run.id, (False, False)))
                    had[run.id] = (run.started_at is not None, is_over(run) and word != "created")
                after = to
        except JournalUnwritable as error:
            log.warning("stats_not_recalled", reason=str(error))

    # -- queries ---------------------------------------------------------------------------------------------------

    def runs(self, owner: str | None, first: int, minutes: int) -> RunNumbers:
        """Return the numbers of these minutes, of one owner or of all."""
        series = self._all if owner is None else (self._owners.get(owner) or Series(4, 2))
        started, complete, failed, stopped = (series.counts(which, first, minutes) for which in range(4))
        duration_p50, duration_p95 = series.quantiles(DURATION, first, minutes)
        queued_p50, queued_p95 = series.quantiles(QUEUED, first, minutes)
        return RunNumbers(
            started=started,
            complete=complete,
            failed=failed,
            stopped=stopped,
            duration_p50=duration_p50,
            duration_p95=duration_p95,
            queued_p50=queued_p50,
            queued_p95=queued_p95,
        )

    def nodes(self, first: int, minutes: int) -> dict[str, NodeNumbers]:
        """Return the numbers of the nodes in these minutes, by host name."""
        told = {}
        for name in sorted(self._nodes):
            series = self._nodes.get(name)
            values = series.counts(0, first, minutes) if series else []
            if any(values):
                told[name] = NodeNumbers(memory_reserved=[value - 1 if value else None for value in values])
        return told


def is_over(run: Run) -> bool:
    """Return whether a run has ended; also one that is being stopped, once its tasks have."""
    return run.status in ("complete", "failed", "removed") or (run.status == "stopping" and run.finished_at is not None)


def outcome_of(run: Run) -> Outcome | None:
    """Return how a run has ended, also one that is being stopped; None if it was removed before an end was seen."""
    view: Any = run if run.status != "stopping" else msgspec.structs.replace(run, status="removed")
    return outcome(view)


def _read(db: sqlite3.Connection, after: int, until: int) -> list[_KeptEvent]:
    """Return the events of services between two sequences; one that cannot be read is left out."""
    events = []
    for (json,) in db.execute(_EVENTS, (after, until)):
        try:
            events.append(msgspec.json.decode(json, type=_KeptEvent))
        except msgspec.DecodeError:
            continue
    return events
