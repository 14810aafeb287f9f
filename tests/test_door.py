"""door: who comes when descriptors run short is told so, and nobody else notices."""

import asyncio
import contextlib
import json
import os
import resource
import socket
from collections.abc import Iterator

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from qmaster import door
from qmaster.door import Door

unit = pytest.mark.gen_test(timeout=20)


class Hello(RequestHandler):
    def get(self) -> None:
        self.write("hello")


@contextlib.contextmanager
def serving(plain: bool = True) -> Iterator[int]:
    """A server behind the door; its port."""
    server = HTTPServer(Application([("/", Hello)], log_function=lambda handler: None))
    sockets = [Door(each, plain) for each in bind_sockets(0, "127.0.0.1")]
    server.add_sockets(sockets)
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.stop()


async def ask(port: int) -> bytes:
    """What a new connection is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await ask_on(reader, writer)
    finally:
        writer.close()


async def ask_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
    return head + await reader.readexactly(size)


@contextlib.contextmanager
def limited(most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def next_descriptor() -> int:
    """The lowest that is free; as many are in use, and with twice that as the limit there is no room for more."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


@unit
async def test_who_comes_while_there_is_room_is_served() -> None:
    """As through any listening socket."""
    with serving() as port:
        for _ in range(3):
            assert (await ask(port)).endswith(b"hello")


@unit
async def test_who_comes_too_many_is_told_why_and_when_to_come_again() -> None:
    """503 in the one error shape; who is in is served, and with room again everybody is."""
    with serving() as port:
        inside = await asyncio.open_connection("127.0.0.1", port)
        assert (await ask_on(*inside)).endswith(b"hello")
        with limited(2 * next_descriptor()):
            for _ in range(3):
                head, _, body = (await ask(port)).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nRetry-After: " in head
                assert json.loads(body)["code"] == 503
            assert (await ask_on(*inside)).endswith(b"hello")
        assert (await ask(port)).endswith(b"hello")
        inside[1].close()


@unit
async def test_without_a_descriptor_it_still_refuses() -> None:
    """One is kept for that: else whoever waits would wake the loop again and again."""
    with serving() as port:
        waiting = socket.socket()
        with limited(next_descriptor()):
            waiting.setblocking(False)
            await asyncio.get_running_loop().sock_connect(waiting, ("127.0.0.1", port))
            said = await asyncio.get_running_loop().sock_recv(waiting, 65536)
        assert said.startswith(b"HTTP/1.1 503 ")
        waiting.close()
        assert (await ask(port)).endswith(b"hello")


@unit
async def test_under_tls_it_just_ends() -> None:
    """Nothing that could be said would be understood."""
    with serving(plain=False) as port:
        waiting = socket.socket()
        waiting.setblocking(False)
        with limited(next_descriptor() + 1):
            await asyncio.get_running_loop().sock_connect(waiting, ("127.0.0.1", port))
            assert await asyncio.get_running_loop().sock_recv(waiting, 65536) == b""
        waiting.close()


@unit
async def test_those_refused_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their descriptors come back: after a while, and at once where there are many of them."""
    monkeypatch.setattr(door, "LINGER", 0.05)
    monkeypatch.setattr(door, "MAX_LINGERING", 4)
    with serving() as port:
        free = next_descriptor()
        with limited(2 * free):
            for _ in range(3 * door.MAX_LINGERING):
                assert b" 503 " in await ask(port)
            assert next_descriptor() <= free + door.MAX_LINGERING + 1
            async with asyncio.timeout(10):
                while next_descriptor() != free:  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.01)
