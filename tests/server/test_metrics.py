"""metrics and `/metrics`: each number moves with what it counts, and the documented table is exact."""

import asyncio
import math
import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_cases import BEARER, IMAGE, Ask, FakeRunService, State, app, ask, run_service, state
from fakes import CONTAINER_ID, FakeContainers, FakeSwarm, container, service, task
from function_cases import call, version
from prometheus_client.parser import text_string_to_metric_families
from reconciler_cases import Journal as FakeJournal
from structlog.testing import capture_logs
from swarm_cases import NODES, NOW
from testbed import Engine, Server, eventually
from testbed.subscriber import Sse, Subscriber

from docs import code, table
from qmaster.errors import EngineAway, JournalUnwritable
from qmaster.events import cloudevents
from qmaster.events.journal import Journal, JournalSize
from qmaster.events.rows import NewEvent, Record
from qmaster.functions.invocations.invocation import Ended
from qmaster.models.functions import FunctionStats, InstanceCounts
from qmaster.models.invocations import InvocationView
from qmaster.models.responses import FunctionRef, Node, Reserved, Result, Service
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.publisher import Publisher
from qmaster.runs.reconciler.reconciler import Reconciler
from qmaster.runs.views import status as lifecycle
from qmaster.server.metrics import Metrics, Sources

__all__ = ["app", "ask", "run_service", "state"]  # the fixtures

BEGAN = 1714979280.0  # 2024-05-06T07:08:00Z, before all that the views below tell
OWN = re.compile(r"(process|python)_")


class Read:
    """Metrics as Prometheus reads them: `read("name", label="value")` is a sample's value, 0 where there is none."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples.get((f"qmaster_{name}", frozenset(labels.items())), 0.0)

    def described(self) -> dict[str, tuple[str, set[str]]]:
        """Type and labels of each family of ours, under the name that a query has."""
        found = {}
        for family in self.families:
            if not OWN.match(family.name):
                name = family.name + ("_total" if family.type == "counter" else "")
                labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
                found[name] = (family.type, labels)
        return found


class There:
    """A cache and a journal that only tell."""

    def __init__(self, *services: Service) -> None:
        self._services = list(services)
        self.trouble: str | None = None

    def services(self) -> list[Service]:
        return self._services

    def node_views(self, with_reserved: bool = True) -> list[Node]:
        return []

    async def size(self) -> JournalSize:
        if self.trouble:
            raise JournalUnwritable(self.trouble)
        return JournalSize(4096, 7, 3)


INVOCATION = InvocationView(id="i", function="hello", version=1, status="dead", owner="a", created_at="")


def sources(there: Any, trouble: Callable[[], Any] = lambda: None) -> Sources:
    return Sources(
        there, there, trouble, subscribers=lambda: 2, frames_sent=lambda: 30,
        slow_consumers_cut=lambda: 4, waits=range(5), logs=lambda: 6, reconnects=lambda: {"age": 7, "lost": 8},
        callback_tries=lambda: {"delivered": 1},
        function_names=lambda: ["hello"],
        function_stats=lambda: {"hello": FunctionStats(instances=InstanceCounts(starting=1, idle=2, busy=3), queued=4)},
        invocations_queued=lambda: {"hello": 9, "gone": 1},
    )  # fmt: skip


def metrics_of(there: There, trouble: Callable[[], Any] = lambda: None) -> Metrics:
    metrics = Metrics("0.0.0")
    metrics.read(sources(there, trouble))
    return metrics


async def read(metrics: Metrics) -> Read:
    return Read((await metrics.scrape())[0].decode())


# --- the table --------------------------------------------------------------------------------------------------------


def used() -> Metrics:
    """Each metric has been used once."""
    metrics = metrics_of(There())
    metrics.request("/run", "POST", 200, 0.1)
    metrics.engine_call("list", "ok", 0.1)
    for before, after in pairwise([None, PENDING, RUNNING, COMPLETE]):
        for event in cloudevents.of_service(before, after or RUNNING, "2024-05-06T07:08:20Z"):
            metrics.event(event)
    metrics.token_refused("missing")
    called = version()
    metrics.functions.call(Ended(called, call(), "run-1", "ok", queued=0.5, duration=0.001, cold=True))
    metrics.functions.instance(called.function, "idle")
    metrics.functions.invocation(INVOCATION, "dead")
    return metrics


def test_the_table_in_the_readme_is_what_is_told() -> None:
    """Each metric's name, type and labels, and nothing else; beside those of the process and of Python."""
    documented = {
        code(row["metric"])[0]: (row["type"], set(code(row["labels"]))) for row in table("Metrics", having="metric")
    }
    assert asyncio.run(read(used())).described() == documented


def test_names_and_units_are_prometheus_own() -> None:
    """A prefix, base units, `_total` on counters alone; and no time of creation beside each of them."""
    found = asyncio.run(read(used()))
    for name, (kind, _) in found.described().items():
        assert re.fullmatch(r"qmaster_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (kind == "counter")
        assert kind != "histogram" or name.endswith("_seconds")
    assert not [name for name, _ in found.samples if name.endswith("_created")]
    assert {"process_resident_memory_bytes", "python_info"} <= {family.name for family in found.families}
    assert all(family.documentation for family in found.families)


def test_who_asks_for_open_metrics_gets_it() -> None:
    """Else Prometheus' own text; each with its media type."""
    text, kind = asyncio.run(used().scrape("application/openmetrics-text; version=1.0.0"))
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert asyncio.run(used().scrape())[1].startswith("text/plain")


def test_two_in_one_process_are_apart() -> None:
    """Each has a registry of its own."""
    used()
    assert asyncio.run(read(metrics_of(There())))("runs_started_total", type="service") == 0


# --- events ----------------------------------------------------------------------------------------------------------


def see(*tasks: Any, **fields: Any) -> Service:
    return msgspec.structs.replace(lifecycle.service(service(), tasks, NODES, NOW), **{"owner": "root", **fields})


PENDING = see(task("pending", ID="t", at="2024-05-06T07:08:10Z"))
RUNNING = see(task("running", ID="t", at="2024-05-06T07:08:12Z"))
COMPLETE = see(task("complete", ID="t", at="2024-05-06T07:08:14Z", code=0), started_at=RUNNING.started_at)
FAILED = see(task("failed", ID="t", at="2024-05-06T07:08:14Z", code=3), started_at=RUNNING.started_at)
STOPPED = msgspec.structs.replace(PENDING, status="removed", reason="stopped")
GONE = msgspec.structs.replace(COMPLETE, status="removed")


def tell(*views: Service | None, at: float = BEGAN + 20) -> Read:
    """The metrics after these views of one service, told at a time."""
    clock = [BEGAN]
    metrics = Metrics("0.0.0", lambda: clock[0])
    metrics.read(sources(There()))
    clock[0] = at
    for before, after in pairwise(views):
        assert after is not None
        for event in cloudevents.of_service(before, after, "2024-05-06T07:08:20Z"):
            metrics.event(event)
    return asyncio.run(read(metrics))


@pytest.mark.parametrize(
    ("views", "status", "reason"),
    [
        ((PENDING, RUNNING, COMPLETE, GONE), "complete", "exit"),
        ((PENDING, FAILED), "failed", "exit"),
        ((PENDING, STOPPED), "removed", "stopped"),
    ],
)
def test_a_run_is_counted_when_it_begins_and_when_it_ends(views: tuple[Service, ...], status: str, reason: str) -> None:
    """Once each, with its type, status and reason; its removal after its end is no second end."""
    found = tell(None, *views)
    assert found("runs_started_total", type="service") == 1
    ends = {labels: n for (name, labels), n in found.samples.items() if name == "qmaster_runs_ended_total"}
    assert ends == {frozenset({("type", "service"), ("status", status), ("reason", reason)}): 1}


def test_what_others_started_is_no_run() -> None:
    """It has no owner."""
    views = [msgspec.structs.replace(view, owner=None) for view in (PENDING, COMPLETE)]
    found = tell(None, *views)
    assert found("runs_started_total", type="service") == 0
    assert not [name for name, _ in found.samples if name == "qmaster_runs_ended_total"]


def ends(*views: Service | None) -> list[Any]:
    """The lines `run_ended` of the log after these views of one service."""
    with capture_logs() as logs:
        tell(*views)
    return [line for line in logs if line["event"] == "run_ended"]


def test_the_log_tells_how_a_run_ended() -> None:
    """Its name, owner, status, reason, exit code and seconds; a failure is a warning."""
    (line,) = ends(None, PENDING, RUNNING, FAILED)
    assert line == {
        "event": "run_ended", "log_level": "warning", "run": FAILED.id, "name": FAILED.name, "owner": "root",
        "status": "failed", "reason": "exit", "exit_code": 3, "seconds": 2.0,
    }  # fmt: skip
    (line,) = ends(None, PENDING, RUNNING, COMPLETE)
    assert (line["log_level"], line["status"], line["exit_code"]) == ("info", "complete", 0)
    (line,) = ends(None, PENDING, STOPPED)
    assert (line["log_level"], line["reason"], line["seconds"]) == ("info", "stopped", None)
    timed_out = msgspec.structs.replace(STOPPED, reason="timeout")
    assert [line["log_level"] for line in ends(None, PENDING, timed_out)] == ["warning"]


def test_each_end_is_logged_once() -> None:
    """Neither its result, nor its removal, nor what was over before the start is another one."""
    result = msgspec.structs.replace(
        COMPLETE, result=Result(exit_code=0, stdout="", stderr="", truncated=False, tasks=[])
    )
    gone = msgspec.structs.replace(result, status="removed")
    assert len(ends(None, PENDING, RUNNING, COMPLETE, result, gone)) == 1
    assert len(ends(COMPLETE, result, gone)) == 0
    assert len(ends(None, COMPLETE)) == 1  # so short that it was over when it was first seen
    long_ago = see(task("complete", ID="t", at="2024-05-06T07:00:00Z", code=0))
    assert ends(None, long_ago, msgspec.structs.replace(long_ago, status="removed")) == []


def test_the_queue_time_is_that_before_the_first_running() -> None:
    """From creation (07:08:09.12) to running (07:08:12); what runs again does not count."""
    found = tell(None, PENDING, RUNNING, FAILED, RUNNING)
    assert found("run_queue_seconds_count", type="service") == 1
    assert found("run_queue_seconds_sum", type="service") == pytest.approx(2.877, abs=0.001)


def test_the_lag_is_from_the_engines_time_to_the_event() -> None:
    """Of tasks and of what they make of a service: 20 s - 12 s for each of the two here."""
    found = tell(PENDING, RUNNING)
    assert (found("event_lag_seconds_count"), found("event_lag_seconds_sum")) == (2, 16)


def test_what_happened_before_it_began_was_not_late() -> None:
    """A service that is found at the start."""
    old = see(task("running", ID="t", at="2024-05-06T07:00:00Z"), created_at="2024-05-06T07:00:00Z")
    assert tell(None, old)("event_lag_seconds_count") == 0


def test_a_node_is_no_run() -> None:
    """Its events are not counted."""
    metrics = metrics_of(There())
    node = Node(
        id="n1", hostname="h", role="worker", state="ready", availability="active", address=None, engine="1",
        memory=1, cpus=1.0, reserved=Reserved(0, 0.0), leader=False,
    )  # fmt: skip
    for event in cloudevents.of_node(None, node, "2024-05-06T07:08:20Z"):
        metrics.event(event)
    assert asyncio.run(read(metrics))("event_lag_seconds_count") == 0


@pytest.mark.gen_test
async def test_the_reconciler_has_each_event_counted() -> None:
    """Of services and of containers, once it is in the journal."""
    metrics = metrics_of(There())
    labels = {"io.qmaster.managed": "true", "io.qmaster.owner": "root"}
    swarm = FakeSwarm(service(Labels=labels), tasks=(task("complete", code=0),))
    made: Any = swarm
    journal = FakeJournal()
    publisher = Publisher(RunCache(), journal, lambda news: None)
    publisher.event_listeners.append(metrics.event)
    reconciler = Reconciler(made, FakeContainers(container(CONTAINER_ID)), journal, publisher)
    await reconciler.load()
    await reconciler.look_up("one")
    await reconciler.look_up("box")
    await publisher.commit()
    found = await read(metrics)
    assert found("runs_started_total", type="service") == found("runs_started_total", type="container") == 1
    assert found("runs_ended_total", type="service", status="complete", reason="exit") == 1


# --- what is read at a scrape -----------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_scrape_reads_what_there_is() -> None:
    """Services by type and status, with those of which there are none; and the numbers of the other parts."""
    found = await read(metrics_of(There(PENDING, RUNNING, RUNNING)))
    assert found("services", type="service", status="running") == 2
    assert found("services", type="service", status="pending") == 1
    assert ("qmaster_services", frozenset({("type", "container"), ("status", "unknown")})) in found.samples
    assert ("qmaster_nodes", frozenset({("state", "down")})) in found.samples
    names = ("ready", "subscribers", "frames_sent_total", "slow_consumers_cut_total", "waits", "logs")
    assert [found(name) for name in names] == [1, 2, 30, 4, 5, 6]
    assert found("engine_event_stream_reconnects_total", reason="lost") == 8
    sizes = ("journal_writable", "journal_size_bytes", "journal_facts", "journal_records")
    assert [found(name) for name in sizes] == [1, 4096, 7, 3]


@pytest.mark.gen_test
async def test_a_scrape_works_when_nothing_else_does() -> None:
    """Without an engine, and without a journal, whose size is then no number."""
    there = There()
    there.trouble = "torn"
    found = await read(metrics_of(there, lambda: EngineAway("away")))
    assert (found("ready"), found("journal_writable")) == (0, 0)
    assert math.isnan(found("journal_size_bytes"))


@pytest.mark.gen_test
async def test_the_journal_tells_its_size(tmp_path: Path) -> None:
    """Bytes with the write-ahead log, events and records."""
    journal = Journal(tmp_path, 1000, 30)
    await journal.open()
    empty = await journal.size()
    assert empty[1:] == (0, 0)
    await journal.append(
        [NewEvent("a", b"x" * 5000), NewEvent("b", b"")], [Record("s1", "service", "one", False, b"{}")]
    )
    full = await journal.size()
    assert full[1:] == (2, 1)
    assert full.bytes >= empty.bytes + 4096
    await journal.close()


@pytest.mark.gen_test
async def test_a_scrape_of_a_thousand_services_is_cheap(measured: Callable[[str], None]) -> None:
    """It takes no more than a blink of the event loop; a request's count, microseconds."""
    many = metrics_of(There(*[RUNNING] * 1000))
    for route in range(12):
        for status in range(5):
            many.request(f"/{route}", "GET", 200 + status, 0.1)
    began = time.perf_counter()
    for _ in range(20):
        await many.scrape()
    each = (time.perf_counter() - began) / 20
    began = time.perf_counter()
    for _ in range(1000):
        many.request("/run", "POST", 200, 0.1)
    count = (time.perf_counter() - began) / 1000
    measured(f"a scrape takes {each * 1000:.1f} ms, the count of a request {count * 1e6:.1f} µs")
    assert each < 1
    assert count < 0.005


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_the_metrics_want_a_token(ask: Ask) -> None:
    """401 without one; with it the text, in the format that was asked for."""
    assert (await ask("GET", "/metrics", headers={})).code == 401
    answer = await ask("GET", "/metrics", headers={**BEARER, "Accept": "some"})
    assert (answer.code, answer.body) == (200, b"metrics for some")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"


@pytest.mark.gen_test
async def test_a_request_is_counted_by_its_route(ask: Ask, run_service: FakeRunService, state: State) -> None:
    """Never by what a caller makes up: paths, ids and methods are bounded."""
    run_service.views = [RUNNING]
    for method, path in (("GET", "/status/abc"), ("GET", "/nothing/here"), ("PUT", "/run"), ("BREW", "/run")):
        await ask(method, path)
    await ask("POST", "/run", IMAGE)
    assert state.counted == [
        ("/status/{id}", "GET", 200),
        ("none", "GET", 404),
        ("/run", "PUT", 405),
        ("/run", "other", 405),
        ("/run", "POST", 200),
    ]


# --- on a real server -------------------------------------------------------------------------------------------------


def test_each_number_moves_on_a_real_engine(server: Server, engine: Engine) -> None:
    """A run, a listener, calls and refusals show on a real server."""

    def now() -> Read:
        reply = server.call("GET", "/metrics")
        assert reply.status == 200, reply.text
        return Read(reply.text)

    eventually(lambda: now()("ready") == 1, 15, "it is ready")
    server.call("GET", "/status", token="wrong")
    server.call("GET", "/status", token=False)
    with Subscriber(server), Sse(server):
        assert eventually(lambda: now()("subscribers") == 2, 10)
        started = server.run(image="busybox:local", command="sleep 2", memory=16, wait=30)
        assert started.status == 200, started.text
        failed = server.run(image="busybox:local", command="false", memory=16, type="container", wait=30)
        assert failed.status == 200, failed.text
    found = now()
    assert found("http_request_duration_seconds_count", route="/run", method="POST", status="200") == 2
    for status in ("101", "200"):
        assert found("http_request_duration_seconds_count", route="/events", method="GET", status=status) == 1
    assert [found("tokens_refused_total", reason=reason) for reason in ("missing", "unknown")] == [1, 1]
    assert found("runs_started_total", type="service") == found("runs_started_total", type="container") == 1
    assert found("runs_ended_total", type="service", status="complete", reason="exit") == 1
    assert found("runs_ended_total", type="container", status="failed", reason="exit") == 1
    assert found("run_queue_seconds_count", type="service") == 1
    assert found("event_lag_seconds_count") > 1
    assert found("services", type="service", status="complete") == 1
    assert found("nodes", state="ready") == 1
    assert found("frames_sent_total") > 3
    assert found("journal_facts") > 3
    assert found("journal_records") >= 3
    for kind in ("list", "inspect", "create", "logs", "health"):
        assert found("engine_call_duration_seconds_count", kind=kind, outcome="ok") > 0, kind


def test_instances_of_functions_are_counted_apart() -> None:
    """They start and end as calls need them: among the runs they would hide what jobs do."""
    metrics = metrics_of(There())
    function = FunctionRef("hello", 1)
    for before, after in pairwise([None, PENDING, RUNNING, COMPLETE]):
        views = [view and msgspec.structs.replace(view, function=function) for view in (before, after)]
        for event in cloudevents.of_service(views[0], views[1] or RUNNING, "2024-05-06T07:08:20Z"):
            metrics.event(event)
    metrics.functions.instance("hello", "idle")
    text = asyncio.run(metrics.scrape())[0].decode()
    assert 'qmaster_instances_ended_total{function="hello",reason="idle"} 1.0' in text
    assert "qmaster_runs_ended_total{" not in text
    assert "qmaster_runs_started_total{" not in text


def test_a_function_that_is_removed_loses_its_series() -> None:
    """Names come and go: their series would stay for ever."""
    metrics = metrics_of(There())
    metrics.functions.instance("gone", "idle")
    metrics.functions.invocation(INVOCATION, "dead")
    first, second = (asyncio.run(metrics.scrape())[0].decode() for _ in range(2))
    assert 'function="gone"' not in first + second
    assert 'function="hello"' in second
    assert 'qmaster_function_invocations_queued{function="hello"} 9.0' in second
    assert 'qmaster_function_invocations_ended_total{function="hello",outcome="dead"} 1.0' in second
