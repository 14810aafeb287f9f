"""All errors that an answer may carry, each with its HTTP status; one renderer turns them into answers.

    QmasterError
    ├── ConfigError           the process cannot start (exit code 2)
    └── HttpError             has a status
        ├── BadRequest        400  what was sent is wrong; names the field
        ├── Unauthorized      401  no token, or an invalid one
        ├── Forbidden         403  known, but not allowed
        ├── NotFound          404
        ├── Conflict          409  a name is taken, or the call would stop quartermaster itself
        │   ├── NameTaken              another run has the name
        │   └── PortTaken              another service publishes the port
        ├── PayloadTooLarge   413
        ├── KeyReused         422  an Idempotency-Key was used with another body
        ├── TooManyConnections 429  open websockets, event streams and waiting calls
        ├── TooManyReaders    429  logs being read
        ├── TooManyRuns       429  runs that one token started within a minute
        ├── TooManyCalls      429  concurrent calls of one token; nothing was sent
        ├── TooManyUnread     429  unread answers of one token
        ├── TooManyBodies     429  bodies of calls in flight
        ├── TooManyWrongTokens 429  invalid tokens from one address
        ├── CallFailed             a call of a function failed; has a reason
        │   ├── CallRefused        no instance got it; says when to try again
        │   │   ├── QueueFull  429  too many calls wait for an instance
        │   │   ├── NoInstance 503  no instance became free in time
        │   │   └── CannotStart 503 no instance can start; 502 if that does not change by itself
        │   ├── FunctionFailed 502  the function raised
        │   ├── ReplayedFailure        any of these, of an earlier call with the same key
        │   ├── UrlFailed              any of these, as the caller of a function URL is told
        │   ├── InvalidResponse 502 a function URL's answer is no HTTP response
        │   ├── InstanceDied   502  its instance ended with the call in its hands
        │   └── CallTimedOut   504  it took longer than the function's timeout
        ├── JournalUnwritable 507  the journal cannot be read or written
        ├── JournalFull       507  what waits in the journal takes all the room that it may
        ├── EngineRefused     502  Docker refused
        │   └── RegistryRefused    the registry refused, or did not answer although credentials were given
        └── EngineUnavailable 503  try again
            ├── EngineAway         Docker does not answer
            ├── NodeUnreachable    Docker answers, but a task's node does not
            └── NotAManager        Docker answers, but is not a swarm manager

``QmasterError``, ``HttpError``, ``CallFailed`` and ``CallRefused`` are base classes and are never raised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar


class QmasterError(Exception):
    """Base of all errors that quartermaster raises on purpose."""


class ConfigError(QmasterError):
    """An option is missing or wrong; the message names it."""


class HttpError(QmasterError):
    """An error with an HTTP status; ``str(error)`` is for the caller and says what to do."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    headers: ClassVar[Mapping[str, str]] = {}
    of_engine = False  # whether it quotes the engine or the system, and may so name resources of other owners

    @property
    def members(self) -> dict[str, object]:
        """Return what the answer has in addition to the keys of every error."""
        return {}


class BadRequest(HttpError):
    """The request is wrong; the message names the field."""

    status = HTTPStatus.BAD_REQUEST


class Unauthorized(HttpError):
    """The token is missing or invalid."""

    status = HTTPStatus.UNAUTHORIZED
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer realm="quartermaster"'}


class Forbidden(HttpError):
    """The token may not do this."""

    status = HTTPStatus.FORBIDDEN


class NotFound(HttpError):
    """Nothing has this name, id or path."""

    status = HTTPStatus.NOT_FOUND


class Conflict(HttpError):
    """A name is taken, or the call would stop quartermaster itself."""

    status = HTTPStatus.CONFLICT


class NameTaken(Conflict):
    """Another run has the name."""


class PortTaken(Conflict):
    """Another service publishes the port."""


class PayloadTooLarge(HttpError):
    """The body is too large."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    headers: ClassVar[Mapping[str, str]] = {"Connection": "close"}


class KeyReused(HttpError):
    """An ``Idempotency-Key`` was used with another body."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class TooManyConnections(HttpError):
    """Too many connections are open."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "10"}


class TooManyReaders(HttpError):
    """Too many logs are being read."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "10"}


class TooManyRuns(HttpError):
    """The token has started too many runs within a minute; ``seconds`` until it may start another."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail)
        self.headers = {"Retry-After": str(seconds)}  # type: ignore[misc]  # differs between instances only here


class TooManyCalls(HttpError):
    """The call found no free slot of quartermaster's own; this says nothing about the engine or a registry."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class TooManyUnread(HttpError):
    """Too many bytes of answers to the token are unread."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class TooManyBodies(HttpError):
    """Too many bytes of bodies are in flight."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class TooManyWrongTokens(HttpError):
    """Too many invalid tokens came from the address."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "3"}


class JournalUnwritable(HttpError):
    """The journal cannot be read or written."""

    status = HTTPStatus.INSUFFICIENT_STORAGE
    of_engine = True  # the message has the path of the file


class JournalFull(HttpError):
    """Calls that wait take as much of the journal as they may."""

    status = HTTPStatus.INSUFFICIENT_STORAGE
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "30"}


class EngineRefused(HttpError):
    """Docker refused the request."""

    status = HTTPStatus.BAD_GATEWAY
    of_engine = True


class RegistryRefused(EngineRefused):
    """The registry refused, before anything was created."""


class EngineUnavailable(HttpError):
    """Docker is not available now."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    of_engine = True
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "2"}


class EngineAway(EngineUnavailable):
    """Docker does not answer."""


class NodeUnreachable(EngineUnavailable):
    """Docker answers, but the node of a task does not."""


class NotAManager(EngineUnavailable):
    """Docker answers, but it is not a swarm manager."""


# Reasons for which an instance does not start now, but may without a new version.
_TRANSIENT = frozenset({"engine", "node_down", "policy", "unschedulable"})


class CallFailed(HttpError):
    """A call of a function failed; ``reason`` is the word for why, in answers, metrics and the log."""

    reason = "error"

    @property
    def members(self) -> dict[str, object]:
        return {"reason": self.reason}


class CallRefused(CallFailed):
    """No instance got the call; it may be made again after ``seconds``."""

    def __init__(self, detail: str, seconds: float = 1) -> None:
        super().__init__(detail)
        self.headers = {"Retry-After": str(max(1, math.ceil(seconds)))}  # type: ignore[misc]  # as in TooManyRuns


class QueueFull(CallRefused):
    """As many calls wait for an instance of the function as may."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    reason = "queue_full"


class NoInstance(CallRefused):
    """No instance became free within the function's timeout."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    reason = "no_instance"


class CannotStart(CallRefused):
    """No instance of the function can start; ``reason`` is the run's, or ``init_error``, ``init_timeout``, ``policy``.

    Args:
        detail: what is wrong.
        reason: the word for it.
        seconds: until the next start is tried.
        of_engine: whether the message quotes the engine.
    """

    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, detail: str, reason: str, seconds: float = 1, of_engine: bool = False) -> None:
        super().__init__(detail, seconds)
        self.reason = reason
        self.of_engine = of_engine
        if reason not in _TRANSIENT:
            self.status = HTTPStatus.BAD_GATEWAY  # type: ignore[misc]  # differs between instances only here


class FunctionFailed(CallFailed):
    """The function raised.

    Args:
        error_type: the function's word for the error.
        error_message: its message.
        stack: its stack, a line or frame each.
        document: the error as the function's runtime sent it.
    """

    status = HTTPStatus.BAD_GATEWAY
    reason = "function_error"

    def __init__(self, error_type: str, error_message: str, stack: Sequence[str] = (), document: bytes = b"") -> None:
        super().__init__(f"the function failed: {error_type}: {error_message}")
        self.error_type = error_type
        self.error_message = error_message
        self.stack = list(stack)
        self.document = document

    @property
    def members(self) -> dict[str, object]:
        return {
            **super().members,
            "error_type": self.error_type,
            "error_message": self.error_message,
            "stack": self.stack,
        }


class InvalidResponse(CallFailed):
    """The answer of a function URL describes no HTTP response."""

    status = HTTPStatus.BAD_GATEWAY
    reason = "invalid_response"


class ReplayedFailure(CallFailed):
    """The failure of an earlier call with the same ``Idempotency-Key``.

    Args:
        detail: its message.
        status: its HTTP status.
        members: its members.
    """

    def __init__(self, detail: str, status: int, members: Mapping[str, object]) -> None:
        super().__init__(detail)
        self.status = HTTPStatus(status)  # type: ignore[misc]  # of the failure
        self.reason = str(members.get("reason", self.reason))
        self._members = dict(members)

    @property
    def members(self) -> dict[str, object]:
        return self._members


class UrlFailed(CallFailed):
    """A call through a function URL failed: the status and reason of ``error``, without what its owner alone may know.

    Args:
        error: why it failed; the log has its message.
    """

    def __init__(self, error: CallFailed) -> None:
        super().__init__("the function gave no answer; its owner finds the reason in the log, by this request's id")
        self.status = error.status  # type: ignore[misc]  # of the error, as are the next two
        self.headers = error.headers  # type: ignore[misc]
        self.reason = error.reason


class InstanceDied(CallFailed):
    """The instance ended with the call in its hands. The call may have had effects, so it is not made again.

    Args:
        detail: what happened.
        exit_code: of the instance; None: unknown.
        last_lines: the end of its output.
    """

    status = HTTPStatus.BAD_GATEWAY
    reason = "instance_died"

    def __init__(self, detail: str, exit_code: int | None = None, last_lines: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
        self.last_lines = list(last_lines)

    @property
    def members(self) -> dict[str, object]:
        return {**super().members, "exit_code": self.exit_code, "last_lines": self.last_lines}


class CallTimedOut(CallFailed):
    """The call took longer than the function's timeout."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    reason = "timeout"


def problem(status: int, detail: str, request_id: str, members: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Return the body of an error: quartermaster's own keys and those of RFC 9457.

    Args:
        status: the HTTP status.
        detail: what is wrong and what to do.
        request_id: the ``X-Request-ID`` of the request.
        members: further keys of this error.
    """
    return {
        "success": False,
        "error": detail,
        "code": status,
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request_id,
        **(members or {}),
    }
