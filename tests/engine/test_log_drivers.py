"""Nodes whose default log driver gives nothing back: what jobs write is kept all the same."""

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import StartServer
from testbed import Bed, Swarm, eventually


@pytest.fixture(scope="module")
def deaf(bed: Bed) -> Iterator[Swarm]:
    """A manager whose driver keeps half of what is written, and a worker whose driver keeps nothing."""
    gelf = bed.engine("deaf-gelf", "--log-driver=gelf", "--log-opt=gelf-address=udp://127.0.0.1:9")
    swarm = Swarm([gelf, bed.engine("deaf-none", "--log-driver=none")], bed.registry_address)
    swarm.form()
    yield swarm
    for node in swarm.nodes:
        node.stop()


@pytest.mark.parametrize(
    "where",
    [
        {"type": "container"},
        {"constraints": ["node.hostname==deaf-gelf"]},
        {"constraints": ["node.hostname==deaf-none"]},
    ],
)
def test_output_is_kept(deaf: Swarm, start_server: StartServer, where: dict[str, Any]) -> None:
    """The result has it, and so has the log; the manager cannot ask for the driver of a worker."""
    server = start_server(deaf.manager.host)
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    reply = server.run(image="busybox:local", command=["sh", "-c", "echo said; echo no >&2"], wait=True, **where)
    assert (reply["result"]["stdout"], reply["result"]["stderr"]) == ("said\n", "no\n"), reply.text
    assert "said" in server.call("GET", f"/logs/{reply['id']}").text
