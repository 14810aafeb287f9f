"""Lets connections in while there are descriptors to spare; who comes then is told so. The event loop owns it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import time
from collections import deque
from typing import Any

import msgspec
import structlog

from .errors import TooManyConnections, problem

SPARE = 128  # descriptors: the engine's threads have 40 connections at most, followed logs 64, the journal its few
LINGER = 2.0  # seconds in which who is refused can read why
MAX_LINGERING = 16
SAY_EVERY = 10.0  # seconds
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
READ_AT_MOST = 64 * 1024

log = structlog.get_logger(__name__)


class Door(socket.socket):
    """A listening socket that always accepts: else a full process would be woken for ever by who waits to come in.

    Args:
        listening: taken over.
        plain: whether a refusal can be said in plain HTTP; under TLS the connection just ends.
    """

    def __init__(self, listening: socket.socket, plain: bool) -> None:
        super().__init__(listening.family, listening.type, listening.proto, listening.detach())
        self.setblocking(False)
        self._plain = plain
        self._refused: deque[socket.socket] = deque()
        self._said = -SAY_EVERY
        self._last: int | None = _any_descriptor()

    def accept(self) -> tuple[socket.socket, Any]:
        """
        Raises:
            BlockingIOError: nobody waits, or who came was refused.
        """
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            self._accept_with_the_last()
            raise BlockingIOError from error
        # The kernel gives the lowest that is free: so many are in use, whatever for.
        if connection.fileno() < _room():
            return connection, address
        self._refuse(connection)
        raise BlockingIOError

    def close(self) -> None:
        while self._refused:
            self._refused.popleft().close()
        if self._last is not None:
            os.close(self._last)
            self._last = None
        super().close()

    def _accept_with_the_last(self) -> None:
        """Take in and refuse one with the descriptor that is kept for this."""
        if self._last is not None:
            os.close(self._last)
        try:
            with super().accept()[0] as connection:
                self._say_why(connection)
        finally:
            self._last = None
            with contextlib.suppress(OSError):
                self._last = _any_descriptor()

    def _refuse(self, connection: socket.socket) -> None:
        """Not closed at once: what it has yet to send would be answered with a reset, which hides what was said."""
        self._say_why(connection)
        self._refused.append(connection)
        if len(self._refused) > MAX_LINGERING:
            self._refused.popleft().close()
        asyncio.get_running_loop().call_later(LINGER, self._see_off, connection)

    def _say_why(self, connection: socket.socket) -> None:
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            log.warning("descriptors_exhausted", limit=_limit(), advice="raise it (ulimit -n), or close connections")
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            if self._plain:
                connection.sendall(_refusal())
            connection.shutdown(socket.SHUT_WR)

    def _see_off(self, connection: socket.socket) -> None:
        if connection in self._refused:
            self._refused.remove(connection)
            with contextlib.suppress(OSError):
                connection.recv(READ_AT_MOST)
            connection.close()


def _limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _room() -> float:
    """How many descriptors may be in use after one more has come in."""
    limit = _limit()
    return float("inf") if limit == resource.RLIM_INFINITY else max(limit - SPARE, limit // 2)


def _any_descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _refusal() -> bytes:
    error = TooManyConnections("too many connections are open; close some, or try again")
    body = msgspec.json.encode(problem(int(error.status), str(error), "")) + b"\n"
    headers = {"Content-Type": "application/problem+json", "Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **error.headers}.items())
    return f"HTTP/1.1 {int(error.status)} {error.status.phrase}\r\n{lines}\r\n".encode() + body
