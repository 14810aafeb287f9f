"""asynchronous.row: what is kept of a failed call, whatever the function has written."""

import msgspec
import pytest

from qmaster.errors import CallFailed, CallTimedOut, FunctionFailed, InstanceDied
from qmaster.functions.asynchronous.row import Row, fault_of
from qmaster.models.invocations import InvocationAttempt, InvocationError


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (FunctionFailed("ValueError", "no", ["a", "b"]), ("ValueError", "no", ["a", "b"])),
        (InstanceDied("it ended", 1, ["last"]), ("Runtime.ExitError", "it ended", ["last"])),
        (CallTimedOut("too long"), ("Sandbox.Timedout", "too long", [])),
    ],
)
def test_each_failure_has_a_type_and_a_message(error: CallFailed, kept: tuple[str, str, list[str]]) -> None:
    """AWS's words, where they have some."""
    fault = fault_of(error)
    assert (fault.type, fault.message, fault.stack) == kept


@pytest.mark.parametrize(
    "error",
    [FunctionFailed("x" * 10**6, "x" * 10**6, ["x" * 10**6] * 1000), InstanceDied("x" * 10**6, 1, ["x" * 10**6] * 20)],
)
def test_an_error_is_bounded(error: CallFailed) -> None:
    """However long its lines are."""
    assert len(msgspec.json.encode(fault_of(error))) < 256 * 1024


def test_an_attempt_has_a_short_error() -> None:
    """Without the stack, which the invocation has."""
    begun = InvocationAttempt(started_at="then", instance="run-1")
    row = Row(1, "i", "f", 0, 1, "root", "running", 0.0, 0.0, 0.0, 0.0, attempts=(begun, begun))
    first, last = row.attempt_ended(1.5, InvocationError(type="E", message="x" * 10_000, stack=["a"])).attempts
    assert first == begun
    assert (last.ended_at, last.instance) == ("1970-01-01T00:00:01.500000Z", "run-1")
    assert last.error == InvocationError(type="E", message="x" * 1024)
