"""Builds the parts of a quartermaster, and hands each those that it needs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..auth.registries import RegistryAuth
from ..engine import Endpoint, Engine, ports
from ..engine.containers import OwnContainer, own_container_id
from ..engine.spec import Defaults
from ..engine.watcher import Change, Watcher
from ..errors import ConfigError
from ..events.broker import Broker, Filter, Tags
from ..events.journal import Journal
from ..events.stream import EventStream
from ..functions.asynchronous.events import InvocationEvents
from ..functions.asynchronous.invoker import AsyncInvoker
from ..functions.callbacks.webhooks import Receivers
from ..functions.invocations.stats import CallStats
from ..functions.schedules.scheduler import Scheduler
from ..functions.versions.announcer import Announcer
from ..functions.versions.service import FunctionService
from ..functions.versions.store import VersionStore
from ..models.functions import FunctionVersion
from ..models.images import check_registry
from ..models.responses import Node, Service
from ..runs.callbacks import CallbackStore
from ..runs.reaper import Reaper
from ..runs.reconciler.cache import RunCache
from ..runs.reconciler.publisher import Publisher, service_tags
from ..runs.reconciler.reconciler import Reconciler
from ..runs.recovery import Recovery
from ..runs.results import ResultCollector
from ..runs.service import RunService
from ..runs.starter import RunConfig, RunStarter
from .callbacks import Callbacks
from .config import Config
from .instances import Instances
from .metrics import Metrics

NODE = Tags("node", "", frozenset(), None)


class Runs(NamedTuple):
    """The parts that manage runs."""

    reconciler: Reconciler
    publisher: Publisher
    collector: ResultCollector
    reaper: Reaper
    recovery: Recovery
    starter: RunStarter
    service: RunService
    callbacks: Callbacks


class Functions(NamedTuple):
    """The parts that publish and call functions."""

    store: VersionStore
    announcer: Announcer
    registry_auth: RegistryAuth
    service: FunctionService
    instances: Instances
    asynchronous: AsyncInvoker
    ends: InvocationEvents
    scheduler: Scheduler
    stats: CallStats


def build_engine(config: Config, metrics: Metrics) -> Engine:
    """Make the client of the Docker engine that the options and the environment name."""
    return Engine(Endpoint.read(config.docker_host, os.environ), metrics.engine_call)


def build_runs(
    config: Config,
    engine: Engine,
    journal: Journal,
    broker: Broker,
    max_kept: Callable[[str], int | None],
) -> Runs:
    """Make the parts that start, watch, stop and end runs.

    ``max_kept`` says how many ended ones an owner keeps.

    Raises:
        ConfigError: a prefix of callbacks, or their key file, is wrong.
    """
    publisher = Publisher(RunCache(), journal, broker.publish)
    reconciler = Reconciler(engine.swarm, engine.containers, journal, publisher, lambda: engine.health.node_id)
    collector = ResultCollector(engine.logs, journal, reconciler, config.output_limit)
    reaper = Reaper(engine.swarm, engine.containers, journal, reconciler, collector, max_kept)
    recovery = Recovery(engine.swarm, engine.containers, journal, CallbackStore(journal))
    receivers = Receivers(config.callbacks, config.webhook_key_file)
    receivers.load()
    options = RunConfig(
        Defaults(config.memory, config.timeout or None, config.ttl or None, config.bind_mounts),
        registries(config.registries),
        {**ports.SWARM, **ports.of_engine(config.docker_host)},
        receivers.check,
    )
    own = OwnContainer(engine.containers, engine.swarm, own_container_id())
    starter = RunStarter(engine, journal, reconciler, recovery, own, options)
    service = RunService(journal, reconciler, reaper, recovery.callbacks, own)
    publisher.listeners += [collector.notice, reaper.notice, service.waiters.notice]
    callbacks = Callbacks(receivers, recovery.callbacks, journal, reconciler)
    publisher.listeners.append(callbacks.of_runs.notice)
    return Runs(reconciler, publisher, collector, reaper, recovery, starter, service, callbacks)


def build_events(journal: Journal, broker: Broker, runs: Runs) -> EventStream:
    """Make the event stream, which begins with what was published before."""
    cache, reconciler, publisher = runs.publisher.cache, runs.reconciler, runs.publisher

    def snapshot(wants: Filter) -> tuple[list[Service], list[Node], list[FunctionVersion] | None]:
        services = [view for view in cache.published_services() if wants.shows(service_tags(view))]
        nodes = cache.node_views() if wants.lets_through(NODE) else []
        told = [view for view in cache.functions.published() if wants.owner in (None, view.owner)]
        return services, nodes, told if "function" in wants.topics else None

    stream = EventStream(
        journal,
        broker,
        lambda: publisher.position,
        snapshot,
        lambda: reconciler.stale_since,
        lambda: publisher.cursor_time,
    )
    reconciler.stale_listeners.append(stream.beat)
    return stream


def build_watcher(engine: Engine, reconciler: Reconciler, store: VersionStore | None) -> Watcher:
    """Make the watcher of Docker's events, whose thread passes each change to the event loop."""
    loop = asyncio.get_running_loop()

    def take(change: Change) -> None:
        if store is not None:
            store.hint(change)
        if change.kind != "config":
            reconciler.hint(change)

    def emit(change: Change) -> None:
        loop.call_soon_threadsafe(take, change)

    return Watcher(engine.events, emit)


def registries(names: Iterable[str]) -> frozenset[str]:
    """Return the registries of ``--registries``, as images name them.

    Raises:
        ConfigError: one is malformed.
    """
    try:
        return frozenset(map(check_registry, names))
    except ValueError as error:
        raise ConfigError(f"--registries: {error}") from None
