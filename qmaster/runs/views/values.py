"""Values as Docker and labels have them: times, durations, sizes and cores. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from ...engine.labels import MIB
from ...models.requests import MAX_SECONDS

LONG_AGO = datetime.min.replace(tzinfo=UTC)
NO_TIME = "0001-01-01T00:00:00Z"  # Go's zero time
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)s")


def duration(text: str | None) -> float | None:
    """Return the seconds of a label such as ``1.5s``; None for anything else."""
    found = _DURATION.fullmatch(text or "")
    seconds = float(found[1]) if found else None
    return None if seconds is None or seconds > MAX_SECONDS else seconds  # other clients can set labels


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
    return octets // MIB if octets else None


def cores(nano: int | None) -> float | None:
    """Return Docker's nano CPUs as cores, None for none."""
    return nano / 1e9 if nano else None
