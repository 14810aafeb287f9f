"""A server without an engine, and its callers."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from fakes import until
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from qmaster.api import limits

LARGE = 16 * 1024 * 1024
LONGEST = 1024 * 1024  # bytes of an answer that are read at once
TOKEN = "a-token-for-tests"


@stream_request_body
class Handler(RequestHandler):
    """`gate` holds up `/slow`."""

    def initialize(self, gate: asyncio.Event) -> None:
        self._gate = gate

    def data_received(self, chunk: bytes) -> None:
        pass

    async def get(self, what: str) -> None:
        if what == "slow":
            await self._gate.wait()
        self.write(b"x" * LARGE if what == "large" else b"hello")

    post = get


class Made:
    """A server with an application behind it, and its callers."""

    def __init__(self, application: Application | None, most: int, tls: ssl.SSLContext | None, idle: float) -> None:
        self.gate = asyncio.Event()
        made = application or Application([("/(.*)", Handler, {"gate": self.gate})], log_function=lambda handler: None)
        self.server = limits.make_server(made, most, tls, idle)
        sockets = bind_sockets(0, "127.0.0.1")
        limits.listen(self.server, sockets)
        self.port = sockets[0].getsockname()[1]
        self.callers: list[Caller] = []

    @property
    def open(self) -> int:
        return len(self.server.streams)

    async def call(self, data: bytes = b"", trusting: ssl.SSLContext | None = None) -> "Caller":
        """A new connection that was accepted, and what it says first."""
        before = self.open
        name = "localhost" if trusting else None
        wires = await asyncio.open_connection("127.0.0.1", self.port, limit=LONGEST, ssl=trusting, server_hostname=name)
        caller = Caller(*wires)
        self.callers.append(caller)
        caller.say(data)
        await until(lambda: self.open != before or self.open >= self.server.max_connections)
        return caller

    async def close(self) -> None:
        self.gate.set()
        self.server.stop()
        await self.server.close_all_connections()
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
async def serving(
    application: Application | None = None,
    most: int = 100,
    tls: ssl.SSLContext | None = None,
    idle: float = limits.IDLE,
) -> AsyncIterator[Made]:
    made = Made(application, most, tls, idle)
    try:
        yield made
    finally:
        await made.close()
