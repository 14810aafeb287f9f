"""Units: which numbers are seconds or MiB; durations, sizes and times as strings and as Docker has them.

Pure but for the clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

MAX_TEXT = 64  # characters
LONG_AGO = datetime.min.replace(tzinfo=UTC)
NO_TIME = "0001-01-01T00:00:00Z"  # Go's zero time
_SECONDS = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
_PARTS_OF_A_SECOND = {"ms": 10**3, "us": 10**6, "µs": 10**6, "ns": 10**9}
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}  # of 1024 bytes
_MIB = 1024 * 1024

# Those of the Compose specification; each is anchored by its use.
DURATION = r"([0-9]{1,12}(\.[0-9]{1,9})?(ms|us|µs|ns|w|d|h|m|s))+"
SIZE = r"[0-9]{1,15}(\.[0-9]{1,9})? ?([kKmMgGtT][iI]?[bB]?|[bB])"
_DURATION, _SIZE = re.compile(DURATION), re.compile(SIZE)
_PART = re.compile(r"([0-9.]{1,22})([a-zµ]{1,2})")
_PLURAL = re.compile(r"s\b")
_AMOUNT = re.compile(r"([0-9.]{1,25}) ?([kmgt]?)")


def seconds(text: str) -> float | None:
    """Return the seconds of a duration such as ``30s`` or ``1m30s``; None if it is none."""
    if len(text) > MAX_TEXT or not _DURATION.fullmatch(text):
        return None
    return float(sum(_part(number, unit) for number, unit in _PART.findall(text)))


def rfc3339(at: float | None = None) -> str:
    """Return a time in seconds since 1970, or the current time, as the API shows it, in UTC."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return moment.isoformat().replace("+00:00", "Z")


def parse_time(text: str | None) -> datetime | None:
    """Parse Docker's RFC 3339 with up to nine decimals; return None for no time and for Go's zero time."""
    if not text or text == NO_TIME:
        return None
    whole, _, rest = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{rest[:6].ljust(6, '0')}").replace(tzinfo=UTC)


def present(text: str | None) -> str | None:
    """Return Docker's time unchanged, None for Go's zero time."""
    return None if not text or text == NO_TIME else text


def mib(octets: int | None) -> int | None:
    """Return bytes as MiB, None for none."""
    return octets // _MIB if octets else None


def cores(nano: int | None) -> float | None:
    """Return Docker's nano CPUs as cores, None for none."""
    return nano / 1e9 if nano else None


def mebibytes(text: str) -> int | None:
    """Return the MiB of a size such as ``512m``, ``64MB`` or ``1.5Gi``, rounded up; None if it is none.

    As for Docker and Compose, each unit is 1024 times the next smaller one.
    """
    if len(text) > MAX_TEXT or not _SIZE.fullmatch(text):
        return None
    number, unit = _AMOUNT.findall(text.lower())[0]
    octets = Decimal(number) * Decimal(1024) ** _POWERS[unit]
    return math.ceil(octets / _MIB)


def _part(number: str, unit: str) -> Decimal:
    return Decimal(number) * _SECONDS.get(unit, 0) or Decimal(number) / _PARTS_OF_A_SECOND.get(unit, 1)


class Unit(NamedTuple):
    """A unit of numbers.

    Attributes:
        name: as it stands behind a number.
        read: returns the number of a string, None if the string is none.
        example: of such a string, in words.
        pattern: of such strings.
    """

    name: str
    read: Callable[[str], float | None] = lambda text: None
    example: str = ""
    pattern: str = ""


SECONDS = Unit("seconds", seconds, "a duration such as 1m30s", DURATION)
MIB = Unit("MiB", mebibytes, "a size such as 512m", SIZE)
# The unit of each field that is a number, but of those whose name says what they count.
UNITS: Mapping[str, Unit] = {
    **dict.fromkeys(("timeout", "ttl", "wait", "restart_delay", "restart_window", "stop_grace_period"), SECONDS),
    **dict.fromkeys(("idle", "init_timeout", "max_age", "retry_delay", "starting_deadline", "max_ttl"), SECONDS),
    **dict.fromkeys(("memory", "shm_size", "max_memory"), MIB),
    **dict.fromkeys(("cpus", "max_cpus"), Unit("cores")),
    **dict.fromkeys(("pids_limit", "max_pids"), Unit("PIDs")),
    **dict.fromkeys(("queue", "concurrency"), Unit("calls")),
    "max_rate": Unit("runs a minute"),
}


def numbers(document: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """Return a document with the durations and sizes of these fields as numbers; other strings stay as they are."""
    return {name: _number(name, value) if name in fields else value for name, value in document.items()}


def amount(number: str, unit: Unit) -> str:
    """Return a number with its unit, such as ``1 second``."""
    return f"{number} {_PLURAL.sub('', unit.name, count=1) if number == '1' else unit.name}"


def _number(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name not in UNITS:
        return value
    read = UNITS[name].read(value)
    return value if read is None else read
