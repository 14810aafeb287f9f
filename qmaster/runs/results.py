"""Reads how a run ended and what it said, into the journal, before anything is removed. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Literal, Protocol

import structlog

from ..errors import EngineAway, HttpError, JournalUnwritable, NotFound, TooManyCalls
from ..limiter import act_for
from ..models import results
from ..models.responses import Result, Service, Task
from ..models.results import Outcome, Output, TaskOutput
from .status import LONG_AGO, TERMINAL, has_ended, parse_time

AT_ONCE = 64  # tasks of one run that are read at the same time; the engine's own threads bound it further
AGAIN_EVERY = 1.0  # seconds
GIVE_UP_AFTER = 10.0  # seconds in which a node that does not give its log is asked again

log = structlog.get_logger(__name__)


class Logs(Protocol):
    """What the result collector needs of the engine's logs."""

    async def capture(self, kind: Literal["task", "container"], target_id: str, limit: int) -> Output: ...


class Journal(Protocol):
    """What the result collector needs of the journal."""

    async def keep_outcome(self, run_id: str, outcome: bytes) -> None: ...


class Reconciler(Protocol):
    """What the result collector needs of the reconciler."""

    def earlier(self, service_id: str) -> list[Task]: ...
    async def show_result(self, run_id: str, result: Result) -> None: ...


class ResultCollector:
    """Records each run that quartermaster started, once it has ended.

    Args:
        limit: bytes of each stream that are kept.
    """

    def __init__(self, logs: Logs, journal: Journal, reconciler: Reconciler, limit: int) -> None:
        self._logs = logs
        self._journal = journal
        self._reconciler = reconciler
        self._limit = limit
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def notice(self, view: Service) -> None:
        """A run has changed: if it has ended, read what it said."""
        if has_ended(view) and _to_be_read(view):
            self._begin(view)

    async def record(self, view: Service) -> None:
        """Return when what it said is in the journal, whether it has ended or not.

        Raises:
            JournalUnwritable: it could not be kept.
        """
        if _to_be_read(view):
            await asyncio.shield(self._begin(view))

    async def close(self) -> None:
        """Leave what is not done to the next start."""
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
                log.info("record_again", run=view.id, reason=str(error))
                await asyncio.sleep(AGAIN_EVERY)

    async def _read(self, view: Service) -> Outcome:
        if view.type == "container":
            output = await self._read_until("container", view.id, self._limit)
            return Outcome([TaskOutput(None, None, None, view.exit_code, output)])
        tasks, earlier = sorted(view.tasks, key=_ended_at), self._reconciler.earlier(view.id)
        outputs = await self._read_tasks([*tasks, *earlier])  # together: a node that is silent is waited for once
        return Outcome(outputs[: len(tasks)], outputs[len(tasks) :])

    async def _read_tasks(self, tasks: list[Task]) -> list[TaskOutput]:
        limit = results.share(self._limit, len(tasks))
        outputs: list[TaskOutput] = []
        for start in range(0, len(tasks), AT_ONCE):
            some = tasks[start : start + AT_ONCE]
            outputs += await asyncio.gather(*(self._read_task(task, limit) for task in some))
        return outputs

    async def _read_task(self, task: Task, limit: int) -> TaskOutput:
        output = await self._read_until("task", task.id, limit) if task.container_id else Output()
        return TaskOutput(task.id, task.slot, task.node, task.exit_code, output)

    async def _read_until(self, kind: Literal["task", "container"], target_id: str, limit: int) -> Output:
        """Its output, as far as it can be had: what is gone has none, and a node that is out of reach is given up."""
        until = None  # its wait for a turn does not count
        while True:
            try:
                return await self._logs.capture(kind, target_id, limit)
            except NotFound:
                return Output([], truncated=True)
            except (EngineAway, TooManyCalls):  # it is there when the engine comes back, or its owner's others are done
                pass
            except HttpError as error:
                until = until or time.monotonic() + GIVE_UP_AFTER
                if time.monotonic() > until:
                    log.warning("output_not_read", what=target_id, reason=str(error))
                    return Output([], truncated=True)
            await asyncio.sleep(AGAIN_EVERY)


def _to_be_read(view: Service) -> bool:
    return view.owner is not None and view.result is None


def _ended_at(task: Task) -> tuple[bool, datetime]:
    """The first that ended comes first."""
    return task.state not in TERMINAL, parse_time(task.updated_at) or LONG_AGO
