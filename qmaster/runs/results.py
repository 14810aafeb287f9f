"""Results of runs, read into the journal after the end and before the removal; and callers that wait for them.

Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import datetime
from typing import Literal

import structlog

from ..engine.logs import Logs
from ..errors import EngineAway, HttpError, JournalUnwritable, NotFound, TooManyCalls
from ..events.journal import Journal
from ..limiter import act_for
from ..models import results
from ..models.responses import Service, Task
from ..models.results import Outcome, Output, TaskOutput
from ..models.units import LONG_AGO, parse_time
from .reconciler.reconciler import Reconciler
from .views.run_view import has_ended
from .views.task_status import TERMINAL

AT_ONCE = 64  # concurrent reads of tasks of one run; the engine client's limits also apply
AGAIN_EVERY = 1.0  # seconds between retries
GIVE_UP_AFTER = 10.0  # seconds of retries for a node that does not send its log
# Seconds of retries for a log that always breaks off while the engine answers other calls: its file may be damaged.
# This is longer, as an engine under load may break off a log too.
BROKEN_FOR = 60.0

log = structlog.get_logger(__name__)


class ResultCollector:
    """Records the result of each run that quartermaster started, once it has ended.

    Args:
        logs: reads the output.
        journal: keeps the results.
        reconciler: publishes them.
        limit: the bytes to keep of each stream.
    """

    def __init__(self, logs: Logs, journal: Journal, reconciler: Reconciler, limit: int) -> None:
        self._logs = logs
        self._journal = journal
        self._reconciler = reconciler
        self._limit = limit
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def notice(self, view: Service) -> None:
        """Record the result of a changed run if it has ended."""
        if has_ended(view) and _to_be_read(view):
            self._begin(view)

    async def record(self, view: Service) -> None:
        """Record the result of a run, ended or not; return when it is in the journal.

        Raises:
            JournalUnwritable: it could not be written.
        """
        if _to_be_read(view):
            await asyncio.shield(self._begin(view))

    async def close(self) -> None:
        """Cancel pending work; the next process does it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, view: Service) -> asyncio.Task[None]:
        task = self._tasks.get(view.id)
        if task is None:
            task = self._tasks[view.id] = asyncio.create_task(self._until_recorded(view), name=f"results-{view.id}")
            task.add_done_callback(lambda done: self._end(view.id, done))
        return task

    def _end(self, run_id: str, done: asyncio.Task[None]) -> None:
        self._tasks.pop(run_id, None)
        if not done.cancelled() and done.exception() is not None:
            log.error("record_failed", run=run_id, exc_info=done.exception())

    async def _until_recorded(self, view: Service) -> None:
        act_for(view.owner)
        outcome = await self._read(view)
        while True:
            try:
                await self._journal.keep_outcome(view.id, results.encode(outcome))
                await self._reconciler.show_result(view.id, results.result(outcome, results.BRIEF))
                return
            except (JournalUnwritable, TooManyCalls) as error:
                log.info("record_retrying", run=view.id, reason=str(error))
                await asyncio.sleep(AGAIN_EVERY)

    async def _read(self, view: Service) -> Outcome:
        if view.type == "container":
            output = await self._read_log("container", view.id, self._limit)
            return Outcome([TaskOutput(None, None, None, view.exit_code, output)])
        tasks, earlier = sorted(view.tasks, key=_ended_at), self._reconciler.cache.earlier(view.id)
        outputs = await self._read_tasks([*tasks, *earlier])  # together, so that a silent node delays them once
        return Outcome(outputs[: len(tasks)], outputs[len(tasks) :])

    async def _read_tasks(self, tasks: list[Task]) -> list[TaskOutput]:
        limit = results.share(self._limit, len(tasks))
        outputs: list[TaskOutput] = []
        for start in range(0, len(tasks), AT_ONCE):
            some = tasks[start : start + AT_ONCE]
            outputs += await asyncio.gather(*(self._read_task(task, limit) for task in some))
        return outputs

    async def _read_task(self, task: Task, limit: int) -> TaskOutput:
        output = await self._read_log("task", task.id, limit) if task.container_id else Output()
        return TaskOutput(task.id, task.slot, task.node, task.exit_code, output)

    async def _read_log(self, kind: Literal["task", "container"], target_id: str, limit: int) -> Output:
        """Read a log; return what there is, as truncated, if it is gone, breaks off, or its node stays unreachable."""
        until = None
        while True:
            try:
                return await self._logs.capture(kind, target_id, limit)
            except NotFound:
                return Output([], truncated=True)
            except TooManyCalls:  # the wait for a slot does not count
                pass
            except HttpError as error:
                patience = self._patience(error)
                until = None if patience is None else until or time.monotonic() + patience
                if until is not None and time.monotonic() > until:
                    return await self._read_part(kind, target_id, limit, error)
            await asyncio.sleep(AGAIN_EVERY)

    def _patience(self, error: HttpError) -> float | None:
        """Return for how many seconds a read is retried; None: until the engine is back."""
        if not isinstance(error, EngineAway):
            return GIVE_UP_AFTER
        return BROKEN_FOR if self._reconciler.stale_since is None else None

    async def _read_part(
        self, kind: Literal["task", "container"], target_id: str, limit: int, error: HttpError
    ) -> Output:
        """Read as much of a log as arrives."""
        output = Output([], truncated=True)
        with contextlib.suppress(HttpError):
            output = await self._logs.capture(kind, target_id, limit, partial=True)
        kept = sum(len(line.data) for line in output.lines)
        log.warning("output_not_read", what=target_id, reason=str(error), kept=kept)
        return output


class Waiters:
    """Callers that wait for the result of a run."""

    def __init__(self) -> None:
        self._futures: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False

    def __len__(self) -> int:
        return sum(map(len, self._futures.values()))

    def notice(self, view: Service) -> None:
        """Wake the callers that wait for a changed run if it is over."""
        if is_over(view):
            _wake(self._futures.pop(view.id, set()))

    async def until_over(self, view: Service, seconds: float, left: asyncio.Future[None]) -> None:
        """Wait until the run is over, the time has passed, the caller has disconnected, or quartermaster stops.

        Args:
            view: the current view of the run.
            seconds: the longest wait.
            left: done when the caller has disconnected.
        """
        if is_over(view) or self._closed:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        futures = self._futures.setdefault(view.id, set())
        futures.add(future)
        try:
            await asyncio.wait({future, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            futures.discard(future)
            if not futures and self._futures.get(view.id) is futures:
                del self._futures[view.id]

    def close(self) -> None:
        """Wake all callers and let none wait from now on."""
        self._closed = True
        for futures in self._futures.values():
            _wake(futures)


def is_over(view: Service) -> bool:
    """Return whether a run is final: it has ended and its output was read, or it was removed.

    The output of a service that quartermaster did not start is not read.
    """
    if view.status in ("complete", "failed"):
        return view.result is not None or view.owner is None
    return view.status == "removed"


def _wake(futures: set[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _to_be_read(view: Service) -> bool:
    return view.owner is not None and view.result is None


def _ended_at(task: Task) -> tuple[bool, datetime]:
    """Return a sort key: the first task that ended comes first."""
    return task.state not in TERMINAL, parse_time(task.updated_at) or LONG_AGO
