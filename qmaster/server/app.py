"""Wiring and lifetime: start → wait → stop. The only place that builds the parts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import structlog
from tornado.netutil import bind_sockets

from .. import __version__
from ..api import limits
from ..api.limits import ConnectionLimiter
from ..api.routes import AppState, make_app
from ..auth.authenticator import Authenticator
from ..auth.tokens import TokenFile, TokenPolicy
from ..engine import Endpoint, Engine, ports
from ..engine.containers import own_container_id
from ..engine.spec import Defaults
from ..engine.watcher import Change, Watcher
from ..errors import ConfigError, EngineUnavailable, HttpError
from ..events.broker import Broker, Filter, Tags
from ..events.frames import HEARTBEAT_EVERY
from ..events.journal import Journal
from ..events.stream import EventStream
from ..events.unsent import Unsent
from ..models.images import check_registry
from ..runs.logs import LogReader
from ..runs.reaper import Reaper
from ..runs.reconciler import Reconciler, service_tags
from ..runs.recovery import Recovery
from ..runs.results import ResultCollector
from ..runs.service import RunConfig, RunService
from .config import SHORT_TOKEN, Config, tls_context
from .metrics import Metrics, Sources

GIVE_UP_BEFORE = 2.0  # seconds, the last of --shutdown-timeout: for saying what is not done
# A full collection holds the loop up for as long as it takes to look at every object: 0.15 s with 5,000 connections.
# So those of the start are left out, and the young are looked at often enough (but not every 700) to make it rare.
COLLECT_AT = (10_000, 20, 50)
CHECK_EVERY = 1.0
SWITCH_EVERY = 0.0005  # seconds that a thread may keep the others from running: ten times less than Python's own
RESUME_EVERY = 0.1
NODE = Tags("node", "", frozenset(), None)

log = structlog.get_logger(__name__)


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: an option cannot be used: an address in use, a certificate that is none.
    """
    sys.setswitchinterval(SWITCH_EVERY)
    https = tls_context(config.tls_cert, config.tls_key) if config.tls_cert else None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    most = limits.connections(limits.descriptors())
    components = Components(config, loop, most)
    http_server = limits.make_server(make_app(components.parts), most, https)
    await components.journal.open()
    await components.reconciler.load()
    sockets = _bind(config)
    components.parts.run_service.listens_at(sockets[0].getsockname()[1])
    limits.listen(http_server, sockets)
    components.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)
    log.info(
        "started",
        version=__version__,
        address=config.address or "*",
        port=sockets[0].getsockname()[1],
        engine=config.docker_host or "socket",
    )
    _warn(config, sockets)

    await stop.wait()

    log.info("stopping")
    http_server.stop()
    components.parts.run_service.waiters.close()
    await _finish(components, config.shutdown_timeout)
    components.parts.sockets.close()
    await components.parts.logs.close()
    await http_server.close_all_connections()
    await components.stop()
    log.info("stopped")


class Components:
    """The parts, wired to each other; ``connections``: how many there may be."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop, connections: int) -> None:
        metrics = Metrics(__version__)
        self.engine = engine = Engine(Endpoint.read(config.docker_host, os.environ), metrics.engine_call)
        self.journal = journal = Journal(Path(config.data_dir), config.keep_facts, config.keep_days, config.keep_size)
        broker = Broker()
        unsent = Unsent()
        self.reconciler = reconciler = Reconciler(
            engine.swarm,
            engine.containers,
            journal,
            broker.publish,
            metrics.event,
            lambda: engine.health.node_id,
        )
        self.event_stream = EventStream(
            journal,
            broker,
            lambda: reconciler.position,
            _snapshot_of(reconciler),
            lambda: reconciler.stale_since,
            unsent,
        )
        reconciler.stale_listeners.append(self.event_stream.beat)
        self.collector = collector = ResultCollector(engine.logs, journal, reconciler, config.output_limit)
        self.reaper = reaper = Reaper(engine.swarm, engine.containers, journal, reconciler, collector, self._max_kept)
        self.recovery = recovery = Recovery(engine.swarm, engine.containers, journal)

        def emit(hint: Change) -> None:
            loop.call_soon_threadsafe(reconciler.hint, hint)

        self.watcher = watcher = Watcher(engine.events, emit)
        run_service = RunService(
            engine,
            journal,
            reconciler,
            reaper,
            recovery,
            RunConfig(
                Defaults(config.memory, config.timeout or None, config.ttl or None),
                _registries(config.registries),
                {**ports.SWARM, **ports.of_engine(config.docker_host)},
                own_container_id(),
            ),
        )
        reconciler.listeners += [collector.notice, reaper.notice, run_service.waiters.notice]
        metrics.read(
            Sources(
                journal,
                reconciler,
                self._trouble,
                subscribers=lambda: len(self.parts.sockets.open),
                frames_sent=lambda: broker.sent,
                slow_consumers_cut=lambda: self.parts.sockets.cut,
                waits=run_service.waiters,
                logs=lambda: len(self.parts.logs.open),
                reconnects=lambda: watcher.reopened,
            )
        )
        self.parts = AppState(
            Authenticator(config.token, refused=metrics.token_refused),
            run_service,
            self.event_stream,
            broker,
            LogReader(engine.swarm, engine.readers, journal, reconciler),
            self._trouble,
            metrics.scrape,
            metrics.request,
            frozenset(config.allow_origin),
            hosts=frozenset(config.allow_host),
            trusted_proxies=config.trusted_proxies,
            held=ConnectionLimiter(connections),
            unsent=unsent,
        )
        self.token_file = self._token_file(config.tokens_file)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin all that goes on in the background."""
        self.watcher.start()
        work = (
            self.engine.health.watch(),
            self.watcher.renew(),
            self.reconciler.run(),
            self.recovery.run(),
            self._resume(),
            self._beat(),
            self._check_readers(),
            self._check_journal(),
        )
        self._tasks = [asyncio.create_task(coroutine) for coroutine in work]
        if self.token_file is not None:
            self._tasks.append(asyncio.create_task(self.token_file.run()))
        for task in self._tasks:
            task.add_done_callback(_report)

    async def stop(self) -> None:
        """End it, and close the journal."""
        self.watcher.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.reaper.close()
        await self.collector.close()
        await self.journal.close()
        await self.engine.close()

    def _token_file(self, path: str) -> TokenFile | None:
        if not path:
            return None
        token_file = TokenFile(Path(path), {self.parts.auth.root}, self._take_grants)
        token_file.load()
        return token_file

    def _take_grants(self, grants: Sequence[TokenPolicy]) -> None:
        """These are the tokens from now on, also for what is open."""
        self.parts.auth.replace(grants)
        self.parts.sockets.recheck()
        self.parts.logs.recheck()
        for owner in {view.owner for view in self.reconciler.services() if view.owner is not None}:
            self.reaper.check_kept(owner)

    def _max_kept(self, owner: str) -> int | None:
        grant = self.parts.auth.grant(owner)
        return grant.max_kept if grant else None

    def _trouble(self) -> HttpError | None:
        stale = self.reconciler.stale_since
        behind = EngineUnavailable(f"stale since {stale}: the view may be behind the engine") if stale else None
        journal = self.journal.trouble
        unkept = EngineUnavailable(f"the journal cannot be written: {journal}") if journal else None
        return self.engine.health.trouble or unkept or behind  # without a journal nothing is caught up with

    async def _resume(self) -> None:
        """Once the cache is loaded, take up what an earlier process has left undone."""
        while self.reconciler.stale_since is not None:  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(RESUME_EVERY)
        self.recovery.resume(self.journal.leftovers)
        for view in self.reconciler.services():
            self.collector.notice(view)
            self.reaper.notice(view)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_EVERY)
            self.event_stream.beat()

    async def _check_readers(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY)
            self.parts.broker.check()

    async def _check_journal(self) -> None:
        while True:
            await asyncio.sleep(CHECK_EVERY)
            await self.journal.recheck()


def _report(task: asyncio.Task[None]) -> None:
    """What goes on in the background ends with the process; if one ends before, that is a mistake of ours."""
    if not task.cancelled() and task.exception() is not None:
        log.error("background_task_failed", exc_info=task.exception())


def _snapshot_of(reconciler: Reconciler) -> Callable[[Filter], tuple[list[Any], list[Any]]]:
    """Services and nodes as of the last event, as far as a filter lets them through."""

    def snapshot(wants: Filter) -> tuple[list[Any], list[Any]]:
        services = [view for view in reconciler.cache.published_services() if wants.shows(service_tags(view))]
        nodes = reconciler.nodes() if wants.lets_through(NODE) else []
        return services, nodes

    return snapshot


async def _finish(components: Components, within: float) -> None:
    """Let the requests that are being answered come to their end; the engine is not waited for until the last."""
    busy = components.parts.busy
    last = min(GIVE_UP_BEFORE, within / 2)
    if await _empties(busy, within - last):
        return
    log.warning("gives_up", open=len(busy), waited_s=within - last)
    components.parts.sockets.close()  # before the reconciler finds the engine gone: that would be no news of the engine
    components.engine.give_up()
    if not await _empties(busy, last):
        log.warning("stopped_with_open_requests", open=len(busy), waited_s=within)


async def _empties(busy: set[object], within: float) -> bool:
    until = time.monotonic() + within
    while busy and time.monotonic() < until:  # noqa: ASYNC110 - handlers only leave the set, and know of no event
        await asyncio.sleep(0.02)
    return not busy


def _bind(config: Config) -> list[socket.socket]:
    try:
        return bind_sockets(config.port, config.address or None, backlog=limits.BACKLOG, reuse_port=False)
    except (OSError, UnicodeError) as error:
        where = f"{config.address or '*'}:{config.port}"
        raise ConfigError(f"--address, --port: cannot listen on {where}: {getattr(error, 'strerror', error)}") from None


def _warn(config: Config, sockets: Iterable[socket.socket]) -> None:
    """Of what may become known to others, and of an option that may mean another thing than it says."""
    if config.ttl == 0:
        log.warning(
            "ttl_is_for_ever",
            advice="--ttl 0 removes nothing, though a run's own ttl of 0 means at once; "
            "write --ttl never, or a number of seconds",
        )
    if not config.tls_cert and _beyond_this_machine(sockets):
        log.warning(
            "token_in_clear", address=config.address or "*", advice="--tls-cert and --tls-key, or TLS of a proxy"
        )
    with contextlib.suppress(OSError):  # it cannot be made: the journal's own trouble
        mode = stat.S_IMODE(Path(config.data_dir).stat().st_mode)
        if mode & stat.S_IRWXO:
            log.warning("data_dir_open_to_others", mode=f"{mode:04o}", advice=f"chmod o-rwx {config.data_dir}")
    if len(config.token) < SHORT_TOKEN:
        log.warning("token_short", characters=len(config.token), advice=f"{SHORT_TOKEN} or more, for instance uuidgen")


def _beyond_this_machine(sockets: Iterable[socket.socket]) -> bool:
    return not all(ipaddress.ip_address(one.getsockname()[0].partition("%")[0]).is_loopback for one in sockets)


def _registries(names: Iterable[str]) -> frozenset[str]:
    try:
        return frozenset(map(check_registry, names))
    except ValueError as error:
        raise ConfigError(f"--registries: {error}") from None
