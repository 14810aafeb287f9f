"""Ends services and containers so that nothing they said is lost, and clears up after runs that came to nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import structlog

from .errors import HttpError, JournalUnwritable
from .journal import Intent
from .lifecycle import END, TERMINAL
from .models import Service
from .spec import RUN

Json = dict[str, Any]

SETTLE = 2.0  # seconds between the end of a stopped service and its removal, in which others read its end too
GRACE = 10.0 + 5.0  # seconds: Docker's own stop grace period, and some
LOOK_EVERY = 0.25
SWEEP_EVERY = 1.0
AGAIN_EVERY = 1.0
SURE_AFTER = 30.0  # seconds of an engine that answers, after which a run that is not there never will be

log = structlog.get_logger(__name__)


class Swarm(Protocol):
    """What the keeper needs of the swarm."""

    async def end(self, service_id: str, label: str, why: str) -> bool: ...
    async def service(self, name_or_id: str) -> Json | None: ...
    async def remove(self, service_id: str) -> None: ...


class Containers(Protocol):
    """What the keeper needs of this engine's containers."""

    async def container(self, name_or_id: str) -> Json | None: ...
    async def stop(self, container_id: str) -> None: ...
    async def remove(self, container_id: str) -> None: ...


class Journal(Protocol):
    """What the keeper needs of the journal."""

    async def end(self, container_id: str) -> None: ...
    async def settle(self, nonce: str) -> None: ...


class Reconciler(Protocol):
    """What the keeper needs of the reconciler."""

    def look(self, service_id: str) -> None: ...
    def will_remove(self, run_id: str) -> None: ...
    async def refresh(self, service_id: str) -> Service | None: ...
    async def ending_container(self, container_id: str) -> None: ...


class Keeper:
    """Carries ends through to their end; it belongs to the event loop.

    Args:
        swarm, containers: the engine.
        journal: intents, and which containers are being stopped.
        current: the present view of a service or container by id, None where there is none.
    """

    def __init__(
        self,
        swarm: Swarm,
        containers: Containers,
        journal: Journal,
        reconciler: Reconciler,
        current: Callable[[str], Service | None],
    ) -> None:
        self._swarm = swarm
        self._containers = containers
        self._journal = journal
        self._reconciler = reconciler
        self._current = current
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._open: dict[str, Intent] = {}  # by nonce; of an earlier process, or handed over by ``look_for``

    # -- stopping --------------------------------------------------------------------------------------------------

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
        if fresh.owner is None or _nothing_runs(fresh):
            self._reconciler.will_remove(view.id)
            await self._swarm.remove(view.id)
            self._reconciler.look(view.id)
        elif await self._swarm.end(view.id, END, "stopped"):
            self._reconciler.look(view.id)
            self._carry(view.id, self._finish_service)

    def resume(self, views: Iterable[Service], leftovers: Iterable[Intent]) -> None:
        """Take up what an earlier process has left undone, once the view is there."""
        for intent in leftovers:
            self.look_for(intent)
        for view in views:
            self.notice(view)

    def notice(self, view: Service) -> None:
        """A service has changed: take up its end where another quartermaster, or this one before, has begun it."""
        if view.status == "stopping" and view.reason == "stopped":
            finish = self._finish_service if view.type == "service" else self._finish_container
            self._carry(view.id, finish)

    async def _stop_container(self, container_id: str) -> None:
        with contextlib.suppress(
            JournalUnwritable
        ):  # then a crash would leave it half stopped, and it can be asked again
            await self._journal.end(container_id)
        await self._reconciler.ending_container(container_id)
        self._carry(container_id, self._finish_container)

    async def _finish_service(self, service_id: str) -> None:
        """Wait for its tasks to end, or for the grace period; then remove it."""
        began = time.monotonic()
        ended: float | None = None
        while (view := self._current(service_id)) is not None and view.status != "removed":
            now = time.monotonic()
            if _nothing_runs(view):
                ended = ended or now
            if (ended and now - ended > SETTLE) or now - began > GRACE:
                await self._swarm.remove(service_id)
                self._reconciler.look(service_id)
                return
            await asyncio.sleep(LOOK_EVERY)

    async def _finish_container(self, container_id: str) -> None:
        await self._containers.stop(container_id)
        await self._reconciler.ending_container(container_id)
        await self._containers.remove(container_id)
        await self._reconciler.ending_container(container_id)

    def _carry(self, what: str, finish: Callable[[str], Awaitable[None]]) -> None:
        """Do it in the background, again and again until it is done."""
        if what not in self._tasks:
            task = asyncio.create_task(self._until_done(what, finish), name=f"keeper-{what}")
            self._tasks[what] = task
            task.add_done_callback(lambda _: self._tasks.pop(what, None))

    async def _until_done(self, what: str, finish: Callable[[str], Awaitable[None]]) -> None:
        while True:
            try:
                await finish(what)
                return
            except HttpError as error:
                log.info("stop_again", run=what, reason=str(error))
            except Exception:  # the top of a task
                log.exception("stop_failed", run=what)
            await asyncio.sleep(AGAIN_EVERY)

    # -- runs whose outcome is open --------------------------------------------------------------------------------

    def look_for(self, intent: Intent) -> None:
        """Find out what came of a run whose outcome the engine left open, and that nobody was told of."""
        self._open[intent.nonce] = intent

    async def sweep_intents(self) -> None:
        """Look for runs that nobody was told of, and remove them; until cancelled.

        A create that timed out on a frozen engine may still come true after the thaw, so one that is not there is
        looked for again until the engine has answered for a while.
        """
        missed: dict[str, float] = {}  # nonce → when the engine first said that it is not there
        while True:
            for nonce, intent in list(self._open.items()):
                try:
                    found = await self._remove_unheard(intent)
                    if found or time.monotonic() - missed.setdefault(nonce, time.monotonic()) > SURE_AFTER:
                        await self._journal.settle(nonce)
                        del self._open[nonce]
                        missed.pop(nonce, None)
                except HttpError:  # an engine or swarm that was away may do late what it was asked
                    missed.pop(nonce, None)
            await asyncio.sleep(SWEEP_EVERY)

    async def _remove_unheard(self, intent: Intent) -> bool:
        """Remove what an intent has made; False where there is nothing yet."""
        if intent.type == "service":
            raw = await self._swarm.service(intent.name)
            labels = (raw["Spec"].get("Labels") or {}) if raw else {}
        else:
            raw = await self._containers.container(intent.name)
            labels = (raw["Config"].get("Labels") or {}) if raw else {}
        if raw is None or labels.get(RUN) != intent.nonce:
            return False
        log.warning("removes_unacknowledged", name=intent.name, type=intent.type)
        if intent.type == "service":
            await self._swarm.remove(raw["ID"])
        else:
            await self._containers.remove(raw["Id"])
        return True

    async def close(self) -> None:
        """Leave what is not done to the next start."""
        await _cancel(self._tasks.values())


def _nothing_runs(view: Service) -> bool:
    """Whether all its tasks have ended, or none has begun."""
    return all(task.state in TERMINAL for task in view.tasks) or view.status == "pending"


async def _cancel(tasks: Any) -> None:
    pending: list[asyncio.Task[None]] = list(tasks)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
