"""What can go wrong with one request: functions that make a `Fault`, which plays it on an `Exchange`.

After a fault the connection is closed, except after one that returns True: then the request goes its usual way.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from testbed.wire import SIZE, Head


class Exchange(Protocol):
    """A request that has come in, as a fault sees it."""

    client: socket.socket
    closed: threading.Event

    @property
    def head(self) -> Head: ...

    def drain(self) -> None:
        """Take the rest of the request and forget it."""

    def forward(self) -> contextlib.AbstractContextManager[socket.socket]:
        """Send the request to the engine on a connection of its own, from which the answer can be read."""


Fault = Callable[[Exchange], bool | None]


def answer(status: int, body: Any = None) -> Fault:
    """Answer without asking the engine; a body that is no string is sent as JSON."""
    text = body if isinstance(body, str) else json.dumps(body if body is not None else {"message": f"fault {status}"})
    data = text.encode()

    def play(exchange: Exchange) -> None:
        exchange.drain()
        head = f"HTTP/1.1 {status} Fault\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        exchange.client.sendall(f"{head}Connection: close\r\n\r\n".encode() + data)

    return play


def echo(status: int) -> Fault:
    """Say back what was asked, headers and all, as a verbose proxy or registry does."""

    def play(exchange: Exchange) -> bool | None:
        said = exchange.head.raw.decode("latin-1")
        return answer(status, {"message": f"unauthorized: cannot do {said}"})(exchange)

    return play


def garbage(data: bytes = b"\x00\xff not HTTP at all \x80\r\n\r\n") -> Fault:
    """Answer with bytes that are no HTTP."""

    def play(exchange: Exchange) -> None:
        exchange.drain()
        exchange.client.sendall(data)

    return play


def cut(after: int = 0) -> Fault:
    """Close the connection after that many bytes of the engine's answer; after 0, without asking the engine."""

    def play(exchange: Exchange) -> None:
        exchange.drain() if after == 0 else _relay(exchange, after)

    return play


def half_close(after: int = 0) -> Fault:
    """Send that many bytes of the engine's answer, then end our sending side but keep the connection."""

    def play(exchange: Exchange) -> None:
        _relay(exchange, after)
        exchange.client.shutdown(socket.SHUT_WR)
        _hold(exchange)

    return play


def hang(after: int = 0) -> Fault:
    """Answer that many bytes (0: never ask the engine), then no more, until the client gives up."""

    def play(exchange: Exchange) -> None:
        exchange.drain() if after == 0 else _relay(exchange, after)
        _hold(exchange)

    return play


def delay(seconds: float) -> Fault:
    """Pass the request on after a while."""

    def play(exchange: Exchange) -> bool:
        return not exchange.closed.wait(seconds)

    return play


def forward_then(fault: Fault, timeout: float = 30) -> Fault:
    """Let the engine do it and read its answer to the end, then play another fault to the client."""

    def play(exchange: Exchange) -> bool | None:
        with exchange.forward() as engine:
            engine.settimeout(timeout)
            for _ in _received(engine):
                pass
        return fault(exchange)

    return play


def _received(connection: socket.socket) -> Iterator[bytes]:
    while data := connection.recv(SIZE):
        yield data


def _relay(exchange: Exchange, size: int) -> None:
    with exchange.forward() as engine:
        while size > 0 and (data := engine.recv(min(size, SIZE))):
            exchange.client.sendall(data)
            size -= len(data)


def _hold(exchange: Exchange) -> None:
    for _ in _received(exchange.client):
        pass
