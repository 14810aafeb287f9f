"""How many connections may be held open at once, by kind, in all and by one holder. The event loop owns it.

A request is soon over; a wait, a followed log and a socket may last for days, and each is a descriptor. The rest is for
short calls, ``/stop`` among them.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from .errors import TooManyHeld

Kind = Literal["socket", "wait", "log", "newcomer"]
MOST: dict[Kind, int] = {"socket": 8192, "wait": 2048, "log": 64, "newcomer": 256}
SHARE = 4  # one holder has one part in so many
SHORT = 256  # connections that are never held
WANTED = sum(MOST.values()) + SHORT
WORDS: dict[Kind, str] = {
    "socket": "open event streams",
    "wait": "callers who wait",
    "log": "open logs",
    "newcomer": "open event streams that have not said who they are",
}


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
        connections: how many there may be, those of short calls among them.
    """

    def __init__(self, connections: int = WANTED) -> None:
        self._room = connections - min(SHORT, connections // 2)
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
        most = min(MOST[kind], self._room)
        # A newcomer's connection is ended where another needs its place (see the door), so it takes none of the room.
        full = kind != "newcomer" and self._all.total() - self._all["newcomer"] >= self._room
        if full or self._all[kind] >= most:
            raise TooManyHeld(f"too many {WORDS[kind]}: close some, or come back later")
        if limited and self._by[kind, owner] >= max(1, most // SHARE):
            raise TooManyHeld(f"too many {WORDS[kind]}, all yours: close some")
        self._all[kind] += 1
        self._by[kind, owner] += 1
        return Lease(self, kind, owner)

    def give_back(self, kind: Kind, owner: str) -> None:
        self._all[kind] -= 1
        self._by[kind, owner] -= 1
        if not self._by[kind, owner]:
            del self._by[kind, owner]
