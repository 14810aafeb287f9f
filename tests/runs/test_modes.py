"""status: services in modes that quartermaster does not make itself show what `docker service ls` shows."""

import time
from typing import Any

import pytest
from conftest import StartServer
from fakes import node, service, task
from testbed import Bed, Engine, Server, Swarm, eventually, sdk

from qmaster.models.responses import Service
from qmaster.runs.reconciler.cache import RunCache

IMAGE = "busybox:local"
Json = dict[str, Any]
LATER = "2024-05-06T07:09:00Z"


def see(*tasks: Json, mode: Json, iteration: int | None = None, **spec: Any) -> Service:
    """What is shown of a service in that mode; ``iteration`` is that of a job."""
    view = RunCache()
    view.list_nodes([node(), node("n2"), {**node("n3"), "Spec": {"Availability": "drain"}}])
    job = {} if iteration is None else {"JobStatus": {"JobIteration": {"Index": iteration} if iteration else {}}}
    template = {"ContainerSpec": {"Image": IMAGE}}
    view.list_service({**service(Mode=mode, TaskTemplate=template, **spec), **job}, tasks, 1.0)
    return view.entries["s1"].current


def of_job(state: str, slot: int = 0, iteration: int = 0, **over: Any) -> Json:
    """A task of a job, as Docker lists it: without a slot where that is 0."""
    raw = task(state, slot, JobIteration={"Index": iteration} if iteration else {}, **over)
    raw = {**raw, "ID": f"t{iteration}-{slot}-{state}", "DesiredState": over.get("DesiredState", "complete")}
    return raw if slot else {key: value for key, value in raw.items() if key != "Slot"}


def job(total: int) -> Json:
    return {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": total}}


DONE = [of_job("complete", slot, code=0) for slot in range(3)]


@pytest.mark.parametrize(
    ("tasks", "iteration", "status", "complete"),
    [
        (DONE, 0, "complete", 3),
        (DONE[:2], 0, "pending", 2),
        ([*DONE[:2], of_job("running", 2)], 0, "running", 2),
        ([*DONE[:2], of_job("failed", 2, code=1)], 0, "pending", 2),
        (DONE, 1, "pending", 0),
        ([*DONE, of_job("running", 0, 1), of_job("complete", 1, 1, code=0)], 1, "running", 1),
        ([*DONE, *(of_job("complete", slot, 1, code=0) for slot in range(3))], 1, "complete", 3),
    ],
    ids=["all", "two at once", "the last runs", "one failed", "again", "again, one is done", "again, all are"],
)
def test_a_replicated_job(tasks: list[Json], iteration: int, status: str, complete: int) -> None:
    """It is complete when all its completions are, of its last iteration; it tries again what failed."""
    view = see(*tasks, mode=job(3), iteration=iteration)
    assert (view.status, view.replicas.complete, view.replicas.desired) == (status, complete, 3)


def test_the_slots_of_a_job_begin_at_0() -> None:
    """One that was tried again on another node is in the same slot."""
    first, again = of_job("failed", code=1, NodeID="n1"), of_job("complete", code=0, NodeID="n2", CreatedAt=LATER)
    view = see(first, again, of_job("complete", 1, code=0), mode=job(2), iteration=0)
    assert [one.slot for one in view.tasks] == [0, 1]
    assert (view.status, view.restarts) == ("complete", 1)


@pytest.mark.parametrize(
    ("states", "status", "desired"),
    [(["complete", "complete"], "complete", 2), (["complete", "running"], "running", 2), ([], "pending", 0)],
)
def test_a_global_job(states: list[str], status: str, desired: int) -> None:
    """Each node runs it once; no node has a slot."""
    tasks = [of_job(state, NodeID=f"n{number}", code=0) for number, state in enumerate(states, 1)]
    tasks = [{**raw, "ID": raw["NodeID"]} for raw in tasks]
    view = see(*tasks, mode={"GlobalJob": {}}, iteration=0)
    assert (view.status, view.replicas.desired, {one.slot for one in view.tasks} <= {None}) == (status, desired, True)


def test_a_drained_node_is_not_counted_in_a_global_service() -> None:
    """Its task was shut down, and none is wanted there."""
    tasks = [task("running", 0, NodeID="n1"), task("shutdown", 0, NodeID="n3", code=143)]
    view = see(*tasks, mode={"Global": {}})
    assert (view.status, view.replicas.desired, view.replicas.failed) == ("running", 1, 0)
    assert see(tasks[1], mode={"Global": {}}).status == "pending"


@pytest.mark.parametrize("new", ["assigned", "preparing", "rejected", "failed"])
def test_while_the_new_task_is_not_there_the_old_one_runs(new: str) -> None:
    """An update that starts the new one first, or that is paused as it failed."""
    old = task("running", ID="old", DesiredState="running")
    wanted = "ready" if new == "rejected" else "running"
    fresh = task(new, ID="new", DesiredState=wanted, CreatedAt=LATER)
    view = see(old, fresh, mode={"Replicated": {"Replicas": 1}})
    assert (view.status, [one.id for one in view.tasks], view.replicas.running) == ("running", ["old"], 1)
    runs = {**fresh, "Status": {"State": "running"}, "DesiredState": "running"}
    assert [one.id for one in see(old, runs, mode={"Replicated": {"Replicas": 1}}).tasks] == ["new"]


@pytest.mark.parametrize(("replicas", "status"), [(0, "complete"), (1, "running")])
def test_what_is_scaled_down_has_not_failed(replicas: int, status: str) -> None:
    """What Swarm takes away counts no more once it has ended."""
    taken = task("shutdown", 2, DesiredState="remove", code=143)
    kept = [task("running", DesiredState="running")] if replicas else []
    view = see(*kept, taken, mode={"Replicated": {"Replicas": replicas}})
    assert (view.status, view.replicas.failed, view.reason) == (status, 0, None)


# --- on engines -------------------------------------------------------------------------------------------------------


def counts(engine: Engine, name: str) -> str:
    return engine.cli("service", "ls", "--filter", f"name={name}", "--format", "{{.Replicas}}").strip()


def create(engine: Engine, name: str, *args: str) -> None:
    engine.cli("service", "create", "--detach", "--name", name, *args)


def is_complete(server: Server, name: str, completions: int) -> None:
    """A caller who waits is answered, and told of all completions."""
    began = time.monotonic()
    view = server.call("GET", f"/status/{name}?wait=60", timeout=90).json
    assert (view["status"], view["exit_code"]) == ("complete", 0), view
    assert (view["replicas"]["complete"], view["replicas"]["desired"]) == (completions, completions)
    assert time.monotonic() - began < 30


def test_a_job_made_by_hand(bed: Bed, start_server: StartServer) -> None:
    """It completes, also once more, and also where not all of it runs at once."""
    engine = bed.single("jobs")  # of its own: Swarm keeps the tasks of a job that is removed
    shared = start_server(engine.host)
    create(engine, "job", "--mode", "replicated-job", "--replicas", "3", IMAGE, "true")
    create(engine, "some", "--mode", "replicated-job", "--replicas", "4", "--max-concurrent", "2", IMAGE, "sleep", "1")
    create(engine, "once", "--mode", "global-job", IMAGE, "true")
    made = ("job", "some", "once")
    eventually(lambda: all(shared.status(name).status == 200 for name in made), 30, "they are known")
    is_complete(shared, "job", 3)
    is_complete(shared, "some", 4)
    is_complete(shared, "once", 1)
    first = shared.status("job")["finished_at"]
    engine.cli("service", "update", "--detach", "--force", "job")
    eventually(lambda: shared.status("job")["finished_at"] not in (None, first), 30, "it has run once more")
    is_complete(shared, "job", 3)
    assert counts(engine, "job") == "0/3 (3/3 completed)"


def test_a_service_scaled_to_none(engine: Engine, shared: Server) -> None:
    """It runs, then there is nothing to run; it never fails; and it runs again."""
    create(engine, "scaled", "--replicas", "2", "--stop-grace-period", "1s", IMAGE, "nap")
    seen = []

    def becomes(status: str, running: int) -> None:
        def is_so() -> bool:
            reply = shared.status("scaled")
            seen.append(reply.json.get("status"))
            return bool(
                seen[-1] == status and reply["replicas"] == {**reply["replicas"], "running": running, "failed": 0}
            )

        eventually(is_so, 30, f"{running} run: {status}", every=0.02)

    becomes("running", 2)
    for replicas, status in ((1, "running"), (0, "complete"), (1, "running")):
        engine.cli("service", "scale", "--detach", f"scaled={replicas}")
        becomes(status, replicas)
    assert "failed" not in seen


def test_an_update_that_fails_leaves_the_old_task(engine: Engine, shared: Server) -> None:
    """Started first, paused, and rolled back: it runs all the time, as `docker service ls` says."""
    create(engine, "updated", "--update-order", "start-first", IMAGE, "nap")
    eventually(lambda: shared.status("updated").json.get("status") == "running", 30, "it runs")
    engine.cli("service", "update", "--detach", "--no-resolve-image", "--image", "nosuch:1", "updated")
    seen = set()

    def paused() -> bool:
        seen.add(shared.status("updated")["status"])
        return bool(sdk(engine).inspect_service("updated")["UpdateStatus"]["State"] == "paused")

    eventually(paused, 30, "the update is paused")
    engine.cli("service", "rollback", "--detach", "updated")
    time.sleep(1)
    view = shared.status("updated").json
    assert (seen, view["status"], view["replicas"]["running"]) == ({"running"}, "running", 1)
    assert counts(engine, "updated") == "1/1"


def test_a_drained_node_of_a_global_service(swarm: Swarm, swarm_server: Server) -> None:
    """There is one task fewer, as `docker service ls` says, and one more when it is back."""
    manager, worker = swarm.manager, swarm.workers[0]

    def wants(count: int) -> None:
        def so() -> bool:
            replicas = swarm_server.status("each").json.get("replicas")
            return bool(replicas == {"desired": count, "running": count, "complete": 0, "failed": 0})

        eventually(so, 40, f"{count} run")
        assert counts(manager, "each") == f"{count}/{count}"

    create(manager, "each", "--mode", "global", "--stop-grace-period", "1s", IMAGE, "nap")
    wants(3)
    manager.cli("node", "update", "--availability", "drain", worker.node_id)
    wants(2)
    manager.cli("node", "update", "--availability", "active", worker.node_id)
    wants(3)
