"""All errors that an answer may carry, each with its HTTP status; one renderer turns them into answers.

    QmasterError
    ├── ConfigError           the process cannot start (exit code 2)
    └── HttpError             has a status
        ├── BadRequest        400  what was sent is wrong; names the field
        ├── Unauthorized      401  no token, or an invalid one
        ├── Forbidden         403  known, but not allowed
        ├── NotFound          404
        ├── Conflict          409  a name is taken, or the call would stop quartermaster itself
        │   └── PortTaken              another service publishes the port
        ├── PayloadTooLarge   413
        ├── KeyReused         422  an Idempotency-Key was used with another body
        ├── TooManyConnections 429  open websockets, event streams and waiting calls
        ├── TooManyReaders    429  logs being read
        ├── TooManyRuns       429  runs that one token started within a minute
        ├── TooManyCalls      429  concurrent calls of one token; nothing was sent
        ├── TooManyUnread     429  unread answers of one token
        ├── TooManyWrongTokens 429  invalid tokens from one address
        ├── JournalUnwritable 507  the journal cannot be read or written
        ├── EngineRefused     502  Docker refused
        │   └── RegistryRefused    the registry refused, or did not answer although credentials were given
        └── EngineUnavailable 503  try again
            ├── EngineAway         Docker does not answer
            ├── NodeUnreachable    Docker answers, but a task's node does not
            └── NotAManager        Docker answers, but is not a swarm manager

``QmasterError`` and ``HttpError`` are base classes and are never raised.
"""

from __future__ import annotations

from collections.abc import Mapping
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


class TooManyWrongTokens(HttpError):
    """Too many invalid tokens came from the address."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "3"}


class JournalUnwritable(HttpError):
    """The journal cannot be read or written."""

    status = HTTPStatus.INSUFFICIENT_STORAGE
    of_engine = True  # the message has the path of the file


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


def problem(status: int, detail: str, request_id: str) -> dict[str, Any]:
    """Return the body of an error: quartermaster's own keys and those of RFC 9457.

    Args:
        status: the HTTP status.
        detail: what is wrong and what to do.
        request_id: the ``X-Request-ID`` of the request.
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
    }
