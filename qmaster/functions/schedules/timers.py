"""Timers by name, on a clock that may be set. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

SPARE = 100  # entries of the heap that may be void


class Timers:
    """One timer for each name, at an absolute time."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # an entry is void unless ``_times`` has the same time

    def __len__(self) -> int:
        return len(self._times)

    @property
    def first(self) -> float | None:
        """When the next timer is due, or somewhat earlier; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def get(self, name: str) -> float | None:
        """Return when the timer of a name is due."""
        return self._times.get(name)

    def set(self, name: str, at: float | None) -> None:
        """Set the timer of a name; None: it has none."""
        if at is None:
            self._times.pop(name, None)
            return
        self._times[name] = at
        heapq.heappush(self._heap, (at, name))
        if len(self._heap) > 2 * len(self._times) + SPARE:
            self._heap = [(at, name) for name, at in self._times.items()]
            heapq.heapify(self._heap)

    def set_all(self, at: float) -> None:
        """Set all timers that are later."""
        for name, before in list(self._times.items()):
            self.set(name, min(before, at))

    def take(self, now: float) -> Iterator[str]:
        """Yield the names whose timers are due, and remove these."""
        while self._heap and self._heap[0][0] <= now:
            at, name = heapq.heappop(self._heap)
            if self._times.get(name) == at:
                del self._times[name]
                yield name
