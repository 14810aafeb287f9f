"""What a job writes, as ``GET /logs/{id}`` tells it: followed to its end, taken up where it broke, nothing twice."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from .api import Api, Query
from .failures import ClientError
from .patience import Patience
from .screen import ERR, OUT, Screen

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

    A task's stream is in the order of its times; several of its lines may have the same one.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[str, int]] = {}  # the last time, and how many lines had it
        self._again: dict[tuple[str, str], int] = {}  # how many of those have come again
        self._remarks: set[bytes] = set()
        self._first = ""

    def begin_again(self) -> None:
        """The output is told once more."""
        self._again = dict.fromkeys(self._last, 0)

    @property
    def empty(self) -> bool:
        return not self._last

    def is_new(self, line: Line) -> bool:
        """Whether to show it; it counts as shown then."""
        if line.stream == "qmaster":
            known = line.data in self._remarks
            self._remarks.add(line.data)
            return not known
        key = (line.task, line.stream)
        time, count = self._last.get(key, ("", 0))
        if line.time < max(time, self._first):
            return False
        if line.time == time and self._again.get(key, count) < count:
            self._again[key] += 1
            return False
        self._last[key] = (line.time, count + 1 if line.time == time else 1)
        self._again.pop(key, None)
        return True

    def from_here(self, line: Line) -> None:
        """Nothing from before the first line that was asked for (``tail``) is new later."""
        self._first = self._first or line.time


async def lines(api: Api, job: str, query: dict[str, str], follow: bool, patience: Patience) -> AsyncIterator[Line]:
    """The lines of a job.

    Args:
        job: its id or name.
        query: ``tail`` and ``stream``, where they are asked for.
        follow: until it has ended; across breaks. Else what there is now.

    Raises:
        ClientError: the server refuses it, or is away for too long.
    """
    seen, asked = Seen(), {**query, **({"follow": "1"} if follow else {})}
    while True:
        try:
            async for line in _once(api, job, asked.items()):
                patience.met()
                if "tail" in asked:
                    seen.from_here(line)
                if seen.is_new(line):
                    yield line
            if not follow or await _has_ended(api, job):
                return
            await asyncio.sleep(LOOK_AGAIN)
        except ClientError as error:
            await patience.bear(error)
        seen.begin_again()
        if not seen.empty:
            asked.pop("tail", None)


async def _once(api: Api, job: str, query: Query) -> AsyncIterator[Line]:
    rest = b""
    async with api.open("GET", f"/logs/{job}", query=query, headers=NDJSON) as response:
        await response.check()
        async for piece in response.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            for raw in whole:
                if raw.strip():
                    yield parse(raw)


async def _has_ended(api: Api, job: str) -> bool:
    return (await api.ask("GET", f"/status/{job}")).document["status"] in ENDED


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
        self._open: set[tuple[str, str]] = set()  # whose last line is not finished

    async def write(self, line: Line) -> None:
        if self._as_json:
            await self._screen.write(OUT, line.raw + b"\n")
        elif line.stream == "qmaster":
            self._screen.say(line.data.decode(errors="replace"))
        else:
            await self._screen.write(ERR if line.stream == "stderr" else OUT, self._stamp(line) + line.data)

    def _stamp(self, line: Line) -> bytes:
        key = (line.task, line.stream)
        begins = key not in self._open
        (self._open.discard if line.data.endswith(b"\n") else self._open.add)(key)
        return f"{line.time} ".encode() if self._timestamps and begins else b""
