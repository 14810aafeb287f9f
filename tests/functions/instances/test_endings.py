"""instances.endings: the words for an end are those that the run's last view has."""

from typing import Any

import pytest
from function_cases import ended, version, view

from qmaster.errors import CannotStart, EngineAway, EngineRefused, Forbidden, HttpError, TooManyRuns
from qmaster.functions.instances import endings
from qmaster.functions.instances.endings import Trouble
from qmaster.functions.instances.instance import Instance
from qmaster.models.responses import Service


@pytest.mark.parametrize(
    ("shown", "words", "code", "lines"),
    [
        (None, "the connection of the instance closed before its answer", None, []),
        (view("r"), "the connection of the instance closed before its answer", None, []),
        (ended("r", 7, "a\nb\n"), "the instance ended with exit code 7 before its answer", 7, ["a", "b"]),
        (view("r", "removed"), "the instance ended with an unknown exit code before its answer", None, []),
    ],
)
def test_how_an_instance_died(shown: Service | None, words: str, code: int | None, lines: list[str]) -> None:
    """As far as the engine has shown it."""
    death = endings.death(shown)
    assert (death.words, death.exit_code, list(death.lines)) == (words, code, lines)


def test_only_the_last_lines_are_told() -> None:
    """A function may write without end."""
    lines = endings.death(ended("r", 1, "".join(f"{number}\n" for number in range(1000)))).lines
    assert list(lines) == [str(number) for number in range(980, 1000)]


@pytest.mark.parametrize(
    ("shown", "reason", "says"),
    [
        (ended("r", 3, "boom\n"), "exit", "exit code 3: boom"),
        (ended("r", 3), "exit", "exit code 3"),
        (ended("r", 137, reason="oom"), "oom", "137"),
        (ended("r", reason="image_not_found", error="No such image: x"), "image_not_found", "No such image: x"),
        (ended("r", reason="node_down"), "node_down", "node_down"),
        (None, "exit", "unknown"),
    ],
)
def test_why_one_was_not_started(shown: Service | None, reason: str, says: str) -> None:
    """The run's reason, and its error or its last line."""
    trouble = endings.not_started(shown)
    assert trouble.reason == reason
    assert says in trouble.message


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Forbidden("images: no"), "policy"),
        (TooManyRuns("max_rate: no", 3), "policy"),
        (CannotStart("gone", "policy"), "policy"),
        (EngineAway("away"), "engine"),
        (EngineRefused("no"), "rejected"),
    ],
)
def test_why_a_start_was_refused(error: HttpError, reason: str) -> None:
    """A policy's refusal is its own; the engine's is what it is."""
    assert endings.refused(error) == Trouble(reason, str(error), error.of_engine)


@pytest.mark.parametrize(
    ("ending", "trouble", "shown", "reason"),
    [
        ("idle", None, None, "idle"),
        ("ended", None, ended("r", 1), "exit"),
        ("ended", None, None, "exit"),
        ("ended", Trouble("init_error", "x"), ended("r", 1), "init_error"),
        ("timeout", None, ended("r", 137, reason="timeout"), "timeout"),
    ],
)
def test_why_one_has_ended(ending: Any, trouble: Trouble | None, shown: Service | None, reason: str) -> None:
    """What quartermaster did with it, else what the run says."""
    instance = Instance(version(), 0.0)
    instance.ending, instance.trouble, instance.view = ending, trouble, shown
    assert instance.end_reason == reason
