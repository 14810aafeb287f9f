"""Ends and removes runs at their deadlines, after their output is recorded. Belongs to the event loop.

A run has at most one deadline at a time, with a timer; ``Reaper._deadline`` lists all kinds.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from ..engine.containers import Containers
from ..engine.labels import END, STOPPED, TIMED_OUT
from ..engine.services import Swarm
from ..errors import HttpError, JournalUnwritable
from ..events.journal import Journal
from ..limiter import act_for
from ..models.responses import Service
from ..models.units import LONG_AGO, parse_time
from .reconciler.reconciler import Reconciler
from .results import ResultCollector
from .views.run_view import has_ended, nothing_runs

SETTLE = 2.0  # seconds from the end of a stopped service to its removal, so that other quartermasters record it
KEPT = 5.0  # seconds that an ended run stays at least, whatever its ttl, for the same reason
LOOK_EVERY = 0.25  # seconds
AGAIN_EVERY = 1.0  # seconds between retries
RECORD_WITHIN = 20.0  # seconds that a stop waits for the output of an ended run

log = structlog.get_logger(__name__)

Work = Callable[[str], Awaitable[None]]


class Deadline(NamedTuple):
    """Work that is due ``seconds`` after ``moment``, a time of the engine's clock (RFC 3339)."""

    moment: str | None
    seconds: float
    work: Work

    def left(self, at_most: float) -> float:
        """Return the seconds that are left; count at most ``at_most`` seconds as passed since the moment."""
        moment = parse_time(self.moment)
        passed = max(0.0, (_now() - moment).total_seconds()) if moment else 0.0
        return max(0.0, self.seconds - min(passed, at_most))


class _Watched(NamedTuple):
    """A run's deadline: when the run last changed, when the work is due (both of the loop's clock), the timer."""

    noticed: float
    deadline: Deadline | None = None
    due: float = math.inf
    timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Reaper:
    """Stops, times out and removes runs.

    Args:
        swarm: the services.
        containers: the containers.
        journal: keeps which runs are being ended, and why, as the engine cannot for containers.
        reconciler: the current views of runs.
        collector: records the output of a run, before its removal.
        max_kept: returns how many ended runs of an owner may stay in the swarm; None: any number.
    """

    def __init__(
        self,
        swarm: Swarm,
        containers: Containers,
        journal: Journal,
        reconciler: Reconciler,
        collector: ResultCollector,
        max_kept: Callable[[str], int | None] = lambda owner: None,
    ) -> None:
        self._swarm = swarm
        self._containers = containers
        self._journal = journal
        self._reconciler = reconciler
        self._collector = collector
        self._max_kept = max_kept
        self._excess: set[str] = set()  # ended runs over their owner's ``max_kept``
        self._to_check: set[str] = set()  # owners whose ended runs are about to be counted
        self._watched: dict[str, _Watched] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def stop(self, view: Service) -> None:
        """Start to stop and remove a run; return when the engine has accepted it.

        Raises:
            HttpError: the engine did not accept it.
        """
        if view.type == "container":
            await self._stop_container(view.id)
        else:
            await self._stop_service(view)

    def notice(self, view: Service) -> None:
        """Set the deadline of a changed run; continue an end that another or an earlier quartermaster has begun."""
        if self._closed:
            return
        self._set_deadline(view)
        if view.owner is not None and _may_go(view) and view.owner not in self._to_check:
            # Once for all runs in this iteration of the event loop: at the start, every run comes here.
            self._to_check.add(view.owner)
            asyncio.get_running_loop().call_soon(self._check_now, view.owner)

    def check_kept(self, owner: str) -> None:
        """Mark the oldest ended runs of an owner beyond its ``max_kept`` for early removal."""
        limit = self._max_kept(owner)
        if limit is None and not self._excess:
            return
        ended = [view for view in self._reconciler.cache.services() if view.owner == owner and _may_go(view)]
        ended.sort(key=lambda view: parse_time(view.finished_at) or LONG_AGO)
        over = 0 if limit is None else max(0, len(ended) - limit)
        for place, view in enumerate(ended):
            if (place < over) != (view.id in self._excess):
                self._excess ^= {view.id}
                self._set_deadline(view)

    def time_out(self, run_id: str) -> None:
        """End a service for its time, as if its timeout had passed, in the background."""
        self._begin(run_id, self._time_out_service)

    def remove(self, run_id: str) -> None:
        """Remove a service, ended or not, once its output is recorded, in the background."""
        self._begin(run_id, self._record_and_remove)

    async def close(self) -> None:
        """Cancel timers and pending work; the next process does it."""
        self._closed = True
        for watched in self._watched.values():
            watched.cancel()
        pending = list(self._tasks.values())
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    # -- deadlines -------------------------------------------------------------------------------------------------

    def _deadline(self, view: Service) -> Deadline | None:
        """Return the next work on a run, and when it is due."""
        is_service = view.type == "service"
        finish = self._finish_service if is_service else self._finish_container
        time_out = self._time_out_service if is_service else self._time_out_container
        if view.status == "stopping":
            if view.reason == "stopped" or view.finished_at is not None:  # an end before the stop keeps its reason
                return Deadline(None, 0, finish)
            return Deadline(None, 0, time_out) if view.reason == "timeout" else None
        if view.owner is None or view.status == "removed":
            return None
        if _may_go(view) and view.id in self._excess:
            return Deadline(view.finished_at, KEPT, self._expire)
        if _may_go(view) and view.ttl is not None:
            return Deadline(view.finished_at, max(view.ttl, KEPT), self._expire)
        if not has_ended(view) and view.started_at is not None and view.timeout is not None:
            return Deadline(view.started_at, view.timeout, time_out)
        return None

    def _set_deadline(self, view: Service) -> None:
        """Set the timer of a run.

        The wall clock may be set, or differ from the engine's. It is used only for the time before the run was first
        seen; from then on the event loop's clock counts.
        """
        before = self._watched.pop(view.id, _Watched(-math.inf))
        if view.status == "removed":
            before.cancel()
            self._excess.discard(view.id)
            return
        loop = asyncio.get_running_loop()
        now, deadline, due, timer = loop.time(), self._deadline(view), before.due, before.timer
        if deadline != before.deadline:
            # An end that is seen late is harmless: the run stays a little longer.
            seen_to_end = has_ended(view) and before.noticed > -math.inf
            due = now + deadline.left(0.0 if seen_to_end else now - before.noticed) if deadline else math.inf
        if deadline != before.deadline or due <= now:  # it may have passed while other work on the run was going on
            before.cancel()
            timer = loop.call_at(due, self._reach, view.id) if deadline else None
        self._watched[view.id] = _Watched(now, deadline, due, timer)

    def _reach(self, run_id: str) -> None:
        view, watched = self._reconciler.cache.find(run_id), self._watched[run_id]
        # If the deadline has changed, a change of the run is about to set the new one.
        if view is not None and watched.deadline is not None and self._deadline(view) == watched.deadline:
            self._begin(run_id, watched.deadline.work)

    def _check_now(self, owner: str) -> None:
        self._to_check.discard(owner)
        if not self._closed:
            self.check_kept(owner)

    # -- services --------------------------------------------------------------------------------------------------

    async def _stop_service(self, view: Service) -> None:
        # A task that waited for a node may have started since the last listing.
        fresh = view if view.owner is None else await self._reconciler.refresh(view.id)
        if fresh is None:
            return
        # A service that waits for a restart is ended like a running one: its last task is shown and its output read.
        if fresh.owner is None or (nothing_runs(fresh) and not self._waits_to_run_again(fresh)):
            await self._record_ended(fresh)
            await self._keep_end(fresh.id, STOPPED)  # the service, whose label would say it, is about to be removed
            self._reconciler.will_remove(fresh.id)
            await self._remove_service(fresh.id)
        elif await self._swarm.end(view.id, END, STOPPED):
            self._reconciler.look(view.id)
            self._begin(view.id, self._finish_service)

    async def _finish_service(self, service_id: str) -> None:
        """Remove a stopped service ``SETTLE`` after its tasks have ended, or after its grace period."""
        began, within = time.monotonic(), self._reconciler.cache.ends_within(service_id)
        ended = math.inf
        while (view := self._current(service_id)) is not None:
            now = time.monotonic()
            if nothing_runs(view):
                ended = min(ended, now)
            if now - ended > SETTLE or now - began > within:
                await self._collector.record(view)
                await self._remove_service(service_id)
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _time_out_service(self, service_id: str) -> None:
        """End the tasks of a service and wait until they have ended; the service stays until its ttl expires."""
        fresh = await self._reconciler.refresh(service_id)
        if fresh is None or has_ended(fresh):
            return
        if fresh.status != "stopping":
            log.info("run_timed_out", run=service_id, name=fresh.name, seconds=fresh.timeout)
        if not await self._swarm.end(service_id, END, TIMED_OUT):
            return
        self._reconciler.look(service_id)
        began, within = time.monotonic(), self._reconciler.cache.ends_within(service_id)
        while (view := self._current(service_id)) is not None and not has_ended(view):
            await asyncio.sleep(LOOK_EVERY)
            if view.reason != "timeout" and view.status == "stopping":
                return  # a stop has come meanwhile
            if time.monotonic() - began > within:  # its node is unreachable: the time decides that it has ended
                await self._reconciler.refresh(service_id)
                self._reconciler.look(service_id)

    async def _remove_service(self, service_id: str) -> None:
        await self._swarm.remove(service_id)
        await self._reconciler.refresh(service_id)
        self._reconciler.look(service_id)

    async def _record_and_remove(self, service_id: str) -> None:
        view = self._current(service_id)
        if view is not None:
            await self._collector.record(view)
            await self._remove_service(service_id)

    # -- containers ------------------------------------------------------------------------------------------------

    async def _stop_container(self, container_id: str) -> None:
        await self._reconciler.look_at_container(container_id)  # raises if the engine is away
        view = self._current(container_id)
        if view is not None and has_ended(view):
            await self._record_ended(view)
            await self._remove_container(container_id)
        elif view is not None:
            await self._end_container(container_id, STOPPED)
            self._begin(container_id, self._finish_container)

    async def _finish_container(self, container_id: str) -> None:
        await self._containers.stop(container_id)
        await self._reconciler.ending_container(container_id, STOPPED)
        view = self._current(container_id)
        if view is not None:
            await self._collector.record(view)
        await self._remove_container(container_id)

    async def _time_out_container(self, container_id: str) -> None:
        await self._reconciler.look_at_container(container_id)
        view = self._current(container_id)
        if view is None or has_ended(view):
            return
        if view.status != "stopping":
            log.info("run_timed_out", run=container_id, name=view.name, seconds=view.timeout)
            await self._end_container(container_id, TIMED_OUT)
        await self._containers.stop(container_id)
        await self._reconciler.look_at_container(container_id)

    async def _end_container(self, container_id: str, why: str) -> None:
        await self._keep_end(container_id, why)
        await self._reconciler.ending_container(container_id, why)

    async def _remove_container(self, container_id: str) -> None:
        await self._containers.remove(container_id)
        await self._reconciler.look_at_container(container_id)

    # -- both ------------------------------------------------------------------------------------------------------

    async def _expire(self, run_id: str) -> None:
        """Remove a run whose ttl has expired."""
        view = self._current(run_id)
        if view is None or not has_ended(view):
            return
        log.info("ttl_expired", run=run_id, name=view.name, ttl=view.ttl)
        if view.type == "service":
            await self._remove_service(run_id)
        else:
            await self._remove_container(run_id)

    async def _record_ended(self, view: Service) -> None:
        """Record the output of a run if any of its tasks had a container.

        Raises:
            JournalUnwritable: it could not be recorded in time.
        """
        if not has_ended(view) and not any(task.container_id for task in view.tasks):
            return
        try:
            async with asyncio.timeout(RECORD_WITHIN):
                await self._collector.record(view)
        except TimeoutError:
            raise JournalUnwritable("the run's output could not be read and kept in time; try again") from None

    def _waits_to_run_again(self, view: Service) -> bool:
        return not any(task.container_id for task in view.tasks) and bool(self._reconciler.cache.earlier(view.id))

    async def _keep_end(self, run_id: str, why: str) -> None:
        with contextlib.suppress(JournalUnwritable):  # only lost if quartermaster crashes now; the stop can be repeated
            await self._journal.end(run_id, why)

    def _current(self, run_id: str) -> Service | None:
        view = self._reconciler.cache.find(run_id)
        return None if view is None or view.status == "removed" else view

    # -- work in the background ------------------------------------------------------------------------------------

    def _begin(self, run_id: str, work: Work) -> None:
        """Start work on a run in the background, repeated until it succeeds; one piece of work per run at a time."""
        if run_id not in self._tasks:
            task = asyncio.create_task(self._until_done(run_id, work), name=f"reaper-{run_id}")
            self._tasks[run_id] = task
            task.add_done_callback(lambda done: self._end(run_id, done))

    async def _until_done(self, run_id: str, work: Work) -> None:
        view = self._reconciler.cache.find(run_id)
        act_for(view.owner if view else None)
        while True:
            try:
                await work(run_id)
                return
            except HttpError as error:
                log.info("stop_retrying", run=run_id, reason=str(error))
            except Exception:  # the top of a task
                log.exception("stop_failed", run=run_id)
            await asyncio.sleep(AGAIN_EVERY)

    def _end(self, run_id: str, done: asyncio.Task[None]) -> None:
        self._tasks.pop(run_id, None)
        if not done.cancelled():  # other work may have become due meanwhile
            asyncio.get_running_loop().call_later(LOOK_EVERY, self._notice_again, run_id)

    def _notice_again(self, run_id: str) -> None:
        view = self._current(run_id)
        if view is not None:
            self.notice(view)


def _may_go(view: Service) -> bool:
    """Return whether a run has ended by itself and its output is recorded, so that it may be removed."""
    return view.status in ("complete", "failed") and view.result is not None


def _now() -> datetime:
    return datetime.now(UTC)
