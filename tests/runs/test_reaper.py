"""Reaper: what is stopped, timed out or old enough is ended, and nothing is removed before its output was read."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from fakes import CONTAINER_ID, Fake, container, service, task
from swarm_cases import NODES

from qmaster.engine import containers, services
from qmaster.errors import EngineAway, JournalUnwritable
from qmaster.events import journal
from qmaster.models import results
from qmaster.models.responses import Service, Task
from qmaster.models.results import Outcome
from qmaster.runs import reaper as reaper_module
from qmaster.runs.reaper import Reaper
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.reconciler import Reconciler
from qmaster.runs.results import ResultCollector
from qmaster.runs.views import container_status, task_status
from qmaster.runs.views import status as lifecycle

pytestmark = pytest.mark.gen_test

LABELS = {"io.qmaster.owner": "root"}
RESULT = results.result(Outcome([]))


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def view(state: str, at: float = 0.0, *, ending: str = "", read: bool = False, **more: Any) -> Service:
    """A service whose task came to this state so many seconds ago; ``timeout`` and ``ttl`` in ``more``."""
    labels = {**LABELS, **({"io.qmaster.end": ending} if ending else {})}
    terminal = state in task_status.TERMINAL
    one = task(state, code=0 if terminal else None, at=ago(at), DesiredState="shutdown" if terminal else "running")
    shown = lifecycle.service({**service(Labels=labels), "UpdatedAt": ago(at)}, [one], NODES, datetime.now(UTC))
    return msgspec.structs.replace(shown, result=RESULT if read else None, **more)


def box(status: str, at: float = 0.0, ending: str | None = None, read: bool = False, **more: Any) -> Service:
    state = {"Status": status, "StartedAt": ago(at), "FinishedAt": ago(at) if status == "exited" else ""}
    shown = container_status.container(container(state=state), ending)
    return msgspec.structs.replace(shown, owner="root", result=RESULT if read else None, **more)


class Components(Fake, Reconciler):
    """A reaper with all that it was given: what each of them is asked is noted, in order."""

    def __init__(self, *views: Service, max_kept: int | None = None) -> None:
        super().__init__()
        self.max_kept = max_kept
        self.views = {each.id: each for each in views}
        self.after: dict[str, Callable[[], None]] = {}
        self.ran = False
        self.cache: Cache = Cache(self)
        self.away = False
        self.recorded_after = 0.0
        self.looked_after: list[list[str]] = []  # what had been done when a container was looked at
        self.reaper = Reaper(Swarm(self), Containers(self), Journal(self), self, Collector(self), self.most)

    def note(self, name: str, *args: Any) -> None:
        self.noted(name, *args)
        if name in self.after:
            self.after[name]()

    def becomes(self, shown: Service | None, run_id: str = "s1") -> None:
        """What the reconciler would tell."""
        if shown is None:
            shown = msgspec.structs.replace(self.views[run_id], status="removed")
        self.views[shown.id] = shown
        self.reaper.notice(shown)

    def most(self, owner: str) -> int | None:
        return self.max_kept if owner == "root" else None

    def look(self, service_id: str) -> None:
        pass

    def will_remove(self, run_id: str) -> None:
        self.note("will_remove")

    async def refresh(self, service_id: str) -> Service | None:
        found = self.views.get(service_id)
        return None if found is None or found.status == "removed" else found

    async def ending_container(self, container_id: str, why: str) -> None:
        self.note("ending", why)

    async def look_at_container(self, container_id: str) -> None:
        self.looked_after.append(self.names())
        if self.away:
            raise EngineAway("away")

    async def until(self, *names: str) -> None:
        """Wait until it was asked just that, in this order."""
        async with asyncio.timeout(5):
            while self.names() != list(names):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)

    async def stays(self, *names: str) -> None:
        await asyncio.sleep(0.1)
        assert self.names() == list(names)


class Cache(RunCache):
    def __init__(self, parts: Components) -> None:
        self.parts = parts

    def find(self, name_or_id: str, owner: str | None = None) -> Service | None:
        return self.parts.views.get(name_or_id)

    def services(self) -> list[Service]:
        return [each for each in self.parts.views.values() if each.status != "removed"]

    def ends_within(self, service_id: str) -> float:
        return 0.3

    def earlier(self, service_id: str) -> list[Task]:
        return view("failed").tasks if self.parts.ran else []


class Swarm(services.Swarm):
    def __init__(self, parts: Components) -> None:
        self.parts = parts

    async def end(self, service_id: str, label: str, why: str) -> bool:
        self.parts.note("end", why)
        return True

    async def remove(self, service_id: str) -> None:
        self.parts.note("remove")
        self.parts.becomes(None, service_id)


class Containers(containers.Containers):
    def __init__(self, parts: Components) -> None:
        self.parts = parts

    async def stop(self, container_id: str) -> None:
        self.parts.note("stop")

    async def remove(self, container_id: str) -> None:
        self.parts.note("remove")
        self.parts.becomes(None, container_id)


class Journal(journal.Journal):
    def __init__(self, parts: Components) -> None:
        self.parts = parts

    async def end(self, run_id: str, why: str) -> None:
        self.parts.note("keep", why)


class Collector(ResultCollector):
    def __init__(self, parts: Components) -> None:
        self.parts = parts

    async def record(self, view: Service) -> None:
        self.parts.note("record")
        await asyncio.sleep(self.parts.recorded_after)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"SETTLE": 0.05, "KEPT": 0.2, "LOOK_EVERY": 0.005, "AGAIN_EVERY": 0.005}.items():
        monkeypatch.setattr(reaper_module, name, seconds)


# Stops


async def test_what_runs_is_ended_recorded_and_removed() -> None:
    """In this order; the call returns when the swarm has accepted the end."""
    parts = Components(view("running"))
    await parts.reaper.stop(parts.views["s1"])
    assert parts.calls == [("end", "stopped")]
    parts.becomes(view("running", ending="stopped"))
    await parts.stays("end")
    parts.becomes(view("shutdown", ending="stopped"))
    await parts.until("end", "record", "remove")
    await parts.reaper.close()


async def test_a_container_that_has_ended_is_removed_at_once_when_it_was_read() -> None:
    """It is not said to have been stopped; one that somebody has removed is success too."""
    parts = Components(box("exited"))
    await parts.reaper.stop(parts.views[CONTAINER_ID])
    assert parts.names() == ["record", "remove"]
    assert parts.looked_after == [[], ["record", "remove"]]  # so that its end is told at once
    await parts.reaper.stop(parts.views[CONTAINER_ID])
    assert parts.names() == ["record", "remove"]


async def test_a_stop_that_the_engine_did_not_hear_is_not_made_up_for() -> None:
    """The caller was told that it failed: nothing is noted of it."""
    parts = Components(box("running"))
    parts.away = True
    with pytest.raises(EngineAway):
        await parts.reaper.stop(parts.views[CONTAINER_ID])
    await parts.stays()


async def test_what_does_not_end_in_its_grace_is_removed_all_the_same() -> None:
    """Its node is out of reach."""
    parts = Components(view("running"))
    await parts.reaper.stop(parts.views["s1"])
    parts.becomes(view("running", ending="stopped"))
    await parts.until("end", "record", "remove")


async def test_what_has_ended_is_removed_at_once_when_it_was_read() -> None:
    """The call returns when it is gone."""
    parts = Components(view("complete"))
    await parts.reaper.stop(parts.views["s1"])
    assert parts.names() == ["record", "keep", "will_remove", "remove"]


async def test_what_cannot_be_recorded_is_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop fails, and can be tried again."""
    monkeypatch.setattr(reaper_module, "RECORD_WITHIN", 0.01)
    parts = Components(view("complete"))
    parts.recorded_after = 60
    with pytest.raises(JournalUnwritable):
        await parts.reaper.stop(parts.views["s1"])
    assert parts.names() == ["record"]


async def test_what_waits_for_a_node_is_removed_at_once() -> None:
    """It has said nothing."""
    waits = view("pending")
    parts = Components(msgspec.structs.replace(waits, tasks=[msgspec.structs.replace(waits.tasks[0], node_id=None)]))
    await parts.reaper.stop(parts.views["s1"])
    assert parts.names() == ["keep", "will_remove", "remove"]


async def test_what_waits_to_run_again_is_ended_and_recorded() -> None:
    """What it said before is read of the task that ran last, which is shown once it is being ended."""
    waits = view("pending")
    parts = Components(msgspec.structs.replace(waits, tasks=[msgspec.structs.replace(waits.tasks[0], node_id=None)]))
    parts.ran = True
    await parts.reaper.stop(parts.views["s1"])
    parts.becomes(view("failed", ending="stopped"))
    await parts.until("end", "record", "remove")


async def test_what_has_ended_does_not_wait_to_run_again() -> None:
    """The task that ran last is shown: it is read and removed at once, whatever ran before."""
    parts = Components(view("failed"))
    parts.ran = True
    await parts.reaper.stop(parts.views["s1"])
    assert parts.names() == ["record", "keep", "will_remove", "remove"]


async def test_what_was_given_to_a_node_may_run_already() -> None:
    """Swarm learns a moment later that it does, and what it said by then is not to be lost."""
    parts = Components(view("assigned"))
    await parts.reaper.stop(parts.views["s1"])
    assert parts.names() == ["end"]


async def test_what_one_of_several_replicas_has_said_is_read_before_all_are_removed() -> None:
    """It has ended, and another waits for a node."""
    parts = Components(msgspec.structs.replace(view("complete"), status="pending", finished_at=None))
    await parts.reaper.stop(parts.views["s1"])
    assert parts.names() == ["record", "keep", "will_remove", "remove"]


async def test_a_foreign_service_is_removed_at_once() -> None:
    """As `docker service rm` does: how it is to be ended is not ours to say."""
    parts = Components(msgspec.structs.replace(view("running"), owner=None))
    await parts.reaper.stop(parts.views["s1"])
    assert parts.names() == ["keep", "will_remove", "remove"]


async def test_a_container_is_stopped_recorded_and_removed() -> None:
    """That it is being stopped is in the journal first: a crash leaves nothing half done."""
    parts = Components(box("running"))
    await parts.reaper.stop(parts.views[CONTAINER_ID])
    await parts.until("keep", "ending", "stop", "ending", "record", "remove")


async def test_an_end_that_somebody_else_has_begun_is_taken_up() -> None:
    """Another quartermaster, or this one before it was killed."""
    parts = Components()
    parts.becomes(view("shutdown", ending="stopped"))
    await parts.until("record", "remove")


async def test_an_engine_that_is_away_is_asked_again() -> None:
    """Until the end is carried through."""
    parts = Components()
    parts.fails["remove"] = EngineAway("away")
    parts.becomes(view("shutdown", ending="stopped"))
    await parts.until("record", "remove", "record", "remove")
    parts.fails.clear()
    async with asyncio.timeout(5):
        while parts.views["s1"].status != "removed":  # noqa: ASYNC110
            await asyncio.sleep(0.002)


# Timeouts


async def test_what_runs_too_long_is_timed_out() -> None:
    """From its first `running`; then it stays."""
    parts = Components()
    parts.becomes(view("running", timeout=0.05))
    await parts.until("end")
    assert parts.calls == [("end", "timeout")]
    parts.becomes(view("shutdown", ending="timeout", timeout=0.05, ttl=60.0))
    await parts.stays("end")
    await parts.reaper.close()


async def test_a_change_may_move_a_timeout() -> None:
    """Later, and sooner: what was due before is forgotten."""
    parts = Components()
    running = view("running", timeout=0.05)
    parts.becomes(running)
    parts.becomes(msgspec.structs.replace(running, timeout=60.0))
    await parts.stays()
    parts.becomes(running)
    await parts.until("end")
    await parts.reaper.close()


async def test_a_timeout_that_fell_due_meanwhile_is_made_up_for() -> None:
    """The process was away."""
    parts = Components()
    parts.becomes(view("running", at=100, timeout=50.0))
    await parts.until("end")
    await parts.reaper.close()


@pytest.mark.parametrize(
    "shown",
    [
        view("running", at=100),
        view("pending", at=100, timeout=1.0),
        view("preparing", at=100, timeout=1.0),
        view("complete", at=100, timeout=1.0),
        view("running", at=0, timeout=3600.0),
        msgspec.structs.replace(view("running", at=100, timeout=1.0), owner=None),
    ],
)
async def test_what_is_not_due_is_left_alone(shown: Service) -> None:
    """It has no timeout, does not run yet or any more, has time left, or is not ours."""
    parts = Components()
    parts.becomes(shown)
    await parts.stays()
    await parts.reaper.close()


async def test_an_end_in_time_is_no_timeout() -> None:
    """Also one that the timer overtakes: it is looked at before it is ended."""
    parts = Components(view("running", timeout=0.02))
    parts.reaper.notice(parts.views["s1"])
    parts.views["s1"] = view("complete", timeout=0.02)  # nobody has told of it yet
    await parts.stays()


async def test_a_container_that_runs_too_long_is_stopped() -> None:
    """Its journal entry says why."""
    parts = Components()
    parts.after["stop"] = lambda: parts.becomes(box("exited", ending="timeout", timeout=0.02))
    parts.becomes(box("running", timeout=0.02))
    await parts.until("keep", "ending", "stop")
    assert parts.calls[:2] == [("keep", "timeout"), ("ending", "timeout")]


async def test_a_container_whose_timeout_had_begun_is_stopped_after_a_restart() -> None:
    """The journal has told why it is ending."""
    parts = Components()
    parts.after["stop"] = lambda: parts.becomes(box("exited", ending="timeout", timeout=1.0))
    parts.becomes(box("running", at=10, ending="timeout", timeout=1.0))
    await parts.until("stop")
    await parts.stays("stop")


# Time to live


@pytest.mark.parametrize(("make", "state"), [(view, "complete"), (box, "exited")])
async def test_what_is_old_enough_is_removed(make: Callable[..., Service], state: str) -> None:
    """Not before the least time that it stays, whatever its time to live; what it said was read."""
    parts = Components()
    parts.becomes(make(state, read=True, ttl=0.1))
    await parts.stays()
    await parts.until("remove")


@pytest.mark.parametrize(
    "shown",
    [
        view("complete", at=100, read=True),
        view("complete", at=100, ttl=1.0),
        view("running", at=100, ttl=1.0),
        view("complete", at=100, read=True, ttl=3600.0),
    ],
)
async def test_what_is_not_old_enough_stays(shown: Service) -> None:
    """It has no time to live, was not read yet, runs, or has time left."""
    parts = Components()
    parts.becomes(shown)
    await parts.stays()
    await parts.reaper.close()


def ended(run_id: str, at: float, **more: Any) -> Service:
    """A run that ended so many seconds ago, and was read."""
    return msgspec.structs.replace(view("complete", at=at, read=True, **more), id=run_id)


async def test_the_oldest_that_are_too_many_go_early() -> None:
    """Once they were read, and after the least time that everything stays; what runs or is being stopped is none."""
    parts = Components(max_kept=2)
    for shown in (ended("new", 1), ended("old", 300, ttl=3600.0), ended("older", 400), ended("unread", 500)):
        parts.becomes(msgspec.structs.replace(shown, result=None) if shown.id == "unread" else shown)
    parts.becomes(msgspec.structs.replace(view("running", at=900), id="runs"))
    await parts.stays()
    await parts.until("remove")
    assert [run_id for run_id, shown in parts.views.items() if shown.status == "removed"] == ["older"]
    parts.becomes(ended("unread", 500))
    await parts.until("remove", "remove")
    assert parts.views["unread"].status == "removed"
    await parts.reaper.close()


async def test_another_owners_ended_runs_are_none_of_ours() -> None:
    """They neither count, nor go."""
    parts = Components(max_kept=1)
    for number in range(5):
        parts.becomes(msgspec.structs.replace(ended(f"bobs-{number}", 200), owner="bob"))
    parts.becomes(ended("mine", 100))
    await asyncio.sleep(reaper_module.KEPT)
    await parts.stays()
    await parts.reaper.close()


async def test_many_that_are_noticed_at_once_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start that is everything: to count for each of thousands would hold the loop for minutes."""
    parts = Components(max_kept=1)
    counted: list[str] = []

    def services() -> list[Service]:
        counted.append("services")
        return Cache.services(parts.cache)

    monkeypatch.setattr(parts.cache, "services", services)
    for number in range(50):
        parts.becomes(ended(f"s{number}", 100 - number))
    await asyncio.sleep(0)
    assert len(counted) == 1
    await parts.until(*["remove"] * 49)
    assert parts.views["s49"].status == "complete"
    await parts.reaper.close()


async def test_a_limit_that_changes_counts_for_what_has_ended() -> None:
    """Those that may stay after all do, and those that are too many now go."""
    parts = Components(max_kept=1)
    for number in range(3):
        parts.becomes(ended(f"s{number}", 100 - number))
    parts.max_kept = 3
    parts.reaper.check_kept("root")
    await asyncio.sleep(reaper_module.KEPT)
    await parts.stays()
    parts.max_kept = 0
    parts.reaper.check_kept("root")
    await parts.until("remove", "remove", "remove")
    assert not parts.reaper._excess
    await parts.reaper.close()


# Clocks


def set_clock(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """From now on the clock of the day is so many seconds ahead of the engine's."""
    monkeypatch.setattr(reaper_module, "_now", lambda: datetime.now(UTC) + timedelta(seconds=ahead))


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
async def test_a_clock_that_is_set_ends_nothing_early_and_nothing_late(
    monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """A timeout and a time to live go on as they were."""
    parts = Components()
    running = view("running", timeout=0.4)
    parts.becomes(running)
    timer = parts.reaper._watched["s1"].timer
    set_clock(monkeypatch, ahead)
    parts.becomes(msgspec.structs.replace(running, error="news of it"))
    assert parts.reaper._watched["s1"].timer is timer
    await parts.stays()
    await parts.until("end")
    await parts.reaper.close()


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
async def test_another_clock_than_the_engines_is_not_believed_where_it_began_before_our_eyes(
    monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """A run that was seen before it ran, or before it ended, has its whole time."""
    set_clock(monkeypatch, ahead)
    parts = Components()
    parts.becomes(view("pending", timeout=0.4))
    parts.becomes(view("running", timeout=0.4))
    await parts.stays()
    await parts.until("end")
    parts.becomes(view("shutdown", ending="timeout", timeout=0.4, read=True, ttl=0.3))
    await parts.stays("end")
    await parts.until("end", "remove")


async def test_what_is_removed_is_forgotten() -> None:
    """With its timer."""
    parts = Components()
    parts.becomes(view("running", timeout=0.05))
    parts.becomes(None, "s1")
    assert not parts.reaper._watched
    await parts.stays()


async def test_after_the_end_nothing_is_taken_up() -> None:
    """Something was due once another thing had been done."""
    parts = Components(view("running", at=100, timeout=1.0))
    await parts.reaper.close()
    parts.reaper._notice_again("s1")
    assert not parts.reaper._watched


# -- instances of functions


async def test_one_that_is_to_end_now_is_timed_out() -> None:
    """Whatever its own timeout is; its tasks stay until its ttl expires."""
    parts = Components(view("running", timeout=21_600.0))
    parts.reaper.time_out("s1")
    await parts.until("end")
    assert parts.calls == [("end", "timeout")]
    parts.becomes(view("shutdown", ending="timeout"))
    await parts.reaper.close()


async def test_one_that_did_not_end_is_removed_with_its_output() -> None:
    """The output is read first, though it still runs."""
    parts = Components(view("running"))
    parts.reaper.remove("s1")
    await parts.until("record", "remove")
    await parts.reaper.close()
