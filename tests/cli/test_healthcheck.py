"""The health check: an exit code of 0 or 1, from the options and variables that the server reads."""

import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner, Result

from qmaster.cli import healthcheck, main
from qmaster.errors import ConfigError
from qmaster.server.config import Door, door


class Answering(HTTPServer):
    """A server that answers every request with its `status`, or what it `says`, and keeps the last path."""

    status = 200
    says = b""
    path = ""


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.server.path = self.path
        if self.server.says:
            self.wfile.write(self.server.says)
            return
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_options_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "QMASTER_ADDRESS", "QMASTER_TLS_CERT"):
        monkeypatch.delenv(name, raising=False)


def check(*args: str) -> Result:
    return CliRunner().invoke(main.main, ["healthcheck", *args])


def test_a_live_server_is_well(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked whether it lives, not whether it is ready: a restart brings no engine back."""
    monkeypatch.setenv("PORT", str(server.server_port))
    done = check()
    assert (done.exit_code, done.stdout, done.stderr) == (0, "alive\n", "")
    assert server.path == "/livez"


def test_a_flag_wins_over_the_environment(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does for the server."""
    monkeypatch.setenv("PORT", "1")
    assert check("--port", str(server.server_port)).exit_code == 0


@pytest.mark.parametrize("status", [503, 404, 302])
def test_another_answer_is_not_well(server: Answering, status: int) -> None:
    """The exit code is 1 and what was wrong is said."""
    server.status = status
    done = check("--port", str(server.server_port))
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"qmaster: /livez answers {status}\n")


def test_what_does_not_speak_http_is_not_well(server: Answering) -> None:
    """Something else listens there."""
    server.says = b"nonsense\r\n"
    done = check("--port", str(server.server_port))
    assert done.exit_code == 1
    assert done.stderr.startswith(f"qmaster: nothing answers at 127.0.0.1:{server.server_port}: nonsense")


def test_a_server_that_is_gone_is_not_well(server: Answering) -> None:
    """Nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        said = healthcheck.health_trouble(Door("127.0.0.1", port, False))
        assert said == f"nothing answers at 127.0.0.1:{port}: Connection refused"


def test_what_has_no_words_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of Python's that says nothing."""
    monkeypatch.setattr(healthcheck, "_connect", lambda door: Wordless())
    said = healthcheck.health_trouble(Door("127.0.0.1", 1, False))
    assert said == "nothing answers at 127.0.0.1:1: ConnectionResetError"


class Wordless:
    def request(self, method: str, path: str) -> None:
        raise ConnectionResetError

    def close(self) -> None:
        pass


def test_a_server_that_is_stuck_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing."""
    monkeypatch.setattr(healthcheck, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as stuck:
        assert "timed out" in str(healthcheck.health_trouble(Door("127.0.0.1", stuck.getsockname()[1], False)))


def test_a_server_with_tls_is_asked_with_tls(server: Answering, tmp_path: Path) -> None:
    """Whatever name its certificate has: it is not this machine's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("qm.example.com").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    assert check("--port", str(server.server_port), "--tls-cert", str(tmp_path / "not-read.pem")).exit_code == 0


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Door("127.0.0.1", 9090, False)),
        ({"PORT": "80", "QMASTER_ADDRESS": "10.0.0.1"}, Door("10.0.0.1", 80, False)),
        ({"QMASTER_ADDRESS": "0.0.0.0"}, Door("127.0.0.1", 9090, False)),
        ({"QMASTER_ADDRESS": "::"}, Door("::1", 9090, False)),
        ({"QMASTER_TLS_CERT": "a.pem"}, Door("127.0.0.1", 9090, True)),
    ],
)
def test_where_a_server_is_found(environ: dict[str, str], expected: Door) -> None:
    """All interfaces means this machine's own."""
    assert door({}, environ) == expected


@pytest.mark.parametrize("port", ["0", "x", "65536"])
def test_a_port_that_nobody_knows(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 0 is any free one: the check cannot know which, and says so rather than that all is well."""
    with pytest.raises(ConfigError, match="--port"):
        door({"port": port}, {})
    assert check("--port", port).exit_code == 1
