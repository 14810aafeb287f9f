"""Marks: what is read again is not told again, and what is new is."""

from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.runs.logs import Marks

A, B, C = (f"2026-11-24T19:10:31.{n:09}Z" for n in (1, 2, 3))


def told(marks: Marks, *times: str, stream: str = "stdout", origin: str = "t1") -> list[str]:
    return [time for time in times if marks.is_new(origin, stream, time)]


@steady
@given(st.lists(st.integers(0, 5), max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_a_log_that_is_read_again_is_told_once(steps: list[int], first: int, back: int) -> None:
    """From wherever the second reading begins, and though parts of a line have one time."""
    at = 0
    log = [f"2026-11-24T19:10:31.{(at := at + step):09}Z" for step in steps]
    first = min(first, len(log))
    marks = Marks()
    assert told(marks, *log[:first]) == log[:first]
    begin = max(0, first - 1 - back)
    again = [time for time in log if time >= log[begin]] if log else []
    marks.rewind()
    assert told(marks, *again) == log[first:]


def test_a_node_that_comes_back_sends_all_again() -> None:
    """Without a rewind, a time that goes back is taken for that."""
    marks = Marks()
    assert told(marks, A, B, B) == [A, B, B]
    assert told(marks, A, B, B, B, C) == [B, C]


def test_streams_and_tasks_are_apart() -> None:
    """The mark of one says nothing of another."""
    marks = Marks()
    assert told(marks, C) == [C]
    assert told(marks, A, stream="stderr") == [A]
    assert told(marks, B, origin="t2") == [B]
    assert marks.earliest() == marks.earliest("t1")
    assert (marks.earliest("t2") or 0) > (marks.earliest("t1") or 0) - 1


def test_after_a_tail_what_was_before_is_not_wanted() -> None:
    """Of neither stream, though none of it was seen of one."""
    marks = Marks()
    assert told(marks, B) == [B]
    marks.close("t1")
    marks.rewind()
    assert told(marks, A, B, C, stream="stderr") == [B, C]
    assert told(marks, A, B, C) == [C]


def test_nothing_told_is_no_mark() -> None:
    """There is no earliest time then, and closing changes nothing."""
    marks = Marks()
    marks.close("t1")
    assert not marks
    assert marks.earliest() is None
    assert told(marks, A) == [A]


def test_times_may_have_a_zone() -> None:
    """As some log drivers tell them."""
    marks, utc = Marks(), Marks()
    told(marks, "2026-11-24T20:10:31.000000001+01:00")
    told(utc, A)
    assert marks.earliest() == utc.earliest()
