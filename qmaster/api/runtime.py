"""The Lambda runtime API, on a listener of its own: instances ask for calls and answer them.

An instance has no token: its secret is the name of the host that it calls. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Iterable
from http import HTTPStatus
from typing import Any, TypeVar, cast

import structlog
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream

from ..engine.spec import REGION, RUNTIME_DOMAIN
from ..errors import FunctionFailed, HttpError, NoInstance
from ..functions import failures
from ..functions.dispatcher import Dispatcher
from ..functions.instances import Instance, Poll
from ..functions.invocations import MAX_PAYLOAD, Chunks, Invocation
from ..models.responses import ROOT
from .limits import BACKLOG, set_keepalive

HEAD_WITHIN = 2.0  # seconds from a connection to the head of its first request
MAX_UNIDENTIFIED = 64  # connections of one address that have shown no secret
# Seconds that a connection is not counted so. A flood of 1,100 is accepted 128 at a time: without it, an instance that
# connects meanwhile is turned out before its head is read.
FRESH = 1.0
MORE_CONNECTIONS = 4  # than calls that an instance takes at once: for its errors, and its extensions
MAX_CONNECTIONS = 2048
# Of one address, beyond which a new one is served only if it has sent something after SPEAKS_WITHIN seconds. Closing it
# costs little then: a flood otherwise takes all the time of the event loop, 128 connections at a time.
MAX_SILENT, SPEAKS_WITHIN = 256, 0.05
# Bytes of a head. The Python client sends a stack of 77 KB in a header, or more with long paths. A head of 2 MiB keeps
# the event loop busy for up to 0.7 s, and each packet of one that comes slowly for 0.03 s.
MAX_HEAD, MAX_FIRST_HEAD = 256 * 1024, 8 * 1024
MAX_BODY = 256 * 1024 * 1024  # bytes of a streamed answer; what is over MAX_PAYLOAD of any other is dropped
MAX_ERROR = 128 * 1024  # bytes of an error's document; a larger one is dropped
MAX_TYPE = 256  # characters of an error's type
CHUNK = 64 * 1024
SHUTDOWN_WITHIN = 2.0  # seconds
FOR_EVER = 30 * 86_400.0  # seconds that a connection may be idle: an instance calls its function meanwhile
# A connection whose node is cut, or that a firewall has forgotten, is noticed within a minute.
KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000))

RUNTIME, EXTENSIONS = "/2018-06-01/runtime/", "/2020-01-01/extension/"
STREAMING = "streaming"
OK_BODY = b'{"status":"OK"}\n'
# Of the requests on a connection that has shown a secret.
OF_INSTANCES = HTTP1ConnectionParameters(
    max_header_size=MAX_HEAD, header_timeout=FOR_EVER, max_body_size=MAX_BODY, chunk_size=CHUNK
)

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Connection:
    """One open connection.

    Attributes:
        instance: who it belongs to; None until a request has shown a secret.
        call_id: the call that was handed over on it, if its client keeps the connection until it has answered.
        opened_at: when it was accepted, by the loop's clock.
    """

    __slots__ = ("address", "call_id", "instance", "opened_at", "stream", "timer")

    def __init__(self, stream: IOStream, address: str) -> None:
        loop = asyncio.get_running_loop()
        self.stream = stream
        self.address = address
        self.instance: Instance | None = None
        self.call_id: str | None = None
        self.opened_at = loop.time()
        self.timer = loop.call_later(HEAD_WITHIN, stream.close)


class RuntimeApi(HTTPServerConnectionDelegate):
    """The routes, and the connections with their limits.

    Args:
        dispatcher: has the calls and the instances.
        max_connections: how many may be open.
    """

    def __init__(self, dispatcher: Dispatcher, max_connections: int = MAX_CONNECTIONS) -> None:
        self.dispatcher = dispatcher
        self.max_connections = max_connections
        self._connections: dict[IOStream, Connection] = {}
        self._unidentified: dict[str, dict[Connection, None]] = {}  # by address, the oldest first
        self._by_instance: Counter[Instance] = Counter()
        self._by_publisher: Counter[str] = Counter()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        http = cast(HTTP1Connection, request_conn)
        connection = self._connections[cast(HTTP1ServerConnection, server_conn).stream]
        if connection.instance is not None:
            http.params = OF_INSTANCES
        return _Exchange(self, connection, http)

    def is_flooded_by(self, address: str) -> bool:
        """Return whether an address has so many connections without a secret that silent ones are not taken."""
        return len(self._unidentified.get(address, ())) >= MAX_SILENT

    def open(self, stream: IOStream, address: str) -> None:
        """Take a new connection; the oldest one without a secret is closed for it if there are too many."""
        connection = self._connections[stream] = Connection(stream, address)
        if len(self._connections) > self.max_connections:
            most = max(self._unidentified.values(), key=len, default=None)
            self._evict(next(iter(most)) if most else connection)
        unidentified = self._unidentified.setdefault(address, {})
        unidentified[connection] = None
        if len(unidentified) > MAX_UNIDENTIFIED:
            asyncio.get_running_loop().call_later(FRESH, self._evict_oldest, address)

    def closed(self, stream: IOStream) -> None:
        """Forget a connection. The call that was handed over on it is lost, if its client would have kept it."""
        connection = self._connections.pop(stream, None)
        if connection is None:
            return
        self._no_longer_unidentified(connection)
        if connection.instance is not None:
            self._give_back(self._by_instance, connection.instance)
            self._give_back(self._by_publisher, connection.instance.version.owner)
            if connection.call_id is not None:
                self.dispatcher.connection_lost(connection.instance, connection.call_id)

    def _give_back(self, counter: Counter[T], key: T) -> None:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]

    def identify(self, connection: Connection, host: str) -> Instance | None:
        """Return the instance that a request comes from, by its Host; None if it is unknown, or has too many."""
        name = host.rpartition(":")[0] or host
        instance = self.dispatcher.instance(name.lower().removesuffix(f".{RUNTIME_DOMAIN}"))
        if instance is None or connection.instance not in (None, instance):
            return None
        if connection.instance is None:
            if not self._may_have_more(instance):
                return None
            self._no_longer_unidentified(connection)
            connection.instance = instance
            self._by_instance[instance] += 1
            self._by_publisher[instance.version.owner] += 1
        return instance

    def _may_have_more(self, instance: Instance) -> bool:
        """Return whether there is room for one more connection of an instance.

        A publisher gets more only while it has less than is free. So a single one has at most half, and the next one
        finds room.
        """
        if self._by_instance[instance] >= instance.version.spec.concurrency + MORE_CONNECTIONS:
            return False
        owner, free = instance.version.owner, self.max_connections - self._by_publisher.total()
        return owner == ROOT or self._by_publisher[owner] < free

    def _evict_oldest(self, address: str) -> None:
        """Close the connections of an address that are too many, except fresh ones."""
        before = asyncio.get_running_loop().time() - FRESH
        unidentified = self._unidentified.get(address, {})
        while len(unidentified) > MAX_UNIDENTIFIED and (oldest := next(iter(unidentified))).opened_at <= before:
            self._evict(oldest)

    def _evict(self, connection: Connection) -> None:
        self._no_longer_unidentified(connection)
        connection.stream.close()

    def _no_longer_unidentified(self, connection: Connection) -> None:
        """Stop counting a connection as one without a secret."""
        connection.timer.cancel()
        unidentified = self._unidentified.get(connection.address, {})
        unidentified.pop(connection, None)
        if not unidentified:
            self._unidentified.pop(connection.address, None)


class RuntimeServer(HTTPServer):
    """Tornado's server, which tells ``api`` of each connection; see ``make_server``."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)  # Tornado calls this in place of a constructor
        self.api: RuntimeApi = args[0]
        self.silent: set[IOStream] = set()  # connections that are served only if they send something soon

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if self.api.is_flooded_by(str(address[0])):
            self.silent.add(stream)
            asyncio.get_running_loop().call_later(SPEAKS_WITHIN, self._take_if_sent, stream, address)
        else:
            self._take(stream, address)

    def _take_if_sent(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if stream in self.silent and _has_sent(stream):
            self._take(stream, address)
        else:
            stream.close()
        self.silent.discard(stream)

    async def close_all_connections(self) -> None:
        """Close all connections, those that are not served yet among them."""
        while self.silent:
            self.silent.pop().close()
        await super().close_all_connections()

    def _take(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        self.api.open(stream, str(address[0]))
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        self.api.closed(cast(HTTP1ServerConnection, server_conn).stream)


def _has_sent(stream: IOStream) -> bool:
    """Return whether something has arrived on a new connection."""
    try:
        return bool(stream.socket.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def make_server(api: RuntimeApi) -> RuntimeServer:
    """Make the HTTP server of the runtime API."""
    return RuntimeServer(
        api,
        max_header_size=MAX_FIRST_HEAD,
        max_body_size=MAX_BODY,
        idle_connection_timeout=FOR_EVER,
        chunk_size=CHUNK,
    )


def prepare(sockets: Iterable[socket.socket]) -> None:
    """Set the options that accepted connections inherit, and listen, before the server accepts."""
    for listener in sockets:
        set_keepalive(listener, KEEPALIVE)
        listener.listen(BACKLOG)


class _Exchange(HTTPMessageDelegate):
    """One request and its answer. A request of nobody is answered with 404, and its body is not read."""

    def __init__(self, api: RuntimeApi, connection: Connection, http: HTTP1Connection) -> None:
        self._dispatcher = api.dispatcher
        self._api = api
        self._connection = connection
        self._http = http
        self._instance: Instance | None = None
        self._method, self._path = "", ""
        self._headers = HTTPHeaders()
        self._parts: list[bytes] = []
        self._size, self._most = 0, 0  # bytes that came, and that may be kept
        self._chunks: Chunks | None = None
        self._poll: Poll | None = None
        self._beginning: asyncio.Future[None] | None = None

    # -- what comes ------------------------------------------------------------------------------------------------

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        line = cast(RequestStartLine, start_line)
        self._method, self._path, self._headers = line.method, line.path.partition("?")[0], headers
        self._instance = self._api.identify(self._connection, headers.get("Host", ""))
        if self._instance is None:
            self._refuse()
            return None
        call_id = self._call("response")
        self._most = MAX_PAYLOAD if call_id in self._instance.calls else MAX_ERROR  # nobody waits for any other answer
        if call_id and self._is_streamed():
            self._chunks = self._dispatcher.begin_stream(self._instance, call_id, headers.get("Content-Type", ""))
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._chunks is not None:
            return self._chunks.put(chunk)  # the connection is read no further meanwhile
        self._size += len(chunk)
        if self._size <= self._most:
            self._parts.append(chunk)
        elif self._parts:
            self._parts.clear()
            self._fail_too_large()
        return None

    def finish(self) -> None:
        if self._instance is None:
            return
        route = (self._method, self._path)
        if route == ("GET", RUNTIME + "invocation/next"):
            self._ask(self._instance)
        elif route == ("GET", EXTENSIONS + "event/next"):
            self._wait_for_shutdown(self._instance)
        elif route == ("POST", EXTENSIONS + "register"):
            self._register(self._instance)
        elif self._method == "POST":
            self._take(self._instance)
        else:
            self._reply(HTTPStatus.NOT_FOUND)

    def on_connection_close(self) -> None:
        """Hear that the connection has closed in the middle of a body: an answer that is cut is lost."""
        call_id = self._call("response") or self._call("error")
        if self._instance is not None and call_id:
            self._connection.call_id = None
            self._dispatcher.connection_lost(self._instance, call_id)

    # -- answers of instances --------------------------------------------------------------------------------------

    def _take(self, instance: Instance) -> None:
        """Take an answer or an error: 202 whatever it is, as clients end on anything else."""
        body = b"".join(self._parts)
        response, error = self._call("response"), self._call("error")
        if response:
            self._take_response(instance, response, body)
        elif error:
            self._dispatcher.fail(instance, error, self._failure(body))
        elif self._path in (RUNTIME + "init/error", EXTENSIONS + "init/error"):
            failure = self._failure(body)
            self._dispatcher.init_failed(instance, failure.error_type, failure.error_message)
        elif self._path != EXTENSIONS + "exit/error":
            self._reply(HTTPStatus.NOT_FOUND)
            return
        if self._connection.call_id in (response, error):
            self._connection.call_id = None
        self._reply(HTTPStatus.ACCEPTED, OK_BODY)

    def _take_response(self, instance: Instance, call_id: str, body: bytes) -> None:
        if self._chunks is not None:
            self._dispatcher.end_stream(instance, call_id)
        elif self._size <= self._most:
            self._dispatcher.answer(instance, call_id, body, self._headers.get("Content-Type", ""))

    def _fail_too_large(self) -> None:
        call_id = self._call("response")
        if self._instance is not None and call_id:
            error = FunctionFailed("Function.ResponseSizeTooLarge", f"the answer is over {MAX_PAYLOAD} bytes")
            self._dispatcher.fail(self._instance, call_id, error)

    def _failure(self, body: bytes) -> FunctionFailed:
        error_type = self._headers.get("Lambda-Runtime-Function-Error-Type", "")[:MAX_TYPE]
        if self._size > self._most:
            return FunctionFailed(error_type or failures.UNKNOWN, f"the error is over {self._most} bytes")
        return failures.read(body, error_type)

    def _call(self, what: str) -> str:
        """Return the id of the call that the path names, with ``what`` as its last word; else ""."""
        prefix, suffix = RUNTIME + "invocation/", f"/{what}"
        if self._method != "POST" or not (self._path.startswith(prefix) and self._path.endswith(suffix)):
            return ""
        return self._path[len(prefix) : -len(suffix)]

    def _is_streamed(self) -> bool:
        return self._headers.get("Lambda-Runtime-Function-Response-Mode", "").lower() == STREAMING

    # -- questions of instances ------------------------------------------------------------------------------------

    def _ask(self, instance: Instance) -> None:
        self._connection.call_id = None
        self._poll = self._dispatcher.ask(instance, self._headers.get("User-Agent", ""))
        self._http.set_close_callback(self._withdraw)
        if self._poll.answer.done():
            self._hand_over(self._poll.answer)
        else:
            self._poll.answer.add_done_callback(self._hand_over)

    def _withdraw(self) -> None:
        if self._instance is not None and self._poll is not None and not self._poll.answer.done():
            self._poll.answer.cancel()
            self._dispatcher.withdraw(self._instance, self._poll)

    def _hand_over(self, answer: asyncio.Future[Invocation | None]) -> None:
        if answer.cancelled() or self._instance is None or self._poll is None:
            return
        invocation = answer.result()
        if self._connection.stream.closed():
            if invocation is not None:
                self._dispatcher.hand_back(self._instance, invocation)
        elif invocation is None:
            self._reply(HTTPStatus.GONE)  # closing the connection instead would make clients ask again
        elif invocation.begin is None:
            self._write_call(self._instance, self._poll, invocation)
        else:
            self._beginning = asyncio.ensure_future(self._begin(self._instance, self._poll, invocation))

    async def _begin(self, instance: Instance, poll: Poll, invocation: Invocation) -> None:
        """Hand over an asynchronous call once its attempt is on disk; else the instance waits for another call."""
        assert invocation.begin is not None  # noqa: S101 - the caller has seen it
        try:
            await invocation.begin(instance.run_id or "")
        except Exception as error:  # the top of a task
            if not isinstance(error, HttpError):
                log.exception("call_not_begun", call=invocation.call.id)
                error = NoInstance("quartermaster failed; its log has the reason")
            self._dispatcher.refuse(instance, invocation, error)
            if not self._connection.stream.closed():
                self._ask(instance)
            return
        if self._connection.stream.closed():
            self._dispatcher.hand_back(instance, invocation)
        elif self._dispatcher.start_clock(instance, invocation):
            self._write_call(instance, poll, invocation)
        else:  # the instance was killed meanwhile
            self._reply(HTTPStatus.GONE)

    def _write_call(self, instance: Instance, poll: Poll, invocation: Invocation) -> None:
        if poll.keeps_connection:
            self._connection.call_id = invocation.call.id
        self._reply(HTTPStatus.OK, invocation.call.payload, _headers_of(instance, invocation))

    def _register(self, instance: Instance) -> None:
        """Register an extension. It hears of no calls, only of the end."""
        version = instance.version
        body = {
            "functionName": version.function,
            "functionVersion": str(version.number),
            "handler": (version.spec.request().command or [""])[0],
        }
        headers = {"Lambda-Extension-Identifier": str(uuid.uuid4())}
        self._reply(HTTPStatus.OK, json.dumps(body).encode(), headers)

    def _wait_for_shutdown(self, instance: Instance) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        instance.shutdown.add(waiting)

        def leave() -> None:
            waiting.cancel()

        self._http.set_close_callback(leave)
        waiting.add_done_callback(lambda done: self._shut_down(instance, done))

    def _shut_down(self, instance: Instance, waiting: asyncio.Future[None]) -> None:
        instance.shutdown.discard(waiting)
        if not waiting.cancelled() and not self._connection.stream.closed():
            deadline = _milliseconds(time.time() + SHUTDOWN_WITHIN)
            event = {"eventType": "SHUTDOWN", "shutdownReason": "spindown", "deadlineMs": deadline}
            self._reply(HTTPStatus.OK, json.dumps(event).encode())

    # -- replies ---------------------------------------------------------------------------------------------------

    def _refuse(self) -> None:
        """Answer 404 and close: what has no secret learns nothing, and sends no body."""
        self._reply(HTTPStatus.NOT_FOUND, headers={"Connection": "close"})
        self._connection.stream.close()

    def _reply(self, status: HTTPStatus, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        sent = HTTPHeaders({"Content-Length": str(len(body)), **(headers or {})})
        if body:
            sent["Content-Type"] = "application/json"
        self._http.write_headers(ResponseStartLine("HTTP/1.1", int(status), status.phrase), sent, body)
        self._http.finish()


def _headers_of(instance: Instance, invocation: Invocation) -> dict[str, str]:
    """Return what an instance is told of a call; Go's client fails without a deadline."""
    version, call = instance.version, invocation.call
    arn = f"arn:aws:lambda:{REGION}:000000000000:function:{version.function}:{version.number}"
    headers = {
        "Lambda-Runtime-Aws-Request-Id": call.id,
        "Lambda-Runtime-Deadline-Ms": str(_milliseconds(invocation.deadline)),
        "Lambda-Runtime-Invoked-Function-Arn": arn,
        "Lambda-Runtime-Trace-Id": call.trace_id or _trace_id(call.id),
    }
    if call.client_context is not None:
        headers["Lambda-Runtime-Client-Context"] = _ascii(call.client_context)
    return headers


def _trace_id(call_id: str) -> str:
    return f"Root=1-{int(time.time()):08x}-{call_id.replace('-', '')[:24]:0>24};Sampled=0"


def _ascii(text: str) -> str:
    """Return JSON text that fits into a header."""
    return text if text.isascii() and text.isprintable() else json.dumps(json.loads(text))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
