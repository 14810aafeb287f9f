"""The claims of ticks: one config of the swarm for each function with schedules, changed by compare-and-swap.

A claim is a label, written with the index of the config that was read before: of several quartermasters that write at
once one succeeds. Whatever an error says, the nonce in the label tells whose the claim is.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
import structlog

from ...engine import configs as engine_configs
from ...engine.configs import Config, Configs
from ...engine.labels import CRON, CRON_CLAIMS, CRON_CONFIG
from ...events.journal import Journal
from ...models.functions import Version
from ...models.schedules import MAX_SCHEDULES, Schedule, ScheduleView, Times, keys
from ...models.units import rfc3339

AHEAD = 86_400.0  # seconds; what is further in the future was written by a clock that was wrong, and is not believed
KEPT_FOR = 86_400.0  # seconds that the claims of a schedule are kept that the function no longer has
MAX_CLAIMS = 3 * MAX_SCHEDULES  # of a function

log = structlog.get_logger(__name__)


class Claim(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who makes the call of the newest tick of a schedule.

    Attributes:
        tick: seconds since 1970.
        by: the claimant's ``journal.id``.
        nonce: the id of the invocation.
        busy_until: with ``concurrency: forbid``, when the call has ended at the latest; None: it has.
    """

    tick: int
    by: str
    nonce: str
    busy_until: float | None = None

    def is_busy(self, now: float) -> bool:
        """Return whether its call may still wait or run."""
        return self.busy_until is not None and self.busy_until > now and self.tick <= now + AHEAD


Claims = Mapping[str, Claim]  # by the key of the schedule


class Planned(NamedTuple):
    """A schedule of the newest version of a function; ``since``: from when it has been published and not suspended."""

    key: str
    schedule: Schedule
    times: Times
    since: float

    def due(self, claim: Claim | None, now: float) -> int | None:
        """Return the newest tick that is due and not claimed, unless it is older than ``starting_deadline``."""
        if self.schedule.suspend:
            return None
        after = max(now - self.schedule.starting_deadline, self._last(claim, now))
        return self.times.latest(after, now) if after < now else None

    def next(self, claim: Claim | None, now: float) -> int | None:
        """Return the next tick."""
        return None if self.schedule.suspend else self.times.next(max(now, self._last(claim, now)))

    def is_forbidden(self, claim: Claim | None, now: float) -> bool:
        """Return whether the call of an earlier tick forbids another."""
        return self.schedule.concurrency == "forbid" and claim is not None and claim.is_busy(now)

    def view(self, claim: Claim | None, now: float) -> ScheduleView:
        """Return the view, given the newest claim."""
        schedule, following = self.schedule, self.next(claim, now)
        return ScheduleView(
            cron=schedule.cron,
            time_zone=schedule.time_zone,
            concurrency=schedule.concurrency,
            starting_deadline=schedule.starting_deadline,
            suspend=schedule.suspend,
            last=None if claim is None else rfc3339(claim.tick),
            next=None if following is None else rfc3339(following),
        )

    def _last(self, claim: Claim | None, now: float) -> float:
        known = (self.since, claim.tick if claim else 0.0)
        return max((each for each in known if each <= now + AHEAD), default=0.0)


def plan(versions: Sequence[Version]) -> list[Planned]:
    """Return the schedules of a function, given its versions, the newest first."""
    kept = [(_published(each), _by_key(each)) for each in versions]
    planned = []
    for key, schedule in kept[0][1].items() if kept else ():
        since = math.inf
        for published, schedules in kept:
            if key not in schedules or schedules[key].suspend:
                break
            since = min(since, published)
        try:
            planned.append(Planned(key, schedule, schedule.times(), since))
        except ValueError as error:  # this machine does not know the time zone; those that do make the calls
            log.warning("schedule_not_understood", function=versions[0].function, reason=str(error))
    return planned


def find(versions: Sequence[Version], key: str) -> Schedule | None:
    """Return the schedule with a key, of the newest version that has it."""
    return next((found for found in (_by_key(each).get(key) for each in versions) if found is not None), None)


class Ticks:
    """The claims in the swarm, and in the journal those whose calls were made. Belongs to the event loop."""

    def __init__(self, configs: Configs, journal: Journal) -> None:
        self._configs = configs
        self._journal = journal

    async def listing(self) -> dict[str, Claims]:
        """Return the claims of all functions."""
        found = map(engine_configs.read, await self._configs.labelled(CRON))
        return {config.labels[CRON]: claims_of(config) for config in found if _is_own(config)}

    async def read(self, function: str) -> Config | None:
        """Return the config of a function; None if it has none."""
        config = await self._configs.config(CRON_CONFIG + function)
        return config if config is not None and _is_own(config) else None

    async def write(self, function: str, config: Config | None, claims: Claims) -> None:
        """Write the claims, unless somebody has since the config was read.

        Raises:
            HttpError: somebody has; or the engine refused; or this was carried out, and its answer was lost.
        """
        told = {CRON: function, CRON_CLAIMS: msgspec.json.encode(claims).decode()}
        if config is None:
            await self._configs.create(CRON_CONFIG + function, told, function.encode())
        else:
            await self._configs.relabel(config, {**config.labels, **told})

    async def remove(self, config: Config) -> None:
        await self._configs.remove(config.id)

    async def made(self) -> dict[tuple[str, str], int]:
        """Return the newest tick of each schedule whose call was made here, by function and key."""
        query = "SELECT function, key, tick FROM ticks"
        rows = await self._journal.read(lambda db: db.execute(query).fetchall())
        return {(function, key): tick for function, key, tick in rows}

    async def forget(self, function: str) -> None:
        """Forget which calls were made for a function."""
        await self._journal.write(lambda db: db.execute("DELETE FROM ticks WHERE function = ?", (function,)))


def note_made(db: sqlite3.Connection, function: str, key: str, claim: Claim, claimed: Collection[str]) -> None:
    """Note that the call of a tick was made; used in the journal's thread, in the transaction that accepts the call.

    Forgets the schedules of the function without a claim; ``claimed`` are the keys of the others.
    """
    db.execute("INSERT OR REPLACE INTO ticks VALUES (?, ?, ?, ?)", (function, key, claim.tick, claim.nonce))
    query = "DELETE FROM ticks WHERE function = ? AND key != ? AND key NOT IN (SELECT value FROM json_each(?))"
    db.execute(query, (function, key, msgspec.json.encode(list(claimed)).decode()))


def claims_of(config: Config | None) -> dict[str, Claim]:
    """Return the claims in a config."""
    try:
        return msgspec.json.decode((config.labels.get(CRON_CLAIMS) if config else None) or "{}", type=dict[str, Claim])
    except msgspec.MsgspecError as error:
        log.warning("claims_not_understood", config=config.name if config else "", reason=str(error))
        return {}


def pruned(claims: Claims, planned: Sequence[Planned], now: float) -> dict[str, Claim]:
    """Return the claims without those of schedules that the function has not had for long."""
    there = {each.key for each in planned}
    others = {key: each for key, each in claims.items() if key not in there and _is_recent(each, now)}
    newest = sorted(others, key=lambda key: others[key].tick)[-(MAX_CLAIMS - len(there)) :]
    return {key: each for key, each in claims.items() if key in there or key in newest}


def _by_key(version: Version) -> dict[str, Schedule]:
    schedules = version.spec.schedules
    return dict(zip(keys(schedules), schedules, strict=True))


def _is_recent(claim: Claim, now: float) -> bool:
    return claim.tick > now - KEPT_FOR or claim.is_busy(now)


def _is_own(config: Config) -> bool:
    return config.name == CRON_CONFIG + config.labels.get(CRON, "")


def _published(version: Version) -> float:
    try:
        return datetime.fromisoformat(version.published_at).timestamp()
    except ValueError:
        return 0.0
