"""Starts and ends the instances of all functions, as ``scaling`` decides. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog

from ..errors import CannotStart, EngineUnavailable, Forbidden, HttpError, NotFound, TooManyRuns
from ..limiter import act_for
from ..models.functions import FunctionError
from ..models.responses import Service
from ..runs.status import has_ended
from . import scaling
from .instances import Ending, Instance, Trouble
from .launcher import Launcher
from .pool import Ended, Hooks, Pool
from .scaling import calls_need_one, too_few
from .versions import Version, VersionStore

KILLED_AFTER = 2.0  # seconds after which an instance that was told to end is removed
# Seconds in which the end of a run is looked for once the connection of its call has closed: with the exit code and the
# output the caller hears within half a second.
TOLD_WITHIN = 0.4
ROOM_WITHIN = 2.0  # seconds that a start waits for room if no idle instance can end for it
LAST_LINES = 20
ERRORS_KEPT = 5

log = structlog.get_logger(__name__)


class Reports(NamedTuple):
    """What is told of each call that is over, and of each instance that has ended: its function and why."""

    call: Callable[[Ended], None]
    instance: Callable[[str, str], None]


class Autoscaler:
    """The pools of all versions that are called or kept warm, and the life of their instances.

    Args:
        launcher: starts and ends the runs.
        versions: the published versions.
        ready_nodes: returns how many nodes take tasks.
        reports: told of ends.
    """

    def __init__(
        self, launcher: Launcher, versions: VersionStore, ready_nodes: Callable[[], int], reports: Reports
    ) -> None:
        self.pools: dict[str, Pool] = {}  # by the version's id
        self.by_secret: dict[str, Instance] = {}
        self.errors: dict[str, deque[FunctionError]] = {}  # by function, the newest first
        self.stopping = False
        self._by_run: dict[str, Instance] = {}
        self._launcher = launcher
        self._versions = versions
        self._ready_nodes = ready_nodes
        self._reports = reports
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._hooks = Hooks(self._wake.set, self.kill, reports.call)

    async def run(self) -> None:
        """Start and end instances until cancelled."""
        while True:
            self._wake.clear()
            due = math.inf
            try:
                due = self._plan()
            except Exception:  # the top of the task
                log.exception("scaling_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due == math.inf else max(0.0, due - self._now())):
                    await self._wake.wait()

    async def adopt(self) -> None:
        """Take up the instances that an earlier process of this quartermaster has started.

        Raises:
            HttpError: the engine did not answer, or the versions are not known.
        """
        self._versions.require()
        for found in await self._launcher.running():
            version = self._versions.by_id(found.version_id)
            if version is None:
                log.info("instance_of_no_version", run=found.run_id)
                self._launcher.kill(found.run_id)
                continue
            instance = Instance(version, self._now(), found.secret, adopted=True)
            self._add(self.pool(version), instance)
            self._know_run(instance, found.run_id)
            log.info("instance_adopted", run=found.run_id, function=version.function, version=version.number)
        for name in self._versions.names():
            self.versions_changed(name)

    async def close(self) -> None:
        """Cancel pending work; the next process does it."""
        self.stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def pool(self, version: Version) -> Pool:
        """Return the pool of a version."""
        pool = self.pools.get(version.id)
        if pool is None:
            pool = self.pools[version.id] = Pool(version, self._hooks)
            self._set_least(pool)
        return pool

    # -- what is heard ---------------------------------------------------------------------------------------------

    def notice(self, view: Service) -> None:
        """Hear of a changed run."""
        instance = self._by_run.get(view.id)
        if instance is None:
            return
        instance.view = view
        if has_ended(view) or view.status == "removed":
            self._ended(instance, view)
            return
        if view.status == "unknown":
            self.kill(instance, "node_down")
            return
        if view.status == "running" and instance.running_at is None:
            instance.running_at = self._now()
        lacks_room = view.status == "pending" and view.reason == "unschedulable"
        if not lacks_room:
            instance.unplaced_at = None
        elif instance.unplaced_at is None:
            instance.unplaced_at = self._now()
        self._wake.set()

    def versions_changed(self, name: str) -> None:
        """Hear of a function's new, or removed, versions."""
        latest = self._versions.latest(name)
        if latest is not None and latest.spec.min_instances:
            self.pool(latest)
        for pool in self._of(name):
            self._set_least(pool)
            if latest is None:
                pool.fail_waiting(lambda: NotFound(f"the function {name!r} was removed"))
        if latest is None:
            self.errors.pop(name, None)
        self._wake.set()

    def grants_changed(self) -> None:
        """Let the instances end whose publisher may not run them any more."""
        for pool in self.pools.values():
            trouble = self._launcher.forbids(pool.version)
            for instance in pool if trouble else ():
                self._end_when_free(instance, "policy")
        self._wake.set()

    def init_failed(self, instance: Instance, error_type: str, message: str) -> None:
        """Hear that an instance cannot start; it ends by itself now."""
        if instance.asked_at is None and instance.trouble is None:
            self._start_failed(instance, Trouble("init_error", f"its init failed: {error_type}: {message}"))

    def connection_lost(self, instance: Instance, call_id: str) -> None:
        """Hear that the connection of a call has closed: it is lost, and its instance has probably ended."""
        pool = self.pools[instance.version.id]
        if pool.lose(instance, call_id):
            self.look(instance)
            asyncio.get_running_loop().call_later(TOLD_WITHIN, self._fail_lost, pool, instance)

    def look(self, instance: Instance) -> None:
        """Have the run of an instance looked at, which has probably ended."""
        if instance.run_id is not None:
            self._launcher.look(instance.run_id)

    def _fail_lost(self, pool: Pool, instance: Instance) -> None:
        pool.fail_lost(instance, _how_it_died(instance.view), *_end_of(instance.view))
        self._wake.set()

    # -- the end of a run ------------------------------------------------------------------------------------------

    def _ended(self, instance: Instance, view: Service) -> None:
        """Hear that a run has ended; its calls fail once its output is read, or after ``TOLD_WITHIN``."""
        instance.retired = True
        instance.ending = instance.ending or "ended"
        self._void(instance)
        pool = self.pools[instance.version.id]
        wants_output = instance.calls or instance.lost or instance.asked_at is None
        if view.result is not None or view.status == "removed" or not wants_output:
            self._conclude(pool, instance)
        else:
            asyncio.get_running_loop().call_later(TOLD_WITHIN, self._conclude, pool, instance)

    def _conclude(self, pool: Pool, instance: Instance) -> None:
        """Forget an instance that has ended, once."""
        if instance.run_id is None or self._by_run.pop(instance.run_id, None) is None:
            return
        view = instance.view
        exit_code, lines = _end_of(view)
        pool.lose_all(instance, _how_it_died(view), exit_code, lines)
        pool.remove(instance)
        reason = _why_it_ended(instance)
        if instance.asked_at is None and instance.ending == "ended" and instance.trouble is None:
            self._start_failed(instance, _why_not_started(view, lines))
        self._reports.instance(instance.version.function, reason)
        log.info("instance_ended", **_names(instance), reason=reason, exit_code=exit_code, calls=instance.served)
        self._wake.set()

    def _start_failed(self, instance: Instance, trouble: Trouble) -> None:
        """Note why an instance did not start; calls that no other can serve fail."""
        instance.trouble = trouble
        instance.ending = instance.ending or "ended"
        pool = self.pools[instance.version.id]
        pool.start_failed(trouble)
        name = instance.version.function
        fault = FunctionError(time=_utc_now(), reason=trouble.reason, message=trouble.message)
        self.errors.setdefault(name, deque(maxlen=ERRORS_KEPT)).appendleft(fault)
        log.warning("instance_not_started", **_names(instance), reason=trouble.reason, error=trouble.message)

    # -- starting --------------------------------------------------------------------------------------------------

    def _start(self, pool: Pool) -> None:
        instance = Instance(pool.version, self._now())
        self._add(pool, instance)
        self._spawn(self._launch(pool, instance), instance.version.function)

    async def _launch(self, pool: Pool, instance: Instance) -> None:
        act_for(pool.version.owner)
        try:
            run_id = await self._launcher.start(pool.version, instance.secret)
        except HttpError as error:
            self._refused(pool, instance, _trouble_of(error))
            return
        except Exception:  # the top of a task
            log.exception("start_failed", function=pool.version.function)
            self._refused(pool, instance, Trouble("engine", "quartermaster failed; its log has the reason"))
            return
        self._know_run(instance, run_id)
        if instance.retired:
            self._launcher.kill(run_id)
        pool.serve(instance)  # it may have asked already

    def _refused(self, pool: Pool, instance: Instance, trouble: Trouble) -> None:
        self._void(instance)
        pool.remove(instance)
        self._start_failed(instance, trouble)

    def _know_run(self, instance: Instance, run_id: str) -> None:
        instance.run_id = run_id
        self._by_run[run_id] = instance
        view = self._launcher.find(run_id)
        if view is not None:
            self.notice(view)

    def _add(self, pool: Pool, instance: Instance) -> None:
        pool.instances[instance.secret] = instance
        self.by_secret[instance.secret] = instance

    # -- ending ----------------------------------------------------------------------------------------------------

    def kill(self, instance: Instance, why: Ending) -> None:
        """End an instance now; its calls are lost."""
        if instance.retired:
            return
        instance.ending = why
        instance.retired = True
        self._void(instance)
        pool = self.pools[instance.version.id]
        pool.lose_all(instance, "the instance was killed")
        if instance.run_id is not None:
            self._launcher.kill(instance.run_id)

    def _end_when_free(self, instance: Instance, why: Ending) -> None:
        instance.ending = instance.ending or why

    async def _retire(self, instance: Instance) -> None:
        """Tell an idle instance to end. Its service says why first; then its secret is void, its questions answered."""
        run_id, why = instance.run_id, instance.ending
        if run_id is None or why is None:
            return
        try:
            await self._launcher.mark(run_id, why)
        except HttpError as error:  # the instance ends all the same; only the reason is not seen
            log.info("instance_not_marked", run=run_id, reason=str(error))
        self._void(instance)
        await asyncio.sleep(KILLED_AFTER)
        if run_id in self._by_run and not (instance.view and has_ended(instance.view)):
            log.info("instance_removed", **_names(instance), reason=why)
            self._launcher.remove(run_id)

    def _void(self, instance: Instance) -> None:
        """Forget an instance's secret, and answer its open questions with no call."""
        self.by_secret.pop(instance.secret, None)
        self.pools[instance.version.id].close_polls(instance)
        for waiting in instance.shutdown:
            if not waiting.done():
                waiting.set_result(None)

    # -- decisions -------------------------------------------------------------------------------------------------

    def _plan(self) -> float:
        """Start and end what is due; return when something is due next."""
        if self.stopping:
            return math.inf
        now, due = self._now(), math.inf
        for pool in list(self.pools.values()):
            for instance in pool:
                due = min(due, self._check(pool, instance, now))
            due = min(due, self._end_surplus(pool, now))
            if not (pool.instances or pool.waiting or pool.least) and self._versions.by_id(pool.version.id) is None:
                del self.pools[pool.version.id]
        return min(due, self._start_what_is_needed(now))

    def _check(self, pool: Pool, instance: Instance, now: float) -> float:
        """End an instance if that is due; return when to look at it again."""
        if instance.retired:
            return math.inf
        if instance.asked_at is None:
            return self._check_start(pool, instance, now)
        if now - instance.created_at >= scaling.LIFETIME:
            self._end_when_free(instance, "lifetime")
        alive_until = math.inf if instance.ending else instance.created_at + scaling.LIFETIME
        may_be_idle_at = now + pool.version.spec.idle
        if instance.calls or instance.lost:
            return min(alive_until, may_be_idle_at, now + scaling.SILENT)
        if not instance.polls:
            if now - instance.seen_at < scaling.SILENT:
                return min(may_be_idle_at, instance.seen_at + scaling.SILENT)
            self.kill(instance, "silent")
            return math.inf
        if pool.outdated_at is not None and instance.created_at <= pool.outdated_at:
            self._end_when_free(instance, "update")
        if instance.ending:
            instance.retired = True
            self._spawn(self._retire(instance), instance.version.function)
        return alive_until

    def _check_start(self, pool: Pool, instance: Instance, now: float) -> float:
        spec = pool.version.spec
        within = max(spec.init_timeout, spec.timeout) if instance.adopted else spec.init_timeout
        if instance.trouble is not None:
            return math.inf
        if instance.unplaced_at is not None:
            return self._make_room(instance, now)
        if instance.running_at is None:
            return math.inf
        if now - instance.running_at < within:
            return instance.running_at + within
        self._start_failed(
            instance, Trouble("init_timeout", f"it did not ask for a call within {within:g} s of running")
        )
        self.kill(instance, "init_timeout")
        return math.inf

    def _make_room(self, instance: Instance, now: float) -> float:
        """End the longest-idle instance for one that finds no room; give up if no one can end."""
        if any(each.retired for each in self._by_run.values()):
            instance.unplaced_at = now  # one is ending; its end wakes the next look
            return now + ROOM_WITHIN
        idle = [(each, len(pool.instances) - pool.least) for pool in self.pools.values() for each in pool.idle()]
        place = scaling.longest_idle([(each.seen_at, above) for each, above in idle])
        if place is not None:
            self._end_when_free(idle[place][0], "room")
            self._wake.set()
            return math.inf
        since = instance.unplaced_at or now
        if now - since < ROOM_WITHIN:
            return since + ROOM_WITHIN
        error = instance.view.error if instance.view else None
        self._start_failed(instance, Trouble("unschedulable", error or "no node has room for it", of_engine=True))
        self._end_when_free(instance, "room")
        instance.retired = True
        self._void(instance)
        if instance.run_id is not None:
            self._launcher.remove(instance.run_id)
        return math.inf

    def _end_surplus(self, pool: Pool, now: float) -> float:
        """End the instances that are idle for too long; return when the next will be."""
        idle, scale = pool.idle(), pool.scale()
        alive = sum(not each.ending for each in pool)
        ends = scaling.surplus([each.seen_at for each in idle], alive, scale, now)
        for instance in idle[:ends]:
            self._end_when_free(instance, "idle")
            self._wake.set()
        return idle[ends].seen_at + scale.idle if len(idle) > ends and alive - ends > scale.least else math.inf

    def _start_what_is_needed(self, now: float) -> float:
        """Begin the starts that are due and may begin; return when the next may."""
        begun = [each.created_at for pool in self.pools.values() for each in pool if _is_in_flight(each)]
        left = scaling.starts_left(self._ready_nodes(), begun, now)
        while (pool := self._next_to_start(now)) is not None:
            if left <= 0:
                return min(begun, default=now) + scaling.IN_FLIGHT
            self._start(pool)
            left -= 1
        fresh = (pool.waits_since for pool in self.pools.values())
        return min((since + scaling.BRIEFLY for since in fresh if now - since < scaling.BRIEFLY), default=math.inf)

    def _next_to_start(self, now: float) -> Pool | None:
        """Return the pool that should start the next instance: calls that wait come before what is kept warm."""
        ready = [(pool, pool.load(), pool.scale()) for pool in self.pools.values() if now >= pool.retry_at]
        needy = [(load.starting, pool.waits_since, pool) for pool, load, scale in ready if calls_need_one(load, scale)]
        if needy:
            return min(needy, key=lambda each: each[:2])[2]  # no function keeps another from its first one
        cold = [(load.starting, pool) for pool, load, scale in ready if too_few(load, scale)]
        return min(cold, key=lambda each: each[0])[1] if cold else None

    # -- both ------------------------------------------------------------------------------------------------------

    def _set_least(self, pool: Pool) -> None:
        latest = self._versions.latest(pool.version.function)
        newest = latest is not None and latest.id == pool.version.id
        pool.least = pool.version.spec.min_instances if newest else 0
        pool.outdated_at = None if newest else pool.outdated_at or self._now()

    def _of(self, name: str) -> Iterator[Pool]:
        return (pool for pool in list(self.pools.values()) if pool.version.function == name)

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(done, what))

    def _done(self, task: asyncio.Task[None], what: str) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("instance_work_failed", what=what, exc_info=error)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _is_in_flight(instance: Instance) -> bool:
    return instance.state == "starting" and not instance.adopted


def _trouble_of(error: HttpError) -> Trouble:
    """Return why a start was refused."""
    if isinstance(error, CannotStart):
        return Trouble(error.reason, str(error), error.of_engine)
    if isinstance(error, Forbidden | TooManyRuns):
        return Trouble("policy", str(error))
    return Trouble("engine" if isinstance(error, EngineUnavailable) else "rejected", str(error), error.of_engine)


def _why_not_started(view: Service | None, lines: list[str]) -> Trouble:
    """Return why a run ended before it asked for a call."""
    if view is None or view.reason in (None, "exit", "oom"):
        code = "unknown" if view is None or view.exit_code is None else view.exit_code
        said = f"it ended before it asked for a call, with exit code {code}" + (f": {lines[-1]}" if lines else "")
        return Trouble((view and view.reason) or "exit", said)
    return Trouble(view.reason, view.error or f"it ended: {view.reason}", of_engine=True)


def _why_it_ended(instance: Instance) -> str:
    """Return the word for why an instance has ended, in the metrics and the log."""
    if instance.trouble is not None:
        return instance.trouble.reason
    if instance.ending in (None, "ended"):
        return (instance.view and instance.view.reason) or "exit"
    return str(instance.ending)


def _how_it_died(view: Service | None) -> str:
    if view is None or not (has_ended(view) or view.status == "removed"):
        return "the connection of the instance closed before its answer"
    code = "an unknown exit code" if view.exit_code is None else f"exit code {view.exit_code}"
    return f"the instance ended with {code} before its answer"


def _end_of(view: Service | None) -> tuple[int | None, list[str]]:
    """Return the exit code of a run and the end of its output, as far as they are known."""
    if view is None:
        return None, []
    result = view.result
    lines = [*result.stdout.splitlines(), *result.stderr.splitlines()] if result else []
    return view.exit_code, lines[-LAST_LINES:]


def _names(instance: Instance) -> dict[str, object]:
    """Return what a log line says of an instance."""
    return {"run": instance.run_id, "function": instance.version.function, "version": instance.version.number}


def _utc_now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
