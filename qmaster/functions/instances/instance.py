"""One instance of a version: its secret, its questions for a call, and its calls. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import base64
import secrets
from typing import Literal

from ...models.functions import Version
from ...models.responses import Service
from ..invocations.invocation import Invocation
from .endings import Ending, Trouble

State = Literal["starting", "idle", "busy", "ending"]
# The clients that keep one connection for a call and its answer, so that the call is lost with it.
KEEPS_CONNECTION = ("aws-lambda-python", "aws-lambda-nodejs", "aws-lambda-cpp")
SECRET_BYTES = 20  # as base32 32 letters, which fit into a label of a host name


class Poll:
    """An open question of an instance for its next call.

    ``answer`` is the call, or None if the instance should end; it is cancelled if the connection closes.
    """

    __slots__ = ("answer", "keeps_connection")

    def __init__(self, user_agent: str = "") -> None:
        self.answer: asyncio.Future[Invocation | None] = asyncio.get_running_loop().create_future()
        self.keeps_connection = user_agent.lower().startswith(KEEPS_CONNECTION)


class Instance:
    """One instance, from the beginning of its start to the end of its run.

    Attributes:
        version: what it runs.
        secret: its host name without the domain; it identifies it at the runtime API.
        adopted: whether an earlier process started it.
        run_id: the id of its run; None until the engine has accepted it.
        created_at: when its start began, by the loop's clock, as all times here.
        running_at: when its task was first seen running.
        asked_at: when it first asked for a call; None while it starts.
        seen_at: when it last asked or answered.
        polls: its open questions, the oldest first.
        calls: the calls in its hands, by id.
        served: how many calls it got.
        lost: calls whose connection closed; they are failed once the end of the run is known.
        ending: why it gets no more calls, and ends once it is free.
        retired: whether its end has begun.
        trouble: why its start failed, if that is known before its run ends.
        unplaced_at: since when no node has room for it.
        view: its run as last published.
        shutdown: the open questions of its extensions for their next event, which is its end.
    """

    def __init__(self, version: Version, now: float, secret: str = "", adopted: bool = False) -> None:
        self.version = version
        self.secret = secret or new_secret()
        self.adopted = adopted
        self.run_id: str | None = None
        self.created_at = now
        self.running_at: float | None = None
        self.asked_at: float | None = None
        self.seen_at = now
        self.polls: list[Poll] = []
        self.calls: dict[str, Invocation] = {}
        self.served = 0
        self.lost: list[Invocation] = []
        self.ending: Ending | None = None
        self.retired = False
        self.trouble: Trouble | None = None
        self.unplaced_at: float | None = None
        self.view: Service | None = None
        self.shutdown: set[asyncio.Future[None]] = set()

    @property
    def state(self) -> State:
        if self.calls:
            return "busy"
        if self.ending:
            return "ending"
        return "starting" if self.asked_at is None else "idle"

    @property
    def end_reason(self) -> str:
        """The word for why it has ended."""
        if self.trouble is not None:
            return self.trouble.reason
        if self.ending in (None, "ended"):
            return (self.view and self.view.reason) or "exit"
        return str(self.ending)

    @property
    def takes_calls(self) -> bool:
        """Whether it has an open question that may be answered with a call: its run is known and is not to end."""
        may = self.run_id is not None and not self.ending
        return may and bool(self.polls) and len(self.calls) < self.version.spec.concurrency

    def __repr__(self) -> str:  # without the secret
        return f"Instance({self.run_id}, {self.state})"


def new_secret() -> str:
    """Return a secret that can be a label of a host name."""
    return base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode().lower()
