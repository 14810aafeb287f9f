"""An engine that runs nothing: a manager of an empty swarm, which notes what it is asked. It needs no root."""

import contextlib
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from testbed.proxy import Request

VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10.24"}
MANAGER = {"Swarm": {"ControlAvailable": True, "LocalNodeState": "active", "NodeID": "n1"}}
# What quartermaster asks by itself, and what the answer is.
ROUTINE: dict[str, Any] = {
    "/version": VERSION,
    "/_ping": "OK",
    "/info": MANAGER,
    "/services": [],
    "/tasks": [],
    "/nodes": [],
    "/containers/json": [],
}


class Stub:
    """The engine on a unix socket. `asked` is what it was asked beyond the routine of who looks after a swarm."""

    def __init__(self, path: Path) -> None:
        self.socket = str(path)
        self.host = f"unix://{path}"
        self.asked: list[Request] = []
        self.closed = threading.Event()
        stub = self

        class Handler(_Handler):
            engine = stub

        self._server = _Server(self.socket, Handler)
        threading.Thread(target=self._server.serve_forever, name="stub", daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def stub_engine(path: Path) -> Iterator[Stub]:
    """An engine while the context lasts."""
    stub = Stub(path)
    try:
        yield stub
    finally:
        stub.close()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    engine: Stub
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        path = re.sub(r"^/v[0-9.]+", "", self.path.partition("?")[0])
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/events":
            self._events()
        elif self.command in ("GET", "HEAD") and path in ROUTINE:
            self._send(200, ROUTINE[path])
        else:
            self.engine.asked.append(Request(self.command, path, 0.0))
            self._send(404, {"message": f"no such thing: {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _send(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Api-Version", VERSION["ApiVersion"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _events(self) -> None:
        """A stream on which nothing happens."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        self.engine.closed.wait()
        self.close_connection = True

    def address_string(self) -> str:  # a unix socket has no address to show
        return ""

    def log_message(self, *args: Any) -> None:
        pass
