"""Limit on the memory of unread answers, for each token. The event loop owns it."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

from ..errors import TooManyUnread

MAX_UNSENT = 16 * 1024 * 1024  # bytes for each token
SMALL = 16 * 1024  # bytes; answers up to this size are not counted


class Lease:
    """Counted bytes, until ``release``; releasing twice is harmless."""

    __slots__ = ("_owner", "_size", "_unsent")

    def __init__(self, unsent: Unsent, owner: str, size: int) -> None:
        self._unsent: Unsent | None = unsent
        self._owner, self._size = owner, size

    def release(self) -> None:
        """Stop counting the bytes; a second call does nothing."""
        if self._unsent is not None:
            self._unsent.give_back(self._owner, self._size)
            self._unsent = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()


class Unsent:
    """Counts, by owner, the bytes of answers that were built and have not been sent.

    Args:
        most: the limit for one owner, in bytes.
    """

    def __init__(self, most: int = MAX_UNSENT) -> None:
        self._most = most
        self._bytes: Counter[str] = Counter()
        self._queues: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._freed = asyncio.Event()

    def of(self, owner: str) -> int:
        """Return the unsent bytes of an owner."""
        return self._bytes[owner]

    def require(self, owner: str, size: int) -> None:
        """Check that there is room for an answer.

        Raises:
            TooManyUnread: the owner has no room for so many bytes; a single answer of any size is allowed.
        """
        if self._bytes[owner] and self._bytes[owner] + size > self._most:
            raise TooManyUnread(
                f"answers of more than {self._most} bytes to this token are unread: read them, or try again later"
            )

    def hold(self, owner: str, size: int) -> Lease:
        """Count ``size`` bytes until the lease is released."""
        self._bytes[owner] += size
        return Lease(self, owner, size)

    async def wait_for_room(self, owner: str) -> None:
        """Wait until the owner has room, first come, first served; call ``hold`` right after it."""
        async with self._queues[owner]:
            while self._bytes[owner] >= self._most:
                self._freed.clear()
                await self._freed.wait()

    def give_back(self, owner: str, size: int) -> None:
        """Stop counting bytes of an owner; called by ``Lease.release``, once for each."""
        self._bytes[owner] -= size
        if self._bytes[owner] <= 0:
            del self._bytes[owner]
        self._freed.set()
