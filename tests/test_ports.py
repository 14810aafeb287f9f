"""Published ports on a real engine: those that are quartermaster's own, and those that a run holds."""

import pytest
from conftest import StartServer
from testbed import Engine, Server, started
from testbed.server import free_port

IMAGE = "busybox:local"


@pytest.fixture
def server(start_server: StartServer, engine: Engine) -> Server:
    return start_server(engine.host)


def test_its_own_port_is_not_published(server: Server) -> None:
    """Callers would be led into the run, with their tokens; nothing is created."""
    refused = server.run(image=IMAGE, command="true", ports=[f"{server.port}:80"])
    assert (refused.status, "a port of quartermaster itself" in refused["error"]) == (409, True)
    assert server.call("GET", "/status")["services"] == []


def test_a_port_that_an_ended_run_holds_is_a_conflict(server: Server) -> None:
    """The answer names the run and says that it has ended; once it is stopped, the port is free."""
    port = f"{free_port()}:80"
    first = started(server.run(image=IMAGE, command="true", ports=[port], name="holder"))
    assert server.call("GET", f"/status/{first}?wait=60", timeout=70)["status"] == "complete"
    refused = server.run(image=IMAGE, command="true", ports=[port])
    assert refused.status == 409
    for words in ("'holder'", first, "has ended", "stop it"):
        assert words in refused["error"]
    server.stop_service(first)
    assert server.run(image=IMAGE, command="true", ports=[port]).status == 200
