"""The HTTP server: how long a connection may stay quiet, how many there are, and whose address a request has."""

import asyncio
import contextlib
import functools
import gc
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import trustme
from fakes import until
from server_cases import TOKEN, Caller, serving
from stream_cases import Journal, Stream

from qmaster.api import limits
from qmaster.api.events import Sockets
from qmaster.api.limits import Allowance
from qmaster.api.routes import AppState, make_app
from qmaster.auth.authenticator import Authenticator
from qmaster.events.unsent import MAX_UNSENT
from qmaster.runs.logs import Piece

pytestmark = pytest.mark.gen_test(timeout=20)

Wires = tuple[ssl.SSLContext | None, ssl.SSLContext | None]

HELLO = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
ASKED = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\n"
END = b""  # of a log
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a2V5\r\n"


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and that of a client who trusts it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return context, trusting


@pytest.fixture(params=["plain", "tls"])
def wires(request: pytest.FixtureRequest) -> Wires:
    """The server's context and the client's, where there are any."""
    return contexts() if request.param == "tls" else (None, None)


# --- in time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"GET /hello HTTP/1.1\r\nHost: ", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_head_has_to_come_in_time(said: bytes, wires: Wires) -> None:
    """From the connection's beginning, a TLS handshake included; a byte now and then gains no time."""
    async with serving(tls=wires[0], idle=0.3) as made:
        caller = await made.call(said)
        began = asyncio.get_running_loop().time()
        while made.open:
            caller.say(said[-1:])
            await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - began < 2


@pytest.mark.parametrize("said", [POST + b"ab", CHUNKED + b"5\r\nab", CHUNKED + b"2\r\nab\r\n"])
async def test_a_body_has_to_come_in_time(said: bytes, wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its head on."""
    monkeypatch.setattr(limits, "BODY_WITHIN", 0.2)
    async with serving(tls=wires[0]) as made:
        caller = await made.call(said, wires[1])
        assert await caller.ended()
        assert made.open == 0


async def test_an_idle_connection_is_closed_and_another_is_kept(wires: Wires) -> None:
    """Between two requests there is as much time as for a head."""
    async with serving(tls=wires[0], idle=0.5) as made:
        idle, busy = await made.call(HELLO, wires[1]), await made.call(trusting=wires[1])
        assert await idle.hears()
        for _ in range(8):
            busy.say(HELLO)
            assert await busy.hears()
            await asyncio.sleep(0.1)
        assert await idle.ended()
        assert made.open == 1


class Own:
    """Quartermaster's application over an event stream and a log that are as long as one likes."""

    def __init__(self, **options: Any) -> None:
        self.stream = Stream(Journal(7))
        self.log: asyncio.Queue[bytes] = asyncio.Queue()
        self.gate = asyncio.Event()
        parts: dict[str, Any] = {
            **dict.fromkeys(("starter", "run_service", "listing"), self),
            "event_stream": self.stream.event_stream,
            "broker": self.stream.broker,
            "log_reader": self,
            "trouble": lambda: None,
            "scrape": lambda accept: None,
        }
        self.application = make_app(AppState(Authenticator(TOKEN), **parts, **options))

    async def status(self, name: str, by: object) -> Any:
        return SimpleNamespace(id=name)

    async def flow(self, view: object, wanted: object) -> AsyncIterator[list[Piece]]:
        while (data := await self.log.get()) != END:
            yield [Piece("", "stdout", data)]

    async def stop(self, name: str, by: object) -> str:
        await self.gate.wait()
        return name


def asks(what: str, fields: str = "", body: str = "") -> bytes:
    return f"{what} HTTP/1.1\r\n{ASKED}{fields}\r\n{body}".encode()


@pytest.mark.slow
async def test_what_is_being_answered_is_never_closed(wires: Wires) -> None:
    """A call that takes its time, a websocket, Server-Sent Events and a followed log."""
    own = Own()
    async with serving(own.application, tls=wires[0], idle=0.2) as made:
        stop = await made.call(asks("POST /stop", "Content-Length: 11\r\n", '{"id":"s1"}'), wires[1])
        log = await made.call(asks("GET /logs/s1?follow=1"), wires[1])
        own.log.put_nowait(b"first\n")
        await log.reader.readuntil(b"first\n")
        streams = [await made.call(asks("GET /events", fields), wires[1]) for fields in ("", UPGRADE)]
        for stream in streams:
            await stream.reader.readuntil(b'"snapshot"')
        await asyncio.sleep(1)
        assert made.open == 4
        own.stream.publish()
        own.log.put_nowait(b"second\n")
        own.gate.set()
        for stream in streams:
            await stream.reader.readuntil(b"0a0b0c0d:8")
        await log.reader.readuntil(b"second\n")
        await stop.reader.readuntil(b'"success":true')


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such bound")
async def test_an_answer_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be kept in memory as long as its reader likes."""
    monkeypatch.setattr(limits, "_TCP_OPTIONS", (("TCP_USER_TIMEOUT", 300),))
    async with serving() as made:
        caller = await made.call()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        caller.say(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: made.open == 0)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such bound")
async def test_a_log_waits_for_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes it."""
    monkeypatch.setattr(limits, "_TCP_OPTIONS", (("TCP_USER_TIMEOUT", 300),))
    own = Own()
    async with serving(own.application) as made:
        caller = await made.call(asks("GET /logs/s1?follow=1"))
        own.log.put_nowait(b"first\n")
        await caller.reader.readuntil(b"first\n")
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        own.log.put_nowait(b"x" * 16_000_000)
        own.log.put_nowait(b"last\n")
        await asyncio.sleep(1.5)
        assert made.open == 1
        caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while b"last\n" not in await caller.reader.read(65536):
            pass


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such bound")
@pytest.mark.parametrize("fields", ["", UPGRADE])
@pytest.mark.parametrize("first", ["GET /openapi.json", "GET /logs/s1"])
async def test_an_answers_bound_is_not_that_of_the_stream_behind_it(first: str, fields: str) -> None:
    """A connection that is kept has the usual bound again."""
    own = Own()
    async with serving(own.application) as made:
        caller = await made.call(asks(first))
        own.log.put_nowait(END)
        await caller.reader.readuntil(b"0\r\n\r\n" if "logs" in first else b"}\n")
        caller.say(asks("GET /events", fields))
        await caller.reader.readuntil(b'"snapshot"')
        (stream,) = made.server.streams
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == limits.UNREAD * 1000


async def test_a_client_that_vanishes_is_noticed() -> None:
    """The kernel asks whether a silent client is still there; accepted connections have that from the listening one."""
    async with serving() as made:
        caller = await made.call(HELLO)
        assert await caller.hears()
        (stream,) = made.server.streams
        connection = stream.socket
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for name, value in limits._TCP_OPTIONS:
            if hasattr(socket, name):
                assert connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


@pytest.mark.parametrize("path", ["/logs/s1?follow=1", "/events"])
async def test_a_stream_sends_small_frames_at_once(path: str, wires: Wires) -> None:
    """None waits for the acknowledgement of the one before; in particular not after an earlier answer."""
    own = Own()
    async with serving(own.application, tls=wires[0]) as made:
        caller = await made.call(trusting=wires[1])
        for said, heard in ((asks("GET /livez"), b"}\n"), (asks(f"GET {path}", UPGRADE if "ev" in path else ""), b"s")):
            caller.say(said)
            own.log.put_nowait(b"words\n")
            await caller.reader.readuntil(heard)
        (stream,) = made.server.streams
        await until(lambda: stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1)


def hang_up(caller: Caller) -> None:
    caller.writer.close()


def reset(caller: Caller) -> None:
    connection = caller.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.writer.transport.abort()


@pytest.mark.parametrize("end", [hang_up, reset])
@pytest.mark.parametrize("said", [HELLO[:9], POST, POST + b"ab", CHUNKED, CHUNKED + b"5\r\nab", asks("GET /large")])
async def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(said: bytes, end: Any, wires: Wires) -> None:
    """Of its request, or of its answer."""
    async with serving(tls=wires[0]) as made:
        callers = [await made.call(HELLO, wires[1]) for _ in range(3)]
        for caller in callers:
            assert await caller.hears()
            caller.say(said)
        for caller in callers:
            end(caller)
        await until(lambda: made.open == 0)


@pytest.mark.parametrize("fields", ["", UPGRADE])
async def test_a_stream_that_closes_while_it_waits_leaves_nothing(fields: str) -> None:
    """Its token has no room for a snapshot: a stream that waits for room ends with its connection."""
    own = Own()
    own.stream.event_stream.unsent.hold("root", MAX_UNSENT)
    before = asyncio.all_tasks()
    async with serving(own.application) as made:
        caller = await made.call(asks("GET /events", fields))
        await caller.reader.readuntil(b'"hello"')
        assert _bringing_up(before)
        caller.writer.close()
        await until(lambda: not _bringing_up(before))


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["client", "server"])
async def test_a_snapshot_that_breaks_off_ends_its_connection(ends: str, caplog: pytest.LogCaptureFixture) -> None:
    """No frame comes in the middle of another, and a client that has left is no error of ours."""
    own = Own(sockets=(sockets := Sockets()))
    own.stream.shown = [{"id": "x" * 8_000_000}]
    async with serving(own.application) as made:
        caller = await made.call(asks("GET /events"))
        await caller.reader.readexactly(1_000_000)
        (handler,) = sockets.open
        if ends == "client":
            caller.writer.transport.abort()
        else:
            flush = handler.flush

            async def end_after_a_slice() -> None:
                delattr(handler, "flush")
                await flush()
                handler.end(1001, "stopping")

            setattr(handler, "flush", end_after_a_slice)  # noqa: B010 - mypy takes no assignment to a method
            with contextlib.suppress(ConnectionError):
                assert not (await caller.reader.read()).endswith(b"0\r\n\r\n")
        await until(lambda: made.open == 0)
    gc.collect()
    assert not caplog.records


def _bringing_up(before: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() - before if "_bring_up" in repr(task.get_coro())]


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (asks("POST /stop", "Content-Length: 140000\r\n", "x" * 140_000), 413),
        (asks("POST /stop", "Content-Length: 90000000\r\n", "{"), 413),
        (asks("POST /stop", f"Content-Length: {'9' * 5000}\r\n", "{"), 413),
        (asks("POST /stop?token=x", "Content-Length: 9\r\n", "{"), 400),
        (asks("POST /stop?token=x", "Transfer-Encoding: chunked\r\n", "9\r\n{"), 400),
        (asks("POST /stop", "Transfer-Encoding: chunked\r\n", "x\r\n"), 400),
        (asks("POST /stop", "Transfer-Encoding: chunked\r\n", "2\r\n{}XX"), 400),
        (asks("POST /stop", "Content-Length: 2\r\nContent-Encoding: gzip\r\n", "{"), 400),
    ],
)
async def test_a_body_that_is_not_taken_is_not_waited_for(said: bytes, status: int, wires: Wires) -> None:
    """The answer comes before the rest of it."""
    async with serving(Own().application, tls=wires[0]) as made:
        caller = await made.call(said, wires[1])
        head = await caller.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("fields", ["", "Content-Length: 2\r\n"])
async def test_a_refusal_behind_its_body_keeps_the_connection(fields: str, wires: Wires) -> None:
    """The next request is taken."""
    async with serving(Own().application, tls=wires[0]) as made:
        caller = await made.call(trusting=wires[1])
        for _ in range(3):
            caller.say(asks("POST /stop", fields, "{}" if fields else "").replace(TOKEN.encode(), b"another"))
            assert (await caller.reader.readuntil(b'"instance"')).startswith(b"HTTP/1.1 401 ")
            await caller.reader.readuntil(b"}\n")


# --- in number --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_over_the_limit_a_connection_is_refused() -> None:
    """Those that are open stay; the log says so once a second; with room the next one is served."""
    async with serving(most=1) as made:
        slow = await made.call(SLOW)
        with structlog.testing.capture_logs() as logged:
            for _ in range(3):
                assert await (await made.call(HELLO)).ended()
            await until(lambda: bool(logged))
        assert logged == [{"event": "connections_full", "log_level": "warning", "limit": 1, "refused": 3}]
        made.gate.set()
        assert await slow.hears()
        slow.writer.close()
        await until(lambda: made.open == 0)
        assert await (await made.call(HELLO)).hears()


async def test_a_websocket_is_a_connection_too() -> None:
    """It counts while it is open, and no longer."""
    async with serving(Own().application, most=2) as made:
        callers = [await made.call(asks("GET /events", UPGRADE)) for _ in range(2)]
        for caller in callers:
            await caller.reader.readuntil(b'"snapshot"')
        assert await (await made.call(HELLO)).ended()
        streams = list(made.server.streams)
        for caller in callers:
            caller.writer.transport.abort()
        await until(lambda: all(stream.closed() for stream in streams))
        caller = await made.call(asks("GET /livez"))
        assert (await caller.reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200 ")


async def test_after_a_stop_nobody_comes_in() -> None:
    """Who is in is answered."""
    async with serving() as made:
        slow = await made.call(SLOW)
        made.server.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", made.port)
        made.gate.set()
        assert await slow.hears()


# --- with TLS ---------------------------------------------------------------------------------------------------------


async def test_it_speaks_tls() -> None:
    """And who does not is disconnected."""
    context, trusting = contexts()
    async with serving(tls=context) as made:
        caller = await made.call(trusting=trusting)
        for _ in range(2):
            caller.say(HELLO)
            assert await caller.hears()
        assert await (await made.call(HELLO)).ended()
        assert made.open == 1


# --- how much is said -------------------------------------------------------------------------------------------------


async def test_an_allowance_comes_back_with_time() -> None:
    """Never more than it was at first."""
    now = [100.0]
    made = Allowance(10, 2, lambda: now[0])
    assert made.take(10)
    now[0] += 3
    assert made.take(6)
    assert not made.take(1)
    now[0] += 1_000
    assert made.take(10)
    assert not made.take(1)
