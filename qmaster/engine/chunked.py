"""Pure: HTTP's chunked coding taken off (RFC 9112, 7.1)."""

from __future__ import annotations

MAX_SIZE_LINE = 256  # bytes


class Chunked:
    """Takes a body in pieces, cut anywhere; ``done`` when its last chunk has come."""

    def __init__(self) -> None:
        self.done = False
        self._rest = b""
        self._left = 0  # bytes of this chunk
        self._in_chunk = False

    def feed(self, data: bytes) -> bytes:
        """What this piece holds.

        Raises:
            ValueError: it is not coded so.
        """
        data = self._rest + data if self._rest else data
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
                if len(data) - at > MAX_SIZE_LINE:
                    raise ValueError("a chunk's size is missing")
                break
            self._line(data[at:end])
            at = end + 2
        self._rest = data[at:]
        return b"".join(taken)

    def _line(self, line: bytes) -> None:
        """What stands between two chunks: the end of the one before, or the size of the next."""
        if self._in_chunk:
            if line:
                raise ValueError("a chunk is longer than its size")
            self._in_chunk = False
            return
        self._left = int(line.partition(b";")[0], 16)
        self._in_chunk = True
        self.done = self._left == 0
