"""A call of a function: what a caller asks, its life until the answer, the answer, and the report of its end.

Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from ...errors import CallFailed, HttpError
from ...models.functions import Version

MAX_PAYLOAD = 6 * 1024 * 1024  # bytes of an input, and of an answer that is not streamed
HELD = 256 * 1024  # bytes of a streamed answer that wait for its reader


class Call(NamedTuple):
    """What a caller asks.

    Attributes:
        id: the id of the request, a fresh UUID.
        payload: the input; never empty, as the Python client fails on an empty body.
        owner: the name of the caller's token; "" for a public URL.
        client_context: JSON text for ``Lambda-Runtime-Client-Context``.
        trace_id: for ``Lambda-Runtime-Trace-Id``.
        streams: whether the caller takes a streamed answer as it comes.
    """

    id: str
    payload: bytes
    owner: str
    client_context: str | None = None
    trace_id: str | None = None
    streams: bool = False


class Answer(NamedTuple):
    """What the function answered.

    Attributes:
        body: the whole body; empty if ``chunks`` is set.
        content_type: of the body.
        instance: the id of the instance's run.
        version: the number of the function's version.
        duration_ms: from the hand-over to the answer, or to the beginning of a streamed one.
        cold: whether an instance was started for the call.
        chunks: a streamed answer. Its reader sets the pace, and ends it with ``aclose`` if it leaves.
    """

    body: bytes
    content_type: str
    instance: str
    version: int
    duration_ms: float
    cold: bool
    chunks: Chunks | None = None


class Chunks(AsyncIterator[bytes]):
    """The parts of a streamed answer: at most ``HELD`` bytes wait for the reader."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._over = False
        self._error: HttpError | None = None
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the answer waits for its reader."""
        return self._size > HELD

    async def put(self, part: bytes) -> None:
        """Add a part, and wait while too many bytes are unread; after the end, it is dropped."""
        if self._over or not part:
            return
        self._parts.append(part)
        self._size += len(part)
        self._changed.set()
        while self.is_full and not self._over:
            await self._change()

    def end(self, error: HttpError | None = None) -> None:
        """End the answer; an error is raised to the reader after the parts that came before it."""
        if not self._over:
            self._over, self._error = True, error
            self._changed.set()

    async def aclose(self) -> None:
        """Leave: what is unread and all that follows is dropped."""
        self._parts.clear()
        self._size = 0
        self.end()

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            await self._change()
        part = self._parts.popleft()
        self._size -= len(part)
        self._changed.set()
        return part

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Invocation:
    """One call from its arrival to its answer.

    Attributes:
        call: what is asked.
        queued_at: when it came, by the event loop's clock.
        handed_at: when an instance got it; None while it waits.
        deadline: the time (seconds since 1970) until which the instance may answer.
        cold: whether an instance was started for it.
        timer: ends the wait for an instance, then the call.
        answered: the answer, or why there is none.
        chunks: the streamed answer that has begun.
        begin: of an asynchronous call: commits that the instance with this run id gets it, and sets ``call`` with its
            payload. Awaited before the call is written to the instance; where it fails, the call is not made.
    """

    __slots__ = ("answered", "begin", "call", "chunks", "cold", "deadline", "handed_at", "queued_at", "timer")

    def __init__(self, call: Call, now: float, begin: Callable[[str], Awaitable[None]] | None = None) -> None:
        self.call = call
        self.begin = begin
        self.queued_at = now
        self.handed_at: float | None = None
        self.deadline = 0.0
        self.cold = False
        self.timer: asyncio.TimerHandle | None = None
        self.answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.chunks: Chunks | None = None

    def answer(self, answer: Answer) -> None:
        """Give the answer to the caller, if it is still there."""
        if not self.answered.done():
            self.answered.set_result(answer)

    def fail(self, error: HttpError) -> None:
        """Tell the caller why there is no answer, or no more of it."""
        if self.chunks is not None:
            self.chunks.end(error)
        elif not self.answered.done():
            self.answered.set_exception(error)

    def conclude(self, version: Version, end: Answer | HttpError | None, run_id: str | None, now: float) -> Ended:
        """End the call, and return the report of it.

        Args:
            version: that was called.
            end: the answer, or why there is none; None: a streamed answer has ended.
            run_id: of the instance or job that had the call.
            now: by the event loop's clock.
        """
        self.stop_timer()
        if isinstance(end, Answer):
            self.answer(end)
        elif end is not None:
            self.fail(end)
        outcome = _outcome(end) if isinstance(end, HttpError) else "ok"
        queued = (self.handed_at or now) - self.queued_at
        taken = None if self.handed_at is None else now - self.handed_at
        return Ended(version, self.call, run_id, outcome, queued, taken, self.cold)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Ended(NamedTuple):
    """A call that is over, for the metrics and the log.

    Attributes:
        version: the version that was called.
        call: what was asked.
        instance: the id of the instance's run; None if none got it.
        outcome: ``ok``, or the reason of the error.
        queued: the seconds that it waited for an instance.
        duration: the seconds from the hand-over to the end; None if it was not handed over.
        cold: whether an instance was started for it.
    """

    version: Version
    call: Call
    instance: str | None
    outcome: str
    queued: float
    duration: float | None
    cold: bool


class Reports(NamedTuple):
    """What is told of each call that is over, and of each instance that has ended: its function and why."""

    call: Callable[[Ended], None]
    instance: Callable[[str, str], None]


def _outcome(error: HttpError) -> str:
    """Return the word for why a call failed, for the metrics and the log."""
    return error.reason if isinstance(error, CallFailed) else str(int(error.status))
