"""POST /stop and GET /status on a real engine: which one is meant, what is left of it, and what is not ours to end."""

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from testbed import Engine, Reply, Server, eventually, sdk, started
from testbed.server import ROOT

from qmaster.engine.containers import own_container_id

IMAGE = "busybox:local"
NAP: dict[str, Any] = {"image": IMAGE, "command": "nap 300"}
KINDS = pytest.mark.parametrize("kind", ["service", "container"])


def shows(server: Server, run_id: str, **wanted: object) -> Reply:
    """The answer of /status, as soon as it shows all of that."""

    def reached() -> Any:
        reply = server.status(run_id)
        return reply if reply.status == 200 and reply.json.items() >= wanted.items() else None

    reply: Reply = eventually(reached, 30, f"{run_id} shows {wanted}", every=0.05)
    return reply


def stopped(server: Server, name_or_id: str, run_id: str) -> None:
    """A stop that succeeds."""
    reply = server.stop_service(name_or_id)
    assert (reply.status, reply.json) == (200, {"success": True, "id": run_id})


def gone(engine: Engine, run_id: str) -> None:
    client = sdk(engine)

    def ids() -> list[str]:
        return [each["ID"] for each in client.services()] + [each["Id"] for each in client.containers(all=True)]

    eventually(lambda: run_id not in ids(), 30, f"{run_id} is gone")


def napping(engine: Engine, containers: int = 1) -> None:
    """Wait until all that runs is in its nap: then, and not at once, SIGTERM ends it with 143."""
    client = sdk(engine)

    def asleep() -> bool:
        there = [client.top(each["Id"])["Processes"] for each in client.containers()]
        return len(there) == containers and all("sleep 300" in str(processes) for processes in there)

    eventually(asleep, 30, "all are in their nap", every=0.05)


# Which one, and how often


@KINDS
@pytest.mark.parametrize("by", ["id", "name"])
def test_a_stop_twice_is_success_twice(engine: Engine, shared: Server, kind: str, by: str) -> None:
    """While it is stopping, and when it is gone; its record stays, with its exit code."""
    run_id = started(shared.run(**NAP, type=kind, name="job"))
    shows(shared, run_id, status="running")
    napping(engine)
    called = run_id if by == "id" else "job"
    stopped(shared, called, run_id)
    stopped(shared, called, run_id)
    gone(engine, run_id)
    shown = shows(shared, called, id=run_id, status="removed")
    assert (shown["reason"], shown["exit_code"]) == ("stopped", 143)  # ended by SIGTERM, not by SIGKILL
    assert shown["removed_at"]
    stopped(shared, called, run_id)


@KINDS
def test_what_has_ended_is_removed(engine: Engine, shared: Server, kind: str) -> None:
    """A stop of it keeps the exit code that it had, and why it ended."""
    run_id = started(shared.run(image=IMAGE, command="sh -c 'exit 7'", type=kind))
    shows(shared, run_id, status="failed", reason="exit", exit_code=7)
    stopped(shared, run_id, run_id)
    gone(engine, run_id)
    shown = shows(shared, run_id, status="removed")
    assert (shown["reason"], shown["exit_code"]) == ("exit", 7)


@KINDS
def test_a_container_that_somebody_removed_is_success_too(engine: Engine, shared: Server, kind: str) -> None:
    """What another program has removed needs no stop."""
    run_id = started(shared.run(**NAP, type=kind))
    shows(shared, run_id, status="running")
    if kind == "service":
        sdk(engine).remove_service(run_id)
    else:
        sdk(engine).remove_container(run_id, force=True)
    stopped(shared, run_id, run_id)
    shows(shared, run_id, status="removed")


@KINDS
def test_a_prefix_is_nobody(engine: Engine, shared: Server, kind: str) -> None:
    """Docker takes a part of an id for the whole; here it is 404, and so is a part of a name."""
    run_id = started(shared.run(**NAP, type=kind, name="part-1"))
    for part in (run_id[:-1], run_id[:12], run_id[:1], "part", "part-", "art-1", run_id.upper(), "/part-1"):
        assert shared.stop_service(part).status == 404, part
    for part in (run_id[:12], "part"):
        assert shared.status(part).status == 404, part
    shows(shared, run_id, status="running")


def test_what_nobody_knows_is_not_found(shared: Server) -> None:
    """404, in the one error shape."""
    for unknown in ("nobody", "0" * 25, "a" * 64, "..", "a/b", "a?b", "é", " ", "x" * 255):
        reply = shared.stop_service(unknown)
        assert (reply.status, reply["code"], reply["success"]) == (404, 404, False), unknown


def test_another_start_is_another_run(engine: Engine, shared: Server) -> None:
    """A name that is free again is the newer run's; the older one is known by its id."""
    first = started(shared.run(**NAP, name="again"))
    stopped(shared, first, first)
    gone(engine, first)
    shows(shared, first, status="removed")
    second = started(shared.run(**NAP, name="again"))
    assert shared.status("again")["id"] == second
    stopped(shared, first, first)
    shows(shared, second, status="running")
    assert shared.status(first)["status"] == "removed"


def test_a_stop_ends_every_replica(engine: Engine, shared: Server) -> None:
    """All at once, and none is started in their place."""
    service = started(shared.run(**NAP, replicas=3, restart="any", memory=16))
    eventually(lambda: shared.status(service)["replicas"]["running"] == 3, 30, "three run", every=0.05)
    napping(engine, 3)
    stopped(shared, service, service)
    shown = shows(shared, service, status="removed")
    assert [task["exit_code"] for task in shown["tasks"]] == [143, 143, 143]
    gone(engine, service)
    eventually(lambda: sdk(engine).containers(all=True) == [], 20, "its containers are gone")


# What quartermaster did not start


def test_a_foreign_service_is_removed(engine: Engine, shared: Server) -> None:
    """The root token's: it is shown without an owner, and removed, by name as well."""
    template = {"ContainerSpec": {"Image": IMAGE, "Args": ["nap"]}}
    service = sdk(engine).create_service(template, name="foreign", labels={"team": "red"})["ID"]
    shown = shows(shared, service, status="running")
    assert (shown["owner"], shown["labels"], shown["name"]) == (None, {"team": "red"}, "foreign")
    stopped(shared, "foreign", service)
    gone(engine, service)
    stopped(shared, service, service)


def test_a_foreign_container_is_nobody(engine: Engine, shared: Server) -> None:
    """404, to see and to stop; it goes on."""
    client = sdk(engine)
    config = {"Image": IMAGE, "Cmd": ["nap"], "HostConfig": {}}
    container = client.create_container_from_config(config, "foreign-box")["Id"]
    client.start(container)
    for called in (container, "foreign-box"):
        assert shared.status(called).status == 404
        assert shared.stop_service(called).status == 404
    assert client.inspect_container(container)["State"]["Running"]
    assert container not in shared.call("GET", "/status").text


def test_an_image_does_not_speak_in_our_name(engine: Engine, server: Server) -> None:
    """Docker shows an image's labels as those of its containers: they make nothing ours, and hide nothing of ours."""
    said = {"managed": "true", "owner": "root", "run": "known", "timeout": "0.5s", "ttl": "1s"}
    labels = {f"io.qmaster.{key}": value for key, value in said.items()}
    engine.load_image("speaks:1", Cmd=["nap", "300"], Labels={**labels, "com.docker.swarm.service.id": "foo"})
    began = time.monotonic()
    ours = server.run(image="speaks:1", type="container", command="nap 0.5", wait=20)
    assert (ours["status"], ours["owner"], ours["timeout"], ours["ttl"]) == ("complete", "root", None, 86400.0)
    assert time.monotonic() - began < 10
    service = started(server.run(image="speaks:1"))
    foreign = engine.cli("run", "--detach", "speaks:1").strip()
    (task,) = shows(server, service, status="running")["tasks"]
    assert [server.status(each).status for each in (foreign, task["container_id"])] == [404, 404]
    server.restart()  # a full listing
    shows(server, service, status="running")
    shown = {each["id"] for each in server.call("GET", "/status").json["services"]}
    assert (shown & {foreign, task["container_id"]}, {service, ours["id"]} - shown) == (set(), set())
    assert sdk(engine).inspect_container(foreign)["State"]["Running"]


def test_the_container_of_a_service_is_not_stopped(engine: Engine, shared: Server) -> None:
    """A task's container is its service's; by its own id it is 404."""
    service = started(shared.run(**NAP))
    task = shows(shared, service, status="running")["tasks"][0]
    assert shared.stop_service(task["container_id"]).status == 404
    assert shared.stop_service(task["id"]).status == 404
    assert shared.status(service)["status"] == "running"


# Filters


def test_the_filters_of_a_listing(engine: Engine, server: Server) -> None:
    """status and name widen, label narrows, limit takes the newest; all shows what is removed too."""
    blue = started(server.run(**NAP, name="blue", labels={"team": "blue", "tier": "1"}))
    done = started(server.run(image=IMAGE, command="true", name="done", labels={"team": "blue"}))
    red = started(server.run(**NAP, name="red", type="container", labels={"team": "red", "tier": "1"}))
    past = started(server.run(**NAP, name="past", type="container"))
    stopped(server, past, past)
    shows(server, blue, status="running")
    shows(server, done, status="complete")
    shows(server, past, status="removed")

    def listed(query: str = "") -> set[str]:
        reply = server.call("GET", f"/status?{query}")
        assert reply.status == 200, reply.text
        return {service["id"] for service in reply["services"]}

    assert listed() == {blue, done, red}
    assert listed("all=0") == {blue, done, red}
    assert listed("all=1") >= {blue, done, red, past}
    assert past in listed("all=1&status=removed&name=past")
    assert listed("status=running") == {blue, red}
    assert listed("status=running&status=complete") == {blue, done, red}
    assert listed("status=failed") == set()
    assert listed("name=red") == {red}
    assert listed("name=red&name=done") == {red, done}
    assert listed("name=re") == set()
    assert listed("label=team=blue") == {blue, done}
    assert listed("label=team=blue&label=tier=1") == {blue}
    assert listed("label=tier") == {blue, red}
    assert listed("label=team=") == set()
    assert listed("limit=1") == {red}
    assert listed("image=busybox&owner=root") == {blue, done, red}
    assert listed("image=alpine") == listed("until=1h") == listed("reason=timeout") == set()
    assert listed("all=1&since=1h&reason=stopped") >= {past}
    paged, following = list[str](), ""
    while following is not None:
        reply = server.call("GET", f"/status?all=1&since=1h&limit=1{following}").json
        paged += [service["id"] for service in reply["services"]]
        following = reply["next_page"] and f"&page={reply['next_page']}"
    assert paged == [each["id"] for each in server.call("GET", "/status?all=1&since=1h")["services"]]
    assert listed("status=running&label=tier=1&name=blue") == {blue}


def test_a_wrong_filter_is_named(shared: Server) -> None:
    """400: left out in silence it would show what was not asked for."""
    wrong = ["status=sleeping", "limit=0", "limit=x", "limit=1&limit=2", "label==x", "all=yes", "stauts=running"]
    for query in wrong:
        reply = shared.call("GET", f"/status?{query}")
        assert reply.status == 400, query
        assert query.partition("=")[0] in reply["error"]


def test_one_service_in_full(engine: Engine, server: Server) -> None:
    """All that the contract names, and no environment."""
    service = started(server.run(**NAP, name="full", env={"SECRET": "hush"}, labels={"a": "b"}, memory=32, cpus=0.5))
    shown = shows(server, service, status="running")
    assert shown["success"] is True
    wanted: dict[str, Any] = {
        "id": service,
        "type": "service",
        "name": "full",
        "image": IMAGE,
        "command": ["nap", "300"],
    }
    wanted |= {"labels": {"a": "b"}, "owner": "root", "memory": 32, "cpus": 0.5, "exit_code": None, "reason": None}
    assert shown.json.items() >= wanted.items()
    assert shown["replicas"] == {"desired": 1, "running": 1, "complete": 0, "failed": 0}
    assert shown["created_at"] <= shown["started_at"]
    (task,) = shown["tasks"]
    assert (task["state"], task["slot"], task["node_id"], task["node"]) == ("running", 1, engine.node_id, engine.name)
    assert sdk(engine).inspect_container(task["container_id"])["State"]["Running"]
    assert "hush" not in shown.text
    (listed,) = server.call("GET", "/status")["services"]
    assert listed == {key: value for key, value in shown.json.items() if key != "success"}


# Itself

TOKEN = "a-token-of-the-inner-one"
PORT = 9090


def _mounts(engine: Engine) -> dict[str, str]:
    """What this interpreter needs of the host, and the engine's socket: from where to where, which is as outside."""
    python = Path(sys.executable).resolve().parents[1]
    folders = {"/usr", "/lib", "/lib64", str(ROOT), sys.prefix, sys.base_prefix, str(python)}
    found = {f"{engine.machine.host}{folder}": folder for folder in sorted(folders) if Path(folder).exists()}
    return found | {engine.socket: engine.socket}


def _inside() -> dict[str, Any]:
    """Image, command and environment of a quartermaster in a container."""
    return {
        "command": [sys.executable, "-m", "qmaster", "--data-dir", "/tmp/data"],
        "env": [f"TOKEN={TOKEN}", f"PYTHONPATH={ROOT}", f"PORT={PORT}", "PYTHONDONTWRITEBYTECODE=1"],
    }


class Inner:
    """The quartermaster inside of a container, in the network of its engine's machine."""

    def __init__(self, engine: Engine) -> None:
        self._address = engine.address

    def call(self, method: str, path: str, **document: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self._address, PORT, timeout=10)
        try:
            body = json.dumps({"token": TOKEN, **document})
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def wait(self) -> None:
        eventually(lambda: self.call("GET", "/readyz")[0] == 200, 30, "it is ready", ignoring=OSError)

    def refuses(self, called: str) -> None:
        status, document = self.call("POST", "/stop", id=called)
        assert (status, "itself" in document["error"]) == (409, True), document


@pytest.fixture
def inner(engine: Engine) -> Inner:
    return Inner(engine)


def test_a_container_does_not_stop_itself(engine: Engine, inner: Inner) -> None:
    """By its id and its name 409; others it stops, and it goes on."""
    client = sdk(engine)
    inside = _inside()
    binds = [":".join(mount) for mount in _mounts(engine).items()]
    config = {
        "Image": IMAGE,
        "Entrypoint": inside["command"],
        "Cmd": ["--docker-host", engine.host],
        "Env": inside["env"],
        "HostConfig": {"Binds": binds, "NetworkMode": "host"},
    }
    own = client.create_container_from_config(config, "quartermaster")["Id"]
    client.start(own)
    inner.wait()
    inner.refuses(own)
    inner.refuses("quartermaster")
    status, answer = inner.call("POST", "/run", **NAP, type="container")
    assert status == 200
    assert inner.call("POST", "/stop", id=answer["id"])[0] == 200
    gone(engine, answer["id"])
    assert client.inspect_container(own)["State"]["Running"]


def test_a_service_does_not_stop_itself(engine: Engine, inner: Inner) -> None:
    """By its service's id and name, and by its container's id, 409; and it goes on."""
    client = sdk(engine)
    inside = _inside()
    mounts = [{"Type": "bind", "Source": source, "Target": target} for source, target in _mounts(engine).items()]
    spec = {
        "Image": IMAGE,
        "Command": inside["command"],
        "Args": ["--docker-host", engine.host],
        "Env": inside["env"],
        "Mounts": mounts,
    }
    network = next(each["Id"] for each in client.networks(names=["host"]) if each["Name"] == "host")
    template = {"ContainerSpec": spec, "Networks": [{"Target": network}]}
    own = client.create_service(template, name="quartermaster")["ID"]
    inner.wait()
    (container,) = client.containers(filters={"label": f"com.docker.swarm.service.id={own}"})
    for called in (own, "quartermaster", container["Id"]):
        inner.refuses(called)
    assert client.inspect_container(container["Id"])["State"]["Running"]
    assert "io.qmaster.end" not in client.inspect_service(own)["Spec"]["Labels"]


def test_outside_of_a_container_there_is_no_self(tmp_path: Path) -> None:
    """The three files that the engine mounts into each container tell which one it is; a host has none."""
    container = "0123456789abcdef" * 4
    lines = [
        "21 98 0:19 / /proc rw - proc proc rw",
        f"700 650 8:1 /var/lib/docker/containers/{container}/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw",
    ]
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("\n".join(lines) + "\n")
    assert own_container_id(mountinfo) == container
    mountinfo.write_text(lines[0] + "\n")
    assert own_container_id(mountinfo) is None
    assert own_container_id(tmp_path / "missing") is None
