"""Asynchronous invocations: the views of them, and how an answer is shown. Pure."""

from __future__ import annotations

import base64
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from .responses import CallbackView, Time

Status = Literal["queued", "running", "succeeded", "dead", "cancelled"]
STATUSES: tuple[Status, ...] = ("queued", "running", "succeeded", "dead", "cancelled")
OVER = frozenset({"succeeded", "dead", "cancelled"})


class InvocationError(Struct, frozen=True, kw_only=True):
    """Why an invocation or an attempt failed; ``stack`` has lines, the last of the output where an instance died."""

    type: str
    message: str
    stack: list[str] = []


class InvocationAttempt(Struct, frozen=True, kw_only=True):
    """One attempt; ``instance`` is the id of the run that got the call."""

    started_at: Time
    ended_at: Time | None = None
    instance: str | None = None
    error: InvocationError | None = None


class InvocationView(Struct, frozen=True, kw_only=True):
    """An asynchronous invocation.

    Attributes:
        version: the number of the version that was called last, or will be.
        owner: the name of the caller's token.
        started_at: the beginning of the first attempt.
        scheduled_at: the tick of the schedule that made it.
        output: the JSON value of the answer, or its text; left out of lists.
        output_base64: the answer, where it is no text.
    """

    id: str
    function: str
    version: int
    status: Status
    owner: str
    created_at: Time
    started_at: Time | None = None
    ended_at: Time | None = None
    scheduled_at: Time | None = None
    attempts: list[InvocationAttempt] = []
    output: Any = UNSET
    output_base64: str | UnsetType = UNSET
    error: InvocationError | None = None
    callbacks: list[CallbackView] = []

    @property
    def is_over(self) -> bool:
        return self.status in OVER


def with_output(view: InvocationView, body: bytes, content_type: str) -> InvocationView:
    """Return the view with the answer as its output: the JSON value where it is JSON, else the text, else base64."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return msgspec.structs.replace(view, output_base64=base64.b64encode(body).decode())
    if not content_type.lower().startswith("text/"):
        try:
            return msgspec.structs.replace(view, output=msgspec.json.decode(body, type=msgspec.Raw))
        except (msgspec.MsgspecError, RecursionError):
            pass
    return msgspec.structs.replace(view, output=text)
