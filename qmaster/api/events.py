"""``GET /events``: the protocol ``qmaster.v1``, over a websocket or as Server-Sent Events."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Collection, Mapping
from typing import ClassVar, NamedTuple

import msgspec
import structlog
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError
from tornado.websocket import WebSocketHandler

from ..auth import policy
from ..auth.authenticator import Authenticator, Identity
from ..errors import (
    BadRequest,
    Forbidden,
    HttpError,
    JournalUnwritable,
    TooManyConnections,
    TooManyWrongTokens,
    Unauthorized,
)
from ..events import frames
from ..events.broker import ALL_INSTANCES, Filter, Subscriber, Wire
from ..events.stream import EventStream, Since
from ..models import requests
from .base import SLICE, BaseHandler
from .limits import UNREAD, Allowance, ConnectionLimiter, Slot, set_reader_timeout
from .queries import flag, named_function

AUTH_WITHIN = 5.0  # seconds
MAX_INBOUND = 4096  # bytes of a client's frame
FRAME_COST = 128  # bytes that a frame counts for in addition to its own: a small frame is work too
# Bytes that a client may send on its websocket, at once and each second: its token, and then some pings.
SAID_AT_ONCE, SAID_EACH_SECOND = 8 * 1024, 1024
ACKED, ACKED_AT = struct.Struct("Q"), 120  # tcpi_bytes_acked, in linux/tcp.h
SEND_BUFFER = 128 * 1024  # bytes in the kernel: small, so that a slow client is noticed
TOPICS = frozenset({"service", "task", "node", "function", "invocation"})
NONE: frozenset[str] = frozenset()  # shared: each empty one takes 216 bytes, and a subscriber has two
PARAMETERS = ("since", "service", "label", "topic", "function", "all")

GOING_AWAY, FAILED = 1001, 1011
MAX_REASON = 123  # bytes: a control frame has 125, and the code takes two (RFC 6455, 5.5)
MALFORMED, BAD_TOKEN, FORBIDDEN, NO_AUTH_IN_TIME, TOO_MANY = 4400, 4401, 4403, 4408, 4429
CLOSES: Mapping[type[HttpError], int] = {
    BadRequest: MALFORMED,
    Unauthorized: BAD_TOKEN,
    Forbidden: FORBIDDEN,
    TooManyConnections: TOO_MANY,
    TooManyWrongTokens: TOO_MANY,
}

log = structlog.get_logger(__name__)


class Sockets:
    """All open event streams."""

    def __init__(self) -> None:
        self.open: set[EventsHandler] = set()
        self.cut = 0  # how many were cut for reading too slowly

    def close(self) -> None:
        """Close all streams with 1001."""
        for handler in list(self.open):
            handler.end(GOING_AWAY, "quartermaster is stopping; reconnect and resume")

    def recheck(self) -> None:
        """Close the streams of tokens that may no longer read."""
        for handler in list(self.open):
            handler.recheck()


class Subscription(NamedTuple):
    """The cursor and filter that a client asked for."""

    since: Since | None
    wants: Filter


class EventsHandler(BaseHandler, WebSocketHandler):
    """``GET /events``: one subscriber, over a websocket or Server-Sent Events."""

    def initialize(
        self,
        auth: Authenticator,
        busy: set[object],
        event_stream: EventStream,
        sockets: Sockets,
        origins: Collection[str],
        connections: ConnectionLimiter,
    ) -> None:
        super().initialize(auth, busy)
        self._event_stream = event_stream
        self._sockets = sockets
        self._origins = origins
        self._connections = connections
        self._slot: Slot | None = None
        self._unauthenticated: Slot | None = None  # until it has authenticated
        self._auth_timeout: asyncio.TimerHandle | None = None
        self._identity: Identity | None = None
        self._stream: IOStream | None = None
        self._subscriber: Subscriber | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._over: asyncio.Event | None = None  # set at the end of Server-Sent Events
        self.is_logged = False
        self.is_slicing = False  # whether a frame of Server-Sent Events has been written in part

    async def get(self) -> None:
        self.document()  # a body, if any, is JSON
        self._refuse_origin()
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            await self._serve_sse()
            return
        if self.request.headers.get("Authorization"):
            self._identity = self.identify({}, "read")
        self._check_handshake()
        await WebSocketHandler.get(self)

    def check_origin(self, origin: str) -> bool:
        """Return whether a page may read the stream: its origin is this server's, or in ``--allow-origin``."""
        scheme, _, host = origin.lower().partition("://")
        own = scheme in ("http", "https") and host == self.request.headers.get("Host", "").lower()
        return own or origin.lower() in self._origins

    def recheck(self) -> None:
        """Close the stream if its token is no longer valid, or may no longer read."""
        if self._identity is not None:
            try:
                self._identity = self.reauthorize(self._identity, "read")
            except HttpError as error:
                self._refuse(error)

    def end(self, code: int, detail: str) -> None:
        """Send an error frame with the reason, and close."""
        if self._ended:
            return
        self._ended = True
        error = frames.error(code, detail)
        if self._stream is not None and not self._stream.closed():
            if self.ws_connection is not None:
                self._stream.write(error.websocket)
                self.close(code, detail.encode()[:MAX_REASON].decode(errors="ignore"))
            elif self._stream.writing() or self.is_slicing:  # in the middle of a frame
                self._stream.close()
            else:
                self.write(error.sse)
                self.flush()
        self._leave()

    def on_close(self) -> None:
        self._leave()

    def on_connection_close(self) -> None:
        BaseHandler.on_connection_close(self)
        self._busy.discard(self)
        WebSocketHandler.on_connection_close(self)

    def _refuse_origin(self) -> None:
        origin = self.request.headers.get("Origin") or self.request.headers.get("Sec-Websocket-Origin")
        elsewhere = self.request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")
        if not self.check_origin(origin) if origin is not None else elsewhere:
            raise Forbidden("this origin may not read the stream; see --allow-origin")

    def _refuse(self, error: HttpError) -> None:
        code = next(code for kind, code in CLOSES.items() if isinstance(error, kind))
        if code != MALFORMED and not self._ended:
            self.log_refusal(code, str(error))
        self.end(code, str(error))

    # -- websocket -------------------------------------------------------------------------------------------------

    def _check_handshake(self) -> None:
        """Check the handshake: Tornado checks it too, but answers in plain text.

        Raises:
            BadRequest: a header is missing or wrong.
        """
        headers = self.request.headers
        if "upgrade" not in (word.strip().lower() for word in headers.get("Connection", "").split(",")):
            raise BadRequest("a websocket needs the header 'Connection: Upgrade'")
        if headers.get("Sec-WebSocket-Version") != "13" or not headers.get("Sec-WebSocket-Key"):
            raise BadRequest("a websocket needs the headers Sec-WebSocket-Key and 'Sec-WebSocket-Version: 13'")

    def open(self, *args: str, **kwargs: str) -> None:
        self._busy.discard(self)
        stream = self.ws_connection.stream if self.ws_connection is not None else None
        if stream is None:
            return
        self._stream = stream
        self.set_nodelay(True)
        self._allowance = Allowance(SAID_AT_ONCE, SAID_EACH_SECOND)
        self._sockets.open.add(self)
        if self._identity is not None:
            self._subscribe(SocketPipe(stream))
            return
        self._unauthenticated = self._connections.admit(self.request.remote_ip or "", self._lose_slot)
        self._auth_timeout = asyncio.get_running_loop().call_later(
            AUTH_WITHIN, self.end, NO_AUTH_IN_TIME, "no auth frame within 5 s"
        )

    def on_ping(self, data: bytes) -> None:
        self._count_received(data)

    def on_pong(self, data: bytes) -> None:
        self._count_received(data)

    def on_message(self, message: str | bytes) -> None:
        self._count_received(message)
        if self._unauthenticated is None or self._stream is None:
            return  # later messages of the client are ignored
        self._end_wait_for_token()
        try:
            self._identity = self._admit(None, _token_of(message), "read")
        except HttpError as error:
            self._refuse(error)
        else:
            # The line of the request was logged before its token was known.
            known = {"request": self.request_id, "remote": self.request.remote_ip, "by": self.by}
            log.info("socket_authenticated", **known, path=self.request.path)
            self._subscribe(SocketPipe(self._stream))

    def _count_received(self, data: str | bytes) -> None:
        """Disconnect a client that sends more than its allowance.

        Raises:
            StreamClosedError: Tornado then drops the frames that have already arrived.
        """
        if not self._allowance.take(len(data) + FRAME_COST):
            raise StreamClosedError

    def _lose_slot(self) -> None:
        self._refuse(TooManyConnections("too many open websockets that have sent no token; this one was the oldest"))

    def _end_wait_for_token(self) -> None:
        if self._unauthenticated is not None:
            self._unauthenticated.release()
            self._unauthenticated = None
        if self._auth_timeout is not None:
            self._auth_timeout.cancel()
            self._auth_timeout = None

    # -- Server-Sent Events ----------------------------------------------------------------------------------------

    async def _serve_sse(self) -> None:
        self._identity = self.identify({}, "read")
        self._subscription(self._identity)  # an error here is an HTTP answer
        self._slot = self._take_slot(self._identity)
        self._busy.discard(self)  # a shutdown does not wait for it
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")
        self.application.log_request(self)  # now, as it may stay open for days
        self.is_logged = True
        self._stream, self._over = self.client_stream, asyncio.Event()
        self._sockets.open.add(self)
        self._subscribe(SsePipe(self, self._stream))
        await self._over.wait()

    # -- both ------------------------------------------------------------------------------------------------------

    def _subscribe(self, pipe: SocketPipe | SsePipe) -> None:
        self.recheck()  # the tokens may have changed since the call began
        if self._identity is None or self._ended:
            return
        if self._stream is not None:  # on its connection a log may have come before, whose reader may take any time
            set_reader_timeout(self._stream, UNREAD)
        try:
            subscription = self._subscription(self._identity)
            self._slot = self._slot or self._take_slot(self._identity)
        except HttpError as error:
            self._refuse(error)
            return
        self._subscriber = Subscriber(pipe, pipe.wire, subscription.wants, self._cut)
        self._task = asyncio.create_task(self._bring_up(self._subscriber, subscription.since))

    async def _bring_up(self, subscriber: Subscriber, since: Since | None) -> None:
        try:
            await self._event_stream.bring_up(subscriber, since)
        except JournalUnwritable as error:
            self.end(FAILED, self.words_of(error))
        except Exception:  # the top of a task
            log.exception("events_failed", request=self.request_id)
            self.end(FAILED, "quartermaster failed; its log has the reason")
        finally:
            self._task = None  # it was referenced so that it is not garbage-collected
            if subscriber.gone:
                self._leave()

    def _take_slot(self, identity: Identity) -> Slot:
        return self._connections.take("socket", identity.name, identity.grant is not None)

    def _subscription(self, identity: Identity) -> Subscription:
        """Return what the query and ``Last-Event-ID`` ask for, limited to what the token sees.

        Raises:
            BadRequest: a parameter is wrong.
            Forbidden: a token other than root's asks for nodes.
        """
        query = self.parameters(*PARAMETERS)
        for name in ("since", "service"):
            if len(query.get(name, ())) > 1:
                raise BadRequest(f"{name}: expected one value; got {len(query[name])}")
        topics = frozenset(topic for value in query.get("topic", ()) for topic in value.split(",")) or NONE
        if not topics <= TOPICS:
            raise BadRequest(f"topic: expected some of {', '.join(sorted(TOPICS))}")
        if "node" in topics:
            policy.require_root(identity.grant, "the topic node is")
        labels = frozenset(query.get("label", ())) or NONE
        if not all(label.partition("=")[0] and "=" in label for label in labels):
            raise BadRequest("label: expected key=value")
        function = named_function(query) or (ALL_INSTANCES if flag("all", query.get("all")) else "")
        wants = Filter(topics, query.get("service", [""])[0], labels, identity.sees, function)
        since = query.get("since", [self.request.headers.get("Last-Event-ID", "")])[0]
        return Subscription(_since(since), wants)

    def _cut(self) -> None:
        log.warning("slow_consumer_cut", request=self.request_id, remote=self.request.remote_ip)
        self._sockets.cut += 1
        self._ended = True
        self._leave()
        if self._stream is not None:
            self._stream.close()  # its buffer and an error frame would never be read

    def _leave(self) -> None:
        self._end_wait_for_token()
        self._sockets.open.discard(self)
        if self._slot is not None:
            self._slot.release()
        if self._subscriber is not None:
            self._event_stream.leave(self._subscriber)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()  # it may wait for its token's unread bytes
        if self._over is not None:
            self._over.set()


class SocketPipe:
    """Writes encoded frames straight to a websocket's socket."""

    __slots__ = ("_socket", "_straight", "_stream")
    wire: ClassVar[Wire] = "websocket"

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._straight = not isinstance(stream, SSLIOStream)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    @property
    def sent(self) -> int:
        """Bytes that the client has acknowledged."""
        return _acknowledged(self._stream)

    def write(self, data: bytes | memoryview) -> asyncio.Future[None] | None:
        """Write to the socket if the stream's buffer is empty: this costs a fifth of a write to the stream."""
        stream = self._stream
        if self._straight and not stream.writing() and not stream.closed():
            try:
                sent = self._socket.send(data)
            except OSError:  # it is full or broken; the stream finds out which
                sent = 0
            if sent == len(data):
                return None
            data = memoryview(data)[sent:]
        return stream.write(data)


class SsePipe:
    """Writes Server-Sent Events to a chunked answer that does not end."""

    wire: ClassVar[Wire] = "sse"

    def __init__(self, handler: EventsHandler, stream: IOStream) -> None:
        self._handler = handler
        self._stream = stream
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    @property
    def sent(self) -> int:
        """Bytes that the client has acknowledged."""
        return _acknowledged(self._stream)

    def write(self, data: bytes) -> asyncio.Future[None]:
        """Write to the answer, large frames in slices; raise OSError if the client has left."""
        if self._stream.closed():
            raise OSError("the client has left")
        if len(data) > SLICE:
            return asyncio.ensure_future(self._write_slices(data))
        self._handler.write(data)
        return self._handler.flush()

    async def _write_slices(self, data: bytes) -> None:
        """Write a large frame slice by slice: Tornado copies each chunk for each client.

        Nobody may wait for it any more when the client leaves, so that is no error here: the next write says it.
        """
        self._handler.is_slicing = True
        for start in range(0, len(data), SLICE):
            if self._stream.closed():
                return
            self._handler.write(data[start : start + SLICE])
            await self._handler.flush()
        self._handler.is_slicing = False


def _acknowledged(stream: IOStream) -> int:
    """Return the bytes that the client has acknowledged (Linux); elsewhere the time, so that all progress."""
    if stream.closed() or not hasattr(socket, "TCP_INFO"):
        return time.monotonic_ns()
    info = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKED.size + ACKED_AT)
    return int(ACKED.unpack_from(info, ACKED_AT)[0])


class _AuthFrame(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="auth"):
    token: str


def _token_of(message: str | bytes) -> str:
    try:
        document = requests.decode_object(message if isinstance(message, bytes) else message.encode())
        return msgspec.convert(document, _AuthFrame).token
    except (BadRequest, msgspec.ValidationError):
        raise BadRequest('expected {"type": "auth", "token": …} as the first frame, each key once') from None


def _since(text: str) -> Since | None:
    if not text:
        return None
    parsed = frames.parse_cursor(text)
    if parsed is None:
        raise BadRequest("since: expected a cursor of quartermaster, such as 5f3a9c1e.m2kq8x3d:1042")
    return Since(*parsed)
