"""stats of runs: each start, wait and end counts once, in its minute, for its owner; also from the journal."""

import asyncio
import time
import timeit
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from function_cases import view
from structlog.testing import capture_logs

from qmaster.errors import JournalUnwritable
from qmaster.events import cloudevents
from qmaster.events.journal import Journal
from qmaster.events.rows import NewEvent
from qmaster.models.responses import FunctionRef, Node, Reserved, Service
from qmaster.models.stats import RunNumbers
from qmaster.runs.stats import RunStats

Views = Sequence[Service | None]
NOW = 1_764_590_430.0  # 30 s into a minute
HERE = int(NOW) // 60


def at(seconds: float, now: float = NOW) -> str:
    """The time so many seconds from now."""
    return datetime.fromtimestamp(now + seconds, UTC).isoformat().replace("+00:00", "Z")


def run(status: str, *, now: float = NOW, **fields: Any) -> Service:
    """A run that was created 100 s ago, began 90 s ago and, if it is over, ended 20 s ago."""
    over = status in ("complete", "failed")
    times = {"created_at": at(-100, now), "started_at": None if status == "pending" else at(-90, now)}
    ends = {"finished_at": at(-20, now), "reason": "exit", "exit_code": int(status == "failed")} if over else {}
    return view("r1", status, **{"function": None, **times, **ends, **fields})


PENDING, RUNNING, COMPLETE, FAILED = map(run, ("pending", "running", "complete", "failed"))
STOPPING = run("stopping", reason="stopped")
STOPPED = run("removed", reason="stopped", removed_at=at(-20), finished_at=at(-20), exit_code=143)
GONE = msgspec.structs.replace(COMPLETE, status="removed", removed_at=at(-5))
TIMED_OUT = run("failed", reason="timeout", exit_code=137)


def tell(stats: RunStats, views: Views, now: str = at(0)) -> None:
    for before, after in pairwise(views):
        assert after is not None
        for event in cloudevents.of_service(before, after, now):
            stats.event(event)


def told(stats: RunStats, owner: str | None = None, minutes: int = 3) -> dict[str, int]:
    """Each count of the last minutes that is not 0."""
    numbers = stats.runs(owner, HERE - minutes + 1, minutes)
    return {name: n for name in ("started", "complete", "failed", "stopped") if (n := sum(getattr(numbers, name)))}


def stats_of(*views: Service | None) -> RunStats:
    stats = RunStats(lambda: NOW)
    tell(stats, views)
    return stats


CASES: list[tuple[Views, dict[str, int]]] = [
    ((None, PENDING), {"started": 1}),
    ((None, PENDING, RUNNING, COMPLETE), {"started": 1, "complete": 1}),
    ((None, PENDING, RUNNING, COMPLETE, GONE), {"started": 1, "complete": 1}),
    ((None, PENDING, RUNNING, FAILED), {"started": 1, "failed": 1}),
    ((None, PENDING, RUNNING, TIMED_OUT), {"started": 1, "failed": 1}),
    ((None, PENDING, RUNNING, STOPPING, STOPPED), {"started": 1, "stopped": 1}),
    # seen as it is being stopped, when its tasks have ended: the removal is no second end
    ((RUNNING, run("stopping", reason="stopped", finished_at=at(-20)), STOPPED), {"stopped": 1}),
    ((RUNNING, run("stopping", reason="timeout", finished_at=at(-20)), TIMED_OUT), {"failed": 1}),
    # stopped after its end: that was the end
    ((None, COMPLETE, run("stopping", reason="exit", finished_at=at(-20)), GONE), {"started": 1, "complete": 1}),
    # removed before an end was seen: nobody knows how it ended
    ((None, PENDING, run("removed", reason=None, removed_at=at(-5))), {"started": 1}),
    ((PENDING, run("pending", reason="unschedulable"), run("removed", reason="unschedulable", removed_at=at(-5))), {}),
    ((PENDING, run("removed", reason="stopped", removed_at=at(-5))), {"stopped": 1}),
    ((RUNNING, run("removed", reason="exit", exit_code=0, finished_at=at(-20))), {"complete": 1}),
    ((RUNNING, run("removed", reason="exit", exit_code=3, finished_at=at(-20))), {"failed": 1}),
    ((RUNNING, run("removed", reason="timeout", exit_code=137)), {"failed": 1}),
    # first seen when it was over; over since before the start
    ((None, COMPLETE), {"started": 1, "complete": 1}),
    ((COMPLETE, msgspec.structs.replace(COMPLETE, restarts=1), GONE), {}),
    # restarted: one end, after the last attempt; begun anew: another end
    ((RUNNING, msgspec.structs.replace(RUNNING, status="pending", restarts=1), RUNNING, FAILED), {"failed": 1}),
    ((RUNNING, FAILED, RUNNING, FAILED), {"failed": 2}),
    # longer ago than a day; and by a clock that is ahead
    ((None, run("complete", created_at=at(-200_000), finished_at=at(-100_000))), {}),
    ((None, run("complete", created_at=at(500), finished_at=at(900))), {"started": 1, "complete": 1}),
    # what is no run
    ((None, run("complete", function=FunctionRef("hello", 1))), {}),
    ((None, run("complete", owner=None)), {}),
]  # fmt: skip


@pytest.mark.parametrize(("views", "expected"), CASES)
def test_each_start_and_end_counts_once(views: Views, expected: dict[str, int]) -> None:
    """Whatever the states between, and whenever it is seen first."""
    assert told(stats_of(*views)) == expected


def test_it_counts_in_the_minute_in_which_it_was() -> None:
    """Created 100 s ago, running 10 s later, for 70 s; its end was this minute's."""
    numbers = stats_of(None, PENDING, RUNNING, COMPLETE).runs(None, HERE - 2, 3)
    near: Any = pytest.approx
    assert numbers == RunNumbers(
        started=[1, 0, 0], complete=[0, 0, 1], failed=[0, 0, 0], stopped=[0, 0, 0],
        duration_p50=[None, None, near(70, 0.05)], duration_p95=[None, None, near(70, 0.05)],
        queued_p50=[None, near(10, 0.05), None], queued_p95=[None, near(10, 0.05), None],
    )  # fmt: skip


@pytest.mark.parametrize("views", [(None, COMPLETE), (None, PENDING, COMPLETE), (None, RUNNING, STOPPING, STOPPED)])
def test_the_wait_counts_whenever_the_start_is_told(views: Views) -> None:
    """Also if its end was seen first."""
    assert stats_of(*views).runs(None, HERE - 2, 3).queued_p50 == [None, pytest.approx(10, 0.05), None]


def test_the_wait_counts_once() -> None:
    """Of a run that was seen thrice and waited 10 s, and of two that waited 40 s, the half is at 40 s."""
    stats = stats_of(None, RUNNING, COMPLETE, GONE)
    for _ in range(2):
        tell(stats, [None, run("pending"), run("running", created_at=at(-130))])
    assert stats.runs(None, HERE - 1, 1).queued_p50 == [pytest.approx(40, 0.05)]


def test_owners_are_apart() -> None:
    """None is all of them; one without runs has zeros."""
    stats = RunStats(lambda: NOW)
    for owner in ("root", "alice", "alice", "bob"):
        tell(stats, [None, run("failed", owner=owner)])
    assert told(stats) == {"started": 4, "failed": 4}
    assert told(stats, "alice") == {"started": 2, "failed": 2}
    assert told(stats, "nobody") == {}
    assert len(stats.runs("nobody", HERE, 7).queued_p95) == 7


def node(hostname: str, memory: int, node_id: str = "") -> Node:
    return Node(
        id=node_id or hostname, hostname=hostname, role="worker", state="ready", availability="active", address=None,
        engine="1", memory=1000, cpus=1.0, reserved=Reserved(memory, 0.0), leader=False,
    )  # fmt: skip


def test_the_memory_of_nodes_is_noted_each_minute() -> None:
    """Null where it was not known; a host name that two nodes have is one."""
    clock = [NOW]
    stats = RunStats(lambda: clock[0])
    stats.tick([node("a", 0), node("b", 5)])
    clock[0] += 60
    stats.tick([])
    clock[0] += 60
    stats.tick([node("b", 1, "b1"), node("b", 2, "b2")])
    told = {name: each.memory_reserved for name, each in stats.nodes(HERE, 3).items()}
    assert told == {"a": [0, None, None], "b": [5, None, 3]}
    assert list(stats.nodes(HERE + 2, 1)) == ["b"]


def test_the_memory_of_a_node_may_be_any_number() -> None:
    """Tasks of global services are given to their nodes before there is room: they may want more than is kept."""
    stats = RunStats(lambda: NOW)
    for _ in range(60):
        stats.tick([node("a", 2**43), node("b", 7)])
    told = {name: each.memory_reserved for name, each in stats.nodes(HERE, 1).items()}
    assert told == {"a": [2**32 - 2], "b": [7]}


@pytest.mark.parametrize("jump", [-3600, 3600, -3 * 86400, 3 * 86400])
def test_a_clock_that_jumps_breaks_nothing(jump: float) -> None:
    """What was counted under another time may be lost; what comes then counts."""
    clock = [NOW]
    stats = RunStats(lambda: clock[0])
    tell(stats, [None, COMPLETE])
    clock[0] += jump
    stats.tick([node("a", 1)])
    later = run("failed", now=NOW + jump)
    tell(stats, [None, later], at(0, NOW + jump))
    stats.tick([node("a", 1)])
    numbers = stats.runs(None, stats.now() - 2, 3)
    assert (sum(numbers.failed), sum(numbers.complete)) == (1, 0)
    assert [each for each in numbers.duration_p50 if each] == [pytest.approx(70, rel=0.05)]


def test_an_event_costs_some_microseconds() -> None:
    """Of processor time, with its times parsed: about 15 here, where a commit takes hundreds."""
    stats = RunStats(lambda: NOW)
    (end,) = (event for event in cloudevents.of_service(RUNNING, COMPLETE, at(0)) if event.topic == "service")
    assert min(timeit.repeat(lambda: stats.event(end), number=500, repeat=5, timer=time.thread_time)) / 500 < 100e-6


# --- from the journal -------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A real one, open in the loop of the test."""
    return Journal(tmp_path / "data", 1_000_000, 7)


async def append(journal: Journal, *views: Service | None) -> None:
    """Write these views' events, as the reconciler does."""
    for before, after in pairwise(views):
        assert after is not None
        events = list(cloudevents.of_service(before, after, at(0)))
        first = journal.position.last + 1
        json = [cloudevents.encode(each, "epoch", first + i) for i, each in enumerate(events)]
        await journal.append([NewEvent(e.type, j, "root", e.subject) for e, j in zip(events, json, strict=True)], [])


@pytest.mark.gen_test
async def test_after_a_restart_the_journal_tells_the_same(journal: Journal) -> None:
    """For each of the cases that begin with the run's first event, whatever the size of a page."""
    await journal.open()
    for views, _ in CASES:
        if views[0] is None:
            await append(journal, *((each and msgspec.structs.replace(each, id=str(id(views)))) for each in views))
    expected = RunStats(lambda: NOW)
    for views, _ in CASES:
        if views[0] is None:
            tell(expected, views)
    stats = RunStats(lambda: NOW)
    await stats.recall(journal, journal.position.last)
    assert stats.runs(None, HERE - 1439, 1440) == expected.runs(None, HERE - 1439, 1440)
    assert told(stats)["started"] > 5
    await journal.close()


@pytest.mark.gen_test
async def test_what_comes_after_the_start_is_not_counted_twice(journal: Journal) -> None:
    """The journal is read up to where it was: an end that is published meanwhile counts as it happens."""
    await journal.open()
    await append(journal, None, PENDING, RUNNING)
    stats, until = RunStats(lambda: NOW), journal.position.last
    await append(journal, RUNNING, COMPLETE)
    tell(stats, [RUNNING, COMPLETE])
    await stats.recall(journal, until)
    assert told(stats) == {"started": 1, "complete": 1}
    assert [each for each in stats.runs(None, HERE - 2, 3).queued_p50 if each] == [pytest.approx(10, 0.05)]
    await journal.close()


@pytest.mark.gen_test
async def test_events_that_cannot_be_read_are_left_out(journal: Journal) -> None:
    """As are those of nodes and tasks."""
    await journal.open()
    await journal.append([NewEvent("io.qmaster.service.created", b'{"torn', "root", "x")], [])
    await journal.append([NewEvent("io.qmaster.node.joined", b"{}", "", "n")], [])
    await append(journal, None, FAILED)
    stats = RunStats(lambda: NOW)
    await stats.recall(journal, journal.position.last)
    assert told(stats) == {"started": 1, "failed": 1}
    await journal.close()


@pytest.mark.gen_test
async def test_a_journal_that_cannot_be_read_is_no_end(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers then begin empty, and the log says why."""

    async def torn(*query: Any) -> Any:
        raise JournalUnwritable("torn")

    monkeypatch.setattr(journal, "last_before", torn)
    with capture_logs() as logs:
        await RunStats(lambda: NOW).recall(journal, 5)
    assert [(line["event"], line["reason"]) for line in logs] == [("stats_not_recalled", "torn")]


@pytest.mark.gen_test
async def test_many_events_are_read_page_by_page(journal: Journal) -> None:
    """5,000 runs with their ends take a second or so, and the loop goes on meanwhile."""
    await journal.open()
    for start in range(0, 5000, 500):
        runs = [msgspec.structs.replace(COMPLETE, id=str(n)) for n in range(start, start + 500)]
        events = [event for each in runs for event in cloudevents.of_service(None, each, at(0))]
        json = [cloudevents.encode(each, "epoch", 1) for each in events]
        await journal.append([NewEvent(e.type, j, "root", e.subject) for e, j in zip(events, json, strict=True)], [])
    stats, longest = RunStats(lambda: NOW), 0.0
    recalling = asyncio.create_task(stats.recall(journal, journal.position.last))
    while not recalling.done():
        began = time.thread_time()  # the loop's own work: a busy machine may take its processor away
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - began)
    assert told(stats) == {"started": 5000, "complete": 5000}
    assert longest < 0.05
    await journal.close()
