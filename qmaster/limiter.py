"""Limit on concurrent calls of one kind, with a fair share for each owner. Belongs to the event loop.

The owner of a call is the token that made the request, or the owner of the run that is being ended. Internal work (the
reconciler's listings, a commit) has no owner, and slots that no owner can take.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from functools import partial

from .errors import TooManyCalls

MAX_QUEUED = 1000  # waiting calls of one owner
QUEUED_FOR = 25.0  # seconds that a call with an owner waits for a slot

_owner: ContextVar[str | None] = ContextVar("owner", default=None)


def owner() -> str | None:
    """Return the owner that the current task works for, or None."""
    return _owner.get()


def act_for(owner: str | None) -> None:
    """Set the owner of the current task and of the tasks that it creates."""
    _owner.set(owner)


@contextlib.contextmanager
def acting_for(owner: str | None) -> Iterator[None]:
    """Set the owner of the current task within a ``with`` block."""
    before = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(before)


class FairLimiter:
    """Limit concurrent calls by slots, shared fairly between owners.

    An owner gets another slot only while it holds fewer than are free. A single owner therefore takes at most half of
    them, and the next owner finds a free one. Waiting calls are served round-robin by owner, whatever the length of
    each queue.

    Args:
        slots: the slots of all owners together.
        spare: extra slots for work without an owner, which may also take any other.
        queued_for: the longest wait of a call with an owner, in seconds.
    """

    def __init__(self, slots: int, spare: int = 0, queued_for: float = QUEUED_FOR) -> None:
        self._slots = slots
        self._spare = spare
        self._queued_for = queued_for
        self._held: Counter[str | None] = Counter()
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}  # in round-robin order

    @property
    def size(self) -> int:
        """Number of all slots."""
        return self._slots + self._spare

    async def take(self) -> Callable[[], None]:
        """Wait for a slot and return a function that releases it, to be called once.

        Raises:
            TooManyCalls: too many calls of the owner are waiting, or this one has waited too long. Nothing was sent.
        """
        mine = _owner.get()
        if mine in self._waiting or not self._admits(mine):
            await self._wait(mine)
        else:
            self._held[mine] += 1
        return partial(self._give_back, mine)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot within a ``with`` block; see ``take``."""
        give_back = await self.take()
        try:
            yield
        finally:
            give_back()

    def refuse(self, error: Callable[[], Exception]) -> None:
        """Fail all waiting calls with an error that ``error`` makes."""
        for queue in list(self._waiting.values()):
            for turn in list(queue):
                if not turn.done():
                    turn.set_exception(error())

    async def _wait(self, mine: str | None) -> None:
        queue = self._waiting.setdefault(mine, deque())
        if mine is not None and len(queue) >= MAX_QUEUED:
            raise TooManyCalls(f"{MAX_QUEUED} calls of this token wait for a slot already; try again")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            async with asyncio.timeout(None if mine is None else self._queued_for):
                await turn
        except BaseException as error:
            self._leave(mine, turn)
            if isinstance(error, TimeoutError):
                raise TooManyCalls(self._busy(mine)) from None
            raise

    def _leave(self, mine: str | None, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(mine)
        if queue and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[mine]
        if turn.done() and not turn.cancelled() and turn.exception() is None:  # it got a slot as it was cancelled
            self._give_back(mine)

    def _busy(self, mine: str | None) -> str:
        whose = "this token's other calls" if self._held[mine] else "the calls of others"
        return f"quartermaster is busy with {whose}: this one waited {self._queued_for:g} s for a slot; try again"

    def _admits(self, mine: str | None) -> bool:
        taken = self._held.total()
        free = self.size - taken
        if mine is None:
            return free > 0
        return self._held[mine] < min(free, self._slots - (taken - self._held[None]))

    def _give_back(self, mine: str | None) -> None:
        self._held[mine] -= 1
        if not self._held[mine]:
            del self._held[mine]
        while able := [each for each in self._waiting if self._admits(each)]:
            self._admit(able[0])

    def _admit(self, mine: str | None) -> None:
        queue = self._waiting.pop(mine)
        turn = queue.popleft()
        if queue:
            self._waiting[mine] = queue  # last in the order
        if not turn.done():
            self._held[mine] += 1
            turn.set_result(None)
