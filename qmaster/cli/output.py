"""What a job writes, as ``GET /logs/{id}`` tells it: followed to its end, taken up where it broke, nothing twice."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

from .client import Api, Query
from .errors import ClientError
from .retry import RetryPolicy
from .terminal import ERR, OUT, Screen

ENDED = frozenset({"complete", "failed", "removed"})
LOOK_AGAIN = 0.5  # seconds
NDJSON = {"Accept": "application/x-ndjson"}


class Line(NamedTuple):
    """A line, or the part of one that is not finished; ``data`` is what the job wrote, with its newline.

    ``stream`` is ``stdout``, ``stderr``, or ``qmaster``: a remark of the server's. ``raw`` is the document as it came.
    """

    time: str
    stream: str
    task: str
    data: bytes
    raw: bytes


def parse(raw: bytes) -> Line:
    """One document of the answer. Where its text is not all that the job wrote, ``base64`` has the bytes."""
    document: dict[str, Any] = json.loads(raw)
    exact = document.get("base64")
    data = base64.b64decode(exact) if exact is not None else document["line"].encode(errors="replace")
    ending = b"" if document.get("partial") else b"\n"
    return Line(document.get("time") or "", document["stream"], document.get("task") or "", data + ending, raw)


class Seen:
    """What has been shown, so that an output that is told again from its beginning goes on where it broke.

    A task's stream is in the order of its times. What has one time may be told in other parts than before: so what was
    shown of the last time is counted in bytes.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[str, int]] = {}
        self._again: dict[tuple[str, str], int] = {}  # bytes of the last time that are still to be skipped
        self._remarks: set[bytes] = set()
        self._first = ""

    def __bool__(self) -> bool:
        return bool(self._last)

    def begin_again(self) -> None:
        """What comes now may have been shown already."""
        self._again = {key: size for key, (_, size) in self._last.items()}

    def fresh(self, line: Line) -> bytes:
        """What is new of a line; it counts as shown then."""
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
        """Nothing from before the first of the lines that were asked for (``tail``) is new later."""
        self._first = min(self._first or line.time, line.time)


async def lines(
    api: Api, job: str, query: dict[str, str], follow: bool, retry_policy: RetryPolicy
) -> AsyncIterator[Line]:
    """The lines of a job.

    Args:
        job: its id or name.
        query: ``tail`` and ``stream``, where they are asked for.
        follow: until it has ended; across breaks. Else what there is now.

    Raises:
        ClientError: the server refuses it, or is away for too long.
    """
    seen, asked, told = Seen(), {**query, **({"follow": "1"} if follow else {})}, False
    while True:
        try:
            async for line in _once(api, job, asked.items(), retry_policy):
                told = line.stream == "qmaster"
                if "tail" in asked:
                    seen.from_here(line)
                fresh = seen.fresh(line)
                if fresh:
                    yield line._replace(data=fresh)
            if not follow or await _has_ended(api, job):
                return
            await asyncio.sleep(LOOK_AGAIN)
        except ClientError as error:
            await retry_policy.bear(error, told)
        seen.begin_again()
        if seen:
            asked.pop("tail", None)


async def _once(api: Api, job: str, query: Query, retry_policy: RetryPolicy) -> AsyncIterator[Line]:
    rest: list[bytes] = []
    async with api.open("GET", f"/logs/{quote(job, safe='')}", query=query, headers=NDJSON) as response:
        await response.check()
        retry_policy.met()
        async for piece in response.pieces():
            *whole, last = piece.split(b"\n")
            for raw in whole:
                yield parse(b"".join([*rest, raw]))
                rest = []
            rest.append(last)


async def _has_ended(api: Api, job: str) -> bool:
    return (await api.ask("GET", f"/status/{quote(job, safe='')}")).document["status"] in ENDED


class Writer:
    """Puts lines where the job wrote them.

    Args:
        as_json: the documents as they came instead, all on standard output.
        timestamps: the time in front of each line.
    """

    def __init__(self, screen: Screen, *, as_json: bool = False, timestamps: bool = False) -> None:
        self._screen = screen
        self._as_json = as_json
        self._timestamps = timestamps

    async def write(self, line: Line) -> None:
        if self._as_json:
            await self._screen.write(OUT, line.raw + b"\n")
        elif line.stream == "qmaster":
            self._screen.say(line.data.decode(errors="replace"))
        else:
            await self._write(ERR if line.stream == "stderr" else OUT, line)

    async def _write(self, descriptor: int, line: Line) -> None:
        """With its time in front, each stream of a task has lines of its own, else each task has."""
        of = f"{line.task} {line.stream}" if self._timestamps else line.task
        stamp = f"{line.time} ".encode() if self._timestamps and self._screen.begins_line(descriptor, of) else b""
        await self._screen.write(descriptor, stamp + line.data, of)
