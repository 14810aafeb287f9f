"""Events and logs, resumed where they were after a broken connection. Event loop only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from . import answers
from .client import ENDED, LOOK_AGAIN, Client, ClientError, Json, Lost, NotQuartermaster, Query, another_server
from .retries import RetryPolicy

SILENT_FOR = 50.0  # seconds without an event: three heartbeats
NDJSON, STREAM = "application/x-ndjson", "text/event-stream"


class Frame(NamedTuple):
    """A frame of ``/events``.

    ``kind`` is ``snapshot``, ``gap``, …, or a CloudEvent's type; ``data`` the frame, or the CloudEvent.
    """

    cursor: str
    kind: str
    data: Json


class SseParser:
    """Parser of Server-Sent Events (HTML Standard, 9.2.6), as far as quartermaster writes them.

    ``feed`` raises ValueError if they are not its own.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Frame]:
        """Return the frames that a piece completes."""
        *blocks, self._rest = (self._rest + piece).split(b"\n\n")
        return [_frame(block) for block in blocks if block.strip()]


def _frame(block: bytes) -> Frame:
    fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
    data = json.loads(fields.get("data", "{}"))
    if not isinstance(data, dict):
        raise ValueError("not an event of quartermaster")
    return Frame(fields.get("id", ""), fields.get("event", ""), data)


async def events(client: Client, query: Query, since: str, retry_policy: RetryPolicy) -> AsyncIterator[Frame]:
    """Yield the frames of the event stream without end; after a broken connection, from the last cursor.

    Args:
        client: the server.
        query: the filters.
        since: the cursor to begin after; "": a snapshot comes first.
        retry_policy: the retries while the server is away.

    Raises:
        ClientError: the server refuses it, or is away for too long.
    """
    cursor = since
    while True:
        try:
            async for frame in _events(client, [*query, *([("since", cursor)] if cursor else [])]):
                retry_policy.succeeded()
                cursor = frame.cursor or cursor
                yield frame
            raise Lost(f"{client.url} ended the stream")
        except ClientError as error:
            await retry_policy.failed(error)


async def _events(client: Client, query: Query) -> AsyncIterator[Frame]:
    parser, greeted = SseParser(), False
    async with client.stream("GET", "/events", query=query, headers={"Accept": STREAM}) as response:
        response.require(STREAM)
        pieces = response.pieces()
        while True:
            try:
                async with asyncio.timeout(SILENT_FOR):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise Lost(f"{client.url} has been silent for {SILENT_FOR:g} s") from None
            if piece is None:
                return
            try:
                arrived = parser.feed(piece)
            except ValueError:
                raise NotQuartermaster(another_server(client.url)) from None
            for frame in arrived:
                greeted = greeted or frame.kind == "hello"
                if not greeted:
                    raise NotQuartermaster(another_server(client.url))
                yield frame


class Line(NamedTuple):
    """A line of a log, or a part of one; ``data`` has the job's bytes, with the newline.

    ``stream`` is ``stdout``, ``stderr``, or ``qmaster`` for the server's messages. ``raw`` is the JSON document.
    """

    time: str
    stream: str
    task: str
    data: bytes
    raw: bytes


def parse(raw: bytes) -> Line:
    """Parse a document of the answer; ``base64`` has the bytes if they are not UTF-8.

    Raises:
        msgspec.DecodeError: it is not a line of a log.
    """
    document = answers.line(raw)
    exact = document.get("base64")
    data = exact if exact is not None else document["line"].encode(errors="replace")
    ending = b"" if document.get("partial") else b"\n"
    return Line(document.get("time") or "", document["stream"], document.get("task") or "", data + ending, raw)


class Shown:
    """Record of what was shown of a log, so that a log that is sent again continues where it broke.

    A task's stream is in the order of its times. Lines with one time may be split differently the next time, so the
    bytes of the last time are counted.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[str, int]] = {}
        self._again: dict[tuple[str, str], int] = {}  # bytes of the last time that are still to be skipped
        self._remarks: set[bytes] = set()
        self._first = ""

    def __bool__(self) -> bool:
        """Whether anything was shown."""
        return bool(self._last)

    def begin_again(self) -> None:
        """Expect the log from its beginning."""
        self._again = {key: size for key, (_, size) in self._last.items()}

    def new(self, line: Line) -> bytes:
        """Return the part of a line that is new, and count it as shown."""
        if line.stream == "qmaster":
            known = line.data in self._remarks
            self._remarks.add(line.data)
            return b"" if known else line.data
        key = (line.task, line.stream)
        time, size = self._last.get(key, ("", 0))
        if line.time < max(time, self._first):
            return b""
        if line.time > time:
            self._last[key] = (line.time, len(line.data))
            self._again.pop(key, None)
            return line.data
        skip = min(self._again.get(key, 0), len(line.data))
        self._again[key] = self._again.get(key, 0) - skip
        self._last[key] = (time, size + len(line.data) - skip)
        return line.data[skip:]

    def from_here(self, line: Line) -> None:
        """Count what is older than the first of the lines asked for (``tail``) as shown."""
        self._first = min(self._first or line.time, line.time)


async def logs(
    client: Client, job: str, query: dict[str, str], follow: bool, retry_policy: RetryPolicy
) -> AsyncIterator[Line]:
    """Yield the lines of a job, each once.

    Args:
        client: the server.
        job: its id or name.
        query: ``tail`` and ``stream``, if given.
        follow: whether to continue until the job ends, also over broken connections.
        retry_policy: the retries while the server is away.

    Raises:
        ClientError: the server refuses it, or is away for too long.
    """
    shown, asked, told = Shown(), {**query, **({"follow": "1"} if follow else {})}, False
    while True:
        try:
            async for line in _logs(client, job, asked.items(), retry_policy):
                told = line.stream == "qmaster"
                if "tail" in asked:
                    shown.from_here(line)
                new = shown.new(line)
                if new:
                    yield line._replace(data=new)
            if not follow or await _has_ended(client, job):
                return
            await asyncio.sleep(LOOK_AGAIN)
        except ClientError as error:
            await retry_policy.failed(error, told)
        shown.begin_again()
        if shown:
            asked.pop("tail", None)


async def _logs(client: Client, job: str, query: Query, retry_policy: RetryPolicy) -> AsyncIterator[Line]:
    rest: list[bytes] = []
    path, headers = f"/logs/{quote(job, safe='')}", {"Accept": NDJSON}
    async with client.stream("GET", path, query=query, headers=headers) as response:
        response.require(NDJSON)
        retry_policy.succeeded()
        async for piece in response.pieces():
            *whole, last = piece.split(b"\n")
            for raw in whole:
                try:
                    line = parse(b"".join([*rest, raw]))
                except msgspec.DecodeError:
                    raise NotQuartermaster(another_server(client.url)) from None
                yield line
                rest = []
            rest.append(last)


async def _has_ended(client: Client, job: str) -> bool:
    return (await client.call("GET", f"/status/{quote(job, safe='')}"))["status"] in ENDED
