"""HTTP client of quartermaster: calls, events and logs, resumed after a broken connection. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec
from yarl import URL

from .. import __version__
from ..errors import ConfigError, QmasterError
from . import answers

Json = dict[str, Any]
Query = Iterable[tuple[str, str]]
T = TypeVar("T")

CONNECT_WITHIN = 10.0  # seconds
ANSWER_WITHIN = 60.0  # seconds; the server's own timeouts are shorter
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}  # detects a host that vanished in a minute
SILENT_FOR = 50.0  # seconds without an event: three heartbeats
ENDED = frozenset({"complete", "failed", "removed"})
LOOK_AGAIN = 0.5  # seconds
NDJSON, STREAM = "application/x-ndjson", "text/event-stream"
TRY_AGAIN = frozenset({429, 503})
# Seconds of the retries.
QUIET_FOR = 2.0  # a restarted server is back by then
GIVE_UP_AFTER = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


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


def may_pass(error: ClientError) -> bool:
    """Return whether the same call may succeed later."""
    return isinstance(error, Away) or (isinstance(error, Refused) and error.status in TRY_AGAIN)


# --- calls ------------------------------------------------------------------------------------------------------------


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
        # aiohttp's default context is made at import, before SSL_CERT_FILE is read.
        tls = ssl.create_default_context() if self.url.startswith("https:") else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, force_close=True, socket_factory=_socket),
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
            raise Unreachable(_another(self.url)) from None
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
            raise Unreachable(_another(self._url, self._answer.status))

    @contextlib.contextmanager
    def must_be_ours(self) -> Iterator[None]:
        """Translate the errors of an answer that is not of quartermaster's form.

        Raises:
            Unreachable: it is not.
        """
        try:
            yield
        except msgspec.MsgspecError:
            raise Unreachable(_another(self._url, self._answer.status)) from None

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


def _another(url: str, status: int | None = None) -> str:
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


# --- retries ----------------------------------------------------------------------------------------------------------


class RetryPolicy:
    """Retries while the server is away; a command has one for all of its calls.

    Args:
        say: shows the user a message.
        clock: seconds.
        pause: waits for a number of seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._say = say
        self._clock = clock
        self._wait = pause
        self._away_since: float | None = None
        self._pause = FIRST_PAUSE
        self._said = False
        self._connected = False

    def succeeded(self) -> None:
        """Note that the server has answered."""
        if self._said:
            self._say("the server is back")
        self._connected, self._away_since, self._pause, self._said = True, None, FIRST_PAUSE, False

    async def failed(self, error: ClientError, said: bool = False) -> None:
        """Wait before the next attempt.

        Args:
            error: why the last one failed.
            said: whether the user has been told.

        Raises:
            ClientError: the same error, if a retry is no use, or the server has been away for ``GIVE_UP_AFTER``.
        """
        now = self._clock()
        self._away_since = self._away_since or now
        if not (self._connected and may_pass(error)) or now - self._away_since > GIVE_UP_AFTER:
            raise error
        if not (self._said or said) and now - self._away_since > QUIET_FOR:
            self._say(f"{error}; trying again")
            said = True
        self._said = self._said or said
        await self._wait(self._pause * random.uniform(0.5, 1))  # noqa: S311 - only spreads the calls
        self._pause = min(LONGEST_PAUSE, self._pause * 2)

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Call a function until it succeeds, and return what it returned."""
        while True:
            try:
                answer = await function()
            except ClientError as error:
                await self.failed(error)
            else:
                self.succeeded()
                return answer


# --- the event stream -------------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A frame of ``/events``.

    ``kind`` is ``snapshot``, ``gap``, …, or a CloudEvent's type; ``data`` the frame, or the CloudEvent.
    """

    cursor: str
    kind: str
    data: Json


class SseParser:
    """Parser of Server-Sent Events (HTML Standard, 9.2.6), as far as quartermaster writes them.

    ``feed`` raises ValueError if they are not its own.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Frame]:
        """Return the frames that a piece completes."""
        *blocks, self._rest = (self._rest + piece).split(b"\n\n")
        return [_frame(block) for block in blocks if block.strip()]


def _frame(block: bytes) -> Frame:
    fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
    data = json.loads(fields.get("data", "{}"))
    if not isinstance(data, dict):
        raise ValueError("not an event of quartermaster")
    return Frame(fields.get("id", ""), fields.get("event", ""), data)


async def events(client: Client, query: Query, since: str, retry_policy: RetryPolicy) -> AsyncIterator[Frame]:
    """Yield the frames of the event stream without end; after a broken connection, from the last cursor.

    Args:
        client: the server.
        query: the filters.
        since: the cursor to begin after; "": a snapshot comes first.
        retry_policy: the retries while the server is away.

    Raises:
        ClientError: the server refuses it, or is away for too long.
    """
    cursor = since
    while True:
        try:
            async for frame in _events(client, [*query, *([("since", cursor)] if cursor else [])]):
                retry_policy.succeeded()
                cursor = frame.cursor or cursor
                yield frame
            raise Lost(f"{client.url} ended the stream")
        except ClientError as error:
            await retry_policy.failed(error)


async def _events(client: Client, query: Query) -> AsyncIterator[Frame]:
    parser, greeted = SseParser(), False
    async with client.stream("GET", "/events", query=query, headers={"Accept": STREAM}) as response:
        response.require(STREAM)
        pieces = response.pieces()
        while True:
            try:
                async with asyncio.timeout(SILENT_FOR):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise Lost(f"{client.url} has been silent for {SILENT_FOR:g} s") from None
            if piece is None:
                return
            try:
                arrived = parser.feed(piece)
            except ValueError:
                raise NotQuartermaster(_another(client.url)) from None
            for frame in arrived:
                greeted = greeted or frame.kind == "hello"
                if not greeted:
                    raise NotQuartermaster(_another(client.url))
                yield frame


# --- logs -------------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A line of a log, or a part of one; ``data`` has the job's bytes, with the newline.

    ``stream`` is ``stdout``, ``stderr``, or ``qmaster`` for the server's messages. ``raw`` is the JSON document.
    """

    time: str
    stream: str
    task: str
    data: bytes
    raw: bytes


def parse(raw: bytes) -> Line:
    """Parse a document of the answer; ``base64`` has the bytes if they are not UTF-8.

    Raises:
        msgspec.DecodeError: it is not a line of a log.
    """
    document = answers.line(raw)
    exact = document.get("base64")
    data = exact if exact is not None else document["line"].encode(errors="replace")
    ending = b"" if document.get("partial") else b"\n"
    return Line(document.get("time") or "", document["stream"], document.get("task") or "", data + ending, raw)


class Shown:
    """Record of what was shown of a log, so that a log that is sent again continues where it broke.

    A task's stream is in the order of its times. Lines with one time may be split differently the next time, so the
    bytes of the last time are counted.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[str, int]] = {}
        self._again: dict[tuple[str, str], int] = {}  # bytes of the last time that are still to be skipped
        self._remarks: set[bytes] = set()
        self._first = ""

    def __bool__(self) -> bool:
        """Whether anything was shown."""
        return bool(self._last)

    def begin_again(self) -> None:
        """Expect the log from its beginning."""
        self._again = {key: size for key, (_, size) in self._last.items()}

    def new(self, line: Line) -> bytes:
        """Return the part of a line that is new, and count it as shown."""
        if line.stream == "qmaster":
            known = line.data in self._remarks
            self._remarks.add(line.data)
            return b"" if known else line.data
        key = (line.task, line.stream)
        time, size = self._last.get(key, ("", 0))
        if line.time < max(time, self._first):
            return b""
        if line.time > time:
            self._last[key] = (line.time, len(line.data))
            self._again.pop(key, None)
            return line.data
        skip = min(self._again.get(key, 0), len(line.data))
        self._again[key] = self._again.get(key, 0) - skip
        self._last[key] = (time, size + len(line.data) - skip)
        return line.data[skip:]

    def from_here(self, line: Line) -> None:
        """Count what is older than the first of the lines asked for (``tail``) as shown."""
        self._first = min(self._first or line.time, line.time)


async def logs(
    client: Client, job: str, query: dict[str, str], follow: bool, retry_policy: RetryPolicy
) -> AsyncIterator[Line]:
    """Yield the lines of a job, each once.

    Args:
        client: the server.
        job: its id or name.
        query: ``tail`` and ``stream``, if given.
        follow: whether to continue until the job ends, also over broken connections.
        retry_policy: the retries while the server is away.

    Raises:
        ClientError: the server refuses it, or is away for too long.
    """
    shown, asked, told = Shown(), {**query, **({"follow": "1"} if follow else {})}, False
    while True:
        try:
            async for line in _logs(client, job, asked.items(), retry_policy):
                told = line.stream == "qmaster"
                if "tail" in asked:
                    shown.from_here(line)
                new = shown.new(line)
                if new:
                    yield line._replace(data=new)
            if not follow or await _has_ended(client, job):
                return
            await asyncio.sleep(LOOK_AGAIN)
        except ClientError as error:
            await retry_policy.failed(error, told)
        shown.begin_again()
        if shown:
            asked.pop("tail", None)


async def _logs(client: Client, job: str, query: Query, retry_policy: RetryPolicy) -> AsyncIterator[Line]:
    rest: list[bytes] = []
    path, headers = f"/logs/{quote(job, safe='')}", {"Accept": NDJSON}
    async with client.stream("GET", path, query=query, headers=headers) as response:
        response.require(NDJSON)
        retry_policy.succeeded()
        async for piece in response.pieces():
            *whole, last = piece.split(b"\n")
            for raw in whole:
                try:
                    line = parse(b"".join([*rest, raw]))
                except msgspec.DecodeError:
                    raise NotQuartermaster(_another(client.url)) from None
                yield line
                rest = []
            rest.append(last)


async def _has_ended(client: Client, job: str) -> bool:
    return (await client.call("GET", f"/status/{quote(job, safe='')}"))["status"] in ENDED
