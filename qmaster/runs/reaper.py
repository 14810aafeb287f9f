"""Ends services and containers so that nothing they said is lost: when they are stopped, timed out, or old enough.

It belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import structlog

from ..engine.labels import END, STOPPED, TIMED_OUT
from ..errors import HttpError, JournalUnwritable
from ..limiter import act_for
from ..models.responses import Service, Task
from .status import ENDED_WITHIN, LONG_AGO, has_ended, nothing_runs, parse_time

Json = dict[str, Any]

SETTLE = 2.0  # seconds between the end of a stopped service and its removal, in which others read its end too
KEPT = 5.0  # seconds that what has ended stays at least, whatever its time to live, for the same reason
GRACE = ENDED_WITHIN.total_seconds()
LOOK_EVERY = 0.25
AGAIN_EVERY = 1.0
RECORD_WITHIN = 20.0  # seconds that a stop waits for the output of what has ended

log = structlog.get_logger(__name__)

Work = Callable[[str], Awaitable[None]]


class Swarm(Protocol):
    """What the reaper needs of the swarm."""

    async def end(self, service_id: str, label: str, why: str) -> bool: ...
    async def remove(self, service_id: str) -> None: ...


class Containers(Protocol):
    """What the reaper needs of this engine's containers."""

    async def stop(self, container_id: str) -> None: ...
    async def remove(self, container_id: str) -> None: ...


class Journal(Protocol):
    """What the reaper needs of the journal."""

    async def end(self, run_id: str, why: str) -> None: ...


class Reconciler(Protocol):
    """What the reaper needs of the reconciler."""

    def find(self, name_or_id: str) -> Service | None: ...
    def services(self) -> list[Service]: ...
    def look(self, service_id: str) -> None: ...
    def will_remove(self, run_id: str) -> None: ...
    def earlier(self, service_id: str) -> list[Task]: ...
    async def refresh(self, service_id: str) -> Service | None: ...
    async def ending_container(self, container_id: str, why: str) -> None: ...
    async def look_at_container(self, container_id: str) -> None: ...


class Reaper:
    """Carries ends through to their end.

    Args:
        swarm, containers: the engine.
        journal: what is being ended, and why, where the engine keeps no word of that.
        record: puts what a run has said into the journal; nothing is removed before.
        max_kept: how many ended runs of an owner may stay in the swarm; None: any number.
    """

    def __init__(
        self,
        swarm: Swarm,
        containers: Containers,
        journal: Journal,
        reconciler: Reconciler,
        record: Callable[[Service], Awaitable[None]],
        max_kept: Callable[[str], int | None] = lambda owner: None,
    ) -> None:
        self._swarm = swarm
        self._containers = containers
        self._journal = journal
        self._reconciler = reconciler
        self._record = record
        self._max_kept = max_kept
        self._early: set[str] = set()  # ended runs that go before their time to live is over
        self._to_check: set[str] = set()  # owners whose ended runs are about to be counted
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, _Known] = {}
        self._closed = False

    # -- what it is told -------------------------------------------------------------------------------------------

    async def stop(self, view: Service) -> None:
        """Begin to stop and remove; returns when the engine has accepted it.

        Raises:
            HttpError: the engine did not.
        """
        if view.type == "container":
            await self._stop_container(view.id)
            return
        # What waits for a node may have begun since it was last listed.
        fresh = view if view.owner is None else await self._reconciler.refresh(view.id)
        if fresh is None:
            return
        # What waits to run again is ended like what runs: then the task that ran last is shown, and what it said read.
        if fresh.owner is None or (nothing_runs(fresh) and not self._waits_to_run_again(fresh)):
            await self._recorded(fresh)
            await self._keep_end(fresh.id, STOPPED)  # the service itself, which could tell, is about to go
            self._reconciler.will_remove(fresh.id)
            await self._remove_service(fresh.id)
        elif await self._swarm.end(view.id, END, STOPPED):
            self._reconciler.look(view.id)
            self._carry(view.id, self._finish_service)

    def notice(self, view: Service) -> None:
        """A run has changed: see what is due, and take up an end that somebody else, or we before, have begun."""
        # What had ended before it was stopped keeps its reason.
        if view.status == "stopping" and (view.reason == "stopped" or view.finished_at is not None):
            self._carry(view.id, self._finish_service if view.type == "service" else self._finish_container)
        elif view.status == "stopping" and view.reason == "timeout":
            self._carry(view.id, self._time_out_service if view.type == "service" else self._time_out_container)
        self._set_timer(view)
        if view.owner is not None and _may_go(view) and view.owner not in self._to_check:
            # Once for all that is noticed in this turn of the loop: at the start that is everything.
            self._to_check.add(view.owner)
            asyncio.get_running_loop().call_soon(self._check_now, view.owner)

    def check_kept(self, owner: str) -> None:
        """See which ended runs of an owner are more than may stay: the oldest of them go early."""
        limit = self._max_kept(owner)
        if limit is None and not self._early:
            return
        ended = [view for view in self._reconciler.services() if view.owner == owner and _may_go(view)]
        over = 0 if limit is None else max(0, len(ended) - limit)
        if over:
            ended.sort(key=lambda view: parse_time(view.finished_at) or LONG_AGO)
        for place, view in enumerate(ended):
            if (place < over) != (view.id in self._early):
                self._early ^= {view.id}
                self._set_timer(view)

    def _check_now(self, owner: str) -> None:
        self._to_check.discard(owner)
        if not self._closed:
            self.check_kept(owner)

    async def close(self) -> None:
        """Leave what is not done to the next start."""
        self._closed = True
        for known in self._known.values():
            known.cancel()
        pending = list(self._tasks.values())
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    # -- what is due when ------------------------------------------------------------------------------------------

    # The clock of the day can be set, or be another than the engine's: it only says how long something has lasted
    # that was not seen to begin. From then on the loop's clock counts.

    def _set_timer(self, view: Service) -> None:
        loop = asyncio.get_running_loop()
        known = self._known.pop(view.id, _Known(-math.inf, None, None))
        if view.status == "removed":
            self._early.discard(view.id)
        now, due, timer = loop.time(), self._due(view), known.timer
        if due != known.due:
            known.cancel()
            # An end that is noticed late makes no harm: what has ended stays a little longer.
            unseen = 0.0 if has_ended(view) and known.at > -math.inf else now - known.at
            timer = loop.call_later(due.left(unseen), self._ring, view.id) if due else None
        elif due is not None and timer is None:  # it has rung while something else was being done
            timer = loop.call_later(0, self._ring, view.id)
        if view.status != "removed":
            self._known[view.id] = _Known(now, due, timer)

    def _due(self, view: Service) -> _Due | None:
        return _Due(view.finished_at, KEPT) if view.id in self._early and _may_go(view) else _due(view)

    def _ring(self, run_id: str) -> None:
        known = self._known[run_id] = self._known[run_id]._replace(timer=None)
        view = self._reconciler.find(run_id)
        if view is None or self._due(view) != known.due:  # there is news of it, which will be noticed
            return
        if has_ended(view):
            self._carry(run_id, self._retire)
        else:
            self._carry(run_id, self._time_out_service if view.type == "service" else self._time_out_container)

    # -- services --------------------------------------------------------------------------------------------------

    async def _finish_service(self, service_id: str) -> None:
        """Wait for its tasks to end, or for the grace period; then remove it."""
        began = time.monotonic()
        ended: float | None = None
        while (view := self._current(service_id)) is not None:
            now = time.monotonic()
            if nothing_runs(view):
                ended = ended or now
            if (ended and now - ended > SETTLE) or now - began > GRACE:
                await self._record(view)
                await self._remove_service(service_id)
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _time_out_service(self, service_id: str) -> None:
        """Have its tasks ended, and see that they do; it stays until its time to live is over."""
        fresh = await self._reconciler.refresh(service_id)
        if fresh is None or has_ended(fresh):
            return
        if fresh.status != "stopping":
            log.info("timeout", run=service_id, name=fresh.name, seconds=fresh.timeout)
        if not await self._swarm.end(service_id, END, TIMED_OUT):
            return
        self._reconciler.look(service_id)
        began = time.monotonic()
        while (view := self._current(service_id)) is not None and not has_ended(view):
            await asyncio.sleep(LOOK_EVERY)
            if view.reason != "timeout" and view.status == "stopping":
                return  # it is being stopped meanwhile
            if time.monotonic() - began > GRACE:  # its node is out of reach: the time alone says that it is over
                await self._reconciler.refresh(service_id)
                self._reconciler.look(service_id)

    async def _remove_service(self, service_id: str) -> None:
        await self._swarm.remove(service_id)
        await self._reconciler.refresh(service_id)
        self._reconciler.look(service_id)

    # -- containers ------------------------------------------------------------------------------------------------

    async def _stop_container(self, container_id: str) -> None:
        await self._reconciler.look_at_container(container_id)  # an engine that is away has not accepted it
        view = self._current(container_id)
        if view is not None and has_ended(view):
            await self._recorded(view)
            await self._remove_container(container_id)
        elif view is not None:
            await self._end_container(container_id, STOPPED)
            self._carry(container_id, self._finish_container)

    async def _remove_container(self, container_id: str) -> None:
        await self._containers.remove(container_id)
        await self._reconciler.look_at_container(container_id)

    async def _end_container(self, container_id: str, why: str) -> None:
        await self._keep_end(container_id, why)
        await self._reconciler.ending_container(container_id, why)

    async def _finish_container(self, container_id: str) -> None:
        await self._containers.stop(container_id)
        await self._reconciler.ending_container(container_id, STOPPED)
        view = self._current(container_id)
        if view is not None:
            await self._record(view)
        await self._remove_container(container_id)

    async def _time_out_container(self, container_id: str) -> None:
        await self._reconciler.look_at_container(container_id)
        view = self._current(container_id)
        if view is None or has_ended(view):
            return
        if view.status != "stopping":
            log.info("timeout", run=container_id, name=view.name, seconds=view.timeout)
            await self._end_container(container_id, TIMED_OUT)
        await self._containers.stop(container_id)
        await self._reconciler.look_at_container(container_id)

    # -- both ------------------------------------------------------------------------------------------------------

    async def _retire(self, run_id: str) -> None:
        """Its time to live is over."""
        view = self._current(run_id)
        if view is None or not has_ended(view):
            return
        log.info("retire", run=run_id, name=view.name, ttl=view.ttl)
        if view.type == "service":
            await self._remove_service(run_id)
        else:
            await self._remove_container(run_id)

    async def _recorded(self, view: Service) -> None:
        """What has ended was read, also one of several replicas; what has not begun has said nothing.

        Raises:
            JournalUnwritable: it could not be kept in time.
        """
        if not has_ended(view) and not any(task.container_id for task in view.tasks):
            return
        try:
            async with asyncio.timeout(RECORD_WITHIN):
                await self._record(view)
        except TimeoutError:
            raise JournalUnwritable("what it said could not be read and kept in time; try again") from None

    def _waits_to_run_again(self, view: Service) -> bool:
        return not any(task.container_id for task in view.tasks) and bool(self._reconciler.earlier(view.id))

    async def _keep_end(self, run_id: str, why: str) -> None:
        with contextlib.suppress(JournalUnwritable):  # then a crash would leave it half ended: it can be asked again
            await self._journal.end(run_id, why)

    def _current(self, run_id: str) -> Service | None:
        view = self._reconciler.find(run_id)
        return None if view is None or view.status == "removed" else view

    def _carry(self, run_id: str, work: Work) -> None:
        """Do it in the background, again and again until it is done; one thing at a time for each run."""
        if run_id not in self._tasks:
            task = asyncio.create_task(self._until_done(run_id, work), name=f"reaper-{run_id}")
            self._tasks[run_id] = task
            task.add_done_callback(lambda done: self._put_down(run_id, done))

    def _put_down(self, run_id: str, done: asyncio.Task[None]) -> None:
        self._tasks.pop(run_id, None)
        if not done.cancelled():  # something may have become due while the other was carried
            asyncio.get_running_loop().call_later(LOOK_EVERY, self._notice_again, run_id)

    def _notice_again(self, run_id: str) -> None:
        view = self._current(run_id)
        if view is not None and not self._closed:
            self.notice(view)

    async def _until_done(self, run_id: str, work: Work) -> None:
        view = self._reconciler.find(run_id)
        act_for(view.owner if view else None)
        while True:
            try:
                await work(run_id)
                return
            except HttpError as error:
                log.info("end_again", run=run_id, reason=str(error))
            except Exception:  # the top of a task
                log.exception("end_failed", run=run_id)
            await asyncio.sleep(AGAIN_EVERY)


class _Due(NamedTuple):
    """Something is to be done so many ``seconds`` after a ``moment`` of the engine's clock (RFC 3339)."""

    moment: str | None
    seconds: float

    def left(self, at_most: float) -> float:
        """Seconds from now, where that moment is not longer ago than ``at_most``."""
        moment = parse_time(self.moment)
        passed = max(0.0, (_now() - moment).total_seconds()) if moment else 0.0
        return max(0.0, self.seconds - min(passed, at_most))


class _Known(NamedTuple):
    """When a run was last noticed (by the loop's clock), what was due then, and its timer while that has not rung."""

    at: float
    due: _Due | None
    timer: asyncio.TimerHandle | None

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


def _due(view: Service) -> _Due | None:
    """What is to be done about a run that is left to itself: at the end of its time, or of its time to live."""
    if view.owner is None or view.status == "removed":
        return None
    if has_ended(view):
        return _Due(view.finished_at, max(view.ttl, KEPT)) if view.ttl is not None and _may_go(view) else None
    if view.timeout is None or view.status == "stopping" or view.started_at is None:
        return None
    return _Due(view.started_at, view.timeout)


def _may_go(view: Service) -> bool:
    """Whether a run has ended by itself, and what it said is kept."""
    return view.status in ("complete", "failed") and view.result is not None


def _now() -> datetime:
    return datetime.now(UTC)
