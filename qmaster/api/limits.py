"""How many connections may be held open at once, by kind, in all and by one token. The event loop owns it.

A request is soon over; a wait, a followed log and a socket may last for days, and each is a descriptor. The rest is for
short calls, ``/stop`` among them, and for the engine.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from typing import Literal

from ..auth.authenticator import source
from ..errors import TooManyConnections

Kind = Literal["socket", "wait", "log", "newcomer"]
MOST: dict[Kind, int] = {"socket": 8192, "wait": 2048, "log": 64, "newcomer": 256}
SHARE = 4  # one token has one part in so many; of newcomers, one address (of IPv6 a /64)
SPARE = 256  # connections that are never held: for short calls
RESERVED = 256  # descriptors for the rest: 64 for logs that are read, 70 for the engine, the journal's few
WANTED = sum(MOST.values()) + SPARE + RESERVED


class Slot:
    """One connection that is held; ``release`` gives it back, once."""

    __slots__ = ("_held", "_kind", "_owner")

    def __init__(self, held: ConnectionLimiter, kind: Kind, owner: str) -> None:
        self._held: ConnectionLimiter | None = held
        self._kind: Kind = kind
        self._owner = owner

    def release(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            held.give_back(self, self._kind, self._owner)

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()


class ConnectionLimiter:
    """Counts them.

    Args:
        connections: how many there may be, held or not.
    """

    def __init__(self, connections: int = WANTED) -> None:
        self._room = max(connections - SPARE, connections // 2)
        self._all: Counter[str] = Counter()
        self._by: Counter[tuple[str, str]] = Counter()
        # Of each address the websockets that have shown no token, the oldest first, and what ends each.
        self._newcomers: dict[str, dict[Slot, Callable[[], None]]] = {}

    def take(self, kind: Kind, owner: str, limited: bool) -> Slot:
        """
        Args:
            owner: whose token it is.
            limited: whether the owner has only its share.

        Raises:
            TooManyConnections
        """
        most = self._most(kind)
        # A newcomer is closed when another needs its slot (see entrance), so it does not count here.
        if self._all.total() - self._all["newcomer"] >= self._room or self._all[kind] >= most:
            raise TooManyConnections(f"too many open {kind}s: close some, or come back later")
        if limited and self._by[kind, owner] >= max(1, most // SHARE):
            raise TooManyConnections(f"too many open {kind}s of this token: close some")
        return self._lease(kind, owner)

    def admit(self, address: str, end: Callable[[], None]) -> Slot:
        """A place for a websocket that has shown no token. There always is one: another loses its place for it.

        Else 64 that say nothing would keep out a browser at the same address, which has to come without its token.
        It is the oldest of the same address where that has its share, or of the address that has most.

        Args:
            end: closes it, when it loses its place.
        """
        origin, most = source(address), self._most("newcomer")
        if self._by["newcomer", origin] >= max(1, most // SHARE):
            self._turn_out(origin)
        elif self._all["newcomer"] >= most:
            self._turn_out(max(self._newcomers, key=lambda each: len(self._newcomers[each])))
        lease = self._lease("newcomer", origin)
        self._newcomers.setdefault(origin, {})[lease] = end
        return lease

    def _turn_out(self, origin: str) -> None:
        lease, end = next(iter(self._newcomers[origin].items()))
        lease.release()
        end()

    def _most(self, kind: Kind) -> int:
        return min(MOST[kind], self._room)

    def _lease(self, kind: Kind, owner: str) -> Slot:
        self._all[kind] += 1
        self._by[kind, owner] += 1
        return Slot(self, kind, owner)

    def give_back(self, lease: Slot, kind: Kind, owner: str) -> None:
        self._all[kind] -= 1
        self._by[kind, owner] -= 1
        if not self._by[kind, owner]:
            del self._by[kind, owner]
        if kind == "newcomer":
            self._newcomers[owner].pop(lease, None)
            if not self._newcomers[owner]:
                del self._newcomers[owner]


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
