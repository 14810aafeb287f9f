"""A log as it comes, read by a thread of its own, which waits where the loop does not take what it has read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

import docker.errors

from ..errors import HttpError, TooManyReaders
from .client import Client
from .errors import translate
from .logs import LogRequest, Message, Parser

MAX_READERS = 64  # as many as `held` lets in: who comes past it is bounded here
HELD = 256 * 1024  # bytes between the thread and the loop
BATCH_EVERY = 0.01  # seconds
OVERHEAD = 200  # bytes that a message has beside its data


class Readers:
    """How many logs are read at once. Belongs to the event loop.

    Args:
        connect: makes a client; called in the thread that will use it.
    """

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self.taken = 0

    @contextlib.contextmanager
    def slot(self) -> Iterator[Callable[[LogRequest], Reading]]:
        """Hold a slot; what it yields opens one log at a time.

        Raises:
            TooManyReaders
        """
        if self.taken >= MAX_READERS:
            raise TooManyReaders(f"{MAX_READERS} logs are being read already; try again")
        self.taken += 1
        opened: list[Reading] = []

        def open_log(request: LogRequest) -> Reading:
            opened[:] = [self._open(request)]
            return opened[0]

        try:
            yield open_log
        finally:
            self.taken -= 1
            for reading in opened:
                reading.close()

    def _open(self, request: LogRequest) -> Reading:
        pipe = _Pipe(asyncio.get_running_loop())
        # A daemon: it may be in a connect that nothing can interrupt, and the process does not wait for it.
        threading.Thread(target=_read, args=(self._connect, request, pipe), name="log-reader", daemon=True).start()
        return Reading(pipe)


class Reading:
    """An open log; a context that closes it."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """End the reading at once; again is fine."""
        self._pipe.close()

    async def take(self) -> list[Message]:
        """What has come since; nothing when it has ended. May be cancelled, and called again.

        Raises:
            HttpError: why it has ended, where that is not its own end.
        """
        return await self._pipe.take()


class _Closed(Exception):
    pass


class _Pipe:
    """Between one thread and the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready = asyncio.Event()  # the loop's, as is the time of the last take
        self._taken = 0.0
        self._changed = threading.Condition()  # guards all below
        self._held: list[Message] = []
        self._size = 0
        self._ended = False
        self._error: HttpError | None = None
        self._closed = False
        self._socket: socket.socket | None = None

    # -- the thread's ----------------------------------------------------------------------------------------------

    def opened(self, connection: socket.socket) -> None:
        with self._changed:
            self._socket = connection
            if self._closed:
                raise _Closed

    def put(self, message: Message) -> None:
        with self._changed:
            while self._size > HELD and not self._closed:
                self._changed.wait()
            if self._closed:
                raise _Closed
            self._held.append(message)
            self._size += len(message.data) + OVERHEAD
            first = len(self._held) == 1
        if first:
            self._wake()

    def end(self, error: HttpError | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._socket = None
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._ready.set)

    # -- the loop's ------------------------------------------------------------------------------------------------

    async def take(self) -> list[Message]:
        # A burst comes in few batches: else each of its messages would wake the loop.
        await asyncio.sleep(max(0.0, self._taken + BATCH_EVERY - time.monotonic()))
        while True:
            await self._ready.wait()
            self._taken = time.monotonic()
            with self._changed:
                taken, self._held, self._size = self._held, [], 0
                self._changed.notify()
                if taken:
                    return taken
                if self._ended:
                    break
                self._ready.clear()
        if self._error is not None:
            raise self._error
        return []

    def close(self) -> None:
        """End the thread, wherever it is; returns at once."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            if self._socket is not None:
                with contextlib.suppress(OSError, EOFError):  # over ssh it is a channel, which may be gone
                    self._socket.shutdown(socket.SHUT_RDWR)


def _read(connect: Callable[[], Client], request: LogRequest, pipe: _Pipe) -> None:
    """The thread."""
    try:
        with contextlib.closing(connect()) as client:
            _pass_on(client, request, pipe)
        pipe.end(None)
    except _Closed:
        return
    except Exception as error:  # the top of a thread: whatever ended it, the loop is told
        pipe.end(None if _keeps_none(error) else translate(error))


def _pass_on(client: Client, request: LogRequest, pipe: _Pipe) -> None:
    parser = Parser(details=request.kind == "service")
    with contextlib.closing(client.dial()) as connection:
        pipe.opened(connection.sock)
        path = f"/{request.kind}s/{request.id}/logs"
        with client.get_on(connection, path, request.parameters(), request.silence) as answer:
            for chunk in answer.chunks():
                for message in parser.feed(chunk):
                    pipe.put(message)
            for message in parser.end():
                pipe.put(message)


def _keeps_none(error: Exception) -> bool:
    """Whether the log driver is one that cannot be read."""
    return isinstance(error, docker.errors.APIError) and error.status_code == HTTPStatus.NOT_IMPLEMENTED
