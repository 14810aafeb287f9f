"""Events: ``GET /events``, protocol ``qmaster.v1``, as a websocket or as Server-Sent Events."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

import msgspec
import structlog
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError
from tornado.websocket import WebSocketHandler

from .. import frames
from ..auth import Authenticator, Identity
from ..errors import BadRequest, Forbidden, JournalUnwritable, TooManySockets, Unauthorized
from ..feed import Feed, Since
from ..hub import Filter, Hub, Subscriber, Wire
from .base import BaseHandler

AUTH_WITHIN = 5.0  # seconds
MAX_SOCKETS = 8192
MAX_UNAUTHENTICATED = 256
MAX_INBOUND = 4096  # bytes of a client's frame
SEND_BUFFER = 128 * 1024  # of the kernel: small, so that a reader's pace is seen here
TOPICS = frozenset({"service", "task", "node"})
PARAMETERS = ("since", "service", "label", "topic")

GOING_AWAY, SLOW_CONSUMER = 1001, 1013
MALFORMED, BAD_TOKEN, NO_AUTH_IN_TIME, TOO_MANY = 4400, 4401, 4408, 4429

log = structlog.get_logger(__name__)


class Sockets:
    """All open event streams, and how many there may be."""

    def __init__(self) -> None:
        self.open: set[EventsHandler] = set()
        self.unauthenticated = 0
        self.cut = 0  # for reading too slowly

    def close(self) -> None:
        """Tell everyone that this quartermaster ends."""
        for handler in list(self.open):
            handler.end(GOING_AWAY, "quartermaster is stopping; connect again and resume")


class _Pipe:
    """The stream under a websocket or an SSE answer."""

    __slots__ = ("_socket", "_straight", "_stream")

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._straight = not isinstance(stream, SSLIOStream)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

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
        feed: Feed,
        hub: Hub,
        sockets: Sockets,
        origins: Collection[str],
    ) -> None:
        super().initialize(auth, busy)
        self._feed = feed
        self._hub = hub
        self._sockets = sockets
        self._origins = origins
        self._subscriber: Subscriber | None = None
        self._identity: Identity | None = None
        self._waits_for_auth = False
        self._auth_timeout: asyncio.TimerHandle | None = None
        self._stream: IOStream | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    async def get(self) -> None:
        self.document()  # a body, if any, is JSON
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            await self._serve_sse()
            return
        if self.request.headers.get("Authorization"):
            self._identity = self.identify({})
        await WebSocketHandler.get(self)

    def check_origin(self, origin: str) -> bool:
        """A page may read the stream if it came from here, or from an origin that was allowed by name."""
        own = urlsplit(origin).netloc.lower() == self.request.headers.get("Host", "").lower()
        return own or origin.lower() in self._origins

    # -- websocket -------------------------------------------------------------------------------------------------

    def open(self, *args: str, **kwargs: str) -> None:
        self._busy.discard(self)
        if self.ws_connection is None:
            return
        self._stream = self.ws_connection.stream
        if len(self._sockets.open) >= MAX_SOCKETS or (
            self._identity is None and self._sockets.unauthenticated >= MAX_UNAUTHENTICATED
        ):
            self.end(TOO_MANY, "too many open event streams")
            return
        self._sockets.open.add(self)
        if self._identity is not None:
            self._begin("websocket")
            return
        self._waits_for_auth = True
        self._sockets.unauthenticated += 1
        self._auth_timeout = asyncio.get_running_loop().call_later(
            AUTH_WITHIN, self.end, NO_AUTH_IN_TIME, "no auth frame within 5 s"
        )

    def on_message(self, message: str | bytes) -> None:
        if not self._waits_for_auth:
            return  # the stream goes one way; what a client says on it later means nothing
        self._stop_waiting()
        try:
            self._identity = self._auth.identify(None, _token_of(message))
        except BadRequest as error:
            self.end(MALFORMED, str(error))
        except Unauthorized as error:
            self.end(BAD_TOKEN, str(error))
        else:
            self._begin("websocket")

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
                self.close(code, "slow_consumer" if code == SLOW_CONSUMER else detail[:100])
            else:
                self._stream.close()
        self._forget()

    def _say_last(self, frame: frames.Frame) -> None:
        wire = "websocket" if self.ws_connection is not None else "sse"
        if self._stream is not None:
            try:
                self._stream.write(getattr(frame, wire))
            except StreamClosedError:
                return

    # -- Server-Sent Events ----------------------------------------------------------------------------------------

    async def _serve_sse(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is not None and not self.check_origin(origin):
            raise Forbidden("this origin may not read the stream; see --allow-origin")
        self._identity = self.identify({})
        self._wishes()  # a wrong one is an answer of its own
        if len(self._sockets.open) >= MAX_SOCKETS:
            raise TooManySockets("too many open event streams")
        self._auto_finish = False
        self._busy.discard(self)
        self._stream = self.detach()
        self._finished = True
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n"
        head += f"X-Request-ID: {self.request_id}\r\nServer: quartermaster\r\nX-Accel-Buffering: no\r\n\r\n"
        try:
            await self._stream.write(head.encode("latin-1"))
        except StreamClosedError:
            return
        self._log()
        self._sockets.open.add(self)
        self._stream.set_close_callback(self._forget)
        self._begin("sse")

    # -- both ------------------------------------------------------------------------------------------------------

    def _begin(self, wire: Wire) -> None:
        try:
            since, wants = self._wishes()
        except BadRequest as error:
            self.end(MALFORMED, str(error))
            return
        if self._stream is None:
            return
        self._subscriber = Subscriber(_Pipe(self._stream), wire, wants, self._cut)
        self._task = asyncio.create_task(self._bring_up(self._subscriber, since))

    async def _bring_up(self, subscriber: Subscriber, since: Since | None) -> None:
        try:
            await self._feed.bring_up(subscriber, since)
        except JournalUnwritable as error:
            self.end(1011, str(error))
        except Exception:  # the top of a task
            log.exception("events_failed", request=self.request_id)
            self.end(1011, "quartermaster failed: its log has the reason")
        finally:
            self._task = None  # it was kept so that it is not collected before its end

    def _wishes(self) -> tuple[Since | None, Filter]:
        """What the query and ``Last-Event-ID`` ask for.

        Raises:
            BadRequest
        """
        query = self.parameters(*PARAMETERS)
        for name in ("since", "service"):
            if len(query.get(name, ())) > 1:
                raise BadRequest(f"{name}: give it once")
        topics = frozenset(topic for value in query.get("topic", ()) for topic in value.split(","))
        if not topics <= TOPICS:
            raise BadRequest(f"topic: expected some of {', '.join(sorted(TOPICS))}")
        labels = frozenset(query.get("label", ()))
        if not all(label.partition("=")[0] and "=" in label for label in labels):
            raise BadRequest("label: expected key=value")
        wants = Filter(topics, query.get("service", [""])[0], labels)
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
        if self._waits_for_auth:
            self._waits_for_auth = False
            self._sockets.unauthenticated -= 1
        if self._auth_timeout is not None:
            self._auth_timeout.cancel()
            self._auth_timeout = None

    def _forget(self) -> None:
        self._stop_waiting()
        self._sockets.open.discard(self)
        if self._subscriber is not None:
            self._subscriber.gone = True
            self._hub.leave(self._subscriber)

    def on_connection_close(self) -> None:
        self._busy.discard(self)
        WebSocketHandler.on_connection_close(self)


class _AuthFrame(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="auth"):
    token: str


def _token_of(message: str | bytes) -> str:
    try:
        return msgspec.json.decode(message, type=_AuthFrame).token
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise BadRequest('expected {"type": "auth", "token": …} as the first frame') from None


def _since(text: str) -> Since | None:
    if not text:
        return None
    parsed = frames.parse_cursor(text)
    if parsed is None:
        raise BadRequest("since: not a cursor of quartermaster's")
    return Since(*parsed)
