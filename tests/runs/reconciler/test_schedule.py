"""schedule: when what is looked at, as a table of times."""

from collections.abc import Iterable

import pytest

from qmaster.runs.reconciler.schedule import FULL_EVERY, LATER, LONGEST_REST, SOON, Due, Schedule

GOING = {"s1"}
NOBODY: set[str] = set()


def listed(now: float = 0.0) -> Schedule:
    """One that has just listed everything."""
    schedule = Schedule()
    schedule.relist(now)
    assert schedule.take(now, NOBODY) == Due(everything=True)
    return schedule


def look(schedule: Schedule, now: float, took: float = 0.0, over: Iterable[str] = ()) -> Due:
    """Take what is due, and have it looked at."""
    due = schedule.take(now, NOBODY)
    schedule.looked(due.services, now, now + took, lambda each: each not in over)
    return due


@pytest.mark.parametrize(
    ("age", "pause"),
    [(0.02, SOON), (0.1, SOON), (0.2, SOON), (0.3, 0.03), (1.0, 0.1), (5.0, 0.5), (10.0, LATER)],
)
def test_the_pause_is_a_tenth_of_the_time_since_the_news(age: float, pause: float) -> None:
    """At least SOON, and at most LATER."""
    schedule = listed()
    schedule.news("s1", 0.0)
    assert look(schedule, age).services == ["s1"]
    assert schedule.next(NOBODY) == pytest.approx(age + pause)
    assert look(schedule, age + pause - 0.001).services == []
    assert look(schedule, age + pause + 0.001).services == ["s1"]


def test_what_had_no_news_for_long_is_left_to_the_sweeps() -> None:
    """A tenth of that time would be more than LATER."""
    schedule = listed()
    schedule.news("s1", 0.0)
    look(schedule, 10.1)
    assert set(schedule.young) == set()
    assert schedule.next(NOBODY) == FULL_EVERY


def test_news_make_a_service_young_again() -> None:
    """The next look is SOON after them, where it would not be sooner anyway."""
    schedule = listed()
    schedule.news("s1", 0.0)
    look(schedule, 5.0)
    assert schedule.news("s1", 5.1) == pytest.approx(5.1 + SOON)
    assert schedule.news("s1", 5.11) == pytest.approx(5.1 + SOON)
    look(schedule, 5.2)
    assert schedule.next(NOBODY) == pytest.approx(5.2 + SOON)


def test_what_is_over_is_not_looked_at_again() -> None:
    """Unless there was news of it during the look."""
    schedule = listed()
    schedule.news("s1", 0.0)
    look(schedule, 1.0, over=["s1"])
    assert set(schedule.young) == set()
    schedule.news("s1", 2.0)
    due = schedule.take(2.1, NOBODY)
    schedule.news("s1", 2.11, whole=True)
    schedule.looked(due.services, 2.1, 2.2, lambda _: False)
    assert look(schedule, 2.2).whole == ["s1"]


def test_a_hint_asks_for_the_service_itself_once() -> None:
    """Later looks are at its tasks."""
    schedule = listed()
    schedule.news("s1", 0.0, whole=True)
    schedule.news("s2", 0.0)
    schedule.news("s1", 0.01)
    assert look(schedule, 1.0)[3:5] == (["s1", "s2"], ["s1"])
    assert look(schedule, 2.0)[3:5] == (["s1", "s2"], [])


@pytest.mark.parametrize(
    ("first", "second", "pause"),
    [(0.001, 0.001, 0.02), (1.0, 0.001, 0.02), (0.001, 1.0, 0.02), (1.0, 0.5, 2.0), (9, 8, LONGEST_REST)],
)
def test_looks_take_at_most_a_fifth_of_the_time(first: float, second: float, pause: float) -> None:
    """By the shorter of the last two: a single slow one says little. Of a very slow engine the pause is bounded."""
    schedule = listed()
    for at, took in ((10.0, first), (20.0, second)):
        schedule.looked([], at, at + took, lambda _: True)
    ended = 20.0 + second
    assert schedule.news("s1", ended) == pytest.approx(ended + pause)
    assert look(schedule, ended + pause - 0.001).services == []
    assert look(schedule, ended + pause + 0.001).services == ["s1"]


@pytest.mark.parametrize(
    ("took", "pause"), [(0.001, 1.0), (0.05, 1.0), (0.1, 2.0), (0.5, 10.0), (1.0, 1.0 + LONGEST_REST)]
)
def test_sweeps_take_at_most_a_twentieth_of_the_time(took: float, pause: float) -> None:
    """And come once a second at most. Of a very slow engine the pause is bounded."""
    schedule = listed()
    for at in (10.0, 30.0):
        assert schedule.take(at, GOING).wanted
        schedule.swept(at, at + took)
    assert schedule.next(GOING) == pytest.approx(30.0 + pause)
    assert not schedule.take(30.0 + pause - 0.001, GOING).wanted


def test_there_is_no_sweep_for_the_young_alone() -> None:
    """Their own looks tell the same; where nothing goes on at all a sweep can tell nothing."""
    schedule = listed()
    schedule.news("s1", 1.0)
    assert not schedule.take(1.01, GOING).wanted
    assert not schedule.take(1.01, NOBODY).wanted
    assert schedule.take(1.01, {"s1", "s2"}).wanted


def test_everything_is_due_once_a_minute() -> None:
    """Also where nothing happens."""
    schedule = listed(5.0)
    assert schedule.next(NOBODY) == 5.0 + FULL_EVERY
    assert schedule.take(5.0 + FULL_EVERY, NOBODY).everything


def test_nodes_and_containers_are_due_at_once() -> None:
    """Once each; of a container nothing else tells."""
    schedule = listed()
    schedule.news_of_nodes()
    schedule.news_of_container("c1")
    assert schedule.next(NOBODY) == 0.0
    assert schedule.take(1.0, NOBODY)[1:3] == (True, {"c1"})
    assert schedule.take(1.0, NOBODY) == Due(containers=set(), services=[], whole=[])


def test_a_container_stays_due_after_a_full_listing() -> None:
    """One that ended, ran again and ended reads like one that ended once there."""
    schedule = listed()
    schedule.news_of_container("c1")
    schedule.relist(1.0)
    assert schedule.take(1.0, NOBODY).everything
    assert schedule.take(1.0, NOBODY).containers == {"c1"}


def test_after_a_failure_everything_is_listed_first() -> None:
    """After LATER, or when the event stream is there again; what was being looked at is looked at after that."""
    schedule = listed()
    schedule.news("s1", 0.0)
    schedule.take(1.0, NOBODY)
    schedule.failed(2.0)
    schedule.news_of_nodes()
    schedule.news("s2", 2.0)
    assert schedule.next(GOING) == 2.0 + LATER
    schedule.relist(2.5)
    assert schedule.next(GOING) == 2.5
    assert schedule.take(2.5, NOBODY).everything
    assert set(look(schedule, 2.0 + LATER).services) == {"s1", "s2"}
