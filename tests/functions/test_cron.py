"""models.schedules: cron expressions, their ticks, and what is refused."""

import json
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.errors import BadRequest
from qmaster.models.functions import MAX_INPUT, read_spec
from qmaster.models.schedules import WORDS, Schedule, keys

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC).timestamp()


def ticks(cron: str, after: datetime, count: int = 3) -> list[str]:
    """The next ticks in Berlin."""
    times = Schedule(cron=cron, time_zone="Europe/Berlin").times()
    return [datetime.fromtimestamp(each, BERLIN).isoformat() for each in islice(times.after(after.timestamp()), count)]


@pytest.mark.parametrize(
    ("cron", "spring", "autumn"),
    [
        ("30 2 * * *", ["29T03:00:00+02:00", "30T02:30:00+02:00"], ["25T02:30:00+02:00", "26T02:30:00+01:00"]),
        ("0,30 2 * * *", ["29T03:00:00+02:00", "30T02:00:00+02:00"], ["25T02:00:00+02:00", "25T02:30:00+02:00"]),
        ("30 * * * *", ["29T00:30:00+01:00", "29T01:30:00+01:00"], ["25T00:30:00+02:00", "25T01:30:00+02:00"]),
        ("0 12 * * *", ["29T12:00:00+02:00", "30T12:00:00+02:00"], ["25T12:00:00+01:00", "26T12:00:00+01:00"]),
    ],
)
def test_the_nights_of_the_clock_changes(cron: str, spring: list[str], autumn: list[str]) -> None:
    """A time that is left out is due at once after the change; one that comes twice, the first time."""
    assert ticks(cron, datetime(2026, 3, 29, 0, 0, tzinfo=BERLIN), 2) == [f"2026-03-{each}" for each in spring]
    assert ticks(cron, datetime(2026, 10, 25, 0, 0, tzinfo=BERLIN), 2) == [f"2026-10-{each}" for each in autumn]


def test_an_hourly_tick_comes_in_both_of_two_equal_hours() -> None:
    """And in none that is left out."""
    night = ticks("30 * * * *", datetime(2026, 10, 25, 1, 45, tzinfo=BERLIN))
    assert night == ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:30:00+01:00"]
    night = ticks("30 * * * *", datetime(2026, 3, 29, 1, 45, tzinfo=BERLIN), 2)
    assert night == ["2026-03-29T03:30:00+02:00", "2026-03-29T04:30:00+02:00"]


@pytest.mark.parametrize("minute", [-30, 0, 15, 45, 61, 89, 91, 119, 121, 179, 181, 240])
@pytest.mark.parametrize("day", [(2026, 3, 29), (2026, 10, 25)])
@pytest.mark.parametrize("cron", ["30 2 * * *", "0,30 2 * * *", "*/20 * * * *", "30 * * * *", "15 1-3 * * *"])
def test_the_ticks_are_the_same_wherever_one_begins(cron: str, day: tuple[int, int, int], minute: int) -> None:
    """So that quartermasters that start in the night of a change agree; and each tick is later than the one before."""
    times = Schedule(cron=cron, time_zone="Europe/Berlin").times()
    midnight = datetime(*day, tzinfo=BERLIN).timestamp()
    night = [each for each in islice(times.after(midnight - 86_400), 200) if each <= midnight + 86_400]
    begin = midnight + minute * 60
    later = [each for each in night if each > begin]
    assert list(islice(times.after(begin), len(later))) == later
    assert sorted(set(night)) == night
    newest = max((each for each in night if each <= begin), default=None)
    assert times.latest(midnight - 86_400, begin) == newest


@steady
@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "0 3 * * *", "15 0-4,9 * * 1-5", "0 0 1 * *", "59 23 31 12 *"]),
    st.integers(0, 3_000_000),
    st.integers(0, 3_000_000),
)
def test_the_newest_of_missed_ticks_is_that_of_a_walk(cron: str, begin: int, length: int) -> None:
    """However long ago."""
    times = Schedule(cron=cron).times()
    after, until = NOON + begin, NOON + begin + length
    walked = None
    for each in times.after(after):
        if each > until:
            break
        walked = each
    assert times.latest(after, until) == walked


@pytest.mark.parametrize("word", WORDS)
def test_the_words_of_crontab_are_known(word: str) -> None:
    """In any case."""
    times, spelt = Schedule(cron=word.upper()).times(), Schedule(cron=WORDS[word]).times()
    assert list(islice(times.after(NOON), 3)) == list(islice(spelt.after(NOON), 3))


def test_hourly_is_each_hour() -> None:
    """At its beginning."""
    assert Schedule(cron="@hourly").times().next(NOON) == NOON + 3600


@pytest.mark.parametrize(
    ("schedules", "said"),
    [
        ([{"cron": "* * * * * *"}], r"schedules\[0\].cron: seconds are not supported; expected five fields"),
        ([{"cron": "* * * *"}], r"schedules\[0\].cron: expected five fields"),
        ([{"cron": ""}], r"schedules\[0\].cron: expected a string of at least 1 character"),
        ([{"cron": "@reboot"}], r"schedules\[0\].cron: .*known: @yearly"),
        ([{"cron": "@every 5m"}], r"schedules\[0\].cron: .*known: @yearly"),
        ([{"cron": "60 * * * *"}], r"schedules\[0\].cron: bad minute in '60"),
        ([{"cron": "* * * * MON-FRI-SUN"}], r"schedules\[0\].cron: bad day-of-week"),
        ([{"cron": "* * * * \u0661"}], r"schedules\[0\].cron: expected five fields"),
        ([{"cron": "CRON_TZ=Europe/Berlin 0 5 * * *"}], r"schedules\[0\].cron: expected no time zone; use time_zone"),
        ([{"cron": "0 0 */31 2 *"}, {"cron": "0 0 */20 * 1L"}], r"schedules\[1\].cron: no day within ten years"),
        ([{"cron": "0 0 */14 2 1#5"}], r"schedules\[0\].cron: no day within ten years is one of"),
        ([{"cron": "@daily", "time_zone": "Berlin"}], r"schedules\[0\].time_zone: expected a name such as"),
        ([{"cron": "@daily", "time_zone": "../etc/passwd"}], r"schedules\[0\].time_zone: expected a name"),
        ([{"cron": "@daily", "time_zone": "localtime"}], r"schedules\[0\].time_zone: expected a name"),
        ([{"cron": "@daily", "time_zone": "right/UTC"}], r"schedules\[0\].time_zone: expected a name"),
        ([{"cron": "@daily", "time_zone": "Europe"}], r"schedules\[0\].time_zone: expected a name"),
        ([{"cron": "@daily", "concurrency": "replace"}], r"schedules\[0\].concurrency: expected one of allow, forbid"),
        ([{"cron": "@daily", "starting_deadline": 0}], r"schedules\[0\].starting_deadline: .* at least 1"),
        ([{"cron": "@daily", "suspend": "no"}], r"schedules\[0\].suspend: expected a boolean"),
        ([{"cron": "@daily", "timeZone": "UTC"}], r"schedules\[0\]: unknown field 'timeZone': use time_zone"),
        ([{"schedule": "@daily"}], r"schedules\[0\]: unknown field 'schedule': use cron"),
        ([{"cron": "@daily", "what": 1}], r"schedules\[0\]: unknown field 'what'; known: cron, "),
        ([{}], r"schedules\[0\].cron: is required"),
        ([1], r"schedules\[0\]: expected an object"),
        ([{"cron": "@daily"}] * 21, "schedules: expected an array of at most 20 items"),
        ({"cron": "@daily"}, "schedules: expected an array"),
    ],
)
def test_a_wrong_schedule_is_named(schedules: Any, said: str) -> None:
    """With its place, its field, and what to use."""
    with pytest.raises(BadRequest, match=said):
        read_spec({"image": "busybox", "schedules": schedules})


def test_the_input_of_a_job_fits_into_its_environment() -> None:
    """It is refused when it is published, not at each tick."""
    spec = {"image": "busybox", "schedules": [{"cron": "@daily", "input": "x" * MAX_INPUT}]}
    read_spec(spec)
    with pytest.raises(BadRequest, match=r"schedules\[0\].input: that of a job has at most 24576 bytes; got 24578"):
        read_spec({**spec, "runtime": "job"})


@pytest.mark.parametrize("word", ["schedule", "cron"])
def test_a_word_for_all_of_them_is_answered(word: str) -> None:
    """Not with a guess."""
    with pytest.raises(BadRequest, match="use schedules"):
        read_spec({"image": "busybox", word: "@daily"})


def test_what_is_left_out_has_a_default() -> None:
    """An empty object is the input, as of a call without a body."""
    (one,) = read_spec({"image": "busybox", "schedules": [{"cron": "@daily"}]}).schedules
    assert (one.time_zone, one.input, one.concurrency, one.starting_deadline) == ("UTC", {}, "allow", 300.0)
    assert one.payload() == b"{}"


@pytest.mark.parametrize("value", [None, 0, "text", [1, {"a": None}], {"b": 1, "a": 2}, 10**30])
def test_the_input_is_any_value(value: Any) -> None:
    """It is the body of the calls."""
    (one,) = read_spec({"image": "busybox", "schedules": [{"cron": "@daily", "input": value}]}).schedules
    assert json.loads(one.payload()) == value


def test_a_key_is_of_the_times_and_the_input() -> None:
    """Not of the rest, so that a changed deadline keeps the last tick; equal ones are numbered."""
    one = Schedule(cron="0  0 * * *", input={"b": 1, "a": 2})
    same = Schedule(cron="@daily", input={"a": 2, "b": 1}, suspend=True, starting_deadline=5, concurrency="forbid")
    other = Schedule(cron="@daily", input=1)
    zone = Schedule(cron="@daily", time_zone="Europe/Berlin", input={"a": 2, "b": 1})
    first, second, third, fourth = keys([one, same, other, zone])
    assert second == f"{first}-2"
    assert len({first, third, fourth}) == 3
    assert keys([zone, same])[1] == first
