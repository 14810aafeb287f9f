"""Reading HTTP/1.1 from a socket message by message, to pass it on unchanged."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

SIZE = 65536


@dataclass(frozen=True)
class Head:
    """The first lines of a request."""

    raw: bytes
    method: str
    path: str
    headers: dict[str, str] = field(repr=False)

    @property
    def hijacks(self) -> bool:
        """Whether the connection is a raw stream after it (attach, exec, a build's session)."""
        return "upgrade" in self.headers

    def closing(self) -> bytes:
        """The same head, asking for the connection's end after the answer."""
        lines = [line for line in self.raw.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        return b"\r\n".join([lines[0], b"Connection: close", *lines[1:]])


class Reader:
    """The requests that come in on a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def _fill(self) -> bool:
        data = self._connection.recv(SIZE)
        self._buffer += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if not self._fill():
                return None
        head, _, self._buffer = self._buffer.partition(mark)
        return head + mark

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size > 0 and (self._buffer or self._fill()):
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(data)
            yield data

    def head(self) -> Head | None:
        """The next request's head; None when the peer sends no more."""
        raw = self._until(b"\r\n\r\n")
        if raw is None:
            return None
        first, *lines = raw.decode("latin-1").rstrip().split("\r\n")
        method, path, *_ = first.split(" ")
        fields = (line.partition(":") for line in lines)
        return Head(raw, method, path, {name.lower(): value.strip() for name, _, value in fields})

    def body(self, head: Head) -> Iterator[bytes]:
        """The pieces of that request's body, as they were sent."""
        if head.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
        else:
            yield from self._exactly(int(head.headers.get("content-length", 0)))

    def _chunks(self) -> Iterator[bytes]:
        while (line := self._until(b"\r\n")) is not None:
            yield line
            size = int(line.split(b";")[0], 16)
            yield from self._exactly(size + 2)  # the last chunk is empty, and no trailers follow it
            if size == 0:
                return

    def rest(self) -> Iterator[bytes]:
        """All that comes from now on."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            yield data
        while data := self._connection.recv(SIZE):
            yield data
