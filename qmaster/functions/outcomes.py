"""Pure: what the outcome of an attempt leaves on its invocation."""

from __future__ import annotations

import msgspec

from ..errors import CallFailed, FunctionFailed, InstanceDied
from ..models.invocations import InvocationAttempt, InvocationError
from .store import Row, time_text

MAX_MESSAGE = 1024  # characters of an attempt's error


def fault_of(error: CallFailed) -> InvocationError:
    """Return what is shown of a failed call."""
    if isinstance(error, FunctionFailed):
        return InvocationError(type=error.error_type, message=error.error_message, stack=error.stack)
    if isinstance(error, InstanceDied):
        return InvocationError(type="Runtime.ExitError", message=str(error), stack=error.last_lines)
    return InvocationError(type="Sandbox.Timedout", message=str(error))


def dead(row: Row, fault: InvocationError, now: float) -> Row:
    """Return the invocation as one that is given up."""
    return row._replace(status="dead", ended=now, error=fault)


def last_ended(row: Row, now: float, fault: InvocationError | None) -> tuple[InvocationAttempt, ...]:
    """Return the attempts with the end of the last one; its stack is that of the invocation."""
    short = fault and InvocationError(type=fault.type[:MAX_MESSAGE], message=fault.message[:MAX_MESSAGE])
    last = msgspec.structs.replace(row.attempts[-1], ended_at=time_text(now), error=short)
    return (*row.attempts[:-1], last)
