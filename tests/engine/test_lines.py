"""lines: the loop's own calls on the engine's socket. (The engine is a fake.)"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from fakes import AUTH, until

from qmaster.engine.client import Client
from qmaster.engine.errors import NO_API, EngineBusy, EngineUnreached, outcome_open
from qmaster.engine.lines import Lines, _Line
from qmaster.engine.pool import Pool
from qmaster.errors import BadRequest, Conflict, EngineAway, EngineRefused, HttpError, NotAManager, NotFound
from qmaster.models.credentials import Credentials

pytestmark = pytest.mark.gen_test(timeout=20)

PATH = "/services/create"
SPEC = {"Name": "one", "Labels": {"a": "ü"}}
MADE = {"ID": "s1"}
CREDENTIALS = Credentials.decode(AUTH).header()
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


class FakeEngine:
    """Answers with what it is given, one after the other and the last for ever; after bytes in ``then_ends`` it ends.

    ``ping`` is its answer to that.
    """

    def __init__(self, path: Path, *answers: Say) -> None:
        self.path = path
        self.answers: list[Say] = list(answers) or [reply()]
        self.ping = PING
        self.then_ends: set[Say] = set()
        self.asked: list[Asked] = []
        self.connections = 0
        self.open: set[asyncio.StreamWriter] = set()

    @property
    def posts(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.line.startswith("POST")]

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
        self.asked.append(Asked(line, headers, await reader.readexactly(int(headers["content-length"]))))
        say: Say = self.ping
        if line.startswith("POST"):
            say = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(say):
            await say(writer)
        else:
            writer.write(say)
        return say not in self.then_ends

    def hang_up(self) -> None:
        """On all, at once: the loop has not heard of it yet."""
        for writer in self.open:
            writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


@contextlib.asynccontextmanager
async def fake_engine(folder: Path, *answers: Say) -> AsyncIterator[FakeEngine]:
    made = FakeEngine(folder / "engine.sock", *answers)
    server = await asyncio.start_unix_server(made.serve, made.path)
    try:
        yield made
    finally:
        server.close()
        for writer in made.open:
            writer.transport.abort()
        await until(lambda: not made.open)


@contextlib.asynccontextmanager
async def both(folder: Path, *answers: Say, most: int = 2) -> AsyncIterator[tuple[FakeEngine, Lines]]:
    """An engine, and lines to it."""
    async with fake_engine(folder, *answers) as engine:
        lines = Lines(engine.path, most)
        try:
            yield engine, lines
        finally:
            lines.close()


async def post(lines: Lines, **headers: str) -> Any:
    return await lines.post(PATH, SPEC, headers)


async def silence(writer: asyncio.StreamWriter) -> None:
    """No answer; what is heard next is that whoever asked has hung up."""


@pytest.fixture(autouse=True)
def _unseen() -> Iterator[None]:
    """The log of what was not understood: to show its traces takes longer than all else."""
    with structlog.testing.capture_logs():
        yield


# --- what is sent, and on what ----------------------------------------------------------------------------------------


async def test_a_call_is_a_post_of_json(tmp_path: Path) -> None:
    """In the engine's newest version, with this call's own headers and no others."""
    async with both(tmp_path) as (engine, lines):
        assert await lines.post(PATH, SPEC, {"X-Registry-Auth": CREDENTIALS}) == MADE
        assert await lines.post("/other", {}, {}) == MADE
        ping, first, second = engine.asked
        assert (ping.line, ping.body) == ("GET /_ping HTTP/1.1", b"")
        assert (first.line, second.line) == (f"POST /v1.41{PATH} HTTP/1.1", "POST /v1.41/other HTTP/1.1")
        assert (json.loads(first.body), json.loads(second.body)) == (SPEC, {})
        asked = {"host": "docker", "content-type": "application/json", "content-length": str(len(first.body))}
        assert first.headers == asked | {"x-registry-auth": CREDENTIALS}
        assert second.headers == asked | {"content-length": "2"}


async def test_a_connection_is_kept(tmp_path: Path) -> None:
    """And asked but once for its version."""
    async with both(tmp_path) as (engine, lines):
        for _ in range(5):
            assert await post(lines) == MADE
        assert (engine.connections, len(engine.posts), len(engine.asked)) == (1, 5, 6)


async def test_so_many_calls_at_once_and_no_more(tmp_path: Path) -> None:
    """The rest wait their turn, in their order."""
    go, flying, most = asyncio.Event(), 0, 0

    async def slow(writer: asyncio.StreamWriter) -> None:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await go.wait()
        flying -= 1
        writer.write(reply())

    async with both(tmp_path, slow) as (engine, lines):
        calls = [asyncio.ensure_future(lines.post(f"/{number}", {}, {})) for number in range(6)]
        await until(lambda: flying == 2)
        await asyncio.sleep(0.01)
        assert len(engine.posts) == 2
        go.set()
        assert await asyncio.gather(*calls) == [MADE] * 6
        assert (most, engine.connections) == (2, 2)
        assert {asked.line for asked in engine.posts[:2]} == {f"POST /v1.41/{number} HTTP/1.1" for number in (0, 1)}


async def test_when_its_turn_has_come_a_call_may_not_be_wanted_any_more(tmp_path: Path) -> None:
    """It is asked then, and not before; nothing is sent, and its place is another's."""
    go, gone = asyncio.Event(), False

    async def slow(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(reply())

    def turn() -> None:
        if gone:
            raise EngineUnreached("gone")

    async with both(tmp_path, slow, most=1) as (engine, lines):
        first, second = (asyncio.ensure_future(lines.post(PATH, SPEC, {}, turn)) for _ in range(2))
        await until(lambda: engine.posts)
        gone = True
        go.set()
        assert await first == MADE
        with pytest.raises(EngineUnreached, match="gone"):
            await second
        assert len(engine.posts) == 1
        assert await post(lines) == MADE


# --- answers ----------------------------------------------------------------------------------------------------------

CHUNKED = b'HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"ID"\r\n7\r\n: "s1"}\r\n0\r\n\r\n'
TWO_WAYS = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 12\r\n\r\n", 1)
ENDLESS = b'HTTP/1.1 201 Created\r\n\r\n{"ID": "s1"}'


async def test_an_answer_in_chunks_may_be_cut_anywhere(tmp_path: Path) -> None:
    """Its connection is kept, as nothing of it is left there: not its last line end either."""

    def cut(at: int) -> Say:
        async def say(writer: asyncio.StreamWriter) -> None:
            writer.write(CHUNKED[:at])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            writer.write(CHUNKED[at:])

        return say

    cuts = range(1, len(CHUNKED))
    async with both(tmp_path, *map(cut, cuts)) as (engine, lines):
        for _ in cuts:
            assert await post(lines) == MADE
        assert engine.connections == 1


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"]
)
async def test_what_comes_before_an_answer_is_none(tmp_path: Path, interim: bytes) -> None:
    """The answer is still to come."""
    async with both(tmp_path, interim + reply()) as (engine, lines):
        assert [await post(lines), await post(lines)] == [MADE, MADE]
        assert engine.connections == 1


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        (ENDLESS, True),
        (reply(MADE, 201, "Connection: close"), True),
        (reply(MADE, 201, "connection: Close"), False),
        (reply().replace(b"1.1", b"1.0"), False),
        (TWO_WAYS, False),
        (reply() + b"\r\n", False),
        (reply() + reply({"ID": "another"}), False),
        (CHUNKED + b"HTTP", False),
    ],
)
async def test_a_connection_is_not_kept_where_more_than_the_next_answer_may_come(
    tmp_path: Path, answer: bytes, ends: bool
) -> None:
    """The engine has ended it, or said more than the answer."""
    async with both(tmp_path, answer, reply({"ID": "s2"})) as (engine, lines):
        engine.then_ends = {answer} if ends else set()
        assert await post(lines) == MADE
        await until(lambda: not engine.open)
        assert await post(lines) == {"ID": "s2"}
        assert (engine.connections, len(engine.posts)) == (2, 2)


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("said", [b"", b"\r\n", reply({"ID": "nobody's"})])
async def test_a_kept_connection_that_was_ended_or_spoiled_is_not_used(tmp_path: Path, seen: bool, said: bytes) -> None:
    """The call is sent once, on a new one; also where the loop could not see yet what became of the old one."""
    async with both(tmp_path) as (engine, lines):
        await asyncio.gather(post(lines), post(lines))
        for writer in engine.open:
            writer.write(said)
        if not said:
            engine.hang_up()
        if seen:
            await until(lambda: not engine.open)
        assert await post(lines) == MADE
        assert (engine.connections, len(engine.posts)) == (3, 3)


async def test_on_a_connection_that_is_over_nothing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should it be taken for one that is not."""
    monkeypatch.setattr(_Line, "is_quiet", True)
    async with both(tmp_path) as (engine, lines):
        await post(lines)
        engine.hang_up()
        await until(lambda: not engine.open)
        with pytest.raises(EngineAway, match="broke"):
            await asyncio.wait_for(post(lines), 5)


async def test_an_engine_that_ends_every_connection_is_asked_on_another(tmp_path: Path) -> None:
    """As some proxies do."""
    async with both(tmp_path) as (engine, lines):
        engine.ping = PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        engine.then_ends = {engine.ping}
        assert await post(lines) == MADE
        assert [asked.line[:4] for asked in engine.asked] == ["GET ", "POST"]
        assert engine.connections == 2


# --- errors -----------------------------------------------------------------------------------------------------------

NO_LEADER = "rpc error: code = Unknown desc = The swarm does not have a leader."
NO_MANAGER = "This node is not a swarm manager. Worker nodes can't be used to view"
WORDS = f"the registry said {CREDENTIALS} to someone with something"


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (400, {"message": "invalid mount"}, BadRequest),
        (404, {"message": "network x not\n found"}, NotFound),
        (409, {"message": "name in use"}, Conflict),
        (500, {"message": "oops"}, EngineRefused),
        (501, {"message": "not implemented", "more": []}, EngineRefused),
        (503, {"message": "shutting down"}, EngineBusy),
        (500, {"message": NO_LEADER}, EngineBusy),
        (503, {"message": NO_MANAGER}, NotAManager),
        (409, {"message": WORDS}, Conflict),
        (500, {"message": WORDS}, EngineRefused),
        (500, {"message": "x" * 999}, EngineRefused),
        (502, b"<html> no  gateway\n", EngineRefused),
        (409, b'{"message": "\xff in use"}', Conflict),
        (500, WORDS.encode(), EngineRefused),
    ],
)
async def test_a_refusal_is_the_same_by_both_ways(
    tmp_path: Path, status: int, said: object, kind: type[HttpError]
) -> None:
    """As by a thread with the SDK; and the credentials are in neither."""
    async with both(tmp_path, reply(said, status)) as (engine, lines):
        clients: list[Client] = []

        def connect() -> Client:
            clients.append(Client(f"unix://{engine.path}", version="1.41"))
            return clients[-1]

        told: list[HttpError] = []
        for way in (None, lines):
            calls = Pool(connect, 1, "test", lines=way)
            with pytest.raises(HttpError) as caught:
                await calls.post(PATH, SPEC, {"X-Registry-Auth": CREDENTIALS}, 5, "create")
            told.append(caught.value)
            calls.close()
        for client in clients:
            client.close()
        assert len(engine.posts) == 2
        by_thread, by_line = told
        assert type(by_thread) is type(by_line) is kind
        assert str(by_thread) == str(by_line)
        assert outcome_open(by_thread) == outcome_open(by_line)
        assert CREDENTIALS not in str(by_line)
        assert "something" not in str(by_line)


@pytest.mark.parametrize("said", [b"", b" \n", {"message": ""}])
async def test_a_refusal_without_words_has_its_status(tmp_path: Path, said: object) -> None:
    """An error says something."""
    async with both(tmp_path, reply(said, 404)) as (_, lines):
        with pytest.raises(NotFound, match="404"):
            await post(lines)


async def test_a_refusal_does_not_end_the_connection(tmp_path: Path) -> None:
    """It is an answer."""
    async with both(tmp_path, reply({"message": "taken"}, 409), reply()) as (engine, lines):
        with pytest.raises(Conflict) as caught:
            await post(lines)
        assert caught.value.__cause__ is None
        assert await post(lines) == MADE
        assert engine.connections == 1


@pytest.mark.parametrize("body", [reply(), CHUNKED], ids=["length", "chunked"])
async def test_an_answer_that_is_cut_off_leaves_the_outcome_open(tmp_path: Path, body: bytes) -> None:
    """In its head or its body, or before it has begun; the next call is on another connection."""
    cuts = [body[:at] for at in (0, 1, 20, body.index(b"\r\n\r\n") + 2, body.index(b"\r\n\r\n") + 4, len(body) - 1)]
    async with both(tmp_path, *cuts, reply()) as (engine, lines):
        engine.then_ends = set(cuts)
        for _ in cuts:
            with pytest.raises(EngineAway, match="broke") as caught:
                await post(lines)
            assert type(caught.value) is EngineAway
            assert outcome_open(caught.value)
            await until(lambda: not engine.open)
        assert await post(lines) == MADE
        assert (engine.connections, len(engine.posts)) == (len(cuts) + 1, len(cuts) + 1)


async def test_an_answer_that_ends_with_a_reset_is_cut_off(tmp_path: Path) -> None:
    """Though it is one that is as long as its connection."""
    async with by_hand(tmp_path) as (accept, lines):
        call = asyncio.ensure_future(post(lines))
        peer = await accept()
        await hear(peer, 10)
        peer.send(ENDLESS)
        peer.close()  # with something unread
        with pytest.raises(EngineAway) as caught:
            await call
        assert outcome_open(caught.value)


@pytest.mark.parametrize("bound", [False, True])
async def test_where_nothing_listens_nothing_was_sent(tmp_path: Path, bound: bool) -> None:
    """There is no socket, or nobody is behind it."""
    path = tmp_path / "engine.sock"
    if bound:
        with socket.socket(socket.AF_UNIX) as unused:
            unused.bind(str(path))
    with pytest.raises(EngineUnreached, match="nothing answers") as caught:
        await post(Lines(path, 1))
    assert not outcome_open(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"\r\n\r\n",
        b"<html>\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nno header\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: 9999999\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 201 Created\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 201 Created\r\n\r\n" + b"x" * 1_100_000,
    ],
    ids=lambda answer: answer[20:60],
)
async def test_what_is_no_answer_is_not_understood(tmp_path: Path, answer: bytes) -> None:
    """The connection is closed; what was asked may have been done."""
    async with both(tmp_path, answer, reply()) as (engine, lines):
        with pytest.raises(EngineRefused) as caught:
            await post(lines)
        assert str(caught.value) == NO_API
        assert outcome_open(caught.value)
        await until(lambda: not engine.open)
        assert await post(lines) == MADE
        assert engine.connections == 2


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b'"\xff"', b"[" * 10_000])
async def test_what_is_not_json_is_not_understood(tmp_path: Path, body: bytes) -> None:
    """But it was an answer."""
    async with both(tmp_path, reply(body), reply()) as (engine, lines):
        with pytest.raises(EngineRefused) as caught:
            await post(lines)
        assert str(caught.value) == NO_API
        assert await post(lines) == MADE
        assert engine.connections == 1


@pytest.mark.parametrize(
    ("ping", "kind"),
    [
        (PING.replace(b"Api-Version: 1.41\r\n", b""), EngineRefused),
        (PING.replace(b"1.41", b"1.41/../v1"), EngineRefused),
        (PING.replace(b"1.41", b"newest"), EngineRefused),
        (b"<html>\r\n\r\n", EngineRefused),
        (reply({"message": "starting"}, 503), EngineBusy),
        (PING[:-1], EngineAway),
    ],
)
async def test_an_engine_that_does_not_say_its_version_is_not_asked(
    tmp_path: Path, ping: bytes, kind: type[HttpError]
) -> None:
    """Until it does."""
    async with both(tmp_path, most=1) as (engine, lines):
        engine.ping, engine.then_ends = ping, {PING[:-1]}
        for _ in range(3):
            with pytest.raises(kind) as caught:
                await post(lines)
            assert type(caught.value) is kind
        await until(lambda: not engine.open)
        assert engine.posts == []
        engine.ping = PING
        assert await post(lines) == MADE


# --- who does not wait ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
async def test_a_call_that_nobody_waits_for_ends_its_connection(tmp_path: Path, late: bool) -> None:
    """The answer that may come yet is nobody's."""
    async with both(tmp_path, silence, reply(), most=1) as (engine, lines):
        call = asyncio.ensure_future(asyncio.wait_for(post(lines), 0.03 if late else 9))
        await until(lambda: engine.posts)
        if not late:
            call.cancel()
        with pytest.raises(TimeoutError if late else asyncio.CancelledError):
            await call
        await until(lambda: not engine.open)
        assert await post(lines) == MADE
        assert (engine.connections, len(engine.posts)) == (2, 2)


async def test_a_call_may_be_cancelled_at_any_moment(tmp_path: Path) -> None:
    """No place is lost, and no connection: neither of one that is sent nor of one that waits for its turn."""
    async with both(tmp_path) as (engine, lines):
        for steps in range(60):
            if steps % 2:
                engine.hang_up()  # so that it begins with the connection
            calls = [asyncio.ensure_future(post(lines)) for _ in range(4)]
            for _ in range(steps // 2):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            async with asyncio.timeout(5):
                assert list(await asyncio.gather(post(lines), post(lines))) == [MADE] * 2
        assert any(call.done() and not call.cancelled() for call in calls)  # it was long enough
        await until(lambda: len(engine.open) <= 2)


async def test_what_was_not_sent_yet_is_not_sent_any_more(tmp_path: Path) -> None:
    """An engine that reads on when nobody waits any more finds a request that is cut off."""
    async with by_hand(tmp_path) as (accept, lines):
        call = asyncio.ensure_future(lines.post(PATH, {"Name": "x" * 4_000_000}, {}))
        peer = await accept()
        await hear(peer, 10)
        call.cancel()
        await asyncio.wait([call])
        sent = 0
        while said := await hear(peer, 1_000_000):
            sent += len(said)
        assert sent < 4_000_000


async def test_an_engine_that_is_frozen_holds_no_place(tmp_path: Path) -> None:
    """It takes connections, as the kernel does that for it, and says nothing on them."""
    async with by_hand(tmp_path) as (accept, lines):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await post(lines)
        call = asyncio.ensure_future(post(lines))
        await asyncio.sleep(0.005)
        for _ in range(3):
            with pytest.raises(EOFError):
                await accept()
        peer = await accept()
        await hear(peer, 10_000)
        peer.send(reply())
        assert await call == MADE


async def test_an_engine_that_takes_no_connection_is_away(tmp_path: Path) -> None:
    """The queue of one that is frozen may be full."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as others:
        listener.bind(str(path))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                other = others.enter_context(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(str(path))
        with pytest.raises(EngineAway):
            await asyncio.wait_for(post(Lines(path, 1)), 5)


async def test_what_is_idle_is_closed_with_it_and_what_flies_is_not_kept(tmp_path: Path) -> None:
    """Its answer is still told."""
    go = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(reply())

    async with both(tmp_path, reply(), reply(), slow) as (engine, lines):
        await asyncio.gather(post(lines), post(lines))
        flying = asyncio.ensure_future(post(lines))
        await until(lambda: len(engine.posts) == 3)
        lines.close()
        await until(lambda: len(engine.open) == 1)
        go.set()
        assert await flying == MADE
        await until(lambda: not engine.open)


async def test_a_thousand_calls_leave_nothing_open(tmp_path: Path) -> None:
    """Whatever became of them."""
    last, cut, wrong = reply(MADE, 201, "Connection: close"), reply()[:-1], reply(MADE, 409)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with fake_engine(tmp_path, *[reply(), last, reply(), cut, b"?\r\n\r\n", wrong] * 170, reply()) as engine:
        engine.then_ends = {last, cut}
        before, lines = descriptors(), Lines(engine.path, 8)
        for _ in range(20):
            await asyncio.gather(*(post(lines) for _ in range(50)), return_exceptions=True)
        assert len(engine.posts) == 1000
        await until(lambda: len(engine.open) <= 8)
        assert len(lines._idle) <= 8
        lines.close()
        await until(lambda: not engine.open and descriptors() == before)


# --- an engine by hand ------------------------------------------------------------------------------------------------

Accept = Callable[[], Awaitable[socket.socket]]


@contextlib.asynccontextmanager
async def by_hand(folder: Path) -> AsyncIterator[tuple[Accept, Lines]]:
    """Connections that have been asked for their version and no more, one after the other, and lines that make them.

    ``EOFError``: it was ended before.
    """
    path = folder / "engine.sock"
    lines = Lines(path, 1)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as taken:
        listener.bind(str(path))
        listener.listen(9)
        listener.setblocking(False)

        async def accept() -> socket.socket:
            peer, _ = await asyncio.get_running_loop().sock_accept(listener)
            taken.enter_context(peer)
            assert b"/_ping" in await hear(peer, 10_000)
            try:
                peer.send(PING)
            except BrokenPipeError:
                raise EOFError from None
            return peer

        try:
            yield accept, lines
        finally:
            lines.close()


async def hear(peer: socket.socket, most: int) -> bytes:
    return await asyncio.get_running_loop().sock_recv(peer, most)
