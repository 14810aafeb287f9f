"""Receivers of callbacks on the loopback: each answers as its script says, and keeps what it got."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from qmaster.functions.callbacks.webhooks import Receivers

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Got(NamedTuple):
    """One request: its first line, its headers in lower case, its body."""

    line: str
    headers: dict[str, str]
    body: bytes


Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """A server on a port of 127.0.0.1; `answers` are those of the next requests, the last of all others."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers or (OK,))
        self.got: list[Got] = []
        self.connections = self.open = self.most = 0
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.got.append(Got(first, headers, body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(writer)


@asynccontextmanager
async def receiving(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver(*answers)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in (serving := list(receiver.tasks)):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def status(code: int, *headers: str) -> bytes:
    """An answer without a body."""
    return "\r\n".join([f"HTTP/1.1 {code} Words", "Content-Length: 0", *headers, "", ""]).encode()


def allowed(folder: Path, *prefixes: str) -> Receivers:
    """Receivers below these prefixes, with one key."""
    file = folder / "keys"
    file.write_text(SECRET)
    file.chmod(0o600)
    made = Receivers(prefixes, str(file))
    made.load()
    return made
