"""Faults of the engine, its swarm and its registry, and races between callers: each with what becomes of it.

`docs/operations.md` lists all that there are tests of, here and elsewhere.
"""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from conftest import StartServer
from engine_cases import CREATE, IMAGE, NAP, away, becomes, made, ready, runs_again
from fault_cases import Json, has, shell
from testbed import Engine, Proxy, Registry, Server, eventually, sdk, started
from testbed.faults import answer, cut, delay, hang
from testbed.subscriber import Subscriber

# The engine


def test_a_busy_engine_is_tried_again_by_the_caller(engine: Engine, front: Proxy, behind: Server) -> None:
    """503 to a create is 503 with Retry-After once it is known that nothing was made; to all, readyz says so too."""
    front.on(CREATE, answer(503), "POST", times=1)
    assert "not available" in away(behind.run(**NAP))
    assert made(engine) == []
    front.on("", answer(503))
    eventually(lambda: not ready(behind), 15, "it is noticed")
    away(behind.run(**NAP))
    front.clear()
    eventually(lambda: ready(behind), 10)
    becomes(behind, started(behind.run(**NAP)), "running")


def test_a_slow_engine_is_waited_for(engine: Engine, front: Proxy, behind: Server) -> None:
    """Each answer comes a quarter of a second late: all the same each call is answered, and none of ours says away."""
    eventually(lambda: ready(behind), 10)
    before = len(behind.logs())
    front.on("", delay(0.25))
    reply = behind.run(image=IMAGE, command=["sh", "-c", "echo slowly; exit 3"], memory=16, wait=30)
    assert (reply["status"], reply["exit_code"], reply["result"]["stdout"]) == ("failed", 3, "slowly\n")
    assert ready(behind)
    assert behind.stop_service(reply["id"]).status == 200
    assert "engine_away" not in behind.logs()[before:]


def test_ends_are_found_without_the_event_stream(engine: Engine, proxy: Proxy, start_server: StartServer) -> None:
    """It is only a hint: what happens is told within seconds all the same."""
    proxy.on("/events", hang(300))
    proxy.on("/events", cut(300), times=1)
    server = start_server(proxy.host)
    with Subscriber(server) as subscriber:
        job = shell(server, "sleep 1; exit 5")
        end = subscriber.event(lambda e: e["subject"] == job and e["type"] == "io.qmaster.service.failed", 15)
        assert end["data"]["exit_code"] == 5
        nap = started(server.run(**NAP, memory=16))
        becomes(server, nap, "running")
        sdk(engine).remove_service(nap)
        subscriber.event(lambda e: e["subject"] == nap and e["type"] == "io.qmaster.service.removed", 15)
    assert ready(server)


def test_an_engine_that_leaves_its_swarm(plain_engine: Engine, start_server: StartServer) -> None:
    """503 that names the command to run; what ran is gone with the swarm, and told as removed in the next one."""
    plain_engine.swarm_init()
    try:
        server = start_server(plain_engine.host)
        eventually(lambda: ready(server), 10)
        service, container = started(server.run(**NAP)), started(server.run(**NAP, type="container"))
        for each in (service, container):
            becomes(server, each, "running")
        sdk(plain_engine).leave_swarm(force=True)
        assert "docker swarm init" in away(server.run(**NAP))
        eventually(lambda: not ready(server), 10)
        assert server.status(service).status == 200
        assert server.stop_service(container).status == 200
        has(server, container, "removed", reason="stopped")
        plain_engine.swarm_init()
        becomes(server, service, "removed")
        becomes(server, runs_again(server), "running")
    finally:
        sdk(plain_engine).leave_swarm(force=True)


# The registry


def test_a_registry_that_answers_nonsense(engine: Engine, front: Proxy, behind: Server) -> None:
    """With credentials 502, as they could not be checked; without, what is there runs as it was named."""
    eventually(lambda: ready(behind), 10)
    front.on("/distribution/", answer(500, "<html>"))
    auth = "eyJ1c2VybmFtZSI6ICJhIiwgInBhc3N3b3JkIjogImIifQ=="
    for kind in ("service", "container"):
        assert behind.run(**NAP, type=kind, auth=auth).status == 502
    assert made(engine) == []
    becomes(behind, started(behind.run(**NAP)), "running")
    assert ready(behind)


def test_a_pull_that_breaks_off(engine: Engine, registry: Registry, front: Proxy, behind: Server) -> None:
    """502 or 503, nothing is left of it, and the next try pulls."""
    image = registry.push(engine, name="breaks-off:1")
    front.on("/images/create", cut(250), "POST", times=1)
    fields: Json = {"image": image, "command": "nap 300", "type": "container", "auth": registry.alice.auth}
    assert behind.run(**fields).status in (502, 503)
    eventually(lambda: made(engine) == [], 10)
    becomes(behind, started(behind.run(**fields)), "running")


# Callers


def test_a_client_that_leaves_in_the_middle_of_a_run(engine: Engine, front: Proxy, behind: Server) -> None:
    """What it asked for is made, and told to who listens: under its name the caller finds it again."""
    rule = front.on(CREATE, delay(0.5), "POST", times=1)
    connection = http.client.HTTPConnection("127.0.0.1", behind.port)
    body = json.dumps({**NAP, "name": "left-alone", "memory": 16})
    connection.request("POST", "/run", body, {"Authorization": f"Bearer {behind.token}"})
    eventually(lambda: rule.hits, 10)
    connection.close()
    eventually(lambda: made(engine), 10)
    becomes(behind, "left-alone", "running")
    assert made(engine) == [behind.status("left-alone")["id"]]
    assert '"status":500' not in behind.logs()


def test_many_stops_at_once(engine: Engine, shared: Server) -> None:
    """By id and by name, of a service and of a container: each is success, and the exit code is that of one SIGTERM."""
    script = "trap 'echo once; sleep 0.5; exit 9' TERM; while :; do sleep 0.1; done"
    runs = {name: shell(shared, script, type=name, name=name) for name in ("service", "container")}
    for run_id in runs.values():
        becomes(shared, run_id, "running")
    with ThreadPoolExecutor(32) as pool:
        replies = list(pool.map(shared.stop_service, [*runs.values(), *runs] * 8))
    assert {(reply.status, reply["id"]) for reply in replies} == {(200, run_id) for run_id in runs.values()}
    for run_id in runs.values():
        gone = has(shared, run_id, "removed", reason="stopped", exit_code=9)
        assert gone["result"]["stdout"] == "once\n"
    eventually(lambda: made(engine) == [], 10)


def test_a_stop_that_races_the_end(engine: Engine, shared: Server) -> None:
    """Before, at and after it: success, gone, and with the exit code that it had, or that SIGTERM gave it."""
    began = time.monotonic()
    script = "trap 'exit 9' TERM; sleep 1.{}; echo done; exit 4"
    jobs = [shell(shared, script.format(n % 8), type=("service", "container")[n // 8]) for n in range(16)]
    time.sleep(max(0.0, 1.4 - (time.monotonic() - began)))
    with ThreadPoolExecutor(16) as pool:
        assert {reply.status for reply in pool.map(shared.stop_service, jobs)} == {200}
    for job in jobs:
        gone = has(shared, job, "removed")
        ended = (gone["exit_code"], gone["result"]["stdout"] if gone["result"] else "")
        assert ended in ((4, "done\n"), (9, ""), (None, "")), gone
    eventually(lambda: made(engine) == [], 10)


@pytest.mark.parametrize("kind", ["service", "container"])
def test_what_somebody_removes_is_told_to_who_waits(engine: Engine, shared: Server, kind: str) -> None:
    """Not after the time that they would wait, but as it goes."""
    run_id = shell(shared, "sleep 300", type=kind)
    becomes(shared, run_id, "running")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(partial(shared.call, "GET", f"/status/{run_id}?wait=60", timeout=70))
        began = time.monotonic()
        client = sdk(engine)
        client.remove_service(run_id) if kind == "service" else client.remove_container(run_id, force=True)
        reply = waiting.result(20)
    # Docker kills a container before it removes it: its end may be seen in between.
    told = {("removed", None)} if kind == "service" else {("removed", None), ("removed", "exit"), ("failed", "exit")}
    assert reply.status == 200, reply
    assert (reply["status"], reply["reason"]) in told, reply.json
    assert time.monotonic() - began < 15
