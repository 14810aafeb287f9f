"""ResultCollector: what a run has said is in the journal once it has ended, whatever gets in the way."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
from fakes import CONTAINER_ID, Fake, container, service, task
from structlog.testing import capture_logs
from swarm_cases import NODES, NOW, REPLICAS_2

from qmaster.engine import logs
from qmaster.errors import EngineAway, HttpError, JournalUnwritable, NodeUnreachable, NotFound, TooManyCalls
from qmaster.events import journal
from qmaster.models import results
from qmaster.models.responses import Result, Service, Task
from qmaster.models.results import Line, Outcome, Output
from qmaster.runs import results as results_module
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.reconciler import Reconciler
from qmaster.runs.results import ResultCollector
from qmaster.runs.views import container_status, status

pytestmark = pytest.mark.gen_test

OURS = {"io.qmaster.owner": "root"}
LIMIT = 1000


def view(*tasks: Any, **spec: Any) -> Service:
    return status.service(service(Labels=OURS, **spec), tasks, NODES, NOW)


ENDED = view(task("failed", code=3))
BOX = container_status.container(
    container(state={"Status": "exited", "ExitCode": 4, "FinishedAt": "2024-05-06T07:08:19Z"})
)


class Logs(Fake, logs.Logs):
    """Each says its own id; ``times`` is how often a failure comes before."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.part: Output | None = None  # what arrives before a break
        self.times = 10**9

    async def capture(self, kind: logs.Kind, target_id: str, limit: int, partial: bool = False) -> Output:
        self.noted("capture", kind, target_id, limit)
        await asyncio.sleep(0)
        if partial and self.part is not None:
            return self.part
        if self.error is not None and len(self.calls) <= self.times:
            raise self.error
        return Output([Line("2024-05-06T07:08:19Z", "stdout", target_id.encode())])


class Journal(journal.Journal):
    def __init__(self, parts: "Components") -> None:
        self.parts = parts

    async def keep_outcome(self, run_id: str, outcome: bytes) -> None:
        if self.parts.full:
            self.parts.full -= 1
            raise self.parts.refusal
        self.parts.kept[run_id] = results.decode(outcome)


class Components(Fake, Reconciler):
    """The journal, and the reconciler; what was shown comes after what was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = Logs()
        self.kept: dict[str, Outcome] = {}
        self.shown: dict[str, Result] = {}
        self.full = 0
        self.refusal: HttpError = JournalUnwritable("full")
        self.before: list[Task] = []
        self.cache = Cache(self)
        self.stale_since: str | None = None
        self.collector = ResultCollector(self.logs, Journal(self), self, LIMIT)

    async def show_result(self, run_id: str, result: Result) -> None:
        assert run_id in self.kept
        self.shown[run_id] = result


class Cache(RunCache):
    def __init__(self, parts: Components) -> None:
        self.parts = parts

    def earlier(self, service_id: str) -> list[Task]:
        return self.parts.before


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_module, "AGAIN_EVERY", 0.001)
    monkeypatch.setattr(results_module, "GIVE_UP_AFTER", 0.05)
    monkeypatch.setattr(results_module, "BROKEN_FOR", 0.2)


async def test_a_service_is_recorded_by_its_tasks() -> None:
    """The output of each, with its place and exit code, in the journal and then shown."""
    parts = Components()
    await parts.collector.record(ENDED)
    assert parts.logs.calls == [("capture", "task", "t-failed-1", LIMIT)]
    (kept,) = parts.kept["s1"].tasks
    assert (kept.task, kept.slot, kept.node, kept.exit_code) == ("t-failed-1", 1, "host-1", 3)
    assert (parts.shown["s1"].exit_code, parts.shown["s1"].stdout) == (3, "t-failed-1")


async def test_what_ran_before_a_restart_is_kept_beside_the_result() -> None:
    """The log shows it while the service is there, so it does when that is gone."""
    parts = Components()
    parts.before = view(task("failed", ID="earlier", code=5)).tasks
    await parts.collector.record(ENDED)
    (kept,) = parts.kept["s1"].earlier
    assert (kept.task, kept.exit_code, kept.output.lines[0].data) == ("earlier", 5, b"earlier")
    assert (parts.shown["s1"].exit_code, parts.shown["s1"].stdout, parts.shown["s1"].tasks) == (3, "t-failed-1", [])


async def test_a_silent_node_is_waited_for_once() -> None:
    """What ran before a restart is read beside the rest: a stop waits for both, and not for long."""
    parts = Components()
    parts.before = view(task("failed", ID="earlier", code=5)).tasks
    parts.logs.error = NodeUnreachable("the node cannot be reached")
    await parts.collector.record(ENDED)
    assert [target for _, _, target, _ in parts.logs.calls[:2]] == ["t-failed-1", "earlier"]
    kept = parts.kept["s1"]
    assert [each.output for each in (*kept.tasks, *kept.earlier)] == [Output([], truncated=True)] * 2


async def test_a_container_is_recorded_by_itself() -> None:
    """It has no tasks."""
    parts = Components()
    await parts.collector.record(BOX)
    assert parts.logs.calls == [("capture", "container", CONTAINER_ID, LIMIT)]
    assert (parts.shown[CONTAINER_ID].exit_code, parts.shown[CONTAINER_ID].tasks) == (4, [])


async def test_the_task_that_ended_first_comes_first() -> None:
    """Whatever its slot; its result is the run's."""
    parts = Components()
    late = task("complete", 1, code=0, at="2024-05-06T07:08:19Z")
    early = task("failed", 2, code=9, at="2024-05-06T07:08:18.5Z")
    await parts.collector.record(view(late, early, **REPLICAS_2))
    assert parts.shown["s1"].exit_code == 9
    assert [each.slot for each in parts.shown["s1"].tasks] == [2, 1]


@pytest.mark.parametrize("count", [2, 20])
async def test_of_many_tasks_each_has_a_share(count: int) -> None:
    """So that all of them together are bounded, with those that ran before."""
    parts = Components()
    tasks = [task("complete", slot, code=0) for slot in range(1, count + 1)]
    parts.before = view(task("failed", ID="earlier", code=5)).tasks
    await parts.collector.record(view(*tasks, Mode={"Replicated": {"Replicas": count}}))
    assert [limit for *_, limit in parts.logs.calls] == [results.share(LIMIT, count + 1)] * (count + 1)


async def test_what_never_had_a_container_has_said_nothing() -> None:
    """The engine is not asked."""
    parts = Components()
    await parts.collector.record(view(task("rejected", err="No such image: x")))
    assert parts.logs.calls == []
    assert (parts.shown["s1"].exit_code, parts.shown["s1"].stdout) == (None, "")


@pytest.mark.parametrize(
    ("shown", "read"),
    [
        (ENDED, True),
        (view(task("running")), False),
        (view(task("pending")), False),
        (msgspec.structs.replace(ENDED, owner=None), False),
        (msgspec.structs.replace(ENDED, result=results.result(Outcome([]))), False),
        (msgspec.structs.replace(ENDED, status="removed"), False),
    ],
)
async def test_a_change_that_is_an_end_is_recorded(shown: Service, read: bool) -> None:
    """Of what quartermaster started, once."""
    parts = Components()
    parts.collector.notice(shown)
    parts.collector.notice(shown)
    await asyncio.sleep(0.02)
    assert len(parts.logs.calls) == int(read)
    await parts.collector.close()


@pytest.mark.slow
async def test_an_engine_that_is_away_is_waited_for() -> None:
    """However long: the output is there when it comes back."""
    parts = Components()
    parts.stale_since = "2024-05-06T07:08:19Z"
    parts.logs.error, parts.logs.times = EngineAway("away"), 1000
    await parts.collector.record(ENDED)
    assert parts.shown["s1"].stdout == "t-failed-1"


@pytest.mark.parametrize("part", [None, Output([Line("2024-05-06T07:08:19Z", "stdout", b"begun")], truncated=True)])
async def test_a_log_that_always_breaks_off_is_given_up(part: Output | None) -> None:
    """Where the engine answers other calls; what arrives is kept, and the log says so."""
    parts = Components()
    parts.logs.error, parts.logs.part = EngineAway("the connection broke"), part
    began = time.monotonic()
    with capture_logs() as lines:
        await parts.collector.record(ENDED)
    assert time.monotonic() - began >= 0.2
    shown = parts.shown["s1"]
    assert (shown.exit_code, shown.stdout, shown.truncated) == (3, "begun" if part else "", True)
    (warning,) = [line for line in lines if line["event"] == "output_not_read"]
    assert (warning["what"], warning["reason"]) == ("t-failed-1", "the connection broke")
    assert warning["kept"] == (5 if part else 0)


async def test_a_node_that_is_out_of_reach_is_given_up() -> None:
    """After a while; then the result says that there was more."""
    parts = Components()
    parts.logs.error = NodeUnreachable("no way to it")
    began = time.monotonic()
    await parts.collector.record(ENDED)
    assert time.monotonic() - began >= 0.05
    assert (parts.shown["s1"].exit_code, parts.shown["s1"].truncated) == (3, True)


async def test_what_is_gone_has_no_output() -> None:
    """Its exit code is known all the same."""
    parts = Components()
    parts.logs.error = NotFound("gone")
    await parts.collector.record(ENDED)
    assert (parts.shown["s1"].exit_code, parts.shown["s1"].truncated) == (3, True)


@pytest.mark.parametrize("refusal", [JournalUnwritable("full"), TooManyCalls("25 s for a slot")])
async def test_nothing_is_shown_before_it_is_kept(refusal: HttpError) -> None:
    """A journal that cannot be written, or has no turn for it in time, is tried again; the output is read once."""
    parts = Components()
    parts.full, parts.refusal = 5, refusal
    await parts.collector.record(ENDED)
    assert (len(parts.logs.calls), parts.full) == (1, 0)
    assert parts.shown["s1"].exit_code == 3


async def test_who_waits_for_a_record_and_hangs_up_ends_nothing() -> None:
    """It is for all."""
    parts = Components()
    parts.logs.error, parts.logs.times = EngineAway("away"), 20
    one = asyncio.create_task(parts.collector.record(ENDED))
    await asyncio.sleep(0.002)
    one.cancel()
    await parts.collector.record(ENDED)
    assert parts.shown["s1"].stdout == "t-failed-1"
