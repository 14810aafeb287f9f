"""Claims the ticks of schedules that are due, and makes their calls. Belongs to the event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

import msgspec
import structlog

from ...auth.authenticator import Identity
from ...errors import HttpError, JournalUnwritable, NotFound
from ...events.journal import Journal
from ...models.schedules import ScheduleView
from ...models.units import rfc3339
from ..asynchronous.invoker import AsyncInvoker, Order
from ..versions.store import VersionStore
from .claims import Claim, Claims, Planned, Ticks, claims_of, find, note_made, plan, pruned

TRIES = 4  # for one tick, before a pause: each after somebody else's change
ROOT = Identity("root")

log = structlog.get_logger(__name__)


class Claimant:
    """What this quartermaster knows of the claims, and what it claims and calls; when, the scheduler decides.

    Args:
        versions: the functions.
        ticks: the claims.
        journal: whose id is the claimant's, and which must be writable for a claim.
        invoker: makes the calls.
        now: the clock: returns seconds since 1970.
    """

    def __init__(
        self, versions: VersionStore, ticks: Ticks, journal: Journal, invoker: AsyncInvoker, now: Callable[[], float]
    ) -> None:
        self._versions = versions
        self._ticks = ticks
        self._journal = journal
        self._invoker = invoker
        self._now = now
        self._plans: dict[str, list[Planned]] = {}  # by function, as are the next two
        self._claims: dict[str, Claims] = {}  # as they were read last
        self._owed: dict[str, dict[str, Claim]] = {}  # claims of ours whose calls are not made yet, by key
        self._made: dict[tuple[str, str], int] = {}  # function, key → the newest tick whose call was made here
        self._busy: dict[str, str] = {}  # the nonce of a call that forbids another → its function

    def plan(self, function: str) -> bool:
        """Plan the schedules of a function as its newest version has them; return whether there may be work for it."""
        latest = self._versions.latest(function)
        if latest is not None and latest.spec.schedules:
            self._plans[function] = plan(self._versions.versions(function))
        else:
            self._plans.pop(function, None)
        return function in self._plans or function in self._claims

    def views(self, function: str) -> list[ScheduleView]:
        """Return the schedules of a function, as they are planned, with their last and next ticks."""
        now, claims = self._now(), self._claims.get(function, {})
        return [each.view(claims.get(each.key), now) for each in self._plans.get(function, ())]

    def ended(self, invocation_id: str) -> str | None:
        """Note the end of a call; return its function if another tick of its schedule may follow."""
        return self._busy.pop(invocation_id, None)

    def next(self, function: str, now: float) -> float | None:
        """Return when the next tick of a function is."""
        claims = self._claims.get(function, {})
        nexts = [each.next(claims.get(each.key), now) for each in self._plans.get(function, ())]
        return min((each for each in nexts if each is not None), default=None)

    def is_wanted(self, function: str, now: float) -> bool:
        """Return whether there is something to claim, to call or to remove."""
        if function not in self._plans:
            return function in self._claims and self._is_gone(function)
        return function in self._owed or self._may_claim(function, now)

    def owes(self, function: str) -> bool:
        """Return whether calls of our claims could not be made yet."""
        return function in self._owed

    # -- turns -----------------------------------------------------------------------------------------------------

    async def turn(self, function: str, again: bool) -> None:
        """Claim what is due, and make the calls of our claims; remove the claims of a function without schedules.

        Args:
            function: the name.
            again: whether the last turn failed, which the log has.

        Raises:
            HttpError: the claims could not be read or written; some of the calls may be made.
        """
        if function in self._plans:
            await self._claim(function, again)
        else:
            await self._remove(function)

    async def _claim(self, function: str, again: bool) -> None:
        await self._call(function, again)
        for attempt in range(TRIES):
            if not self._may_claim(function, self._now()):
                return
            config = await self._ticks.read(function)
            if config is None:  # the function is new; or it was removed, and its last claims with it
                await self._versions.refresh(function)
                self.plan(function)
            claims = claims_of(config)
            self._take(function, claims)
            await self._call(function, again)
            now = self._now()
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
                await self._call(function, again)
            return

    async def _call(self, function: str, again: bool) -> None:
        """Make the calls of our claims; what cannot be accepted now stays owed."""
        for key, claim in list(self._owed.get(function, {}).items()):
            try:
                is_made = await self._accept(function, key, claim)
            except HttpError as error:
                if not again:
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
        if claim.tick + max(version.spec.max_age, schedule.starting_deadline) < self._now():
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
            return
        if config is not None:
            await self._ticks.remove(config)
        await self._ticks.forget(function)
        for each in (self._claims, self._owed):
            each.pop(function, None)
        self._made = {key: made for key, made in self._made.items() if key[0] != function}

    # -- what is known ---------------------------------------------------------------------------------------------

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

    # -- the start -------------------------------------------------------------------------------------------------

    async def restore(self) -> Iterable[str]:
        """Read the claims and the calls of an earlier process; return the functions that have claims.

        Raises:
            HttpError: try again.
        """
        made, listed = await self._ticks.made(), await self._ticks.listing()
        for function in {function for function, _ in made} - listed.keys():
            await self._ticks.forget(function)
        await self._find_busy(listed)
        self._made = made
        for function, claims in listed.items():
            self._take(function, claims)
        return listed

    async def _find_busy(self, listed: Mapping[str, Claims]) -> None:
        """Note which calls of an earlier process still forbid others."""
        now, mine = self._now(), self._journal.id
        for function, claims in listed.items():
            for claim in claims.values():
                if claim.by == mine and claim.is_busy(now) and not await self._is_over(claim.nonce):
                    self._busy[claim.nonce] = function

    async def _is_over(self, invocation_id: str) -> bool:
        try:
            return (await self._invoker.get(invocation_id, ROOT)).is_over
        except NotFound:
            return True
