"""The metrics of functions: calls and ends are counted as they happen, instances at each scrape."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import prometheus_client as prometheus

from ..functions.invocations.invocation import Ended
from ..models.functions import FunctionStats
from ..models.invocations import InvocationView

# Seconds. A warm call takes a millisecond, and a call may last for a day.
CALL = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900)
STATES = ("starting", "idle", "busy")


class FunctionMetrics:
    """The metrics of functions, in the registry of all. A function that is removed loses its series.

    Args:
        registry: of all metrics.
    """

    def __init__(self, registry: prometheus.CollectorRegistry) -> None:
        self._calls = prometheus.Counter(
            "qmaster_function_calls",
            "Calls that are over.",
            ("function", "outcome"),
            registry=registry,
        )
        self._durations = prometheus.Histogram(
            "qmaster_function_call_duration_seconds",
            "Time from the hand-over of a call to its end.",
            ("function",),
            buckets=CALL,
            registry=registry,
        )
        self._queued = prometheus.Histogram(
            "qmaster_function_queue_seconds",
            "Time that a call waited for an instance.",
            ("function",),
            buckets=CALL,
            registry=registry,
        )
        self._cold = prometheus.Counter(
            "qmaster_function_cold_starts",
            "Calls that an instance was started for.",
            ("function",),
            registry=registry,
        )
        self._ended = prometheus.Counter(
            "qmaster_instances_ended",
            "Instances of functions that ended.",
            ("function", "reason"),
            registry=registry,
        )
        self._instances = prometheus.Gauge(
            "qmaster_function_instances", "Instances of functions.", ("function", "state"), registry=registry
        )
        self._waiting = prometheus.Gauge(
            "qmaster_function_calls_waiting", "Calls that wait for an instance.", ("function",), registry=registry
        )
        self._queued_invocations = prometheus.Gauge(
            "qmaster_function_invocations_queued",
            "Asynchronous invocations that wait.",
            ("function",),
            registry=registry,
        )
        self._ended_invocations = prometheus.Counter(
            "qmaster_function_invocations_ended",
            "Asynchronous invocations that are over.",
            ("function", "outcome"),
            registry=registry,
        )
        self._seen: set[str] = set()

    def call(self, ended: Ended) -> None:
        """Count a call that is over."""
        name = ended.version.function
        self._seen.add(name)
        self._calls.labels(name, ended.outcome).inc()
        self._queued.labels(name).observe(ended.queued)
        if ended.duration is not None:
            self._durations.labels(name).observe(ended.duration)
        if ended.cold:
            self._cold.labels(name).inc()

    def instance(self, function: str, reason: str) -> None:
        """Count an instance that has ended."""
        self._seen.add(function)
        self._ended.labels(function, reason).inc()

    def invocation(self, view: InvocationView, status: str) -> None:
        """Count an asynchronous invocation that is over."""
        self._seen.add(view.function)
        self._ended_invocations.labels(view.function, status).inc()

    def read(
        self, names: Collection[str], stats: Mapping[str, FunctionStats], queued: Mapping[str, int] | None = None
    ) -> None:
        """Set what a scrape shows.

        Args:
            names: the functions that are published; any other loses its series.
            stats: what is going on for those that were called, or are kept warm; the others have no series.
            queued: how many asynchronous invocations of a function wait.
        """
        queued = queued or {}
        for name in (self._seen | queued.keys()) & set(names):
            self._queued_invocations.labels(name).set(queued.get(name, 0))
            self._seen.add(name)
        for name in stats.keys() & set(names):
            now = stats[name]
            for state in STATES:
                self._instances.labels(name, state).set(getattr(now.instances, state))
            self._waiting.labels(name).set(now.queued)
            self._seen.add(name)
        self._forget(self._seen.difference(names))
        self._seen.intersection_update(names)

    def _forget(self, gone: Iterable[str]) -> None:
        for name in gone:
            for metric in (
                self._calls,
                self._durations,
                self._queued,
                self._cold,
                self._ended,
                self._instances,
                self._waiting,
                self._queued_invocations,
                self._ended_invocations,
            ):
                metric.remove_by_labels({"function": name})
