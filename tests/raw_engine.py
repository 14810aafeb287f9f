"""An engine that answers with bytes, on the test's own loop; and a client that needs none."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from fakes import until

from qmaster.engine import Endpoint
from qmaster.engine.client import Client

MADE = {"ID": "s1"}
PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK"


class Asked(NamedTuple):
    line: str
    headers: dict[str, str]
    body: bytes


Say = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def reply(document: object = MADE, status: int = 201, *lines: str) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


class RawEngine:
    """Answers with what it is given, one after the other and the last for ever; after those in ``then_ends`` it ends.

    ``ping`` is its answer to that.
    """

    def __init__(self, path: Path, *answers: Say) -> None:
        self.path = path
        self.host = f"unix://{path}"
        self.answers: list[Say] = list(answers) or [reply()]
        self.ping = PING
        self.then_ends: set[Say] = set()
        self.asked: list[Asked] = []
        self.connections = 0
        self.open: set[asyncio.StreamWriter] = set()

    @property
    def calls(self) -> list[Asked]:
        """All but pings."""
        return [asked for asked in self.asked if "/_ping " not in asked.line]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        with contextlib.suppress(OSError, EOFError):
            while await self._answer(reader, writer):
                pass
        self.open.discard(writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        self.asked.append(Asked(line, headers, await reader.readexactly(int(headers.get("content-length", 0)))))
        say: Say = self.ping
        if "/_ping " not in line:
            say = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(say):
            await say(writer)
        else:
            writer.write(say)
        return say not in self.then_ends

    def hang_up(self) -> None:
        """On all, at once: the client's loop has not heard of it yet."""
        for writer in self.open:
            writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


@contextlib.asynccontextmanager
async def raw_engine(folder: Path, *answers: Say) -> AsyncIterator[RawEngine]:
    made = RawEngine(folder / "engine.sock", *answers)
    server = await asyncio.start_unix_server(made.serve, made.path)
    try:
        yield made
    finally:
        server.close()
        for writer in made.open:
            writer.transport.abort()
        await until(lambda: not made.open)


@contextlib.asynccontextmanager
async def engine_and_client(folder: Path, *answers: Say) -> AsyncIterator[tuple[RawEngine, Client]]:
    """An engine, and a client of it."""
    async with raw_engine(folder, *answers) as engine:
        client = Client(Endpoint.read(engine.host, {}))
        try:
            yield engine, client
        finally:
            await client.close()


async def silence(writer: asyncio.StreamWriter) -> None:
    """No answer; what is heard next is that whoever asked has hung up."""


class Scripted(Client):
    """A client whose requests give what is in ``answers``, or raise it; None: they say nothing."""

    def __init__(self, *answers: Any) -> None:
        self.counted: list[tuple[str, str, float]] = []
        super().__init__(Endpoint(None), lambda *call: self.counted.append(call))
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []

    async def send(self, *asked: Any, **more: Any) -> bytes:
        self.asked.append((*asked, *more.values()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await asyncio.sleep(60)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()
