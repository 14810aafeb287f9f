"""How many connections may be held open at once, by kind, in all and by one token. The event loop owns it.

A request is soon over; a wait, a followed log and a socket may last for days, and each is a descriptor. The rest is for
short calls, ``/stop`` among them, and for the engine.
"""

from __future__ import annotations

import resource
from collections import Counter
from typing import Literal

from .errors import TooManyHeld

Kind = Literal["socket", "wait", "log", "newcomer"]
MOST: dict[Kind, int] = {"socket": 8192, "wait": 2048, "log": 64, "newcomer": 256}
SHARE = 4  # one token has one part in so many; of newcomers, one address
SPARE = 256  # connections that are never held: for short calls
RESERVED = 256  # descriptors for the rest: 64 for logs that are read, 40 for the engine, the journal's few
WANTED = sum(MOST.values()) + SPARE + RESERVED
_WORDS: dict[Kind, str] = {"newcomer": "open event streams that have not said who they are"}


class Lease:
    """One connection that is held; ``release`` gives it back, once."""

    __slots__ = ("_held", "_kind", "_owner")

    def __init__(self, held: Held, kind: Kind, owner: str) -> None:
        self._held: Held | None = held
        self._kind: Kind = kind
        self._owner = owner

    def release(self) -> None:
        if self._held is not None:
            self._held.give_back(self._kind, self._owner)
            self._held = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()


class Held:
    """Counts them.

    Args:
        connections: how many there may be, held or not.
    """

    def __init__(self, connections: int = WANTED) -> None:
        self._room = max(connections - SPARE, connections // 2)
        self._all: Counter[str] = Counter()
        self._by: Counter[tuple[str, str]] = Counter()

    def take(self, kind: Kind, owner: str, limited: bool) -> Lease:
        """
        Args:
            owner: whose token it is; of a newcomer, the address that it comes from.
            limited: whether the owner has only its share.

        Raises:
            TooManyHeld
        """
        most, words = min(MOST[kind], self._room), _WORDS.get(kind, f"open {kind}s")
        # A newcomer is ended where another needs its place (see entrance), so it takes none of the room.
        full = kind != "newcomer" and self._all.total() - self._all["newcomer"] >= self._room
        if full or self._all[kind] >= most:
            raise TooManyHeld(f"too many {words}: close some, or come back later")
        if limited and self._by[kind, owner] >= max(1, most // SHARE):
            raise TooManyHeld(f"too many {words} of this {'address' if kind == 'newcomer' else 'token'}: close some")
        self._all[kind] += 1
        self._by[kind, owner] += 1
        return Lease(self, kind, owner)

    def give_back(self, kind: Kind, owner: str) -> None:
        self._all[kind] -= 1
        self._by[kind, owner] -= 1
        if not self._by[kind, owner]:
            del self._by[kind, owner]


def connections(descriptors: int) -> int:
    """How many of so many descriptors may be connections."""
    return max(descriptors - RESERVED, descriptors // 2)


def descriptors() -> int:
    """How many this process may have open, once it has asked for as many as it has use for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return WANTED if soft == resource.RLIM_INFINITY else soft
