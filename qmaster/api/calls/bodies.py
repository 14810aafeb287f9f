"""Limits on calls in flight: the bytes of their bodies, and what one address may call without a token.

Belongs to the event loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ...errors import TooManyBodies, TooManyConnections

MAX_BODIES = 256 * 1024 * 1024  # bytes of all bodies, from their first byte until their request is over
MAX_OF_ADDRESS = 64  # calls of public URLs at once


class BodyLease:
    """The counted bytes of one body, until ``release``; releasing twice is harmless."""

    __slots__ = ("_limiter", "_owner", "size")

    def __init__(self, limiter: BodyLimiter, owner: str) -> None:
        self._limiter: BodyLimiter | None = limiter
        self._owner = owner
        self.size = 0

    def grow_to(self, size: int) -> None:
        """Count the body as ``size`` bytes, if it was counted as fewer.

        Raises:
            TooManyBodies: there is no room for it.
        """
        if self._limiter is not None and size > self.size:
            self._limiter.add(self._owner, size - self.size)
            self.size = size

    def release(self) -> None:
        if self._limiter is not None:
            self._limiter.give_back(self._owner, self.size)
            self._limiter = None


class BodyLimiter:
    """Counts the bytes of bodies by owner.

    An owner gets more only while it holds less than is free. A single owner therefore holds at most half, and the next
    one finds room.

    Args:
        most: the limit of all owners together, in bytes.
    """

    def __init__(self, most: int = MAX_BODIES) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    def of(self, owner: str) -> int:
        """Return the bytes that an owner holds."""
        return self._held[owner]

    def lease(self, owner: str) -> BodyLease:
        """Return a lease of no bytes yet."""
        return BodyLease(self, owner)

    def add(self, owner: str, size: int) -> None:
        """Count ``size`` more bytes of an owner.

        Raises:
            TooManyBodies: the owner's share is in use.
        """
        if self._held[owner] + size > self._most - self._held.total():
            raise TooManyBodies("too many bytes of bodies are in flight; wait for earlier calls, or try again later")
        self._held[owner] += size

    def give_back(self, owner: str, size: int) -> None:
        self._held[owner] -= size
        if self._held[owner] <= 0:
            del self._held[owner]


class PublicCallers:
    """Limits what one address holds of the share that the calls of public URLs have together."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self.bodies = BodyLimiter(MAX_BODIES // 2)

    def enter(self, address: str) -> Callable[[], None]:
        """Count a call, and return a function that ends it.

        Raises:
            TooManyConnections: the address has too many.
        """
        if self._calls[address] >= MAX_OF_ADDRESS:
            raise TooManyConnections("too many open calls from this address; wait for earlier ones")
        self._calls[address] += 1
        return lambda: self._leave(address)

    def _leave(self, address: str) -> None:
        self._calls[address] -= 1
        if not self._calls[address]:
            del self._calls[address]
