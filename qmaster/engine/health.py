"""Periodic check that the engine answers and is a swarm manager. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TypedDict

import structlog

from ..errors import EngineAway, HttpError, NotAManager
from .calls import LISTING, decode
from .client import Client
from .errors import manager_trouble

PING_EVERY = 2.0  # seconds
PING_AWAY_EVERY = 0.3  # seconds
INFO_EVERY = 20.0  # seconds; a manager is rarely demoted, and ``/info`` costs as much as ten pings

log = structlog.get_logger(__name__)


class _Swarm(TypedDict, total=False):
    NodeID: str
    NodeAddr: str
    LocalNodeState: str
    ControlAvailable: bool
    Error: str


class _Info(TypedDict, total=False):
    Swarm: _Swarm | None


class Health:
    """Watches the engine.

    ``node_id`` is the id of its swarm node, and ``address`` the node's address in the swarm; None until known.
    """

    def __init__(self, client: Client) -> None:
        self.node_id: str | None = None
        self.address: str | None = None
        self._client = client
        self._trouble: HttpError | None = EngineAway("the Docker engine has not answered yet")
        self._informed = 0.0

    @property
    def trouble(self) -> HttpError | None:
        """Why no service can be started (the engine is away, or is not a manager), else None."""
        return self._client.away or self._trouble

    async def watch(self) -> None:
        """Check the engine periodically until cancelled."""
        suspected = self._client.suspected
        while True:
            suspected.clear()
            await self._probe()
            pause = PING_EVERY if self.trouble is None else PING_AWAY_EVERY
            with contextlib.suppress(TimeoutError):
                # Not wait_for: on Python 3.11 it swallows a cancellation that comes with the wake-up.
                async with asyncio.timeout(pause):
                    await suspected.wait()

    async def _probe(self) -> None:
        client = self._client
        try:
            await client.bounded(client.ping(), LISTING, "health")
            client.find()
            if self.trouble is not None or time.monotonic() - self._informed > INFO_EVERY:
                said = await client.bounded(client.send("GET", "/info"), LISTING, "health")
                self._inform(decode(said, _Info).get("Swarm") or {})
            self._trouble = None
        except HttpError as error:
            self._note(error)

    def _inform(self, swarm: _Swarm) -> None:
        self.node_id = swarm.get("NodeID") or None
        self.address = swarm.get("NodeAddr") or None
        trouble = manager_trouble(swarm)
        if trouble is not None:
            raise NotAManager(trouble)
        self._informed = time.monotonic()

    def _note(self, error: HttpError) -> None:
        if isinstance(error, NotAManager):
            if str(error) != str(self._trouble):
                log.warning("engine_not_a_manager", reason=str(error))
            self._trouble = error
        else:
            self._trouble = error if isinstance(error, EngineAway) else EngineAway(str(error))
            self._client.lose(self._trouble)
