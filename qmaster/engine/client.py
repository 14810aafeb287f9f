"""A client of Docker's HTTP API on one aiohttp session: unix, tcp, TLS, and ssh through a forwarded socket.

Belongs to the event loop. Every failure is raised as an ``HttpError``.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
import docker.tls
import msgspec
import structlog
from yarl import URL

from ..errors import EngineAway, EngineRefused, HttpError
from .endpoint import Endpoint
from .errors import (
    LATE,
    NO_API,
    STOPPING,
    EngineStopping,
    EngineTimeout,
    EngineUnreached,
    refused,
    translate,
)
from .ssh import Tunnel

T = TypeVar("T")
Json = dict[str, Any]
Count = Callable[[str, str, float], None]

CONNECT = 3.0  # seconds to connect
CHUNK = 64 * 1024  # bytes of one read of a stream

_VERSION = re.compile(r"[0-9]+\.[0-9]+")
_OTHER_VERSION = re.compile(rb"client version \S+ is too (?:new|old)")
# No total: each call has its own limit. In a stream, aiohttp does not count the time in which nothing reads.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT)

log = structlog.get_logger(__name__)


class Body:
    """The body of an answer, read in pieces; a slow reader slows the engine. Closed at the end of a ``with`` block."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    async def read(self) -> bytes:
        """Return the next bytes, empty at the end. May be cancelled and called again.

        Raises:
            HttpError: the answer broke off.
        """
        try:
            return await self._response.content.read(CHUNK)
        except Exception as error:  # whatever aiohttp raises becomes an error of ours
            raise translate(error) from error

    def close(self) -> None:
        """Close the connection unless the body was read to its end; may be called again."""
        self._response.close()


class Client:
    """A connection to one engine, opened at the first call.

    ``away`` is the error to raise while the engine is away, else None. ``suspected`` is set when a call got no answer.
    ``Health`` resets both.

    Args:
        count: called after each call with its kind, its outcome (``ok``, ``refused`` by the engine, ``timeout``,
            ``away``, ``cancelled`` by the caller) and its seconds.
    """

    def __init__(self, endpoint: Endpoint, count: Count = lambda kind, outcome, seconds: None) -> None:
        self.away: EngineAway | None = None
        self.suspected = asyncio.Event()
        self._endpoint = endpoint
        self._tunnel = Tunnel(endpoint.base_url or "") if endpoint.is_ssh else None
        self._base = endpoint.url if endpoint.socket is None and self._tunnel is None else "http://docker"
        self._count = count
        self._session: aiohttp.ClientSession | None = None
        self._version = ""  # of the API, from the engine's last answer to a ping
        self._bounds: set[asyncio.Timeout] = set()  # of the calls in flight
        self._stopping = False

    @property
    def address(self) -> str | None:
        """The engine's address for the SDK."""
        return self._endpoint.base_url if self._tunnel is None else f"unix://{self._tunnel.socket}"

    @property
    def tls(self) -> docker.tls.TLSConfig | None:
        """The SDK's TLS options; None without TLS."""
        return self._endpoint.tls

    # -- requests --------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Ping the engine and store the version of its API, which an upgrade changes.

        Raises:
            HttpError: the engine does not answer, or answers with an error.
        """
        response = await self._request("GET", "/_ping")
        said = await _read(response)
        if response.status >= 500:
            raise refused(response.status, said, {}, "/_ping")
        version = response.headers.get("Api-Version", "")
        if response.status != HTTPStatus.OK or not _VERSION.fullmatch(version):
            raise EngineRefused(NO_API)
        self._version = version

    async def api_version(self) -> str:
        """Return the version of the engine's API, such as ``1.45``; ping the engine if it is not known.

        Raises:
            HttpError: the engine does not answer.
        """
        if not self._version:
            await self.ping()
        return self._version

    async def send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send a request and return its answer's body.

        After a disconnect, aiohttp repeats a GET or DELETE once, and never a POST.

        Args:
            method: the HTTP method.
            path: the path after the API version.
            params: the query.
            body: the body, sent as JSON.
            headers: additional headers.
        """
        return await _read(await self._answer(method, path, params, body, headers))

    async def open(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> Body:
        """Send a request and return the unread body of its answer, which the caller closes.

        Args:
            method: the HTTP method.
            path: the path after the API version.
            params: the query.
            headers: additional headers.
            silence: the longest wait for the next bytes, in seconds; None: no limit.
        """
        return Body(await self._answer(method, path, params, None, headers, silence))

    async def connect(self, path: str, params: Mapping[str, str]) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket, which the caller closes.

        Args:
            path: the path after the API version.
            params: the query.
        """
        if not self._version:
            await self.ping()
        url = URL(f"{self._base}/v{self._version}{path}?{urlencode(params)}", encoded=True)
        try:
            return await self._open_session().ws_connect(url)
        except aiohttp.WSServerHandshakeError as error:
            raise EngineRefused(f"the Docker engine did not open {path}: {error.status}") from error
        except Exception as error:  # as in ``_request``
            raise translate(error) from error

    async def _answer(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: object,
        headers: Mapping[str, str] | None,
        silence: float | None = None,
    ) -> aiohttp.ClientResponse:
        if not self._version:
            await self.ping()
        target = f"{path}?{urlencode(params)}" if params else path
        data = None if body is None else msgspec.json.encode(body)
        sent = dict(headers or {}) if data is None else {"Content-Type": "application/json", **(headers or {})}
        for is_last in (False, True):
            response = await self._request(method, f"/v{self._version}{target}", data, sent, silence)
            if 200 <= response.status < 300 or response.status == HTTPStatus.NOT_MODIFIED:  # 304: no change was needed
                return response
            said = await _read(response)
            if is_last or response.status != HTTPStatus.BAD_REQUEST or not _OTHER_VERSION.search(said):
                break
            await self.ping()
        if 300 <= response.status < 400:
            raise EngineRefused(NO_API)
        raise refused(response.status, said, sent, path)

    async def _request(
        self,
        method: str,
        target: str,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> aiohttp.ClientResponse:
        timeout = _TIMEOUT if silence is None else aiohttp.ClientTimeout(None, sock_connect=CONNECT, sock_read=silence)
        try:
            return await self._open_session().request(
                method,
                URL(self._base + target, encoded=True),
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            )
        except Exception as error:  # whatever aiohttp raises becomes an error of ours
            raise translate(error) from error

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            if self._tunnel is not None:
                self._tunnel.start()
            socket = self._endpoint.socket if self._tunnel is None else self._tunnel.socket
            # No limit: a ping would wait behind followed logs, and no timeout covers that wait.
            connector: aiohttp.BaseConnector = (
                aiohttp.TCPConnector(ssl=self._endpoint.ssl_context() or True, limit=0)
                if socket is None
                else aiohttp.UnixConnector(str(socket), limit=0)
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
                trust_env=False,
            )
        return self._session

    # -- limits ----------------------------------------------------------------------------------------------------

    async def bounded(self, call: Awaitable[T], within: float, kind: str, began: float | None = None) -> T:
        """Await a call for at most ``within`` seconds, and count it.

        Args:
            call: the call.
            within: the time limit in seconds.
            kind: the kind for the metrics.
            began: when it began to wait for a slot; default: now.
        """
        began = time.monotonic() if began is None else began
        outcome = "cancelled"
        bound = asyncio.timeout(within)
        try:
            async with bound:
                self._bounds.add(bound)
                answer = await call
            outcome = "ok"
            return answer
        except TimeoutError:
            outcome = "timeout"
            raise EngineTimeout(STOPPING if self._stopping else LATE) from None
        except EngineAway as error:
            outcome = "timeout" if isinstance(error, EngineTimeout) else "away"
            raise
        except HttpError:
            outcome = "refused"
            raise
        finally:
            self._bounds.discard(bound)
            self._count(kind, outcome, time.monotonic() - began)

    def check(self) -> None:
        """Raise if a call cannot succeed: the engine is away, or quartermaster is stopping."""
        if self._stopping:
            raise EngineStopping(STOPPING)
        if self.away is not None:
            raise EngineUnreached(str(self.away))

    def suspect(self, error: EngineAway) -> None:
        """Note that a call got no answer; if nothing listens, the engine is away, else ``Health`` checks at once."""
        if self._stopping:
            return
        if isinstance(error, EngineUnreached):
            self.lose(error)
        self.suspected.set()

    def lose(self, error: EngineAway) -> None:
        """Record that the engine is away."""
        if self.away is None:
            log.warning("engine_away", reason=str(error))
        self.away = error

    def find(self) -> None:
        """Record that the engine answers."""
        if self.away is not None:
            log.info("engine_back")
        self.away = None

    def give_up(self) -> None:
        """Fail all pending calls and refuse new ones, as quartermaster stops."""
        self._stopping = True
        now = asyncio.get_running_loop().time()
        for bound in self._bounds:
            if not bound.expired():
                bound.reschedule(now)

    async def close(self) -> None:
        """Close all connections; pending calls fail, their outcome unknown."""
        self.give_up()
        if self._session is not None:
            await self._session.close()
        if self._tunnel is not None:
            await self._tunnel.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await response.read()
    except Exception as error:  # whatever aiohttp raises becomes an error of ours
        raise translate(error) from error
