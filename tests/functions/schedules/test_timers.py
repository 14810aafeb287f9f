"""schedules.timers: one time for each name."""

from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.functions.schedules.timers import SPARE, Timers


def test_a_timer_is_taken_once_it_is_due() -> None:
    """The earliest first, and none twice."""
    timers = Timers()
    timers.set("b", 2)
    timers.set("a", 1)
    timers.set("c", 3)
    assert (timers.first, len(timers)) == (1, 3)
    assert list(timers.take(0.5)) == []
    assert list(timers.take(2)) == ["a", "b"]
    assert list(timers.take(2)) == []
    assert (timers.first, len(timers)) == (3, 1)


def test_a_timer_is_replaced_or_removed() -> None:
    """The time before it is void."""
    timers = Timers()
    timers.set("a", 1)
    timers.set("a", 5)
    timers.set("b", 2)
    timers.set("b", None)
    timers.set("c", None)
    assert list(timers.take(4)) == []
    assert list(timers.take(5)) == ["a"]


def test_a_clock_that_was_set_back_makes_all_due() -> None:
    """But for those that are due earlier."""
    timers = Timers()
    timers.set("a", 100)
    timers.set("b", 1)
    timers.set_all(10)
    assert list(timers.take(9)) == ["b"]
    assert list(timers.take(10)) == ["a"]


def test_void_entries_do_not_pile_up() -> None:
    """However often a timer is set."""
    timers = Timers()
    for at in range(10_000):
        timers.set("a", 10_000 + at)
    assert len(timers._heap) <= SPARE + 3
    assert list(timers.take(10**6)) == ["a"]


@steady
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 20)), st.integers(0, 20))))
def test_it_is_as_a_dictionary(steps: list[tuple[str, int | None, int]]) -> None:
    """Of names and times."""
    timers, times = Timers(), dict[str, int]()
    for name, at, now in steps:
        timers.set(name, at)
        times.pop(name, None)
        if at is not None:
            times[name] = at
        due = sorted(each for each, time in times.items() if time <= now)
        assert sorted(timers.take(now)) == due
        times = {each: time for each, time in times.items() if each not in due}
        assert len(timers) == len(times)
