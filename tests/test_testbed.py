"""The testbed itself: what the other tests build on is really so."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from testbed import Bed, Engine, Proxy, Registry, Ssh, Swarm, TlsEngine, eventually, sdk
from testbed.faults import answer, cut, delay, forward_then, garbage, half_close, hang
from testbed.process import run

BROKEN = (requests.exceptions.RequestException, docker.errors.DockerException)
NAP = {"Image": "busybox:local", "Args": ["nap"], "StopGracePeriod": 1_000_000_000}


def create(engine: Engine, *constraints: str) -> str:
    template = {"ContainerSpec": NAP, "Placement": {"Constraints": list(constraints)}}
    return str(sdk(engine).create_service(template)["ID"])


def states(engine: Engine, service: str) -> list[str]:
    tasks = sdk(engine).tasks(filters={"service": service})
    return [task["Status"]["State"] for task in tasks]


def running(engine: Engine, service: str) -> None:
    eventually(lambda: "running" in states(engine, service), 20, f"{service} runs", ignoring=BROKEN)


def test_a_service_runs_on_a_worker(swarm: Swarm) -> None:
    """The swarm places a task of `busybox:local` on the worker it is told."""
    service = create(swarm.manager, "node.hostname==worker-2")
    running(swarm.manager, service)
    assert len(swarm.workers[1].client().containers()) == 1
    assert swarm.workers[0].client().containers() == []


def test_nothing_is_left_by_the_test_before(swarm: Swarm) -> None:
    """After a test its services and containers are removed, on all nodes."""
    assert sdk(swarm.manager).services() == []
    assert [node.client().containers(all=True) for node in swarm.nodes] == [[], [], []]


@pytest.mark.patient
def test_a_cut_off_worker_is_down_until_it_is_brought_back(swarm: Swarm) -> None:
    """Without its cable a worker misses its heartbeats."""
    worker = swarm.workers[0]

    def state() -> str:
        return str(swarm.node(worker)["Status"]["State"])

    worker.cut_off()
    eventually(lambda: state() == "down", 30, "the worker is down")
    worker.bring_back()
    eventually(lambda: state() == "ready", 30, "the worker is back")


@pytest.mark.patient
def test_a_promoted_worker_takes_part(swarm: Swarm) -> None:
    """A promoted worker answers as a manager."""
    swarm.promote(swarm.workers[0])
    assert len(list(swarm.workers[0].client().nodes())) == 3


@pytest.mark.patient
def test_an_engine_stops_and_comes_back(engine: Engine) -> None:
    """SIGTERM and a new start keep the swarm and its services."""
    service = create(engine)
    running(engine, service)
    engine.stop()
    assert not engine.up
    engine.start()
    running(engine, service)


def test_a_killed_engine_leaves_its_containers_and_comes_back(engine: Engine) -> None:
    """SIGKILL ends dockerd and containerd, not the containers; the next start takes care of them."""
    service = create(engine)
    running(engine, service)
    engine.kill()
    assert not engine.up
    assert engine.machine.processes("containerd-shim")
    engine.start()
    running(engine, service)


def test_a_frozen_engine_answers_after_the_thaw(engine: Engine) -> None:
    """SIGSTOP leaves requests unanswered; SIGCONT answers them."""
    client = engine.client(timeout=1)
    engine.freeze()
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.version()
    engine.thaw()
    assert client.version()["Version"]


def test_an_engine_outside_a_swarm_runs_containers(plain_engine: Engine) -> None:
    """The plain engine is no swarm manager, and takes images with their own entrypoint."""
    plain_engine.load_image("greet:1", Entrypoint=["echo", "hello"], Cmd=["world"])
    assert plain_engine.client().info()["Swarm"]["LocalNodeState"] == "inactive"
    assert plain_engine.cli("run", "--rm", "greet:1") == "hello world\n"


def test_containers_reach_the_host(bed: Bed, clean_bridged_swarm: Swarm) -> None:
    """On engines with a bridge, a task on any node, without a network of its own."""
    with socket.create_server((bed.network.host, 0)) as listener:
        listener.settimeout(60)
        say = f"echo hello | nc {bed.network.host} {listener.getsockname()[1]}"
        template = {
            "ContainerSpec": {"Image": "busybox:local", "Args": ["sh", "-c", say]},
            "RestartPolicy": {"Condition": "none"},
        }
        sdk(clean_bridged_swarm.manager).create_service(template, mode={"Global": {}})
        heard = set()
        for _ in clean_bridged_swarm.nodes:
            connection, (address, _) = listener.accept()
            with connection:
                assert connection.recv(100) == b"hello\n"
                heard.add(address)
    assert heard == {node.address for node in clean_bridged_swarm.nodes}


def test_the_firewall_of_the_host_stays_as_it_is(bed: Bed) -> None:
    """An engine with a bridge makes its rules in the namespace of its own machine."""
    tables = ("filter", "nat")
    rules = [run("iptables", "--table", table, "-S") for table in tables]
    engine = bed.engine("bridged", bridge=True)
    engine.start()
    engine.load_busybox()
    assert "inet 172.30.0.2/24" in engine.cli("run", "--rm", "busybox:local", "ip", "addr")
    assert "DOCKER" in engine.machine.run("iptables", "-S")
    assert [run("iptables", "--table", table, "-S") for table in tables] == rules
    engine.stop()


def test_the_bridge_keeps_its_address(bed: Bed) -> None:
    """Whichever cables come and go: who knew another would wait for the registry until it forgot it."""
    hub = bed.network.namespace("hub")
    run("ip", "-n", hub, "link", "add", "low", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "end")
    try:
        run("ip", "-n", hub, "link", "set", "low", "master", "bridge", "up")
        known = run("ip", "-n", hub, "-brief", "link", "show", "bridge").split()[2]
    finally:
        run("ip", "-n", hub, "link", "delete", "low")
    assert run("ip", "-n", hub, "-brief", "link", "show", "bridge").split()[2] == known


def test_credentials_are_checked(swarm: Swarm, registry: Registry) -> None:
    """A worker pulls from the registry with right credentials only, and the registry counts."""
    reference = registry.push(swarm.manager, "busybox:local", "tool:1")
    worker = swarm.workers[0]
    for wrong in (None, {"username": "alice", "password": registry.bob.password}):
        with pytest.raises(docker.errors.APIError, match=r"credentials|unauthorized"):
            worker.client().pull(reference, auth_config=wrong)
    before = registry.count()
    worker.client().pull(reference, auth_config=registry.bob.auth_config)
    assert registry.count() > before
    assert registry.digest(reference) in worker.cli("images", "--digests", registry.repository + "/tool")


def test_a_stopped_registry_keeps_its_images(engine: Engine, registry: Registry) -> None:
    """Stopped it refuses, and started again it has what was pushed."""
    reference = registry.push(engine, name="kept:1")
    registry.stop()
    with pytest.raises(ConnectionRefusedError):
        registry.digest(reference)
    registry.start()
    assert registry.digest(reference).startswith("sha256:")


def test_tls_wants_a_certificate(tls_engine: TlsEngine) -> None:
    """The TCP port answers a client with the certificate, and no other."""
    folder = Path(tls_engine.env["DOCKER_CERT_PATH"])
    url = tls_engine.tcp_host.replace("tcp", "https") + "/_ping"
    pair = (str(folder / "cert.pem"), str(folder / "key.pem"))
    assert requests.get(url, verify=str(folder / "ca.pem"), cert=pair, timeout=5).text == "OK"
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(url, verify=str(folder / "ca.pem"), timeout=5)


def test_ssh_leads_to_the_engine(engine: Engine, ssh: Ssh) -> None:
    """The docker command reaches the engine over ssh."""
    said = run("docker", "info", "--format", "{{.Name}}", env={**os.environ, **ssh.env})
    assert said == f"{engine.name}\n"


@pytest.fixture
def through(proxy: Proxy) -> Iterator[docker.APIClient]:
    client = docker.APIClient(proxy.host, version="1.41", timeout=2)
    yield client
    client.close()


def test_a_proxy_is_transparent_and_counts(engine: Engine, proxy: Proxy) -> None:
    """A hijacked connection, a stream and plain calls pass; each request is recorded."""
    command = ["docker", "-H", proxy.host, "run", "--rm", "-i", "busybox:local", "cat"]
    assert run(*command, stdin=b"through\n") == "through\n"
    assert proxy.count(r"/containers/create$", "POST") == 1
    proxy.forget()
    assert proxy.requests == []


def test_events_stream_through_a_proxy_until_it_cuts(engine: Engine, proxy: Proxy, through: docker.APIClient) -> None:
    """An event arrives at once, and `cut_all` ends the stream."""
    seen: list[dict[str, str]] = []
    reader = threading.Thread(target=lambda: seen.extend(through.events(decode=True, filters={"type": "volume"})))
    reader.start()
    eventually(lambda: proxy.count("/events"))
    engine.cli("volume", "create", "seen")
    engine.cli("volume", "rm", "seen")
    proxy.cut_all()
    reader.join(5)
    assert not reader.is_alive()
    assert [event["Action"] for event in seen] == ["create", "destroy"]


def test_a_proxy_answers_in_the_engines_place(proxy: Proxy, through: docker.APIClient) -> None:
    """A rule befalls the requests it names, as often as it says."""
    rule = proxy.on("/version", answer(503, {"message": "not today"}), "GET", times=1)
    with pytest.raises(docker.errors.APIError, match="not today"):
        through.version()
    assert through.version()["Version"]
    assert rule.hits == 1


@pytest.mark.parametrize("fault", [garbage(), cut(), cut(300), half_close(300), hang(), hang(300), delay(4)])
def test_a_proxy_breaks_an_answer(proxy: Proxy, through: docker.APIClient, fault: object) -> None:
    """Whatever breaks an answer, the client fails with an error, and the next call is well."""
    proxy.on("/version", fault, times=1)  # type: ignore[arg-type]
    with pytest.raises((*BROKEN, ValueError)):
        through.version()
    assert through.version()["Version"]


def test_a_create_is_done_but_answered_with_an_error(engine: Engine, proxy: Proxy, through: Any) -> None:
    """The engine has done what the client believes to have failed."""
    for name, fault in (("a", answer(500)), ("b", cut())):
        proxy.on("/services/create", forward_then(fault), "POST", times=1)
        with pytest.raises(BROKEN):
            through.create_service({"ContainerSpec": NAP}, name=name)
    assert sorted(service["Spec"]["Name"] for service in sdk(engine).services()) == ["a", "b"]


@pytest.mark.engine
def test_two_beds_side_by_side() -> None:
    """They share no subnet, name or folder, and when one goes the other stays."""
    with Bed() as one, Bed() as other:
        assert one.network.subnet != other.network.subnet
        engines = [bed.engine("same-name") for bed in (one, other)]
        for engine in engines:
            engine.start()
        other.close()
        assert engines[0].up
        assert not other.root.exists()
    assert not one.root.exists()
    assert one.network.prefix not in Path("/proc/mounts").read_text()


def test_a_server_is_a_process(bed: Bed, tmp_path: Path) -> None:
    """It is started, called, frozen, restarted and ended; its output is kept."""
    (tmp_path / "qmaster").mkdir()
    (tmp_path / "qmaster" / "__main__.py").write_text(STUB)
    server = bed.server("unix:///nowhere", env={"PYTHONPATH": str(tmp_path), "GREETING": "hello"})
    server.start()
    assert server.call("GET", "/x").json == {"path": "/x", "token": f"Bearer {server.token}", "greeting": "hello"}
    assert server.call("GET", "/x", token=False)["token"] is None
    server.freeze()
    with pytest.raises(TimeoutError):
        server.call("GET", "/x", timeout=0.5)
    server.thaw()
    server.restart()
    assert server.terminate() == 0
    assert server.logs().count("started") == 2


def test_a_server_that_does_not_start_says_why(tmp_path: Path, bed: Bed) -> None:
    """The error holds what the process wrote."""
    (tmp_path / "qmaster").mkdir()
    (tmp_path / "qmaster" / "__main__.py").write_text("raise SystemExit('no such option')")
    with pytest.raises(RuntimeError, match="no such option"):
        bed.server("unix:///nowhere", env={"PYTHONPATH": str(tmp_path)}).start()


STUB = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = {"path": self.path, "token": self.headers["Authorization"], "greeting": os.environ["GREETING"]}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
print("started")
HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
