"""The metrics in Prometheus' text format: some are counted as events happen, others are read at each scrape."""

from __future__ import annotations

import contextvars
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import product
from typing import get_args

import prometheus_client as prometheus
import structlog
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from ..errors import HttpError, JournalUnwritable
from ..events.cloudevents import PREFIX, Event
from ..events.journal import Journal, JournalSize
from ..models.functions import FunctionStats
from ..models.requests import Kind
from ..models.responses import Service, Status
from ..models.units import parse_time
from ..runs.reconciler.cache import RunCache
from .function_metrics import FunctionMetrics

# Seconds. A request may wait for the end of a run, a call to the engine has 25 s, a run may wait for hours for a node.
REQUEST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CALL = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 10, 25)
QUEUE = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)
LAG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
NODE_STATES = ("ready", "down", "unknown", "disconnected")  # Swarm's (NodeStatus in swarmkit's api/types.proto)
_ENDS = ("complete", "failed")
# Events whose time is the engine's own; other changes have the time of the look that found them.
_TIMED = tuple(f"{PREFIX}service.{word}" for word in ("running", *_ENDS))

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Sources:
    """Sources that a scrape reads.

    ``trouble`` is why the server is not ready; ``frames_sent``, ``slow_consumers_cut``, ``reconnects`` (by reason) and
    ``callback_tries`` (by outcome) are totals.
    """

    journal: Journal
    cache: RunCache
    trouble: Callable[[], HttpError | None]
    subscribers: Callable[[], int]
    frames_sent: Callable[[], int]
    slow_consumers_cut: Callable[[], int]
    waits: Sized
    logs: Callable[[], int]
    reconnects: Callable[[], Mapping[str, int]]
    function_names: Callable[[], Collection[str]] = list
    function_stats: Callable[[], Mapping[str, FunctionStats]] = dict
    invocations_queued: Callable[[], Mapping[str, int]] = dict
    callbacks_waiting: Callable[[], int] = int
    callback_tries: Callable[[], Mapping[str, int]] = dict


class Metrics:
    """All metrics, in their own registry.

    ``request``, ``engine_call`` and ``token_refused`` may be called from any thread; the rest is the event loop's.

    Args:
        version: the version of quartermaster.
        clock: seconds since 1970. Events from before the start are not counted in the lag.
    """

    def __init__(self, version: str, clock: Callable[[], float] = time.time) -> None:
        # The time of each counter, which nobody reads, would double the text.
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._clock = clock
        self._since = clock()
        registry = self._registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        prometheus.PlatformCollector(registry=registry)
        self._gauge("build_info", "Always 1.", "version").labels(version).set(1)
        self._requests = self._histogram(
            "http_request_duration_seconds",
            "Time until the answer is sent; for an event stream, until it begins.",
            REQUEST,
            *("route", "method", "status"),
        )
        self._calls = self._histogram(
            "engine_call_duration_seconds",
            "Calls to the engine, including their time in the queue.",
            CALL,
            "kind",
            "outcome",
        )
        self._started = self._counter("runs_started", "Runs that were started.", "type")
        self._ended = self._counter("runs_ended", "Runs that ended.", "type", "status", "reason")
        self._queued = self._histogram(
            "run_queue_seconds", "Time from a run's creation to its first running.", QUEUE, "type"
        )
        self._lag = self._histogram(
            "event_lag_seconds", "Time from the engine's timestamp of a change to its event.", LAG
        )
        self.functions = FunctionMetrics(registry)
        self._refused = self._counter("tokens_refused", "Calls without a valid token.", "reason")

    # --- counted as events happen

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, method, status).observe(seconds)

    def engine_call(self, kind: str, outcome: str, seconds: float) -> None:
        """Count a call to the engine that has ended."""
        self._calls.labels(kind, outcome).observe(seconds)

    def token_refused(self, reason: str) -> None:
        """Count a call without a valid token."""
        self._refused.labels(reason).inc()

    def event(self, event: Event) -> None:
        """Count the start, the queue time, the end or the lag that an event reports, and log the run's end."""
        service = event.view
        if not isinstance(service, Service):
            return
        if event.topic == "task" or event.type in _TIMED:
            at = self._news_at(event)
            if at is not None:
                self._lag.observe(max(0.0, self._clock() - at))
        if event.topic == "service" and service.owner is not None and service.function is None:
            self._count_run(event, service)

    def _count_run(self, event: Event, service: Service) -> None:
        before = event.before if isinstance(event.before, Service) else None
        word = event.type.rpartition(".")[2]
        if word == "created":
            self._started.labels(service.type).inc()
        elif word in _ENDS or (word == "removed" and (before is None or before.status not in _ENDS)):
            self._ended.labels(service.type, service.status, service.reason or "none").inc()
            if before is not None or self._news_at(event) is not None:
                # In a context of its own: the commit of a request also publishes events of other requests.
                contextvars.Context().run(_log_end, service)
        elif word == "running" and (before is None or before.started_at is None):  # not after a restart
            seconds = _seconds(service.created_at, service.started_at)
            if seconds is not None:
                self._queued.labels(service.type).observe(seconds)

    def _news_at(self, event: Event) -> float | None:
        """Return when a change happened, in seconds since 1970; None if that was before the start, or is not known."""
        moment = parse_time(event.time)
        at = None if moment is None else moment.timestamp()
        return None if at is None or at < self._since else at

    # --- read at each scrape

    def read(self, sources: Sources) -> None:
        """Set the sources that each scrape reads."""
        self._sources = sources
        self._size: JournalSize | None = None
        self._registry.register(_Totals(sources))
        self._services = self._gauge("services", "Services, and quartermaster's containers.", "type", "status")
        self._nodes = self._gauge("nodes", "Nodes of the swarm.", "state")
        for name, text, value in (
            ("ready", "Whether /readyz answers 200.", lambda: sources.trouble() is None),
            ("subscribers", "Open event streams.", sources.subscribers),
            ("waits", "Calls that wait for the end of a run.", lambda: len(sources.waits)),
            ("logs", "Open logs.", sources.logs),
            ("callbacks_waiting", "Callbacks that are neither delivered nor given up.", sources.callbacks_waiting),
            ("journal_writable", "Whether the journal can be written.", lambda: sources.journal.trouble is None),
            (
                "journal_size_bytes",
                "Size of the journal's file and its write-ahead log.",
                lambda: self._of_size("bytes"),
            ),
            ("journal_facts", "Events that the journal keeps.", lambda: self._of_size("events")),
            ("journal_records", "Records that the journal keeps.", lambda: self._of_size("records")),
        ):
            self._gauge(name, text).set_function(value)

    async def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics as text, in the format that ``Accept`` asks for, and its media type."""
        try:
            self._size = await self._sources.journal.size()
        except JournalUnwritable:
            self._size = None
        services = Counter((service.type, service.status) for service in self._sources.cache.services())
        for labels in product(get_args(Kind), get_args(Status)):  # zeros too, so that every series exists
            self._services.labels(*labels).set(services[labels])
        nodes = Counter(node.state for node in self._sources.cache.node_views(with_reserved=False))
        for state in {*NODE_STATES, *nodes}:
            self._nodes.labels(state).set(nodes[state])
        sources = self._sources
        self.functions.read(sources.function_names(), sources.function_stats(), sources.invocations_queued())
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def _of_size(self, field: str) -> float:
        return math.nan if self._size is None else float(getattr(self._size, field))

    def _gauge(self, name: str, text: str, *labels: str) -> prometheus.Gauge:
        return prometheus.Gauge(f"qmaster_{name}", text, labels, registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> prometheus.Counter:
        return prometheus.Counter(f"qmaster_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> prometheus.Histogram:
        return prometheus.Histogram(f"qmaster_{name}", text, labels, buckets=buckets, registry=self._registry)


class _Totals(Collector):
    """Counters whose totals are kept elsewhere; a ``Counter`` has no ``set_function``."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "qmaster_frames_sent", "Frames sent to subscribers.", value=self._sources.frames_sent()
        )
        yield CounterMetricFamily(
            "qmaster_slow_consumers_cut",
            "Subscribers cut for reading too slowly.",
            value=self._sources.slow_consumers_cut(),
        )
        reconnects = CounterMetricFamily(
            "qmaster_engine_event_stream_reconnects",
            "How often the engine's event stream was opened again.",
            labels=["reason"],
        )
        for reason, number in self._sources.reconnects().items():
            reconnects.add_metric([reason], number)
        yield reconnects
        tries = CounterMetricFamily("qmaster_callback_tries", "Tries of callbacks.", labels=["outcome"])
        for outcome, number in self._sources.callback_tries().items():
            tries.add_metric([outcome], number)
        yield tries


def _log_end(service: Service) -> None:
    failed = service.status == "failed" or service.reason not in (None, "exit", "stopped")
    seconds = _seconds(service.started_at, service.finished_at)
    (log.warning if failed else log.info)(
        "run_ended",
        run=service.id,
        name=service.name,
        owner=service.owner,
        status=service.status,
        reason=service.reason,
        exit_code=service.exit_code,
        seconds=None if seconds is None else round(seconds, 3),
    )


def _seconds(start: str | None, end: str | None) -> float | None:
    """Return the seconds between two times; None if one is unknown."""
    started, ended = parse_time(start), parse_time(end)
    return max(0.0, (ended - started).total_seconds()) if started and ended else None
