"""A runtime API whose instances the test plays over HTTP."""

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from function_cases import Stage
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from qmaster.api.runtime import server as runtime
from qmaster.functions.instances.instance import Instance
from qmaster.models.functions import Version

PYTHON = "aws-lambda-python/3.11.2-4.2"
GO = "Go-http-client/1.1"


class Site(NamedTuple):
    """A runtime API with a stage behind it, whose instances the test plays over HTTP."""

    stage: Stage
    server: runtime.RuntimeServer
    port: int
    clients: "list[Client]"

    async def started(self, version: Version, **call: Any) -> tuple[Instance, "asyncio.Task[Any]"]:
        """An instance that starts for a call."""
        number = len(self.stage.launcher.started) + 1
        calling = self.stage.invoke(version, **call)
        return await self.stage.instance(number), calling

    async def client(self, instance: Instance | str, agent: str = PYTHON) -> "Client":
        secret = instance if isinstance(instance, str) else instance.secret
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(Client(reader, writer, f"{secret}.qm.internal:{self.port}", agent))
        return self.clients[-1]


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One keep-alive connection of a runtime client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, agent: str) -> None:
        self.reader, self.writer, self.host, self.agent = reader, writer, host, agent

    async def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", f"User-Agent: {self.agent}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        await self.writer.drain()

    async def receive(self) -> Reply:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Reply(int(head[0].split()[1]), headers, body)

    async def ask(self) -> Reply:
        await self.send("GET", "/2018-06-01/runtime/invocation/next")
        return await self.receive()

    async def post(self, what: str, body: bytes, **headers: str) -> Reply:
        await self.send("POST", f"/2018-06-01/runtime/{what}", body, **headers)
        return await self.receive()

    async def next_id(self) -> str:
        return (await self.ask()).headers["lambda-runtime-aws-request-id"]

    async def is_closed(self) -> bool:
        """Whether the other side closes it, soon."""
        try:
            async with asyncio.timeout(20):
                return not await self.reader.read()
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
def site(io_loop: IOLoop) -> Iterator[Site]:
    async def make() -> Site:
        stage = Stage()
        server = runtime.make_server(runtime.RuntimeApi(stage.dispatcher))
        sockets = bind_sockets(0, "127.0.0.1")
        runtime.prepare(sockets)
        server.add_sockets(sockets)
        return Site(stage, server, sockets[0].getsockname()[1], [])

    made = io_loop.run_sync(make)

    async def close() -> None:
        for client in made.clients:
            client.close()
        await made.stage.close()
        made.server.stop()
        await made.server.close_all_connections()

    yield made
    io_loop.run_sync(close)
