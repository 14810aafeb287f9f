"""entrance: connections come in, are bounded in time and number, and always leave room for the next one."""

import asyncio
import errno
import functools
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
import trustme
from entrance_cases import LARGE, TOKEN, Caller, Components, house
from fakes import until
from stream_cases import Journal, Stream

from qmaster.api import entrance
from qmaster.api.entrance import BODY_WITHIN, HEAD_WITHIN, IDLE
from qmaster.api.routes import AppState, make_app
from qmaster.api.stream import Allowance, Watched
from qmaster.auth.authenticator import Authenticator
from qmaster.events.unsent import MAX_UNSENT
from qmaster.runs.output import Piece

pytestmark = pytest.mark.gen_test(timeout=20)

HELLO = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, and that of a client who trusts it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return context, trusting


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


# --- in time: of what a request needs, and of what comes between two --------------------------------------------------

Wires = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


@pytest.fixture(params=["plain", "tls"])
def wires(request: pytest.FixtureRequest) -> Wires:
    """The server's context and the client's, where there are any."""
    return contexts() if request.param == "tls" else (None, None)


@pytest.mark.parametrize(
    "said",
    [
        POST,
        POST + b"ab",
        CHUNKED,
        CHUNKED + b"5",
        CHUNKED + b"5\r\nab",
        CHUNKED + b"2\r\nab\r\n",
        CHUNKED + b"2\r\nab\r\n0\r\n",
        POST.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"),
        POST.replace(b"Host: x", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket"),
    ],
)
async def test_a_body_has_to_come_in_time(said: bytes, wires: Wires) -> None:
    """From its head on: what trickles in later gains it nothing. The first of its connection or not."""
    async with house(tls=wires[0]) as made:
        first, later = await made.call(said, wires[1]), await made.call(HELLO, wires[1])
        assert await later.hears()
        later.say(said)
        await until(lambda: made.owing() == (0, 2, 0))
        made.wait(BODY_WITHIN - 1)
        assert made.entrance.open == 2
        for caller in (first, later):
            caller.say(b"\n")
        await asyncio.sleep(0.01)
        made.wait(1.1)
        assert (made.entrance.open, len(made.streams)) == (0, 1)
        check_forgotten(made)


@pytest.mark.parametrize("said", [b"", b"\r\n", HELLO[:9]])
async def test_one_that_is_idle_is_ended(said: bytes, wires: Wires) -> None:
    """After a while, or, where it has begun to speak, when its head is late."""
    async with house(tls=wires[0]) as made:
        caller = await made.call(HELLO, wires[1])
        assert await caller.hears()
        caller.say(said)
        await until(lambda: made.owing() == ((1, 0, 0) if said else (0, 0, 1)))
        made.wait(HEAD_WITHIN - 1 if said else IDLE - 1)
        assert made.entrance.open == 1
        caller.say(said[-1:])
        await asyncio.sleep(0.01)
        made.wait(1.1)
        assert await caller.ended()
        check_forgotten(made)


async def test_one_that_speaks_in_time_is_kept(wires: Wires) -> None:
    """However long that goes on."""
    async with house(tls=wires[0]) as made:
        caller = await made.call(trusting=wires[1])
        for request in (HELLO, POST + b"abcde", CHUNKED + b"5\r\nabcde\r\n0\r\n\r\n") * 2:
            at = request.index(b"\r\n\r\n") + 4
            caller.say(request[:5])
            await until(lambda: made.owing() == (1, 0, 0))
            made.wait(HEAD_WITHIN - 1)
            caller.say(request[5:at])
            if request[at:]:
                await until(lambda: made.owing() == (0, 1, 0))
                made.wait(BODY_WITHIN - 1)
                caller.say(request[at:])
            assert await caller.hears()
            await until(lambda: made.owing() == (0, 0, 1))
            made.wait(IDLE - 1)
        assert made.entrance.open == 1


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_handshake_has_to_come_in_time(said: bytes) -> None:
    """It counts as a part of the first head, and so does what follows it."""
    context, trusting = contexts()
    async with house(tls=context) as made:
        caller, _ = await made.call(said), await made.call(trusting=trusting)
        made.wait(HEAD_WITHIN - 1)
        assert made.entrance.open == 2
        caller.say(said[-1:])
        await asyncio.sleep(0.01)
        made.wait(1.1)
        assert made.entrance.open == 0
        check_forgotten(made)


async def test_nothing_is_kept_of_what_was_asked(wires: Wires) -> None:
    """Many requests on a connection, one by one and all at once: while it is answered it owes nothing."""
    async with house(tls=wires[0]) as made:
        caller = await made.call(trusting=wires[1])
        kinds = (HELLO, POST + b"abcde", CHUNKED + b"5\r\nabcde\r\n0\r\n\r\n")
        for request in kinds * 10:
            caller.say(request)
            assert await caller.hears()
        caller.say(b"".join(kinds) * 10 + SLOW + HELLO)
        for _ in range(30):
            assert await caller.hears()
        await until(lambda: len(made.streams) == 61)
        check_forgotten(made)
        made.wait(1_000)
        made.gate.set()
        assert await caller.hears()
        assert await caller.hears()
        await until(lambda: made.owing() == (0, 0, 1))
        assert list(made.entrance._waiting) == [made.streams[0]]
        caller.writer.close()
        await until(lambda: made.entrance.open == 0)
        check_forgotten(made)


async def test_half_a_request_behind_another_is_ended_too() -> None:
    """It was there before the answer, so its first byte was not heard: it is idle, until more of it comes."""
    async with house() as made:
        one, other = await made.call(HELLO + HELLO[:9]), await made.call(HELLO + POST)
        assert await one.hears()
        assert await other.hears()
        await until(lambda: made.owing() == (0, 1, 1))
        made.wait(BODY_WITHIN + 0.1)
        assert await other.ended()
        assert made.entrance.open == 1
        one.say(HELLO[9:10])
        await until(lambda: made.owing() == (1, 0, 0))
        made.wait(HEAD_WITHIN + 0.1)
        assert await one.ended()
        check_forgotten(made)


def hang_up(caller: Caller) -> None:
    caller.writer.close()


def reset(caller: Caller) -> None:
    connection = caller.writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.writer.transport.abort()


@pytest.mark.parametrize("end", [hang_up, reset])
@pytest.mark.parametrize("said", [HELLO[:9], POST, POST + b"ab", CHUNKED, CHUNKED + b"5\r\nab"])
async def test_who_hangs_up_in_the_middle_is_forgotten(said: bytes, end: Any, wires: Wires) -> None:
    """Also where its end is noticed before its head is read: else those who are gone would stand before the late."""
    async with house(tls=wires[0]) as made:
        callers = [await made.call(HELLO, wires[1]) for _ in range(3)]
        for caller in callers:
            assert await caller.hears()
            caller.say(said)
        for caller in callers:
            end(caller)
        await until(lambda: made.entrance.open == 0)
        await asyncio.sleep(0.005)
        check_forgotten(made)


async def test_those_who_are_gone_do_not_stand_before_the_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are, a body that is late is ended."""
    monkeypatch.setattr(entrance, "SWEPT_AT_ONCE", 2)
    async with house() as made:
        for _ in range(3):
            caller = await made.call()
            await asyncio.sleep(0.005)
            caller.say(POST)
            caller.writer.close()
            await until(lambda: made.entrance.open == 0)
        slow = await made.call(POST)
        await until(lambda: made.owing()[0] == 0)
        made.wait(BODY_WITHIN + 0.1)
        assert await slow.ended()


def check_forgotten(made: Components) -> None:
    assert (made.owing(), len(made.entrance._waiting)) == ((0, 0, 0), 0)


ASKED = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\n"
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a2V5\r\n"


class Own:
    """Quartermaster's application over an event stream and a log that are as long as one likes."""

    def __init__(self) -> None:
        self.stream = Stream(Journal(7))
        self.log: asyncio.Queue[bytes] = asyncio.Queue()
        self.gate = asyncio.Event()
        parts: dict[str, Any] = {
            "run_service": self,
            "event_stream": self.stream.event_stream,
            "broker": self.stream.broker,
            "log_reader": self,
        }
        parts |= {"trouble": lambda: None, "scrape": lambda accept: None}
        self.application = make_app(AppState(Authenticator(TOKEN), **parts))

    async def status(self, name: str, by: object) -> Any:
        return SimpleNamespace(id=name)

    async def flow(self, view: object, wanted: object) -> AsyncIterator[list[Piece]]:
        while True:
            yield [Piece("", "stdout", await self.log.get())]

    async def stop(self, name: str, by: object) -> str:
        await self.gate.wait()
        return name


def asks(what: str, fields: str = "", body: str = "") -> bytes:
    return f"{what} HTTP/1.1\r\n{ASKED}{fields}\r\n{body}".encode()


async def test_what_is_being_answered_is_never_ended(wires: Wires) -> None:
    """A call that takes its time, a websocket, Server-Sent Events and a followed log: they owe nothing."""
    own = Own()
    async with house(tls=wires[0], application=own.application) as made:
        stop = await made.call(asks("POST /stop", "Content-Length: 11\r\n", '{"id":"s1"}'), wires[1])
        log = await made.call(asks("GET /logs/s1?follow=1"), wires[1])
        own.log.put_nowait(b"first\n")
        await log.reader.readuntil(b"first\n")
        streams = [await made.call(asks("GET /events", fields), wires[1]) for fields in ("", UPGRADE)]
        for stream in streams:
            await stream.reader.readuntil(b'"snapshot"')
        for _ in range(3):
            check_forgotten(made)
            made.wait(1_000)
        assert made.entrance.open == 4
        own.stream.publish()
        own.log.put_nowait(b"second\n")
        own.gate.set()
        for stream in streams:
            await stream.reader.readuntil(b"0a0b0c0d:8")
        await log.reader.readuntil(b"second\n")
        await stop.reader.readuntil(b'"success":true')
        await until(lambda: made.owing() == (0, 0, 1))


@pytest.mark.parametrize("fields", ["", UPGRADE])
async def test_a_stream_that_closes_while_it_waits_leaves_nothing(fields: str) -> None:
    """Its token has no room for a snapshot: a stream that waits for room ends with its connection."""
    own = Own()
    own.stream.event_stream._unsent.hold("root", MAX_UNSENT)
    before = asyncio.all_tasks()
    async with house(application=own.application) as made:
        caller = await made.call(asks("GET /events", fields))
        await caller.reader.readuntil(b'"hello"')
        assert _bringing_up(before)
        caller.writer.close()
        await until(lambda: not _bringing_up(before))
        assert made.entrance.open == 0


def _bringing_up(before: set[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() - before if "_bring_up" in repr(task.get_coro())]


async def test_a_websocket_without_a_token_is_not_this_rooms(wires: Wires) -> None:
    """Its own five seconds count; it may be turned out, and when it is gone nothing is left of it."""
    async with house(tls=wires[0], application=Own().application) as made:
        caller = await made.call(asks("GET /events", UPGRADE).replace(b"Authorization", b"X"), wires[1])
        await caller.reader.readuntil(b"\r\n\r\n")
        await until(lambda: len(made.entrance._waiting) == 1)
        made.wait(1_000)
        assert (made.owing(), made.entrance.open) == ((0, 0, 0), 1)
        caller.writer.close()
        await until(lambda: made.entrance.open == 0)
        check_forgotten(made)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (asks("POST /stop", "Content-Length: 900000\r\n", "{"), 413),
        (asks("POST /stop", "Content-Length: 90000000\r\n", "{"), 413),
        (asks("POST /stop?token=x", "Content-Length: 9\r\n", "{"), 400),
        (asks("POST /stop?token=x", "Transfer-Encoding: chunked\r\n", "9\r\n{"), 400),
        (asks("POST /stop", "Transfer-Encoding: chunked\r\n", "x\r\n"), 400),
        (asks("POST /stop", "Transfer-Encoding: chunked\r\n", "2\r\n{}XX"), 400),
        (asks("POST /stop", "Content-Length: 2\r\nContent-Encoding: gzip\r\n", "{"), 400),
    ],
)
async def test_an_answer_before_its_body_ends_the_connection(said: bytes, status: int, wires: Wires) -> None:
    """At once: what still comes of the body is not waited for."""
    async with house(tls=wires[0], application=Own().application) as made:
        caller = await made.call(said, wires[1])
        assert (await caller.reader.read()).startswith(b"HTTP/1.1 %d " % status)
        await until(lambda: made.entrance.open == 0)
        check_forgotten(made)


@pytest.mark.parametrize("fields", ["", "Content-Length: 2\r\n"])
async def test_an_answer_behind_its_body_leaves_the_connection_idle(fields: str, wires: Wires) -> None:
    """Also a refusal: the next request is taken."""
    async with house(tls=wires[0], application=Own().application) as made:
        caller = await made.call(trusting=wires[1])
        for _ in range(3):
            caller.say(asks("POST /stop", fields, "{}" if fields else "").replace(TOKEN.encode(), b"another"))
            assert (await caller.reader.readuntil(b'"instance"')).startswith(b"HTTP/1.1 401 ")
            await caller.reader.readuntil(b"}\n")
            await until(lambda: made.owing() == (0, 0, 1))


async def test_what_is_said_leaves_at_once(wires: Wires) -> None:
    """From the first answer on, also with the next ones and on a websocket: no small frame waits for the one before."""
    async with house(tls=wires[0], application=Own().application) as made:
        caller = await made.call(trusting=wires[1])
        (stream,) = made.entrance._waiting
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1  # type: ignore[attr-defined]
        for said, heard in ((asks("GET /livez"), b"}\n"), (asks("GET /events", UPGRADE), b'"snapshot"')):
            caller.say(said)
            await caller.reader.readuntil(heard)
            connection = stream.socket  # type: ignore[attr-defined]
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


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
    context, trusting = contexts()
    async with house(tls=context) as made:
        caller = await made.call(trusting=trusting)
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


# --- what is said too soon --------------------------------------------------------------------------------------------


async def busy(made: Components, said: bytes = SLOW) -> tuple[Caller, Watched]:
    """A caller who is being answered, and the connection."""
    caller = await made.call(said)
    await until(lambda: len(made.streams) == 1)
    return caller, made.streams[0]


def listens(stream: Watched) -> bool:
    return stream.socket.fileno() in cast(Any, stream.io_loop).readers  # type: ignore[attr-defined]


async def test_who_speaks_too_soon_is_listened_to_all_the_same() -> None:
    """Once: what comes then stays where it is until the answers are out, and be it the news that it was the last."""
    async with house() as made:
        caller, stream = await busy(made)
        caller.say(HELLO)
        await until(lambda: stream._read_buffer_size == len(HELLO))
        assert listens(stream)
        caller.writer.write_eof()
        await until(lambda: not listens(stream))
        made.gate.set()
        for _ in range(2):
            assert await caller.hears()
        assert await caller.ended()


async def test_little_is_kept_of_what_comes_too_soon() -> None:
    """And none of it is lost."""
    async with house() as made:
        caller, stream = await busy(made)
        many = 100 * entrance.CHUNK // len(HELLO)
        caller.say(HELLO * many)
        await until(lambda: not listens(stream))
        assert 0 < stream._read_buffer_size <= entrance.CHUNK
        made.gate.set()
        for _ in range(1 + many // 100):
            assert await caller.hears()
        caller.writer.transport.abort()
        await until(lambda: made.entrance.open == 0)


async def test_of_who_says_much_too_soon_all_is_answered() -> None:
    """Also what is said after that."""
    async with house() as made:
        caller, stream = await busy(made)
        await say_too_much(caller, stream)
        made.gate.set()
        for _ in range(4):
            assert await caller.hears()
        await until(lambda: made.owing() == (0, 0, 1))
        caller.say(HELLO)
        assert await caller.hears()


async def test_who_speaks_before_it_has_taken_its_answer_still_has_all_of_it() -> None:
    async with house() as made:
        caller = await made.call(HELLO.replace(b"hello", b"large"))
        await until(lambda: len(made.streams) == 1 and made.streams[0].writing())
        await say_too_much(caller, made.streams[0])
        for said in (b"x" * LARGE, b"hello", b"hello", b"hello"):
            await check_answer(caller, said)


async def test_who_has_said_its_last_too_soon_still_has_all_of_its_answers() -> None:
    """What it said is taken before the answer is out, and the news that it was the last while that is on its way."""
    async with house() as made:
        caller, stream = await busy(made, SLOW.replace(b"slow", b"slowlarge"))
        caller.say(HELLO)
        await until(lambda: stream._read_buffer_size == len(HELLO))
        made.gate.set()
        await until(stream.writing)
        caller.writer.write_eof()
        await until(lambda: not listens(stream))
        for said in (b"x" * LARGE, b"hello"):
            await check_answer(caller, said)
        assert await caller.ended()


async def say_too_much(caller: Caller, stream: Watched) -> None:
    """Three requests, of which the first is taken and the others stay where they are."""
    caller.say(HELLO)
    await until(lambda: stream._read_buffer_size == len(HELLO))
    caller.say(HELLO)
    await until(lambda: not listens(stream))
    caller.say(HELLO)


async def check_answer(caller: Caller, said: bytes) -> None:
    await caller.reader.readuntil(b"\r\n\r\n")
    assert await caller.reader.readexactly(len(said)) == said


async def test_who_hangs_up_too_soon_is_noticed() -> None:
    async with house() as made:
        caller, stream = await busy(made)
        hang_up(caller)
        await until(stream.closed)
        check_forgotten(made)


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
