"""Pure: what the outcome of an attempt leaves on its invocation."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...errors import CallFailed, FunctionFailed, InstanceDied
from ...models.invocations import InvocationAttempt, InvocationError
from ...models.units import rfc3339
from .store import Row

# Characters of an error: a function chooses its text, and the last lines of an instance may be long.
MAX_TYPE, MAX_MESSAGE, MAX_LINE = 256, 16 * 1024, 1024
MAX_OF_ATTEMPT = 1024  # characters of the message of an attempt's error
MAX_LINES = 200  # of a stack


def fault_of(error: CallFailed) -> InvocationError:
    """Return what is shown of a failed call."""
    if isinstance(error, FunctionFailed):
        return _error(error.error_type, error.error_message, error.stack)
    if isinstance(error, InstanceDied):
        return _error("Runtime.ExitError", str(error), error.last_lines)
    return _error("Sandbox.Timedout", str(error))


def dead(row: Row, fault: InvocationError, now: float) -> Row:
    """Return the invocation as one that is given up."""
    return row._replace(status="dead", ended=now, error=fault)


def last_ended(row: Row, now: float, fault: InvocationError | None) -> tuple[InvocationAttempt, ...]:
    """Return the attempts with the end of the last one; its stack is that of the invocation."""
    short = fault and InvocationError(type=fault.type, message=fault.message[:MAX_OF_ATTEMPT])
    last = msgspec.structs.replace(row.attempts[-1], ended_at=rfc3339(now), error=short)
    return (*row.attempts[:-1], last)


def _error(kind: str, message: str, stack: Sequence[str] = ()) -> InvocationError:
    lines = [line[:MAX_LINE] for line in stack[:MAX_LINES]]
    return InvocationError(type=kind[:MAX_TYPE], message=message[:MAX_MESSAGE], stack=lines)
