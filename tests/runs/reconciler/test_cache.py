"""cache: what was listed, beside what was published of it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from fakes import CONTAINER_ID, container, node, service, task

from qmaster.engine.labels import END
from qmaster.models import results
from qmaster.models.responses import Service
from qmaster.models.results import Outcome
from qmaster.runs.reconciler.cache import RunCache

Json = dict[str, Any]


def versioned(raw: Json, index: int = 1) -> Json:
    return {**raw, "Version": {"Index": index}}


def listed(*tasks: Json, index: int = 1) -> RunCache:
    view = RunCache()
    view.list_nodes([node()])
    view.list_service(versioned(service(), index), tasks, 1.0)
    return view


def test_a_task_that_still_runs_somewhere_has_its_room() -> None:
    """Its newest task has failed, and an older one is on a node that is down: it may be heard of yet."""
    view = RunCache()
    view.list_nodes([{**node(), "Spec": {}}])
    room = {"RestartPolicy": {"Condition": "none"}, "Resources": {"Reservations": {"MemoryBytes": 64 * 1024 * 1024}}}
    old = task("running", ID="old", CreatedAt="2024-05-06T07:00:00Z")
    view.list_service(versioned(service(TaskTemplate=room)), [old, task("failed", code=1)], 1.0)
    assert view.entries["s1"].current.status == "failed"
    assert view.node_views()[0].reserved.memory == 64


def test_what_has_not_moved_is_not_looked_at_again() -> None:
    """It was seen all the same."""
    view = listed(task("complete", code=0))
    view.dirty.clear()
    view.list_service(versioned(service()), [task("complete", code=0)], 2.0)
    assert (view.dirty, view.entries["s1"].seen) == (set(), 2.0)


@pytest.mark.parametrize(
    ("raw", "tasks"),
    [
        (versioned(service(), 2), [task("complete", code=0)]),
        (versioned(service()), [task("complete", code=0, Version={"Index": 2})]),
        (versioned(service()), [task("failed", ID="t-complete-1", code=1)]),
        (versioned(service()), [task("complete", code=0), task("pending", slot=2)]),
    ],
    ids=["service", "task", "its state", "another task"],
)
def test_what_has_moved_is_looked_at(raw: Json, tasks: list[Json]) -> None:
    """A label, a state, one more task."""
    view = listed(task("complete", code=0))
    view.dirty.clear()
    view.list_service(raw, tasks, 2.0)
    assert view.dirty == {"s1"}


@pytest.mark.parametrize(
    ("spec", "dirty"),
    [
        ({}, set()),
        ({"TaskTemplate": {"ContainerSpec": {}, "RestartPolicy": {"Condition": "any"}}}, {"s1"}),
        ({"Labels": {END: "stopped"}}, {"s1"}),
    ],
    ids=["plain", "is restarted", "is being ended"],
)
def test_what_time_alone_may_change_is_looked_at(spec: Json, dirty: set[str]) -> None:
    """A task of it may be due again, or it has not ended in time: no version tells that."""
    view = RunCache()
    for seen in (1.0, 2.0):
        view.dirty.clear()
        view.list_service(versioned(service(**spec)), [task("running", DesiredState="running")], seen)
    assert (view.dirty, view.entries["s1"].seen) == (dirty, 2.0)


def test_what_one_task_has_told_is_not_taken_back() -> None:
    """A manager that is behind may list it as it was."""
    running = task("running", DesiredState="running")
    view = listed(running)
    assert view.list_task(task("complete", ID=running["ID"], code=0))
    view.list_service(versioned(service()), [running], 2.0)
    assert view.entries["s1"].current.status == "complete"


def test_what_has_not_ended_is_known_without_looking() -> None:
    """Of 5,000 services each turn would look at all; containers are no matter of a sweep."""
    view = listed(task("running"))
    view.list_container(container(), None, 1.0)
    assert view.going == {"s1"}
    view.list_service(versioned(service(), 2), [task("complete", code=0)], 2.0)
    assert view.going == set()
    view.list_service(versioned(service(), 3), [task("running", ID="again")], 3.0)
    assert view.going == {"s1"}
    view.vanish("s1", "2024-05-06T07:08:09Z", stopped=False)
    assert view.going == set()


def test_an_older_answer_that_comes_last_is_dropped() -> None:
    """A container that has ended does not run again by it."""
    view = RunCache()
    view.list_container(container(state={"Status": "exited"}), None, 2.0)
    view.list_container(container(), None, 1.0)
    assert view.entries[CONTAINER_ID].current.status == "complete"


def test_what_is_over_may_begin_again() -> None:
    """One of its tasks is wanted after all: it is told by that one."""
    view = listed(task("failed", code=1))
    assert view.list_task(task("running", ID="t2", CreatedAt="2024-05-06T08:00:00Z", DesiredState="running"))
    assert view.entries["s1"].current.status == "running"
    assert set(view.entries["s1"].tasks) == {"t-failed-1", "t2"}


def test_what_was_gone_and_is_there_again_is_looked_at() -> None:
    """A manager that was behind may leave it out of one listing: nothing of it has moved in the next."""
    view = listed(task("complete", code=0))
    view.vanish("s1", "2024-05-06T08:00:00Z", stopped=False)
    view.list_service(versioned(service()), [task("complete", code=0)], 2.0)
    assert view.entries["s1"].current.status == "complete"


@pytest.mark.parametrize(
    ("tasks", "earlier"),
    [
        ([task("failed", code=1), task("pending", CreatedAt="2024-05-06T08:00:00Z")], ["t-failed-1"]),
        ([task("rejected"), task("pending", CreatedAt="2024-05-06T08:00:00Z")], []),
        (
            [
                task("failed", ID="b", code=1, CreatedAt="2024-05-06T07:30:00Z"),
                task("failed", ID="a", code=1),
                task("pending", CreatedAt="2024-05-06T08:00:00Z"),
            ],
            ["a", "b"],
        ),
        ([task("failed", code=1), task("pending", slot=2)], []),
        ([], []),
    ],
    ids=["again", "had no container", "twice", "another", "nothing"],
)
def test_the_tasks_whose_places_others_took(tasks: list[Json], earlier: list[str]) -> None:
    """They may have said something, and are not shown any more."""
    assert [one.id for one in listed(*tasks).earlier("s1")] == earlier
    assert RunCache().earlier("s1") == []


def test_each_change_of_the_listing_is_counted() -> None:
    """A new run, one that moves, a result, a removal, and that it is gone; not what is as it was."""
    view = RunCache()
    seen = [view.revision]

    def step(change: Callable[[], object]) -> bool:
        change()
        seen.append(view.revision)
        return seen[-1] > seen[-2]

    def publish() -> None:
        view.mark_published(view.take_unpublished(["s1"], True, "now")[0])

    begun, done = task("preparing", ID="one"), task("complete", code=0)
    assert step(lambda: view.list_service(versioned(service()), [begun], 1.0))
    assert step(lambda: view.list_task({**task("running", ID="one"), "Version": {"Index": 9}}))
    assert step(lambda: view.list_service(versioned(service()), [done], 2.0))
    assert step(lambda: view.show_result("s1", results.result(Outcome([]))))
    assert not step(publish)
    assert not step(lambda: view.list_service(versioned(service()), [done], 3.0))
    assert step(lambda: view.vanish("s1", "2024-05-06T08:00:00Z", False))
    assert view.services()
    assert step(publish)
    assert not view.services()


def test_a_run_is_found_by_its_name_until_it_is_gone() -> None:
    """By the one that it has now; where two have it, the one that is not removed."""
    view = RunCache()

    def found(name: str, owner: str | None = None) -> str | None:
        run = view.find(name, owner)
        return run.id if run else None

    view.list_container(container("c1", "box"), None, 1.0)
    view.list_service(service("s1", "one"), [], 1.0)
    assert (found("box"), found("one"), found("one", "alice"), found("two")) == ("c1", "s1", None, None)
    view.list_container(container("c1", "crate"), None, 2.0)
    assert (found("box"), found("crate")) == (None, "c1")
    view.vanish("s1", "2024-05-06T08:00:00Z", False)
    assert found("one") == "s1"
    view.list_service(service("s2", "one"), [], 3.0)
    assert found("one") == "s2"
    for gone in ("s1", "c1"):
        view.vanish(gone, "2024-05-06T08:00:00Z", False)
    view.mark_published(view.take_unpublished(["s1", "s2", "c1"], True, "now")[0])
    assert (found("one"), found("crate"), found("s1")) == ("s2", None, None)


def test_a_node_of_another_name_is_shown_by_it() -> None:
    """Where nothing of the service itself has moved."""
    view = listed(task("running", DesiredState="running"))
    view.list_nodes([node(hostname="host-2")])
    assert [one.node for one in view.entries["s1"].current.tasks] == ["host-2"]


def test_what_was_told_is_not_kept_twice() -> None:
    """A listing makes it anew, equal."""
    running = task("running", DesiredState="running")
    view = RunCache()
    for _ in range(2):
        view.list_service(versioned(service()), [running], 1.0)
        fresh, _ = view.take_unpublished({"s1"}, True, "now")
        view.mark_published(fresh)
    assert view.entries["s1"].published is view.entries["s1"].current


def test_what_is_unpublished_is_taken_some_at_a_time() -> None:
    """What was not asked for stays; what could not be told is there again."""
    view = RunCache()
    view.list_nodes([{**node(), "Spec": {}}])
    for name in ("s1", "s2", "s3"):
        view.list_service(versioned(service(name, f"name-of-{name}")), [], 1.0)
    first, _ = view.take_unpublished(["s2", "s1", "gone"], False, "now")
    assert [event.subject for event in first] == ["s1", "s2"]
    rest, unpublished = view.take_unpublished(["s3"], True, "now")
    assert [event.subject for event in rest] == ["s3", "n1"]
    assert view.take_unpublished(["s1", "s2", "s3"], True, "now")[0] == []
    view.put_back(unpublished)
    assert [event.subject for event in view.take_unpublished(["s3"], True, "now")[0]] == ["s3", "n1"]


@pytest.mark.parametrize(
    ("state", "reason"), [("running", "stopped"), ("pending", "stopped"), ("failed", "exit"), ("complete", "exit")]
)
def test_what_had_ended_was_not_stopped(state: str, reason: str) -> None:
    """Its reason says why it ended; that it was removed afterwards is its status."""
    view = listed(task(state, code=1 if state == "failed" else 0))
    view.vanish("s1", "2024-05-06T08:00:00Z", stopped=True)
    shown = view.entries["s1"].current
    assert (shown.status, shown.reason) == ("removed", reason)


def test_what_is_stopped_after_its_timeout_keeps_that_reason() -> None:
    """It was ended for its time; the removal came to that."""
    view = RunCache()
    view.list_service(versioned(service(Labels={END: "timeout"})), [task("running")], 1.0)
    view.vanish("s1", "2024-05-06T08:00:00Z", stopped=True)
    assert view.entries["s1"].current.reason == "timeout"


def test_what_the_journal_has_and_what_was_read_is_told() -> None:
    """Each may be news."""
    view = listed(task("complete", code=0))
    shown = view.entries["s1"].current
    view.dirty.clear()
    assert view.show_result("s1", results.result(Outcome([])))
    assert view.dirty == {"s1"}
    again = RunCache()
    again.restore(shown, "digest")
    assert again.dirty == {"s1"}


def test_what_a_run_was_started_with_stays() -> None:
    """From its label, whatever becomes of the engine's own spec; and from the journal, without the record around it."""
    labels = {"io.qmaster.spec": '{"image":"busybox","constraints":["node.role==worker"]}'}
    view = RunCache()
    view.list_service(versioned(service(Labels=labels)), [task("running")], 1.0)
    view.list_container(container(labels=labels), None, 1.0)
    template = {"ContainerSpec": {"Image": "busybox"}, "Placement": {"Constraints": ["node.id==none"]}}
    view.list_service(service(Labels={**labels, END: "stopped"}, TaskTemplate=template), [task("running")], 2.0)
    view.list_service({**service(), "ID": "foreign"}, [], 1.0)
    asked = msgspec.Raw(labels["io.qmaster.spec"])
    shown = {name: entry.current.spec for name, entry in view.entries.items()}
    assert shown == {"s1": asked, CONTAINER_ID: asked, "foreign": msgspec.Raw(b"null")}
    stored = msgspec.json.encode(view.entries["s1"].current)
    again = RunCache()
    again.restore(msgspec.json.decode(stored, type=Service), "")
    kept = again.entries["s1"].current
    assert (kept.spec, msgspec.json.encode(kept)) == (asked, stored)


@pytest.mark.parametrize(("owner", "told"), [("alice", False), ("root", True), (None, True)])
def test_the_engines_words_name_nobody_elses_things(owner: str | None, told: bool) -> None:
    """In the error of a run and of its tasks; what only the root token sees has all of them."""
    labels = {"io.qmaster.owner": owner} if owner else {}
    said = f'port is in use by service "victim" ({"9f" * 32})'
    view = RunCache()
    view.list_service(versioned(service(Labels=labels)), [task("rejected", err=said)], 1.0)
    box = container(labels=labels, ours=False, state={"Status": "exited", "ExitCode": 1, "Error": said})
    view.list_container(box, None, 1.0)
    for name in ("s1", CONTAINER_ID):
        shown = msgspec.json.encode(view.entries[name].current).decode()
        assert ("victim" in shown, "9f9f" in shown, "port is in use by" in shown) == (told, told, True)
