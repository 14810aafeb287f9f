"""attempts: each end of a run that is restarted, with its exit code and times, once and for good."""

from typing import Any

import msgspec
from fakes import CONTAINER_ID, container, node, service, task

from qmaster.cli import tables
from qmaster.models.responses import Attempt, Service
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.views.attempts import MAX_ERROR, MOST

Json = dict[str, Any]

AGAIN: Json = {"TaskTemplate": {"ContainerSpec": {"Image": "busybox"}, "RestartPolicy": {"Condition": "on-failure"}}}


def at(minute: int, second: int = 0) -> str:
    return f"2024-05-06T07:{minute:02}:{second:02}Z"


def running(number: int, slot: int = 1) -> Json:
    return task("running", slot, ID=f"t{slot}-{number}", CreatedAt=at(number), DesiredState="running", at=at(number, 5))


def failed(number: int, code: int = 3, slot: int = 1, **over: Any) -> Json:
    over = {"at": at(number, 9), "err": f"exit {code}", **over}
    return task("failed", slot, ID=f"t{slot}-{number}", CreatedAt=at(number), code=code, **over)


def waits(number: int, slot: int = 1) -> Json:
    return task("ready", slot, ID=f"t{slot}-{number}", CreatedAt=at(number), DesiredState="ready", at=at(number))


def lists(*listings: list[Json], view: RunCache | None = None, **spec: Any) -> Service:
    """What is shown of a service after these listings of its tasks."""
    view = view or RunCache()
    view.list_nodes([node()])
    for seen, tasks in enumerate(listings, 1):
        view.list_service(service(**{**AGAIN, **spec}), tasks, float(seen))
    return view.entries["s1"].current


def ended(number: int, code: int | None = 3, started_at: str | None = None, slot: int = 1) -> Attempt:
    return Attempt(f"t{slot}-{number}", started_at, at(number, 9), code, f"exit {code}")


def test_each_end_is_an_attempt() -> None:
    """With its start where it was seen running; also the end that no other follows."""
    shown = lists(
        [running(1)],
        [failed(1), waits(2)],
        [failed(1), running(2)],
        [failed(1), failed(2, 4), failed(3, 5), waits(4)],
        [failed(1), failed(2, 4), failed(3, 5), task("complete", ID="t1-4", CreatedAt=at(4), code=0, at=at(4, 9))],
    )
    done = Attempt("t1-4", None, at(4, 9), 0, None)
    assert shown.attempts == (ended(1, 3, at(1, 5)), ended(2, 4, at(2, 5)), ended(3, 5), done)


def test_the_attempts_of_all_slots_are_in_the_order_of_their_ends() -> None:
    """Whichever was listed first."""
    shown = lists(
        [failed(2, slot=1), waits(3, 1), running(1, 2)],
        [failed(2, slot=1), waits(3, 1), failed(1, slot=2), waits(2, 2)],
        Mode={"Replicated": {"Replicas": 2}},
    )
    assert shown.attempts == (ended(1, 3, at(1, 5), slot=2), ended(2, slot=1))


def test_an_attempt_stays_as_it_was_told() -> None:
    """Swarm forgets tasks, and a restart of an engine moves the times of those that have ended."""
    told = lists([failed(1), failed(2), waits(3)])
    view = RunCache()
    view.restore(told, "")
    moved = failed(2, at=at(30))
    shown = lists([moved, running(3)], [moved, failed(3, at=at(31)), waits(4)], view=view)
    assert shown.attempts[:2] == told.attempts == (ended(1), ended(2))
    assert shown.attempts[2:] == (Attempt("t1-3", at(3, 5), at(31), 3, "exit 3"),)


def test_an_attempt_outlives_a_stop_and_a_removal() -> None:
    """The label of a stop hides none; what Swarm shuts down is no attempt."""
    view = RunCache()
    lists([failed(1), running(2)], view=view)
    killed = task("shutdown", ID="t1-2", CreatedAt=at(2), code=143, at=at(2, 9))
    stopped = lists([failed(1), killed], view=view, Labels={"io.qmaster.end": "stopped"})
    assert (stopped.status, stopped.attempts) == ("stopping", (ended(1),))
    view.vanish("s1", at(9), stopped=True)
    assert view.entries["s1"].current.attempts == (ended(1),)


def test_the_newest_attempts_are_kept() -> None:
    """So that a crash loop's view does not grow; older ones that Swarm still has do not come back."""
    tasks = [failed(number) for number in range(MOST + 5)]
    shown = lists(tasks, tasks, [*tasks, failed(MOST + 5), waits(MOST + 6)])
    assert [each.task for each in shown.attempts] == [f"t1-{number}" for number in range(6, MOST + 6)]
    assert shown.restarts == MOST + 6


def test_an_error_is_cut_and_masked() -> None:
    """Its owner may see no other's names; what the root token has started is shown as it is."""
    error = "registry.internal.example refused " + "x" * 500
    for owner, begins in (("alice", "… refused"), ("root", "registry.internal.example")):
        labels = {"io.qmaster.managed": "true", "io.qmaster.owner": owner}
        (attempt,) = lists([failed(1, err=error), waits(2)], Labels=labels).attempts
        assert attempt.error is not None
        assert attempt.error.startswith(begins)
        assert len(attempt.error) == MAX_ERROR


def test_a_run_that_is_not_restarted_has_none() -> None:
    """Its end is told by its own fields."""
    once = {"ContainerSpec": {"Image": "busybox"}, "RestartPolicy": {"Condition": "none"}}
    assert lists([failed(1)], TaskTemplate=once).attempts == ()
    view = RunCache()
    view.list_container(container(state={"Status": "exited", "ExitCode": 1, "FinishedAt": at(1)}), None, 1.0)
    assert view.entries[CONTAINER_ID].current.attempts == ()


def test_the_attempts_of_a_container() -> None:
    """Its code shows while it waits, and if that was seen too late only the time; a stop adds none."""
    host = {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}
    states: list[tuple[int, Json]] = [
        (1, {"Status": "restarting", "ExitCode": 1, "StartedAt": at(1), "FinishedAt": at(1, 9)}),
        (1, {"Status": "running", "Running": True, "StartedAt": at(2), "FinishedAt": at(1, 9)}),
        (2, {"Status": "running", "Running": True, "StartedAt": at(3), "FinishedAt": at(2, 9)}),
        (3, {"Status": "restarting", "ExitCode": 3, "StartedAt": at(3), "FinishedAt": at(3, 9)}),
        (3, {"Status": "exited", "ExitCode": 4, "StartedAt": at(4), "FinishedAt": at(4, 9)}),
    ]
    view = RunCache()
    for seen, (count, state) in enumerate(states):
        view.list_container(container(state=state, RestartCount=count, HostConfig=host), None, float(seen))
    expected = (
        Attempt(None, at(1), at(1, 9), 1, None),
        Attempt(None, None, at(2, 9), None, None),
        Attempt(None, at(3), at(3, 9), 3, None),
        Attempt(None, at(4), at(4, 9), 4, None),
    )
    assert view.entries[CONTAINER_ID].current.attempts == expected
    killed = {"Status": "exited", "ExitCode": 137, "StartedAt": at(5), "FinishedAt": at(5, 9)}
    view.list_container(container(state=killed, RestartCount=3, HostConfig=host), "stopped", 9.0)
    assert view.entries[CONTAINER_ID].current.attempts == expected


def test_a_terminal_shows_each_attempt() -> None:
    """A line for each, the newest last."""
    lines = tables.details(msgspec.json.decode(msgspec.json.encode(lists([failed(1), failed(2, 4), waits(3)]))))
    assert [line for line in lines if line.startswith("attempt")] == [
        "attempt:      exit 3: exit 3 at 2024-05-06T07:01:09Z",
        "attempt:      exit 4: exit 4 at 2024-05-06T07:02:09Z",
    ]


def test_with_a_window_the_count_of_tasks_decides_nothing() -> None:
    """Swarm counts the latest restarts only, so the next attempt is waited for."""
    policy = {"Condition": "on-failure", "MaxAttempts": 1, "Window": 1_000_000_000, "Delay": 0}
    template = {"ContainerSpec": {"Image": "busybox"}, "RestartPolicy": policy}
    just_now = [failed(1), failed(2), failed(3, at="2999-01-01T00:00:00Z")]
    assert lists(just_now, TaskTemplate=template).status == "pending"
    assert lists([failed(1), failed(2), failed(3)], TaskTemplate=template).status == "failed"
