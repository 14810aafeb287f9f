"""The life of instances: they are started or adopted, told to end or killed, and end. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from ...background import BackgroundTasks
from ...errors import HttpError
from ...limiter import act_for
from ...models.functions import FunctionError, Version
from ...models.responses import Service
from ...models.units import rfc3339
from ..invocations.invocation import Reports
from . import endings
from .endings import ERRORS_KEPT, MAX_MESSAGE, Ending, Trouble
from .instance import Instance
from .launcher import Launcher
from .pool import Hooks, Pool

KILLED_AFTER = 2.0  # seconds after which an instance that was told to end is removed
# Seconds in which the end of a run is looked for once the connection of its call has closed: with the exit code and the
# output the caller hears within half a second.
TOLD_WITHIN = 0.4

log = structlog.get_logger(__name__)


class Lifecycle:
    """All instances of this quartermaster, in the pools of their versions.

    Args:
        launcher: starts and ends the runs.
        reports: told of ends.

    Attributes:
        pools: those of all versions that are called or kept warm, by the version's id.
        by_secret: the instances that may ask for calls.
        errors: why instances did not start, by function, the newest first.
        changed: set when there may be something to start or to end.
    """

    def __init__(self, launcher: Launcher, reports: Reports) -> None:
        self.pools: dict[str, Pool] = {}
        self.by_secret: dict[str, Instance] = {}
        self.errors: dict[str, deque[FunctionError]] = {}
        self.changed = asyncio.Event()
        self._by_run: dict[str, Instance] = {}
        self._launcher = launcher
        self._reports = reports
        self._background = BackgroundTasks("instance_work_failed")
        self._hooks = Hooks(self.changed.set, self.kill, reports.call)

    async def close(self) -> None:
        """Cancel pending work; the next process does it."""
        await self._background.close()

    def pool(self, version: Version) -> Pool:
        """Return the pool of a version."""
        pool = self.pools.get(version.id)
        if pool is None:
            pool = self.pools[version.id] = Pool(version, self._hooks)
        return pool

    def of_run(self, run_id: str) -> Instance | None:
        """Return the instance with this run."""
        return self._by_run.get(run_id)

    @property
    def is_ending_one(self) -> bool:
        """Whether an instance is being ended, which will make room."""
        return any(each.retired for each in self._by_run.values())

    # -- starting --------------------------------------------------------------------------------------------------

    def start(self, pool: Pool) -> None:
        """Start an instance in the background."""
        instance = Instance(pool.version, _now())
        self._add(pool, instance)
        self._background.start(self._launch(pool, instance), function=instance.version.function)

    def adopt(self, version: Version, run_id: str, secret: str) -> None:
        """Take up an instance of an earlier process."""
        instance = Instance(version, _now(), secret, adopted=True)
        self._add(self.pool(version), instance)
        self._know_run(instance, run_id)
        log.info("instance_adopted", **_names(instance))

    def start_failed(self, instance: Instance, trouble: Trouble) -> None:
        """Note why an instance did not start; calls that no other can serve fail."""
        trouble = trouble._replace(message=trouble.message[:MAX_MESSAGE])
        instance.trouble = trouble
        instance.ending = instance.ending or "ended"
        self.pool(instance.version).start_failed(trouble)
        fault = FunctionError(time=rfc3339(), reason=trouble.reason, message=trouble.message)
        self.errors.setdefault(instance.version.function, deque(maxlen=ERRORS_KEPT)).appendleft(fault)
        log.warning("instance_not_started", **_names(instance), reason=trouble.reason, error=trouble.message)

    def init_failed(self, instance: Instance, error_type: str, message: str) -> None:
        """Hear that an instance cannot start; it ends by itself now."""
        if instance.asked_at is None and instance.trouble is None:
            self.start_failed(instance, Trouble("init_error", f"its init failed: {error_type}: {message}"))

    async def _launch(self, pool: Pool, instance: Instance) -> None:
        act_for(pool.version.owner)
        try:
            run_id = await self._launcher.start(pool.version, instance.secret)
        except HttpError as error:
            self._refuse(pool, instance, endings.refused(error))
            return
        except Exception:  # the top of a task
            log.exception("start_failed", function=pool.version.function)
            self._refuse(pool, instance, Trouble("engine", "quartermaster failed; its log has the reason"))
            return
        self._know_run(instance, run_id)
        if instance.retired:
            self._launcher.kill(run_id)
        pool.serve(instance)  # it may have asked already

    def _refuse(self, pool: Pool, instance: Instance, trouble: Trouble) -> None:
        self._void(instance)
        pool.remove(instance)
        self.start_failed(instance, trouble)

    def _know_run(self, instance: Instance, run_id: str) -> None:
        instance.run_id = run_id
        self._by_run[run_id] = instance
        view = self._launcher.find(run_id)
        if view is not None:
            self.notice(view)

    def _add(self, pool: Pool, instance: Instance) -> None:
        pool.instances[instance.secret] = instance
        self.by_secret[instance.secret] = instance

    # -- what is heard ---------------------------------------------------------------------------------------------

    def notice(self, view: Service) -> None:
        """Hear of a changed run."""
        instance = self._by_run.get(view.id)
        if instance is None:
            return
        instance.view = view
        if endings.is_over(view):
            self._ended(instance, view)
            return
        if view.status == "unknown":
            self.kill(instance, "node_down")
            return
        if view.status == "stopping":
            instance.ending = instance.ending or "ended"
        if view.status == "running" and instance.running_at is None:
            instance.running_at = _now()
        lacks_room = view.status == "pending" and view.reason == "unschedulable"
        if not lacks_room:
            instance.unplaced_at = None
        elif instance.unplaced_at is None:
            instance.unplaced_at = _now()
        self.changed.set()

    def connection_lost(self, instance: Instance, call_id: str) -> None:
        """Hear that the connection of a call has closed: it is lost, and its instance has probably ended."""
        pool = self.pool(instance.version)
        if pool.lose(instance, call_id):
            self.look(instance)
            asyncio.get_running_loop().call_later(TOLD_WITHIN, self._fail_lost, pool, instance)

    def look(self, instance: Instance) -> None:
        """Have the run of an instance looked at, which has probably ended."""
        if instance.run_id is not None:
            self._launcher.look(instance.run_id)

    def _fail_lost(self, pool: Pool, instance: Instance) -> None:
        pool.fail_lost(instance, *endings.death(instance.view))
        self.changed.set()

    # -- the end of a run ------------------------------------------------------------------------------------------

    def _ended(self, instance: Instance, view: Service) -> None:
        """Hear that a run has ended; its calls fail once its output is read, or after ``TOLD_WITHIN``."""
        instance.retired = True
        instance.ending = instance.ending or "ended"
        self._void(instance)
        pool = self.pool(instance.version)
        wants_output = instance.calls or instance.lost or instance.asked_at is None
        if view.result is not None or view.status == "removed" or not wants_output:
            self._conclude(pool, instance)
        else:
            asyncio.get_running_loop().call_later(TOLD_WITHIN, self._conclude, pool, instance)

    def _conclude(self, pool: Pool, instance: Instance) -> None:
        """Forget an instance that has ended, once."""
        if instance.run_id is None or self._by_run.pop(instance.run_id, None) is None:
            return
        known = endings.death(instance.view)
        pool.lose_all(instance, *known)
        pool.remove(instance)
        came_early = instance.asked_at is None and instance.ending == "ended" and not instance.adopted
        if came_early and instance.trouble is None:
            self.start_failed(instance, endings.not_started(instance.view))
        why = instance.end_reason
        self._reports.instance(instance.version.function, why)
        log.info("instance_ended", **_names(instance), reason=why, exit_code=known.exit_code, calls=instance.served)
        self.changed.set()

    # -- ending ----------------------------------------------------------------------------------------------------

    def kill(self, instance: Instance, why: Ending) -> None:
        """End an instance now; its calls are lost."""
        self._abandon(instance, why, self._launcher.kill)

    def discard(self, instance: Instance, why: Ending) -> None:
        """Remove an instance whose task no node has taken."""
        self._abandon(instance, why, self._launcher.remove)

    def retire(self, instance: Instance) -> None:
        """Tell an idle instance to end, in the background; ``ending`` says why."""
        instance.retired = True
        self._background.start(self._retire(instance), function=instance.version.function)

    def _abandon(self, instance: Instance, why: Ending, end: Callable[[str], None]) -> None:
        if instance.retired:
            return
        instance.ending = why
        instance.retired = True
        self._void(instance)
        self.pool(instance.version).lose_all(instance, "the instance was killed")
        if instance.run_id is not None:
            end(instance.run_id)

    async def _retire(self, instance: Instance) -> None:
        """Tell an instance to end. Its service says why first; then its secret is void, and its questions answered."""
        run_id, why = instance.run_id, instance.ending
        if run_id is None or why is None:
            return
        try:
            await self._launcher.mark(run_id, why)
        except HttpError as error:  # the instance ends all the same; only the reason is not seen
            log.info("instance_not_marked", run=run_id, reason=str(error))
        self._void(instance)
        await asyncio.sleep(KILLED_AFTER)
        if run_id in self._by_run and not (instance.view and endings.is_over(instance.view)):
            log.info("instance_removed", **_names(instance), reason=why)
            self._launcher.remove(run_id)

    def _void(self, instance: Instance) -> None:
        """Forget an instance's secret, and answer its open questions with no call."""
        self.by_secret.pop(instance.secret, None)
        self.pool(instance.version).close_polls(instance)
        for waiting in instance.shutdown:
            if not waiting.done():
                waiting.set_result(None)


def _names(instance: Instance) -> dict[str, object]:
    """Return what a log line says of an instance."""
    return {"run": instance.run_id, "function": instance.version.function, "version": instance.version.number}


def _now() -> float:
    return asyncio.get_running_loop().time()
