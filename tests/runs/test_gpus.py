"""GPUs and generic resources, on an engine that has them: what a run gets of them, and that another waits for them.

No GPU is needed: dockerd has the driver where it finds NVIDIA's hook, which alone would look for the devices.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from run_cases import has_status
from testbed import Bed, Engine, Reply, Server, eventually, sdk
from testbed.server import started
from testbed.tokens import tokens_file

HOOK = "nvidia-container-runtime-hook"
IMAGE = "busybox:local"


@pytest.fixture(scope="module")
def engine(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A swarm of one node with NVIDIA's driver and two of the resource `fpga`."""
    programs = tmp_path_factory.mktemp("programs")
    (programs / HOOK).write_text("#!/bin/sh\n")
    (programs / HOOK).chmod(0o755)
    engine = bed.engine("gpus", "--node-generic-resource=fpga=2", programs=programs)
    engine.start()
    engine.swarm_init()
    engine.load_busybox()
    return engine


@pytest.fixture(scope="module")
def server(bed: Bed, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokens = {"may": 'resources = ["gpu", "fpga"]', "fpgas": 'resources = ["fpga"]', "none": ""}
    server = bed.server(engine.host, ["--tokens-file", tokens_file(tmp_path_factory.mktemp("tokens"), tokens)])
    server.start()
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    yield server
    assert server.failures() == []
    server.kill()


def run(server: Server, token: str | bool = True, **fields: Any) -> Reply:
    return server.call("POST", "/run", json={"image": IMAGE, **fields}, token=token, timeout=300)


@pytest.mark.parametrize("token", [True, "may"])
@pytest.mark.parametrize(("gpus", "count", "devices"), [(1, 1, "0"), (2, 2, "0,1"), ("all", -1, "all")])
def test_a_container_gets_gpus(
    engine: Engine, server: Server, token: str | bool, gpus: int | str, count: int, devices: str
) -> None:
    """As many as it asks for, as `docker run --gpus` does: in what Docker's inspect shows, and in the container."""
    told = run(
        server, token, type="container", gpus=gpus, command=["sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES"], wait=60
    )
    assert told.status == 200, told.text
    assert (told["status"], told["result"]["stdout"], told["spec"]["gpus"]) == ("complete", f"{devices}\n", gpus)
    asked = sdk(engine).inspect_container(told["id"])["HostConfig"]["DeviceRequests"]
    assert [(each["Count"], each["Capabilities"]) for each in asked] == [(count, [["gpu"]])]


def test_one_that_asks_for_none_gets_none(engine: Engine, server: Server) -> None:
    """Though the engine has the driver."""
    told = run(server, type="container", command=["sh", "-c", "echo ${NVIDIA_VISIBLE_DEVICES-none}"], wait=60)
    assert told["result"]["stdout"] == "none\n"
    assert not sdk(engine).inspect_container(told["id"])["HostConfig"]["DeviceRequests"]


@pytest.mark.parametrize(
    ("token", "fields", "status", "says"),
    [
        (True, {"gpus": 1}, 400, "gpus: not supported for a service; use type container, or generic_resources"),
        (True, {"type": "container", "gpus": 0}, 400, "gpus: "),
        (True, {"type": "container", "gpus": -1}, 400, "gpus: "),
        (True, {"type": "container", "gpus": "two"}, 400, "gpus: "),
        ("none", {"type": "container", "gpus": 1}, 403, "resources: this token may not use 'gpu'"),
        ("fpgas", {"type": "container", "gpus": "all"}, 403, "resources: this token may not use 'gpu'"),
        ("none", {"generic_resources": {"fpga": 1}}, 403, "resources: this token may not use 'fpga'"),
        (True, {"type": "container", "generic_resources": {"fpga": 1}}, 400, "generic_resources: not supported for a"),
    ],
)
def test_what_it_may_not_have_is_refused(
    engine: Engine, server: Server, token: str | bool, fields: dict[str, Any], status: int, says: str
) -> None:
    """With nothing made."""
    before = sdk(engine).services(), len(sdk(engine).containers(all=True))
    refused = run(server, token, command="nap 300", **fields)
    assert (refused.status, refused["error"][: len(says)]) == (status, says), refused.text
    assert (sdk(engine).services(), len(sdk(engine).containers(all=True))) == before


def test_a_second_service_waits_for_what_the_first_has_reserved(server: Server) -> None:
    """The page and the API say why; it runs as soon as the first is stopped. One that no node could have waits too."""
    first = started(run(server, command="nap 300", generic_resources={"fpga": 2}))
    has_status(server, first, "running")
    second = started(run(server, "may", command="nap 300", generic_resources={"fpga": 1}))

    def waits(service: str) -> Reply | None:
        shown = server.status(service)
        return shown if shown["reason"] == "unschedulable" else None

    shown = eventually(lambda: waits(second), 30, "the second waits")
    assert shown is not None
    assert shown["status"] == "pending"
    assert "insufficient resources" in shown["error"]
    third = started(run(server, command="nap 300", generic_resources={"other": 1}))
    eventually(lambda: waits(third), 30, "the third waits")
    assert server.status(second)["status"] == "pending"
    assert server.stop_service(first).status == 200
    has_status(server, second, "running")
    assert server.status(third)["status"] == "pending"
    for service in (second, third):
        assert server.stop_service(service).status == 200
