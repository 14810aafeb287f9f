"""Calls functions by their schedules: each tick once, however many quartermasters the swarm has.

All wake at a tick; the one whose claim the swarm takes makes the call. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import structlog

from ...errors import HttpError
from ...events.journal import Journal
from ...limiter import FairLimiter, acting_for
from ...models.invocations import InvocationView
from ...models.schedules import ScheduleView
from ..asynchronous.invoker import AsyncInvoker
from ..versions.store import VersionStore
from .claimant import Claimant
from .claims import Ticks
from .timers import Timers

AT_ONCE = 8  # functions whose claims are read or written
FIRST_PAUSE, LAST_PAUSE = 0.5, 10.0  # seconds before a retry, doubled each time
SET_BACK = 1.0  # seconds by which the clock has gone back for all to be looked at: retries would wait for so long

log = structlog.get_logger(__name__)


class Pace(NamedTuple):
    """How time passes.

    Attributes:
        now: the clock: seconds since 1970.
        look_every: the longest time in seconds between two looks at the clock, so that a jump of it is seen.
        spread: the longest delay in seconds of a claim, so that most quartermasters find that of another.
    """

    now: Callable[[], float] = time.time
    look_every: float = 30.0
    spread: float = 0.05


PACE = Pace()


class Scheduler:
    """Decides when the ticks of which functions are claimed and called.

    Args:
        versions: the functions; notify ``versions_changed`` of each change.
        ticks: the claims.
        journal: whose id is the claimant's, and which must be writable for a claim.
        invoker: makes the calls; notify ``ended`` of each end.
        pace: how time passes.
    """

    def __init__(
        self, versions: VersionStore, ticks: Ticks, journal: Journal, invoker: AsyncInvoker, pace: Pace = PACE
    ) -> None:
        self._versions = versions
        self._claimant = Claimant(versions, ticks, journal, invoker, pace.now)
        self._pace = pace
        self._changed: set[str] = set()  # functions to plan again
        self._timers = Timers()  # when each function is to be looked at
        self._turns: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()  # functions to look at once more after their turn
        self._pauses: dict[str, float] = {}  # before the next retry
        self._stopping = False
        self._looked = 0.0  # the clock at the last look
        self._limiter = FairLimiter(AT_ONCE)
        self._wake = asyncio.Event()

    # -- queries and news ------------------------------------------------------------------------------------------

    def views(self, function: str) -> list[ScheduleView]:
        """Return the schedules of a function with their last and next ticks."""
        if function in self._changed:
            self._changed.discard(function)
            self._plan(function)
        return self._claimant.views(function)

    def versions_changed(self, function: str) -> None:
        """Schedule a look at the schedules of a function."""
        self._changed.add(function)
        self._wake.set()

    def ended(self, view: InvocationView, kind: str) -> None:
        """Note the end of an invocation; another tick of its schedule may follow."""
        function = self._claimant.ended(view.id)
        if function is not None:
            self._wake_for(function, self._pace.now())

    def stop(self) -> None:
        """Claim nothing more; other quartermasters do."""
        self._stopping = True

    # -- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make the calls that are due until cancelled; the first are those that an earlier process claimed."""
        try:
            await self._versions.listed.wait()
            self._changed.update(self._versions.names())
            await self._plan_changed()
            await self._restore()
            while True:
                self._wake.clear()
                await self._plan_changed()
                await self._look()
                await self._sleep()
        finally:
            for task in self._turns.values():
                task.cancel()

    async def _look(self) -> None:
        """Look at the clock, and begin what is due."""
        now = self._pace.now()
        if now < self._looked - SET_BACK:
            self._timers.set_all(now)
        self._looked = now
        for function in () if self._stopping else self._timers.take(now):
            self._start_turn(function, now)
            await asyncio.sleep(0)  # to find a tick that is years away takes milliseconds

    async def _sleep(self) -> None:
        left, first = self._pace.look_every, self._timers.first
        if first is not None and not self._stopping:
            left = min(left, max(0.0, first - self._pace.now()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._wake.wait()

    def _wake_for(self, function: str, at: float | None) -> None:
        """Look at a function then; None: never."""
        self._timers.set(function, at)
        if at is not None and at == self._timers.first:
            self._wake.set()

    async def _plan_changed(self) -> None:
        for function in sorted(self._changed):
            self._changed.discard(function)
            self._plan(function)
            await asyncio.sleep(0)  # to read 20 long expressions, and the inputs of 10 versions, takes 8 ms
        self._changed = set(self._changed)  # a set does not shrink by itself

    def _plan(self, function: str) -> None:
        """Plan the schedules of a function as its newest version has them."""
        self._wake_for(function, self._pace.now() if self._claimant.plan(function) else None)

    def _start_turn(self, function: str, now: float) -> None:
        """Begin the turn of a function where there is something to do; else look again at its next tick."""
        if function in self._turns:
            self._again.add(function)
        elif self._claimant.is_wanted(function, now):
            task = self._turns[function] = asyncio.create_task(self._run_turn(function))
            task.add_done_callback(partial(self._turned, function))
        else:
            self._pauses.pop(function, None)
            self._wake_for(function, self._claimant.next(function, now))

    # -- the turn of a function ------------------------------------------------------------------------------------

    async def _run_turn(self, function: str) -> None:
        """Claim and call what is due, and note the pause before the next try where that failed."""
        latest = self._versions.latest(function)
        try:
            with acting_for(latest.owner if latest else None):
                await asyncio.sleep(random.uniform(0, self._pace.spread))  # noqa: S311 - jitter
                async with self._limiter.slot():
                    await self._claimant.turn(function, again=function in self._pauses)
            is_done = not self._claimant.owes(function)
        except HttpError as error:
            if function not in self._pauses:
                log.warning("schedule_retrying", function=function, reason=str(error))
            is_done = False
        except Exception:  # the top of a task
            log.exception("schedule_failed", function=function)
            is_done = False
        if is_done:
            self._pauses.pop(function, None)
        else:
            self._pauses[function] = min(2 * self._pauses.get(function, FIRST_PAUSE / 2), LAST_PAUSE)

    def _turned(self, function: str, task: asyncio.Task[None]) -> None:
        del self._turns[function]
        now, pause = self._pace.now(), self._pauses.get(function)
        times = [self._timers.get(function), self._claimant.next(function, now)]  # the first was set during the turn
        times += [now if function in self._again else None, None if pause is None else now + pause]
        self._again.discard(function)
        self._wake_for(function, min((each for each in times if each is not None), default=None))

    # -- the start -------------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        """Read the claims and the calls of an earlier process; try again until that succeeds."""
        pause = FIRST_PAUSE
        while True:
            try:
                self._changed.update(await self._claimant.restore())
                return
            except HttpError as error:
                log.info("schedules_retrying", reason=str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
