"""A connection's bytes: who watches over it is told when it speaks and ends, and may bound how much it says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from tornado.httputil import HTTPInputError
from tornado.ioloop import IOLoop, _Selectable
from tornado.iostream import BaseIOStream, IOStream, SSLIOStream, StreamClosedError

from . import strict

MORSEL = 512  # bytes read at once of who should say little
THROWN_AWAY = 64 * 1024  # bytes that are read of who is not listened to any more


class Watch(Protocol):
    """Who watches over connections."""

    def heard(self, stream: Watched) -> None:
        """Bytes have come on one that was idle."""

    def left(self, stream: Watched) -> None:
        """It has ended."""

    def waits(self, stream: Watched) -> None:
        """It may be ended where another needs its place."""

    def has_all(self, stream: Watched) -> None:
        """It may not, any more."""


class Watched(BaseIOStream):
    """What a plain connection and one with TLS have in common. The event loop owns it.

    ``watch`` is set as soon as it is made; ``idle`` is whether it waits for a request of which nothing has come.
    """

    watch: Watch
    idle = False
    sent = 0  # bytes that have left
    _allowance: Allowance | None = None
    _waits_for_its_turn = False

    def set_nodelay(self, value: bool) -> None:
        """Nothing: Tornado would switch it on and off for each answer, and it is on for good (see the entrance)."""

    def stand_by(self) -> None:
        """From now on it may be ended where another needs its place."""
        if not self.closed():
            self.watch.waits(self)

    def settle(self) -> None:
        """From now on it may not, any more."""
        self.watch.has_all(self)

    def listen_little(self, burst: int, each_second: float) -> None:
        """From now on end it when it says more bytes than that, and read few at a time, so that others have a turn."""
        self._allowance = Allowance(burst, each_second)
        self.read_chunk_size = MORSEL

    def be_patient(self) -> None:
        """From now on its reader may take its time, as long as it is there."""
        if isinstance(self, IOStream) and hasattr(socket, "TCP_USER_TIMEOUT"):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """The head of a request: nothing else is read like this, and it ends in only one way.

        Raises:
            StreamClosedError: also where the next head came before the end: nobody would have the answer.
        """
        if self.closed():
            raise StreamClosedError
        return _checked(cast("Future[bytes]", super().read_until_regex(strict.HEAD_END, max_bytes)))

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        if self._waits_for_its_turn:
            return None
        count = super().read_from_fd(buf)
        if count and self.idle:
            self.watch.heard(self)
        if count and self._allowance:
            if not self._allowance.take(count):
                raise ConnectionResetError(errno.ECONNRESET, "it said more than it may")  # as if it had hung up
            self._let_others_go_first()
        return count

    def _let_others_go_first(self) -> None:
        """Read nothing more in this turn of the loop: many small frames take it longer than their bytes tell."""

    def _have_a_turn(self) -> None:
        self._waits_for_its_turn = False

    def write_to_fd(self, data: memoryview) -> int:
        count = super().write_to_fd(data)
        self.sent += count
        return count

    def close_fd(self) -> None:
        """Throw away what has come and nobody reads: the kernel would answer it with a reset, which takes from the
        client what was said to it last."""
        self.watch.left(self)
        if isinstance(self, IOStream):
            with contextlib.suppress(OSError):
                os.read(self.socket.fileno(), THROWN_AWAY)
        super().close_fd()


class Plain(Watched, IOStream):
    """A TCP connection."""

    def _handle_events(self, fd: int | _Selectable, events: int) -> None:
        """Go on listening when bytes come before they are asked for, and stop when more do.

        Whoever is quick has sent the next request before the one before is put away. Tornado would stop at once and
        begin again, with each request.
        """
        if events != IOLoop.READ or self.reading():
            super()._handle_events(fd, events)
        elif not self._read_buffer_size:
            self._handle_read()
        else:
            self._state = IOLoop.ERROR | (IOLoop.WRITE if self.writing() else 0)
            self.io_loop.update_handler(fd, self._state)

    def _let_others_go_first(self) -> None:
        self._waits_for_its_turn = True
        asyncio.get_running_loop().call_soon(self._have_a_turn)


class Encrypted(Watched, SSLIOStream):
    """A TLS connection. What it has read ahead wakes nobody, so it never waits for a turn."""


class Allowance:
    """So much at once, and so much more each second."""

    __slots__ = ("_burst", "_clock", "_each_second", "_left", "_since")

    def __init__(self, burst: int, each_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._each_second = each_second
        self._clock = clock
        self._left, self._since = float(burst), clock()

    def take(self, amount: int) -> bool:
        """Whether that much was left."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._since) * self._each_second) - amount
        self._since = now
        return self._left >= 0


def _checked(read: Future[bytes]) -> Future[bytes]:
    """The same head, or the error that it is not well formed."""
    if read.done():
        if not read.cancelled() and read.exception() is None:
            strict.check_head(read.result())
        return read
    checked: Future[bytes] = Future()

    def check(done: Future[bytes]) -> None:
        if checked.done():  # nobody waits for it any more
            return
        try:
            head = done.result()
            strict.check_head(head)
        except (HTTPInputError, OSError) as error:
            checked.set_exception(error)
            checked.exception()  # who waits is told; if nobody does, it is no matter
        except asyncio.CancelledError:
            checked.cancel()
        else:
            checked.set_result(head)

    read.add_done_callback(check)
    return checked
