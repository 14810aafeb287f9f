"""The commands before a program that is not quartermaster: one line that says so, and the documented exit code."""

import json
import socketserver
import threading
from collections.abc import Iterator

import pytest
from commands_cases import qmaster
from fake_server import FakeServer

OTHERS = ("status", "status x", "nodes --json", "stop x", "logs x", "logs -f x", "events")
COMMANDS = [  # and the exit code where the call fails
    *((arguments, 1) for arguments in OTHERS),
    *((arguments, 125) for arguments in ("run busybox", "run -d --json busybox")),
]
HTML = b"<!doctype html><title>Welcome to nginx!</title>\n\n<p>It works.\n\n"


class Stranger(socketserver.ThreadingTCPServer):
    """A program that answers every call with the same bytes."""

    allow_reuse_address = True

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        super().__init__(("127.0.0.1", 0), _Call)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Call(socketserver.BaseRequestHandler):
    server: Stranger

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(self.server.answer)


def http(body: bytes = b"", kind: str = "", status: str = "200 OK") -> bytes:
    fields = f"Content-Type: {kind}\r\n" if kind else ""
    return f"HTTP/1.1 {status}\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


def of_json(document: object, status: str = "200 OK") -> bytes:
    return http(json.dumps(document).encode(), "application/json", status)


ANSWERS = {
    "a page": http(HTML, "text/html"),
    "nothing": http(),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a redirect": http(HTML, "text/html", "302 Found"),
    "a page that says 404": http(HTML, "text/html", "404 Not Found"),
    "another program's object": of_json({"ok": True}),
    "another program's success": of_json({"success": True}),
    "another program's error": of_json({"message": "no Route matched"}, "404 Not Found"),
    "an error of another form": of_json({"success": False, "error": {"code": 7}}, "400 Bad Request"),
    "a list": of_json([]),
    "JSON that breaks off": http(b'{"success": tr', "application/json"),
    "bytes": http(b"\xff\xfe\x00", "application/octet-stream"),
    "a log that is none": http(b"hello\nworld\n", "application/x-ndjson"),
    "lines of other documents": http(b'{"level":"info"}\n[1]\n', "application/x-ndjson"),
    "a stream that is none": http(b"hello\n\n", "text/event-stream"),
    "events of another form": http(b"event: x\ndata: [1]\n\n", "text/event-stream"),
    "events that are not UTF-8": http(b"event: x\ndata: \xff\n\n", "text/event-stream"),
    "another protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x50",
}


@pytest.fixture(params=list(ANSWERS.values()), ids=list(ANSWERS))
def stranger(request: pytest.FixtureRequest) -> Iterator[Stranger]:
    with Stranger(request.param) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def test_another_program_is_named(fake: FakeServer, stranger: Stranger) -> None:
    """No traceback, and no empty listing; also where a log or a stream was expected. It is not asked for ever."""
    for arguments, code in COMMANDS:
        done = qmaster(fake, *arguments.split(), QMASTER_URL=stranger.url)
        said = done.stderr.decode()
        assert (done.returncode, done.stdout, said.count("\n")) == (code, b"", 1), (arguments, said)
        assert f"what answers at {stranger.url} is not quartermaster" in said
