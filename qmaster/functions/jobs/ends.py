"""Pure: what the input of a job becomes, and what the end of its run means for its call."""

from __future__ import annotations

import msgspec

from ...errors import (
    BadRequest,
    CallFailed,
    FunctionFailed,
    HttpError,
    InstanceDied,
    JournalUnwritable,
    NotFound,
    PayloadTooLarge,
    TooManyCalls,
)
from ...models.functions import read_input
from ...models.responses import Service
from ..instances import endings
from ..instances.endings import Trouble
from ..invocations.invocation import MAX_PAYLOAD

MAX_OUTPUT = MAX_PAYLOAD  # bytes
MAX_LINES = 2048  # characters of the last lines in a message
EXIT, INVALID_INPUT, TOO_LARGE = "exit", "InvalidInput", "Function.ResponseSizeTooLarge"
JSON, TEXT = "application/json", "text/plain; charset=utf-8"
NOT_STARTED = "starting container failed"  # Swarm's words for a program that is not there, or is none
_NEVER_RAN = frozenset({"rejected", "image_not_found", "registry_auth"})


def input_of(payload: bytes) -> str:
    """Return the input of a call as text.

    Raises:
        FunctionFailed: it cannot be the input of a job, which was found out after it was accepted.
    """
    try:
        return read_input(payload)
    except (BadRequest, PayloadTooLarge) as error:
        raise FunctionFailed(INVALID_INPUT, str(error)) from None


def refused(error: HttpError) -> Trouble:
    """Return why a start was refused."""
    if isinstance(error, TooManyCalls | JournalUnwritable):
        return Trouble("engine", str(error))
    return endings.refused(error)


def not_started(view: Service) -> Trouble | None:
    """Return why a run ended before its container ran; None if it ran, or may have."""
    if view.reason in _NEVER_RAN:
        return Trouble(view.reason or "rejected", view.error or f"it ended: {view.reason}", of_engine=True)
    if view.reason == "exit" and (view.error or "").startswith(NOT_STARTED):
        return Trouble("rejected", view.error or NOT_STARTED, of_engine=True)
    return None


def succeeded(view: Service) -> bool:
    """Return whether a run has ended by itself with exit code 0."""
    return view.status == "complete" or (view.status == "removed" and view.reason == "exit" and view.exit_code == 0)


def failure(view: Service) -> CallFailed:
    """Return why the call of a run failed that has not succeeded."""
    last = endings.death(view)
    if view.reason == "exit" and view.exit_code is not None:
        told = "\n".join(last.lines)[-MAX_LINES:]
        return FunctionFailed(EXIT, f"exit code {view.exit_code}" + (f":\n{told}" if told else ""))
    why = {"node_down": "its node is down", "orphaned": "its node is gone", None: "it was removed"}
    said = f"the job ended before its result: {why.get(view.reason, view.reason)}"
    return InstanceDied(said, view.exit_code, last.lines)


def unread(error: HttpError, last: bool) -> CallFailed | None:
    """Return what a call fails with whose output cannot be read; None: try again, unless it was the ``last`` try."""
    if isinstance(error, PayloadTooLarge):
        return FunctionFailed(TOO_LARGE, str(error))
    if last or isinstance(error, NotFound):  # another client has removed the run
        return InstanceDied(f"the job has ended with exit code 0, but its output cannot be read: {error}")
    return None


def content_type(body: bytes) -> str:
    """Return the media type of an output: JSON, else text. Docker's log has no bytes that are not UTF-8."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError):
        return TEXT
    return JSON
