"""Pure: pieces of output as plain text and as NDJSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, Protocol

import msgspec

Source = Literal["stdout", "stderr", "qmaster"]

MAX_LINE = 1024 * 1024  # bytes; a longer line is told in parts
PREFIX = b"[qmaster] "

_Key = tuple[str | None, Source]


class Piece(NamedTuple):
    """A line with its newline, or a part of one without; ``qmaster`` says what the job did not.

    ``time`` is RFC 3339 with nanoseconds, "" where there is none; ``node`` a name, ``task`` an id.
    """

    time: str
    source: Source
    data: bytes
    node: str | None = None
    task: str | None = None


def note(text: str, node: str | None = None, task: str | None = None) -> Piece:
    """A word of our own."""
    return Piece("", "qmaster", f"{text}\n".encode(), node, task)


class Writer(Protocol):
    """Turns pieces into what goes on the wire; ``end`` is what was held back."""

    media_type: str

    def write(self, pieces: Iterable[Piece]) -> bytes: ...
    def end(self) -> bytes: ...


class Plain:
    """The bytes as they were written; a line of another task, and words of our own, begin on a line of their own.

    Args:
        timestamps: whether each line begins with its time; then each stream has lines of its own too.
    """

    media_type = "text/plain; charset=utf-8"

    def __init__(self, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._unfinished: _Key | None = None  # whose line has no newline yet

    def write(self, pieces: Iterable[Piece]) -> bytes:
        return b"".join(part for piece in pieces if piece.data for part in self._take(piece))

    def end(self) -> bytes:
        return b""

    def _take(self, piece: Piece) -> Iterable[bytes]:
        begins = not self._continues(piece)
        if begins and self._unfinished is not None:
            yield b"\n"
        if piece.source == "qmaster":
            yield PREFIX
        elif begins and self._timestamps:
            yield piece.time.encode() + b" "
        yield piece.data
        self._unfinished = None if piece.data.endswith(b"\n") else (piece.task, piece.source)

    def _continues(self, piece: Piece) -> bool:
        """Whether a piece belongs to the line that is not finished."""
        if self._unfinished is None or piece.source == "qmaster":
            return False
        task, source = self._unfinished
        return piece.task == task and (piece.source == source or not self._timestamps)


class _Line(msgspec.Struct, omit_defaults=True):
    time: str | None
    stream: Source
    node: str | None
    task: str | None
    line: str
    partial: bool = False
    base64: bytes | None = None  # the bytes themselves, where they are not UTF-8


class Ndjson:
    """A JSON object for each line; its parts are joined, up to ``MAX_LINE``."""

    media_type = "application/x-ndjson"

    def __init__(self) -> None:
        self._held: dict[_Key, tuple[Piece, list[bytes], int]] = {}

    def write(self, pieces: Iterable[Piece]) -> bytes:
        return b"".join(line for piece in pieces for line in self._take(piece))

    def end(self) -> bytes:
        held, self._held = list(self._held.values()), {}
        return b"".join(_encode(first, b"".join(parts), partial=True) for first, parts, size in held if size)

    def _take(self, piece: Piece) -> Iterable[bytes]:
        key = (piece.task, piece.source)
        first, parts, size = self._held.pop(key, (piece, [], 0))
        parts.append(piece.data)
        size += len(piece.data)
        if not piece.data.endswith(b"\n") and size < MAX_LINE:
            self._held[key] = (first, parts, size)
            return
        data = b"".join(parts)
        while len(data.removesuffix(b"\n")) > MAX_LINE or (len(data) >= MAX_LINE and not data.endswith(b"\n")):
            at = _cut(data)
            yield _encode(first, data[:at], partial=True)
            data = data[at:]
        if data.endswith(b"\n"):
            yield _encode(first, data[:-1])
        else:
            self._held[key] = (first, [data], len(data))


def _cut(data: bytes) -> int:
    """Where to cut a line: not in the middle of a character."""
    at = min(MAX_LINE, len(data))
    for back in range(4):
        if at - back < len(data) and data[at - back] & 0xC0 != 0x80:
            return at - back
    return at


def _encode(piece: Piece, data: bytes, partial: bool = False) -> bytes:
    data = data.removesuffix(b"\n")
    text = data.decode(errors="replace")
    exact = None if text.encode() == data else data
    line = _Line(piece.time or None, piece.source, piece.node, piece.task, text, partial, exact)
    return msgspec.json.encode(line) + b"\n"
