"""Every error a caller may be told of, with its HTTP status; one renderer turns them into an answer.

    QmasterError
    ├── ConfigError           the process cannot start (exit code 2)
    └── HttpError             has a status
        ├── BadRequest        400  what was sent is wrong; names the field
        ├── Unauthorized      401  no token, or an invalid one
        ├── Forbidden         403  known, but not allowed
        ├── NotFound          404
        ├── Conflict          409  a name is taken, or it would end or replace quartermaster itself
        │   └── PortTaken              another service has published the port
        ├── PayloadTooLarge   413
        ├── KeyReused         422  an Idempotency-Key comes with another body
        ├── TooManyConnections 429  connections that stay open
        ├── TooManyReaders    429
        ├── TooManyRuns       429  of one token, in a minute
        ├── TooManyCalls      429  of one token, at once: nothing was sent
        ├── TooManyUnread     429  answers of one token that nobody reads
        ├── TooManyWrongTokens 429  from one address
        ├── JournalUnwritable 507  what would be promised could not be kept
        ├── EngineRefused     502  Docker answered, and said no
        │   └── RegistryRefused    the registry said no, or said nothing although credentials were given
        └── EngineUnavailable 503  try again
            ├── EngineAway         no answer from Docker
            ├── NodeUnreachable    Docker answers, but not the node of a task
            └── NotAManager        Docker answers, but is not a swarm manager

``QmasterError`` and ``HttpError`` are never raised themselves.
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
    of_engine = False  # whether it holds words of the engine's or the system's, which may name other people's things


class BadRequest(HttpError):
    """What was sent is wrong; the message names the field."""

    status = HTTPStatus.BAD_REQUEST


class Unauthorized(HttpError):
    """There is no token, or an invalid one."""

    status = HTTPStatus.UNAUTHORIZED
    headers: ClassVar[Mapping[str, str]] = {"WWW-Authenticate": 'Bearer realm="quartermaster"'}


class Forbidden(HttpError):
    """The token may not do this."""

    status = HTTPStatus.FORBIDDEN


class NotFound(HttpError):
    """There is nothing of this name, id or path."""

    status = HTTPStatus.NOT_FOUND


class Conflict(HttpError):
    """A name is taken, or quartermaster itself would end or be replaced."""

    status = HTTPStatus.CONFLICT


class PortTaken(Conflict):
    """Another service has published the port."""


class PayloadTooLarge(HttpError):
    """The body is too large."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    headers: ClassVar[Mapping[str, str]] = {"Connection": "close"}


class KeyReused(HttpError):
    """An ``Idempotency-Key`` came with another body."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class TooManyConnections(HttpError):
    """Too many connections stay open."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "10"}


class TooManyReaders(HttpError):
    """Too many logs are being read."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "10"}


class TooManyRuns(HttpError):
    """``seconds``: when the next one may be begun."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail)
        self.headers = {"Retry-After": str(seconds)}  # type: ignore[misc]  # of this one: of the others it never differs


class TooManyCalls(HttpError):
    """It waited in a queue of our own: that is no news of the engine, or of a registry."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class TooManyUnread(HttpError):
    """Too much that was answered to the token is unread."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "5"}


class TooManyWrongTokens(HttpError):
    """Too many invalid tokens came from the address."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    headers: ClassVar[Mapping[str, str]] = {"Retry-After": "3"}


class JournalUnwritable(HttpError):
    """The journal cannot keep what would be promised."""

    status = HTTPStatus.INSUFFICIENT_STORAGE
    of_engine = True  # the system says the path of the file


class EngineRefused(HttpError):
    """Docker answered, and refused."""

    status = HTTPStatus.BAD_GATEWAY
    of_engine = True


class RegistryRefused(EngineRefused):
    """Raised before anything is created."""


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
    """The one error shape: quartermaster's own keys and RFC 9457's.

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
