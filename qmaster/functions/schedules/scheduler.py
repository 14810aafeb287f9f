"""Calls functions by their schedules: each tick once, however many quartermasters the swarm has.

All wake at a tick; the one whose claim the swarm takes makes the call. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

import msgspec
import structlog

from ...auth.authenticator import Identity
from ...errors import HttpError, JournalUnwritable, NotFound
from ...events.journal import Journal
from ...limiter import FairLimiter, acting_for
from ...models.invocations import InvocationView
from ...models.schedules import ScheduleView
from ...models.units import rfc3339
from ..asynchronous.invoker import AsyncInvoker, Order
from ..versions.store import VersionStore
from .claims import Claim, Claims, Planned, Ticks, claims_of, find, note_made, plan, pruned
from .timers import Timers

AT_ONCE = 8  # functions whose claims are read or written
TRIES = 4  # for one tick, before a pause: each after somebody else's change
FIRST_PAUSE, LAST_PAUSE = 0.5, 10.0  # seconds before a retry, doubled each time
SET_BACK = 1.0  # seconds by which the clock has gone back for all to be looked at: retries would wait for so long
ROOT = Identity("root")

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
    """Claims ticks and makes their calls.

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
        self._ticks = ticks
        self._journal = journal
        self._invoker = invoker
        self._pace = pace
        self._plans: dict[str, list[Planned]] = {}  # by function, as are the next two
        self._claims: dict[str, Claims] = {}  # as they were read last
        self._owed: dict[str, dict[str, Claim]] = {}  # claims of ours whose calls are not made yet, by key
        self._made: dict[tuple[str, str], int] = {}  # function, key → the newest tick whose call was made here
        self._busy: dict[str, str] = {}  # the nonce of a call that forbids another → its function
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
        now, claims = self._pace.now(), self._claims.get(function, {})
        return [each.view(claims.get(each.key), now) for each in self._plans.get(function, ())]

    def versions_changed(self, function: str) -> None:
        """Schedule a look at the schedules of a function."""
        self._changed.add(function)
        self._wake.set()

    def ended(self, view: InvocationView, kind: str) -> None:
        """Note the end of an invocation; another tick of its schedule may follow."""
        function = self._busy.pop(view.id, None)
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

    def _plan(self, function: str) -> None:
        """Plan the schedules of a function as its newest version has them."""
        latest = self._versions.latest(function)
        if latest is not None and latest.spec.schedules:
            self._plans[function] = plan(self._versions.versions(function))
        else:
            self._plans.pop(function, None)
        self._wake_for(function, self._pace.now() if function in self._plans or function in self._claims else None)

    def _next(self, function: str, now: float) -> float | None:
        """Return when the next tick of a function is."""
        claims = self._claims.get(function, {})
        nexts = [each.next(claims.get(each.key), now) for each in self._plans.get(function, ())]
        return min((each for each in nexts if each is not None), default=None)

    def _start_turn(self, function: str, now: float) -> None:
        """Begin the turn of a function where there is something to do; else look again at its next tick."""
        if function in self._turns:
            self._again.add(function)
        elif self._is_wanted(function, now):
            task = self._turns[function] = asyncio.create_task(self._run_turn(function))
            task.add_done_callback(partial(self._turned, function))
        else:
            self._pauses.pop(function, None)
            self._wake_for(function, self._next(function, now))

    def _is_wanted(self, function: str, now: float) -> bool:
        """Return whether there is something to do."""
        if function not in self._plans:
            return function in self._claims and self._is_gone(function)
        return function in self._owed or self._may_claim(function, now)

    def _may_claim(self, function: str, now: float) -> bool:
        """Return whether the claims are to be changed, by what is known of them: for a tick, or an end of a call."""
        claims, owed = self._claims.get(function, {}), self._owed.get(function, {})
        if any(self._has_ended(claim, now) for key, claim in claims.items() if key not in owed):
            return True
        free = (each for each in self._plans.get(function, ()) if each.key not in owed)
        ready = (each for each in free if each.due(claims.get(each.key), now) is not None)
        return any(not self._runs_here(each, claims.get(each.key), now) for each in ready)

    def _runs_here(self, planned: Planned, claim: Claim | None, now: float) -> bool:
        """Return whether a call forbids the next one, and its end will be told here; those of others may have ended."""
        return claim is not None and planned.is_forbidden(claim, now) and claim.nonce in self._busy

    def _is_gone(self, function: str) -> bool:
        """Return whether a function has no schedules; of one that needs a newer quartermaster this is not known."""
        latest = self._versions.latest(function)
        return not latest.spec.schedules if latest else not self._versions.numbers(function)

    def _has_ended(self, claim: Claim, now: float) -> bool:
        """Return whether a claim of ours says that its call still runs, and it does not."""
        return claim.by == self._journal.id and claim.is_busy(now) and claim.nonce not in self._busy

    # -- the turn of a function ------------------------------------------------------------------------------------

    async def _run_turn(self, function: str) -> None:
        """Claim and call what is due, and note the pause before the next try where that failed."""
        latest = self._versions.latest(function)
        try:
            with acting_for(latest.owner if latest else None):
                await asyncio.sleep(random.uniform(0, self._pace.spread))  # noqa: S311 - jitter
                async with self._limiter.slot():
                    await (self._turn(function) if function in self._plans else self._remove(function))
            is_done = function not in self._owed
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
        times = [self._timers.get(function), self._next(function, now)]  # the first was set during the turn
        times += [now if function in self._again else None, None if pause is None else now + pause]
        self._again.discard(function)
        self._wake_for(function, min((each for each in times if each is not None), default=None))

    async def _turn(self, function: str) -> None:
        """Claim what is due, and make the calls of our claims.

        Raises:
            HttpError: the claims could not be read or written; some of the calls may be made.
        """
        await self._call(function)
        for attempt in range(TRIES):
            if not self._may_claim(function, self._pace.now()):
                return
            config = await self._ticks.read(function)
            if config is None:  # the function is new; or it was removed, and its last claims with it
                await self._versions.refresh(function)
                self._plan(function)
            claims = claims_of(config)
            self._take(function, claims)
            await self._call(function)
            now = self._pace.now()
            freed = self._freed(function, claims, now)
            mine = self._due(function, {**claims, **freed}, now)
            if not (mine or freed):
                return
            written = pruned({**claims, **freed, **mine}, self._plans.get(function, ()), now)
            try:
                await self._ticks.write(function, config, written)
            except HttpError as error:  # read it again: whose the claim is, the nonce tells
                log.debug("claim_open", function=function, reason=str(error))
                if attempt == TRIES - 1:
                    raise
                continue
            self._know(function, written)
            if mine:
                self._owed.setdefault(function, {}).update(mine)
                await self._call(function)
            return

    def _take(self, function: str, claims: Claims) -> None:
        """Take claims that were read; those of ours without a call are owed."""
        self._know(function, claims)
        for key, claim in claims.items():
            if claim.by == self._journal.id and claim.tick > self._made.get((function, key), -1):
                self._owed.setdefault(function, {}).setdefault(key, claim)

    def _know(self, function: str, claims: Claims) -> None:
        """Note the claims as they are in the swarm; of those that are gone, it does not matter what was made."""
        for key in self._claims.get(function, {}).keys() - claims.keys():
            self._made.pop((function, key), None)
        self._claims[function] = claims

    def _due(self, function: str, claims: Claims, now: float) -> dict[str, Claim]:
        """Return new claims for the ticks that are due.

        Raises:
            JournalUnwritable: their calls could not be kept, so another quartermaster should make them.
        """
        latest, owed, found = self._versions.latest(function), self._owed.get(function, {}), {}
        if latest is None:
            return {}
        longest = latest.spec.max_age + latest.spec.timeout  # tried again until max_age, each time for timeout
        for each in self._plans.get(function, ()):
            claim = claims.get(each.key)
            tick = each.due(claim, now)
            if tick is not None and each.key not in owed and not each.is_forbidden(claim, now):
                until = now + longest if each.schedule.concurrency == "forbid" else None
                found[each.key] = Claim(tick=tick, by=self._journal.id, nonce=self._invoker.new_id(), busy_until=until)
        if found and self._journal.trouble is not None:
            raise JournalUnwritable(f"the journal cannot be written: {self._journal.trouble}")
        return found

    def _freed(self, function: str, claims: Claims, now: float) -> dict[str, Claim]:
        """Return the claims of ours whose calls have ended, without their time."""
        owed = self._owed.get(function, {})
        ended = {key: each for key, each in claims.items() if key not in owed and self._has_ended(each, now)}
        return {key: msgspec.structs.replace(each, busy_until=None) for key, each in ended.items()}

    async def _call(self, function: str) -> None:
        """Make the calls of our claims; what cannot be accepted now stays owed."""
        for key, claim in list(self._owed.get(function, {}).items()):
            try:
                is_made = await self._accept(function, key, claim)
            except HttpError as error:
                if function not in self._pauses:
                    log.warning("tick_retrying", function=function, tick=rfc3339(claim.tick), reason=str(error))
                continue
            self._made[function, key] = claim.tick
            owed = self._owed[function]
            del owed[key]
            if not owed:
                del self._owed[function]
            if is_made:
                log.info("tick_called", function=function, tick=rfc3339(claim.tick), invocation=claim.nonce)
            else:
                log.warning("tick_dropped", function=function, tick=rfc3339(claim.tick))

    async def _accept(self, function: str, key: str, claim: Claim) -> bool:
        """Make the call of a claim; return False where it is too old, or there is no such function or schedule."""
        version, schedule = self._versions.latest(function), find(self._versions.versions(function), key)
        if version is None or schedule is None:
            return False
        if claim.tick + max(version.spec.max_age, schedule.starting_deadline) < self._pace.now():
            return False
        order = Order(
            id=claim.nonce,
            function=function,
            qualifier=None,
            owner=version.owner,
            payload=schedule.payload(),
            tick=rfc3339(claim.tick),
        )
        if claim.busy_until is not None:
            self._busy[claim.nonce] = function  # before its end can be told
        try:
            claimed = list(self._claims.get(function, {}))
            await self._invoker.accept(version, order, lambda db: note_made(db, function, key, claim, claimed))
        except BaseException as error:
            self._busy.pop(claim.nonce, None)
            if isinstance(error, HttpError) and error.status < HTTPStatus.TOO_MANY_REQUESTS:
                log.warning("tick_refused", function=function, reason=str(error))  # a later try has the same answer
                return False
            raise
        return True

    async def _remove(self, function: str) -> None:
        """Remove the claims of a function that has no schedules; whoever read them before removes no newer ones."""
        config = await self._ticks.read(function)
        await self._versions.refresh(function)
        if not self._is_gone(function):
            self.versions_changed(function)
            return
        if config is not None:
            await self._ticks.remove(config)
        await self._ticks.forget(function)
        for each in (self._claims, self._owed):
            each.pop(function, None)
        self._made = {key: made for key, made in self._made.items() if key[0] != function}

    # -- the start -------------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        """Read the claims and the calls of an earlier process; try again until that succeeds."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._read_all()
            except HttpError as error:
                log.info("schedules_retrying", reason=str(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _read_all(self) -> None:
        made, listed = await self._ticks.made(), await self._ticks.listing()
        for function in {function for function, _ in made} - listed.keys():
            await self._ticks.forget(function)
        await self._find_busy(listed)
        self._made = made
        for function, claims in listed.items():
            self._take(function, claims)
        self._changed.update(listed)

    async def _find_busy(self, listed: Mapping[str, Claims]) -> None:
        """Note which calls of an earlier process still forbid others."""
        now, mine = self._pace.now(), self._journal.id
        for function, claims in listed.items():
            for claim in claims.values():
                if claim.by == mine and claim.is_busy(now) and not await self._is_over(claim.nonce):
                    self._busy[claim.nonce] = function

    async def _is_over(self, invocation_id: str) -> bool:
        try:
            return (await self._invoker.get(invocation_id, ROOT)).is_over
        except NotFound:
            return True
