"""The fields that are shaped as in Compose: each in what Docker's own inspect says, and what the job sees of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_cases import has_status, service_spec
from testbed import Bed, Engine, Reply, Server, eventually, sdk
from testbed.server import started

Json = dict[str, Any]

MIB = 1024 * 1024
IMAGE = "busybox:local"
NAP: Json = {"image": IMAGE, "command": "nap 300"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the host that runs may mount."""
    path = tmp_path_factory.mktemp("shared")
    (path / "file").write_text("from the host\n")
    return path


@pytest.fixture(scope="module")
def server(bed: Bed, engine: Engine, folder: Path) -> Iterator[Server]:
    server = bed.server(engine.host, ["--bind-mounts", str(folder)])
    server.start()
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    yield server
    assert server.failures() == []
    server.kill()
    for name in ("data-of-a-service", "data-of-a-container"):
        engine.cli("volume", "rm", "--force", name)


def inner(spec: Json) -> Any:
    return spec["TaskTemplate"]["ContainerSpec"]


SERVICE: list[tuple[Json, Callable[[Json], Any], Any]] = [
    ({"init": True}, lambda spec: inner(spec)["Init"], True),
    ({"init": False}, lambda spec: inner(spec)["Init"], False),
    ({"stop_signal": "SIGINT"}, lambda spec: inner(spec)["StopSignal"], "SIGINT"),
    ({"stop_grace_period": "1m30s"}, lambda spec: inner(spec)["StopGracePeriod"], 90_000_000_000),
    ({"stop_grace_period": 0}, lambda spec: inner(spec)["StopGracePeriod"], 0),
    ({"hostname": "db-1"}, lambda spec: inner(spec)["Hostname"], "db-1"),
    ({"extra_hosts": ["db:10.0.0.5", "six=fd00::1"]}, lambda s: inner(s)["Hosts"], ["10.0.0.5 db", "fd00::1 six"]),
    ({"extra_hosts": {"db": "10.0.0.5"}}, lambda spec: inner(spec)["Hosts"], ["10.0.0.5 db"]),
    ({"dns": ["10.0.0.2"]}, lambda spec: inner(spec)["DNSConfig"]["Nameservers"], ["10.0.0.2"]),
    ({"dns": "10.0.0.2"}, lambda spec: inner(spec)["DNSConfig"]["Nameservers"], ["10.0.0.2"]),
    ({"read_only": True}, lambda spec: inner(spec)["ReadOnly"], True),
    (
        {"tmpfs": "/run:size=64m,mode=1777"},
        lambda spec: inner(spec)["Mounts"],
        [{"Type": "tmpfs", "Target": "/run", "TmpfsOptions": {"SizeBytes": 64 * MIB, "Mode": 0o1777}}],
    ),
    (
        {"shm_size": "128m"},
        lambda spec: inner(spec)["Mounts"],
        [{"Type": "tmpfs", "Target": "/dev/shm", "TmpfsOptions": {"SizeBytes": 128 * MIB}}],
    ),
    (
        {"ulimits": {"nofile": 1024, "core": {"soft": 0, "hard": -1}}},
        lambda spec: inner(spec)["Ulimits"],
        [{"Name": "nofile", "Soft": 1024, "Hard": 1024}, {"Name": "core", "Soft": 0, "Hard": -1}],
    ),
    (
        {"volumes": ["data-of-a-service:/data:ro"]},
        lambda spec: inner(spec)["Mounts"],
        [{"Type": "volume", "Source": "data-of-a-service", "Target": "/data", "ReadOnly": True}],
    ),
    ({"mode": "global"}, lambda spec: spec["Mode"], {"Global": {}}),
    (
        {"generic_resources": {"gpu": 2}},
        lambda spec: spec["TaskTemplate"]["Resources"]["Reservations"]["GenericResources"],
        [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}],
    ),
]


@pytest.mark.parametrize(("fields", "of", "expected"), SERVICE, ids=[" ".join(fields) for fields, _, _ in SERVICE])
def test_a_field_of_a_service(
    engine: Engine, server: Server, fields: Json, of: Callable[[Json], Any], expected: Any
) -> None:
    """In its spec."""
    service = started(server.run(**NAP, **fields))
    found = of(service_spec(engine, service))
    if isinstance(found, list) and isinstance(found[0], dict):  # Docker adds defaults, and leaves out what is false
        assert [each.items() >= wanted.items() for each, wanted in zip(found, expected, strict=True)] == [True] * len(
            expected
        ), found
    else:
        assert found == expected
    assert server.stop_service(service).status == 200


CONTAINER: list[tuple[Json, Callable[[Json], Any], Any]] = [
    ({"init": True}, lambda box: box["HostConfig"]["Init"], True),
    ({"stop_signal": "SIGINT"}, lambda box: box["Config"]["StopSignal"], "SIGINT"),
    ({"stop_grace_period": 90}, lambda box: box["Config"]["StopTimeout"], 90),
    ({"stop_grace_period": 0.4}, lambda box: box["Config"]["StopTimeout"], 1),
    ({"hostname": "db-1"}, lambda box: box["Config"]["Hostname"], "db-1"),
    ({"extra_hosts": ["db:10.0.0.5"]}, lambda box: box["HostConfig"]["ExtraHosts"], ["db:10.0.0.5"]),
    ({"dns": ["10.0.0.2"]}, lambda box: box["HostConfig"]["Dns"], ["10.0.0.2"]),
    ({"read_only": True}, lambda box: box["HostConfig"]["ReadonlyRootfs"], True),
    ({"shm_size": "128m"}, lambda box: box["HostConfig"]["ShmSize"], 128 * MIB),
    (
        {"ulimits": {"nofile": {"soft": 512, "hard": 1024}}},
        lambda box: box["HostConfig"]["Ulimits"],
        [{"Name": "nofile", "Soft": 512, "Hard": 1024}],
    ),
    (
        {"tmpfs": ["/run:size=64m"]},
        lambda box: box["HostConfig"]["Mounts"],
        [{"Type": "tmpfs", "Target": "/run", "TmpfsOptions": {"SizeBytes": 64 * MIB}}],
    ),
    (
        {"volumes": ["data-of-a-container:/data"]},
        lambda box: box["HostConfig"]["Mounts"],
        [{"Type": "volume", "Source": "data-of-a-container", "Target": "/data"}],
    ),
]


@pytest.mark.parametrize(("fields", "of", "expected"), CONTAINER, ids=[" ".join(fields) for fields, _, _ in CONTAINER])
def test_a_field_of_a_container(
    engine: Engine, server: Server, fields: Json, of: Callable[[Json], Any], expected: Any
) -> None:
    """In its inspect."""
    container = started(server.run(**NAP, type="container", **fields))
    assert of(sdk(engine).inspect_container(container)) == expected
    assert server.stop_service(container).status == 200


@pytest.mark.parametrize("kind", ["service", "container"])
def test_what_a_job_sees_of_its_mounts(server: Server, folder: Path, kind: str) -> None:
    """A volume keeps what was written, a folder is the host's, the rest of a read-only one is read-only."""
    volume = f"data-of-a-{kind}"
    more: Json = {"image": IMAGE, "type": kind, "wait": 60}
    wrote = server.run(**more, command=["sh", "-c", "echo kept >/data/file"], volumes=[f"{volume}:/data"])
    assert wrote["status"] == "complete", wrote.text
    script = "cat /data/file /host/file; touch /here 2>/dev/null || echo read-only; touch /t/x && echo writable"
    seen = server.run(
        **more,
        command=["sh", "-c", f"{script}; df -m /dev/shm"],
        volumes=[f"{volume}:/data", {"type": "bind", "source": str(folder), "target": "/host", "read_only": True}],
        read_only=True,
        tmpfs=["/t:size=1m"],
        shm_size=8,
    )
    assert seen["status"] == "complete", seen.text
    lines = seen["result"]["stdout"].splitlines()
    assert lines[:4] == ["kept", "from the host", "read-only", "writable"]
    assert lines[-1].split()[1] == "8"
    spec = server.status(seen["id"])["spec"]
    assert spec["tmpfs"] == ["/t:size=1m"]


def test_a_config_is_a_file(engine: Engine, server: Server) -> None:
    """At the root, as docker puts it; one of quartermaster's own is not given away."""
    client = sdk(engine)
    for name, labels in (("settings", {}), ("qm-fn-f-1", {"io.qmaster.function": "f"})):
        client.create_config(name, b"from a config\n", labels)
    try:
        shown = server.run(image=IMAGE, command="cat /settings", configs=["settings"], wait=60)
        assert (shown["status"], shown["result"]["stdout"]) == ("complete", "from a config\n")
        for name, says in (("qm-fn-f-1", "is quartermaster's own"), ("none", "the swarm has no config 'none'")):
            refused = server.run(image=IMAGE, configs=[name])
            assert (refused.status, says in refused["error"]) == (400, True), refused.text
    finally:
        assert server.stop_service(shown["id"]).status == 200
        for config in client.configs():
            client.remove_config(config["ID"])


@pytest.mark.parametrize("text", ["", "one line\n", "ünï\n" * 8000], ids=["empty", "short", "long"])
def test_a_container_reads_its_standard_input(server: Server, text: str) -> None:
    """To its end."""
    command = ["sh", "-c", "cat >/tmp/all; wc -c </tmp/all; echo end"]
    told = server.run(image=IMAGE, type="container", stdin=text, command=command, wait=60)
    assert told["status"] == "complete", told.text
    assert told["result"]["stdout"].split() == [str(len(text.encode())), "end"]


def test_one_that_reads_none_is_not_waited_for(server: Server) -> None:
    """Nor does its input hold up a stop; what was given is not shown."""
    container = started(server.run(**NAP, type="container", stdin="secret" * 10_000, stop_grace_period=0))
    shown = has_status(server, container, "running")
    assert "secret" not in shown.text
    assert "stdin" not in shown["spec"]
    assert server.stop_service(container).status == 200


def test_a_grace_period_is_kept(server: Server) -> None:
    """A service that needs twenty seconds to end has them."""
    script = "trap 'sleep 17; echo done; exit 0' TERM; while :; do sleep 0.1; done"
    service = started(server.run(image=IMAGE, command=["sh", "-c", script], stop_grace_period="25s"))
    has_status(server, service, "running")
    assert server.stop_service(service).status == 200
    ended = eventually(lambda: _removed(server, service), 60, "it is removed")
    assert ended is not None
    assert (ended["exit_code"], ended["result"]["stdout"]) == (0, "done\n")


def _removed(server: Server, service: str) -> Reply | None:
    shown = server.status(service)
    return shown if shown["status"] == "removed" else None


REFUSED: list[tuple[Json, int, str]] = [
    ({"volumes": ["/etc:/x"]}, 403, "--bind-mounts: this server does not mount the host folder '/etc'"),
    ({"volumes": ["/var/run/docker.sock:/s"]}, 403, "--bind-mounts: this server does not mount"),
    ({"volumes": ["{folder}2:/x"]}, 403, "--bind-mounts: this server does not mount"),
    ({"volumes": ["qm-bind-0:/x"]}, 400, "volumes: the prefix qm-bind- is reserved"),
    ({"volumes": ["{folder}/../x:/x"]}, 400, "volumes: expected an absolute path without '..'"),
    ({"volumes": ["/:/x"]}, 400, "volumes: '/' cannot be mounted"),
    ({"volumes": ["../x:/x"]}, 400, "volumes: expected an absolute path of a folder"),
    ({"volumes": ["a:/proc"]}, 400, "volumes: nothing can be mounted at '/proc'"),
    ({"volumes": ["a:/"]}, 400, "volumes: nothing can be mounted at '/'"),
    (
        {"volumes": [{"type": "npipe", "source": "a", "target": "/x"}]},
        400,
        "expected one of volume, bind, tmpfs",
    ),
    ({"volumes": [{"source": "a", "target": "/x", "volume": {"nocopy": True}}]}, 400, "unknown field"),
    ({"volumes": ["{{.Node.ID}}:/x"]}, 400, "volumes: expected the name of a volume"),
    ({"tmpfs": ["/x:exec"]}, 400, "tmpfs: expected size=64m, mode=1777 or ro"),
    ({"extra_hosts": ["a:host-gateway"]}, 400, "extra_hosts: expected an IP address"),
    ({"ulimits": {"nothing": 1}}, 400, "ulimits: expected names such as nofile"),
    ({"gpus": 1}, 400, "gpus: not supported for a service"),
    ({"stdin": "x"}, 400, "stdin: not supported for a service"),
    ({"type": "container", "configs": ["c"]}, 400, "configs: not supported for a container"),
    ({"type": "container", "mode": "global"}, 400, "mode: not supported for a container"),
    ({"privileged": True}, 400, "unknown field 'privileged': not supported, because it could reach the host"),
    ({"devices": ["/dev/kvm"]}, 400, "unknown field 'devices': not supported, because it could reach the host"),
]


@pytest.mark.parametrize(("fields", "status", "says"), REFUSED, ids=[f"{fields}" for fields, _, _ in REFUSED])
def test_what_could_reach_the_host_is_refused(
    engine: Engine, server: Server, folder: Path, fields: Json, status: int, says: str
) -> None:
    """And what is wrong, with nothing made; the root token included."""
    before = [each["ID"] for each in sdk(engine).services()]
    asked: Any = {
        name: [each.replace("{folder}", str(folder)) if isinstance(each, str) else each for each in value]
        if isinstance(value, list)
        else value
        for name, value in fields.items()
    }
    refused = server.run(**NAP, **asked)
    assert (refused.status, says in refused["error"]) == (status, True), refused.text
    assert [each["ID"] for each in sdk(engine).services()] == before


def test_gpus_are_asked_of_the_engine(server: Server) -> None:
    """This one has none, and says so; nothing is left of it."""
    refused = server.run(**NAP, type="container", gpus="all", name="with-gpus")
    assert refused.status in (400, 502), refused.text
    assert "gpu" in refused["error"], refused.text
    eventually(lambda: server.status("with-gpus").json.get("status") in (404, "removed"), 20, "nothing is left of it")


def test_one_on_each_node(server: Server) -> None:
    """A global service has one task on a swarm of one node, and ends."""
    told = server.run(image=IMAGE, command="echo here", mode="global", wait=60)
    assert (told["status"], told["result"]["stdout"]) == ("complete", "here\n"), told.text
    assert told["replicas"]["desired"] == 1
