"""Builds what starts and calls the instances of functions, and serves their runtime API. The event loop owns it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import structlog
from tornado.netutil import bind_sockets

from ..api import limits
from ..api.runtime import server as runtime
from ..engine import Engine
from ..errors import ConfigError, HttpError
from ..functions.dispatcher import Dispatcher
from ..functions.instances.autoscaler import Autoscaler
from ..functions.instances.launcher import Launcher
from ..functions.instances.lifecycle import Lifecycle
from ..functions.instances.runs import Publishers, Runners
from ..functions.invocations.invocation import Reports
from ..functions.jobs.jobs import Jobs
from ..functions.jobs.runs import JobRuns
from ..functions.versions.store import VersionStore
from ..models.functions import Version
from ..models.responses import Node

ADOPT_EVERY = 0.2  # seconds between tries, while the engine is away or the versions are not listed
FIRST_INHERITED = 3  # the descriptor of the first socket that systemd passes, sd_listen_fds(3)

log = structlog.get_logger(__name__)


class Place(NamedTuple):
    """Where instances reach the runtime API.

    Attributes:
        port: to listen on.
        advertise: the address; "": the node's own.
        max_connections: how many may be open.
    """

    port: int
    advertise: str
    max_connections: int


class Instances:
    """The dispatcher, and the listener that instances reach it by.

    Args:
        engine: whose node's address is the default for ``advertise``.
        runners: run the instances.
        versions: what they run.
        publishers: for whom.
        reports: told of calls and instances that have ended.
        place: where instances reach the runtime API.

    Attributes:
        called: returns the versions whose calls an earlier process has handed over, by the id of the run that got one.
        resume: takes up these calls, before any instance is served. Both raise HttpError to be called again.
    """

    def __init__(
        self,
        engine: Engine,
        runners: Runners,
        versions: VersionStore,
        publishers: Publishers,
        reports: Reports,
        place: Place,
    ) -> None:
        self.called: Callable[[], Awaitable[Mapping[str, Version]]] = _none
        self.resume: Callable[[], Awaitable[None]] = _nothing
        self._has_adopted = False
        self._engine = engine
        self._runners = runners
        self._port, self._advertise = place.port, place.advertise
        launcher = Launcher(runners, engine.swarm, publishers, self.address)
        self._life = Lifecycle(launcher, reports)
        self.scaler = Autoscaler(self._life, launcher, versions, self._ready_nodes)
        self._job_runs = JobRuns(runners, engine.swarm, publishers, self.address)
        self._jobs = Jobs(self._job_runs, versions, reports)
        self.dispatcher = Dispatcher(self._life, self.scaler, self._jobs)
        self._http = runtime.make_server(runtime.RuntimeApi(self.dispatcher, place.max_connections))
        self._sockets: list[socket.socket] = []
        versions.listeners.append(self.dispatcher.versions_changed)

    def listen(self) -> None:
        """Open the listening socket, or take the one that was inherited; connections wait until ``run`` accepts them.

        Raises:
            ConfigError: the port cannot be listened on.
        """
        try:
            self._sockets = inherited(os.environ) or bind_sockets(self._port, None, backlog=limits.BACKLOG)
        except OSError as error:
            raise ConfigError(f"--runtime-port: cannot listen on {self._port}: {error.strerror or error}") from None
        runtime.prepare(self._sockets)
        self._port = self._sockets[0].getsockname()[1]
        self._runners.starter.listens_at(self._port)

    async def run(self) -> None:
        """Take up the instances of an earlier process; then serve, start and end instances until cancelled."""
        while not await self._adopted():  # noqa: ASYNC110 - each try asks the engine
            await asyncio.sleep(ADOPT_EVERY)
        self._http.add_sockets(self._sockets)
        log.info("runtime_api_started", port=self._port, advertise=self._advertise or self._engine.health.address)
        await self.scaler.run()

    async def close(self) -> None:
        """Close the listener and all connections; instances keep asking for a while."""
        self._http.stop()
        self.scaler.stopping = True
        await self._life.close()
        await self._jobs.close()
        await self._http.close_all_connections()
        for each in self._sockets:
            each.close()

    async def _adopted(self) -> bool:
        if self._runners.reconciler.stale_since is not None:
            return False
        try:
            if not self._has_adopted:
                waiting = await self._job_runs.waiting()
                await self.scaler.adopt(await self.called())
                self._jobs.abandon(waiting)
                self._has_adopted = True
            await self.resume()
        except HttpError as error:
            log.debug("adopt_retrying", reason=str(error))
            return False
        return True

    def address(self) -> tuple[str, int] | None:
        """Return the address and port of the runtime API, None while they are not known."""
        address = self._advertise or self._engine.health.address
        return (address, self._port) if address else None

    def _ready_nodes(self) -> int:
        return sum(map(_takes_tasks, self._runners.reconciler.cache.node_views(with_reserved=False)))


async def _none() -> Mapping[str, Version]:
    return {}


async def _nothing() -> None:
    pass


def _takes_tasks(node: Node) -> bool:
    return node.state == "ready" and node.availability == "active"


def inherited(environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that the process was started with, as systemd passes them; none is usual."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environ.get("LISTEN_FDS") or 0)
    sockets = [socket.socket(fileno=FIRST_INHERITED + place) for place in range(count)]
    for each in sockets:
        each.setblocking(False)
    return sockets
