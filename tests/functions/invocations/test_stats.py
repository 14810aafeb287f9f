"""stats of calls: calls, errors and durations of each function and minute."""

import time
import timeit

import pytest
from function_cases import call, version

from qmaster.functions.invocations.invocation import Ended
from qmaster.functions.invocations.stats import CallStats

NOW = 1_764_590_430.0
HERE = int(NOW) // 60


def over(outcome: str = "ok", duration: float | None = 0.02, function: str = "hello") -> Ended:
    return Ended(version(function), call(), "run-1", outcome, queued=0.5, duration=duration, cold=False)


def every(name: str) -> bool:
    return True


def test_calls_and_errors_are_counted() -> None:
    """By minute; a call that nobody got is an error without a duration."""
    clock = [NOW]
    stats = CallStats(every, lambda: clock[0])
    for _ in range(3):
        stats.call(over())
    stats.call(over("timeout", 30.0))
    clock[0] += 60
    stats.tick()
    stats.call(over("429", None))
    numbers = stats.numbers("hello", HERE - 1, 3)
    assert (numbers.calls, numbers.errors) == ([0, 4, 1], [0, 1, 1])
    assert numbers.p50 == [None, pytest.approx(0.02, rel=0.05), None]
    assert numbers.p95 == [None, pytest.approx(30, rel=0.05), None]


def test_those_that_were_called_most_are_told() -> None:
    """Of what the caller sees and what was called in that time; by name."""
    stats = CallStats(every, lambda: NOW)
    for name, calls in (("a", 1), ("b", 5), ("c", 3), ("d", 2)):
        for _ in range(calls):
            stats.call(over(function=name))
    assert stats.most_called(HERE, 1, every, 10) == ["a", "b", "c", "d"]
    assert stats.most_called(HERE, 1, every, 2) == ["b", "c"]
    assert stats.most_called(HERE, 1, lambda name: name < "c", 10) == ["a", "b"]
    assert stats.most_called(HERE - 5, 5, every, 10) == []


def test_a_function_that_is_removed_is_forgotten() -> None:
    """Another may be published under its name; a new version changes nothing."""
    there = {"hello"}
    stats = CallStats(there.__contains__, lambda: NOW)
    stats.call(over())
    stats.versions_changed("hello")
    assert stats.numbers("hello", HERE, 1).calls == [1]
    there.clear()
    stats.versions_changed("hello")
    assert stats.numbers("hello", HERE, 1).calls == [0]
    stats.call(over())  # one that was running at the removal
    there.add("hello")
    stats.versions_changed("hello")
    assert stats.numbers("hello", HERE, 1).calls == [0]


def test_a_call_costs_some_microseconds() -> None:
    """Of processor time: under 2 here, where a call of a function takes hundreds."""
    stats, ended = CallStats(every, lambda: NOW), over()
    assert min(timeit.repeat(lambda: stats.call(ended), number=2000, repeat=5, timer=time.thread_time)) / 2000 < 20e-6
