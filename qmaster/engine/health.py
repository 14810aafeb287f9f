"""Whether the engine is there and a manager, asked again and again by a thread of its own; the loop owns the state."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import structlog

from ..errors import EngineAway, HttpError, NotAManager
from .client import Client
from .errors import EngineUnreached, manager_trouble
from .pool import LISTING, Connect, Count, Pool

PING_EVERY = 2.0
PING_AWAY_EVERY = 0.3
INFO_EVERY = 20.0  # a manager is rarely demoted, and ``/info`` costs the engine ten pings

log = structlog.get_logger(__name__)


class Health:
    """Watches the engine.

    ``away`` is the error to answer with while it is away, else None. ``node_id`` is its node in the swarm, once known.
    """

    def __init__(self, connect: Connect, count: Count = lambda kind, outcome, seconds: None) -> None:
        self.away: EngineAway | None = None
        self.trouble: HttpError | None = EngineAway("the Docker engine has not answered yet")
        self.node_id: str | None = None
        self._pool = Pool(connect, 1, "engine-health", count=count)
        self._wake = asyncio.Event()
        self._informed = 0.0

    async def watch(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            self._wake.clear()
            await self._probe()
            pause = PING_EVERY if self.trouble is None else PING_AWAY_EVERY
            with contextlib.suppress(TimeoutError):
                # Not wait_for: on Python 3.11 it swallows a cancellation that comes with the wake-up.
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def suspect(self, error: EngineAway) -> None:
        """A call was not answered: believe it where nothing listens, else find out now."""
        if isinstance(error, EngineUnreached):
            self._gone(error)
        self._wake.set()

    def close(self) -> None:
        self._pool.close()

    async def _probe(self) -> None:
        try:
            await self._pool.call(_ping, LISTING, again=True)
            self._back()
            if self.trouble is not None or time.monotonic() - self._informed > INFO_EVERY:
                self._inform(await self._pool.call(_info, LISTING))
            self.trouble = None
        except HttpError as error:
            self._note(error)

    def _inform(self, info: dict[str, Any]) -> None:
        swarm = info.get("Swarm") or {}
        self.node_id = swarm.get("NodeID") or None
        trouble = manager_trouble(swarm)
        if trouble is not None:
            raise NotAManager(trouble)
        self._informed = time.monotonic()

    def _note(self, error: HttpError) -> None:
        if isinstance(error, NotAManager):
            if str(error) != str(self.trouble):
                log.warning("engine_not_a_manager", reason=str(error))
            self.trouble = error
        else:
            self._gone(error if isinstance(error, EngineAway) else EngineAway(str(error)))

    def _gone(self, error: EngineAway) -> None:
        if self.away is None:
            log.warning("engine_away", reason=str(error))
        self.away = self.trouble = error

    def _back(self) -> None:
        if self.away is not None:
            log.info("engine_back")
        self.away = None


def _ping(client: Client) -> None:
    client.ping()


def _info(client: Client) -> dict[str, Any]:
    return dict(client.info())
