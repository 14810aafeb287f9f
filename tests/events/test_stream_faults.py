"""The stream while engines freeze, die and lose their quorum, beside a second quartermaster, and over a restart."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from testbed import Engine, Server, Swarm, eventually
from testbed.subscriber import Subscriber, becomes, heartbeat, outcome

Json = dict[str, Any]
StartServer = Callable[..., Server]

ELSEWHERE = "worker-2"
STUBBORN = "trap 'echo the last line; exit 7' TERM; while :; do sleep 0.1; done"


def run(server: Server, **fields: Any) -> str:
    reply = server.run(**{"image": "busybox:local", "memory": 16, "command": "nap", **fields})
    assert reply.status == 200, reply.text
    return str(reply["id"])


def tells(service: str, word: str) -> Callable[[Json], bool]:
    """The event of that type of a service."""
    return lambda event: event["subject"] == service and event["type"] == f"io.qmaster.service.{word}"


def was_told(subscriber: Subscriber, what: Callable[[Json], bool]) -> bool:
    return any(map(what, subscriber.events))


def ready(server: Server) -> bool:
    return server.call("GET", "/readyz").status == 200


def quick(server: Server, path: str) -> int:
    """The status of an answer that has to come at once."""
    began = time.monotonic()
    status = server.call("GET", path, timeout=5).status
    assert time.monotonic() - began < 0.5, path
    return status


def test_a_frozen_engine_stops_nothing_but_news(server: Server, engine: Engine) -> None:
    """/livez, /status and sockets go on, /readyz says stale; thawed, all is caught up with within five seconds."""
    stays, ends = run(server), run(server, command="sleep 3")
    with Subscriber(server) as subscriber:
        eventually(lambda: {server.status(each)["status"] for each in (stays, ends)} == {"running"}, 10)
        engine.freeze()
        assert subscriber.until(heartbeat(stale=True), 15)["stale_since"]
        for path in ("/livez", "/status", f"/status/{stays}", "/nodes"):
            assert quick(server, path) == 200
        assert quick(server, "/readyz") == 503
        with Subscriber(server) as late:
            assert {each["id"] for each in late.until(lambda f: f["type"] == "snapshot")["services"]} >= {stays, ends}
        engine.thaw()
        began = time.monotonic()
        assert outcome(subscriber.event(becomes(ends, "complete"), 5)) == ("complete", "exit", 0)
        if any(map(heartbeat(stale=True), subscriber.frames[-1:])):
            subscriber.until(heartbeat(stale=False), 5)
        eventually(lambda: ready(server), 5 - (time.monotonic() - began))
        assert server.status(stays)["status"] == "running"
        assert subscriber.close_code is None


def power_cut(engine: Engine) -> None:
    """End the engine and its containers with all that could tell how they ended."""
    engine.kill()
    for program in ("containerd-shim", "nap"):
        for pid in engine.machine.processes(program):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.patient
def test_a_worker_that_dies_takes_its_services_into_the_unknown(swarm_server: Server, swarm: Swarm) -> None:
    """The node is down, its services are unknown with node_down; then the node is ready again and the end is known."""
    worker = swarm.workers[0]
    with Subscriber(swarm_server) as subscriber:
        service = run(swarm_server, constraints=[f"node.hostname=={worker.name}"])
        subscriber.event(becomes(service, "running"))
        power_cut(worker)
        unknown = subscriber.event(becomes(service, "unknown"), 40)
        assert outcome(unknown) == ("unknown", "node_down", None)
        eventually(lambda: "io.qmaster.node.down" in [event["type"] for event in subscriber.events], 5)
        states = {node["hostname"]: node["state"] for node in swarm_server.call("GET", "/nodes")["nodes"]}
        assert states == {"manager": "ready", "worker-1": "down", "worker-2": "ready"}
        worker.start()
        back = subscriber.event(lambda event: event["type"] == "io.qmaster.node.ready", 40)
        assert back["data"]["hostname"] == worker.name
        eventually(partial(was_told, subscriber, tells(service, "failed")), 30)
        end = next(filter(tells(service, "failed"), reversed(subscriber.events)))
        assert outcome(end) == ("failed", "node_down", 255)
        assert outcome({"data": swarm_server.status(service).json}) == ("failed", "node_down", 255)


@pytest.mark.patient
@pytest.mark.timeout(600)  # elections take as long as they take
def test_a_leader_and_then_the_quorum_are_lost(start_server: StartServer, swarm: Swarm) -> None:
    """The leader of three managers dies: the quartermaster on another goes on, and its sockets stay open.

    Then two are cut off: heartbeats say stale_since; when they are back the stream goes on.
    """
    swarm.promote(*swarm.workers)
    server = start_server(swarm.workers[0].host)
    eventually(partial(ready, server), 60)
    with Subscriber(server) as subscriber:
        job = run(server, command=["sh", "-c", "sleep 5; exit 6"], constraints=[f"node.hostname=={ELSEWHERE}"])
        subscriber.event(becomes(job, "running"), 60)
        swarm.manager.kill()
        service = str(
            eventually(partial(accepted, server, "nap"), 120, "a run is accepted by another leader", every=0.2)
        )
        awaited = becomes(service, "running"), becomes(job, "failed")  # whichever is told first
        eventually(lambda: all(any(map(each, subscriber.events)) for each in awaited), 90, "both are told")
        assert outcome(next(filter(awaited[1], subscriber.events))) == ("failed", "exit", 6)
        swarm.manager.start()
        eventually(partial(ready, server), 60)
        swarm.wait_ready()
        told = len(subscriber.frames)
        cut_off = [swarm.manager, swarm.workers[1]]
        for engine in cut_off:
            engine.cut_off()
        eventually(lambda: any(map(heartbeat(stale=True), subscriber.frames[told:])), 120, "it says stale_since")
        assert server.call("GET", "/readyz").status == 503
        assert quick(server, f"/status/{service}") == 200
        told = len(subscriber.frames)
        for engine in cut_off:
            engine.bring_back()
        eventually(lambda: any(map(heartbeat(stale=False), subscriber.frames[told:])), 120, "it is stale no longer")
        eventually(lambda: server.call("GET", "/readyz").status == 200, 60)
        eventually(partial(completes, server, subscriber), 120, "a run is accepted again, and completes")
        assert subscriber.close_code is None
        assert [frame for frame in subscriber.frames if frame["type"] == "gap"] == []


def completes(server: Server, subscriber: Subscriber) -> bool:
    """Whether a job is accepted and completes.

    A leader that was just elected may take a node for down that has not spoken to it yet, and shut down what it has
    given to it a moment before: that is an end too, and it is told.
    """
    job = accepted(server)
    if job is None:
        return False
    end = outcome(subscriber.event(becomes(job, "complete", "failed"), 90))
    assert end in (("complete", "exit", 0), ("failed", "stopped", None))
    return end[0] == "complete"


def accepted(server: Server, command: str = "true") -> str | None:
    reply = server.run(image="busybox:local", command=command, memory=16)
    return str(reply["id"]) if reply.status == 200 else None


@pytest.mark.patient
def test_two_quartermasters_agree_and_stop_as_one(start_server: StartServer, swarm: Swarm) -> None:
    """On two managers they show the same, each with its own cursor, and both may stop a service of three replicas.

    Each sees it as stopping, then removed with the reason stopped and the exit code 7 that its tasks answer SIGTERM
    with; and each keeps the record.
    """
    swarm.promote(swarm.workers[0])
    servers = [start_server(swarm.manager.host), start_server(swarm.workers[0].host)]
    for server in servers:
        eventually(partial(ready, server), 20)
    subscribers = [Subscriber(server) for server in servers]
    service = run(servers[0], command=["sh", "-c", STUBBORN], replicas=3)
    other = run(servers[1])
    for subscriber, server in zip(subscribers, servers, strict=True):
        eventually(partial(all_run, server, service), 20)
        eventually(partial(all_run, server, other), 20)
        eventually(partial(was_told, subscriber, tells(other, "created")), 5)
    shown = [sorted(server.call("GET", "/status")["services"], key=lambda each: each["id"]) for server in servers]
    assert shown[0] == shown[1]
    epochs = {str(server.call("GET", "/status")["cursor"]).partition(":")[0] for server in servers}
    assert len(epochs) == 2
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda server: server.stop_service(service), servers))
    assert [reply.status for reply in replies] == [200, 200]
    for subscriber, server in zip(subscribers, servers, strict=True):
        removed = subscriber.event(becomes(service, "removed"), 30)
        assert outcome(removed) == ("removed", "stopped", 7)
        words = [e["type"].rpartition(".")[2] for e in subscriber.events if becomes(service, "stopping", "removed")(e)]
        assert [word for word in words if word != "updated"] == ["stopping", "removed"]
        assert [task["exit_code"] for task in removed["data"]["tasks"]] == [7, 7, 7]
        assert outcome({"data": server.status(service).json}) == ("removed", "stopped", 7)
        subscriber.leave()


def all_run(server: Server, service: str) -> bool:
    view = server.status(service)
    return view.status == 200 and view["replicas"]["running"] == view["replicas"]["desired"]


def test_a_stop_of_three_replicas_is_told_with_their_answer(swarm_server: Server) -> None:
    """One quartermaster: stopping, then removed with reason stopped and exit code 7; a second /stop is success."""
    with Subscriber(swarm_server) as subscriber:
        service = run(swarm_server, command=["sh", "-c", STUBBORN], replicas=3)
        eventually(partial(all_run, swarm_server, service), 20)
        for _ in range(2):
            assert swarm_server.stop_service(service).status == 200
        assert outcome(subscriber.event(becomes(service, "stopping")))[:2] == ("stopping", "stopped")
        assert outcome(subscriber.event(becomes(service, "removed"))) == ("removed", "stopped", 7)
        assert swarm_server.stop_service(service).status == 200


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_what_happened_meanwhile_is_told_once(server: Server, engine: Engine, end: str) -> None:
    """After a stop or a kill -9: with the engine's own timestamps, in order, and nothing under two cursors."""
    client: Any = engine.client()
    first = Subscriber(server)
    ends, goes, stays = run(server, command="sleep 2"), run(server), run(server)
    begun = [tells(each, "running") for each in (ends, goes, stays)]  # a status may show that before it is told
    eventually(lambda: all(any(map(each, first.events)) for each in begun), 10)
    eventually(lambda: server.call("GET", "/status")["cursor"] == first.cursor, 5)
    first.leave()
    getattr(server, end)()
    template = {
        "ContainerSpec": {"Image": "busybox:local", "Args": ["sh", "-c", "exit 4"]},
        "RestartPolicy": {"Condition": "none"},
    }
    made = client.create_service(template, name=f"made-meanwhile-{end}")["ID"]
    client.remove_service(goes)

    def state(service: str) -> str:
        return str(client.tasks({"service": service})[0]["Status"]["State"])

    eventually(lambda: (state(ends), state(made)) == ("complete", "failed"), 10, ignoring=IndexError)
    times = {service: client.tasks({"service": service})[0]["Status"]["Timestamp"] for service in (ends, made)}
    server.start()
    with first.resume() as second:
        wanted = [tells(ends, "complete"), tells(made, "failed"), tells(goes, "removed")]
        eventually(lambda: all(any(map(each, second.events)) for each in wanted), 10)
        complete, failed, removed = (next(filter(each, second.events)) for each in wanted)
        assert (complete["time"], outcome(complete)) == (times[ends], ("complete", "exit", 0))
        assert (failed["time"], outcome(failed)) == (times[made], ("failed", "exit", 4))
        assert outcome(removed) == ("removed", None, None)
        created = next(filter(tells(made, "created"), second.events))
        assert created["time"] == client.inspect_service(made)["CreatedAt"]
        assert [event for event in second.events if event["subject"] == stays] == []
        check_once([*first.events, *second.events])
        assert [frame["type"] for frame in second.frames if frame["type"] in ("gap", "snapshot")] == []


def check_once(events: list[Json]) -> None:
    """The cursors grow, and no change is told under two of them."""
    numbers = [int(event["id"].partition(":")[2]) for event in events]
    assert numbers == sorted(set(numbers))
    cursors = Counter(
        (e["subject"], e["type"], e["data"]["task"]["id"] if "task" in e["data"] else e["time"]) for e in events
    )
    assert [event for event, times in cursors.items() if times > 1] == []


def test_containers_need_no_swarm(start_server: StartServer, plain_engine: Engine) -> None:
    """On an engine outside any swarm a container is told from its start to its end, and nothing is stale meanwhile."""
    server = start_server(plain_engine.host)
    with Subscriber(server) as subscriber:
        container = run(server, type="container", command="sleep 2")
        subscriber.event(becomes(container, "running"))
        told = len(subscriber.received)
        assert outcome(subscriber.event(becomes(container, "complete"), 15)) == ("complete", "exit", 0)
        assert not any(map(heartbeat(stale=True), subscriber.frames[told:]))
        assert "stale_since" not in subscriber.frames[-1]
