"""Logs: Docker's stream of messages, parsed; and captures, the end of the output of a task or container.

Without a TTY the stream has frames with an 8-byte header; with a TTY it is the raw bytes. A message has, in this order
(moby, ``api/server/httputils/write_log_stream.go``): the time and a space if timestamps were asked for, the details and
a space if details were, then the output. With timestamps, the first byte tells frames from raw bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from heapq import merge
from typing import Literal, NamedTuple
from urllib.parse import unquote_plus

from ..errors import HttpError, NodeUnreachable, TooManyReaders
from ..models.results import Line, Output, Stream
from .calls import CHANGE, Calls
from .client import Body, Client
from .errors import LATE, EngineTimeout, NotOfEngine, translate

Kind = Literal["service", "task", "container"]
Source = Literal["stdout", "stderr", "engine"]

PART = 16 * 1024  # bytes that Docker keeps as one message; a longer line comes in parts
MAX_FRAME = 4 * 1024 * 1024  # bytes; a log driver's message may have 1 MB
# Swarmkit's message (manager/logbroker) that a node cannot be reached; its source is ``engine``.
UNREACHED = re.compile(r"node (\S+) (?:is not available|disconnected unexpectedly)")

_SOURCES: tuple[Source, ...] = ("stdout", "stdout", "stderr", "engine")
_HEADER = struct.Struct(">BxxxL")
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(?:Z|[+-]\d\d:\d\d) ")
_STAMP_SIZE = 36  # bytes at most
_DETAIL = re.compile(rb"(?:[^=, ]+=[^=, ]*(?:,[^=, ]+=[^=, ]*)*)? ")
_NODE, _TASK = "com.docker.swarm.node.id", "com.docker.swarm.task.id"

FEW = 5000  # messages of the first read: nearly always enough
ALONE = 5.0  # seconds for the read of one stream alone
FIRST_BYTE = 8.0  # seconds; a node that was cut off is not reported, it is silent (measured on 20.10)
SILENT = "the task's node did not send its log in time; try again"


MAX_READERS = 64  # logs; the API has the same limit, this one also covers other callers
BATCH_EVERY = 0.01  # seconds


class Message(NamedTuple):
    """One message of a log; the source ``engine`` marks Docker's own messages about the log, which have no time.

    ``time`` is RFC 3339 with nanoseconds. ``data`` is a line with its newline, or part of a line without. ``node`` and
    ``task`` are ids, if details were asked for.
    """

    time: str
    source: Source
    data: bytes
    node: str | None = None
    task: str | None = None


class Parser:
    """Parser of a log stream with timestamps, fed with chunks of any size.

    Args:
        details: whether details were asked for.
    """

    def __init__(self, details: bool = False) -> None:
        self._details = details
        self._rest = b""
        self._framed: bool | None = None
        self._last = ""  # the time of the previous message
        self._known: tuple[bytes, str | None, str | None] = (b"", None, None)

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Yield the messages that this chunk completes.

        Raises:
            ValueError: the stream is not a log.
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
        """Yield the rest at the end of the stream: an unfinished line of a TTY. An incomplete frame is dropped."""
        if self._rest and not self._framed:
            rest, self._rest = self._rest, b""
            yield self._read(rest)

    def _complete(self, data: bytes, at: int) -> int:
        """Return the size of the next message in bytes; 0 if it is incomplete."""
        return _frame_size(data, at) if self._framed else _line_size(data, at)

    def _read(self, raw: bytes) -> Message:
        if not self._framed:
            return self._message("stdout", raw)
        return self._message(_SOURCES[raw[0]], raw[_HEADER.size :])

    def _message(self, source: Source, raw: bytes) -> Message:
        if source == "engine" or raw.startswith(b"Error grabbing logs: "):
            return Message("", "engine", raw)
        stamp = _STAMP.match(raw)
        if stamp is None:  # part of a TTY's line that was too long to wait for its end
            return Message(self._last, source, raw)
        self._last = stamp[0][:-1].decode()
        at = stamp.end()
        if not self._details:
            return Message(self._last, source, raw[at:])
        details, node, task = self._known  # nearly always those of the previous message
        if not details or not raw.startswith(details, at):
            found = _DETAIL.match(raw, at)
            if found is None:
                return Message(self._last, source, raw[at:])
            details, node, task = self._known = (found[0], *_origin(found[0]))
        return Message(self._last, source, raw[at + len(details) :], node, task)


def _origin(details: bytes) -> tuple[str | None, str | None]:
    """Return the ids of node and task from a message's details."""
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
    """Return the size of a TTY's message: to the newline, or to the timestamp of a long line's next part."""
    newline = data.find(b"\n", at) + 1
    end = newline or len(data)
    if end - at > PART:
        stamp = _STAMP.search(data, at + PART, end)
        if stamp is not None:
            return stamp.start() - at
        if not newline and end - at > 4 * PART:
            return end - at - _STAMP_SIZE  # Docker's parts are shorter, but other log drivers' may not be
    return newline - at if newline else 0


class LogRequest(NamedTuple):
    """A log to read, and how much of it.

    ``tail`` counts Docker's messages over both streams; None: all. ``since`` is seconds since 1970, as text.
    ``silence`` is the longest wait for the next byte, in seconds; None: no limit.
    """

    kind: Kind
    id: str
    streams: tuple[Stream, ...] = ("stdout", "stderr")
    follow: bool = False
    tail: int | None = None
    since: str | None = None
    silence: float | None = None

    def parameters(self) -> dict[str, str]:
        """Return the query of Docker's call."""
        optional = {"follow": "1" if self.follow else None, "since": self.since}
        optional |= {"details": "1" if self.kind == "service" else None}
        wanted = {name: value for name, value in optional.items() if value is not None}
        tail = "all" if self.tail is None else str(self.tail)
        return {"timestamps": "1", "tail": tail, **dict.fromkeys(self.streams, "1"), **wanted}


class LogReaders:
    """Limit on the logs that are read at once for callers. Belongs to the event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.taken = 0

    @contextlib.contextmanager
    def slot(self) -> Iterator[Callable[[LogRequest], OpenLog]]:
        """Hold a slot, and yield a function that opens one log at a time.

        Raises:
            TooManyReaders: all slots are taken.
        """
        if self.taken >= MAX_READERS:
            raise TooManyReaders(f"{MAX_READERS} logs are being read already; try again")
        self.taken += 1
        opened: list[OpenLog] = []

        def open_log(request: LogRequest) -> OpenLog:
            opened[:] = [OpenLog(self._client, request)]
            return opened[0]

        try:
            yield open_log
        finally:
            self.taken -= 1
            for each in opened:
                each.close()


class OpenLog:
    """An open log, read in batches; a slow reader slows the engine. Closed at the end of a ``with`` block."""

    def __init__(self, client: Client, request: LogRequest) -> None:
        self._parser = Parser(details=request.kind == "service")
        self._taken = 0.0
        # A task of its own, as ``take`` may be cancelled and called again.
        self._opening = asyncio.create_task(_open(client, request))

    def __enter__(self) -> OpenLog:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log; may be called again."""
        if not self._opening.done():
            self._opening.cancel()
        elif not self._opening.cancelled() and self._opening.exception() is None and (body := self._opening.result()):
            body.close()

    async def take(self) -> list[Message]:
        """Return the next messages, empty at the end. May be cancelled and called again.

        Raises:
            HttpError: the log was broken off.
        """
        # Collect a burst into a few batches, so that not each of its messages wakes the reader.
        await asyncio.sleep(max(0.0, self._taken + BATCH_EVERY - time.monotonic()))
        body = await asyncio.shield(self._opening)
        if body is None:
            return []
        while True:
            data = await body.read()
            self._taken = time.monotonic()
            messages = list(_parsed(self._parser, data))
            if messages or not data:
                return messages


async def _open(client: Client, request: LogRequest) -> Body | None:
    """Open a log; return None if its log driver does not support reading."""
    path = f"/{request.kind}s/{request.id}/logs"
    try:
        return await client.open("GET", path, request.parameters(), silence=request.silence)
    except NotOfEngine:
        return None


def _parsed(parser: Parser, data: bytes) -> Iterator[Message]:
    """Yield the messages that this chunk completes; an empty chunk ends the stream."""
    try:
        yield from parser.feed(data) if data else parser.end()
    except ValueError as error:
        raise translate(error) from error


class Logs:
    """Captures. Belongs to the event loop.

    Args:
        calls: slots for captures only, so that a large log delays no other call.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def capture(
        self, kind: Literal["task", "container"], target_id: str, limit: int, partial: bool = False
    ) -> Output:
        """Return the last ``limit`` bytes of each stream, in Docker's order; nothing if the log driver keeps nothing.

        After 25 s, returns what has arrived by then, as truncated; with ``partial`` also where the log breaks off.

        Raises:
            NotFound: the task or container does not exist.
            NodeUnreachable: the task's node cannot be reached now.
            HttpError: the engine did not answer, or the log broke off.
        """
        return await self._calls.call(
            lambda: _Capture(self._calls.client, kind, target_id, limit, partial).output(), CHANGE
        )


class Tail:
    """The end of each stream: as many of its last messages as ``limit`` bytes need."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[Stream, deque[tuple[int, Line]]] = {"stdout": deque(), "stderr": deque()}
        self._size: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._count = 0
        self.dropped: set[Stream] = set()

    def add(self, line: Line) -> None:
        """Add a message; earlier ones that are no longer needed are dropped."""
        if not line.data:
            return
        kept, stream = self._kept[line.stream], line.stream
        kept.append((self._count, line))
        self._count += 1
        self._size[stream] += len(line.data)
        while kept and self._size[stream] - len(kept[0][1].data) >= self._limit:
            self._size[stream] -= len(kept.popleft()[1].data)
            self.dropped.add(stream)

    def full(self, stream: Stream) -> bool:
        """Return whether a stream has more than ``limit`` bytes, so that earlier messages would be dropped."""
        return stream in self.dropped or self._size[stream] > self._limit

    def lines(self, *streams: Stream) -> list[Line]:
        """Return the kept messages of these streams in their order of arrival, cut to the limit."""
        return [line for _, line in merge(*(self._cut(stream) for stream in streams))]

    def _cut(self, stream: Stream) -> Iterator[tuple[int, Line]]:
        over = max(0, self._size[stream] - self._limit)
        for at, (order, line) in enumerate(self._kept[stream]):
            cut = over if at == 0 else 0
            if len(line.data) > cut:
                yield order, Line(line.time, line.stream, line.data[cut:])


class _Capture:
    """One capture.

    Docker counts ``tail`` over both streams before it leaves one out. So if the last messages are all of one stream,
    the other is read alone, from its beginning; Docker then reads the whole log, but sends only that stream.
    """

    def __init__(
        self, client: Client, kind: Literal["task", "container"], target_id: str, limit: int, partial: bool
    ) -> None:
        self._client = client
        self._partial = partial
        self._kind: Kind = kind
        self._id = target_id
        self._limit = limit
        self._until = time.monotonic() + CHANGE - 1  # a second for the rest of the work
        self._late = False
        self._any = False

    async def output(self) -> Output:
        both: tuple[Stream, Stream] = ("stdout", "stderr")
        tail, all_seen = await self._read(FEW, *both)
        if not all_seen and not any(map(tail.full, both)):
            # A message has at least one byte: with this many, one stream is full.
            tail, all_seen = await self._read(2 * self._limit + 2, *both)
        full = [stream for stream in both if tail.full(stream)]
        if all_seen or self._late or len(full) == len(both):
            return Output(tail.lines(*both), self._late or bool(full))
        self._until = min(self._until, time.monotonic() + ALONE)
        lacking = [stream for stream in both if stream not in full]
        alone, _ = await self._read(None, *lacking)
        return Output(list(merge(tail.lines(*full), alone.lines(*lacking), key=lambda line: line.time)), True)

    async def _read(self, count: int | None, *streams: Stream) -> tuple[Tail, bool]:
        """Return the end of these streams from the last ``count`` messages, and whether the log has no more."""
        tail = Tail(self._limit)
        request = LogRequest(self._kind, self._id, streams, tail=count)
        read = 0
        try:
            async with asyncio.timeout(self._left()):
                body = await _open(self._client, request)
            if body is not None:
                with body:
                    read = await self._take(body, tail)
        except TimeoutError:
            self._late = True
        except HttpError:
            if not (self._partial and self._any):
                raise
            self._late = True
        if self._late and not self._any:
            raise NodeUnreachable(SILENT) if self._kind == "task" else EngineTimeout(LATE)
        return tail, not self._late and read != count

    async def _take(self, body: Body, tail: Tail) -> int:
        """Read to the end of the log or the time limit; return the number of messages."""
        parser, read, data = Parser(), 0, b" "
        while data:
            async with asyncio.timeout(self._left()):
                data = await body.read()
            for message in _parsed(parser, data):
                self._any = True
                if message.source == "engine":
                    require_reached(message.data.decode(errors="replace").strip())
                else:
                    tail.add(Line(message.time, message.source, message.data))
                    read += 1
        return read

    def _left(self) -> float:
        """Return the seconds that are left; for the first byte, fewer."""
        left = self._until - time.monotonic()
        return left if self._any else min(left, FIRST_BYTE)


def require_reached(words: str) -> None:
    """Raise if the engine's words say that a node is unreachable; that a task was never on a node is no error.

    Raises:
        NodeUnreachable: it is.
    """
    gone = UNREACHED.search(words)
    if gone is not None:
        raise NodeUnreachable(f"the logs of node {gone[1]} cannot be read, as it is unreachable; try again")
