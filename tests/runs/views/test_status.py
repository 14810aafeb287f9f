"""status: Docker's tasks and containers → status, reason and the rest of what is shown."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from fakes import CONTAINER_ID, CREATED, LATER, container, service, steady, task
from hypothesis import given
from hypothesis import strategies as st
from swarm_cases import NODES, NOW, REPLICAS_2, Json

from qmaster.models import results, units
from qmaster.models.responses import Service, Status
from qmaster.runs.views import container_status, run_view, task_status
from qmaster.runs.views import status as lifecycle

REPLICAS_3: Json = {"Mode": {"Replicated": {"Replicas": 3}}}

RUNNING, DOWN = task("running"), task("running", 2, NodeID="gone")
COMPLETE, FAILED = task("complete", code=0), task("failed", 2, code=3, err="task: non-zero exit (3)")


def see(*tasks: Json, now: datetime = NOW, **spec: Any) -> Service:
    return lifecycle.service(service(**spec), tasks, NODES, now)


def ending(*tasks: Json, why: str, updated: datetime = NOW, **spec: Any) -> Service:
    """A service that quartermaster has told to end at that time."""
    raw = {**service(Labels={"io.qmaster.end": why}, **spec), "UpdatedAt": updated.isoformat().replace("+00:00", "Z")}
    return lifecycle.service(raw, tasks, NODES, NOW)


SHUT = task("shutdown", code=143)
SHUT_2 = task("shutdown", 2, code=143)
MADE_UP = task("pending", ID="t-new", CreatedAt=LATER)  # what Swarm puts in the place of one that it shut down


@pytest.mark.parametrize(
    ("tasks", "why", "status", "reason", "code"),
    [
        ((RUNNING, MADE_UP), "stopped", "stopping", "stopped", None),
        ((RUNNING, MADE_UP), "timeout", "stopping", "timeout", None),
        ((SHUT, MADE_UP), "stopped", "stopping", "stopped", 143),
        ((SHUT, MADE_UP), "timeout", "failed", "timeout", 143),
        ((SHUT, FAILED), "timeout", "failed", "timeout", 143),
        ((COMPLETE, SHUT_2), "timeout", "failed", "timeout", 143),
        ((COMPLETE, MADE_UP), "timeout", "failed", "timeout", 0),
        ((COMPLETE,), "timeout", "complete", "exit", 0),
        ((FAILED,), "timeout", "failed", "exit", 3),
        ((COMPLETE,), "stopped", "stopping", "stopped", 0),
    ],
)
def test_what_is_being_ended(tasks: tuple[Json, ...], why: str, status: str, reason: str, code: int | None) -> None:
    """A timeout is over when all have ended, a stop when it is removed; an end of its own comes first."""
    view = ending(*tasks, why=why, **(REPLICAS_2 if len(tasks) > 1 and MADE_UP not in tasks else {}))
    assert (view.status, view.reason, view.exit_code) == (status, reason, code)
    assert run_view.has_ended(view) is all(t["Status"]["State"] in task_status.TERMINAL for t in tasks if t != MADE_UP)


@pytest.mark.parametrize("why", ["stopped", "timeout"])
@pytest.mark.parametrize(
    ("after", "code", "delay", "shown"),
    [
        (3, 0, None, 3),
        (3, None, None, 3),
        (3, 143, None, 143),
        (5, 0, None, 0),
        (6, 0, None, 0),
        (6, None, None, 3),
        (3, 0, 2, 0),
        (3, 0, 0, 0),
        (6, 0, 10, 3),
    ],
)
def test_what_was_ended_before_its_restart_is_not_what_ran_last(
    why: str, after: int, code: int | None, delay: int | None, shown: int
) -> None:
    """Docker says 0 of its container, which was made and not started within the delay; or it had none.

    The delay is 5 seconds where the service has none of its own. Docker lists tasks in any order.
    """
    last, next_one = FAILED_FIRST, then("shutdown", after, code)
    spec: Json = {} if delay is None else delayed(delay)
    for tasks in itertools.permutations((last, next_one, MADE_UP)):
        view = ending(*tasks, why=why, **spec)
        assert (view.reason, view.exit_code) == (why, shown)
        assert [each.id for each in view.tasks] == [(last if shown == 3 else next_one)["ID"]]


FAILED_FIRST = task("failed", ID="t-first", code=3, at="2024-05-06T07:08:10Z")


def then(state: str, after: int, code: int | None = None) -> Json:
    """The task that takes the place of ``FAILED_FIRST``, so many seconds after its end."""
    at = f"2024-05-06T07:08:{10 + after}Z"
    return task(state, ID="t-then", code=code, CreatedAt="2024-05-06T07:08:10Z", at=at)


def delayed(seconds: int) -> Json:
    policy = {"Condition": "any", "Delay": seconds * 1_000_000_000}
    return {"TaskTemplate": {"ContainerSpec": {"Image": "busybox"}, "RestartPolicy": policy}}


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        (FAILED_FIRST, then("preparing", 3), "t-then"),
        (FAILED_FIRST, then("running", 3), "t-then"),
        (FAILED_FIRST, then("complete", 3, 0), "t-then"),
        (FAILED_FIRST, then("rejected", 6), "t-first"),
        (task("complete", ID="t-first", code=0, at="2024-05-06T07:08:10Z"), then("shutdown", 3, 0), "t-first"),
        (task("rejected", ID="t-first", at="2024-05-06T07:08:10Z"), then("shutdown", 3, 0), "t-first"),
        (task("rejected", ID="t-first", at="2024-05-06T07:08:10Z"), then("rejected", 6), "t-then"),
        (task("shutdown", ID="t-first", code=143, at="2024-05-06T07:08:10Z"), then("shutdown", 3, 0), "t-then"),
    ],
    ids=["begins", "runs", "has run", "no container", "after 0", "after none", "none of both", "no restart"],
)
def test_what_is_shown_of_two_while_it_is_ended(first: Json, second: Json, shown: str) -> None:
    """The second where it has begun, or where the first has run no more than it; no delay is before an update's."""
    assert [each.id for each in ending(first, second, why="stopped").tasks] == [shown]


def test_a_slot_has_one_task_wherever_that_was() -> None:
    """What is started again may be on another node; of a global service each node has its own."""
    first, again = task("failed", code=3), task("running", NodeID="n2", CreatedAt=LATER)
    assert [each.node_id for each in see(first, again).tasks] == ["n2"]
    each = see({**first, "Slot": 0}, {**again, "Slot": 0}, Mode={"Global": {}})
    assert [one.node_id for one in each.tasks] == ["n1", "n2"]


def test_what_is_out_of_reach_is_over_after_its_grace() -> None:
    """Its node is down: nobody says that it has ended, nor when; a stop removes it then."""
    early, late = NOW - timedelta(seconds=10), NOW - timedelta(seconds=20)
    assert ending(DOWN, why="timeout", updated=early).status == "stopping"
    view = ending(DOWN, why="timeout", updated=late)
    assert (view.status, view.reason, view.exit_code) == ("failed", "timeout", None)
    assert units.parse_time(view.finished_at) == late
    assert ending(DOWN, why="stopped", updated=late).status == "stopping"


def test_what_never_had_a_node_ends_with_its_time_too() -> None:
    """One replica has ended, the other was never placed: nothing more is to come."""
    view = ending(COMPLETE, task("pending", 2), why="timeout", **REPLICAS_2)
    assert (view.status, view.reason) == ("failed", "timeout")


def test_what_still_runs_is_not_over_whatever_the_clocks_say() -> None:
    """The manager's clock may be behind ours."""
    assert ending(RUNNING, why="timeout", updated=NOW - timedelta(hours=1)).status == "stopping"


def test_what_was_never_seen_to_run_has_run_when_a_task_has_ended() -> None:
    """It runs again and again, each time for a moment: its timeout counts from the first end. Once it is over, no."""
    ends = [task("failed", ID=f"t{second}", code=1, at=f"2024-05-06T07:08:1{second}Z") for second in (5, 1)]
    again = task("pending", CreatedAt=LATER, DesiredState="ready")
    spec = restarting("any", 0)
    assert see(*ends, again, **spec).started_at == "2024-05-06T07:08:11Z"
    for never in (task("rejected"), task("failed")):  # the latter lost its container before that was made
        assert see(never, again, **spec).started_at is None
    assert see(FAILED).started_at is None


def test_when_it_first_ran_is_kept() -> None:
    """A task that has ended, or another in its place, does not tell any more."""
    first = see(task("running", at=CREATED))
    for later in (COMPLETE, task("running", ID="t-again", CreatedAt=LATER)):
        assert lifecycle.service(service(), [later], NODES, NOW, first).started_at == first.started_at == CREATED


@pytest.mark.parametrize("seen_first", [0, 1])
def test_the_first_of_several_replicas_tells_the_start(seen_first: int) -> None:
    """In whichever order they are seen to run: two quartermasters show the same."""
    raws = [task("running", slot, at=f"2024-05-06T07:08:1{slot}.5Z") for slot in (1, 2)]
    first = lifecycle.service(service(**REPLICAS_2), [raws[seen_first]], NODES, NOW, None)
    both = lifecycle.service(service(**REPLICAS_2), raws, NODES, NOW, first)
    assert both.started_at == "2024-05-06T07:08:11.5Z"


def test_a_container_that_was_restarted_has_run_since_its_first_start() -> None:
    """Its timeout counts from there."""
    first = container_status.container(container())
    again = container_status.container(container(state={"StartedAt": LATER}), None, first)
    assert again.started_at == first.started_at == CREATED


@pytest.mark.parametrize(
    ("why", "state", "status", "reason"),
    [
        ("stopped", "running", "stopping", "stopped"),
        ("stopped", "exited", "stopping", "stopped"),
        ("timeout", "running", "stopping", "timeout"),
        ("timeout", "exited", "failed", "timeout"),
    ],
)
@pytest.mark.parametrize("code", [137, 0])
def test_a_container_that_is_being_ended(why: str, state: str, status: str, reason: str, code: int) -> None:
    """Docker keeps no label of that: the journal says why."""
    view = container_status.container(container(state={"Status": state, "ExitCode": code, "FinishedAt": LATER}), why)
    assert (view.status, view.reason) == (status, reason)
    assert run_view.has_ended(view) is (state == "exited")
    assert (view.replicas.running, view.replicas.failed) == ((1, 0) if state == "running" else (0, 1))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2.0),
        ("0.5s", 0.5),
        ("86400s", 86400.0),
        ("1m", None),
        ("999999999999s", None),
        ("s", None),
        ("", None),
        (None, None),
    ],
)
def test_a_duration_is_read_from_its_label(text: str | None, seconds: float | None) -> None:
    """In seconds, as it was written; what is no duration of ours is none."""
    assert run_view.seconds(text) == seconds


def test_a_result_stays_while_it_has_ended() -> None:
    """The next listing does not tell of it; what runs again has none."""
    result = results.result(results.Outcome([]))
    before = msgspec.structs.replace(see(COMPLETE), result=result)
    assert lifecycle.service(service(), [COMPLETE], NODES, NOW, before).result == result
    assert lifecycle.service(service(), [RUNNING], NODES, NOW, before).result is None


def restarting(condition: str, attempts: int = 0) -> Json:
    policy: Json = {"Condition": condition}
    if attempts:
        policy["MaxAttempts"] = attempts
    return {"TaskTemplate": {"ContainerSpec": {"Image": "busybox"}, "RestartPolicy": policy}}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("new", "pending"),
        ("allocated", "pending"),
        ("pending", "pending"),
        ("assigned", "pending"),
        ("accepted", "pending"),
        ("preparing", "preparing"),
        ("ready", "preparing"),
        ("starting", "preparing"),
        ("running", "running"),
        ("complete", "complete"),
        ("shutdown", "failed"),
        ("failed", "failed"),
        ("rejected", "failed"),
        ("remove", "failed"),
        ("orphaned", "failed"),
    ],
)
def test_each_state_of_swarmkit_has_a_status(state: str, status: Status) -> None:
    """A service of one task that is not restarted."""
    assert see(task(state, code=0)).status == status


@pytest.mark.parametrize(
    ("tasks", "status"),
    [
        ((RUNNING, DOWN, task("preparing", 3)), "running"),
        ((DOWN, task("preparing", 3), task("pending", 1)), "unknown"),
        ((task("preparing", 3), task("pending", 1), FAILED), "preparing"),
        ((task("pending", 1), FAILED, task("complete", 3, code=0)), "pending"),
        ((COMPLETE, FAILED, RUNNING | {"Slot": 3}), "running"),
        ((COMPLETE, FAILED, task("complete", 3, code=0)), "failed"),
        ((COMPLETE, task("complete", 2, code=0), task("complete", 3, code=0)), "complete"),
        ((COMPLETE, FAILED), "pending"),
        ((), "pending"),
    ],
)
def test_the_first_status_that_holds_is_the_services(tasks: tuple[Json, ...], status: Status) -> None:
    """Running before unknown, preparing, pending, complete and failed; a slot without a task is pending."""
    for order in (tasks, tuple(reversed(tasks))):
        assert see(*order, **REPLICAS_3).status == status


@pytest.mark.parametrize(
    ("state", "over", "reason", "exit_code"),
    [
        ("complete", {"code": 0}, "exit", 0),
        ("failed", {"code": 3, "err": "task: non-zero exit (3)"}, "exit", 3),
        ("failed", {"code": 137}, "exit", 137),
        (
            "failed",
            {"code": 137, "err": "task: non-zero exit (137): dockerexec: unhealthy container"},
            "unhealthy",
            137,
        ),
        ("failed", {"code": 143, "err": "unhealthy container"}, "unhealthy", 143),
        ("failed", {"code": 127, "err": 'exec: "unhealthy container": not found'}, "exit", 127),
        ("shutdown", {"code": 143}, "stopped", 143),
        ("remove", {"code": 0}, "stopped", 0),
        ("orphaned", {}, "orphaned", None),
        ("rejected", {"err": "No such image: nothing:1"}, "image_not_found", None),
        ("rejected", {"err": "manifest unknown"}, "image_not_found", None),
        ("rejected", {"err": "No such image: access-denied:1"}, "image_not_found", None),
        ("rejected", {"err": 'invalid mount path "unauthorized": not absolute'}, "rejected", None),
        ("rejected", {"err": "pull access denied for x, repository does not exist"}, "registry_auth", None),
        ("rejected", {"err": "unauthorized: authentication required"}, "registry_auth", None),
        ("rejected", {"err": "invalid mount config"}, "rejected", None),
        ("rejected", {}, "rejected", None),
    ],
)
def test_an_end_has_a_reason(state: str, over: Json, reason: str, exit_code: int | None) -> None:
    """With the exit code where a container ran, and Docker's own words."""
    view = see(task(state, **over))
    assert (view.reason, view.exit_code) == (reason, exit_code)
    assert view.error == over.get("err")


CHECKED: Json = {"ContainerSpec": {"Image": "busybox"}, "RestartPolicy": {"Condition": "none"}}
UNCHECKED: Json = {**CHECKED, "ContainerSpec": {"Image": "busybox", "Healthcheck": {"Test": ["NONE"]}}}


def test_a_container_whose_health_is_not_known_has_started() -> None:
    """Swarm calls its task starting until the first check passes; its timeout counts from there."""
    there = task("starting", code=0, at=CREATED, DesiredState="running")
    view = see(there, TaskTemplate=CHECKED)
    assert (view.status, view.started_at) == ("preparing", CREATED)
    later = lifecycle.service(service(TaskTemplate=CHECKED), [task("running", code=0)], NODES, NOW, view)
    assert later.started_at == CREATED
    assert see(task("starting", DesiredState="running"), TaskTemplate=CHECKED).started_at is None
    assert see(there, TaskTemplate=UNCHECKED).started_at is None


def test_the_first_failure_speaks_for_all() -> None:
    """Of several, the one that ended first has the reason and the exit code."""
    late, early = task("failed", 1, code=1, at=LATER), task("failed", 2, code=2, at=CREATED)
    assert see(late, early, **REPLICAS_2).exit_code == 2


def test_a_task_on_a_lost_node_is_unknown() -> None:
    """Swarm goes on calling it running."""
    view = see(DOWN)
    assert (view.status, view.reason, view.exit_code) == ("unknown", "node_down", None)


def test_what_no_node_can_take_says_why() -> None:
    """The scheduler's words, and the reason unschedulable."""
    said = "no suitable node (insufficient resources on 1 node)"
    view = see(task("pending", err=said, DesiredState="running"))
    assert (view.status, view.reason, view.error) == ("pending", "unschedulable", said)


def test_a_task_that_waits_for_its_restart_is_pending() -> None:
    """Swarm makes the next task at once, and holds it at `ready` for the delay."""
    assert see(task("preparing", DesiredState="ready")).status == "pending"


def attempt(index: int, state: str, code: int | None = None, slot: int = 1) -> Json:
    made = (datetime(2024, 5, 6, 7, 8, index, tzinfo=UTC)).strftime("%Y-%m-%dT%H:%M:%S.000000001Z")
    return task(state, slot, code=code, at=LATER, CreatedAt=made, ID=f"t{index}", Version={"Index": index})


@pytest.mark.parametrize(
    ("condition", "attempts", "states", "later", "status"),
    [
        ("none", 0, ["failed"], 0, "failed"),
        ("on-failure", 0, ["failed"], 0, "pending"),
        ("on-failure", 0, ["failed"], 3600, "pending"),
        ("on-failure", 0, ["complete"], 0, "complete"),
        ("any", 0, ["complete"], 0, "pending"),
        ("any", 2, ["failed"], 0, "pending"),
        ("any", 2, ["failed", "failed"], 0, "pending"),
        ("any", 2, ["failed", "failed", "failed"], 0, "failed"),
        ("any", 2, ["failed", "complete", "complete"], 0, "complete"),
        ("on-failure", 9, ["failed"] * 5, 0, "pending"),
        ("on-failure", 9, ["failed"] * 5, 60, "failed"),
        ("on-failure", 2, ["failed", "failed", "running"], 0, "running"),
    ],
)
def test_a_restart_that_is_due_is_pending(
    condition: str, attempts: int, states: list[str], later: int, status: Status
) -> None:
    """Until the policy's attempts are used up, or no new task came where the history is too short to count them."""
    tasks = [attempt(i, state, 0 if state == "complete" else 3) for i, state in enumerate(states)]
    assert see(*tasks, now=NOW + timedelta(seconds=later), **restarting(condition, attempts)).status == status


def test_a_policy_that_is_left_out_restarts_always() -> None:
    """As Swarm reads it."""
    spec: Json = {"TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
    assert see(task("complete", code=0), **spec).status == "pending"


def test_attempts_are_counted_in_each_slot() -> None:
    """The failures of one slot do not end another's restarts."""
    tasks = [attempt(i, "failed", 3) for i in range(3)] + [attempt(5, "failed", 3, slot=2)]
    assert see(*tasks, **restarting("any", 2), **REPLICAS_2).status == "pending"


def test_the_newest_task_of_a_slot_counts() -> None:
    """By its creation, and by its version where two were made at once; slots in their order."""
    old, new = attempt(1, "failed", 3), attempt(2, "running")
    twin = new | {"ID": "t3", "Version": {"Index": 3}}
    second = attempt(1, "running", slot=2)
    for tasks in ([second, new, old, twin], [twin, old, second, new]):
        assert [raw["ID"] for raw in task_status.newest(tasks)] == ["t3", second["ID"]]


def test_a_global_service_has_a_task_for_each_node() -> None:
    """Its tasks have no slot; their nodes tell them apart, and there are as many as there should be."""
    tasks = [task("running", NodeID=name, ID=name) | {"Slot": 0} for name in ("n2", "n1")]
    view = see(*tasks, Mode={"Global": {}})
    assert [t.node for t in view.tasks] == ["host-1", "host-2"]
    assert [t.slot for t in view.tasks] == [None, None]
    assert (view.replicas.desired, view.replicas.running) == (2, 2)


def test_the_replicas_are_counted() -> None:
    """Desired as the spec says; the newest task of each slot by how it stands."""
    view = see(RUNNING, FAILED, task("complete", 3, code=0), Mode={"Replicated": {"Replicas": 5}})
    counted = view.replicas
    assert (counted.desired, counted.running, counted.complete, counted.failed) == (5, 1, 1, 1)


def test_a_job_of_someone_else_is_shown() -> None:
    """replicated-job: done when its completions are."""
    job: Json = {"Mode": {"ReplicatedJob": {"TotalCompletions": 2}}}
    assert see(COMPLETE, **job).status == "pending"
    assert see(COMPLETE, task("complete", 2, code=0), **job).status == "complete"


def test_a_service_is_shown_whole() -> None:
    """Name, image, command, limits, times and labels as Swarm keeps them; memory in MiB, cpus in cores."""
    spec: Json = {
        "Name": "named",
        "Labels": {"team": "data", "io.qmaster.owner": "alice", "io.qmaster.managed": "true"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox@sha256:1", "Args": ["echo", "a b"], "Env": ["SECRET=1"]},
            "Resources": {"Limits": {"MemoryBytes": 64 * 1024 * 1024, "NanoCPUs": 1_500_000_000}},
            "RestartPolicy": {"Condition": "none"},
        },
    }
    view = see(task("failed", code=3), **spec)
    assert (view.id, view.type, view.name, view.owner) == ("s1", "service", "named", "alice")
    assert (view.image, view.command, view.labels) == ("busybox@sha256:1", ["echo", "a b"], {"team": "data"})
    assert (view.memory, view.cpus) == (64, 1.5)
    assert (view.created_at, view.finished_at, view.removed_at) == (CREATED, LATER, None)
    assert "SECRET" not in repr(view)


def test_a_service_of_someone_else_has_no_owner() -> None:
    """And may lack all that is optional: labels, limits, a container's spec (a network attachment)."""
    view = see(Labels=None, TaskTemplate={"NetworkAttachmentSpec": {}})
    assert (view.owner, view.labels, view.image, view.memory, view.cpus) == (None, {}, "", None, None)


def test_a_running_service_began_when_its_first_task_did() -> None:
    """And has not finished."""
    view = see(task("running", at=LATER), task("running", 2, at=CREATED), **REPLICAS_2)
    assert (view.started_at, view.finished_at) == (CREATED, None)


def test_a_task_is_shown_whole() -> None:
    """With the name of its node; empty strings are null."""
    view = task_status.task(task("failed", code=3, err="it broke"), NODES)
    assert (view.id, view.slot, view.node_id, view.node, view.state) == ("t-failed-1", 1, "n1", "host-1", "failed")
    assert (view.message, view.error, view.exit_code) == ("said", "it broke", 3)
    assert (view.container_id, view.updated_at) == (CONTAINER_ID, LATER)
    bare = task_status.task({"ID": "t", "Status": {"State": "new", "Message": ""}}, {})
    assert (bare.slot, bare.node_id, bare.node, bare.message, bare.exit_code) == (None,) * 5


@pytest.mark.parametrize("state", ["running", "starting", "preparing", "ready"])
def test_an_exit_code_is_read_in_terminal_states_only(state: str) -> None:
    """While a task runs Docker says 0, or -1."""
    assert task_status.task(task(state, code=-1), NODES).exit_code is None


def test_docker_leaves_an_exit_code_of_zero_out() -> None:
    """Its JSON has no zero values: with a container's id it is 0, without one there was no container."""
    ended = task("complete")
    ended["Status"]["ContainerStatus"] = {"ContainerID": CONTAINER_ID}
    assert task_status.task(ended, NODES).exit_code == 0
    ended["Status"]["ContainerStatus"] = {"ContainerID": "", "ExitCode": 0}
    assert task_status.task(ended, NODES).exit_code is None


@pytest.mark.parametrize(
    ("state", "status", "reason", "exit_code"),
    [
        ({"Status": "created"}, "preparing", None, None),
        ({"Status": "created", "Error": "no such file", "ExitCode": 127}, "failed", "rejected", 127),
        ({"Status": "running"}, "running", None, None),
        ({"Status": "paused"}, "running", None, None),
        ({"Status": "restarting", "ExitCode": 1}, "pending", None, None),
        ({"Status": "removing"}, "stopping", None, None),
        ({"Status": "exited", "ExitCode": 0}, "complete", "exit", 0),
        ({"Status": "exited", "ExitCode": 3}, "failed", "exit", 3),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, "failed", "oom", 137),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": False}, "failed", "exit", 137),
        ({"Status": "dead", "ExitCode": 1}, "failed", "exit", 1),
    ],
)
def test_a_container_has_a_status(state: Json, status: Status, reason: str | None, exit_code: int | None) -> None:
    """Docker's seven words; oom is known here, as the engine is our own."""
    view = container_status.container(container(state=state))
    assert (view.status, view.reason, view.exit_code) == (status, reason, exit_code)
    counted = view.replicas
    assert (counted.desired, counted.running, counted.complete, counted.failed) == (
        1,
        int(status == "running"),
        int(status == "complete"),
        int(status == "failed"),
    )


def test_a_container_is_shown_whole() -> None:
    """A service of type container, without tasks."""
    state = {"Status": "exited", "ExitCode": 0, "FinishedAt": LATER}
    view = container_status.container(container(labels={"team": "data"}, state=state))
    assert (view.id, view.type, view.name, view.owner) == (CONTAINER_ID, "container", "box", "root")
    assert (view.image, view.command, view.labels) == ("busybox", ["nap"], {"team": "data"})
    assert (view.memory, view.cpus, view.tasks) == (64, 0.5, [])
    assert (view.created_at, view.started_at, view.finished_at) == (CREATED, CREATED, LATER)


def test_gos_zero_time_is_none() -> None:
    """A container that never started has it in StartedAt."""
    zero = {"Status": "created", "StartedAt": "0001-01-01T00:00:00Z"}
    assert container_status.container(container(state=zero)).started_at is None


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-05-06T07:08:09.123456789Z", datetime(2024, 5, 6, 7, 8, 9, 123456, UTC)),
        ("2024-05-06T07:08:09.1Z", datetime(2024, 5, 6, 7, 8, 9, 100000, UTC)),
        ("2024-05-06T07:08:09Z", datetime(2024, 5, 6, 7, 8, 9, 0, UTC)),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        (None, None),
    ],
)
def test_a_time_is_read(text: str | None, time: datetime | None) -> None:
    """RFC 3339 as Go writes it: up to nine decimals, trailing zeros cut."""
    assert units.parse_time(text) == time


STATES = sorted(task_status.WAITING | task_status.PREPARING | task_status.TERMINAL | {"running", "a-word-of-tomorrow"})


@steady
@given(st.lists(st.tuples(st.sampled_from(STATES), st.integers(1, 3), st.integers(0, 9)), max_size=12))
def test_the_order_of_a_listing_does_not_matter(drawn: list[tuple[str, int, int]]) -> None:
    """Docker lists tasks in no order; any set of them has one status."""
    tasks = [attempt(index, state, 3, slot) | {"ID": f"{i}"} for i, (state, slot, index) in enumerate(drawn)]
    tasks = list({(raw["Slot"], raw["CreatedAt"]): raw for raw in tasks}.values())
    assert see(*tasks, **REPLICAS_3) == see(*reversed(tasks), **REPLICAS_3)


@pytest.mark.parametrize("why", ["idle", "update"])
@pytest.mark.parametrize(("state", "code"), [("complete", 0), ("failed", 1), ("shutdown", 137)])
def test_an_instance_that_was_told_to_end_is_complete(why: str, state: str, code: int) -> None:
    """Whatever its client exits with: it ended because it was not needed."""
    raw = service(Labels={"io.qmaster.end": why, "io.qmaster.function": "f", "io.qmaster.function-number": "2"})
    shown = lifecycle.service(raw, [task(state, code=code)], {}, datetime.now(UTC))
    assert (shown.status, shown.reason, shown.exit_code) == ("complete", why, code)
    assert shown.function is not None
    assert (shown.function.name, shown.function.version) == ("f", 2)


def test_an_instance_that_was_told_to_end_still_runs() -> None:
    """Until it has ended."""
    raw = service(Labels={"io.qmaster.end": "idle"})
    assert lifecycle.service(raw, [task("running", DesiredState="running")], {}, datetime.now(UTC)).status == "running"
