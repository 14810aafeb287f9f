"""HTTP to a quartermaster: a connection a call, its answer as a document or in pieces as they come. Loop only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import HTTPHeaders, HTTPInputError, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient

from .. import __version__
from ..errors import ConfigError
from .errors import Lost, Refused, Unreachable

Json = dict[str, Any]
Query = Iterable[tuple[str, str]]

CONNECT_WITHIN = 10.0  # seconds
ANSWER_WITHIN = 60.0  # the server's own bounds are lower
NO_BOUND = 1 << 62  # bytes of an answer: logs have no end
PIECE = 64 * 1024
ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # a host that vanished is noticed within a minute


@dataclass(frozen=True)
class Answer:
    status: int
    document: Json


class Response(HTTPMessageDelegate):
    """An answer as it comes. A piece is read from the connection when the one before it was taken."""

    def __init__(self, name: str) -> None:
        self.status = 0
        self.headers = HTTPHeaders()
        self._name = name
        self._complete = False
        self._begun = asyncio.Event()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(1)

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        if isinstance(start_line, ResponseStartLine) and start_line.code >= HTTPStatus.OK:
            self.status, self.headers = start_line.code, headers
            self._begun.set()

    def data_received(self, chunk: bytes) -> Any:
        return self._pieces.put(chunk)

    def finish(self) -> None:
        self._complete = True

    async def read_from(self, connection: HTTP1Connection) -> None:
        with contextlib.suppress(StreamClosedError, HTTPInputError):
            await connection.read_response(self)
        self._begun.set()
        await self._pieces.put(None)

    async def begun(self) -> None:
        await self._begun.wait()
        if not self.status:
            raise Lost(f"{self._name} broke the connection off before it answered")

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body.

        Raises:
            Lost: it broke off.
        """
        while (piece := await self._pieces.get()) is not None:
            yield piece
        if not self._complete:
            raise Lost(f"the connection to {self._name} broke")

    async def document(self) -> Json:
        """The body as a JSON object.

        Raises:
            Unreachable: it is none, so it is not quartermaster that answered.
        """
        body = b"".join([piece async for piece in self.pieces()])
        with contextlib.suppress(ValueError):
            document = json.loads(body)
            if isinstance(document, dict):
                return document
        other = f"something else than quartermaster answers at {self._name} ({self.status})"
        raise Unreachable(f"{other}: QMASTER_URL names another")

    async def check(self) -> None:
        """Raise what the server refused it with, if it did."""
        if self.status >= HTTPStatus.BAD_REQUEST:
            error = str((await self.document()).get("error", HTTPStatus(self.status).phrase))
            if self.status == HTTPStatus.UNAUTHORIZED:
                error = f"{self._name}: {error}; set TOKEN, or TOKEN_FILE, to the server's token"
            raise Refused(error, self.status)


class Api:
    """A quartermaster at a URL.

    Args:
        url: where it is, for instance ``http://localhost:9090``; a path in front of its own is kept.
        token: sent with every call.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._host, self._port, self._tls, self._path, self._authority = _split(self.url)
        self._token = token.encode().decode("latin-1")  # a header's bytes: the server reads them as UTF-8

    async def ask(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        within: float = ANSWER_WITHIN,
    ) -> Answer:
        """One call.

        Args:
            within: seconds until the whole answer is there.

        Raises:
            ClientError: there is none, or it says no.
        """
        try:
            async with asyncio.timeout(within), self.open(method, path, body, query, headers) as response:
                await response.check()
                return Answer(response.status, await response.document())
        except TimeoutError:
            raise Lost(f"{self.url} did not answer within {within:g} s") from None

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Response]:
        """One call whose answer is read as it comes; leaving the context ends it."""
        stream = await self._connect()
        connection = HTTP1Connection(
            stream, is_client=True, params=HTTP1ConnectionParameters(max_body_size=NO_BOUND, chunk_size=PIECE)
        )
        response = Response(self.url)
        data = None if body is None else json.dumps(body).encode()
        connection.write_headers(self._start(method, path, query), self._headers(data, headers or {}), data)
        connection.finish()
        reading = asyncio.create_task(response.read_from(connection))
        try:
            await response.begun()
            yield response
        finally:
            stream.close()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _start(self, method: str, path: str, query: Query) -> RequestStartLine:
        encoded = urlencode(list(query))
        return RequestStartLine(method, self._path + path + (f"?{encoded}" if encoded else ""), "HTTP/1.1")

    def _headers(self, data: bytes | None, more: Mapping[str, str]) -> HTTPHeaders:
        headers = {"Host": self._authority, "Connection": "close", "User-Agent": f"qmaster/{__version__}"}
        headers["Authorization"] = f"Bearer {self._token}"
        if data is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        return HTTPHeaders({**headers, **more})

    async def _connect(self) -> IOStream:
        tls = ssl.create_default_context() if self._tls else None
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                stream = await TCPClient().connect(self._host, self._port, ssl_options=tls)
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message
            raise Unreachable(f"{self.url}: {reason}: SSL_CERT_FILE names the authority to trust") from None
        except (OSError, StreamClosedError, UnicodeError) as error:
            cause = getattr(error, "real_error", None) or error
            reason = getattr(cause, "strerror", None) or "no answer"
            raise Unreachable(
                f"nothing answers at {self.url} ({reason}): is quartermaster running there? QMASTER_URL names another"
            ) from None
        _keep_alive(stream)
        return stream


def _split(url: str) -> tuple[str, int, bool, str, str]:
    """Host, port, whether it is HTTPS, path, and what ``Host`` says."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise ConfigError(f"--url: {url!r} is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--url: expected http://host:port or https://host:port, not {url!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("--url: holds more than a host, a port and a path; the token is in TOKEN or TOKEN_FILE")
    return parts.hostname, port, parts.scheme == "https", parts.path, parts.netloc


def _keep_alive(stream: IOStream) -> None:
    if not isinstance(stream.socket, socket.socket):
        return
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in ALIVE.items():
        if hasattr(socket, name):  # not on every platform
            stream.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
