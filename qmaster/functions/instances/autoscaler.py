"""Decides when instances of all functions start and end, by the rules of ``scaling``. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import structlog

from ...errors import NotFound
from ...models.functions import Version
from ..versions.store import VersionStore
from . import scaling
from .endings import Trouble
from .instance import Instance
from .launcher import Launcher
from .lifecycle import Lifecycle
from .pool import Pool
from .scaling import Load, calls_need_one, too_few

ROOM_WITHIN = 2.0  # seconds that a start waits for room if no idle instance can end for it

NONE_CALLED: Mapping[str, Version] = MappingProxyType({})

log = structlog.get_logger(__name__)


class Autoscaler:
    """Starts and ends instances: for calls that wait, to keep some warm, and as versions and policies change.

    Args:
        lifecycle: has the instances.
        launcher: knows what may run, and what runs since earlier.
        versions: the published versions.
        ready_nodes: returns how many nodes take tasks.
    """

    def __init__(
        self, lifecycle: Lifecycle, launcher: Launcher, versions: VersionStore, ready_nodes: Callable[[], int]
    ) -> None:
        self.stopping = False
        self._life = lifecycle
        self._launcher = launcher
        self._versions = versions
        self._ready_nodes = ready_nodes

    async def run(self) -> None:
        """Start and end instances until cancelled."""
        changed = self._life.changed
        while True:
            changed.clear()
            due = math.inf
            try:
                due = self._plan()
            except Exception:  # the top of the task
                log.exception("scaling_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due == math.inf else max(0.0, due - _now())):
                    await changed.wait()

    async def adopt(self, called: Mapping[str, Version] = NONE_CALLED) -> None:
        """Take up the instances that an earlier process of this quartermaster has started.

        Args:
            called: the versions of the instances that have calls to finish, by the id of the run. Such a version may
                have been removed meanwhile; instances of a removed version that have no call are killed.

        Raises:
            HttpError: the engine did not answer, or the versions are not known.
        """
        self._versions.require()
        for found in await self._launcher.running():
            version = self._versions.by_id(found.version_id) or called.get(found.run_id)
            if version is not None:
                self._life.adopt(version, found.run_id, found.secret)
                self._set_least(self._life.pool(version))
            else:
                log.info("instance_of_no_version", run=found.run_id)
                self._launcher.kill(found.run_id)
        for name in self._versions.names():
            self.versions_changed(name)

    def pool(self, version: Version) -> Pool:
        """Return the pool of a version."""
        known = version.id in self._life.pools
        pool = self._life.pool(version)
        if not known:
            self._set_least(pool)
        return pool

    def versions_changed(self, name: str) -> None:
        """Hear of a function's new, or removed, versions."""
        latest = self._versions.latest(name)
        if latest is not None and latest.spec.min_instances:
            self.pool(latest)
        for pool in self.pools_of(name):
            self._set_least(pool)
            if latest is None:
                pool.fail_waiting(lambda: NotFound(f"the function {name!r} was removed"))
        if latest is None:
            self._life.errors.pop(name, None)
        self._life.changed.set()

    def grants_changed(self) -> None:
        """Let the instances end whose publisher may not run them any more."""
        for pool in self._life.pools.values():
            if self._launcher.forbids(pool.version) is None:
                pool.allowed_again()
                continue
            for instance in pool:
                instance.ending = instance.ending or "policy"
        self._life.changed.set()

    def pools_of(self, name: str) -> Iterator[Pool]:
        """Return the pools of a function's versions."""
        return (pool for pool in list(self._life.pools.values()) if pool.version.function == name)

    # -- decisions -------------------------------------------------------------------------------------------------

    def _plan(self) -> float:
        """Start and end what is due; return when something is due next."""
        if self.stopping:
            return math.inf
        now, due = _now(), math.inf
        for pool in list(self._life.pools.values()):
            for instance in pool:
                due = min(due, self._check(pool, instance, now))
            due = min(due, self._end_surplus(pool, now))
            if not (pool.instances or pool.waiting or pool.least) and self._versions.by_id(pool.version.id) is None:
                del self._life.pools[pool.version.id]
                if self._versions.latest(pool.version.function) is None:
                    self._life.errors.pop(pool.version.function, None)  # of a start that failed since it was removed
        return min(due, self._start_what_is_needed(now))

    def _check(self, pool: Pool, instance: Instance, now: float) -> float:
        """End an instance if that is due; return when to look at it again."""
        if instance.retired:
            return math.inf
        if instance.asked_at is None:
            return self._check_start(pool, instance, now)
        if now - instance.created_at >= scaling.LIFETIME:
            instance.ending = instance.ending or "lifetime"
        alive_until = math.inf if instance.ending else instance.created_at + scaling.LIFETIME
        may_be_idle_at = now + pool.scale().idle
        if instance.calls or instance.lost:
            return min(alive_until, may_be_idle_at, now + scaling.SILENT)
        if not instance.polls:
            if now - instance.seen_at < scaling.SILENT:
                return min(may_be_idle_at, instance.seen_at + scaling.SILENT)
            self._life.kill(instance, "silent")
            return math.inf
        if pool.outdated_at is not None and instance.created_at <= pool.outdated_at:
            instance.ending = instance.ending or "update"
        if instance.ending:
            self._life.retire(instance)
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
        said = f"it did not ask for a call within {within:g} s of running"
        self._life.start_failed(instance, Trouble("init_timeout", said))
        self._life.kill(instance, "init_timeout")
        return math.inf

    def _make_room(self, instance: Instance, now: float) -> float:
        """End the longest-idle instance for one that finds no room; give up if no one can end."""
        if self._life.is_ending_one:
            instance.unplaced_at = now  # one is ending; its end wakes the next look
            return now + ROOM_WITHIN
        idle = [(each, len(pool.instances) - pool.least) for pool in self._life.pools.values() for each in pool.idle()]
        place = scaling.longest_idle([(each.seen_at, above) for each, above in idle])
        if place is not None:
            idle[place][0].ending = "room"
            self._life.changed.set()
            return math.inf
        since = instance.unplaced_at or now
        if now - since < ROOM_WITHIN:
            return since + ROOM_WITHIN
        error = instance.view.error if instance.view else None
        trouble = Trouble("unschedulable", error or "no node has room for it", of_engine=True)
        self._life.start_failed(instance, trouble)
        self._life.discard(instance, "room")
        return math.inf

    def _end_surplus(self, pool: Pool, now: float) -> float:
        """End the instances that are idle for too long; return when the next will be."""
        idle, scale = pool.idle(), pool.scale()
        alive = sum(not each.ending for each in pool)
        ends = scaling.surplus([each.seen_at for each in idle], alive, scale, now)
        for instance in idle[:ends]:
            instance.ending = "idle"
            self._life.changed.set()
        return idle[ends].seen_at + scale.idle if len(idle) > ends and alive - ends > scale.least else math.inf

    def _start_what_is_needed(self, now: float) -> float:
        """Begin the starts that are due and may begin; return when the next may."""
        pools = list(self._life.pools.values())
        begun = [each.created_at for pool in pools for each in pool if _is_in_flight(each, now)]
        left = scaling.starts_left(self._ready_nodes(), begun, now)
        while (pool := self._next_to_start(now)) is not None:
            if left <= 0:
                return min(begun, default=now) + scaling.IN_FLIGHT
            self._life.start(pool)
            begun.append(now)
            left -= 1
        fresh = (pool.waits_since for pool in pools)
        return min((since + scaling.BRIEFLY for since in fresh if now - since < scaling.BRIEFLY), default=math.inf)

    def _next_to_start(self, now: float) -> Pool | None:
        """Return the pool that should start the next instance: calls that wait come before what is kept warm.

        No publisher keeps another from its first one, and no function another.
        """
        loads = [(pool, pool.load()) for pool in self._life.pools.values()]
        starting: Counter[str] = Counter()  # by publisher
        for pool, load in loads:
            starting[pool.version.owner] += load.starting
        ready = [(pool, load) for pool, load in loads if now >= pool.backoff.retry_at]
        needy = [(pool, load) for pool, load in ready if calls_need_one(load, pool.scale())]
        cold = needy or [(pool, load) for pool, load in ready if too_few(load, pool.scale())]
        first = min(cold, key=lambda each: _turn(each[0], each[1], starting), default=None)
        return first and first[0]

    def _set_least(self, pool: Pool) -> None:
        latest = self._versions.latest(pool.version.function)
        newest = latest is not None and latest.id == pool.version.id
        pool.least = pool.version.spec.min_instances if newest else 0
        pool.outdated_at = None if newest else pool.outdated_at or _now()


def _turn(pool: Pool, load: Load, starting: Counter[str]) -> tuple[int, int, float]:
    """Return what decides whose start is next; ``starting``: how many start, by publisher."""
    return starting[pool.version.owner], load.starting, pool.waits_since


def _is_in_flight(instance: Instance, now: float) -> bool:
    """Return whether a start keeps others from beginning."""
    starts = instance.state == "starting" and not instance.adopted
    return starts and now - instance.created_at < scaling.IN_FLIGHT


def _now() -> float:
    return asyncio.get_running_loop().time()
