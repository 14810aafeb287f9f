"""Start, serve, shut down."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import structlog
from tornado.netutil import bind_sockets

from .. import __version__
from ..api import limits
from ..api.limits import ConnectionLimiter
from ..api.routes import AppState, make_app
from ..api.runtime import connections as runtime_connections
from ..auth.authenticator import Authenticator
from ..auth.policy import Rules, check_mounts
from ..auth.registries import RegistryAuth
from ..auth.tokens import TokenFile, TokenPolicy
from ..errors import ConfigError, EngineUnavailable, HttpError
from ..events.broker import Broker
from ..events.frames import HEARTBEAT_EVERY
from ..events.journal import MIB, Journal
from ..functions.asynchronous.events import InvocationEvents
from ..functions.asynchronous.invoker import AsyncInvoker
from ..functions.asynchronous.store import InvocationStore
from ..functions.instances.runs import Publishers, Runners
from ..functions.invocations.invocation import Ended, Reports
from ..functions.invocations.replays import KeyedCalls
from ..functions.invocations.stats import CallStats
from ..functions.schedules.claims import Ticks
from ..functions.schedules.scheduler import Scheduler
from ..functions.versions.announcer import Announcer
from ..functions.versions.service import FunctionService
from ..functions.versions.store import VersionStore
from ..models.functions import FunctionStats
from ..runs.listing import Listing
from ..runs.logs import LogReader
from ..runs.outputs import OutputReader
from ..runs.stats import RunStats
from .config import SHORT_TOKEN, Config, tls_context
from .instances import Instances, Place
from .metrics import Metrics, Sources
from .parts import Functions, build_engine, build_events, build_runs, build_watcher, registries

WITHOUT_ENGINE = 2.0  # seconds, the last of --shutdown-timeout, in which requests finish without the engine
CHECK_EVERY = 1.0
RESUME_EVERY = 0.1

log = structlog.get_logger(__name__)


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, in an event loop of its own; see ``serve``."""
    asyncio.run(serve(config))


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: an option cannot be used, such as an address in use or an invalid certificate.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server(config)
    await server.start()
    await stop.wait()
    await server.stop()


class Server:
    """All parts of one quartermaster, from its start to its stop. Belongs to the event loop.

    Raises:
        ConfigError: an option cannot be used.
    """

    def __init__(self, config: Config) -> None:
        tls = tls_context(config.tls_cert, config.tls_key) if config.tls_cert else None
        descriptors = limits.descriptors(limits.WANTED + runtime_connections.MAX_CONNECTIONS)
        of_instances = min(runtime_connections.MAX_CONNECTIONS, descriptors // 4) if config.runtime_port else 0
        connections = limits.connections(descriptors - of_instances)
        self._config = config
        self._metrics = Metrics(__version__)
        self._run_stats = RunStats()
        self.engine = build_engine(config, self._metrics)
        self.journal = Journal(Path(config.data_dir), config.keep_facts, config.keep_days, config.keep_size)
        self.broker = Broker()
        self.runs = build_runs(config, self.engine, self.journal, self.broker, self._max_kept)
        self.runs.publisher.event_listeners += [self._metrics.event, self._run_stats.event]
        self.events = build_events(self.journal, self.broker, self.runs)
        self.functions = self._build_functions(of_instances) if config.runtime_port else None
        self.watcher = build_watcher(
            self.engine, self.runs.reconciler, self.functions.store if self.functions else None
        )
        self.api = self._build_api(connections)
        self.token_file = self._token_file()
        self._http = limits.make_server(make_app(self.api), connections, tls)
        self._tasks: list[asyncio.Task[None]] = []
        self._read_metrics()

    async def start(self) -> None:
        """Load the journal, listen, and start the background tasks.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        await self.journal.open()
        await self.runs.reconciler.load()
        sockets = _bind(self._config)
        port = sockets[0].getsockname()[1]
        self.runs.starter.listens_at(port)
        limits.listen(self._http, sockets)
        if self.functions is not None:
            self.functions.instances.listen()
        self._start_tasks()
        log.info(
            "started",
            version=__version__,
            address=self._config.address or "*",
            port=port,
            engine=self._config.docker_host or "socket",
        )
        _warn(self._config, sockets)

    async def stop(self) -> None:
        """Finish open requests, end the streams, and close everything."""
        log.info("stopping")
        self._http.stop()
        if self.functions is not None:
            self.functions.scheduler.stop()
            self.functions.asynchronous.stop()
            self.functions.instances.dispatcher.stop()
        self.runs.service.waiters.close()
        await self._drain(self._config.shutdown_timeout)
        self.api.sockets.close()
        await self.api.logs.close()
        await self._http.close_all_connections()
        await self.close()
        log.info("stopped")

    async def close(self) -> None:
        """Cancel the background tasks, and close the journal and the engine."""
        self.watcher.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.functions is not None:
            await self.functions.asynchronous.close()
            await self.functions.instances.close()
        await self.runs.reaper.close()
        await self.runs.collector.close()
        await self.runs.callbacks.close()
        await self.journal.close()
        await self.engine.close()

    # -- parts -----------------------------------------------------------------------------------------------------

    def _build_api(self, connections: int) -> AppState:
        config, runs = self._config, self.runs
        return AppState(
            Authenticator(config.token, refused=self._metrics.token_refused),
            runs.starter,
            runs.service,
            Listing(self.journal, runs.reconciler.cache),
            self.events,
            self.broker,
            LogReader(self.engine.swarm, self.engine.readers, self.journal, runs.reconciler.cache),
            self._trouble,
            self._metrics.scrape,
            self._metrics.request,
            frozenset(config.allow_origin),
            hosts=frozenset(config.allow_host),
            trusted_proxies=config.trusted_proxies,
            connections=ConnectionLimiter(connections),
            unsent=self.events.unsent,
            functions=self.functions.service if self.functions else None,
            dispatcher=self.functions.instances.dispatcher if self.functions else None,
            function_domain=config.function_domain,
            keyed=KeyedCalls(self.journal),
            asynchronous=self.functions.asynchronous if self.functions else None,
            run_stats=self._run_stats,
            call_stats=self.functions.stats if self.functions else None,
            nodes=runs.reconciler.cache.node_views,
        )

    def _build_functions(self, connections: int) -> Functions:
        """Make the parts that publish and call functions, with so many connections for instances.

        Raises:
            ConfigError: the registry credentials cannot be read.
        """
        config, engine, runs = self._config, self.engine, self.runs
        store = VersionStore(engine.configs)
        announcer = Announcer(store, runs.publisher)
        store.listeners.append(announcer.versions_changed)
        registry_auth = RegistryAuth(Path(config.registry_auth_file) if config.registry_auth_file else None)
        registry_auth.load()
        rules = Rules(registries(config.registries), config.memory, config.ttl or None, config.bind_mounts)
        call_stats = CallStats(lambda name: store.latest(name) is not None)
        store.listeners.append(call_stats.versions_changed)

        def called(ended: Ended) -> None:
            self._metrics.functions.call(ended)
            call_stats.call(ended)

        publishers = Publishers(lambda name: self.api.auth.holder(name), registry_auth.credentials)
        instances = Instances(
            engine,
            Runners(
                runs.starter, runs.service, runs.reaper, runs.reconciler, OutputReader(engine.readers, self.journal)
            ),
            store,
            publishers,
            Reports(called, self._metrics.functions.instance),
            Place(config.runtime_port, config.advertise, connections),
        )
        runs.publisher.listeners.append(instances.dispatcher.notice)
        room = config.keep_size * MIB // 2
        invocations = InvocationStore(self.journal)
        asynchronous = AsyncInvoker(instances.dispatcher, store, invocations, room, instances.address)
        instances.called, instances.resume = asynchronous.called, asynchronous.resume
        ends = InvocationEvents(invocations, runs.publisher)
        asynchronous.listeners += [ends.ended, self._metrics.functions.invocation]
        scheduler = Scheduler(store, Ticks(engine.configs, self.journal), self.journal, asynchronous)
        store.listeners.append(scheduler.versions_changed)
        asynchronous.listeners.append(scheduler.ended)

        def stats(name: str) -> FunctionStats:
            now = instances.dispatcher.stats(name)
            queued = now.queued + asynchronous.held_back(name)
            return msgspec.structs.replace(now, queued=queued, schedules=scheduler.views(name))

        service = FunctionService(store, engine.swarm, registry_auth, rules, stats, publishers.holder)
        runs.callbacks.tell_of_functions(service, asynchronous)
        return Functions(store, announcer, registry_auth, service, instances, asynchronous, ends, scheduler, call_stats)

    def _read_metrics(self) -> None:
        functions = self.functions
        self._metrics.read(
            Sources(
                self.journal,
                self.runs.reconciler.cache,
                self._trouble,
                subscribers=lambda: len(self.api.sockets.open),
                frames_sent=lambda: self.broker.sent,
                slow_consumers_cut=lambda: self.api.sockets.cut,
                waits=self.runs.service.waiters,
                logs=lambda: len(self.api.logs.open),
                reconnects=lambda: self.watcher.reopened,
                function_names=functions.store.names if functions else list,
                function_stats=functions.instances.dispatcher.all_stats if functions else dict,
                invocations_queued=functions.asynchronous.queued if functions else dict,
                callbacks_waiting=lambda: self.runs.callbacks.queue.waiting,
                callback_tries=lambda: self.runs.callbacks.queue.tries,
            )
        )

    def _token_file(self) -> TokenFile | None:
        if not self._config.tokens_file:
            return None
        token_file = TokenFile(Path(self._config.tokens_file), {self.api.auth.root}, self._take_grants)
        token_file.load()
        return token_file

    def _take_grants(self, grants: Sequence[TokenPolicy]) -> None:
        """Accept these tokens from now on, and recheck open streams and logs.

        Raises:
            ConfigError: their ``mounts`` cannot be kept apart.
        """
        check_mounts(grants, self._config.bind_mounts)
        self.api.auth.replace(grants)
        self.api.sockets.recheck()
        self.api.logs.recheck()
        if self.functions is not None:
            self.functions.instances.scaler.grants_changed()
        for owner in {view.owner for view in self.runs.reconciler.cache.services() if view.owner is not None}:
            self.runs.reaper.check_kept(owner)

    def _max_kept(self, owner: str) -> int | None:
        grant = self.api.auth.grant(owner)
        return grant.max_kept if grant else None

    def _trouble(self) -> HttpError | None:
        """Return why the server is not ready, or None."""
        stale = self.runs.reconciler.stale_since
        behind = (
            EngineUnavailable(f"the cache may be out of date: no complete listing since {stale}") if stale else None
        )
        journal = self.journal.trouble
        unkept = EngineUnavailable(f"the journal cannot be written: {journal}") if journal else None
        return self.engine.health.trouble or unkept or behind  # without the journal the cache does not catch up either

    # -- background ------------------------------------------------------------------------------------------------

    def _start_tasks(self) -> None:
        self.watcher.start()
        work = [
            self.engine.health.watch(),
            self.watcher.renew(),
            self.runs.reconciler.run(),
            self.runs.recovery.run(),
            self.runs.callbacks.run(),
            self._resume(),
            self._beat(),
            self._check(),
            self._run_stats.recall(self.journal, self.runs.publisher.position.last),
            self._each_minute(),
        ]
        if self.functions is not None:
            store, announcer, registry_auth, _, instances, asynchronous, ends, scheduler, _ = self.functions
            work += [store.run(), announcer.run(), registry_auth.run(), instances.run(), asynchronous.run(), ends.run()]
            work.append(scheduler.run())
        if self.token_file is not None:
            work.append(self.token_file.run())
        self._tasks = [asyncio.create_task(coroutine) for coroutine in work]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def _resume(self) -> None:
        """Finish what an earlier process began, once the cache is up to date."""
        while self.runs.reconciler.stale_since is not None:  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(RESUME_EVERY)
        self.runs.recovery.resume(self.journal.leftovers)
        for view in self.runs.reconciler.cache.services():
            self.runs.collector.notice(view)
            self.runs.reaper.notice(view)
        self._tick()  # now the nodes are known

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_EVERY)
            self.events.beat()

    async def _check(self) -> None:
        """Cut subscribers that do not read, and check whether a failed journal is writable again."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            self.broker.check()
            await self.journal.recheck()

    async def _each_minute(self) -> None:
        while True:
            self._tick()
            await asyncio.sleep(60 - time.time() % 60)

    def _tick(self) -> None:
        is_known = self.runs.reconciler.stale_since is None
        self._run_stats.tick(self.runs.reconciler.cache.node_views() if is_known else ())
        if self.functions is not None:
            self.functions.stats.tick()

    async def _drain(self, within: float) -> None:
        """Wait for the open requests and calls; in the last seconds, fail those that wait for the engine."""
        last = min(WITHOUT_ENGINE, within / 2)
        if await self._idle_within(within - last):
            return
        log.warning("shutdown_timeout_exceeded", open=len(self.api.busy), waited_s=within - last)
        self.api.sockets.close()  # first, so that giving up the engine is not published as its failure
        self.engine.give_up()
        if not await self._idle_within(last):
            log.warning("stopped_with_open_requests", open=len(self.api.busy), waited_s=within)

    async def _idle_within(self, seconds: float) -> bool:
        """Return whether no request is open, and no instance has a call, before the time has passed."""
        until = time.monotonic() + seconds
        while self._is_busy() and time.monotonic() < until:  # noqa: ASYNC110 - handlers know of no event
            await asyncio.sleep(0.02)
        return not self._is_busy()

    def _is_busy(self) -> bool:
        return bool(self.api.busy) or (self.functions is not None and self.functions.instances.dispatcher.busy > 0)


def _report(task: asyncio.Task[None]) -> None:
    """Log a background task that failed; it is a defect, because all of them run until the stop."""
    if not task.cancelled() and task.exception() is not None:
        log.error("background_task_failed", exc_info=task.exception())


def _bind(config: Config) -> list[socket.socket]:
    try:
        return bind_sockets(config.port, config.address or None, backlog=limits.BACKLOG, reuse_port=False)
    except (OSError, UnicodeError) as error:
        where = f"{config.address or '*'}:{config.port}"
        raise ConfigError(f"--address, --port: cannot listen on {where}: {getattr(error, 'strerror', error)}") from None


def _warn(config: Config, sockets: Iterable[socket.socket]) -> None:
    """Log warnings about exposed tokens and data, and about ``--ttl 0``."""
    if config.ttl == 0:
        log.warning(
            "ttl_is_for_ever",
            advice="--ttl 0 means never, but a run's own ttl of 0 means at once; "
            "write --ttl never, or a number of seconds",
        )
    if not config.tls_cert and _beyond_this_machine(sockets):
        log.warning(
            "token_in_clear", address=config.address or "*", advice="--tls-cert and --tls-key, or TLS of a proxy"
        )
    with contextlib.suppress(OSError):  # a missing folder is reported by the journal
        mode = stat.S_IMODE(Path(config.data_dir).stat().st_mode)
        if mode & stat.S_IRWXO:
            log.warning("data_dir_open_to_others", mode=f"{mode:04o}", advice=f"chmod o-rwx {config.data_dir}")
    if len(config.token) < SHORT_TOKEN:
        log.warning("token_short", characters=len(config.token), advice=f"{SHORT_TOKEN} or more, for instance uuidgen")


def _beyond_this_machine(sockets: Iterable[socket.socket]) -> bool:
    return not all(ipaddress.ip_address(one.getsockname()[0].partition("%")[0]).is_loopback for one in sockets)
