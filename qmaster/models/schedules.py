"""Schedules of a function: their fields, checked, and the times at which they are due. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Meta, Struct

from .responses import Time
from .validation import quote

MAX_SCHEDULES = 20  # of a function
MAX_CRON = 255  # characters
MAX_ZONE = 64
MAX_DEADLINE = 7 * 86_400  # seconds
MAX_WAIT = 3653 * 86_400  # seconds until the first tick: to find one that is further away takes milliseconds
FIELDS = "five fields: minute, hour, day of the month, month, day of the week; or a word such as @hourly"
# cronsim does not know the words of crontab(5).
WORDS: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
# What to use instead of a word of Kubernetes or of swarm-cronjob, in lower case without - and _.
INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("schedule", "expression", "rate", "interval", "every"), "use cron, such as */5 * * * *"),
    **dict.fromkeys(("timezone", "tz"), "use time_zone, such as Europe/Berlin"),
    **dict.fromkeys(("concurrencypolicy", "skiprunning"), "use concurrency: allow or forbid"),
    **dict.fromkeys(("startingdeadlineseconds", "deadline", "window"), "use starting_deadline: seconds"),
    **dict.fromkeys(("suspended", "enable", "enabled", "disabled", "paused"), "use suspend: true or false"),
    **dict.fromkeys(("payload", "data", "body", "event"), "use input: any JSON value"),
}
_HOURS_2, _HOURS_26, _DAYS_40 = 2 * 3600, 26 * 3600, 40 * 86_400
_OF_MACHINE = ("localtime", "posixrules")  # files beside the zones, which differ from one machine to the next
_OTHER_SECONDS = ("posix/", "right/")  # the second of them counts leap seconds
_CRON = re.compile(r"[0-9a-z*,/#\- ]+")

Concurrency = Literal["allow", "forbid"]
Cron = Annotated[str, Meta(min_length=1, max_length=MAX_CRON)]
Zone = Annotated[str, Meta(min_length=1, max_length=MAX_ZONE)]
Deadline = Annotated[float, Meta(ge=1, le=MAX_DEADLINE)]


class Schedule(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """When a function is called, and with what.

    Attributes:
        cron: five fields, or a word such as ``@hourly``.
        time_zone: of the IANA database.
        input: any JSON value.
        concurrency: ``forbid``: not while the call of an earlier tick waits or runs.
        starting_deadline: seconds after a tick in which its call may still be made.
        suspend: no calls.
    """

    cron: Cron
    time_zone: Zone = "UTC"
    input: Any = {}
    concurrency: Concurrency = "allow"
    starting_deadline: Deadline = 300.0
    suspend: bool = False

    def check(self) -> None:
        """Check what is to be published; time zones of a published one may be unknown to another machine.

        Raises:
            ValueError: a field is wrong; the message names it.
        """
        if not _has_ticks(_fields(self.cron), self.time_zone):
            raise ValueError(f"cron: no day within ten years is one of {quote(self.cron)}")

    def times(self) -> Times:
        """Return the times at which it is due.

        Raises:
            ValueError: a field is wrong; the message names it.
        """
        return Times(_fields(self.cron), _zone(self.time_zone))

    def payload(self) -> bytes:
        """Return the body of its calls."""
        return msgspec.json.encode(self.input)


class ScheduleView(Struct, frozen=True, kw_only=True):
    """A schedule of a function, with its ticks as this quartermaster knows them; ``spec`` has its input."""

    cron: str
    time_zone: str
    concurrency: Concurrency
    starting_deadline: float
    suspend: bool
    last: Time | None
    next: Time | None


class Times:
    """The ticks of a cron expression in a time zone, in whole seconds since 1970.

    Debian's rules hold where the clocks change: a time that is left out is due at once after the change, and one that
    comes twice is due the first time. Those whose hour or minute begins with ``*`` are due at each such moment.
    """

    def __init__(self, fields: str, zone: tzinfo) -> None:
        self._fields = fields
        self._zone = zone
        self._gap: tuple[float, float] = (0.0, 0.0)  # no tick is after the first and before the second, which is one
        self._from(0)

    def after(self, moment: float) -> Iterator[int]:
        """Yield the ticks after a moment, in order."""
        for tick in self._from(moment):
            at = int(tick.timestamp())
            if at > moment:  # in an hour that comes twice cronsim begins with its first time
                yield at

    def next(self, moment: float) -> int | None:
        """Return the first tick after a moment; None if there is none within 50 years."""
        begin, tick = self._gap
        if not begin <= moment < tick:
            tick = next(self.after(moment), math.inf)
            self._gap = (moment, tick)
        return None if tick == math.inf else int(tick)

    def latest(self, after: float, until: float) -> int | None:
        """Return the newest tick later than ``after``, and not later than ``until``."""
        first = self.next(after)
        if first is None or first > until:
            return None
        # Of a schedule with many ticks the first look finds one; one with few has few in a longer time too.
        for back in (_HOURS_2, _HOURS_26, _DAYS_40, until - after):
            begin = max(after, until - back)
            found = None
            for tick in self.after(begin):
                if tick > until:
                    break
                found = tick
            if found is not None:
                return found
        return None

    def _from(self, moment: float) -> CronSim:
        try:
            return CronSim(self._fields, datetime.fromtimestamp(moment, self._zone))
        except CronSimError as error:
            raise ValueError(f"cron: {str(error).lower()} in {quote(self._fields)}; expected {FIELDS}") from None


def keys(schedules: Iterable[Schedule]) -> list[str]:
    """Return a key for each schedule: the same for the same times and input, numbered where there are equal ones."""
    given: dict[str, int] = {}
    made = []
    for each in schedules:
        told = msgspec.json.encode([_spelt(each.cron), each.time_zone, each.input], order="deterministic")
        key = hashlib.sha256(told).hexdigest()[:16]
        given[key] = given.get(key, 0) + 1
        made.append(key if given[key] == 1 else f"{key}-{given[key]}")
    return made


@lru_cache(maxsize=1024)  # it takes up to 12 ms to find that there is no tick
def _has_ticks(fields: str, time_zone: str) -> bool:
    now = datetime.now(UTC).timestamp()
    tick = Times(fields, _zone(time_zone)).next(now)
    return tick is not None and tick < now + MAX_WAIT


def _fields(cron: str) -> str:
    """Return the five fields of an expression.

    Raises:
        ValueError: it has more or fewer, or is no word of crontab(5).
    """
    text = _spelt(cron)
    if text.startswith("@"):
        raise ValueError(f"cron: expected {FIELDS}; got {quote(cron)}; known: {', '.join(WORDS)}")
    count = len(text.split())
    if "tz=" in text:
        raise ValueError("cron: expected no time zone; use time_zone, such as Europe/Berlin")
    if count == 6:  # as cronsim reads them, the first are seconds
        raise ValueError(f"cron: seconds are not supported; expected {FIELDS}; got {quote(cron)}")
    if count != 5 or not _CRON.fullmatch(text):
        raise ValueError(f"cron: expected {FIELDS}; got {quote(cron)}")
    return text


def _spelt(cron: str) -> str:
    """Return an expression with five fields in one spelling."""
    text = " ".join(cron.split()).lower()
    return WORDS.get(text, text)


def _zone(name: str) -> tzinfo:
    if name in ("UTC", "Etc/UTC"):
        return UTC
    try:
        if name in _OF_MACHINE or name.startswith(_OTHER_SECONDS):
            raise ValueError(name)
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):  # no such zone; a folder of zones; a path
        raise ValueError(f"time_zone: expected a name such as Europe/Berlin or UTC; got {quote(name)}") from None
