"""An engine whose own log driver gives nothing back: what jobs write is kept all the same."""

from collections.abc import Iterator

import pytest
from conftest import StartServer
from testbed import Bed, Engine, eventually


@pytest.fixture(scope="module", params=["none", "gelf"])
def deaf(request: pytest.FixtureRequest, bed: Bed) -> Iterator[Engine]:
    """A swarm of one node with that log driver."""
    driver = str(request.param)
    options = ["--log-opt=gelf-address=udp://127.0.0.1:9"] if driver == "gelf" else []
    engine = bed.engine(f"deaf-{driver}", f"--log-driver={driver}", *options)
    engine.start()
    engine.swarm_init()
    engine.load_busybox()
    yield engine
    engine.stop()


@pytest.mark.parametrize("kind", ["service", "container"])
def test_output_is_kept(deaf: Engine, start_server: StartServer, kind: str) -> None:
    """The result has it, and so has the log."""
    server = start_server(deaf.host)
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    reply = server.run(image="busybox:local", type=kind, command=["sh", "-c", "echo said; echo no >&2"], wait=True)
    assert (reply["result"]["stdout"], reply["result"]["stderr"]) == ("said\n", "no\n"), reply.text
    assert "said" in server.call("GET", f"/logs/{reply['id']}").text
