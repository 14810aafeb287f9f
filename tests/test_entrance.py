"""entrance: connections come in, are bounded in time and number, and always leave room for the next one."""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
import trustme
from fakes import until
from tornado.http1connection import HTTP1Connection
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from qmaster import entrance
from qmaster.entrance import Entrance
from qmaster.stream import Allowance, Watched

pytestmark = pytest.mark.gen_test(timeout=20)

HELLO = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 16 * 1024 * 1024


@stream_request_body
class Handler(RequestHandler):
    """`gate` holds up `/slow`; `streams` are those of the requests that came whole."""

    def initialize(self, gate: asyncio.Event, streams: list[Watched]) -> None:
        self._gate, self._streams = gate, streams

    def data_received(self, chunk: bytes) -> None:
        pass

    async def get(self, what: str) -> None:
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        assert isinstance(connection.stream, Watched)
        self._streams.append(connection.stream)
        if what == "slow":
            await self._gate.wait()
        self.write(b"x" * LARGE if what == "large" else b"hello")

    post = get


class House:
    """An entrance with an application behind it, and its callers."""

    def __init__(self, most: int, head_within: float, tls: ssl.SSLContext | None) -> None:
        self.gate = asyncio.Event()
        self.streams: list[Watched] = []
        routes = [("/(.*)", Handler, {"gate": self.gate, "streams": self.streams})]
        self.entrance = Entrance(Application(routes, log_function=lambda handler: None), most, tls, head_within)
        sockets = bind_sockets(0, "127.0.0.1")
        self.entrance.listen(sockets)
        self.port = sockets[0].getsockname()[1]
        self.callers: list[Caller] = []

    async def call(self, data: bytes = b"") -> "Caller":
        """A new connection, and what it says first; it is let in."""
        before = self.entrance.open
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port))
        self.callers.append(caller)
        caller.say(data)
        await until(lambda: self.entrance.open != before or self.entrance.open >= self.entrance._most)
        return caller

    async def close(self) -> None:
        self.gate.set()
        self.entrance.stop()
        await self.entrance.close()
        for caller in self.callers:
            caller.writer.close()


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
async def house(most: int = 100, head_within: float = 10, tls: ssl.SSLContext | None = None) -> AsyncIterator[House]:
    made = House(most, head_within, tls)
    try:
        yield made
    finally:
        await made.close()


# --- in time ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at who is late often enough for a test."""
    monkeypatch.setattr(entrance, "SWEEP_EVERY", 0.02)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("said", [b"", b"GET /hello HTTP/1.1\r\nHost: "])
async def test_a_head_has_to_come_in_time(said: bytes) -> None:
    """From the connection's beginning, whether all of it is late or a part."""
    async with house(head_within=0.1) as made:
        caller = await made.call(said)
        assert await caller.ended()
        assert made.entrance.open == 0


@pytest.mark.usefixtures("often")
async def test_a_byte_now_and_then_gains_no_time() -> None:
    """Which is how a slow head holds a connection where each read has its own time."""
    async with house(head_within=0.3) as made:
        caller = await made.call()
        loop = asyncio.get_running_loop()
        began = loop.time()
        while made.entrance.open:
            caller.say(b"a")
            await asyncio.sleep(0.02)
        assert loop.time() - began < 2


async def test_its_first_byte_gains_no_time() -> None:
    """A new connection has had its time from its beginning."""
    async with house() as made:
        caller = await made.call()
        due = dict(made.entrance._heads._until)
        (stream,) = due
        caller.say(HELLO[:5])
        await until(lambda: stream._read_buffer_size == 5)
        assert made.entrance._heads._until == due


async def test_of_many_that_are_late_some_are_ended_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others a little later, not a second."""
    monkeypatch.setattr(entrance, "SWEPT_AT_ONCE", 1)
    monkeypatch.setattr(entrance, "SWEEP_EVERY", 60.0)
    async with house(head_within=0) as made:
        one, other = await made.call(), await made.call()
        made.entrance._sweep()
        assert made.entrance.open == 1
        assert await one.ended()
        async with asyncio.timeout(5):
            assert await other.ended()


@pytest.mark.usefixtures("often")
async def test_a_pause_between_two_requests_is_not_counted() -> None:
    """The next head has its time from its first byte."""
    async with house(head_within=0.3) as made:
        caller = await made.call(HELLO)
        assert await caller.hears()
        await asyncio.sleep(0.6)
        caller.say(HELLO)
        assert await caller.hears()
        caller.say(HELLO[:5])
        assert await caller.ended()


@pytest.mark.usefixtures("often")
async def test_an_answer_may_take_its_time() -> None:
    """Only what the client has to say is bounded."""
    async with house(head_within=0.1) as made:
        caller = await made.call(SLOW)
        await asyncio.sleep(0.3)
        made.gate.set()
        assert await caller.hears()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such bound")
@pytest.mark.parametrize("patient", [False, True])
async def test_an_answer_that_nobody_takes_is_given_up(patient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be kept in memory as long as its reader likes; a log waits for its reader."""
    monkeypatch.setattr(entrance, "_OPTIONS", (("TCP_USER_TIMEOUT", 300),))
    async with house() as made:
        caller = await made.call()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        caller.say(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: bool(made.streams))
        if patient:
            made.streams[0].be_patient()
            await asyncio.sleep(1.5)
            assert made.entrance.open == 1
        else:
            await until(lambda: made.entrance.open == 0)


async def test_who_is_gone_without_a_word_is_noticed() -> None:
    """The kernel asks whether a silent client is still there; accepted connections have that from the listening one."""
    async with house() as made:
        caller = await made.call(HELLO)
        assert await caller.hears()
        connection = made.streams[0].socket  # type: ignore[attr-defined]
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for name, value in entrance._OPTIONS:
            if hasattr(socket, name):
                assert connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value


# --- in number --------------------------------------------------------------------------------------------------------


async def test_one_that_has_not_said_what_it_wants_makes_room() -> None:
    """First the one that owes its head for the longest time, then the one that is idle for the longest."""
    async with house(most=4) as made:
        idle, later = await made.call(HELLO), await made.call(HELLO)
        assert await idle.hears()
        assert await later.hears()
        silent, half = await made.call(), await made.call(HELLO[:9])
        newer = []
        for turned_out in (silent, half, idle, later):
            newer.append(await made.call(SLOW))
            await until(lambda: len(made.streams) == 2 + len(newer))
            assert await turned_out.ended()
            assert made.entrance.open == 4
        made.gate.set()
        for caller in newer:
            assert await caller.hears()


async def test_half_a_request_makes_room_too() -> None:
    """Its head is there and its body is not: nothing was begun."""
    async with house(most=1) as made:
        half = await made.call(b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        assert await (await made.call(HELLO)).hears()
        assert await half.ended()


async def test_who_made_room_is_counted() -> None:
    """The log says how many there were."""
    async with house(most=1) as made:
        silent = await made.call()
        with structlog.testing.capture_logs() as logged:
            assert await (await made.call(HELLO)).hears()
            assert await silent.ended()
            for _ in range(2):
                made.entrance._sweep()
        assert [line["turned_out"] for line in logged] == [1]


async def test_what_is_being_answered_keeps_its_place() -> None:
    """Then it is the new one that goes, and the log says so once a second."""
    async with house(most=1) as made:
        slow = await made.call(SLOW)
        await until(lambda: bool(made.streams))
        with structlog.testing.capture_logs() as logged:
            for _ in range(3):
                assert await (await made.call(HELLO)).ended()
            made.entrance._sweep()
        assert logged == [{"event": "connections_full", "log_level": "warning", "most": 1, "turned_out": 3}]
        made.gate.set()
        assert await slow.hears()
        assert await (await made.call(HELLO)).hears()


async def test_a_stream_may_offer_its_place_and_take_that_back() -> None:
    """As a websocket does that has not said who it is."""
    async with house(most=1) as made:
        slow = await made.call(SLOW)
        await until(lambda: bool(made.streams))
        made.streams[0].stand_by()
        made.streams[0].settle()
        assert await (await made.call(HELLO)).ended()
        made.streams[0].stand_by()
        assert await (await made.call(HELLO)).hears()
        assert await slow.ended()
        made.streams[0].stand_by()  # it is gone, and is not waited for
        assert len(made.entrance._waiting) == 1


class Full:
    """A listening socket in a process, or on a machine, that has no descriptor left."""

    def __init__(self) -> None:
        self.asked = 0
        self.one, self.other = socket.socketpair()
        self.other.send(b"somebody waits")

    def fileno(self) -> int:
        return self.one.fileno()

    def setsockopt(self, *option: Any) -> None:
        pass

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        raise OSError(errno.EMFILE, "Too many open files")

    def close(self) -> None:
        self.one.close()
        self.other.close()


async def test_without_a_descriptor_one_is_ended_that_waits() -> None:
    """Whoever comes next has its place."""
    async with house() as made:
        silent = await made.call()
        full = Full()
        made.entrance._accept(full)  # type: ignore[arg-type]
        assert await silent.ended()
        full.close()


async def test_without_any_to_end_it_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the loop would do nothing but ask, and log that, over and over."""
    monkeypatch.setattr(entrance, "PAUSE", 0.2)
    async with house() as made:
        full = Full()
        with structlog.testing.capture_logs() as logged:
            made.entrance.listen([full])  # type: ignore[list-item]
            await until(lambda: full.asked == 2)
        assert [line["event"] for line in logged] == ["cannot_accept"] * 2


async def test_after_a_stop_nobody_comes_in() -> None:
    """Who is in is answered."""
    async with house() as made:
        slow = await made.call(SLOW)
        await until(lambda: bool(made.streams))
        made.entrance.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", made.port)
        made.gate.set()
        assert await slow.hears()


# --- with TLS ---------------------------------------------------------------------------------------------------------


async def test_it_speaks_tls() -> None:
    """And who does not is ended like anybody who says nothing of use."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with house(tls=context) as made:
        opened = await asyncio.open_connection("127.0.0.1", made.port, ssl=trusting, server_hostname="localhost")
        caller = Caller(*opened)
        made.callers.append(caller)
        for _ in range(2):
            caller.say(HELLO)
            assert await caller.hears()
        assert await (await made.call(HELLO)).ended()
        assert made.entrance.open == 1


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


async def test_who_says_more_than_it_may_is_ended() -> None:
    """A request of the allowed size is answered, and nothing after it is."""
    async with house() as made:
        caller = await made.call(HELLO)
        assert await caller.hears()
        made.streams[0].listen_little(len(HELLO), 0)
        caller.say(HELLO)
        assert await caller.hears()
        caller.say(HELLO)
        assert await caller.ended()


# --- as strictly as it is written -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_head_that_is_not_well_formed_is_refused(pieces: int) -> None:
    """Whether it comes at once or piece by piece."""
    async with house() as made:
        caller = await made.call()
        head = b"GET /hello HTTP/1.1\r\nHost: x\nX: y\r\n\r\n"
        size = -(-len(head) // pieces)
        for at in range(0, len(head), size):
            caller.say(head[at : at + size])
            await asyncio.sleep(0.02)
        assert await caller.reader.read() == b"HTTP/1.1 400 Bad Request\r\n\r\n"
        assert made.streams == []


async def test_what_comes_behind_the_last_request_is_not_begun() -> None:
    """The connection ends with an answer: nobody would have that of the next one."""
    async with house() as made:
        caller = await made.call(HELLO.replace(b"Host: x", b"Host: x\r\nConnection: close") + HELLO)
        assert await caller.hears()
        assert await caller.ended()
        await asyncio.sleep(0.05)
        assert len(made.streams) == 1
