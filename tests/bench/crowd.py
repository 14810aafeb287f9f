"""A child: a crowd of websocket clients that count what comes. One epoll loop, so that reading costs little."""

import base64
import os
import resource
import select
import socket
import sys
import time
from collections.abc import Mapping

from testbed.server import ADDRESS

from bench.child import reply, said

AT_ONCE = 100  # handshakes; a listener's queue holds 128
SIZE = 256 * 1024
STDIN = 0


class Member:
    """One of the crowd. ``tail`` is the end of what came, in which the text that is looked for may have begun."""

    __slots__ = ("connection", "count", "tail")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.tail = b""
        self.count = 0


class Crowd:
    """The verbs. Between two of them all that comes is read."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._epoll.register(STDIN, select.EPOLLIN)
        self._members: dict[int, Member] = {}
        self._lost = 0
        self._text = b"\0"
        self._times = 0
        self._missing = 0
        self._last = 0.0
        self._until: float | None = None  # while the answer to `arrived` is owed

    def serve(self) -> None:
        """Read, and obey, until there are no more words."""
        while True:
            pause = -1 if self._until is None else max(0.0, self._until - time.monotonic())
            for descriptor, _ in self._epoll.poll(pause):
                if descriptor != STDIN:
                    self._read(self._members[descriptor])
                    continue
                line = sys.stdin.buffer.readline()
                if not line:
                    return
                verb, fields = said(line)
                getattr(self, verb)(**fields)
            self._answer_arrived()

    # Verbs

    def connect(self, port: int, path: str, count: int, headers: Mapping[str, str], first: str) -> None:
        """Join, until each has got the text ``first``."""
        began = time.monotonic()
        self._look_for(first, 1)
        self._missing = 0  # of those who come now
        for start in range(0, count, AT_ONCE):
            fresh = [_begin(port, path, headers) for _ in range(min(AT_ONCE, count - start))]
            for connection in fresh:
                self._enter(connection)
            self._read_all(0)
        until = time.monotonic() + 60
        while self._missing and time.monotonic() < until:
            self._read_all(1)
        reply({"seconds": time.monotonic() - began, "missing": self._missing})

    def expect(self, text: str, times: int) -> None:
        """Count a text from now on."""
        self._look_for(text, times)
        reply({})

    def arrived(self, within: float) -> None:
        """Answer when it has come so often to each, or so many seconds have passed."""
        self._until = time.monotonic() + within

    def cpu(self) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        reply(used.ru_utime + used.ru_stime)

    def leave(self) -> None:
        for member in self._members.values():
            member.connection.close()
        self._members.clear()
        self._lost = 0
        reply({})

    # How

    def _enter(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(SIZE)
            if not data:
                raise ConnectionError(f"no websocket: {head!r}")
            head += data
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"no websocket: {head!r}")
        connection.setblocking(False)
        member = Member(connection)
        self._members[connection.fileno()] = member
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        self._missing += 1
        self._take(member, head.partition(b"\r\n\r\n")[2])

    def _look_for(self, text: str, times: int) -> None:
        self._text, self._times = text.encode(), times
        self._missing, self._last = len(self._members), 0.0
        for member in self._members.values():
            member.count, member.tail = 0, b""

    def _read_all(self, pause: float) -> None:
        for descriptor, _ in self._epoll.poll(pause):
            if descriptor != STDIN:
                self._read(self._members[descriptor])

    def _read(self, member: Member) -> None:
        try:
            data = member.connection.recv(SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(member, data)
        else:
            self._epoll.unregister(member.connection.fileno())
            self._lost += 1

    def _take(self, member: Member, data: bytes) -> None:
        seen = member.tail + data
        found = seen.count(self._text)
        if found:
            self._last = time.monotonic()
            self._missing -= member.count < self._times <= member.count + found
            member.count += found
        keep = len(self._text) - 1
        member.tail = seen[-keep:] if keep else b""

    def _answer_arrived(self) -> None:
        if self._until is None or (self._missing and time.monotonic() < self._until):
            return
        self._until = None
        counts = [member.count for member in self._members.values()]
        reply(
            {
                "missing": self._missing,
                "lost": self._lost,
                "least": min(counts),
                "most": max(counts),
                "last": self._last,
            }
        )


def _begin(port: int, path: str, headers: Mapping[str, str]) -> socket.socket:
    connection = socket.create_connection((ADDRESS, port), timeout=60)
    key = base64.b64encode(os.urandom(16)).decode()
    fields = {"Host": f"{ADDRESS}:{port}", "Upgrade": "websocket", "Connection": "Upgrade"}
    fields |= {"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13", **headers}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


if __name__ == "__main__":
    Crowd().serve()
