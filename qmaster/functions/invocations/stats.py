"""Calls a minute of each function, their errors and their durations. Belongs to the event loop."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...models.stats import FunctionNumbers
from ...runs.minutes import Series, SeriesByName
from .invocation import Ended

MOST_FUNCTIONS = 1000  # 26 KB each, where there are calls in every hour
CALLS, ERRORS = range(2)


class CallStats:
    """Numbers of each minute of the last day, of the calls that this quartermaster has made.

    Args:
        is_there: whether a function is published.
        clock: seconds since 1970.
    """

    def __init__(self, is_there: Callable[[str], bool], clock: Callable[[], float] = time.time) -> None:
        self._is_there = is_there
        self._clock = clock
        self._functions = SeriesByName(lambda: Series(2, 1), MOST_FUNCTIONS)

    def call(self, ended: Ended) -> None:
        """Count a call that is over; not one that ends after the function was removed."""
        if not self._is_there(ended.version.function):
            return
        minute, series = int(self._clock()) // 60, self._functions.use(ended.version.function)
        series.count(minute, CALLS)
        if ended.outcome != "ok":
            series.count(minute, ERRORS)
        if ended.duration is not None:
            series.observe(minute, 0, ended.duration)

    def versions_changed(self, name: str) -> None:
        """Hear of a function's new, or removed, versions: one of the same name may be published by another."""
        if not self._is_there(name):
            self._functions.drop(name)

    def tick(self) -> None:
        """Reduce the minutes that are over. Call it once a minute."""
        now = int(self._clock()) // 60
        self._functions.settle(now)
        self._functions.forget(now)

    def most_called(self, first: int, minutes: int, sees: Callable[[str], bool], most: int) -> list[str]:
        """Return the names of the functions that were called in these minutes, by name: at most ``most``, the busiest.

        Args:
            first: the first minute, since 1970.
            minutes: how many.
            sees: whether the caller sees a function.
            most: how many functions.
        """
        seen = ((self._series(name).total(CALLS, first, minutes), name) for name in self._functions if sees(name))
        return sorted(name for calls, name in sorted(seen, reverse=True)[:most] if calls)

    def numbers(self, name: str, first: int, minutes: int) -> FunctionNumbers:
        """Return the numbers of a function in these minutes."""
        series = self._series(name)
        p50, p95 = series.quantiles(0, first, minutes)
        calls, errors = (series.counts(which, first, minutes) for which in (CALLS, ERRORS))
        return FunctionNumbers(calls=calls, errors=errors, p50=p50, p95=p95)

    def _series(self, name: str) -> Series:
        return self._functions.get(name) or Series(2, 1)
