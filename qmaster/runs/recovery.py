"""Recovery of runs whose outcome the engine left open. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import structlog

from ..engine.containers import Containers
from ..engine.labels import RUN
from ..engine.services import Swarm
from ..errors import HttpError
from ..events.journal import Intent, Journal

LOOK_EVERY = 1.0  # seconds
AT_ONCE = 8  # intents: half of the calls that the engine takes from all tokens
SURE_AFTER = 30.0  # seconds of an engine that answers, after which a run that is not there never will be

log = structlog.get_logger(__name__)


class Recovery:
    """Find what such a run has made, by its name: under a key it stays for whoever asks again, else it is removed."""

    def __init__(self, swarm: Swarm, containers: Containers, journal: Journal) -> None:
        self._swarm = swarm
        self._containers = containers
        self._journal = journal
        self._open: dict[str, Intent] = {}  # by nonce; of an earlier process, or handed over by ``look_for``
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._missed: dict[str, float] = {}  # nonce → when the engine first said that it is not there

    def resume(self, leftovers: Iterable[Intent]) -> None:
        """Take up what an earlier process has left open."""
        for intent in leftovers:
            self.look_for(intent)

    def look_for(self, intent: Intent) -> None:
        """Find out what came of a run whose outcome the engine left open, and that nobody was told of."""
        self._open[intent.nonce] = intent

    async def run(self) -> None:
        """Look for what intents have made, and remove what has no key; until cancelled.

        A create that timed out on a frozen engine may still come true after the thaw, so one that is not there is
        looked for again until the engine has answered for a while.
        """
        while True:
            # Together: one token's many would keep another's waiting, where the engine is slow.
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
        except HttpError:  # an engine or swarm that was away may do late what it was asked
            self._missed.pop(nonce, None)

    async def _clear_up(self, intent: Intent) -> bool:
        """Remove what an intent has made, unless it has a key; False where there is nothing yet."""
        if intent.type == "service":
            raw = await self._swarm.service(intent.name)
            labels = (raw["Spec"].get("Labels") or {}) if raw else {}
        else:
            raw = await self._containers.container(intent.name)
            labels = (raw["Config"].get("Labels") or {}) if raw else {}
        if raw is None or labels.get(RUN) != intent.nonce:
            return False
        if intent.keyed:
            log.info("orphan_adopted", name=intent.name, type=intent.type)
            if intent.type == "container" and raw["State"]["Status"] == "created":  # the end came before its start
                await self._containers.start(raw["Id"])
            return True
        log.warning("orphan_removed", name=intent.name, type=intent.type)
        if intent.type == "service":
            await self._swarm.remove(raw["ID"])
        else:
            await self._containers.remove(raw["Id"])
        return True
