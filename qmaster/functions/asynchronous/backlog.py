"""Counts of what waits asynchronously, and the bounds of it. In memory; belongs to the event loop."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

from ...errors import JournalFull, QueueFull
from ...models.responses import ROOT
from .row import Row


class InHand:
    """An invocation that was given to the dispatcher.

    Attributes:
        row: as it is in the journal.
        left: done when the invocation was cancelled.
        lock: held while the beginning of an attempt is written.
        over: whether its outcome is known, so that no attempt may begin any more.
        task: waits for the outcome, and writes it.
    """

    def __init__(self, row: Row) -> None:
        self.row = row
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lock = asyncio.Lock()
        self.over = False
        self.task: asyncio.Task[None] | None = None


class Line:
    """What waits for one version of a function, or for the newest (``qualifier`` 0).

    Attributes:
        waiting: how many invocations wait, by owner; the owner whose turn is next comes first.
        in_hand: those that the dispatcher has, by id.
        refused_until: when the next may be given to the dispatcher, by the loop's clock.
        refusal: the reason of the last refusal.
        expire_at: when to look for those that are too old, although no instance is free.
        due_at: when the next one is due that was not due yet.
        timer: looks at the line when something is due.
    """

    def __init__(self, function: str, qualifier: int) -> None:
        self.function = function
        self.qualifier = qualifier
        self.waiting: dict[str, int] = {}
        self.in_hand: dict[str, InHand] = {}
        self.refused_until = 0.0
        self.refusal = ""
        self.expire_at = 0.0
        self.due_at = math.inf
        self.timer: asyncio.TimerHandle | None = None

    def add(self, owner: str, count: int) -> None:
        """Count so many more of an owner, or fewer."""
        left = self.waiting.get(owner, 0) + count
        if left > 0:
            self.waiting[owner] = left
        else:
            self.waiting.pop(owner, None)

    def served(self, owner: str) -> None:
        """Let the other owners come before this one."""
        count = self.waiting.pop(owner, 0)
        if count:
            self.waiting[owner] = count

    def refuse(self, until: float, reason: str) -> None:
        """Give nothing to the dispatcher until then."""
        self.refused_until, self.refusal = max(self.refused_until, until), reason

    def next_look(self, now: float) -> float:
        """Return the seconds until something may be done that no other event tells of."""
        times = (self.due_at, self.refused_until, self.expire_at)
        return min((at for at in times if at > now), default=now) - now

    @property
    def key(self) -> tuple[str, int]:
        return self.function, self.qualifier

    @property
    def is_empty(self) -> bool:
        return not (self.waiting or self.in_hand)


class Backlog:
    """All lines, and how many bytes wait.

    Args:
        room: how many bytes of payloads may wait.
    """

    def __init__(self, room: int) -> None:
        self.lines: dict[tuple[str, int], Line] = {}
        self._room = room
        self._queued: Counter[str] = Counter()  # by function
        self._bytes: Counter[str] = Counter()  # by owner, of all that are not over

    def line(self, function: str, qualifier: int) -> Line:
        """Return the line of a version."""
        key = (function, qualifier)
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = Line(*key)
        return line

    def of_function(self, function: str) -> list[Line]:
        return [line for line in self.lines.values() if line.function == function]

    def queued(self) -> dict[str, int]:
        """Return how many invocations wait, by function."""
        return dict(self._queued)

    def held_back(self, function: str) -> int:
        """Return how many of them the dispatcher does not have yet, as it counts those that it has."""
        there = (each for line in self.of_function(function) for each in line.in_hand.values())
        return self._queued[function] - sum(each.row.status == "queued" for each in there)

    def forget_if_empty(self, line: Line) -> None:
        if line.is_empty and self.lines.get(line.key) is line:
            del self.lines[line.key]
            if line.timer is not None:
                line.timer.cancel()

    # -- bounds ----------------------------------------------------------------------------------------------------

    def require_room(self, function: str, queue: int, owner: str, size: int) -> None:
        """Require that one more invocation may wait.

        Raises:
            QueueFull: as many wait for the function as may.
            JournalFull: what waits has as many bytes as it may.
        """
        if not queue:
            raise QueueFull(f"the function {function!r} has queue 0, so it takes no asynchronous calls")
        if self._queued[function] >= queue:
            raise QueueFull(f"{self._queued[function]} calls wait for the function {function!r}; try again later", 5)
        if self._bytes.total() + size > self._room:
            raise JournalFull("calls that wait take half of --keep-size; try again later")
        mine = self._bytes[owner]
        others = self._bytes.total() - mine
        # Half of what the others leave, so that no number of tokens takes the room of the next one.
        if owner != ROOT and mine + size > (self._room - others) // 2:
            raise JournalFull("calls of this token that wait take its share of --keep-size; try again later")

    # -- counts ----------------------------------------------------------------------------------------------------

    def load(self, function: str, qualifier: int, owner: str, count: int, size: int) -> None:
        """Count what is in the journal."""
        self.line(function, qualifier).add(owner, count)
        self._queued[function] += count
        self._bytes[owner] += size

    def add_bytes(self, owner: str, size: int) -> None:
        self._bytes[owner] += size
        if not self._bytes[owner]:
            del self._bytes[owner]

    def accepted(self, row: Row) -> None:
        """Count an invocation that waits from now on."""
        self.add_bytes(row.owner, row.size)
        self.waits(row)

    def waits(self, row: Row) -> None:
        """Count one that is known, and waits again."""
        self._count(row, 1)

    def begun(self, row: Row) -> None:
        """Count one that does not wait any more."""
        self._count(row, -1)

    def ended(self, row: Row) -> None:
        """Count one that is over."""
        self.add_bytes(row.owner, -row.size)
        if row.status == "queued":
            self.begun(row)

    def _count(self, row: Row, count: int) -> None:
        self.line(row.function, row.qualifier).add(row.owner, count)
        self._queued[row.function] += count
        if not self._queued[row.function]:
            del self._queued[row.function]
