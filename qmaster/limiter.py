"""How many calls of a kind run at once, with a fair share for each owner. Belongs to the event loop.

The owner is whose token asked, or whose run it is that is being ended. What nobody asked for (the reconciler's looks, a
commit) has no owner, and slots that no owner can take.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from functools import partial

from .errors import TooManyCalls

MAX_QUEUED = 1000  # calls of one owner
QUEUED_FOR = 25.0  # seconds

_owner: ContextVar[str | None] = ContextVar("owner", default=None)


def owner() -> str | None:
    """For whom this task works now."""
    return _owner.get()


def act_for(owner: str | None) -> None:
    """Work for this owner from now on, in this task and those that it begins."""
    _owner.set(owner)


@contextlib.contextmanager
def acting_for(owner: str | None) -> Iterator[None]:
    """Work for this owner meanwhile."""
    before = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(before)


class FairLimiter:
    """Gives out slots.

    An owner has another slot only while it holds fewer than are free: one alone has half of them, and whoever comes
    next finds one. Those who wait have their turn owner by owner, whatever the length of their queues.

    Args:
        slots: for all owners together.
        spare: more, which only work without an owner takes; it may take any.
        queued_for: seconds that a call with an owner waits at most.
    """

    def __init__(self, slots: int, spare: int = 0, queued_for: float = QUEUED_FOR) -> None:
        self._slots = slots
        self._spare = spare
        self._queued_for = queued_for
        self._held: Counter[str | None] = Counter()
        self._waiting: dict[str | None, deque[asyncio.Future[None]]] = {}  # the next owner in turn comes first

    @property
    def size(self) -> int:
        """How many slots there are."""
        return self._slots + self._spare

    async def take(self) -> Callable[[], None]:
        """Wait for a slot; return what gives it back, to be called once.

        Raises:
            TooManyCalls: so many of the owner's wait already, or it has waited too long. That tells nothing of
                whatever was to be called.
        """
        mine = _owner.get()
        if mine in self._waiting or not self._admits(mine):
            await self._turn(mine)
        else:
            self._held[mine] += 1
        return partial(self._give_back, mine)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot meanwhile; see ``take``."""
        give_back = await self.take()
        try:
            yield
        finally:
            give_back()

    def refuse(self, error: Callable[[], Exception]) -> None:
        """Let nobody wait any longer: each has such an error."""
        for queue in list(self._waiting.values()):
            for turn in list(queue):
                if not turn.done():
                    turn.set_exception(error())

    async def _turn(self, mine: str | None) -> None:
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
        if turn.done() and not turn.cancelled() and turn.exception() is None:  # its turn came as it left
            self._give_back(mine)

    def _busy(self, mine: str | None) -> str:
        whose = "this token's other calls" if self._held[mine] else "the calls of others"
        return f"quartermaster is busy with {whose}: this one waited {self._queued_for:g} s for a slot; try again"

    def _admits(self, mine: str | None) -> bool:
        everybodys = self._held.total()
        free = self.size - everybodys
        if mine is None:
            return free > 0
        return self._held[mine] < min(free, self._slots - (everybodys - self._held[None]))

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
            self._waiting[mine] = queue  # behind all others
        if not turn.done():
            self._held[mine] += 1
            turn.set_result(None)
