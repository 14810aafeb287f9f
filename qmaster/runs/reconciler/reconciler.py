"""Brings the cache up to date with the engine, turn by turn: wait for what is due, list it, publish the changes.

The event loop owns it. Listings are the source of truth; a hint only says what to list.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence, Set
from typing import Any

import structlog

from ...engine.containers import Containers
from ...engine.labels import MANAGED
from ...engine.services import Swarm
from ...engine.watcher import Change
from ...errors import EngineRefused, HttpError, JournalUnwritable, NotAManager
from ...events import cloudevents
from ...events.journal import Journal
from ...models.responses import Result, Service
from ...models.units import rfc3339
from ..views import run_view, task_status
from .cache import CachedRun
from .publisher import Publisher
from .schedule import Due, Schedule

Json = dict[str, Any]

log = structlog.get_logger(__name__)


class Reconciler:
    """Keeps the cache up to date and publishes its changes.

    Args:
        swarm: the services, tasks and nodes.
        containers: the containers.
        journal: has the ends that an earlier process began.
        publisher: publishes the changes of the cache.
        own_node: returns the id of this engine's node, None until known.
    """

    def __init__(
        self,
        swarm: Swarm,
        containers: Containers,
        journal: Journal,
        publisher: Publisher,
        own_node: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.cache = publisher.cache
        self.stale_since: str | None = rfc3339()
        self.stale_listeners: list[Callable[[], None]] = []  # called when ``stale_since`` changes
        self._swarm = swarm
        self._containers = containers
        self._journal = journal
        self._publisher = publisher
        self._own_node = own_node
        self._endings: dict[str, str] = {}  # why runs are being ended, by id; Docker cannot add a label to a container
        self._removing: dict[str, float] = {}  # id → when the engine removed it (seconds since 1970)
        self._schedule = Schedule()
        self._wake = asyncio.Event()
        self._sleeps_until = 0.0
        publisher.listeners.append(self._changed)

    # -- hints and looks ---------------------------------------------------------------------------------------------

    def hint(self, change: Change) -> None:
        """Schedule a look at what has changed."""
        if change.gone and change.kind != "node":
            self._removing[change.id] = change.time
        if change.kind == "service":
            self._news(change.id, whole=True)
            return
        if change.kind == "relist":
            self._schedule.relist(time.monotonic())
        elif change.kind == "node":
            self._schedule.news_of_nodes()
        else:
            self._schedule.news_of_container(change.id)
        self._wake.set()

    def look(self, service_id: str) -> None:
        """Schedule a look at a service that is about to change."""
        self._news(service_id, whole=True)

    async def adopt_service(self, service_id: str, spec: Json, nonce: str) -> None:
        """Add a service that was just created, and publish ``created``, before its id is returned to the caller.

        Raises:
            JournalUnwritable: the event was not written, so not published.
        """
        if service_id not in self.cache.entries:
            raw = {"ID": service_id, "CreatedAt": rfc3339(), "Spec": spec}
            self.cache.list_service(raw, [], time.monotonic())
        self._news(service_id)
        await self._publisher.commit([nonce])

    async def adopt_container(self, container_id: str, nonce: str) -> None:
        """Add a container that was just created, as ``adopt_service`` does a service.

        Raises:
            EngineRefused: another client has already removed it.
        """
        await self._list_container(container_id)
        if container_id not in self.cache.entries:
            raise EngineRefused("another client removed the container while it was being started")
        await self._publisher.commit([nonce])

    async def ending_container(self, container_id: str, why: str) -> None:
        """Publish that a container is being ended, because it was ``stopped`` or for its ``timeout``."""
        self._endings[container_id] = why
        await self.look_at_container(container_id)

    async def look_at_container(self, container_id: str) -> None:
        """Inspect a container and publish its changes."""
        await self._list_container(container_id)
        with contextlib.suppress(JournalUnwritable):
            await self._publisher.commit()

    def will_remove(self, run_id: str) -> None:
        """Record that a run is being removed because it was stopped."""
        self._endings[run_id] = "stopped"

    async def show_result(self, run_id: str, result: Result) -> None:
        """Publish the result of a run.

        Raises:
            JournalUnwritable: the next commit publishes it.
        """
        await self._ask_for_start(run_id)  # so that the view with the result also has the start
        if self.cache.show_result(run_id, result):
            await self._publisher.commit()

    async def refresh(self, service_id: str) -> Service | None:
        """List a service now.

        Raises:
            HttpError: the engine did not answer.
        """
        await self._list_some({service_id}, {service_id}, time.monotonic())
        self.look(service_id)  # the next turn publishes the changes
        view = self.cache.find(service_id)
        return None if view is None or view.status == "removed" else view

    async def require_nodes(self) -> None:
        """List the nodes now if the cache has none yet.

        Raises:
            HttpError: the engine did not answer, or is not a manager.
        """
        if not self.cache.nodes.listed:
            self.cache.list_nodes(await self._swarm.nodes())

    async def look_up(self, name_or_id: str) -> Service | None:
        """Ask the engine for a run that the cache may not have yet.

        Raises:
            HttpError: the engine did not answer.
        """
        began = time.monotonic()
        try:
            raw = await self._swarm.service(name_or_id)
        except NotAManager:  # containers need no swarm
            raw = None
        if raw is not None:
            await self._list_some({raw["ID"]}, {raw["ID"]}, began)
            self.look(raw["ID"])
            return self.cache.find(raw["ID"])
        await self._list_container(name_or_id)
        return self.cache.find(name_or_id)

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile until cancelled."""
        while True:
            try:
                await self.load()
                await self._wait()
                await self._turn()
            except HttpError as error:
                self._stale(error)
                self._schedule.failed(time.monotonic())
            except Exception:  # the top of the task; the next turn lists everything
                log.exception("reconcile_failed")
                self._schedule.failed(time.monotonic())

    async def load(self) -> None:
        """Restore the cache from the journal; while that cannot be read, the cache is kept but not published."""
        if self.cache.restored:
            return
        with contextlib.suppress(JournalUnwritable):
            endings = await self._journal.endings()
            await self._publisher.restore()
            self._endings = endings | self._endings

    # -- turns -------------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Wait until something is due."""
        while (due := self._schedule.next(self.cache.going)) > (now := time.monotonic()):
            self._wake.clear()
            self._sleeps_until = due
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due - now):
                    await self._wake.wait()
        self._sleeps_until = 0.0

    def _news(self, service_id: str, whole: bool = False) -> None:
        if self._schedule.news(service_id, time.monotonic(), whole) < self._sleeps_until:
            self._wake.set()

    def _changed(self, view: Service) -> None:
        if view.type == "service" and view.status not in run_view.OVER:
            self._news(view.id)

    async def _turn(self) -> None:
        began, moment = time.monotonic(), time.time()
        due = self._schedule.take(began, self.cache.going)
        if due.everything:
            await self._list_all(began)
        if due.nodes:
            self.cache.list_nodes(await self._swarm.nodes())
        for container_id in due.containers:
            await self._list_container(container_id)
        await self._look_at(due)
        await self._ask_for_starts()
        await self._publisher.commit()
        self._publisher.complete_until = cloudevents.cursor_time(moment)
        self._fresh()

    async def _look_at(self, due: Due) -> None:
        """Sweep and look at services; each has its own share of the time."""
        whole, began = set(due.whole), time.monotonic()
        if due.wanted:
            whole |= await self._sweep()
            self._schedule.swept(began, time.monotonic())
        if whole or due.services:
            began = time.monotonic()
            await self._list_some(whole.union(due.services), whole, began)
            self._schedule.looked(due.services, began, time.monotonic(), self._goes_on)

    def _goes_on(self, service_id: str) -> bool:
        entry = self.cache.entries.get(service_id)
        return entry is not None and entry.current.status not in run_view.OVER

    async def _ask_for_starts(self) -> None:
        """Inspect local containers for the start of services whose tasks ended without being seen running."""
        await asyncio.gather(*(self._ask_for_start(run_id) for run_id in list(self.cache.unstarted)))

    async def _ask_for_start(self, run_id: str) -> None:
        node_id = self._own_node() if run_id in self.cache.unstarted else None
        container_id = self.cache.container_to_ask(run_id, node_id) if node_id else None
        if container_id is not None:
            with contextlib.suppress(HttpError):  # its start stays unknown
                raw = await self._containers.container(container_id)
                self.cache.show_start(run_id, raw["State"].get("StartedAt") if raw else None)

    async def _list_all(self, began: float) -> None:
        self._removing = {gone_id: at for gone_id, at in self._removing.items() if gone_id in self.cache.entries}
        await self._list_containers(began)
        try:
            self.cache.list_nodes(await self._swarm.nodes())
            await self._list_services(began)
        except NotAManager:  # containers need no swarm
            if any(entry.current.type == "service" for entry in self.cache.entries.values()):
                raise

    # Tasks are listed before services: otherwise a service removed in between would be shown without its tasks, and one
    # that is being ended as if it were not.

    async def _list_services(self, began: float) -> None:
        tasks = await self._swarm.tasks()
        services = await self._swarm.services()
        of_service: dict[str, list[int]] = {}  # places, not tasks, which are decoded on access
        for place, task in enumerate(tasks):
            of_service.setdefault(task["ServiceID"], []).append(place)
        there = set()
        for raw in services:
            there.add(raw["ID"])
            self._show_service(raw, [tasks[place] for place in of_service.get(raw["ID"], ())], began)
        self._vanish("service", there, began)

    async def _list_some(self, ids: Set[str], whole: Set[str], began: float) -> None:
        """List the tasks of some services together, and read the services that may have changed.

        A filter by ids takes Docker 0.2 ms for each, as a listing of everything takes for each task.
        """
        of_service: dict[str, list[Json]] = {each: [] for each in ids}
        for task in await self._swarm.tasks(*ids):
            if task["ServiceID"] in ids:
                of_service[task["ServiceID"]].append(task)
        to_read = {each for each in ids if each in whole or not self.cache.list_tasks(each, of_service[each])}
        if not to_read:
            return
        for raw in await self._swarm.services(*to_read):
            if raw["ID"] in to_read:
                to_read.remove(raw["ID"])
                self._show_service(raw, of_service[raw["ID"]], began)
        for gone_id in to_read:
            self._gone(gone_id, began)

    def _show_service(self, raw: Json, tasks: Sequence[Json], began: float) -> None:
        """Update a service; one that cannot be decoded does not affect the others."""
        try:
            self.cache.list_service(raw, tasks, began)
        except (KeyError, TypeError, ValueError, AttributeError):
            log.exception("service_not_understood", run=raw.get("ID"))

    async def _list_containers(self, began: float) -> None:
        listed = await self._containers.containers()
        for raw in listed:
            entry = self.cache.entries.get(raw["Id"])
            if entry is None or entry.current.status not in run_view.OVER or raw["State"] != "exited":
                await self._list_container(raw["Id"])
            else:
                entry.seen = began
        self._vanish("container", {raw["Id"] for raw in listed}, began)

    async def _list_container(self, container_id: str) -> None:
        began = time.monotonic()
        raw = await self._containers.container(container_id)
        if raw is None:
            self._gone(container_id, began)
        elif (raw["Config"].get("Labels") or {}).get(MANAGED) == "true":
            self.cache.list_container(raw, self._endings.get(raw["Id"]), began)

    async def _sweep(self) -> set[str]:
        """List the tasks that Swarm wants running; return the services that need a closer look.

        A task that has left the list has ended. A service that waits for a restart after its last task is also looked
        at: the restart comes, or Swarm has given up.
        """
        there, unknown = set(), set()
        for raw in await self._swarm.wanted_tasks():
            there.add(raw["ID"])
            if not self.cache.list_task(raw):
                unknown.add(raw["ServiceID"])
        going = ((each, self.cache.entries[each]) for each in self.cache.going)
        return unknown | {service_id for service_id, entry in going if _has_left(entry, there)}

    def _vanish(self, kind: str, there: set[str], began: float) -> None:
        known = [i for i, entry in self.cache.entries.items() if entry.current.type == kind]
        for gone_id in set(known) - there:
            self._gone(gone_id, began)

    def _gone(self, gone_id: str, began: float) -> None:
        entry = self.cache.entries.get(gone_id)
        if entry is not None and entry.seen > began:  # it was seen after the listing began
            return
        at = self._removing.pop(gone_id, None) or None  # 0: the event had no time
        if entry is None:
            self._endings.pop(gone_id, None)
            return
        entry.seen = began  # so that an older answer that arrives later does not bring it back
        self.cache.vanish(gone_id, rfc3339(at), self._endings.pop(gone_id, "") == "stopped")
        self._schedule.forget(gone_id)

    # -- staleness ---------------------------------------------------------------------------------------------------

    def _stale(self, error: HttpError) -> None:
        if self.stale_since is None:
            log.warning("stale", reason=str(error))
            self.stale_since = rfc3339()
            self._call_stale_listeners()

    def _fresh(self) -> None:
        if self.stale_since is not None:
            log.info("resynced", since=self.stale_since)
            self.stale_since = None
            self._call_stale_listeners()

    def _call_stale_listeners(self) -> None:
        for listener in self.stale_listeners:
            listener()


def _has_left(entry: CachedRun, there: Collection[str]) -> bool:
    """Return whether a service needs a closer look, by the ids of the tasks that Swarm wants to run.

    It does if a task has left them, or if it has not ended and has no task: the next may start and end between sweeps.
    """
    going = [task_id for task_id, task in entry.tasks.items() if task["Status"]["State"] not in task_status.TERMINAL]
    over = not going and entry.current.status not in run_view.OVER
    return over or any(task_id not in there for task_id in going)
