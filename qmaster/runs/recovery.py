"""Recovery of runs whose creation has an unknown outcome. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

import structlog

from ..engine.containers import Containers
from ..engine.labels import CALLBACK, CALLBACK_BY, OWNER, RUN
from ..engine.services import Swarm
from ..errors import HttpError
from ..events.journal import Journal
from ..events.rows import Intent
from .callbacks import CallbackStore

LOOK_EVERY = 1.0  # seconds
AT_ONCE = 8  # intents; half of the slots for calls to the engine
SURE_AFTER = 30.0  # seconds; if the engine answers for so long and the run does not exist, it never will

log = structlog.get_logger(__name__)


class Recovery:
    """Finds such runs by name. A run with a key is kept for the retry of its request; any other is removed.

    Attributes:
        callbacks: of runs; a run's is kept when the run is created, or found here.
    """

    def __init__(self, swarm: Swarm, containers: Containers, journal: Journal, callbacks: CallbackStore) -> None:
        self._swarm = swarm
        self._containers = containers
        self._journal = journal
        self.callbacks = callbacks
        self._open: dict[str, Intent] = {}  # by nonce; of an earlier process, or handed over by ``look_for``
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._missed: dict[str, float] = {}  # nonce → when the engine first said that the run does not exist

    def resume(self, leftovers: Iterable[Intent]) -> None:
        """Take over the unsettled intents of an earlier process."""
        for intent in leftovers:
            self.look_for(intent)

    def look_for(self, intent: Intent) -> None:
        """Look for the run of an intent whose outcome is unknown and was not acknowledged."""
        self._open[intent.nonce] = intent

    async def run(self) -> None:
        """Look for the runs of intents and remove those without a key, until cancelled.

        A create that timed out on a frozen engine may still succeed after the thaw, so the search goes on until the
        engine has answered for ``SURE_AFTER``.
        """
        while True:
            # Concurrently, so that many intents of one token do not delay those of another on a slow engine.
            await asyncio.gather(*map(self._look, list(self._open.values())))
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self, intent: Intent) -> None:
        async with self._turns:
            await self._settle_if_known(intent)

    async def _settle_if_known(self, intent: Intent) -> None:
        nonce = intent.nonce
        try:
            found = await self._clear_up(intent)
            if found or time.monotonic() - self._missed.setdefault(nonce, time.monotonic()) > SURE_AFTER:
                await self._journal.settle(nonce)
                del self._open[nonce]
                self._missed.pop(nonce, None)
        except HttpError:  # an engine or swarm that was away may still carry out the request
            self._missed.pop(nonce, None)

    async def _clear_up(self, intent: Intent) -> bool:
        """Remove the run of an intent unless it has a key; return False if there is no run yet."""
        if intent.type == "service":
            raw = await self._swarm.service(intent.name)
            labels = (raw["Spec"].get("Labels") or {}) if raw else {}
        else:
            raw = await self._containers.container(intent.name)
            labels = (raw["Config"].get("Labels") or {}) if raw else {}
        if raw is None or labels.get(RUN) != intent.nonce:
            return False
        if intent.keyed:
            await self._arm(raw["ID"] if intent.type == "service" else raw["Id"], labels)
            log.info("orphan_adopted", name=intent.name, type=intent.type)
            if intent.type == "container" and raw["State"]["Status"] == "created":  # it was never started
                await self._containers.start(raw["Id"])
            return True
        log.warning("orphan_removed", name=intent.name, type=intent.type)
        if intent.type == "service":
            await self._swarm.remove(raw["ID"])
        else:
            await self._containers.remove(raw["Id"])
        return True

    async def _arm(self, run_id: str, labels: Mapping[str, str]) -> None:
        """Keep the callback of a run with a key, as its retry is answered without a look at it."""
        url = labels.get(CALLBACK)
        if url and labels.get(CALLBACK_BY) == self._journal.id:
            await self.callbacks.arm(run_id, labels.get(OWNER, ""), url)
