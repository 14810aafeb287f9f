"""Base of all handlers: the request's id, the bounded body, the caller's identity, and the form of errors."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, Literal, TypeVar, cast
from urllib.parse import parse_qs, unquote

import msgspec
import structlog
from tornado import web
from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream, StreamClosedError

from .. import limiter
from ..auth import policy
from ..auth.authenticator import Authenticator, Identity
from ..auth.tokens import Scope
from ..errors import BadRequest, Forbidden, HttpError, NotFound, PayloadTooLarge, problem
from ..events.unsent import SMALL, Unsent
from ..models import requests
from ..models.credentials import REDACTED
from ..models.responses import mask
from ..models.validation import quote
from . import cors
from .limits import MAX_READ, UNREAD, set_reader_timeout

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
NO_TOKEN_IN_URL = "a token in a URL is not accepted, as URLs are logged; send 'Authorization: Bearer …'"  # noqa: S105
_TOKEN_PARAMETERS = frozenset({"token", "access_token", "auth", "authorization"})

MAX_DIGITS = 18
SHORTEST_HIDDEN = 8  # characters of a token: a shorter one would match parts of words
MAX_PARAMETERS = 50  # of a query
LARGE = 1024  # bytes of a body that is checked in a turn of its own
SLICE = 64 * 1024  # bytes of an answer that is built piece by piece, until it is written
AT_ONCE = 1024 * 1024  # bytes of a finished answer that are written at once; the kernel takes them in about 1 ms
READ_WITHIN = 5.0  # seconds that the reader of a large answer may make no progress
# Looked up once: an enum computes a member at each access, and each request needs several.
OK, FAILED = HTTPStatus.OK, HTTPStatus.INTERNAL_SERVER_ERROR
REFUSALS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})

Needs = Scope | Literal["root"]
T = TypeVar("T")

# Every answer tells a browser not to store it, guess its type, run or load anything in it, or frame it.
HEADERS = {
    "Server": "quartermaster",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

log = structlog.get_logger(__name__)


@web.stream_request_body
class BaseHandler(web.RequestHandler):
    """A handler with a bounded body and one form of errors."""

    ANY_HOST = False  # whether it answers to host names that --allow-host does not list
    IS_SHARED = True  # whether pages of the origins in --allow-origin may read its answers
    IS_KEPT = False  # whether clients may store the answer, so that it has an Etag
    IS_PROBE = False  # whether it is called every few seconds, so that its successes are not logged
    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    def _set_up(self, auth: Authenticator, busy: set[object]) -> None:
        self._auth = auth
        self._busy = busy
        self._begun = False
        self._prepared = False
        self._chunks: list[bytes] = []
        self._received = 0
        self.by: str | None = None  # the name of the caller's token, once it is known
        self.failure: str | None = None  # why the request was refused, or failed; for the log
        self._tokens: list[str] = []  # the tokens of the request, valid or not
        self._sent: dict[str, Any] = {}  # the decoded body, once it is known
        self._sees_all = False  # whether the token is the root token

    initialize: Callable[..., None] = _set_up

    def set_default_headers(self) -> None:
        if not hasattr(self, "request_id"):  # an error sets the headers again, but keeps the id
            given = self.request.headers.get("X-Request-ID", "")
            self.request_id = given if _REQUEST_ID.fullmatch(given) else random.randbytes(16).hex()  # noqa: S311
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.set_header("X-Request-ID", self.request_id)
        if self.IS_SHARED:
            for name, value in cors.of_answer(self.request.headers, self.settings.get("origins", ())).items():
                self.set_header(name, value)

    def prepare(self) -> None:
        self._busy.add(self)
        structlog.contextvars.bind_contextvars(request=self.request_id, remote=self.request.remote_ip)
        self._refuse_host()
        if not self.is_preflight():
            self.check_head()
        self._prepared = True

    def is_preflight(self) -> bool:
        """Return whether a browser asks whether a page of another origin may make a call."""
        return self.IS_SHARED and cors.is_preflight(self.request.method, self.request.headers)

    def answer_preflight(self, *args: str) -> None:
        """Answer a preflight; another request with OPTIONS is refused.

        Raises:
            Forbidden: pages of this origin may not call.
        """
        if not self.is_preflight():
            raise web.HTTPError(HTTPStatus.METHOD_NOT_ALLOWED)
        if not cors.may_read(self.request.headers, self.settings.get("origins", ())):
            raise Forbidden("pages of this origin may not call; see --allow-origin")
        for name, value in cors.PREFLIGHT.items():
            self.set_header(name, value)
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()

    options: Callable[..., Any] = answer_preflight

    def check_head(self) -> None:
        """Check the request before its body is read.

        Raises:
            BadRequest: the body is compressed, or the URL has a token.
            PayloadTooLarge: the body is over ``MAX_READ`` bytes.
        """
        self.refuse_encoding()
        if self.content_length() > MAX_READ:
            raise _too_large()  # before Tornado answers 400, and without reading it
        self.refuse_token_in_url()

    def refuse_encoding(self) -> None:
        """Raise BadRequest if the body is compressed."""
        if self.request.headers.get("Content-Encoding", "").lower() not in ("", "identity"):
            raise BadRequest("the header Content-Encoding is not supported; send the body uncompressed")

    def refuse_token_in_url(self) -> None:
        """Raise BadRequest if the query has a token, which would be logged with the URL."""
        if self._token_in_url():
            raise BadRequest(NO_TOKEN_IN_URL)

    def content_length(self) -> int:
        """Return the announced size of the body; 0 if there is none, or it is no number, which Tornado refuses."""
        length = self.request.headers.get("Content-Length", "")
        return int(length[:MAX_DIGITS]) if length.isascii() and length.isdigit() else 0

    def data_received(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received <= requests.MAX_BODY:
            self._chunks.append(chunk)

    def on_finish(self) -> None:
        self._busy.discard(self)

    def on_connection_close(self) -> None:
        # Ends the wait for a body that will never be complete; a websocket's own method leaves this out.
        web.RequestHandler.on_connection_close(self)
        if not self._begun:  # a call that has begun continues without its client
            self._busy.discard(self)

    def document(self) -> dict[str, Any]:
        """Return the body as a JSON object; ``{}`` if there is none.

        Raises:
            BadRequest: it is not a JSON object.
            PayloadTooLarge: it is over ``MAX_BODY`` bytes.
        """
        if self._received > requests.MAX_BODY:
            raise _too_large()
        self._begun = True
        body = b"".join(self._chunks)
        return requests.decode_object(body) if body else {}

    async def checked(self, check: Callable[[], T]) -> T:
        """Return the request of a body. Large bodies are checked one per turn of the loop, token by token.

        Splitting a command of 32 KiB into words takes 25 ms; a hundred of them in one turn would block the loop.
        """
        if self._received <= LARGE:
            return check()
        checks: limiter.FairLimiter = self.settings["checks"]
        async with checks.slot():
            await asyncio.sleep(0)
            return check()

    def identify(self, document: dict[str, Any], needs: Needs) -> Identity:
        """Return who is asking, and remove ``token`` from the body.

        Args:
            document: the decoded body.
            needs: the scope that the call needs, or ``root`` if it needs the root token.

        Raises:
            BadRequest: a token is malformed, or two differ.
            Unauthorized: there is no valid token.
            TooManyWrongTokens: too many invalid tokens came from this address.
            Forbidden: the token lacks the scope.
        """
        header, token = self.authorization(), document.pop("token", None)
        self._sent = document
        self._tokens = [(header or "").partition(" ")[2].strip(), str(token or "")]
        return self._admit(header, token, needs)

    def authorization(self) -> str | None:
        """Return the header ``Authorization``; None if there is none.

        Raises:
            BadRequest: there are several.
        """
        headers = self.request.headers.get_list("Authorization")
        if len(headers) > 1:
            raise BadRequest(f"expected one header Authorization; got {len(headers)}")
        return headers[0] if headers else None

    def words_of(self, error: HttpError) -> str:
        """Return the message of an error for the caller; an engine's message is masked."""
        cause = error.__cause__
        of_engine = error.of_engine or (isinstance(cause, HttpError) and cause.of_engine)
        return self.of_engine(str(error)) if of_engine else str(error)

    def of_engine(self, text: str) -> str:
        """Return an engine's message for the caller; only the root token sees the names of other owners' things."""
        return text if self._sees_all else mask(text, [self._sent, unquote(self.request.path)])

    def without_token(self, text: str) -> str:
        """Return a text for the log without the caller's token, which may be in a name or a path.

        The redaction of the log does not know every token.
        """
        for token in self._tokens:
            if len(token) >= SHORTEST_HIDDEN:
                text = text.replace(token, REDACTED)
        return text

    def reauthorize(self, identity: Identity, needs: Needs) -> Identity:
        """Return the identity as its token is now; the tokens may have changed since the call began.

        Raises:
            Unauthorized: the token is no longer valid.
            Forbidden: the token lacks the scope.
        """
        return _entitled(self._auth.current(identity), needs)

    def _admit(self, header: str | None, body_token: object, needs: Needs) -> Identity:
        identity = self._auth.identify(header, body_token, self.request.remote_ip or "")
        self.by, self._sees_all = identity.name, identity.grant is None
        limiter.act_for(identity.name)
        return _entitled(identity, needs)

    def parameters(self, *known: str) -> dict[str, list[str]]:
        """Return the query's parameters.

        Raises:
            BadRequest: the query is malformed, or has a parameter that is not in ``known``.
        """
        if not self.request.query:
            return {}
        try:
            parameters = parse_qs(
                self.request.query, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
            )
        except ValueError:
            raise BadRequest(
                f"the query is malformed: expected UTF-8 and at most {MAX_PARAMETERS} parameters"
            ) from None
        for name in parameters.keys() - set(known):
            raise BadRequest(f"unknown query parameter {quote(name)}; known: {', '.join(known) or 'none'}")
        return parameters

    def compute_etag(self) -> str | None:
        return super().compute_etag() if self.IS_KEPT else None

    async def answer(self, document: object, status: HTTPStatus = OK) -> None:
        """Send a document as JSON."""
        self.set_status(int(status))
        self.set_header("Content-Type", "application/json")
        await self.send(msgspec.json.encode(document) + b"\n")

    async def send(self, body: bytes) -> None:
        """Send the whole body, and wait until the client has taken a large one.

        Raises:
            TooManyUnread: the token has too many unread bytes.
        """
        if len(body) <= SMALL or self.request.method == "HEAD":
            self.finish(body)
            return
        self.require_read(len(body))
        await self.send_slices(body)

    async def send_slices(self, body: bytes) -> None:
        """Send the whole body in slices, at the client's pace."""
        self.set_header("Content-Length", len(body))
        with self.unread(len(body)):
            await self.flush()  # the header fields; with a body, Tornado would copy it behind them
            for start in range(0, len(body), AT_ONCE):
                self.write(body[start : start + AT_ONCE])  # not a copy if it is all of the body
                await self.pass_on()
            await self.finish()

    async def pass_on(self) -> None:
        """Flush what was written at the client's pace, and let other handlers run.

        Raises:
            StreamClosedError: the client has disconnected.
        """
        await self.flush()
        await asyncio.sleep(0)

    @contextlib.contextmanager
    def large_answer(self, size: int) -> Iterator[None]:
        """Count ``size`` bytes as unread by the token meanwhile; a client that makes no progress is disconnected.

        Raises:
            TooManyUnread: the token has too many unread bytes.
        """
        self.require_read(size)
        with self.unread(size):
            yield

    def require_read(self, size: int) -> None:
        """Require that the client has read its earlier answers.

        Raises:
            TooManyUnread: the token has too many unread bytes, with ``size`` more.
        """
        unsent: Unsent = self.settings["unsent"]
        unsent.require(self.reader, size)

    @contextlib.contextmanager
    def unread(self, size: int) -> Iterator[None]:
        """Count ``size`` bytes as unread, without a limit; a client that makes no progress is disconnected."""
        unsent: Unsent = self.settings["unsent"]
        stream = self.client_stream
        set_reader_timeout(stream, READ_WITHIN)
        try:
            with contextlib.suppress(StreamClosedError), unsent.hold(self.reader, size):
                yield
        finally:
            set_reader_timeout(stream, UNREAD)  # the connection may serve a wait or a stream next
        if isinstance(stream.error, TimeoutError):
            log.warning("slow_reader_cut", request=self.request_id, by=self.reader, unsent=size)

    @property
    def reader(self) -> str:
        """The owner of unread bytes: the token, or without one the address."""
        return self.by or f"address {self.request.remote_ip}"

    @property
    def client_stream(self) -> IOStream:
        """The stream of the client's connection, which a websocket may take over."""
        return cast(HTTP1Connection, self.request.connection).stream

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with an error; no other place does."""
        _, error, _ = kwargs.get("exc_info", (None, None, None))
        if not isinstance(error, HttpError):
            error = None
        if error is not None:
            status, detail, headers = int(error.status), self.words_of(error), error.headers
        else:
            status, detail, headers = status_code, self._default_detail(status_code), {}
        self.failure = self.without_token(str(error) if error is not None else detail)
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        if not self._prepared:  # Tornado then reads no body, and closes the connection
            self.set_header("Connection", "close")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join(self._allowed()))
        self.finish(self.render_error(status, detail, error))

    def render_error(self, status: int, detail: str, error: HttpError | None) -> bytes:
        """Return the body of an error, and set its content type."""
        self.set_header("Content-Type", "application/problem+json")
        return msgspec.json.encode(problem(status, detail, self.request_id, error.members if error else {})) + b"\n"

    def log_refusal(self, code: int, reason: str) -> None:
        """Log the refusal of a stream that has begun; ``code`` is the HTTP status or the close code."""
        if not self.settings["lines"].allows("refused", self.by, self.request.remote_ip):
            return
        log.warning(
            "refused",
            request=self.request_id,
            remote=self.request.remote_ip,
            by=self.by,
            method=self.request.method,
            path=_shown_path(self),
            code=code,
            reason=reason,
        )

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, HttpError | web.HTTPError | StreamClosedError):
            log.error("request_failed", exc_info=(typ, value, tb))

    def _allowed(self) -> list[str]:
        """Return the methods that this handler overrides; Tornado's own answer 405."""
        names = {method: method.lower() for method in self.SUPPORTED_METHODS}
        return [method for method, name in names.items() if getattr(type(self), name) is not getattr(BaseHandler, name)]

    def _default_detail(self, status: int) -> str:
        if status == FAILED:
            return "quartermaster failed; its log has the reason, with this request's id"
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            return f"{self.request.method} is not allowed here; allowed: {', '.join(self._allowed())}"
        return HTTPStatus(status).description or HTTPStatus(status).phrase

    def _refuse_host(self) -> None:
        """Refuse unlisted host names: a page in a DNS rebinding attack calls with its own name."""
        allowed = self.settings.get("hosts")
        if allowed and not self.ANY_HOST and self.request.host_name.lower() not in allowed:
            raise Forbidden("this host name is not served; see --allow-host")

    def _token_in_url(self) -> bool:
        if not self.request.query:
            return False
        names = parse_qs(self.request.query, keep_blank_values=True, errors="replace")
        return any(name.lower() in _TOKEN_PARAMETERS for name in names)


class NotFoundHandler(BaseHandler):
    """Answers 404 for every path that is not a route."""

    def _nothing(self, *args: str, **kwargs: str) -> None:
        if not self.is_preflight():
            raise NotFound("no such path; see GET /openapi.json")
        self.answer_preflight()  # so that a page can read the 404

    head = get = post = delete = patch = put = options = _nothing


def log_request(handler: web.RequestHandler) -> None:
    """Log one line for each request, except successful probes; it has no query, body or header.

    ``LineLimit`` bounds the lines of refused requests, and of those without a valid token.
    """
    status, by = handler.get_status(), getattr(handler, "by", None)
    if status == OK and getattr(handler, "IS_PROBE", False):
        return
    limited = (by is None and status != FAILED) or status in REFUSALS
    if limited and not handler.settings["lines"].allows("request", by, handler.request.remote_ip):
        return
    failure = getattr(handler, "failure", None)
    _write_for(status)(
        "request",
        request=getattr(handler, "request_id", None),
        method=handler.request.method,
        path=_shown_path(handler),
        status=status,
        duration_ms=round(handler.request.request_time() * 1000, 2),
        remote=handler.request.remote_ip,
        by=by,
        **({"reason": failure} if failure else {}),
        **getattr(handler, "log_fields", {}),
    )


def _write_for(status: int) -> Callable[..., Any]:
    """Return the log method: error for a 500, warning for a refusal and for a failed engine, registry or disk."""
    if status == FAILED:
        return log.error  # type: ignore[no-any-return]
    return log.warning if status > FAILED or status in REFUSALS else log.info  # type: ignore[no-any-return]


def _shown_path(handler: web.RequestHandler) -> str:
    """Return the decoded path without the caller's token."""
    path: str = handler.request.path
    shown = unquote(path, errors="replace") if "%" in path else path
    return handler.without_token(shown) if isinstance(handler, BaseHandler) else shown


def _entitled(identity: Identity, needs: Needs) -> Identity:
    if needs == "root":
        policy.require_root(identity.grant, "this is")
    else:
        policy.require(identity.grant, needs)
    return identity


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is over {requests.MAX_BODY} bytes")
