"""Pure: Docker's log stream as messages: frames with an 8-byte header, or of a TTY the bytes as they are.

The order in a message is Docker's own (moby, ``api/server/httputils/write_log_stream.go``): the time and a space where
timestamps were asked for, the details and a space where those were, then what the job wrote. With timestamps a frame
and a TTY's line cannot be taken for each other: their first bytes differ.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple
from urllib.parse import unquote_plus

Source = Literal["stdout", "stderr", "engine"]

PART = 16 * 1024  # bytes that Docker keeps as one message; a longer line comes in parts
MAX_FRAME = 4 * 1024 * 1024  # bytes; a log driver's message may have 1 MB
# In swarmkit's words (manager/logbroker): one of ``engine`` that says that a node is not there.
UNREACHED = re.compile(r"node (\S+) (?:is not available|disconnected unexpectedly)")

_SOURCES: tuple[Source, ...] = ("stdout", "stdout", "stderr", "engine")
_HEADER = struct.Struct(">BxxxL")
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d) ")
_STAMP_SIZE = 36  # bytes at most
_DETAIL = re.compile(rb"(?:[^=, ]+=[^=, ]*(?:,[^=, ]+=[^=, ]*)*)? ")
_NODE, _TASK = "com.docker.swarm.node.id", "com.docker.swarm.task.id"


class Message(NamedTuple):
    """One message of a log; of ``engine`` are Docker's own words about it, which have no time.

    ``time`` is RFC 3339 with nanoseconds; ``data`` a line with its newline, or a part of one without. ``node`` and
    ``task`` are ids, where details were asked for.
    """

    time: str
    source: Source
    data: bytes
    node: str | None = None
    task: str | None = None


class Parser:
    """Takes a stream in pieces, cut anywhere; it was asked for with timestamps.

    Args:
        details: whether it was asked for with details.
    """

    def __init__(self, details: bool = False) -> None:
        self._details = details
        self._rest = b""
        self._framed: bool | None = None
        self._last = ""  # the time of the part before
        self._known: tuple[bytes, str | None, str | None] = (b"", None, None)

    def event_stream(self, chunk: bytes) -> Iterator[Message]:
        """The messages that this piece completes.

        Raises:
            ValueError: this is no log.
        """
        data = self._rest + chunk if self._rest else chunk
        if self._framed is None and data:
            self._framed = data[0] < len(_SOURCES)
        at = 0
        try:
            while size := self._complete(data, at):
                yield self._read(data[at : at + size])
                at += size
        finally:
            self._rest = data[at:]

    def end(self) -> Iterator[Message]:
        """What is left when the stream has ended: of a TTY a line that is not finished; a frame cut off is dropped."""
        if self._rest and not self._framed:
            rest, self._rest = self._rest, b""
            yield self._read(rest)

    def _complete(self, data: bytes, at: int) -> int:
        """How many bytes the next message has; 0 where not all are there."""
        return _frame_size(data, at) if self._framed else _line_size(data, at)

    def _read(self, raw: bytes) -> Message:
        if not self._framed:
            return self._message("stdout", raw)
        return self._message(_SOURCES[raw[0]], raw[_HEADER.size :])

    def _message(self, source: Source, raw: bytes) -> Message:
        if source == "engine" or raw.startswith(b"Error grabbing logs: "):
            return Message("", "engine", raw)
        stamp = _STAMP.match(raw)
        if stamp is None:  # the middle of a TTY's line that was too long to wait for its end
            return Message(self._last, source, raw)
        self._last = stamp[0][:-1].decode()
        at = stamp.end()
        if not self._details:
            return Message(self._last, source, raw[at:])
        details, node, task = self._known  # nearly always those of the message before
        if not details or not raw.startswith(details, at):
            found = _DETAIL.match(raw, at)
            if found is None:
                return Message(self._last, source, raw[at:])
            details, node, task = self._known = (found[0], *_origin(found[0]))
        return Message(self._last, source, raw[at + len(details) :], node, task)


def _origin(details: bytes) -> tuple[str | None, str | None]:
    """Node and task."""
    pairs = [pair.partition("=") for pair in details.decode(errors="replace").strip().split(",")]
    found = {unquote_plus(key): unquote_plus(value) for key, _, value in pairs}
    return found.get(_NODE), found.get(_TASK)


def _frame_size(data: bytes, at: int) -> int:
    if len(data) - at < _HEADER.size:
        return 0
    kind, size = _HEADER.unpack_from(data, at)
    if kind >= len(_SOURCES) or data[at + 1 : at + 4] != b"\0\0\0" or size > MAX_FRAME:
        raise ValueError("the engine's answer is not a log")
    whole = int(_HEADER.size + size)
    return whole if len(data) - at >= whole else 0


def _line_size(data: bytes, at: int) -> int:
    """Of a TTY: up to the newline, or up to the time of a long line's next part."""
    newline = data.find(b"\n", at) + 1
    end = newline or len(data)
    if end - at > PART:
        stamp = _STAMP.search(data, at + PART, end)
        if stamp is not None:
            return stamp.start() - at
        if not newline and end - at > 4 * PART:
            return end - at - _STAMP_SIZE  # Docker's parts are shorter, but what it passes on may be of another kind
    return newline - at if newline else 0
