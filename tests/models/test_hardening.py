"""What a job may not do unless it says otherwise, in what Docker's inspect says and inside a running job."""

import time
from typing import Any

import pytest
from run_cases import service_spec
from testbed import Engine, Server, sdk, started

from qmaster.runs.reconciler.nodes import NO_NEW_PRIVILEGES_SINCE, NodeViews

IMAGE = "busybox:local"
CAPS = ["CAP_AUDIT_WRITE", "CAP_MKNOD", "CAP_NET_RAW"]
KINDS = pytest.mark.parametrize("kind", ["service", "container"])
# The job's own view: its set of capabilities, whether it may gain privileges, and the limit of its processes.
LOOK = "grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status"


def warning(*nodes: tuple[str | None, str], named: bool = True) -> list[str]:
    """What is said of nodes with these versions and host names."""
    views = NodeViews()
    views.replace(
        {"ID": f"n{number}", "Description": {"Hostname": hostname, "Engine": {"EngineVersion": version}}}
        for number, (version, hostname) in enumerate(nodes)
    )
    return views.warn_of_older(named)


@pytest.mark.parametrize("version", ["20.10.24+dfsg1", "24.0.9", "1.13.1", "", None, "unknown"])
def test_an_older_node_is_warned_of(version: str | None) -> None:
    """One that ignores no_new_privileges of services, or of which nobody knows that."""
    (said,) = warning(("28.5.2", "new"), (version, "old"))
    assert said == "no_new_privileges: services need Docker 25 or newer; not in force on old"


@pytest.mark.parametrize("version", ["25.0.0", "28.5.2+dfsg4", "26.1.5", "100.1"])
def test_a_newer_node_is_not_warned_of(version: str) -> None:
    """It has the field."""
    assert warning((version, "new")) == []


def test_of_many_older_nodes_the_first_are_named() -> None:
    """And the rest counted."""
    (said,) = warning(*(("20.10.24", f"n{i}") for i in range(8)))
    assert said.endswith("on n0, n1, n2, n3, n4 and 3 more")


@pytest.mark.parametrize(("count", "told"), [(1, "on 1 node"), (8, "on 8 nodes")])
def test_to_who_sees_no_nodes_they_are_counted(count: int, told: str) -> None:
    """Their names are the root token's to know."""
    (said,) = warning(*(("20.10.24", f"n{i}") for i in range(count)), named=False)
    assert said.endswith(told)


def inspect(engine: Engine, server: Server, run_id: str, kind: str) -> dict[str, Any]:
    """The job's container, as Docker inspects it."""
    view = server.status(run_id)
    container = run_id if kind == "container" else view["tasks"][0]["container_id"]
    return dict(sdk(engine).inspect_container(container))


@KINDS
def test_a_job_is_hardened(engine: Engine, shared: Server, kind: str) -> None:
    """Docker shows the limit and what is dropped, and the job itself finds it so."""
    reply = shared.run(image=IMAGE, type=kind, command=["sh", "-c", LOOK], wait=True)
    assert reply["status"] == "complete", reply.text
    host = inspect(engine, shared, reply["id"], kind)["HostConfig"]
    assert host["PidsLimit"] == 1024
    assert sorted(host["CapDrop"]) == CAPS
    said = dict(line.split(":\t") for line in reply["result"]["stdout"].splitlines())
    bounding = int(said["CapBnd"], 16)
    assert not bounding & (1 << 13 | 1 << 27 | 1 << 29)  # NET_RAW, MKNOD, AUDIT_WRITE
    assert bounding & 1 << 0  # CHOWN
    in_force = kind == "container" or "warnings" not in reply.json
    assert said["NoNewPrivs"] == str(int(in_force))


def test_a_warning_says_what_is_not_in_force(engine: Engine, shared: Server) -> None:
    """A service's no_new_privileges on an engine that ignores it; an engine that has it gives no warning."""
    newer = int(sdk(engine).version()["Version"].partition(".")[0]) >= NO_NEW_PRIVILEGES_SINCE
    for wait in (False, True):
        reply = shared.run(image=IMAGE, command="true", wait=wait)
        warnings = reply.json.get("warnings", [])
        assert [each.partition(":")[0] for each in warnings] == ([] if newer else ["no_new_privileges"])
    assert "warnings" not in shared.run(image=IMAGE, command="true", no_new_privileges=False).json
    assert "warnings" not in shared.run(image=IMAGE, command="true", type="container").json


@KINDS
def test_a_job_may_be_relaxed_by_root(engine: Engine, shared: Server, kind: str) -> None:
    """Docker's own set of capabilities, any number of processes, and new privileges."""
    relaxed: dict[str, Any] = {"pids_limit": 0, "cap_drop": [], "no_new_privileges": False}
    reply = shared.run(image=IMAGE, type=kind, command=["sh", "-c", LOOK], wait=True, **relaxed)
    host = inspect(engine, shared, reply["id"], kind)["HostConfig"]
    assert not host["PidsLimit"] or host["PidsLimit"] < 0
    assert not host["CapDrop"]
    assert not host["SecurityOpt"]
    said = dict(line.split(":\t") for line in reply["result"]["stdout"].splitlines())
    assert int(said["CapBnd"], 16) & (1 << 13)
    assert said["NoNewPrivs"] == "0"


@KINDS
def test_all_capabilities_may_be_dropped(shared: Server, kind: str) -> None:
    """The job has none left."""
    reply = shared.run(
        image=IMAGE, type=kind, cap_drop=["all"], command=["grep", "CapBnd", "/proc/self/status"], wait=True
    )
    assert int(reply["result"]["stdout"].split()[1], 16) == 0, reply.text


@KINDS
def test_a_fork_bomb_stops_at_its_limit(shared: Server, kind: str) -> None:
    """It has as many processes as asked for, and the next one is refused."""
    command = ["sh", "-c", "for i in $(seq 40); do sleep 20 & done; echo all"]
    reply = shared.run(image=IMAGE, type=kind, pids_limit=20, command=command, wait=20, timeout=15)
    assert "all" not in reply["result"]["stdout"]
    assert "fork" in reply["result"]["stderr"]


# HEALTHCHECK


def unhealthy(engine: Engine, **over: Any) -> str:
    """An image whose check never passes; times are seconds."""
    check = {"Test": ["CMD-SHELL", "false"], "Interval": 1_000_000_000, "Timeout": 1_000_000_000, "Retries": 2, **over}
    engine.load_image("ill:1", Cmd=["nap", "300"], Healthcheck=check)
    return "ill:1"


@KINDS
def test_what_runs_once_ignores_its_image_s_healthcheck(engine: Engine, shared: Server, kind: str) -> None:
    """It is running at once, and is not killed for a check that fails."""
    image = unhealthy(engine)
    reply = shared.run(image=image, type=kind, command="nap 6", wait=30)
    assert (reply["status"], reply["exit_code"]) == ("complete", 0), reply.text
    config = inspect(engine, shared, reply["id"], kind)["Config"]
    assert config["Healthcheck"]["Test"] == ["NONE"]


@KINDS
@pytest.mark.parametrize(
    ("fields", "off"), [({"healthcheck": True}, False), ({"restart": "any", "healthcheck": False}, True)]
)
def test_a_healthcheck_is_on_or_off(
    engine: Engine, shared: Server, kind: str, fields: dict[str, Any], off: bool
) -> None:
    """As it is asked for: on, the image's own counts."""
    image = unhealthy(engine, Interval=60_000_000_000)
    run_id = started(shared.run(image=image, type=kind, **fields))
    if kind == "service":
        stored = service_spec(engine, run_id)["TaskTemplate"]["ContainerSpec"]
        assert stored.get("Healthcheck") == ({"Test": ["NONE"]} if off else None)
    else:
        assert (inspect(engine, shared, run_id, kind)["Config"]["Healthcheck"]["Test"] == ["NONE"]) is off


def test_what_swarm_killed_as_unhealthy_says_so(engine: Engine, shared: Server) -> None:
    """The reason is unhealthy, with the exit code of the kill."""
    image = unhealthy(engine)
    reply = shared.run(image=image, healthcheck=True, wait=60)
    assert (reply["status"], reply["reason"]) == ("failed", "unhealthy"), reply.text
    assert "unhealthy container" in reply["error"]


def test_a_timeout_counts_while_the_health_is_not_known(engine: Engine, shared: Server) -> None:
    """From the start of the container, not from the first check that passes."""
    image = unhealthy(engine, Test=["CMD-SHELL", "true"], Interval=40_000_000_000)
    began = time.monotonic()
    reply = shared.run(image=image, healthcheck=True, timeout=3, wait=35)
    assert (reply["status"], reply["reason"]) == ("failed", "timeout"), reply.text
    assert time.monotonic() - began < 30
