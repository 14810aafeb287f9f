"""What a task or container has said, read from the engine with bounds on memory and time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from heapq import merge
from http import HTTPStatus
from typing import Literal

import docker.errors
import requests
import urllib3.exceptions

from ..errors import NodeUnreachable
from ..models.results import Line, Output, Stream
from .client import Client
from .endpoint import CONNECT_TIMEOUT
from .errors import LATE, EngineTimeout
from .multiplex import UNREACHED, Message, Parser
from .pool import CHANGE, Pool

Kind = Literal["task", "container"]

FEW = 5000  # messages asked for first: nearly always enough
ALONE = 5.0  # seconds for the stream that had little among them
FIRST_WORD = 8.0  # seconds for the first byte: a node that was cut off is not refused, it is silent (measured on 20.10)
SILENT = "the task's node says nothing of its log; try again"

_PATHS: Mapping[Kind, str] = {"task": "/tasks/{}/logs", "container": "/containers/{}/logs"}
_LATE = (TimeoutError, requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError)


class Logs:
    """Belongs to the event loop.

    Args:
        pool: for captures alone, so that a large log holds up nobody else.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def capture(self, kind: Kind, target_id: str, limit: int) -> Output:
        """The last ``limit`` bytes of each of its streams, in Docker's order; nothing where its log driver keeps none.

        A log that takes longer than 25 s to read is what had come by then.

        Raises:
            NotFound: it is gone.
            NodeUnreachable: the task's node cannot be asked now.
            HttpError: the engine did not answer.
        """
        until = time.monotonic() + CHANGE - 1  # a second for what is left to do

        def read(client: Client) -> Output:
            return _Capture(client, kind, target_id, limit, until).output()

        return await self._pool.call(read, CHANGE, again=True)


class Tail:
    """The end of each stream: its messages up to the first that is needed to have ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[Stream, deque[tuple[int, Line]]] = {"stdout": deque(), "stderr": deque()}
        self._size: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._count = 0
        self.dropped: set[Stream] = set()

    def add(self, line: Line) -> None:
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
        """Whether it has more than what is wanted; what came before would not be kept."""
        return stream in self.dropped or self._size[stream] > self._limit

    def lines(self, *streams: Stream) -> list[Line]:
        """What is kept of these streams, in the order in which it came; the first of each cut to the limit."""
        return [line for _, line in merge(*(self._cut(stream) for stream in streams))]

    def _cut(self, stream: Stream) -> Iterator[tuple[int, Line]]:
        over = max(0, self._size[stream] - self._limit)
        for at, (order, line) in enumerate(self._kept[stream]):
            cut = over if at == 0 else 0
            if len(line.data) > cut:
                yield order, Line(line.time, line.stream, line.data[cut:])


class _Capture:
    """One capture, in a thread of the pool.

    Docker counts ``tail`` over both streams before it leaves one out. So where the last messages are all of one stream,
    the other is asked for alone, from its beginning: then Docker reads all of it, and sends only that.
    """

    def __init__(self, client: Client, kind: Kind, target_id: str, limit: int, until: float) -> None:
        self._client = client
        self._kind = kind
        self._path = _PATHS[kind].format(target_id)
        self._limit = limit
        self._until = until
        self._late = False
        self._any = False

    def output(self) -> Output:
        """
        Raises:
            NodeUnreachable
            docker.errors.APIError
        """
        both: tuple[Stream, Stream] = ("stdout", "stderr")
        tail, all_seen = self._read(FEW, *both)
        if not all_seen and not any(map(tail.full, both)):
            # A message has a byte or more: with so many of them one stream is full.
            tail, all_seen = self._read(2 * self._limit + 2, *both)
        full = [stream for stream in both if tail.full(stream)]
        if all_seen or self._late or len(full) == len(both):
            return Output(tail.lines(*both), self._late or bool(full))
        self._until = min(self._until, time.monotonic() + ALONE)
        lacking = [stream for stream in both if stream not in full]
        alone, _ = self._read(None, *lacking)
        return Output(list(merge(tail.lines(*full), alone.lines(*lacking), key=lambda line: line.time)), True)

    def _read(self, count: int | None, *streams: Stream) -> tuple[Tail, bool]:
        """The end of these streams among the last so many messages, and whether those are all that there are."""
        tail = Tail(self._limit)
        read = 0
        for message in self._messages(count, streams):
            self._any = True
            if message.source == "engine":
                self._told(message.data.decode(errors="replace").strip())
            else:
                tail.add(Line(message.time, message.source, message.data))
                read += 1
        if self._late and not self._any:
            raise NodeUnreachable(SILENT) if self._kind == "task" else EngineTimeout(LATE)
        return tail, not self._late and read != count

    def _messages(self, count: int | None, streams: tuple[Stream, ...]) -> Iterator[Message]:
        """What the engine sends until it is done, or time is up."""
        params = {"timestamps": "1", "tail": "all" if count is None else str(count)} | dict.fromkeys(streams, "1")
        parser = Parser()
        try:
            with self._client.open_log(self._path, params, (CONNECT_TIMEOUT, self._left())) as log:
                for chunk in log.chunks():
                    yield from parser.event_stream(chunk)
                    log.wait_at_most(self._left())
                yield from parser.end()
        except _LATE:
            self._late = True
        except docker.errors.APIError as error:
            if error.status_code != HTTPStatus.NOT_IMPLEMENTED:  # its log driver keeps nothing that could be read
                raise

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left if self._any else min(left, FIRST_WORD)

    def _told(self, words: str) -> None:
        """The engine's own words; that a task was never on a node only says that it has no log."""
        gone = UNREACHED.search(words)
        if gone is not None:
            raise NodeUnreachable(f"the node {gone[1]} cannot be reached for its logs; try again")
