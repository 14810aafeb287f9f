"""Events: ``GET /events``, protocol ``qmaster.v1``, as a websocket or as Server-Sent Events."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Collection, Mapping

import msgspec
import structlog
from tornado.httputil import HTTPHeaders
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
from ..events.broker import Broker, Filter, Subscriber, Wire
from ..events.stream import EventStream, Since
from ..models import requests
from .base import HEADERS, BaseHandler
from .limits import Allowance, ConnectionLimiter, Slot

AUTH_WITHIN = 5.0  # seconds
MAX_INBOUND = 4096  # bytes of a client's frame
# Bytes that a client may say on its websocket: at once, and each second. Its token, and then it pings.
FRAME_HEAD = 6  # bytes, at least
SAID_AT_ONCE, SAID_EACH_SECOND = 8 * 1024, 1024
ACKED, ACKED_AT = struct.Struct("Q"), 120  # tcpi_bytes_acked, in linux/tcp.h
SEND_BUFFER = 128 * 1024  # of the kernel: small, so that a reader's pace is seen here
TOPICS = frozenset({"service", "task", "node"})
PARAMETERS = ("since", "service", "label", "topic")

GOING_AWAY = 1001
MAX_REASON = 123  # bytes: of a control frame's 125 the code takes two (RFC 6455, 5.5)
MALFORMED, BAD_TOKEN, FORBIDDEN, NO_AUTH_IN_TIME, TOO_MANY = 4400, 4401, 4403, 4408, 4429
CLOSES: Mapping[type[HttpError], int] = {
    BadRequest: MALFORMED,
    Unauthorized: BAD_TOKEN,
    Forbidden: FORBIDDEN,
    TooManyConnections: TOO_MANY,
    TooManyWrongTokens: TOO_MANY,
}

log = structlog.get_logger(__name__)
_SENT = HTTPHeaders()


class Sockets:
    """All open event streams."""

    def __init__(self) -> None:
        self.open: set[EventsHandler] = set()
        self.cut = 0  # for reading too slowly

    def close(self) -> None:
        """Tell everyone that this quartermaster ends."""
        for handler in list(self.open):
            handler.end(GOING_AWAY, "quartermaster is stopping; connect again and resume")

    def recheck(self) -> None:
        """The tokens have changed: close those of who may no longer read."""
        for handler in list(self.open):
            handler.recheck()


class _Pipe:
    """The stream under a websocket or an SSE answer."""

    __slots__ = ("_socket", "_straight", "_stream")

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._straight = not isinstance(stream, SSLIOStream)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    @property
    def sent(self) -> int:
        """Bytes that the client has acknowledged (Linux); elsewhere the time, so that every reader makes progress."""
        if self._stream.closed() or not hasattr(socket, "TCP_INFO"):
            return time.monotonic_ns()
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, ACKED.size + ACKED_AT)
        return int(ACKED.unpack_from(info, ACKED_AT)[0])

    def write(self, data: bytes | memoryview) -> asyncio.Future[None] | None:
        """Straight to the socket while nothing waits in the stream: that costs a fifth of a write to the stream."""
        stream = self._stream
        if self._straight and not stream.writing() and not stream.closed():
            try:
                sent = self._socket.send(data)
            except OSError:  # it is full, or broken: the stream finds out which
                sent = 0
            if sent == len(data):
                return None
            data = memoryview(data)[sent:]
        return stream.write(data)


class EventsHandler(BaseHandler, WebSocketHandler):
    """One subscriber."""

    def initialize(
        self,
        auth: Authenticator,
        busy: set[object],
        event_stream: EventStream,
        broker: Broker,
        sockets: Sockets,
        origins: Collection[str],
        held: ConnectionLimiter,
    ) -> None:
        super().initialize(auth, busy)
        self._held = held
        self._lease: Slot | None = None
        self._event_stream = event_stream
        self._broker = broker
        self._sockets = sockets
        self._origins = origins
        self._subscriber: Subscriber | None = None
        self._identity: Identity | None = None
        self._newcomer: Slot | None = None  # until it has said who it is
        self._auth_timeout: asyncio.TimerHandle | None = None
        self._stream: IOStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    async def get(self) -> None:
        self.document()  # a body, if any, is JSON
        self._check_origin()
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            await self._serve_sse()
            return
        if self.request.headers.get("Authorization"):
            self._identity = self.identify({}, "read")
        self._check_handshake()
        await WebSocketHandler.get(self)

    def check_origin(self, origin: str) -> bool:
        """A page may read the stream if it came from here, or from an origin that was allowed by name."""
        scheme, _, host = origin.lower().partition("://")
        own = scheme in ("http", "https") and host == self.request.headers.get("Host", "").lower()
        return own or origin.lower() in self._origins

    def recheck(self) -> None:
        """Close it if its token is gone, or may no longer read."""
        if self._identity is not None:
            try:
                self._identity = self.still(self._identity, "read")
            except HttpError as error:
                self._refuse(error)

    def _check_origin(self) -> None:
        origin = self.request.headers.get("Origin") or self.request.headers.get("Sec-Websocket-Origin")
        elsewhere = self.request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")
        if not self.check_origin(origin) if origin is not None else elsewhere:
            raise Forbidden("this origin may not read the stream; see --allow-origin")

    # -- websocket -------------------------------------------------------------------------------------------------

    def _check_handshake(self) -> None:
        """Tornado asks the same, but answers in plain text.

        Raises:
            BadRequest
        """
        headers = self.request.headers
        if "upgrade" not in (word.strip().lower() for word in headers.get("Connection", "").split(",")):
            raise BadRequest("a websocket wants the header 'Connection: Upgrade'")
        if headers.get("Sec-WebSocket-Version") != "13" or not headers.get("Sec-WebSocket-Key"):
            raise BadRequest("a websocket wants the headers Sec-WebSocket-Key and 'Sec-WebSocket-Version: 13'")

    def open(self, *args: str, **kwargs: str) -> None:
        self._busy.discard(self)
        if self.ws_connection is None:
            return
        self._stream = self.ws_connection.stream
        self.set_nodelay(True)
        self._allowance = Allowance(SAID_AT_ONCE, SAID_EACH_SECOND)
        self._sockets.open.add(self)
        if self._identity is not None:
            self._begin("websocket")
            return
        self._newcomer = self._held.admit(self.request.remote_ip or "", self._give_way)
        self._auth_timeout = asyncio.get_running_loop().call_later(
            AUTH_WITHIN, self.end, NO_AUTH_IN_TIME, "no auth frame within 5 s"
        )

    def on_ping(self, data: bytes) -> None:
        self._count_received(data)

    def on_pong(self, data: bytes) -> None:
        self._count_received(data)

    def _count_received(self, data: str | bytes) -> None:
        """Disconnect a client that sends more than it has to say: its token, and then a ping now and then."""
        if not self._allowance.take(len(data) + FRAME_HEAD) and self._stream is not None:
            self._stream.close()

    def on_message(self, message: str | bytes) -> None:
        self._count_received(message)
        if self._newcomer is None:
            return  # the stream goes one way; what a client says on it later means nothing
        self._stop_waiting()
        try:
            self._identity = self._admit(None, _token_of(message), "read")
        except HttpError as error:
            self._refuse(error)
        else:
            # The line of its request was written before anyone knew.
            known = {"request": self.request_id, "remote": self.request.remote_ip, "by": self.by}
            log.info("socket_authenticated", **known, path=self.request.path)
            self._begin("websocket")

    def _give_way(self) -> None:
        self._refuse(
            TooManyConnections("too many open websockets that have shown no token: this one waited for the longest")
        )

    def on_close(self) -> None:
        self._forget()

    def end(self, code: int, detail: str) -> None:
        """Say why, and close."""
        if self._ended:
            return
        self._ended = True
        if self._stream is not None and not self._stream.closed():
            self._say_last(frames.error(code, detail))
            if self.ws_connection is not None:
                self.close(code, detail.encode()[:MAX_REASON].decode(errors="ignore"))
            else:
                self._stream.close()
        self._forget()

    def _refuse(self, error: HttpError) -> None:
        code = next(code for kind, code in CLOSES.items() if isinstance(error, kind))
        if code != MALFORMED and not self._ended:
            self.log_refusal(code, str(error))
        self.end(code, str(error))

    def _say_last(self, frame: frames.Frame) -> None:
        wire = "websocket" if self.ws_connection is not None else "sse"
        if self._stream is not None:
            try:
                self._stream.write(getattr(frame, wire))
            except StreamClosedError:
                return

    # -- Server-Sent Events ----------------------------------------------------------------------------------------

    async def _serve_sse(self) -> None:
        self._identity = self.identify({}, "read")
        self._wishes(self._identity)  # a wrong one is an answer of its own
        self._lease = self._take_lease(self._identity)
        self._auto_finish = False
        self._busy.discard(self)
        self._stream = self.detach()
        self._finished = True
        fields = {**HEADERS, "Content-Type": "text/event-stream", "Connection": "close", "X-Accel-Buffering": "no"}
        fields["X-Request-ID"] = self.request_id
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        try:
            await self._stream.write(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode("latin-1"))
        except StreamClosedError:
            self._forget()
            return
        self._log()
        self._sockets.open.add(self)
        self._stream.set_close_callback(self._forget)
        self._begin("sse")

    # -- both ------------------------------------------------------------------------------------------------------

    def _begin(self, wire: Wire) -> None:
        self.recheck()  # the tokens may have changed since it came
        if self._stream is None or self._identity is None or self._ended:
            return
        try:
            since, wants = self._wishes(self._identity)
            self._lease = self._lease or self._take_lease(self._identity)
        except HttpError as error:
            self._refuse(error)
            return
        self._headers = _SENT  # each of 5,000 would keep its own
        self._subscriber = Subscriber(_Pipe(self._stream), wire, wants, self._cut)
        self._task = asyncio.create_task(self._bring_up(self._subscriber, since))

    async def _bring_up(self, subscriber: Subscriber, since: Since | None) -> None:
        try:
            await self._event_stream.bring_up(subscriber, since)
        except JournalUnwritable as error:
            self.end(1011, self.words_of(error))
        except Exception:  # the top of a task
            log.exception("events_failed", request=self.request_id)
            self.end(1011, "quartermaster failed: its log has the reason")
        finally:
            self._task = None  # it was kept so that it is not collected before its end
            if subscriber.gone:
                self._forget()

    def _take_lease(self, identity: Identity) -> Slot:
        return self._held.take("socket", identity.name, identity.grant is not None)

    def _wishes(self, identity: Identity) -> tuple[Since | None, Filter]:
        """What the query and ``Last-Event-ID`` ask for, as far as the token sees it.

        Raises:
            BadRequest
            Forbidden: another than the root token asks for nodes.
        """
        query = self.parameters(*PARAMETERS)
        for name in ("since", "service"):
            if len(query.get(name, ())) > 1:
                raise BadRequest(f"{name}: give it once")
        topics = frozenset(topic for value in query.get("topic", ()) for topic in value.split(","))
        if not topics <= TOPICS:
            raise BadRequest(f"topic: expected some of {', '.join(sorted(TOPICS))}")
        if "node" in topics:
            policy.require_root(identity.grant, "the topic node is")
        labels = frozenset(query.get("label", ()))
        if not all(label.partition("=")[0] and "=" in label for label in labels):
            raise BadRequest("label: expected key=value")
        wants = Filter(topics, query.get("service", [""])[0], labels, identity.sees)
        return _since(query.get("since", [self.request.headers.get("Last-Event-ID", "")])[0]), wants

    def _cut(self) -> None:
        log.warning("slow_consumer_cut", request=self.request_id, remote=self.request.remote_ip)
        self._sockets.cut += 1
        stream = self._stream
        self._ended = True
        self._forget()
        if stream is not None:
            stream.close()  # what waits in its buffer would never be read, nor would a word about it

    def _stop_waiting(self) -> None:
        if self._newcomer is not None:
            self._newcomer.release()
            self._newcomer = None
        if self._auth_timeout is not None:
            self._auth_timeout.cancel()
            self._auth_timeout = None

    def _forget(self) -> None:
        self._stop_waiting()
        self._sockets.open.discard(self)
        if self._lease is not None:
            self._lease.release()
        if self._subscriber is not None:
            self._subscriber.gone = True
            self._broker.leave(self._subscriber)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()  # it may wait for its token's room, with nobody there to read

    def on_connection_close(self) -> None:
        BaseHandler.on_connection_close(self)
        self._busy.discard(self)
        WebSocketHandler.on_connection_close(self)


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
        raise BadRequest("since: not a cursor of quartermaster's")
    return Since(*parsed)
