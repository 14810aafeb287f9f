"""Published ports on a real engine: those that are quartermaster's own, and those that a run holds."""

from pathlib import Path

import pytest
from conftest import StartServer
from testbed import Engine, Reply, Server, started
from testbed.server import free_port

from qmaster.auth.tokens import digest

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


def test_the_run_that_holds_a_port_is_named_to_its_owner_alone(
    tmp_path: Path, start_server: StartServer, engine: Engine
) -> None:
    """Another token is told that the port is taken, and nothing of whose."""
    tokens = tmp_path / "tokens.toml"
    entries = (
        f'[{name}]\nsha256 = "{digest(name.encode()).hex()}"\nscopes = ["run", "read"]\nports = ["1024-65535"]\n'
        for name in ("alice", "bob")
    )
    tokens.write_text("".join(entries))
    server = start_server(engine.host, QMASTER_TOKENS_FILE=str(tokens))
    port = f"{free_port()}:80"

    def run(who: str, **fields: str) -> Reply:
        body = {"image": IMAGE, "command": "true", "ports": [port], **fields}
        return server.call("POST", "/run", json=body, token=who, timeout=60)

    held = started(run("alice", name="holder"))
    told, hidden = run("alice"), run("bob")
    assert (told.status, hidden.status) == (409, 409)
    assert "'holder'" in told["error"]
    assert held in told["error"]
    assert hidden["error"] == f"ports: {port.removesuffix(':80')} is taken: choose another"
