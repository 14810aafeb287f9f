"""What is counted and measured, as Prometheus reads it. Each ``Metrics`` has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..events.journal import JournalSize

# Seconds. A request may wait for the end of a run, a call to the engine has 25 s, a run may wait for hours for a node.
REQUEST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
CALL = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 10, 25)
QUEUE = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)
LAG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Now(NamedTuple):
    """What is there, or has been counted elsewhere, at the moment of a scrape.

    ``services`` by type and status, ``nodes`` by state, ``reconnects`` by reason; ``journal`` is None where it cannot
    be read.
    """

    ready: bool
    services: Mapping[tuple[str, str], int]
    nodes: Mapping[str, int]
    subscribers: int
    frames_sent: int
    slow_consumers_cut: int
    waits: int
    logs: int
    reconnects: Mapping[str, int]
    journal_writable: bool
    journal: JournalSize | None


class Metrics:
    """Takes observations; may be called from any thread."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a time beside each counter, which nobody reads, would double the text
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._seen = _Seen()
        registry.register(self._seen)
        build = Gauge("qmaster_build_info", "Always 1.", ["version"], registry=registry)
        build.labels(version).set(1)
        self._requests = _Timed(
            Histogram(
                "qmaster_http_request_duration_seconds",
                "Requests until their answer was sent; of an event stream until it began.",
                ["route", "method", "status"],
                buckets=REQUEST,
                registry=registry,
            )
        )
        self._calls = _Timed(
            Histogram(
                "qmaster_engine_call_duration_seconds",
                "Calls to the engine, with their wait for a turn.",
                ["kind", "outcome"],
                buckets=CALL,
                registry=registry,
            )
        )
        self._started = Counter("qmaster_runs_started", "Runs that were begun.", ["type"], registry=registry)
        self._ended = Counter(
            "qmaster_runs_ended", "Runs whose end was told.", ["type", "status", "reason"], registry=registry
        )
        self._queued = Histogram(
            "qmaster_run_queue_seconds",
            "From a run's creation to its first running.",
            ["type"],
            buckets=QUEUE,
            registry=registry,
        )
        self._lag = Histogram(
            "qmaster_event_lag_seconds",
            "From the engine's timestamp of a change to its event.",
            buckets=LAG,
            registry=registry,
        )
        self._refused = Counter("qmaster_tokens_refused", "Calls without a right token.", ["reason"], registry=registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is the pattern of its path."""
        self._requests.observe((route, method, status), seconds)

    def engine_call(self, kind: str, outcome: str, seconds: float) -> None:
        """A call to the engine has ended."""
        self._calls.observe((kind, outcome), seconds)

    def run_started(self, kind: str) -> None:
        self._started.labels(kind).inc()

    def run_ended(self, kind: str, status: str, reason: str) -> None:
        self._ended.labels(kind, status, reason).inc()

    def queued(self, kind: str, seconds: float) -> None:
        """A run has begun to run, so long after it was created."""
        self._queued.labels(kind).observe(seconds)

    def event_lag(self, seconds: float) -> None:
        self._lag.observe(seconds)

    def token_refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def exposition(self, now: Now, accept: str = "") -> tuple[bytes, str]:
        """Everything as text, in the format that the header ``Accept`` asks for, and its media type."""
        self._seen.now = now
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


class _Timed:
    """A histogram that finds what it has seen before at once: its own search takes as long as all else."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._observe: dict[tuple[str | int, ...], Callable[[float], None]] = {}

    def observe(self, labels: tuple[str | int, ...], seconds: float) -> None:
        observe = self._observe.get(labels)
        if observe is None:
            observe = self._observe[labels] = self._histogram.labels(*labels).observe
        observe(seconds)


class _Seen(Collector):
    """What is not counted here, but read when it is asked for."""

    def __init__(self) -> None:
        self.now: Now | None = None

    def collect(self) -> Iterator[Metric]:
        now = self.now
        if now is None:
            return
        yield _gauge("ready", "Whether /readyz answers 200.", now.ready)
        yield _by("services", "Services, and quartermaster's containers.", ["type", "status"], now.services)
        yield _by("nodes", "Nodes of the swarm.", ["state"], {(state,): n for state, n in now.nodes.items()})
        yield _gauge("subscribers", "Open event streams.", now.subscribers)
        yield _counter("frames_sent", "Frames given to subscribers.", now.frames_sent)
        yield _counter("slow_consumers_cut", "Subscribers cut for reading too slowly.", now.slow_consumers_cut)
        yield _gauge("waits", "Callers who wait for the end of a run.", now.waits)
        yield _gauge("logs", "Logs that are being sent.", now.logs)
        reconnects = CounterMetricFamily(
            "qmaster_engine_event_stream_reconnects",
            "How often the engine's event stream was opened again.",
            labels=["reason"],
        )
        for reason, number in now.reconnects.items():
            reconnects.add_metric([reason], number)
        yield reconnects
        yield _gauge("journal_writable", "Whether the journal can be written.", now.journal_writable)
        if now.journal is not None:
            yield _gauge("journal_size_bytes", "The journal's file and its write-ahead log.", now.journal.bytes)
            yield _gauge("journal_facts", "Events that the journal keeps.", now.journal.events)
            yield _gauge("journal_records", "Records that the journal keeps.", now.journal.records)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"qmaster_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"qmaster_{name}", text, value=value)


def _by(name: str, text: str, labels: list[str], values: Mapping[Any, int]) -> Metric:
    """``values`` by the tuple of their labels."""
    family = GaugeMetricFamily(f"qmaster_{name}", text, labels=labels)
    for key, number in values.items():
        family.add_metric(list(key), number)
    return family
