"""An asynchronous invocation as the journal keeps it, and what the outcome of an attempt leaves on it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ...errors import CallFailed, FunctionFailed, InstanceDied
from ...models.invocations import InvocationAttempt, InvocationError, InvocationView, Status
from ...models.units import rfc3339

OVERHEAD = 512  # bytes that a row counts for in addition to its payload and its output
# Characters of an error: a function chooses its text, and the last lines of an instance may be long.
MAX_TYPE, MAX_MESSAGE, MAX_LINE = 256, 16 * 1024, 1024
MAX_OF_ATTEMPT = 1024  # characters of the message of an attempt's error
MAX_LINES = 200  # of a stack


class Row(NamedTuple):
    """An invocation without its payload and output. Times are seconds since 1970.

    Attributes:
        seq: its place in the order of acceptance.
        qualifier: the number of the version that is called; 0: the newest at each attempt.
        number: the version that was called last, or that was the newest when it was accepted.
        due: when the next attempt may begin.
        until: when it is given up.
        max_age: the seconds from its acceptance, or its redrive, to ``until``.
        tries: the attempts since then.
        deadline: until when the instance may answer.
        size: bytes that it counts for.
    """

    seq: int
    id: str
    function: str
    qualifier: int
    number: int
    owner: str
    status: Status
    created: float
    due: float
    until: float
    max_age: float
    tries: int = 0
    deadline: float | None = None
    started: float | None = None
    ended: float | None = None
    size: int = 0
    attempts: tuple[InvocationAttempt, ...] = ()
    tick: str | None = None
    error: InvocationError | None = None

    def revived(self, now: float) -> Row:
        """Return a dead invocation as one that waits from now on."""
        ending = OVERHEAD + len(self.error_json or "") + len(self.attempts_json)  # as ``InvocationStore.end`` counts
        return self._replace(
            status="queued",
            due=now,
            until=now + self.max_age,
            tries=0,
            ended=None,
            error=None,
            size=self.size - ending,
        )

    def view(self) -> InvocationView:
        """Return the view, without an output."""
        return InvocationView(
            id=self.id,
            function=self.function,
            version=self.number,
            status=self.status,
            owner=self.owner,
            created_at=rfc3339(self.created),
            started_at=None if self.started is None else rfc3339(self.started),
            ended_at=None if self.ended is None else rfc3339(self.ended),
            scheduled_at=self.tick,
            attempts=list(self.attempts),
            error=self.error,
        )

    def dead(self, fault: InvocationError, now: float) -> Row:
        """Return the invocation as one that is given up."""
        return self._replace(status="dead", ended=now, error=fault)

    def attempt_ended(self, now: float, fault: InvocationError | None) -> Row:
        """Return the invocation with the end of its last attempt; the stack of a fault is that of the invocation."""
        short = fault and InvocationError(type=fault.type, message=fault.message[:MAX_OF_ATTEMPT])
        last = msgspec.structs.replace(self.attempts[-1], ended_at=rfc3339(now), error=short)
        return self._replace(attempts=(*self.attempts[:-1], last))

    @property
    def attempts_json(self) -> str:
        return msgspec.json.encode(self.attempts).decode()

    @property
    def error_json(self) -> str | None:
        return None if self.error is None else msgspec.json.encode(self.error).decode()


class Content(NamedTuple):
    """What is called with."""

    payload: bytes
    client_context: str | None = None
    trace_id: str | None = None
    key: str | None = None
    digest: str | None = None


class Output(NamedTuple):
    """An answer."""

    body: bytes
    content_type: str


def fault_of(error: CallFailed) -> InvocationError:
    """Return what is shown of a failed call."""
    if isinstance(error, FunctionFailed):
        return _error(error.error_type, error.error_message, error.stack)
    if isinstance(error, InstanceDied):
        return _error("Runtime.ExitError", str(error), error.last_lines)
    return _error("Sandbox.Timedout", str(error))


def _error(kind: str, message: str, stack: Sequence[str] = ()) -> InvocationError:
    lines = [line[:MAX_LINE] for line in stack[:MAX_LINES]]
    return InvocationError(type=kind[:MAX_TYPE], message=message[:MAX_MESSAGE], stack=lines)
