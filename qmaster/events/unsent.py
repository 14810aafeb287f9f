"""Memory of answers that wait for their reader: a bound for each token, and an end for who reads nothing.

The event loop owns it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Protocol

import structlog

from ..errors import TooManyUnread

MAX_UNSENT = 16 * 1024 * 1024  # bytes of each token
SMALL = 16 * 1024  # bytes; answers up to this size are not counted
PATIENCE = 5.0  # seconds that the reader of a counted answer may make no progress

log = structlog.get_logger(__name__)


class Watched(Protocol):
    """The connection of a reader; ``sent`` counts the bytes that it has taken."""

    sent: int

    def closed(self) -> bool: ...
    def writing(self) -> bool: ...
    def close(self) -> None: ...


class _Answer:
    """An answer that is being sent; ``sent`` is what its stream had sent at ``since``."""

    __slots__ = ("lease", "owner", "sent", "since")

    def __init__(self, owner: str, lease: Lease, sent: int, now: float) -> None:
        self.owner, self.lease, self.sent, self.since = owner, lease, sent, now


class Lease:
    """Counted bytes; ``release`` gives them back, once."""

    __slots__ = ("_owner", "_size", "_unsent")

    def __init__(self, unsent: Unsent, owner: str, size: int) -> None:
        self._unsent: Unsent | None = unsent
        self._owner, self._size = owner, size

    def release(self) -> None:
        if self._unsent is not None:
            self._unsent.give_back(self._owner, self._size)
            self._unsent = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()


class Unsent:
    """Counts, by owner, the bytes that were built and have not left.

    Args:
        most: bytes of one owner.
        patience: seconds without progress after which a reader is cut.
    """

    def __init__(self, most: int = MAX_UNSENT, patience: float = PATIENCE) -> None:
        self._most = most
        self._patience = patience
        self._bytes: Counter[str] = Counter()
        self._answers: dict[Watched, _Answer] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._freed = asyncio.Event()

    def of(self, owner: str) -> int:
        """Bytes that an owner has unsent."""
        return self._bytes[owner]

    def require(self, owner: str, size: int) -> None:
        """
        Raises:
            TooManyUnread: an owner has no room for so many bytes; one answer alone is always allowed.
        """
        if self._bytes[owner] and self._bytes[owner] + size > self._most:
            raise TooManyUnread(
                f"answers of more than {self._most} bytes to this token are unread: read them, or come back later"
            )

    def hold(self, owner: str, size: int) -> Lease:
        """Count so many bytes until the lease is released."""
        self._bytes[owner] += size
        return Lease(self, owner, size)

    async def turn(self, owner: str) -> None:
        """Wait, in turn with others of the same owner, until it has room; to be followed by ``hold`` at once."""
        async with self._turns[owner]:
            while self._bytes[owner] >= self._most:
                self._freed.clear()
                await self._freed.wait()

    def give_back(self, owner: str, size: int) -> None:
        self._bytes[owner] -= size
        if self._bytes[owner] <= 0:
            del self._bytes[owner]
        self._freed.set()

    def watch(self, owner: str, size: int, stream: Watched, done: asyncio.Future[None]) -> None:
        """Count an answer until it has left its stream, or its reader was cut."""
        if done.done() or stream.closed():
            return
        self._end(stream)
        answer = _Answer(owner, self.hold(owner, size), stream.sent, time.monotonic())
        self._answers[stream] = answer
        done.add_done_callback(lambda _: self._end(stream, answer))

    @contextlib.contextmanager
    def watching(self, owner: str, size: int, stream: Watched) -> Iterator[None]:
        """Count an answer that is sent piece by piece meanwhile, and cut its reader where it makes no progress."""
        answer = _Answer(owner, self.hold(owner, size), stream.sent, time.monotonic())
        self._answers[stream] = answer
        try:
            yield
        finally:
            self._end(stream, answer)

    def check(self) -> None:
        """Cut who makes no progress; to be called every second."""
        now = time.monotonic()
        for stream, answer in list(self._answers.items()):
            if stream.closed():
                self._end(stream)
            elif stream.sent != answer.sent or not stream.writing():
                answer.sent, answer.since = stream.sent, now
            elif now - answer.since > self._patience:
                log.warning("slow_reader_cut", by=answer.owner, unsent=self._bytes[answer.owner])
                self._end(stream)
                stream.close()

    def _end(self, stream: Watched, answer: _Answer | None = None) -> None:
        if answer is None or self._answers.get(stream) is answer:
            answer = self._answers.pop(stream, None)
        if answer is not None:
            answer.lease.release()
