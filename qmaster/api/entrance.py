"""Accepts connections, and closes those that stay open without sending a request. The loop owns it.

Tornado bounds the size of a head and of a body. Here is what it leaves open, or makes a timer for with each request:
how long each may take, how long a connection may be idle, and how many there are. There is always room for one more:
one goes that has not said what it wants.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Iterable
from itertools import islice
from typing import Any, cast

import structlog
from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.netutil import ssl_wrap_socket

from . import target
from .stream import Encrypted, Plain, Watched

MAX_HEAD = 16 * 1024  # bytes
MAX_READ = 1024 * 1024  # bytes of a body; the handlers' own bound is lower, and answers 413
# Seconds.
HEAD_WITHIN = 10.0  # from its first byte; of a new connection from its beginning
BODY_WITHIN = 10.0
IDLE = 75.0  # between two requests
UNTAKEN = 120.0  # that an answer may wait for its reader
CHUNK = 16 * 1024  # bytes read at once
BACKLOG = 1024
AT_ONCE = 64  # connections taken in one turn of the loop
SWEEP_EVERY = 1.0
SWEPT_AT_ONCE, SWEEP_ON_AFTER = 50, 0.02  # connections ended in one turn, and then others have one
PAUSE = 1.0  # where the machine gives no more descriptors

# Accepted connections inherit these (Linux). A client that is gone without a word is noticed within two minutes. The
# last bound of time replaces the count of probes: it leaves time for all four, so that one which is lost ends nothing
# (tcp(7)).
_OPTIONS = (
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPINTVL", 15),
    ("TCP_KEEPCNT", 4),
    ("TCP_USER_TIMEOUT", int(UNTAKEN * 1000)),
    ("TCP_NODELAY", 1),  # what is written is whole: no line of a log waits until the one before has arrived
)

log = structlog.get_logger(__name__)


class LimitedHTTPServer(HTTPServerConnectionDelegate):
    """Takes connections for an application.

    Args:
        most: how many connections there may be.
        tls: to serve HTTPS with.
        head_within, body_within, idle_for: seconds.
    """

    def __init__(
        self,
        application: HTTPServerConnectionDelegate,
        most: int,
        tls: ssl.SSLContext | None = None,
        head_within: float = HEAD_WITHIN,
        body_within: float = BODY_WITHIN,
        idle_for: float = IDLE,
    ) -> None:
        self._application = application
        self._most = most
        self._tls = tls
        self._http = HTTPServer(self, chunk_size=CHUNK, max_header_size=MAX_HEAD, max_body_size=MAX_READ)
        self._http.conn_params.header_timeout = None
        self._loop = asyncio.get_running_loop()
        self._listeners: set[socket.socket] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self.open = 0
        self._waiting: dict[Watched, None] = {}  # their request is not all there; the longest wait first
        self._heads, self._bodies, self._idle = map(_Deadlines, (head_within, body_within, idle_for))
        self._turned_out = 0

    def listen(self, listeners: Iterable[socket.socket]) -> None:
        """Take what comes on them from now on."""
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _OPTIONS:
                if hasattr(socket, name):
                    listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            self._listeners.add(listener)
            self._loop.add_reader(listener, self._accept, listener)
        self._sweep()

    def stop(self) -> None:
        """Take no more."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()

    async def close(self) -> None:
        """End the connections, but not the streams that handlers have taken over."""
        await self._http.close_all_connections()
        if self._sweeping is not None:
            self._sweeping.cancel()

    # -- for Tornado -----------------------------------------------------------------------------------------------

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A connection waits for its next request."""
        inner = self._application.start_request(server_conn, request_conn)
        stream = cast(Watched, cast(HTTP1Connection, request_conn).stream)
        if not stream.closed():
            self._waiting[stream] = None
            stream.idle = stream not in self._heads
            if stream.idle:
                self._idle.begin(stream, self._loop.time())
        return _Coming(self, stream, inner)

    # -- for its streams -------------------------------------------------------------------------------------------

    def heard(self, stream: Watched) -> None:
        stream.idle = False
        self._idle.end(stream)
        self._heads.begin(stream, self._loop.time())

    def has_head(self, stream: Watched) -> None:
        stream.idle = False
        self._idle.end(stream)
        self._heads.end(stream)
        if not stream.closed():  # it may have hung up behind its head, and then nobody would take it out again
            self._bodies.begin(stream, self._loop.time())

    def has_all(self, stream: Watched) -> None:
        self._bodies.end(stream)
        self._waiting.pop(stream, None)

    def waits(self, stream: Watched) -> None:
        self._waiting[stream] = None

    def left(self, stream: Watched) -> None:
        self.open -= 1
        for deadlines in (self._heads, self._bodies, self._idle):
            deadlines.end(stream)
        self._waiting.pop(stream, None)

    # -- its own ---------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left, or no memory
                if not self._turn_one_out():
                    self._pause(listener, error)
                return
            if self.open < self._most or self._turn_one_out():
                self._take(connection, address)
            else:
                self._turned_out += 1
                connection.close()

    def _take(self, connection: socket.socket, address: Any) -> None:
        try:
            stream = self._stream(connection)
        except OSError:  # it is gone again
            connection.close()
            return
        stream.watch = self
        self.open += 1
        self._waiting[stream] = None
        self._heads.begin(stream, self._loop.time())
        self._http.handle_stream(stream, address)

    def _stream(self, connection: socket.socket) -> Plain | Encrypted:
        if self._tls is None:
            return Plain(connection, read_chunk_size=CHUNK)
        wrapped = ssl_wrap_socket(connection, self._tls, server_side=True, do_handshake_on_connect=False)
        return Encrypted(wrapped, read_chunk_size=CHUNK)

    def _turn_one_out(self) -> bool:
        """End a connection that keeps no one's work: whether there was one.

        First the one that owes its head for the longest time: who was answered before has shown to be of use.
        """
        stream = self._heads.first() or next(iter(self._waiting), None)
        if stream is None:
            return False
        self._turned_out += 1
        stream.close()
        return True

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Else the loop would do nothing but ask again."""
        log.error("cannot_accept", reason=str(error), open=self.open)
        self._loop.remove_reader(listener)

        def go_on() -> None:
            if listener in self._listeners:
                self._loop.add_reader(listener, self._accept, listener)

        self._loop.call_later(PAUSE, go_on)

    def _sweep(self) -> None:
        now = self._loop.time()
        late = [stream for deadlines in (self._heads, self._bodies, self._idle) for stream in deadlines.late(now)]
        again = SWEEP_ON_AFTER if len(late) >= SWEPT_AT_ONCE else SWEEP_EVERY
        self._sweeping = self._loop.call_later(again, self._sweep)  # first: it goes on whatever comes of this one
        for stream in late:
            stream.close()
        if self._turned_out:
            log.warning("connections_full", most=self._most, turned_out=self._turned_out)
            self._turned_out = 0


class _Deadlines:
    """Until when connections may take for something, which is as long for each; the earliest first."""

    def __init__(self, within: float) -> None:
        self._within = within
        self._until: dict[Watched, float] = {}

    def __contains__(self, stream: Watched) -> bool:
        return stream in self._until

    def begin(self, stream: Watched, now: float) -> None:
        self._until[stream] = now + self._within

    def end(self, stream: Watched) -> None:
        self._until.pop(stream, None)

    def first(self) -> Watched | None:
        return next(iter(self._until), None)

    def late(self, now: float) -> list[Watched]:
        """At most so many as are ended at once."""
        return [stream for stream, until in islice(self._until.items(), SWEPT_AT_ONCE) if until <= now]


class _Coming(HTTPMessageDelegate):
    """A request that is coming: tells the entrance how far it is."""

    def __init__(self, entrance: LimitedHTTPServer, stream: Watched, inner: HTTPMessageDelegate) -> None:
        self._entrance = entrance
        self._stream = stream
        self._inner = inner

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._entrance.has_head(self._stream)
        return self._inner.headers_received(_in_origin_form(start_line, headers), headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._entrance.has_all(self._stream)
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()


def _in_origin_form(
    line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
) -> RequestStartLine | ResponseStartLine:
    """The first line with a target in origin form; the authority of an absolute one takes the place of the Host.

    Raises:
        HTTPInputError: it has none.
    """
    if not isinstance(line, RequestStartLine) or line.path.startswith("/"):
        return line
    split = target.split(line.path)
    hosts = headers.get_list("Host")
    if split is None or len(hosts) > 1 or (not hosts and line.version != "HTTP/1.0"):  # these Hosts are refused later
        return line
    authority, path = split
    if not authority or authority.startswith(":") or any("," in host for host in hosts):
        raise HTTPInputError("the target or the header Host does not name one host")
    headers["Host"] = authority
    return line._replace(path=path)
