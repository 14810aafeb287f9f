"""Limits on connections: their number, their idle time, and what a websocket's client may send.

The event loop owns all state. A wait, a call of a function, a followed log and a websocket may last for days, and each
uses a descriptor, so their number is limited by kind and by token. The other descriptors are for short calls, such as
``/stop``, and for the engine.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import structlog
from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.web import Application

from ..auth.authenticator import source
from ..errors import TooManyConnections

Kind = Literal["socket", "wait", "call", "log", "unauthenticated"]
MOST: dict[Kind, int] = {"socket": 8192, "wait": 2048, "call": 2048, "log": 64, "unauthenticated": 256}
NAMES: dict[Kind, str] = {  # in errors
    "socket": "open event streams",
    "wait": "calls that wait",
    "call": "open calls of functions",
    "log": "open logs",
    "unauthenticated": "websockets without a token",
}
SHARE = 4  # one token can use 1/SHARE of a kind; of the unauthenticated, one address can (of IPv6 a /64)
SPARE = 256  # connections for short calls
RESERVED = 256  # descriptors for the rest: 64 for logs, 70 for the engine, a few for the journal
WANTED = sum(MOST.values()) + SPARE + RESERVED

MAX_HEADER = 8 * 1024  # bytes of a request's head
MAX_READ = 1024 * 1024  # bytes of a body that are read; handlers answer 413 beyond the smaller MAX_BODY
# Seconds. Tornado counts a head's time from the end of the request before it, so this also limits idle connections.
IDLE = 10.0
BODY_WITHIN = 10.0
UNREAD = 120.0  # how long sent data may stay unacknowledged
BACKLOG = 1024
REPORT_EVERY = 1.0

# Accepted connections inherit these from the listening socket (Linux). A client that vanishes is noticed within two
# minutes: TCP_USER_TIMEOUT replaces the count of probes, and leaves time for all four (tcp(7)).
_TCP_OPTIONS = (
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPINTVL", 15),
    ("TCP_KEEPCNT", 4),
    ("TCP_USER_TIMEOUT", int(UNREAD * 1000)),
)

log = structlog.get_logger(__name__)


class LimitedHTTPServer(HTTPServer):
    """Tornado's server with a limit on open connections; see ``make_server``."""

    def initialize(self, *args: Any, max_connections: int = WANTED, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)  # Tornado calls this in place of a constructor
        self.max_connections = max_connections
        self.streams: set[IOStream] = set()  # all open connections, websockets among them
        self.refused = 0  # since the last report

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        if len(self.streams) >= self.max_connections:
            self._forget_closed()
        if len(self.streams) >= self.max_connections:
            self._refuse(stream)
            return
        self.streams.add(stream)
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        stream = cast(HTTP1ServerConnection, server_conn).stream
        if stream.closed():  # it is open if a websocket uses it now
            self.streams.discard(stream)

    def _forget_closed(self) -> None:
        """Forget closed websockets, whose end the server is not told of."""
        self.streams = {stream for stream in self.streams if not stream.closed()}

    def _refuse(self, stream: IOStream) -> None:
        stream.close()
        if not self.refused:
            asyncio.get_running_loop().call_later(REPORT_EVERY, self._report)
        self.refused += 1

    def _report(self) -> None:
        log.warning("connections_full", limit=self.max_connections, refused=self.refused)
        self.refused = 0


def make_server(
    application: Application, max_connections: int = WANTED, tls: ssl.SSLContext | None = None, idle: float = IDLE
) -> LimitedHTTPServer:
    """Make the HTTP server of an application.

    Args:
        application: the routes.
        max_connections: how many may be open; further ones are closed at once.
        tls: the TLS context for HTTPS; None: plain HTTP.
        idle: seconds until a connection without a complete request is closed.
    """
    return LimitedHTTPServer(
        application,
        max_connections=max_connections,
        ssl_options=tls,
        chunk_size=16 * 1024,
        max_header_size=MAX_HEADER,
        max_body_size=MAX_READ,
        idle_connection_timeout=idle,
        body_timeout=BODY_WITHIN,
    )


def listen(server: HTTPServer, sockets: Iterable[socket.socket]) -> None:
    """Accept connections on these listening sockets; clients that vanish are noticed."""
    for listener in sockets:
        set_keepalive(listener, _TCP_OPTIONS)
        server.add_socket(listener)


def set_keepalive(listener: socket.socket, options: Iterable[tuple[str, int]]) -> None:
    """Set TCP's options of keepalive, as far as the platform has them; accepted connections inherit them."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options:
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def set_reader_timeout(stream: IOStream, seconds: float) -> None:
    """Let the kernel close a connection whose client acknowledges nothing for so long (Linux); 0: no limit."""
    if stream.socket is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


class Allowance:
    """Bytes that a client may send: ``burst`` at once, and ``per_second`` more each second."""

    __slots__ = ("_burst", "_clock", "_left", "_per_second", "_since")

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left, self._since = float(burst), clock()

    def take(self, amount: int) -> bool:
        """Count ``amount`` bytes, and return whether they are within the allowance."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._since) * self._per_second) - amount
        self._since = now
        return self._left >= 0


class Slot:
    """A slot of one long-lived connection. ``release`` frees it; a second call does nothing."""

    __slots__ = ("_kind", "_limiter", "_owner")

    def __init__(self, limiter: ConnectionLimiter, kind: Kind, owner: str) -> None:
        self._limiter: ConnectionLimiter | None = limiter
        self._kind: Kind = kind
        self._owner = owner

    def release(self) -> None:
        """Free the slot; a second call does nothing."""
        if self._limiter is not None:
            limiter, self._limiter = self._limiter, None
            limiter.give_back(self, self._kind, self._owner)

    def __enter__(self) -> Slot:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()


class ConnectionLimiter:
    """Limits the long-lived connections, by kind and by token.

    Args:
        connections: how many connections of all sorts may be open.
    """

    def __init__(self, connections: int = WANTED) -> None:
        self._capacity = max(connections - SPARE, connections // 2)
        self._all: Counter[str] = Counter()
        self._by: Counter[tuple[str, str]] = Counter()
        # By address: the websockets that have sent no token, the oldest first, and what closes each.
        self._unauthenticated: dict[str, dict[Slot, Callable[[], None]]] = {}

    def take(self, kind: Kind, owner: str, limited: bool) -> Slot:
        """Take a slot for a connection.

        Args:
            kind: the kind of connection.
            owner: the name of the token.
            limited: whether the owner is limited to its share.

        Raises:
            TooManyConnections: all slots, or the owner's share of them, are in use.
        """
        most = self._most(kind)
        # An unauthenticated websocket is closed when another needs its slot, so it does not count here.
        if self._all.total() - self._all["unauthenticated"] >= self._capacity or self._all[kind] >= most:
            raise TooManyConnections(f"too many {NAMES[kind]}; close some, or try again later")
        if limited and self._by[kind, owner] >= max(1, most // SHARE):
            raise TooManyConnections(f"too many {NAMES[kind]} of this token; close some")
        return self._new_slot(kind, owner)

    def admit(self, address: str, end: Callable[[], None]) -> Slot:
        """Take a slot for a websocket that has sent no token. It always succeeds, if need be by closing another one.

        Otherwise 64 silent websockets would block a browser at the same address, which cannot send its token first.
        The oldest of the same address is closed if that address has its share, else the oldest of the address with
        the most.

        Args:
            address: the client's address.
            end: closes the websocket when it loses its slot.
        """
        origin, most = source(address), self._most("unauthenticated")
        if self._by["unauthenticated", origin] >= max(1, most // SHARE):
            self._end_oldest(origin)
        elif self._all["unauthenticated"] >= most:
            self._end_oldest(max(self._unauthenticated, key=lambda each: len(self._unauthenticated[each])))
        slot = self._new_slot("unauthenticated", origin)
        self._unauthenticated.setdefault(origin, {})[slot] = end
        return slot

    def _end_oldest(self, origin: str) -> None:
        slot, end = next(iter(self._unauthenticated[origin].items()))
        slot.release()
        end()

    def _most(self, kind: Kind) -> int:
        return min(MOST[kind], self._capacity)

    def _new_slot(self, kind: Kind, owner: str) -> Slot:
        self._all[kind] += 1
        self._by[kind, owner] += 1
        return Slot(self, kind, owner)

    def give_back(self, slot: Slot, kind: Kind, owner: str) -> None:
        """Free a slot; called by ``Slot.release``, once for each."""
        self._all[kind] -= 1
        self._by[kind, owner] -= 1
        if not self._by[kind, owner]:
            del self._by[kind, owner]
        if kind == "unauthenticated":
            self._unauthenticated[owner].pop(slot, None)
            if not self._unauthenticated[owner]:
                del self._unauthenticated[owner]


def connections(descriptors: int) -> int:
    """Return how many of this number of descriptors may be connections."""
    return max(descriptors - RESERVED, descriptors // 2)


def descriptors(wanted: int = WANTED) -> int:
    """Raise the process's limit of open descriptors to ``wanted`` if possible, and return what it may use of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most, wanted = wanted, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return most if soft == resource.RLIM_INFINITY else soft
