"""Clients of ``GET /events``: a websocket, read by a thread of its own, and Server-Sent Events."""

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from testbed.background import Background
from testbed.server import ADDRESS, Client
from testbed.wait import BUSY

Json = dict[str, Any]

SIZE = 64 * 1024
TEXT, CLOSE = 1, 8
ABORTED = 1006  # no close frame came (RFC 6455, 7.1.5)


class Received(NamedTuple):
    """A frame, and when it came: seconds since 1970."""

    at: float
    frame: Json


def address(since: str | None = None, query: str = "") -> str:
    """The path of a stream; ``query`` is all but ``since``, as in ``topic=task&label=a%3Db``."""
    parts = [f"since={quote(since)}"] if since is not None else []
    return "/events?" + "&".join([*parts, *([query] if query else [])])


def read_websocket(head: bytes, more: Callable[[int], bytes]) -> tuple[int, bytes]:
    """The opcode and payload of a frame that a server sent; ``more`` gives exactly so many bytes."""
    opcode, size = head[0] & 0x0F, head[1] & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", more(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", more(8))
    return opcode, more(size)


class Connection:
    """A websocket after its handshake; nothing is read from it until it is asked. `status` is 101 where it was taken.

    `receive_buffer` is the kernel's, in bytes (0: its own choice); `pace` is slept before each read, in seconds.
    """

    def __init__(
        self,
        port: int,
        path: str,
        headers: Mapping[str, str],
        receive_buffer: int = 0,
        pace: float = 0.0,
        host: str = ADDRESS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(30)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._pace = pace
        self._buffer = bytearray()
        try:
            self.socket.connect((host, port))
            if tls:
                self.socket = tls.wrap_socket(self.socket, server_hostname=host)
            self.status = self._shake_hands(f"{host}:{port}", path, headers)
        except OSError:
            self.socket.close()
            raise

    def _shake_hands(self, host: str, path: str, headers: Mapping[str, str]) -> int:
        key = base64.b64encode(os.urandom(16)).decode()
        fields = {"Host": host, "Upgrade": "websocket", "Connection": "Upgrade"}
        fields |= {"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13", **headers}
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(self._head().split()[1])

    def _head(self) -> bytes:
        while b"\r\n\r\n" not in self._buffer:
            self._fill(1)
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        return head

    def _fill(self, size: int = SIZE) -> None:
        data = self.socket.recv(size)
        if not data:
            raise ConnectionAbortedError("the connection has ended")
        self._buffer += data

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if self._pace:
                time.sleep(self._pace)
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def receive(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload. Raises `OSError` when the connection ends without one."""
        return read_websocket(self._exactly(2), self._exactly)

    def send(self, text: str, opcode: int = TEXT) -> None:
        data, mask = text.encode(), os.urandom(4)
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack("!H", len(data))
        masked = bytes(octet ^ mask[i % 4] for i, octet in enumerate(data))
        self.socket.sendall(bytes([0x80 | opcode]) + size + mask + masked)

    def close(self) -> None:
        """End it, also under a thread that reads."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Subscriber:
    """A subscription over a websocket. What comes is kept in `received`; `next` and `until` go through it in order.

    `token` is the server's own, another one, or none (False), as in `Client.call`.
    """

    def __init__(
        self,
        server: Client,
        since: str | None = None,
        *,
        token: bool | str = True,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        receive_buffer: int = 0,
        pace: float = 0.0,
    ) -> None:
        self._server, self._query = server, query
        sent = {"Authorization": f"Bearer {server.token if token is True else token}"} if token else {}
        self.connection = Connection(
            server.port,
            address(since, query),
            {**sent, **(headers or {})},
            receive_buffer,
            pace,
            server.address,
            server.tls,
        )
        self.status = self.connection.status
        self.cursor = since
        self.received: list[Received] = []
        self.size = 0
        self.close_code: int | None = None
        self._read = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="subscriber", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Subscriber":
        return self

    def __exit__(self, *exception: object) -> None:
        self.leave()

    def _run(self) -> None:
        code = ABORTED
        with contextlib.suppress(OSError):
            self.connection.socket.settimeout(None)
            while self.status == 101:
                opcode, payload = self.connection.receive()
                if opcode == TEXT:
                    self._take(payload)
                elif opcode == CLOSE:
                    code = int.from_bytes(payload[:2], "big") if payload else 1005
                    break
        self.connection.close()
        with self._changed:
            self.close_code = code
            self._changed.notify_all()

    def _take(self, payload: bytes) -> None:
        frame = json.loads(payload)
        with self._changed:
            self.received.append(Received(time.time(), frame))
            self.size += len(payload)
            if frame["type"] in ("snapshot", "event", "heartbeat"):
                self.cursor = frame["cursor"]
            self._changed.notify_all()

    @property
    def frames(self) -> list[Json]:
        """All frames so far."""
        return [received.frame for received in list(self.received)]

    @property
    def events(self) -> list[Json]:
        """All CloudEvents so far."""
        return [frame["event"] for frame in self.frames if frame["type"] == "event"]

    def send(self, text: str) -> None:
        self.connection.send(text)

    def next(self, timeout: float = 10) -> Json:
        """The next frame but heartbeats. Raises `TimeoutError`; `EOFError` when it is closed."""
        return self.until(lambda frame: frame["type"] != "heartbeat", timeout)

    def until(self, predicate: Callable[[Json], object], timeout: float = 30) -> Json:
        """The first frame, of those not gone through, for which that is true; those before it are gone through."""
        deadline = time.monotonic() + timeout * BUSY
        with self._changed:
            while True:
                while self._read < len(self.received):
                    frame = self.received[self._read].frame
                    self._read += 1
                    if predicate(frame):
                        return frame
                if self.close_code is not None:
                    raise EOFError(f"closed with {self.close_code}; the last frames: {self.frames[-3:]}")
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"not within {timeout * BUSY} s; the last frames: {self.frames[-3:]}")

    def event(self, predicate: Callable[[Json], object], timeout: float = 30) -> Json:
        """The first CloudEvent, of those not gone through, for which that is true."""
        found: Json = self.until(lambda frame: frame["type"] == "event" and predicate(frame["event"]), timeout)["event"]
        return found

    def closed(self, timeout: float = 10) -> int:
        """The code that it is closed with."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.close_code is not None, timeout * BUSY), "it is still open"
        return self.close_code or 0

    def leave(self) -> None:
        """Close the connection; `received` and `cursor` stay."""
        self.connection.close()
        self._thread.join(10)

    def resume(self) -> "Subscriber":
        """Another subscription that goes on where this one has ended."""
        return Subscriber(self._server, self.cursor, query=self._query)


class Resuming(Background):
    """A subscriber that comes back each time with its cursor; what it was told, in order."""

    def __init__(self, server: Client) -> None:
        super().__init__()
        self._server = server
        self._lock = threading.Lock()
        self._cursor: str | None = None
        self.frames: list[Json] = []
        self.connects = 0

    @property
    def events(self) -> list[Json]:
        with self._lock:
            return [frame["event"] for frame in self.frames if frame["type"] == "event"]

    def work(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError), Subscriber(self._server, self._cursor) as subscriber:
                self.connects += 1
                while not self.over.is_set():
                    try:
                        self._take(subscriber.next(0.05))
                    except TimeoutError:
                        continue
                    except EOFError:
                        break
            self.over.wait(0.1)

    def _take(self, frame: Json) -> None:
        with self._lock:
            self.frames.append(frame)
        if frame["type"] in ("snapshot", "event", "heartbeat"):
            self._cursor = frame["cursor"]


def becomes(service: str, *statuses: str) -> Callable[[Json], bool]:
    """Events of the service itself, when it is in one of those."""
    return lambda event: (
        event["subject"] == service and ".service." in event["type"] and event["data"]["status"] in statuses
    )


def heartbeat(stale: bool) -> Callable[[Json], bool]:
    """Heartbeats that say `stale_since`, or do not."""
    return lambda frame: frame["type"] == "heartbeat" and ("stale_since" in frame) == stale


def outcome(event: Json) -> tuple[str, str | None, int | None]:
    """Its status, reason and exit code."""
    data = event["data"]
    return data["status"], data["reason"], data["exit_code"]


class SseEvent(NamedTuple):
    id: str
    name: str
    data: Json


class Sse:
    """A subscription as Server-Sent Events."""

    def __init__(self, server: Client, path: str = "/events", headers: Mapping[str, str] | None = None) -> None:
        self._connection = server.connect(timeout=30)
        sent = {"Authorization": f"Bearer {server.token}", "Accept": "text/event-stream", **(headers or {})}
        self._connection.request("GET", path, headers=sent)
        self.answer = self._connection.getresponse()
        self.status = self.answer.status

    def __enter__(self) -> "Sse":
        return self

    def __exit__(self, *exception: object) -> None:
        self.answer.close()
        self._connection.close()

    def __iter__(self) -> Iterator[SseEvent]:
        return parse_sse(self.answer)


def parse_sse(lines: Iterator[bytes] | http.client.HTTPResponse) -> Iterator[SseEvent]:
    """The events in a stream's lines (HTML Standard, 9.2.6), as far as quartermaster writes them."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        else:
            yield SseEvent(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields = {}
