"""results: how a run ended and what it said, kept and shown."""

import zlib

import msgspec
import pytest
from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.models import results
from qmaster.models.results import Line, Outcome, Output, Stream, TaskOutput

AT = "2024-05-06T07:08:09.123456789Z"


def said(*lines: tuple[Stream, bytes]) -> list[Line]:
    return [Line(AT, stream, data) for stream, data in lines]


def ended(code: int, *lines: tuple[Stream, bytes], task: str | None = "t1", truncated: bool = False) -> TaskOutput:
    return TaskOutput(task, 1, "host-1", code, Output(said(*lines), truncated))


def test_a_result_has_both_streams_apart() -> None:
    """In their order, as text."""
    outcome = Outcome([ended(3, ("stdout", b"a\n"), ("stderr", b"b\n"), ("stdout", b"c"))])
    shown = results.result(outcome)
    assert (shown.exit_code, shown.stdout, shown.stderr, shown.truncated) == (3, "a\nc", "b\n", False)
    assert shown.tasks == []


def test_what_is_not_utf_8_is_replaced() -> None:
    """A character over two of Docker's messages is whole again."""
    outcome = Outcome([ended(0, ("stdout", b"\xff\xe2"), ("stdout", b"\x82\xac"))])
    assert results.result(outcome).stdout == "\N{REPLACEMENT CHARACTER}€"


def test_of_several_tasks_the_first_that_ended_is_shown_and_all_are_listed() -> None:
    """The recorder has put it in front."""
    shown = results.result(Outcome([ended(1, ("stdout", b"one"), task="a"), ended(0, ("stdout", b"two"), task="b")]))
    assert (shown.exit_code, shown.stdout) == (1, "one")
    assert [(task.id, task.exit_code, task.stdout) for task in shown.tasks] == [("a", 1, "one"), ("b", 0, "two")]


def test_a_run_without_tasks_has_said_nothing() -> None:
    """And has no exit code."""
    shown = results.result(Outcome([]))
    assert (shown.exit_code, shown.stdout, shown.truncated) == (None, "", False)


def test_a_brief_result_is_cut_and_says_so() -> None:
    """The end of each stream; several tasks share it."""
    one = ended(0, ("stdout", b"x" * 100 + b"end"), ("stderr", b"short"))
    brief = results.result(Outcome([one]), 10)
    assert (brief.stdout, brief.stderr, brief.truncated) == ("x" * 7 + "end", "short", True)
    brief = results.result(Outcome([one, one]), 10)
    assert [(task.stdout, task.truncated) for task in brief.tasks] == [("xxend", True)] * 2


def test_what_was_cut_as_it_was_read_stays_cut() -> None:
    """However short it is."""
    assert results.result(Outcome([ended(0, ("stdout", b"x"), truncated=True)]), 10).truncated


@pytest.mark.parametrize(("tasks", "each"), [(1, 1000), (16, 1000), (32, 500), (100_000, results.SMALLEST)])
def test_many_tasks_keep_less_each(tasks: int, each: int) -> None:
    """But never nothing."""
    assert results.share(1000, tasks) == each


STREAMS = st.sampled_from(["stdout", "stderr"])
LINES = st.lists(st.builds(Line, st.just(AT), STREAMS, st.binary(max_size=20)), max_size=20)


@steady
@given(LINES, st.integers(0, 60))
def test_a_clip_is_the_end_of_each_stream(lines: list[Line], limit: int) -> None:
    """Each at most so many bytes, in order, and cut only where there was more."""
    output = results.clip(lines, limit)
    for stream in ("stdout", "stderr"):
        whole = b"".join(line.data for line in lines if line.stream == stream)
        kept = b"".join(line.data for line in output.lines if line.stream == stream)
        assert kept == (whole[-limit:] if limit else b"")
    total = sum(len(line.data) for line in lines)
    assert output.truncated == (sum(len(line.data) for line in output.lines) < total)


@steady
@given(LINES, st.booleans())
def test_what_is_kept_is_read_back(lines: list[Line], truncated: bool) -> None:
    """All bytes, whatever they are."""
    outcome = Outcome([TaskOutput("t", 1, None, 0, Output(lines, truncated))])
    assert results.decode(results.encode(outcome)) == outcome


def test_an_outcome_of_before_earlier_tasks_were_kept_is_read() -> None:
    """From the journal of an older version."""
    stored = zlib.compress(msgspec.msgpack.encode([[["t", 1, None, 0, [[], False]]]]), 1)
    assert results.decode(stored) == Outcome([TaskOutput("t", 1, None, 0, Output())])
