"""Pure: HTTP's chunked coding taken off (RFC 9112, 7.1)."""

from __future__ import annotations

import re

MAX_LINE = 256  # bytes, of a size with its extensions, or of a trailer
SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")


class Chunked:
    """Takes a body in pieces, cut anywhere; ``done`` when its last chunk has come, with the trailers behind it.

    What has come behind its end is ``rest``.
    """

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self._left = 0  # bytes of this chunk
        self._in_chunk = False
        self._in_trailers = False

    def event_stream(self, data: bytes) -> bytes:
        """What this piece holds.

        Raises:
            ValueError: it is not coded so.
        """
        data = self.rest + data if self.rest else data
        taken: list[bytes] = []
        at = 0
        while not self.done:
            if self._left:
                piece = data[at : at + self._left]
                taken.append(piece)
                self._left -= len(piece)
                at += len(piece)
            if self._left:
                break
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > MAX_LINE:
                    raise ValueError("a line between chunks has no end")
                break
            self._line(data[at:end])
            at = end + 2
        self.rest = data[at:]
        return b"".join(taken)

    def _line(self, line: bytes) -> None:
        """What stands between two chunks: the end of the one before, or the size of the next; or behind the last."""
        if self._in_trailers:
            self.done = not line
        elif self._in_chunk:
            if line:
                raise ValueError("a chunk is longer than its size")
            self._in_chunk = False
        else:
            size = line.partition(b";")[0].strip()
            if not SIZE.fullmatch(size):  # int() takes a sign, and more
                raise ValueError("a chunk's size is none")
            self._left = int(size, 16)
            self._in_chunk = self._left > 0
            self._in_trailers = self._left == 0
