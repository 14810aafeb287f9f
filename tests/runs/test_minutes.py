"""minutes: counts and percentiles of each minute of a day, as tables; and what they take."""

import random
import tracemalloc

import pytest

from qmaster.runs.minutes import DAY, Series, SeriesByName, bin_of

NOW = 29_000_000 + 17  # a minute within its hour
HALF = 30


def p50(series: Series, first: int = NOW, minutes: int = 1) -> list[float | None]:
    return series.quantiles(0, first, minutes)[0]


def test_what_is_counted_is_told_by_minute() -> None:
    """Also across hours; each counter apart."""
    series = Series(2, 0)
    for minute, which in ((NOW, 0), (NOW, 0), (NOW, 1), (NOW - 60, 1), (NOW - 18, 0)):
        series.count(minute, which)
    assert series.counts(0, NOW - 60, 61) == [0] * 42 + [1] + [0] * 17 + [2]
    assert series.counts(1, NOW - 60, 61) == [1] + [0] * 59 + [1]
    assert [series.total(which, NOW - 60, 61) for which in range(2)] == [3, 2]
    assert series.total(0, NOW - 18, 18) == 1
    assert series.counts(0, NOW - DAY, DAY) == [0] * (DAY - 18) + [1] + [0] * 17


def test_a_total_is_that_of_its_minutes() -> None:
    """Of whole hours and of parts of them, also after a counter was set."""
    series = Series(2, 0)
    for minute in range(NOW - DAY, NOW + 1):
        series.count(minute, 1)
    series.put(NOW - 200, 1, 8)
    for first, minutes in ((NOW - DAY, DAY + 1), (NOW - 300, 60), (NOW - 200, 1), (NOW - 199, 150), (NOW - 17, 18)):
        assert series.total(1, first, minutes) == sum(series.counts(1, first, minutes))
    assert series.total(0, NOW - DAY, DAY) == 0


@pytest.mark.parametrize(
    ("seconds", "half", "most"),
    [
        ([], None, None),
        ([4.2], 4.2, 4.2),
        ([1, 2, 3, 4], 2, 4),
        ([0.001] * 94 + [10.0] * 6, 0.001, 10.0),
        ([0.001] * 95 + [10.0] * 5, 0.001, 0.001),
        ([86400.0], 86400, 86400),
    ],
)
@pytest.mark.parametrize("settled", [False, True])
def test_percentiles_are_by_the_nearest_rank(
    seconds: list[float], half: float | None, most: float | None, settled: bool
) -> None:
    """At most 5 % off, before and after the minute is settled."""
    series = Series(0, 1)
    for each in seconds:
        series.observe(NOW, 0, each)
    if settled:
        series.settle(NOW + 1)
        assert not series.is_settled or not seconds
        series.settle(NOW + 2)
        assert series.is_settled
    (first,), (last,) = series.quantiles(0, NOW, 1)
    assert first == (half and pytest.approx(half, rel=0.05))
    assert last == (most and pytest.approx(most, rel=0.05))


def test_each_duration_is_at_most_five_percent_off() -> None:
    """From 0.1 ms to 38 days; what is shorter or longer is taken for the shortest or the longest."""
    chance = random.Random(1)
    for _ in range(2000):
        series, seconds = Series(0, 1), 10 ** chance.uniform(-4, 6.4)
        series.observe(NOW, 0, seconds)
        assert p50(series) == [pytest.approx(seconds, rel=0.052)]
    assert [bin_of(seconds) for seconds in (-1, 0, 1e-9, 1e12)] == [1, 1, 1, 254]


def test_a_late_duration_counts_in_a_minute_without_one() -> None:
    """In one that is settled its percentiles stay: there is nothing to add it to."""
    series = Series(0, 1)
    series.observe(NOW - HALF, 0, 1.0)
    for _ in range(2):
        series.settle(NOW)
    series.observe(NOW - HALF, 0, 100.0)
    series.observe(NOW - HALF - 1, 0, 7.0)
    assert p50(series, NOW - HALF - 1, 2) == [pytest.approx(7, rel=0.05), pytest.approx(1, rel=0.05)]


def test_what_is_older_than_a_day_goes() -> None:
    """By the hour; so does what is of the future, after a clock was set back."""
    series = Series(1, 1)
    for minute in (NOW - DAY - 60, NOW - DAY, NOW, NOW + 600):
        series.count(minute, 0)
        series.observe(minute, 0, 1.0)
    series.forget(NOW)
    assert sum(series.counts(0, NOW - DAY - 60, 2 * DAY)) == 2
    assert len([each for each in p50(series, NOW - DAY - 60, 2 * DAY) if each]) == 2
    series.forget(NOW + 2 * DAY)
    assert not series
    assert series.is_settled


def test_the_name_that_was_used_longest_ago_goes() -> None:
    """Of more than the most that are kept."""
    names = SeriesByName(lambda: Series(1, 0), 2)
    for name in ("a", "b", "a", "c"):
        names.use(name).count(NOW, 0)
    assert sorted(names) == ["a", "c"]
    series = names.get("a")
    assert series
    assert series.counts(0, NOW, 1) == [2]
    names.settle(NOW + 5)
    names.forget(NOW + 2 * DAY)
    assert list(names) == []


@pytest.mark.slow
@pytest.mark.parametrize(("names", "counters", "timings", "most"), [(100, 4, 2, 4.5), (1000, 2, 1, 27.0)])
def test_a_full_day_of_many_names_is_small(names: int, counters: int, timings: int, most: float) -> None:
    """MB of 100 owners, and of 1,000 functions: used in each hour, they take as much as used in each minute."""
    tracemalloc.start()
    every = SeriesByName(lambda: Series(counters, timings), names)
    for minute in range(NOW, NOW + DAY, 30):
        for name in range(names):
            series = every.use(str(name))
            series.count(minute, 0)
            series.observe(minute, 0, 0.1)
        for _ in range(2):
            every.settle(minute + 1)
    taken = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    assert len(every) == names
    assert taken < most
