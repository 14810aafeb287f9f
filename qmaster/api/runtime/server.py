"""The Lambda runtime API, on a listener of its own: instances ask for calls and answer them.

An instance has no token: its secret is the name of the host that it calls. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from collections.abc import Awaitable, Iterable
from http import HTTPStatus
from typing import Any, cast

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

from ...engine.spec import REGION, RUNTIME_DOMAIN
from ...errors import FunctionFailed, HttpError, NoInstance
from ...functions.dispatcher import Dispatcher
from ...functions.instances.instance import Instance, Poll
from ...functions.invocations import failures
from ...functions.invocations.invocation import MAX_PAYLOAD, Chunks, Invocation
from ..limits import BACKLOG, set_keepalive
from .connections import MAX_CONNECTIONS, SPEAKS_WITHIN, Connection, Connections

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
INVOCATION = RUNTIME + "invocation/"
STREAMING = "streaming"
OK_BODY = b'{"status":"OK"}\n'
# Of the requests on a connection that has shown a secret. No limit on its idle time: a timer for each request took a
# thirtieth of a call.
OF_INSTANCES = HTTP1ConnectionParameters(max_header_size=MAX_HEAD, max_body_size=MAX_BODY, chunk_size=CHUNK)

log = structlog.get_logger(__name__)


class RuntimeApi(HTTPServerConnectionDelegate):
    """The requests on all connections.

    Args:
        dispatcher: has the calls and the instances.
        max_connections: how many may be open.
    """

    def __init__(self, dispatcher: Dispatcher, max_connections: int = MAX_CONNECTIONS) -> None:
        self.dispatcher = dispatcher
        self.connections = Connections(dispatcher.connection_lost, max_connections)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        http = cast(HTTP1Connection, request_conn)
        connection = self.connections[cast(HTTP1ServerConnection, server_conn).stream]
        if connection.instance is not None:
            http.params = OF_INSTANCES
        return _Exchange(self, connection, http)

    def identify(self, connection: Connection, host: str) -> Instance | None:
        """Return the instance that a request comes from, by its Host; None if it is unknown, or has too many."""
        name = host.rpartition(":")[0] or host
        instance = self.dispatcher.instance(name.lower().removesuffix(f".{RUNTIME_DOMAIN}"))
        known = instance is not None and self.connections.identify(connection, instance)
        return instance if known else None


class RuntimeServer(HTTPServer):
    """Tornado's server, which tells ``api`` of each connection; see ``make_server``."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)  # Tornado calls this in place of a constructor
        self.api: RuntimeApi = args[0]
        self.silent: set[IOStream] = set()  # connections that are served only if they send something soon

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if self.api.connections.is_flooded_by(str(address[0])):
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
        self.api.connections.open(stream, str(address[0]))
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        self.api.connections.closed(cast(HTTP1ServerConnection, server_conn).stream)


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
        self._response, self._error = "", ""  # the id of the call that is answered, or has failed
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
        self._response, self._error = _calls(line.method, self._path)
        self._instance = self._api.identify(self._connection, headers.get("Host", ""))
        if self._instance is None:
            self._refuse()
            return None
        # Nobody waits for any other answer.
        self._most = MAX_PAYLOAD if self._response in self._instance.calls else MAX_ERROR
        if self._response and self._is_streamed():
            content_type = headers.get("Content-Type", "")
            self._chunks = self._dispatcher.begin_stream(self._instance, self._response, content_type)
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
        if route == ("GET", INVOCATION + "next"):
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
        call_id = self._response or self._error
        if self._instance is not None and call_id:
            self._connection.call_id = None
            self._dispatcher.connection_lost(self._instance, call_id)

    # -- answers of instances --------------------------------------------------------------------------------------

    def _take(self, instance: Instance) -> None:
        """Take an answer or an error: 202 whatever it is, as clients end on anything else."""
        body = b"".join(self._parts)
        if self._response:
            self._take_response(instance, body)
        elif self._error:
            self._dispatcher.fail(instance, self._error, self._failure(body))
        elif self._path in (RUNTIME + "init/error", EXTENSIONS + "init/error"):
            failure = self._failure(body)
            self._dispatcher.init_failed(instance, failure.error_type, failure.error_message)
        elif self._path != EXTENSIONS + "exit/error":
            self._reply(HTTPStatus.NOT_FOUND)
            return
        if self._connection.call_id in (self._response, self._error):
            self._connection.call_id = None
        self._reply(HTTPStatus.ACCEPTED, OK_BODY)

    def _take_response(self, instance: Instance, body: bytes) -> None:
        if self._chunks is not None:
            self._dispatcher.end_stream(instance, self._response)
        elif self._size <= self._most:
            self._dispatcher.answer(instance, self._response, body, self._headers.get("Content-Type", ""))

    def _fail_too_large(self) -> None:
        if self._instance is not None and self._response:
            error = FunctionFailed("Function.ResponseSizeTooLarge", f"the answer is over {MAX_PAYLOAD} bytes")
            self._dispatcher.fail(self._instance, self._response, error)

    def _failure(self, body: bytes) -> FunctionFailed:
        error_type = self._headers.get("Lambda-Runtime-Function-Error-Type", "")[:MAX_TYPE]
        if self._size > self._most:
            return FunctionFailed(error_type or failures.UNKNOWN, f"the error is over {self._most} bytes")
        return failures.read(body, error_type)

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
            self._ask_again(instance)
            return
        if self._connection.stream.closed():
            self._dispatcher.hand_back(instance, invocation)
        elif self._dispatcher.start_clock(instance, invocation):
            self._write_call(instance, poll, invocation)
        else:  # the instance was killed meanwhile
            self._reply(HTTPStatus.GONE)

    def _ask_again(self, instance: Instance) -> None:
        """Let the question wait for another call, or answer it with none if the instance has been told to end."""
        if self._connection.stream.closed():
            return
        if self._dispatcher.instance(instance.secret) is instance:
            self._ask(instance)
        else:
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


def _calls(method: str, path: str) -> tuple[str, str]:
    """Return the id of the call that a request answers, and of the one that it says has failed; "" for none."""
    if method != "POST" or not path.startswith(INVOCATION):
        return "", ""
    call_id, _, what = path[len(INVOCATION) :].partition("/")
    return (call_id if what == "response" else "", call_id if what == "error" else "")


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
