"""Numbers of each minute of the last day: counts, and percentiles of durations. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator

DAY = 1440  # minutes
MOST = 2**32 - 1  # of a counter
_HOUR = 60  # minutes in a block
# A duration is kept as the number of its bin, each a tenth longer than the one before, so a percentile is at most 5 %
# off. The 254 bins go from 0.1 ms to 38 days; 0 is no duration.
_SHORTEST, _LONGEST_BIN = 0.0001, 254
_STEP = math.log(1.1)
QUANTILES = (0.5, 0.95)
_KEPT = len(QUANTILES)  # bytes of a minute for each kind of duration

Histogram = dict[int, int]  # bin → durations
Seconds = list[float | None]


def _seconds_of(number: int) -> float | None:
    """Return the middle of a bin, with three digits; None for 0."""
    return float(f"{_SHORTEST * math.exp((number - 0.5) * _STEP):.3g}") if number else None


def bin_of(seconds: float) -> int:
    """Return the number of the bin of a duration."""
    if seconds <= _SHORTEST:
        return 1
    return min(_LONGEST_BIN, 1 + int(math.log(seconds / _SHORTEST) / _STEP))


_SECONDS = [_seconds_of(number) for number in range(_LONGEST_BIN + 1)]


def _quantile(histogram: Histogram, part: float) -> int:
    """Return the bin of a quantile by the nearest rank; 0 if there are no durations."""
    left = math.ceil(part * sum(histogram.values()))
    for number in sorted(histogram):
        left -= histogram[number]
        if left <= 0:
            return number
    return 0


class _Block:
    """The minutes of one hour."""

    __slots__ = ("counts", "durations", "totals")

    def __init__(self, counters: int, timings: int) -> None:
        self.counts = array("I", bytes(4 * _HOUR * counters))
        self.totals = [0] * counters  # of the hour
        self.durations = bytearray(_HOUR * timings * _KEPT)


class Series:
    """Counts and durations of each minute of the last day.

    A minute has a histogram of its durations until it is settled; from then on it has their percentiles alone. A
    duration that comes later than that is left out, unless it is the first of its minute.

    Args:
        counters: how many things are counted.
        timings: how many kinds of durations are kept.
    """

    __slots__ = ("_blocks", "_counters", "_open", "_timings", "_touched")

    def __init__(self, counters: int, timings: int) -> None:
        self._counters = counters
        self._timings = timings
        self._blocks: dict[int, _Block] = {}  # by hour since 1970
        self._open: dict[tuple[int, int], Histogram] = {}  # by minute and kind of duration
        self._touched: set[int] = set()  # minutes with durations since the last ``settle``

    def __bool__(self) -> bool:
        return bool(self._blocks)

    @property
    def is_settled(self) -> bool:
        """Whether no minute has a histogram."""
        return not self._open

    def count(self, minute: int, which: int) -> None:
        """Add one to a counter of a minute (since 1970)."""
        block = self._block(minute)
        block.counts[which * _HOUR + minute % _HOUR] += 1
        block.totals[which] += 1

    def put(self, minute: int, which: int, value: int) -> None:
        """Set a counter of a minute, to ``MOST`` if the value is larger."""
        block, place = self._block(minute), which * _HOUR + minute % _HOUR
        value = min(value, MOST)
        block.totals[which] += value - block.counts[place]
        block.counts[place] = value

    def observe(self, minute: int, which: int, seconds: float) -> None:
        """Add a duration to a minute."""
        histogram = self._open.get((minute, which))
        if histogram is None:
            if self._block(minute).durations[self._place(minute, which)]:
                return
            histogram = self._open[minute, which] = {}
        number = bin_of(seconds)
        histogram[number] = histogram.get(number, 0) + 1
        self._touched.add(minute)

    def settle(self, before: int) -> None:
        """Reduce the minutes before this one to percentiles, if nothing was added to them since the last call."""
        for key in [key for key in self._open if key[0] < before and key[0] not in self._touched]:
            histogram, place = self._open.pop(key), self._place(*key)
            block = self._blocks.get(key[0] // _HOUR)
            if block is not None:
                block.durations[place : place + _KEPT] = bytes(_quantile(histogram, part) for part in QUANTILES)
        self._touched.clear()

    def forget(self, now: int) -> None:
        """Drop the hours that ended over a day before this minute, and those after it, from before a clock was set."""
        first, last = (now - DAY) // _HOUR, now // _HOUR
        for hour in [hour for hour in self._blocks if not first <= hour <= last]:
            del self._blocks[hour]
        for key in [key for key in self._open if key[0] // _HOUR not in self._blocks]:
            del self._open[key]

    def counts(self, which: int, first: int, minutes: int) -> list[int]:
        """Return a counter in each of these minutes."""
        told: list[int] = []
        for hour, start, stop in _parts(first, minutes):
            block, at = self._blocks.get(hour), which * _HOUR
            told += block.counts[at + start : at + stop] if block else [0] * (stop - start)
        return told

    def total(self, which: int, first: int, minutes: int) -> int:
        """Return the sum of a counter over these minutes."""
        total, at = 0, which * _HOUR
        for hour, start, stop in _parts(first, minutes):
            block = self._blocks.get(hour)
            if block is not None:  # a day of a thousand functions has too many minutes to add
                whole = stop - start == _HOUR
                total += block.totals[which] if whole else sum(block.counts[at + start : at + stop])
        return total

    def quantiles(self, which: int, first: int, minutes: int) -> tuple[Seconds, ...]:
        """Return the quantiles of a kind of duration in each of these minutes, None where there was none."""
        told: tuple[Seconds, ...] = tuple([] for _ in QUANTILES)
        for hour, start, stop in _parts(first, minutes):
            block, at = self._blocks.get(hour), which * _HOUR * _KEPT
            for place, seconds in enumerate(told):
                numbers = block.durations[at + start * _KEPT + place : at + stop * _KEPT : _KEPT] if block else None
                seconds += map(_SECONDS.__getitem__, numbers) if numbers else [None] * (stop - start)
        for (minute, kind), histogram in self._open.items():
            if kind == which and first <= minute < first + minutes:
                for part, seconds in zip(QUANTILES, told, strict=True):
                    seconds[minute - first] = _SECONDS[_quantile(histogram, part)]
        return told

    def _block(self, minute: int) -> _Block:
        block = self._blocks.get(minute // _HOUR)
        if block is None:
            block = self._blocks[minute // _HOUR] = _Block(self._counters, self._timings)
        return block

    @staticmethod
    def _place(minute: int, which: int) -> int:
        return (which * _HOUR + minute % _HOUR) * _KEPT


def _parts(first: int, minutes: int) -> Iterator[tuple[int, int, int]]:
    """Yield the hours of some minutes, each with the first of its minutes and the one after the last."""
    after = first + minutes
    for hour in range(first // _HOUR, (after - 1) // _HOUR + 1):
        yield hour, max(first - hour * _HOUR, 0), min(after - hour * _HOUR, _HOUR)


class SeriesByName:
    """Series by the name of an owner or a function; beyond ``most``, the one that was used longest ago goes.

    Args:
        make: makes the series of a name.
        most: how many names are kept.
    """

    def __init__(self, make: Callable[[], Series], most: int) -> None:
        self._make = make
        self._most = most
        self._all: dict[str, Series] = {}  # the one that was used last comes last
        self._unsettled: set[str] = set()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._all))

    def get(self, name: str) -> Series | None:
        """Return the series of a name, None if there is none."""
        return self._all.get(name)

    def use(self, name: str) -> Series:
        """Return the series of a name, to which something is added."""
        series = self._all.pop(name, None)
        if series is None:
            series = self._make()
            while len(self._all) >= self._most:
                self.drop(next(iter(self._all)))
        self._all[name] = series
        self._unsettled.add(name)
        return series

    def drop(self, name: str) -> None:
        """Forget a name."""
        self._all.pop(name, None)
        self._unsettled.discard(name)

    def settle(self, before: int) -> None:
        """Reduce the minutes before this one, of the series that have been used."""
        for name in list(self._unsettled):
            self._all[name].settle(before)
            if self._all[name].is_settled:
                self._unsettled.discard(name)

    def forget(self, now: int) -> None:
        """Drop what is older than a day, and the names of which nothing is left."""
        for name, series in list(self._all.items()):
            series.forget(now)
            if not series:
                self.drop(name)
