"""Callbacks of runs: due at the end of a run, also where that came while quartermaster was away.

Belongs to the event loop.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from ...errors import JournalUnwritable
from ...events.cloudevents import PREFIX, CloudEvent
from ...events.journal import Journal
from ...models import results
from ...models.responses import Service
from ...models.units import rfc3339
from ...runs.callbacks import CallbackStore, Row
from ...runs.reconciler.reconciler import Reconciler
from ...runs.results import is_over
from .queue import NOT_COVERED, NOT_KEPT, CallbackQueue

OUTPUT = 64 * 1024  # bytes of each stream in a callback
LOOK_EVERY = 5.0  # seconds
AGAIN_EVERY = 1.0

log = structlog.get_logger(__name__)


class RunBodies:
    """Makes the bodies of the callbacks of runs, from the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def __call__(self, row: Row) -> bytes | str:
        """Return the event of the end of a run, with its result; a text if the journal no longer has the run."""
        stored = await self._journal.record(row.subject)
        if stored is None:
            return NOT_KEPT
        view = msgspec.json.decode(stored, type=Service)
        outcome = await self._journal.outcome(row.subject)
        if outcome is not None:
            view = msgspec.structs.replace(view, result=results.result(results.decode(outcome), OUTPUT))
        return body_of(row, self._journal.id, view)


class RunCallbacks:
    """Makes the callback of each run due when the run is over.

    Args:
        store: the rows, and which runs are armed.
        queue: sends what is due.
        journal: has the records of removed runs.
        reconciler: has the others; it calls ``notice`` with each change.
    """

    def __init__(self, store: CallbackStore, queue: CallbackQueue, journal: Journal, reconciler: Reconciler) -> None:
        self._store = store
        self._queue = queue
        self._journal = journal
        self._reconciler = reconciler
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def notice(self, view: Service) -> None:
        """Make the callback of a changed run due if the run is over."""
        if view.id in self._store.armed and view.id not in self._tasks and is_over(view):
            task = self._tasks[view.id] = asyncio.create_task(self._release(view), name=f"callback-{view.id}")
            task.add_done_callback(lambda done: self._end(view.id, done))

    async def run(self) -> None:
        """Look for runs that were over before they were armed, or ended while quartermaster was away."""
        left = await self._load()
        while True:
            if self._reconciler.stale_since is None:
                for run_id in list(self._store.armed):
                    await self._look(run_id, run_id in left)
                left = frozenset()
            await asyncio.sleep(LOOK_EVERY if not left else AGAIN_EVERY)

    async def close(self) -> None:
        """Cancel pending work; the next process does it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self) -> frozenset[str]:
        """Return the runs that an earlier process has armed."""
        while True:
            try:
                return await self._store.load()
            except JournalUnwritable:
                await asyncio.sleep(AGAIN_EVERY)

    async def _look(self, run_id: str, left: bool) -> None:
        """Look at an armed run; ``left``: an earlier process has armed it, so that all that exists of it is known."""
        there = self._reconciler.cache.find(run_id)
        if there is not None and not is_over(there):
            return
        try:
            stored = await self._journal.record(run_id)  # what is told is what is recorded
            if stored is not None:
                self.notice(msgspec.json.decode(stored, type=Service))
            elif left:
                await self._store.give_up(run_id, NOT_KEPT)
        except JournalUnwritable as error:  # the next look tries again
            log.info("callback_delayed", run=run_id, reason=str(error))

    async def _release(self, view: Service) -> None:
        while True:
            try:
                url = await self._store.armed_url(view.id)
                if url is None:
                    self._store.armed.discard(view.id)
                    return
                prefix = self._queue.prefix_of(url)
                if prefix is None:
                    await self._store.give_up(view.id, NOT_COVERED)
                    return
                await self._store.release(view.id, view.status, prefix.text)
                self._queue.added(view.owner or "", url)
                return
            except JournalUnwritable:
                await asyncio.sleep(AGAIN_EVERY)

    def _end(self, run_id: str, done: asyncio.Task[None]) -> None:
        self._tasks.pop(run_id, None)
        if not done.cancelled() and done.exception() is not None:
            log.error("callback_not_released", run=run_id, exc_info=done.exception())


def body_of(row: Row, quartermaster: str, view: Service) -> bytes:
    """Return the event of the end of a run.

    It is the same at each try, so it has the status that the run had at its end: the run may be removed meanwhile.
    """
    if row.event != "removed":
        view = msgspec.structs.replace(view, status=row.event, removed_at=None)
    event = CloudEvent(
        "1.0",
        row.id,
        f"/qmaster/{quartermaster}",
        f"{PREFIX}service.{row.event}",
        row.subject,
        view.removed_at or view.finished_at or rfc3339(),
        "application/json",
        view,
    )
    return msgspec.json.encode(event)
