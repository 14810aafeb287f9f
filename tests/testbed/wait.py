"""Waiting for a condition, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

BUSY = 5  # times as long as on a quiet machine is waited: a busy one makes tests slow, not red


def eventually(
    predicate: Callable[[], T],
    timeout: float = 10.0,
    what: str = "",
    every: float = 0.02,
    ignoring: type[Exception] | tuple[type[Exception], ...] = (),
) -> T:
    """The predicate's first true value.

    `ignoring` names the errors that count as "not yet". `timeout` is in seconds of a quiet machine: when `BUSY` times
    as many have passed, `TimeoutError` is raised, with the last value or error seen.
    """
    deadline = time.monotonic() + timeout * BUSY
    while True:
        last: object
        try:
            last = value = predicate()
            if value:
                return value
        except ignoring as error:
            last = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout * BUSY} s: {what or predicate}; last seen: {last!r}")
        time.sleep(every)
