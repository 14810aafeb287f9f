"""How many connections may be held open at once, by kind, in all and by one token. The event loop owns it.

A request is soon over; a wait, a followed log and a socket may last for days, and each is a descriptor. The rest is for
short calls, ``/stop`` among them, and for the engine.
"""

from __future__ import annotations

import resource
from collections import Counter
from typing import Literal

from .errors import TooManyHeld

Kind = Literal["socket", "wait", "log"]
MOST: dict[Kind, int] = {"socket": 8192, "wait": 2048, "log": 64}
SHARE = 4  # one token has one part in so many
SPARE = 256  # descriptors that are never held: 40 for the engine, the journal's few, the rest for short calls
WANTED = sum(MOST.values()) + SPARE


class Lease:
    """One connection that is held; ``release`` gives it back, once."""

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
        descriptors: how many the process may have open.
    """

    def __init__(self, descriptors: int = WANTED) -> None:
        self._room = max(descriptors - SPARE, descriptors // 2)
        self._all: Counter[str] = Counter()
        self._by: Counter[tuple[str, str]] = Counter()

    def take(self, kind: Kind, owner: str, limited: bool) -> Lease:
        """
        Args:
            owner: whose token it is.
            limited: whether the token has only its share.

        Raises:
            TooManyHeld
        """
        most = min(MOST[kind], self._room)
        if self._all[kind] >= most or self._all.total() >= self._room:
            raise TooManyHeld(f"too many open {kind}s: close some, or come back later")
        if limited and self._by[kind, owner] >= max(1, most // SHARE):
            raise TooManyHeld(f"too many open {kind}s of this token: close some")
        self._all[kind] += 1
        self._by[kind, owner] += 1
        return Lease(self, kind, owner)

    def give_back(self, kind: Kind, owner: str) -> None:
        self._all[kind] -= 1
        self._by[kind, owner] -= 1
        if not self._by[kind, owner]:
            del self._by[kind, owner]


def descriptors() -> int:
    """How many this process may have open, once it has asked for as many as it has use for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return WANTED if soft == resource.RLIM_INFINITY else soft
