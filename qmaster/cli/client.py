"""HTTP client of quartermaster: calls, and the errors that they end with. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec
from yarl import URL

from .. import __version__
from ..errors import ConfigError, QmasterError
from . import answers

Json = dict[str, Any]
Query = Iterable[tuple[str, str]]

CONNECT_WITHIN = 10.0  # seconds
ANSWER_WITHIN = 60.0  # seconds; the server's own timeouts are shorter
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # detects a host that vanished in a minute
ENDED = frozenset({"complete", "failed", "removed"})
LOOK_AGAIN = 0.5  # seconds


class ClientError(QmasterError):
    """A call failed; the message says why and what to do."""


class Refused(ClientError):
    """The server answered with an error; the message is the server's, ``document`` the whole answer."""

    def __init__(self, message: str, status: int, document: Json | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.document = document or {}


class Away(ClientError):
    """There was no complete answer; the same call may succeed later."""


class Unreachable(Away):
    """Nothing answered, or something other than quartermaster did, as a proxy does while the server is away."""


class NotQuartermaster(ClientError):
    """A log or a stream is not quartermaster's, so that the same call cannot succeed later."""


class Lost(Away):
    """The connection broke before the answer was complete."""


class Client:
    """Client of a quartermaster; each call opens its own connection.

    Args:
        url: such as ``http://localhost:9090``; a path in it is put before the API's paths.
        token: sent with every call.

    Raises:
        ConfigError: the URL is malformed.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        _check(self.url)
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": f"qmaster/{__version__}"}

    async def call(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        within: float = ANSWER_WITHIN,
    ) -> Json:
        """Make a call, and return the JSON object of its answer, which is of quartermaster's form.

        Args:
            method: the HTTP method.
            path: the path, encoded.
            body: sent as JSON; bytes are sent as they are.
            query: names and values.
            headers: further headers.
            within: seconds until the answer is complete.

        Raises:
            ClientError: there is no answer, or it is an error.
        """
        try:
            async with (
                asyncio.timeout(within),
                self.stream(method, path, body, query=query, headers=headers) as response,
            ):
                document = await response.document()
                with response.must_be_ours():
                    answers.check(path, document, method)
                return document
        except TimeoutError:
            raise Lost(f"{self.url} did not answer within {within:g} s") from None

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Response]:
        """Make a call whose answer is read as it arrives; leaving the context ends it. Bytes are sent as they are.

        Raises:
            ClientError: there is no answer, or it is an error.
        """
        url = URL(f"{self.url}{path}?{urlencode(list(query))}".removesuffix("?"), encoded=True)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
        async with self._session() as session:
            with self._failures():
                answer = await session.request(
                    method, url, data=data, headers={**self._headers, **kind, **(headers or {})}, allow_redirects=False
                )
            response = Response(answer, self.url, self._failures)
            try:
                await response.check()
                yield response
            finally:
                answer.close()

    def _session(self) -> aiohttp.ClientSession:
        # No force_close: a session waits until its connections are closed, but not for one that it gave up before. Over
        # TLS that one stays open until the server ends it too.
        # aiohttp's default context is made at import, before SSL_CERT_FILE is read.
        tls = ssl.create_default_context() if self.url.startswith("https:") else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, socket_factory=_socket),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_WITHIN),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding",),
        )

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Translate aiohttp's errors."""
        try:
            yield
        except aiohttp.ClientConnectorCertificateError as error:
            reason = getattr(error.certificate_error, "verify_message", error.certificate_error)
            raise Unreachable(f"{self.url}: {reason}; for a private CA, set SSL_CERT_FILE") from None
        except (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
            UnicodeError,
        ) as error:
            raise Unreachable(
                f"nothing answers at {self.url} ({_reason(error)}): is quartermaster running there? "
                "Set QMASTER_URL to its address"
            ) from None
        except aiohttp.ClientResponseError:  # it is not HTTP
            raise Unreachable(another_server(self.url)) from None
        except aiohttp.ClientError:
            raise Lost(f"the connection to {self.url} broke") from None


class Response:
    """An answer as it arrives."""

    def __init__(
        self, answer: aiohttp.ClientResponse, url: str, failures: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        self._answer = answer
        self._url = url
        self._failures = failures

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body; the connection is read at the consumer's pace.

        Raises:
            Lost: the connection broke.
        """
        with self._failures():
            async for piece in self._answer.content.iter_any():
                yield piece

    async def document(self) -> Json:
        """Return the body as a JSON object.

        Raises:
            Unreachable: it is not one, so something other than quartermaster answered.
        """
        body = b"".join([piece async for piece in self.pieces()])
        with self.must_be_ours():
            return msgspec.json.decode(body, type=Json)

    def require(self, media_type: str) -> None:
        """Check the type of a log or a stream before it is read.

        Raises:
            Unreachable: it is another, so something other than quartermaster answered.
        """
        if self._answer.content_type != media_type:
            raise Unreachable(another_server(self._url, self._answer.status))

    @contextlib.contextmanager
    def must_be_ours(self) -> Iterator[None]:
        """Translate the errors of an answer that is not of quartermaster's form.

        Raises:
            Unreachable: it is not.
        """
        try:
            yield
        except msgspec.MsgspecError:
            raise Unreachable(another_server(self._url, self._answer.status)) from None

    async def check(self) -> None:
        """Raise the error that the server answered, if any."""
        status = self._answer.status
        if status >= HTTPStatus.BAD_REQUEST:
            document = await self.document()
            with self.must_be_ours():
                error = answers.error(document)
            if status == HTTPStatus.UNAUTHORIZED:
                error = f"{self._url}: {error}; set TOKEN, or TOKEN_FILE, to the server's token"
            raise Refused(error, status, document)


def another_server(url: str, status: int | None = None) -> str:
    """Return the message that something other than quartermaster answered."""
    shown = f" (status {status})" if status else ""
    return f"what answers at {url} is not quartermaster{shown}: set QMASTER_URL to its address"


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigError(f"--url: {url!r} is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--url: expected http://host:port or https://host:port; got {url!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("--url: expected a host, a port and a path only; the token goes into TOKEN or TOKEN_FILE")


def _reason(error: Exception) -> str:
    """Return the system's message; asyncio's own has an address in it."""
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None) or 0
    return os.strerror(number) if number > 0 else getattr(cause, "strerror", None) or "no answer"


def _socket(address: Any) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not on every platform
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
