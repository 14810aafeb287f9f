"""The engine's client: one connection for what is read whole, and every failure known for what it is."""

import gc
import json
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from qmaster.engine import events, listed
from qmaster.engine.client import Client
from qmaster.engine.errors import EngineTimeout, EngineUnreached, broken_off, outcome_open, translate
from qmaster.engine.events import SERVICE_LABEL, EventStream
from qmaster.engine.labels import MANAGED
from qmaster.errors import Conflict, EngineRefused
from qmaster.models.credentials import Credentials


def event(kind: str, actor: str, action: str, **attributes: str) -> str:
    """A line of Docker's event stream."""
    return json.dumps(
        {"Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "timeNano": 2_500_000_000}
    )


EVENTS = "\n".join(
    [
        event("service", "s1", "remove"),
        event("container", "c1", "die"),
        event("container", "c2", "destroy", **{MANAGED: "true"}),
        event("container", "c3", "start", **{SERVICE_LABEL: "s3"}),
        event("container", "c4", "start", **{SERVICE_LABEL: "s4", MANAGED: "true"}),
    ]
).encode()


class _Handler(BaseHTTPRequestHandler):
    """Answers with what it was asked; the path says how."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        asked = {"method": self.command, "path": self.path, "body": self.rfile.read(size).decode(), "length": size}
        asked["auth"] = self.headers["X-Registry-Auth"]
        if "slow" in self.path:
            time.sleep(0.3)
        if "hang-up" in self.path:
            self.close_connection = True
            return
        status = 409 if "taken" in self.path else 307 if "moved" in self.path else 200
        said = self.headers["X-Registry-Auth"] if "quotes" in self.path else "the name is taken"
        told = EVENTS if "events" in self.path else json.dumps({"message": said, "asked": asked}).encode()
        body = b"<html>" if "html" in self.path else told
        self.send_response(status)
        self.send_header("Location", "http+docker://localhost/there")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = "last" in self.path

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the base class's names

    def address_string(self) -> str:
        return "a unix socket"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    connections = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[_Server]:
    with _Server(str(tmp_path / "engine.sock"), _Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def client(server: _Server) -> Iterator[Client]:
    client = connect(str(server.server_address))
    yield client
    client.close()


def connect(path: str) -> Client:
    return Client(f"unix://{path}", version="1.41", timeout=5, max_pool_size=1)


def asked(client: Client, path: str) -> Any:
    return client.fetch(path, {})["asked"]


def test_one_connection_serves_all_urls(client: Any, server: _Server) -> None:
    """Whatever is asked, by us or by the SDK's own methods."""
    for path in ("/one", "/two", "/three"):
        assert asked(client, path)["path"] == f"/v1.41{path}"
    client.services()
    client.submit("/services/create", {"Name": "x"}, {})
    assert server.connections == 1


def test_what_is_sent_is_what_the_sdk_would_send(client: Any) -> None:
    """Parameters as a query, without those that are None; a body as JSON; a POST without one says so."""
    assert client.tasks({"service": "s 1"})["asked"]["path"] == (
        "/v1.41/tasks?filters=%7B%22service%22%3A+%5B%22s+1%22%5D%7D"
    )
    body = client.submit("/services/create", {"Name": "ключ"}, {}, {"version": "7"})["asked"]
    assert (json.loads(body["body"]), body["path"]) == ({"Name": "ключ"}, "/v1.41/services/create?version=7")
    assert client.remove_service("s1") is True


def test_a_header_is_sent_with_its_own_call_alone(client: Client) -> None:
    """It holds the credentials of one caller."""
    header = {"X-Registry-Auth": "theirs"}
    assert client.submit("/services/create", {"Name": "x"}, header)["asked"]["auth"] == "theirs"
    assert client.submit("/services/create", {"Name": "x"}, {})["asked"]["auth"] is None


def test_a_redirect_is_followed_as_the_sdk_does(client: Client) -> None:
    """What stands in front of an engine may send one."""
    assert asked(client, "/moved")["path"] == "/there"


def test_no_certificate_of_the_environment_is_trusted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of DOCKER_CERT_PATH is the engine's."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "others.pem")
    assert client.merge_environment_settings("https://engine:2376", {}, None, True, None)["verify"] is True


def test_an_event_is_a_hint_of_what_it_may_be_about(client: Client) -> None:
    """A foreign container is nobody's; one that seems to be a service's may be ours, where its image says the other."""
    stream = EventStream(client, lambda *hint: hint)
    assert list(stream) == [
        ("service", "s1", 2.5, True),
        ("container", "c2", 2.5, True),
        ("service", "s3", 2.5, False),
        ("service", "s4", 2.5, False),
        ("container", "c4", 2.5, False),
    ]
    stream.close()


class Time:
    """A clock that tests move; how often somebody has slept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1


def test_events_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each read others may gather, but not where they wait already and come one by one, as they do over TLS:
    that would be 200 a second at most.
    """
    clock = Time()
    monkeypatch.setattr(events, "time", clock)
    reads = [(1.0, b"1\n", 1), (0.0, b"2\n3\n", 1), (0.0, b"4\n", 0), (0.0, b"5", 0), (0.002, b"\n6\n7", 1)]
    sleeps = []

    def chunks() -> Iterator[bytes]:
        for waited, chunk, _ in reads:
            before = clock.slept
            clock.now += waited
            yield chunk
            sleeps.append(clock.slept - before)

    assert b"".join(events._lines(chunks())) == b"1234567"
    assert sleeps == [expected for _, _, expected in reads]


def test_a_connection_that_was_closed_meanwhile_is_opened_again(client: Client, server: _Server) -> None:
    """An engine closes what is idle; that is found before anything is sent."""
    asked(client, "/last")
    time.sleep(0.05)
    assert asked(client, "/next")["path"] == "/v1.41/next"
    assert server.connections == 2


def test_of_a_listing_only_what_is_used_is_read(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all of it, should a part be of another kind than expected."""
    known = {"ID": "t1", "Status": {"State": "running", "ContainerStatus": None}}
    answers: list[Any] = [[{**known, "Spec": {"much": "more"}}], [{**known, "Status": "odd"}], {"message": "no"}]
    monkeypatch.setattr(client, "_get", lambda url, params: _reply(answers.pop(0)))
    assert list(client.list_parts("/tasks", {}, listed.TASK)) == [known]
    assert list(client.list_parts("/tasks", {}, listed.TASK)) == [{**known, "Status": "odd"}]
    with pytest.raises(ValueError, match="Expected `array`"):
        client.list_parts("/tasks", {}, listed.TASK)


def _reply(document: Any) -> requests.Response:
    response = requests.Response()
    response.status_code, response._content = 200, json.dumps(document).encode()
    return response


def test_an_error_is_the_sdks(client: Client) -> None:
    """With Docker's words."""
    with pytest.raises(docker.errors.APIError) as raised:
        client.fetch("/taken", {})
    assert isinstance(translate(raised.value), Conflict)
    assert str(translate(raised.value)) == "the name is taken"


def test_no_credentials_are_quoted_from_a_refusal(client: Client) -> None:
    """An engine, or what is in front of it, may say back what it was sent."""
    header = Credentials("someone", "a password of theirs").header()
    with pytest.raises(docker.errors.APIError) as raised:
        client.submit("/taken/quotes", {}, {"X-Registry-Auth": header})
    assert header not in str(translate(raised.value))


def test_what_is_no_json_is_not_understood(client: Client) -> None:
    """Something else answers there."""
    with pytest.raises(ValueError, match="Expecting value") as raised:
        client.fetch("/html", {})
    assert isinstance(translate(raised.value), EngineRefused)


def test_silence_is_a_timeout(client: Client) -> None:
    """What was asked may have been done."""
    client.timeout = 0.05
    with pytest.raises(Exception, match="timed out") as raised:
        client.fetch("/slow", {})
    known = translate(raised.value)
    assert isinstance(known, EngineTimeout)
    assert outcome_open(known)


@pytest.mark.parametrize(("silence", "answers"), [(None, True), (0.05, False)])
def test_a_log_has_its_own_bound_for_silence(client: Client, silence: float | None, answers: bool) -> None:
    """Whatever bounds the client's other calls: a job that says nothing is followed without an end."""
    client.timeout = 0.1
    connection = client.dial()
    if answers:
        with client.get_on(connection, "/slow", {}, silence) as answer:
            assert b"slow" in b"".join(answer.chunks())
    else:
        with pytest.raises(Exception, match="timed out"):
            client.get_on(connection, "/slow", {}, silence)
    connection.close()


def test_a_connection_that_breaks_leaves_the_outcome_open(client: Client) -> None:
    """It may be sent again where that is safe."""
    with pytest.raises(Exception, match="Connection") as raised:
        client.fetch("/hang-up", {})
    known = translate(raised.value)
    assert broken_off(known)
    assert outcome_open(known)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_where_nothing_listens_nothing_was_sent(tmp_path: Path) -> None:
    """No socket, or nobody behind it."""
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(dead))
    for path in (dead, tmp_path / "none.sock"):
        client = connect(str(path))
        with pytest.raises(Exception, match="Connection aborted") as raised:
            client.fetch("/one", {})
        assert isinstance(translate(raised.value), EngineUnreached)
        client.close()
        del raised
    gc.collect()  # the SDK leaves the socket that it could not connect unclosed
