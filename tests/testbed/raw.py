"""HTTP as bytes on a socket: requests as they are, several at once, and what is answered."""

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from testbed.server import ADDRESS

SIZE = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """An answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    raw: bytes


def request(method: str, target: str, headers: Sequence[tuple[str, str]] = (), body: bytes | None = None) -> bytes:
    """A request as it should be; `headers` may have what it should not."""
    fields = [("Host", "localhost"), *headers]
    if body is not None:
        fields.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + (body or b"")


class Wire:
    """A connection. Its `closed` is whether the server has ended it."""

    def __init__(self, port: int, timeout: float = 20) -> None:
        self.socket = socket.create_connection((ADDRESS, port), timeout=timeout)
        self._buffer = b""
        self.closed = False

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send it; that the server has hung up meanwhile is no matter."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def finish(self) -> None:
        """Say no more: a half-closed connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def answer(self, head: bool = False) -> Answer | None:
        """The next one, None where the connection ends before; `head`: it is one of a HEAD request."""
        while True:
            raw = self._until_blank()
            if raw is None:
                return None
            status, headers = _parsed(raw)
            if status != 100:
                break
        if head or status in (101, 204, 304):
            return Answer(status, headers, b"", raw)
        if "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rest()
        return Answer(status, headers, body, raw + body)

    def rest(self) -> bytes:
        """All up to the end of the connection."""
        while self._fill():
            pass
        data, self._buffer = self._buffer, b""
        return data

    def _fill(self) -> bool:
        try:
            data = self.socket.recv(SIZE)
        except ConnectionError:
            data = b""
        self._buffer += data
        self.closed = self.closed or not data
        return bool(data)

    def _until_blank(self) -> bytes | None:
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                return None
        head, mark, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head + mark

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size and self._fill():
            pass
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _chunks(self) -> Iterator[bytes]:
        while True:
            while b"\r\n" not in self._buffer and self._fill():
                pass
            size, _, self._buffer = self._buffer.partition(b"\r\n")
            data = self._exactly(int(size or b"0", 16) + 2)[:-2]
            if not data:
                return
            yield data


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    fields = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}
