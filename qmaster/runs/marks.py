"""Pure: how far each stream of each task was told, so that what is read again is not told again.

A message has no number, only a time, and the parts of a long line have the same: so those of the last time are counted.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

Key = tuple[str, str]


class Marks:
    """Of each origin (a task or a container) and stream: the last time (RFC 3339, as Docker writes it)."""

    def __init__(self) -> None:
        self._marks: dict[Key, tuple[str, int]] = {}
        self._again: dict[Key, int] = {}  # messages of the last time that are still to be skipped

    def __bool__(self) -> bool:
        return bool(self._marks)

    def fresh(self, origin: str, stream: str, time: str) -> bool:
        """Whether a message is new; then it counts as told."""
        key = (origin, stream)
        last, count = self._marks.get(key, ("", 0))
        if time < last:  # a node that was cut off and comes back sends all again
            self._again[key] = count
            return False
        if time > last:
            self._again.pop(key, None)
            self._marks[key] = (time, 1)
            return True
        left = self._again.get(key, 0)
        if left:
            self._again[key] = left - 1
            return False
        self._marks[key] = (last, count + 1)
        return True

    def rewind(self) -> None:
        """What comes now may have been told already."""
        self._again = {key: count for key, (_, count) in self._marks.items()}

    def close(self, origin: str, streams: Collection[str] = ("stdout", "stderr")) -> None:
        """What an origin said before its last mark is not wanted, whatever the stream."""
        times = [self._marks[origin, stream][0] for stream in streams if (origin, stream) in self._marks]
        for stream in streams:
            if times and (origin, stream) not in self._marks:
                self._marks[origin, stream] = (max(times), 0)

    def earliest(self, origins: Collection[str] = ()) -> float | None:
        """The earliest mark of these origins, or of all, in seconds since 1970; None where there is none."""
        times = [time for (origin, _), (time, _) in self._marks.items() if time and (not origins or origin in origins)]
        return _seconds(min(times)) if times else None


def _seconds(time: str) -> float:
    whole, _, rest = time.partition(".")
    zone = rest.lstrip("0123456789") or "Z"
    return datetime.fromisoformat(f"{whole}.{rest[:6].ljust(6, '0')}{zone}").timestamp()
