"""A server without an engine, and a caller of it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, cast

from fakes import until
from tornado.http1connection import HTTP1Connection
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from qmaster.api.entrance import HEAD_WITHIN, LimitedHTTPServer
from qmaster.api.stream import Watched

LARGE = 16 * 1024 * 1024


@stream_request_body
class Handler(RequestHandler):
    """`gate` holds up `/slow` and `/slowlarge`; `streams` are those of the requests that came whole."""

    def initialize(self, gate: asyncio.Event, streams: list[Watched]) -> None:
        self._gate, self._streams = gate, streams

    def data_received(self, chunk: bytes) -> None:
        pass

    async def get(self, what: str) -> None:
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        assert isinstance(connection.stream, Watched)
        self._streams.append(connection.stream)
        if what.startswith("slow"):
            await self._gate.wait()
        self.write(b"x" * LARGE if what.endswith("large") else b"hello")

    post = get


class Clock:
    """The loop with its time, and what of it a test has let pass."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.passed = 0.0

    def time(self) -> float:
        return self._loop.time() + self.passed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class Components:
    """An entrance with an application behind it, and its callers."""

    def __init__(
        self, most: int, head_within: float, tls: ssl.SSLContext | None, application: Application | None
    ) -> None:
        self.gate = asyncio.Event()
        self.streams: list[Watched] = []
        routes = [("/(.*)", Handler, {"gate": self.gate, "streams": self.streams})]
        application = application or Application(routes, log_function=lambda handler: None)
        self.entrance = LimitedHTTPServer(application, most, tls, head_within)
        self.clock = Clock()
        self.entrance._loop = cast(Any, self.clock)
        sockets = bind_sockets(0, "127.0.0.1")
        self.entrance.listen(sockets)
        self.port = sockets[0].getsockname()[1]
        self.callers: list[Caller] = []

    async def call(self, data: bytes = b"", trusting: ssl.SSLContext | None = None) -> "Caller":
        """A new connection, and what it says first; it is let in."""
        before = self.entrance.open
        name = "localhost" if trusting else None
        opened = await asyncio.open_connection("127.0.0.1", self.port, ssl=trusting, server_hostname=name)
        caller = Caller(*opened)
        self.callers.append(caller)
        caller.say(data)
        await until(lambda: self.entrance.open != before or self.entrance.open >= self.entrance._most)
        return caller

    def wait(self, seconds: float) -> None:
        """Let time pass, and see who is late."""
        self.clock.passed += seconds
        cast(asyncio.TimerHandle, self.entrance._sweeping).cancel()
        self.entrance._sweep()

    def owing(self) -> tuple[int, int, int]:
        """How many have to bring a head, a body, or anything at all before long."""
        heads, bodies, idle = (
            len(deadlines._until) for deadlines in (self.entrance._heads, self.entrance._bodies, self.entrance._idle)
        )
        return heads, bodies, idle

    async def close(self) -> None:
        self.gate.set()
        self.entrance.stop()
        await self.entrance.close()
        for caller in self.callers:
            caller.writer.transport.abort()
        await asyncio.sleep(0)


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def hears(self) -> bool:
        """Whether it is answered; not where the connection ends."""
        try:
            return (await self.reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False

    async def ended(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


@contextlib.asynccontextmanager
async def house(
    most: int = 100,
    head_within: float = HEAD_WITHIN,
    tls: ssl.SSLContext | None = None,
    application: Application | None = None,
) -> AsyncIterator[Components]:
    made = Components(most, head_within, tls, application)
    try:
        yield made
    finally:
        await made.close()


# --- in time: with quartermaster's own handlers -----------------------------------------------------------------------

TOKEN = "a-token-for-tests"
