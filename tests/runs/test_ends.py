"""status, cache: what was told of an end stays told, and what restarts is counted."""

from typing import Any

import msgspec
import pytest
from fakes import CONTAINER_ID, container, node, service, task

from qmaster.cli import tables
from qmaster.events import cloudevents
from qmaster.models.responses import LastExit, Result, Service
from qmaster.runs.reconciler.cache import RunCache

Json = dict[str, Any]

START, END = "2024-05-06T07:08:10.5Z", "2024-05-06T07:08:11.5Z"
AGAIN, END_AGAIN = "2024-05-06T07:09:10.5Z", "2024-05-06T07:09:11.5Z"
EXITED: Json = {"Status": "exited", "ExitCode": 7, "StartedAt": START, "FinishedAt": END}
ANY: Json = {"TaskTemplate": {"ContainerSpec": {"Image": "busybox"}, "RestartPolicy": {"Condition": "any"}}}
RESULT = Result(exit_code=137, stdout="", stderr="", truncated=False, tasks=[])


def boxes(*states: Json, ending: str | None = None, restarts: tuple[int, ...] = ()) -> list[Service]:
    """What is shown of a container that is inspected in these states, one after the other."""
    view, shown = RunCache(), []
    counts = restarts or (0,) * len(states)
    for seen, (state, count) in enumerate(zip(states, counts, strict=True)):
        view.list_container(container(state=state, RestartCount=count), ending, float(seen))
        shown.append(view.entries[CONTAINER_ID].current)
    return shown


def end_of(view: Service) -> tuple[object, ...]:
    return (view.exit_code, view.reason, view.finished_at, view.result)


@pytest.mark.parametrize("ending", [None, "stopped", "timeout"])
@pytest.mark.parametrize(
    "passing",
    [
        {"Status": "removing", "ExitCode": 0, "FinishedAt": END},
        {"Status": "removing", "ExitCode": 137, "FinishedAt": AGAIN},
        {"Status": "dead", "ExitCode": 0, "FinishedAt": AGAIN},
        {"Status": "dead", "ExitCode": 255, "StartedAt": START, "FinishedAt": "0001-01-01T00:00:00Z", "Error": "busy"},
        {"Status": "created", "ExitCode": 0, "FinishedAt": "0001-01-01T00:00:00Z"},
        {"Status": "exited", "ExitCode": 7, "StartedAt": START, "FinishedAt": END_AGAIN},
    ],
    ids=["removing", "killed as it is removed", "dead", "cannot be removed", "created", "another end of one start"],
)
def test_a_passing_state_takes_nothing_back(ending: str | None, passing: Json) -> None:
    """Of the container's end; nor does its removal."""
    told, shown = boxes(EXITED, passing, ending=ending)
    assert (told.exit_code, told.finished_at) == (7, END)
    assert end_of(shown) == end_of(told)
    view = RunCache()
    view.restore(told, "")
    view.list_container(container(state=passing), ending, 1.0)
    view.vanish(CONTAINER_ID, AGAIN, stopped=ending == "stopped")
    gone = view.entries[CONTAINER_ID].current
    assert (gone.status, end_of(gone)) == ("removed", end_of(told))


@pytest.mark.parametrize("known_first", [True, False], ids=["journal first", "listed first"])
def test_an_end_outlives_a_restart_of_quartermaster(known_first: bool) -> None:
    """The journal has it; the engine, asked again, is removing it."""
    told = msgspec.structs.replace(boxes(EXITED)[0], result=RESULT)
    view = RunCache()
    if known_first:
        view.restore(told, "")
    view.list_container(container(state={"Status": "removing", "ExitCode": 0}), "stopped", 1.0)
    if not known_first:
        view.restore(told, "")
    shown = view.entries[CONTAINER_ID].current
    assert (shown.status, *end_of(shown)) == ("stopping", *end_of(told))


def test_what_has_ended_is_told_to_be_stopping_by_a_stop_alone() -> None:
    """Somebody else's removal shows as removed; a stop of quartermaster's is to be finished after a restart."""
    removing = {"Status": "removing", "ExitCode": 0}
    assert [view.status for view in boxes(EXITED, removing)] == ["failed", "failed"]
    view = RunCache()
    view.restore(boxes(EXITED)[0], "")
    view.list_container(container(state=EXITED), "stopped", 1.0)
    assert view.entries[CONTAINER_ID].current.status == "stopping"


@pytest.mark.parametrize(
    ("then", "status", "code"),
    [
        ({"Status": "running", "StartedAt": AGAIN, "FinishedAt": END}, "running", None),
        ({"Status": "exited", "ExitCode": 0, "StartedAt": AGAIN, "FinishedAt": END_AGAIN}, "complete", 0),
    ],
    ids=["runs", "has run"],
)
def test_a_container_that_was_started_again_has_another_end(then: Json, status: str, code: int | None) -> None:
    """The one before is its last exit; it has started when it first did."""
    _, shown = boxes(EXITED, then)
    assert (shown.status, shown.exit_code, shown.started_at) == (status, code, START)
    assert (shown.restarts, shown.last_exit) == (1, LastExit(7, None, END))


def test_the_code_that_was_read_with_the_output_is_the_runs() -> None:
    """The result may come before the end was seen, which is then gone."""
    view = RunCache()
    view.list_container(container(), "stopped", 1.0)
    view.show_result(CONTAINER_ID, RESULT)
    view.vanish(CONTAINER_ID, END, stopped=True)
    assert view.entries[CONTAINER_ID].current.exit_code == 137


@pytest.mark.parametrize("begun", [START, END, AGAIN])
def test_nothing_starts_after_its_end(begun: str) -> None:
    """Docker tells of a very short container that it does."""
    (shown,) = boxes({**EXITED, "StartedAt": begun})
    assert (shown.started_at, shown.finished_at) == (min(begun, END), END)


# --- services ---------------------------------------------------------------------------------------------------------


def attempt(number: int, state: str, code: int | None = None, slot: int = 1) -> Json:
    at = f"2024-05-06T07:0{number}:00Z"
    wanted = {"running": "running", "preparing": "running", "ready": "ready"}.get(state, "shutdown")
    err = {"err": f"exit {code}"} if code else {}
    ident = f"t{slot}-{number}"
    return task(state, slot, ID=ident, CreatedAt=at, DesiredState=wanted, code=code, at=at, **err)


def lists(*listings: list[Json], view: RunCache | None = None, **spec: Any) -> Service:
    """What is shown of a service after these listings of its tasks."""
    view = view or RunCache()
    view.list_nodes([node()])
    for seen, tasks in enumerate(listings, 1):
        view.list_service(service(**spec), tasks, float(seen))
    return view.entries["s1"].current


@pytest.mark.parametrize(
    "later",
    [[], [attempt(1, "remove", 0)], [attempt(1, "orphaned")], [attempt(0, "failed", 9)]],
    ids=["its record is gone", "is removed", "orphaned", "an older one is left"],
)
def test_a_task_that_goes_takes_no_end_with_it(later: list[Json]) -> None:
    """Swarm may keep no history, or remove what has ended."""
    first = attempt(1, "complete", 0)
    told = lists([attempt(0, "failed", 9), first])
    shown = lists([attempt(0, "failed", 9), first], later)
    assert (shown.status, end_of(shown)) == ("complete", end_of(told))
    assert shown.tasks[0].id == "t1-1" or later[0]["ID"] == "t1-1"


def test_an_older_listing_that_comes_last_is_dropped() -> None:
    """It began before the end was seen."""
    view = RunCache()
    view.list_service(service(), [attempt(1, "complete", 0)], 2.0)
    view.list_service(service(), [], 1.0)
    assert view.entries["s1"].current.status == "complete"


def test_what_is_updated_after_its_end_begins_again() -> None:
    """Another task is there: the end is that of an attempt."""
    shown = lists([attempt(1, "failed", 3)], [attempt(1, "failed", 3), attempt(2, "running")])
    assert (shown.status, *end_of(shown)) == ("running", None, None, None, None)
    assert (shown.restarts, shown.last_exit) == (1, LastExit(3, "exit 3", "2024-05-06T07:01:00Z"))


def test_another_end_is_not_mixed_with_the_one_before() -> None:
    """What was updated and has ended once more, between two looks, has nothing of the attempt before."""
    told = msgspec.structs.replace(lists([attempt(1, "failed", 3)]), result=RESULT)
    view = RunCache()
    view.restore(told, "")
    shown = lists([attempt(1, "failed", 3), attempt(2, "failed", 4)], view=view)
    assert end_of(shown) == (4, "exit", "2024-05-06T07:02:00Z", None)
    assert shown.last_exit == LastExit(3, "exit 3", "2024-05-06T07:01:00Z")
    view = RunCache()
    view.restore(msgspec.structs.replace(boxes(EXITED)[0], result=RESULT), "")
    state = {"Status": "exited", "ExitCode": 4, "StartedAt": AGAIN, "FinishedAt": END_AGAIN}
    view.list_container(container(state=state), None, 1.0)
    assert end_of(view.entries[CONTAINER_ID].current) == (4, "exit", END_AGAIN, None)


@pytest.mark.parametrize("last", [attempt(1, "failed", 3), attempt(1, "running")], ids=["ended", "running"])
def test_what_is_removed_stays_so(last: Json) -> None:
    """Until that is told nodes may change, and a task's last state may be read."""
    view = RunCache()
    lists([last], view=view)
    view.vanish("s1", END, stopped=True)
    gone = view.entries["s1"].current
    view.list_nodes([node(state="down")])
    view.list_task({**attempt(1, "remove", 137), "ServiceID": "s1"})
    assert view.entries["s1"].current == gone


def test_the_attempts_of_a_crash_loop_are_counted() -> None:
    """All that ended, also while the next waits, and although Swarm keeps five of a slot; of all slots."""
    tasks = [attempt(number, "failed", number) for number in range(9)]
    shown = lists(*([*tasks[max(0, n - 4) : n + 1], attempt(n + 1, "ready")] for n in range(9)), **ANY)
    assert (shown.status, shown.restarts) == ("pending", 9)
    assert shown.last_exit == LastExit(8, "exit 8", "2024-05-06T07:08:00Z")
    both = [
        attempt(1, "failed", 1),
        attempt(2, "running"),
        attempt(1, "failed", 2, slot=2),
        attempt(2, "ready", slot=2),
    ]
    assert lists(both, both, **ANY).restarts == 2


def test_a_count_goes_on_after_a_restart_of_quartermaster() -> None:
    """From the record: what it knew is not counted twice, what came meanwhile is."""
    known = [attempt(1, "failed", 1), attempt(2, "running")]
    view = RunCache()
    view.restore(lists(known, **ANY), "")
    assert lists(known, view=view, **ANY).restarts == 1
    later = [attempt(1, "failed", 1), attempt(2, "complete", 0), attempt(3, "rejected"), attempt(4, "ready")]
    shown = lists(known, later, view=view, **ANY)
    assert (shown.restarts, shown.last_exit and shown.last_exit.exit_code) == (3, None)
    assert lists(later, view=view, **ANY).restarts == 3


@pytest.mark.parametrize(
    "tasks",
    [
        [attempt(1, "failed", 1)],
        [attempt(1, "complete", 0)],
        [attempt(1, "shutdown", 143), attempt(2, "running")],
        [attempt(1, "preparing")],
    ],
    ids=["failed", "complete", "was updated", "begins"],
)
def test_what_was_not_tried_again_has_no_restarts(tasks: list[Json]) -> None:
    """Its end is told by its own fields."""
    shown = lists(tasks)
    assert (shown.restarts, shown.last_exit) == (0, None)


def test_a_container_that_docker_restarts_is_counted() -> None:
    """Its code shows while it waits; while it runs again only when it ended; both stay."""
    waits = {"Status": "restarting", "ExitCode": 1, "StartedAt": START, "FinishedAt": END, "Error": ""}
    runs = {"Status": "running", "Running": True, "ExitCode": 0, "StartedAt": AGAIN, "FinishedAt": END}
    shown = boxes(waits, runs, {**runs, "FinishedAt": END_AGAIN}, restarts=(1, 1, 2))
    assert [(view.restarts, view.last_exit) for view in shown] == [
        (1, LastExit(1, None, END)),
        (1, LastExit(1, None, END)),
        (2, LastExit(None, None, END_AGAIN)),
    ]
    assert boxes({**EXITED}, restarts=(0,))[0].last_exit is None


def test_a_restart_is_told() -> None:
    """Also where the status stays."""
    before = lists([attempt(1, "failed", 1), attempt(2, "ready")], **ANY)
    after = msgspec.structs.replace(before, restarts=2)
    assert [event.type for event in cloudevents.of_service(before, after, "now")] == ["io.qmaster.service.updated"]


def test_a_terminal_shows_the_last_exit() -> None:
    """In a line, beside the count."""
    shown = lists([attempt(1, "failed", 3), attempt(2, "ready")], **ANY)
    lines = tables.details(msgspec.json.decode(msgspec.json.encode(shown)))
    assert "restarts:     1" in lines
    assert "last exit:    exit 3: exit 3 at 2024-05-06T07:01:00Z" in lines
