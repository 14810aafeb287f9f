"""POST /run on a real engine: each field, checked in what Docker's own inspect says, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from request_cases import WRONG
from run_cases import MANAGED, has_status, service_spec
from testbed import Bed, Engine, Proxy, Reply, Server, eventually, sdk
from testbed.process import run

from qmaster.models.requests import MAX_BODY

MIB = 1024 * 1024
IMAGE = "busybox:local"

# The calls of docs/api.md, byte for byte: a .curlrc leads the port to the test's server, and the image ignores its CMD.
RUN = """curl -X POST \\
  http://localhost:9090/run \\
  -H 'cache-control: no-cache' \\
  -H 'content-type: application/json' \\
  -d '{
  "token": "4jrs8-534js-345ds-3lrd0",
  "command": "node index.js",
  "image": "user/image",
  "type": "service"
}'
"""
STOP = """curl -X POST \\
  http://localhost:9090/stop \\
  -H 'cache-control: no-cache' \\
  -H 'content-type: application/json' \\
  -d '{
  "token": "4jrs8-534js-345ds-3lrd0",
  "id": "a52f382c82a7d101b8ee3bbaa9ff59243b43c95915f1da579f35df0c4af0c822"
}'
"""
EXAMPLE_ID = "a52f382c82a7d101b8ee3bbaa9ff59243b43c95915f1da579f35df0c4af0c822"
EXAMPLE_TOKEN = "4jrs8-534js-345ds-3lrd0"


def started(reply: Reply) -> str:
    """The id that a run was answered with."""
    assert reply.status == 200, reply.text
    assert set(reply.json) - {"warnings"} == {"success", "id"}
    assert reply["success"] is True
    return str(reply["id"])


def made(engine: Engine) -> list[str]:
    """All services and containers of an engine."""
    client = sdk(engine)
    return [each["ID"] for each in client.services()] + [each["Id"] for each in client.containers(all=True)]


class Curl:
    """The `curl` program in a shell, with localhost:9090 led to one server."""

    def __init__(self, server: Server, folder: Path) -> None:
        (folder / ".curlrc").write_text(f'silent\nconnect-to = "localhost:9090:127.0.0.1:{server.port}"\n')
        self._env = {"PATH": "/usr/bin:/bin", "CURL_HOME": str(folder), "HOME": str(folder)}

    def __call__(self, line: str) -> Any:
        return json.loads(run("sh", "-c", line, env=self._env))


@pytest.fixture(scope="module")
def curl(bed: Bed, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Curl]:
    engine.load_image("user/image:latest", Entrypoint=["sh", "-c", "exec nap"])
    server = bed.server(engine.host, env={"TOKEN": EXAMPLE_TOKEN})
    server.start()
    yield Curl(server, tmp_path_factory.mktemp("curl"))
    server.kill()


# The two curls


@pytest.mark.parametrize("path", ["/run", "/start"])
def test_the_two_curls_start_and_stop_a_service(engine: Engine, curl: Curl, path: str) -> None:
    """As they stand in docs/api.md; /start is another name of /run."""
    answer = curl(RUN.replace("/run", path))
    answer.pop("warnings", None)  # of an engine that ignores a part of what is the default
    assert answer == {"success": True, "id": answer["id"]}
    spec = service_spec(engine, answer["id"])
    assert spec["TaskTemplate"]["ContainerSpec"]["Args"] == ["node", "index.js"]
    eventually(lambda: sdk(engine).containers(filters={"ancestor": "user/image"}), 20, "its container runs")
    assert curl(STOP.replace(EXAMPLE_ID, answer["id"])) == {"success": True, "id": answer["id"]}
    eventually(lambda: not made(engine), 30, "the service and its container are gone")


@pytest.mark.parametrize("path", ["/run", "/start"])
def test_the_two_curls_start_and_stop_a_container(engine: Engine, curl: Curl, path: str) -> None:
    """The same calls with the type container run one on this engine."""
    answer = curl(RUN.replace("/run", path).replace('"service"', '"container"'))
    answer.pop("warnings", None)  # of the registry, which cannot be reached
    assert answer == {"success": True, "id": answer["id"]}
    container = sdk(engine).inspect_container(answer["id"])
    assert container["State"]["Running"]
    assert container["Config"]["Cmd"] == ["node", "index.js"]
    assert curl(STOP.replace(EXAMPLE_ID, answer["id"])) == {"success": True, "id": answer["id"]}
    eventually(lambda: not made(engine), 30, "the container is gone")


# Every field of a service


@pytest.mark.parametrize("kind", ["service", "container"])
@pytest.mark.parametrize("cleared", [[], "", " "], ids=["list", "string", "space"])
def test_an_empty_entrypoint_switches_the_image_s_off(
    engine: Engine, shared: Server, kind: str, cleared: str | list[str]
) -> None:
    """The command is then the program."""
    engine.load_image("speaks:local", Entrypoint=["echo", "of the image"])
    told = shared.run(image="speaks:local", command="echo mine", type=kind, wait=30)
    assert told["result"]["stdout"] == "of the image echo mine\n"
    told = shared.run(image="speaks:local", command="echo mine", type=kind, wait=30, entrypoint=cleared)
    assert told["result"]["stdout"] == "mine\n"


@pytest.mark.parametrize("kind", ["service", "container"])
def test_the_least_cpus_run(shared: Server, kind: str) -> None:
    """What is less fails at the kernel, so that it is refused before."""
    assert shared.run(image=IMAGE, command="true", type=kind, wait=30, cpus=0.01)["status"] == "complete"
    refused = shared.run(image=IMAGE, command="true", type=kind, wait=30, cpus=0.0099)
    assert (refused.status, refused["error"]) == (400, "cpus: expected a number of at least 0.01 cores, got 0.0099")


def test_a_service_runs_once_with_the_defaults(engine: Engine, shared: Server) -> None:
    """One replica, no restart, 250 MiB as limit and reservation, and a name that tells the image."""
    service = started(shared.run(image=IMAGE))
    spec = service_spec(engine, service)
    template = spec["TaskTemplate"]
    assert spec["Mode"] == {"Replicated": {"Replicas": 1}}
    assert template["RestartPolicy"]["Condition"] == "none"
    assert template["Resources"]["Limits"] == {"MemoryBytes": 250 * MIB, "Pids": 1024}
    assert template["Resources"]["Reservations"] == {"MemoryBytes": 250 * MIB}
    assert template["ContainerSpec"]["Image"] == IMAGE
    assert not template["ContainerSpec"].keys() & {"Args", "Command", "Env", "User", "Dir", "Secrets"}
    assert spec["Name"].startswith("busybox-")
    assert spec["Labels"][MANAGED] == "true"
    assert spec["Labels"]["io.qmaster.owner"] == "root"
    assert has_status(shared, service, "complete")["exit_code"] == 0  # the image's own command, `sh`, ends at once


def test_the_memory_of_a_run_that_names_none_is_an_option(engine: Engine, start_server: StartServer) -> None:
    """--memory is the limit and the reservation."""
    server = start_server(engine.host, "--memory", "64")
    resources = service_spec(engine, started(server.run(image=IMAGE)))["TaskTemplate"]["Resources"]
    assert resources["Reservations"] == {"MemoryBytes": 64 * MIB}
    assert resources["Limits"] == {**resources["Reservations"], "Pids": 1024}
    container = sdk(engine).inspect_container(started(server.run(image=IMAGE, type="container")))
    assert container["HostConfig"]["Memory"] == 64 * MIB


def test_what_a_service_runs(engine: Engine, shared: Server) -> None:
    """Command, entrypoint, environment, folder, user, labels and name, in the service and in its container."""
    service = started(
        shared.run(
            image=IMAGE,
            name="my-job",
            command="""300 'two words' "$HOME" """,
            entrypoint=["nap"],
            env={"GREETING": "hello world", "EMPTY": "", "TEXT": "{{.Node.ID}} {{{x}}}"},
            workdir="/tmp",
            user="nobody:nobody",
            labels={"team": "blue", "empty": ""},
        )
    )
    spec = service_spec(engine, service)
    inner = spec["TaskTemplate"]["ContainerSpec"]
    assert spec["Name"] == "my-job"
    assert spec["Labels"].items() >= {"team": "blue", "empty": "", MANAGED: "true"}.items()
    assert inner["Command"] == ["nap"]
    assert inner["Args"] == ["300", "two words", "$HOME"]
    assert (inner["Dir"], inner["User"]) == ("/tmp", "nobody:nobody")
    shown = has_status(shared, service, "running")
    config = sdk(engine).inspect_container(shown["tasks"][0]["container_id"])["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["nap"], ["300", "two words", "$HOME"])
    assert {"EMPTY=", "GREETING=hello world", "TEXT={{.Node.ID}} {{{x}}}"} <= set(config["Env"])
    assert (config["WorkingDir"], config["User"]) == ("/tmp", "nobody:nobody")
    assert "hello world" not in shown.text


def test_the_resources_of_a_service(engine: Engine, shared: Server) -> None:
    """Memory and cpus are limit and reservation, and reach the cgroup; restart and replicas are Swarm's own."""
    fields: dict[str, Any] = {"memory": 48, "cpus": 0.25, "replicas": 2, "restart": "on-failure", "max_attempts": 3}
    service = started(shared.run(image=IMAGE, command="nap 300", **fields))
    spec = service_spec(engine, service)
    resources = spec["TaskTemplate"]["Resources"]
    assert resources["Reservations"] == {"MemoryBytes": 48 * MIB, "NanoCPUs": 250_000_000}
    assert resources["Limits"] == {**resources["Reservations"], "Pids": 1024}
    assert spec["Mode"] == {"Replicated": {"Replicas": 2}}
    policy = spec["TaskTemplate"]["RestartPolicy"]
    assert (policy["Condition"], policy["MaxAttempts"]) == ("on-failure", 3)
    eventually(lambda: shared.status(service)["replicas"]["running"] == 2, 30, "both replicas run", every=0.05)
    host = sdk(engine).inspect_container(shared.status(service)["tasks"][0]["container_id"])["HostConfig"]
    assert (host["Memory"], host["NanoCpus"]) == (48 * MIB, 250_000_000)


@pytest.mark.parametrize("restart", ["none", "on-failure", "any"])
def test_the_restart_of_a_service(engine: Engine, shared: Server, restart: str) -> None:
    """Swarm's condition of the same name."""
    spec = service_spec(engine, started(shared.run(image=IMAGE, command="nap 300", restart=restart)))
    assert spec["TaskTemplate"]["RestartPolicy"]["Condition"] == restart


def test_a_failing_service_is_tried_again_as_often_as_asked(engine: Engine, shared: Server) -> None:
    """With max_attempts 1 there are two tasks, and then it has failed."""
    service = started(shared.run(image=IMAGE, command="sh -c 'exit 3'", restart="on-failure", max_attempts=1))
    shown = has_status(shared, service, "failed")
    assert (shown["reason"], shown["exit_code"]) == ("exit", 3)
    assert len(sdk(engine).tasks(filters={"service": service})) == 2


def test_constraints_networks_secrets_and_ports(engine: Engine, shared: Server) -> None:
    """Networks and secrets are found by name, ports are published, and the service runs with them."""
    client = sdk(engine)
    network = client.create_network("backend", driver="overlay", scope="swarm")["Id"]
    client.create_network("backend-2", driver="overlay", scope="swarm")  # filters of Docker match a part of the name
    secret = client.create_secret("api-key", b"hush")["ID"]
    service = started(
        shared.run(
            image=IMAGE,
            command="sh -c 'cat /run/secrets/api-key; echo; exec nap 300'",
            constraints=["node.role==manager", "node.hostname != nobody"],
            networks=["backend"],
            secrets=["api-key"],
            ports=["18080:80", "18053:53/udp"],
        )
    )
    spec = service_spec(engine, service)
    template = spec["TaskTemplate"]
    assert template["Placement"]["Constraints"] == ["node.role==manager", "node.hostname != nobody"]
    assert [each["Target"] for each in template["Networks"]] == [network]
    (mounted,) = template["ContainerSpec"]["Secrets"]
    assert (mounted["SecretID"], mounted["SecretName"], mounted["File"]["Name"]) == (secret, "api-key", "api-key")
    ports = [(port["PublishedPort"], port["TargetPort"], port["Protocol"]) for port in spec["EndpointSpec"]["Ports"]]
    assert ports == [(18080, 80, "tcp"), (18053, 53, "udp")]
    container = has_status(shared, service, "running")["tasks"][0]["container_id"]
    assert "backend" in client.inspect_container(container)["NetworkSettings"]["Networks"]
    shown = shared.status(service)["spec"]
    assert (shown["networks"], shown["secrets"]) == (["backend"], ["api-key"])
    assert shown["ports"] == ["18080:80", "18053:53/udp"]
    eventually(lambda: client.logs(container) == b"hush\n", 10, "the secret is there to be read")


# Every field of a container


def test_a_container_runs_once_with_the_defaults(engine: Engine, shared: Server) -> None:
    """No restart, 250 MiB, the image's own command, no privileges, and a name that tells the image."""
    container = sdk(engine).inspect_container(started(shared.run(image=IMAGE, type="container")))
    host = container["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert (host["Memory"], host["MemoryReservation"], host["NanoCpus"]) == (250 * MIB, 250 * MIB, 0)
    assert (host["Privileged"], host["Binds"], host["CapAdd"]) == (False, None, None)
    assert (container["Config"]["Cmd"], container["Config"]["Entrypoint"]) == (["sh"], None)
    assert container["Config"]["Image"] == IMAGE
    assert container["Config"]["Labels"].items() >= {MANAGED: "true", "io.qmaster.owner": "root"}.items()
    assert container["Name"].startswith("/busybox-")


def test_every_field_of_a_container(engine: Engine, shared: Server) -> None:
    """All that services and containers share, as Docker's inspect tells it."""
    run_id = started(
        shared.run(
            image=IMAGE,
            type="container",
            name="my-container",
            command=["300", "two words"],
            entrypoint="nap",
            env={"GREETING": "hello world"},
            workdir="/var",
            user="65534",
            labels={"team": "blue"},
            memory=32,
            cpus=0.5,
            restart="on-failure",
            max_attempts=2,
        )
    )
    container = sdk(engine).inspect_container(run_id)
    config, host = container["Config"], container["HostConfig"]
    assert (container["Id"], container["Name"]) == (run_id, "/my-container")
    assert (config["Entrypoint"], config["Cmd"]) == (["nap"], ["300", "two words"])
    assert "GREETING=hello world" in config["Env"]
    assert (config["WorkingDir"], config["User"], config["Labels"]["team"]) == ("/var", "65534", "blue")
    assert (host["Memory"], host["MemoryReservation"], host["NanoCpus"]) == (32 * MIB, 32 * MIB, 500_000_000)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert container["State"]["Running"]
    shown = shared.status(run_id)
    assert (shown["type"], shown["memory"], shown["cpus"], shown["tasks"]) == ("container", 32, 0.5, [])
    assert "hello world" not in shown.text
    assert (shown["spec"]["env"], shown["spec"]["workdir"], shown["spec"]["max_attempts"]) == (["GREETING"], "/var", 2)


@pytest.mark.parametrize(("restart", "policy"), [("none", "no"), ("on-failure", "on-failure"), ("any", "always")])
def test_the_restart_of_a_container(engine: Engine, shared: Server, restart: str, policy: str) -> None:
    """Swarm's words are Docker's policies."""
    run_id = started(shared.run(image=IMAGE, type="container", command="nap 300", restart=restart))
    assert sdk(engine).inspect_container(run_id)["HostConfig"]["RestartPolicy"]["Name"] == policy


def test_a_container_that_cannot_start_is_not_left(engine: Engine, shared: Server) -> None:
    """A command that is not in the image is the caller's mistake; what was created is removed."""
    reply = shared.run(image=IMAGE, type="container", command="no-such-program")
    assert reply.status == 400
    assert "no-such-program" in reply["error"]
    assert made(engine) == []


def test_a_container_of_an_image_that_nobody_has(engine: Engine, shared: Server) -> None:
    """The pull fails: 502 that speaks of the registry."""
    reply = shared.run(image="nowhere/nothing:1", type="container")
    assert reply.status == 502
    assert "registry" in reply["error"]
    assert made(engine) == []


# What is refused


@pytest.mark.parametrize("kind", ["service", "container"])
def test_a_dry_run_makes_nothing(engine: Engine, shared: Server, kind: str) -> None:
    """It tells what the run would be refused for, as far as the engine knows that before."""
    before, dry = made(engine), "/run?dry_run=1"
    answer = shared.call("POST", dry, {"image": IMAGE, "command": "true", "type": kind, "memory": 16})
    assert (answer.status, answer["dry_run"], answer["spec"]["memory"]) == (200, True, 16), answer.text
    missing = shared.call("POST", dry, {"image": "gone.invalid/x:1", "type": kind, "pull_policy": "never"})
    assert missing.status == (400 if kind == "container" else 200), missing.text  # a service's node says later
    if kind == "service":
        refused = shared.call("POST", dry, {"image": IMAGE, "secrets": ["gone"]})
        assert (refused.status, "gone" in refused["error"]) == (400, True), refused.text
    assert made(engine) == before


@pytest.mark.parametrize("kind", ["service", "container"])
def test_a_name_is_taken(engine: Engine, shared: Server, kind: str) -> None:
    """409, and the first goes on undisturbed."""
    first = started(shared.run(image=IMAGE, command="nap 300", type=kind, name="taken"))
    reply = shared.run(image=IMAGE, command="nap 300", type=kind, name="taken")
    assert (reply.status, reply["code"]) == (409, 409)
    assert "'taken' is taken" in reply["error"]
    assert shared.status("taken")["id"] == first
    running = has_status(shared, first, "running")
    assert running["name"] == "taken"
    assert len(shared.call("GET", "/status?name=taken")["services"]) == 1


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    *(({"image": IMAGE, field: value}, 400, field) for field, value in WRONG),
    ({"image": IMAGE, "imagee": "x"}, 400, "imagee"),
    ({"image": IMAGE, "type": "container", "ports": ["80:80"]}, 400, "ports"),
    ({"image": IMAGE, "labels": {"io.qmaster.owner": "me"}}, 400, "labels"),
    ({"image": IMAGE, "networks": ["missing"]}, 400, "missing"),
    ({"image": IMAGE, "networks": ["ingress"]}, 400, "ingress"),
    ({"image": IMAGE, "networks": ["host"]}, 400, "host"),
    ({"image": IMAGE, "secrets": ["missing"]}, 400, "missing"),
    ({"image": IMAGE, "env": {"A": "x" * MAX_BODY}}, 413, "bytes"),
]
RAW: list[tuple[bytes, int]] = [
    (b"image=busybox", 400),
    (b"[]", 400),
    (b'{"image": "\xff"}', 400),
    (b'{"image": "busybox:local", "cpus": NaN}', 400),
    (b'{"image": "busybox:local", "image": "other"}', 400),
    (b"[" * 10_000, 400),
    (b'{"labels":' * 5_000 + b"1" + b"}" * 5_000, 400),
]


def problem(reply: Reply, status: int) -> Reply:
    """The answer, which has that status and the one error shape."""
    assert reply.status == status, reply.text
    assert reply.json.keys() == {"success", "error", "code", "type", "title", "status", "detail", "instance"}
    assert (reply["success"], reply["code"], reply["status"]) == (False, status, status)
    assert reply["instance"] == reply.headers["X-Request-ID"]
    return reply


def test_what_is_refused_reaches_no_engine(engine: Engine, proxy: Proxy, start_server: StartServer) -> None:
    """Each field wrong in turn, and bodies that are none: the error names it, and nothing is created."""
    server = start_server(proxy.host)
    for fields, status, named in REFUSED:
        assert named in problem(server.run(**fields), status)["error"], fields
    for body, status in RAW:
        problem(server.call("POST", "/run", body=body), status)
    for token in (False, "wrong", server.token + "x", "\xe9"):
        reply = problem(server.call("POST", "/run", json={"image": IMAGE}, token=token), 401)
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    problem(server.call("POST", f"/run?token={server.token}", json={"image": IMAGE}), 400)
    problem(server.call("GET", "/run"), 405)
    assert proxy.count("/create") == 0
    assert made(engine) == []
    assert server.token not in server.logs()


# How it ended, in the log


def test_the_log_tells_once_how_each_run_ended(engine: Engine, shared: Server) -> None:
    """Not again when its result follows, after a restart of quartermaster, or when it is removed."""
    before = len(shared.logs())
    failed = started(shared.run(image=IMAGE, command=["sh", "-c", "exit 3"], name="fails"))
    boxed = started(shared.run(image=IMAGE, command="true", type="container"))
    stopped = started(shared.run(image=IMAGE, command="nap 600", name="stopped"))
    for run_id, status in ((failed, "failed"), (boxed, "complete"), (stopped, "running")):
        has_status(shared, run_id, status)
    shared.stop_service(stopped)
    has_status(shared, stopped, "removed")
    for run_id in (failed, boxed):
        assert shared.call("GET", f"/status/{run_id}?wait=30", timeout=40)["result"] is not None
    shared.restart()
    eventually(lambda: shared.call("GET", "/readyz").status == 200, 20, "it is ready")
    for run_id in (failed, boxed):
        shared.stop_service(run_id)
        has_status(shared, run_id, "removed")

    lines = [json.loads(line) for line in shared.logs()[before:].splitlines()]
    told = [line for line in lines if line["event"] == "run_ended" and line["run"] in (failed, boxed, stopped)]
    ends = {line["run"]: line for line in told}
    assert len(ends) == len(told) == 3
    assert [ends[one]["level"] for one in (failed, boxed, stopped)] == ["warning", "info", "info"]
    shown = {key: ends[failed][key] for key in ("name", "owner", "status", "reason", "exit_code")}
    assert shown == {"name": "fails", "owner": "root", "status": "failed", "reason": "exit", "exit_code": 3}
    assert (ends[boxed]["status"], ends[stopped]["reason"]) == ("complete", "stopped")
    assert "request" not in ends[stopped]
