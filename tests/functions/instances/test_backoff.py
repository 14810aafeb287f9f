"""instances.backoff: how long the next start waits, and what callers are told, as tables of cases."""

import pytest
from function_cases import version

from qmaster.functions.instances import backoff
from qmaster.functions.instances.backoff import Backoff
from qmaster.functions.instances.endings import Trouble


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (11, 300), (10_000, 300)]
)
def test_starts_back_off(failures: int, seconds: float) -> None:
    """1 s after the first that failed, twice as long after each further one, 5 min at most."""
    assert backoff.pause(failures) == seconds


@pytest.mark.parametrize(
    ("reason", "failures", "told"),
    [
        ("exit", 1, True),
        ("image_not_found", 1, True),
        ("policy", 1, True),
        ("node_down", 1, False),
        ("stopped", 2, False),
        ("orphaned", 3, True),
    ],
)
def test_which_failed_starts_callers_are_told_of(reason: str, failures: int, told: bool) -> None:
    """Those that say something about the function, and those that go on."""
    starts = Backoff()
    for _ in range(failures):
        starts.failed(Trouble(reason, "it is so"), now=10.0)
    assert (starts.tells_callers, starts.refuses(10.0)) == (told, told)
    assert not starts.refuses(starts.retry_at)
    starts.reset()
    assert not starts.tells_callers


def test_callers_hear_why_and_until_when() -> None:
    """The reason of the last failure, and the seconds until the next start."""
    starts = Backoff()
    starts.failed(Trouble("image_not_found", "no such image", of_engine=True), now=10.0)
    error = starts.error(version("hello", 3), now=10.25)
    assert str(error) == "version 3 of the function 'hello' cannot start: no such image"
    assert (error.reason, error.of_engine, error.headers["Retry-After"]) == ("image_not_found", True, "1")
