"""Owners: who has a token of the file sees and stops what it started, for as long as its token is good for that."""

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fakes import CREATED, until
from in_process import (
    ALICE,
    BOB,
    BOX_OF_BOB,
    OF_BOB,
    OF_ROOT,
    TOKEN,
    Ask,
    InProcess,
    app,
    ask,
    entry,
    home,
    of,
    options,
)
from structlog.testing import capture_logs
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.websocket import WebSocketClientConnection, websocket_connect

from qmaster.auth.authenticator import BURST, Identity
from qmaster.errors import JournalUnwritable
from qmaster.models.responses import Service
from qmaster.runs.logs import LogQuery, Piece

__all__ = ["app", "ask", "home", "options"]  # the fixtures

pytestmark = [pytest.mark.gen_test, pytest.mark.slow]  # a whole server each

Json = dict[str, Any]

IMAGE = {"image": "busybox"}
WITHIN = 5.0  # seconds: the document says two, on a machine that is not busy
ONLY_RUN = entry("alice", scopes='"run"')


def read(answer: Any) -> Json:
    found: Json = json.loads(answer.body)
    return found


def names(answer: Any) -> set[str]:
    return {service["name"] for service in read(answer)["services"]}


async def run(ask: Ask, who: str, key: str = "", **fields: Any) -> Json:
    """The answer of a run that is let through."""
    answer = await ask(who, "POST", "/run", {**IMAGE, **fields}, {"Idempotency-Key": key} if key else {})
    assert answer.code == 200, answer.body
    return {**read(answer), "replayed": "Idempotency-Replayed" in answer.headers}


# --- what they see ----------------------------------------------------------------------------------------------------


async def test_a_listing_has_what_is_the_caller_s(ask: Ask) -> None:
    """The root token's has all; that of another token what it started, whatever it asks for."""
    await run(ask, "alice", name="alices")
    assert names(await ask("root", "GET", "/status")) == {"alices", "bobs", "bobs-box", "roots", "foreign"}
    assert names(await ask("alice", "GET", "/status")) == {"alices"}
    assert names(await ask("bob", "GET", "/status")) == {"bobs", "bobs-box"}
    assert names(await ask("alice", "GET", "/status?name=bobs&name=alices&name=foreign")) == {"alices"}
    assert names(await ask("alice", "GET", "/status?all=1&status=running")) == set()


async def test_a_filter_by_owner_shows_no_more(ask: Ask) -> None:
    """The root token sees those of each, and what quartermaster did not start; another token only its own."""
    await run(ask, "alice", name="alices")
    for removed in ("", "&all=1"):
        assert names(await ask("root", "GET", f"/status?owner=bob{removed}")) == {"bobs", "bobs-box"}
        assert names(await ask("root", "GET", f"/status?owner=alice&owner={removed}")) == {"alices", "foreign"}
        assert names(await ask("alice", "GET", f"/status?owner=alice{removed}")) == {"alices"}
        for other in ("bob", "root", ""):
            assert names(await ask("alice", "GET", f"/status?owner={other}{removed}")) == set()


async def test_a_page_begins_where_it_may(ask: Ask) -> None:
    """A cursor of another token's listing shows only the token's own runs."""
    await run(ask, "alice", name="alices")
    shown, query = list[str](), "?all=1&limit=1"
    while query:
        answer = read(await ask("root", "GET", f"/status{query}"))
        shown += [service["name"] for service in answer["services"]]
        following = answer["next_page"]
        query = following and f"?all=1&limit=1&page={following}"
        assert not following or names(await ask("alice", "GET", f"/status?all=1&page={following}")) <= {"alices"}
    assert sorted(shown) == ["alices", "bobs", "bobs-box", "foreign", "roots"]


async def test_what_is_removed_stays_its_owner_s(ask: Ask, home: InProcess) -> None:
    """In the list of all, and one by one."""
    alices = (await run(ask, "alice", name="alices"))["id"]
    home.engine.swarm.there = []
    home.engine.containers.there = []
    await home.look()
    assert names(await ask("alice", "GET", "/status?all=1")) == {"alices"}
    assert names(await ask("bob", "GET", "/status?all=1")) == {"bobs", "bobs-box"}
    assert names(await ask("root", "GET", "/status?all=1")) == {"alices", "bobs", "bobs-box", "roots", "foreign"}
    assert read(await ask("alice", "GET", f"/status/{alices}"))["status"] == "removed"
    for path in (f"/status/{alices}", "/status/alices", f"/logs/{alices}"):
        assert (await ask("bob", "GET", path)).code == 404
    assert (await ask("bob", "POST", "/stop", {"id": "alices"})).code == 404
    assert (await ask("alice", "POST", "/stop", {"id": "alices"})).code == 200


async def test_a_journal_that_fails_shows_its_folder_to_root_alone(
    ask: Ask, home: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own words name the file."""
    said = "the journal cannot be opened: [Errno 13] Permission denied: '/srv/quartermaster/journal.db'"

    async def fail(*args: object) -> None:
        raise JournalUnwritable(said)

    monkeypatch.setattr(home.server.journal, "intend", fail)
    answers = {who: await ask(who, "POST", "/run", IMAGE) for who in ("root", "bob")}
    assert {answer.code for answer in answers.values()} == {507}
    assert read(answers["root"])["error"] == said
    assert read(answers["bob"])["error"] == said.replace("/srv/quartermaster/journal.db", "…")


async def test_a_name_means_the_caller_s_own(ask: Ask, home: InProcess) -> None:
    """Where a service, which another quartermaster has started, and another's container have the same one."""
    home.engine.swarm.there.append(of("alice", "s-of-alice", "bobs-box"))
    await home.server.runs.reconciler._list_all(0)
    assert read(await ask("alice", "GET", "/status/bobs-box"))["owner"] == "alice"
    assert read(await ask("bob", "GET", "/status/bobs-box"))["id"] == BOX_OF_BOB
    assert read(await ask("bob", "POST", "/stop", {"id": "bobs-box"}))["id"] == BOX_OF_BOB
    assert "end" not in home.engine.asked()
    assert (await ask("alice", "POST", "/run", {"image": "busybox", "name": "bobs-box"})).code == 409


async def test_what_nobody_of_ours_started_is_the_root_token_s(ask: Ask) -> None:
    """Its owner is null, and so nobody's name."""
    assert read(await ask("root", "GET", "/status/foreign"))["owner"] is None
    assert (await ask("bob", "GET", "/status/foreign")).code == 404


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["service", "container"])
async def test_everyone_has_keys_of_their_own(ask: Ask, home: InProcess, kind: str) -> None:
    """The same key with the same body is another run, and with another body no mistake."""
    runs = {who: await run(ask, who, "order-1", type=kind, name=None) for who in ("alice", "bob", "root")}
    assert len({each["id"] for each in runs.values()}) == 3
    assert not any(each["replayed"] for each in runs.values())
    for who, first in runs.items():
        again = await run(ask, who, "order-1", type=kind, name=None)
        first.pop("warnings", None)  # they are told once
        assert again == {**first, "replayed": True}
        assert (await ask(who, "GET", f"/status/{first['id']}")).code == 200
    assert len(home.engine.created()) == 3
    other = await ask("alice", "POST", "/run", {**IMAGE, "memory": 32}, {"Idempotency-Key": "order-1"})
    assert other.code == 422
    assert not (await run(ask, "bob", "order-2", type=kind, memory=32))["replayed"]


async def test_a_key_is_no_way_to_another_s_run(ask: Ask, home: InProcess) -> None:
    """Neither while it is in flight, nor by the name that it makes."""
    first, second = await asyncio.gather(run(ask, "alice", "k"), run(ask, "bob", "k"))
    assert first["id"] != second["id"]
    assert (first["replayed"], second["replayed"]) == (False, False)
    made = read(await ask("root", "GET", f"/status/{second['id']}"))["name"]
    for name in (made, made.upper()):
        answer = await ask("alice", "POST", "/run", {**IMAGE, "name": name})
        assert (answer.code, read(answer)["error"].partition(":")[0]) == (403, "name")
    assert (await ask("alice", "GET", f"/status/{made}")).code == 404


async def test_a_retry_is_no_run(ask: Ask, home: InProcess) -> None:
    """So it counts to no limit."""
    home.write(entry("alice", "max_running = 1"))
    await until(lambda: named(home) == {"alice"})
    first = await run(ask, "alice", "k")
    assert (await run(ask, "alice", "k"))["id"] == first["id"]
    assert (await ask("alice", "POST", "/run", IMAGE, {"Idempotency-Key": "l"})).code == 403


async def test_runs_a_minute_are_limited(ask: Ask, home: InProcess) -> None:
    """429 with when to come back; a retry under a key counts once, and others go on."""
    home.write(entry("bob"))
    await until(lambda: named(home) == {"bob"})
    home.write(entry("alice", "max_rate = 2") + entry("bob"))
    await until(lambda: named(home) == {"alice", "bob"})
    await run(ask, "alice", "k")
    for _ in range(5):
        await run(ask, "alice", "k")
    await run(ask, "alice", "l")
    refused = await ask("alice", "POST", "/run", IMAGE)
    assert refused.code == 429
    assert read(refused)["error"].startswith("max_rate: this token may start at most 2 runs a minute")
    assert 50 <= int(refused.headers["Retry-After"]) <= 60
    assert (await ask("alice", "POST", "/run", IMAGE, {"Idempotency-Key": "k"})).code == 200
    assert (await ask("bob", "POST", "/run", IMAGE)).code == 200


# --- the stream -------------------------------------------------------------------------------------------------------


class Socket:
    """A websocket that keeps what it reads."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._ended = False
        self.frames: list[Json] = []

    async def read(self, kind: str) -> Json:
        """The next frame of a type; that there is one before the end is a test of its own."""
        while await self._next():
            if self.frames[-1]["type"] == kind:
                return self.frames[-1]
        raise AssertionError(f"closed with {self._connection.close_code} before any {kind}")

    async def end(self) -> int | None:
        """Read on until it is closed; the code."""
        while await self._next():
            pass
        return self._connection.close_code

    @property
    def why(self) -> str | None:
        return self._connection.close_reason

    async def _next(self) -> bool:
        message = None if self._ended else await self._connection.read_message()
        if message is None:
            self._ended = True  # a second end never comes
            return False
        self.frames.append(json.loads(message))
        return True

    def say(self, **frame: str) -> None:
        self._connection.write_message(json.dumps(frame))

    async def close(self) -> None:
        self._connection.close()
        await self.end()


Connect = Callable[..., Any]


@pytest.fixture
def connect(http_client: AsyncHTTPClient, http_port: int, io_loop: IOLoop) -> Iterator[Connect]:
    """`await connect("alice", "topic=service")`: a websocket; with no name, one that has yet to say who it is."""
    sockets: list[Socket] = []

    async def connect(who: str = "", query: str = "") -> Socket:
        token = TOKEN if who == "root" else who
        headers = {"Authorization": f"Bearer {token}"} if who else {}
        url = f"ws://localhost:{http_port}/events?{query}"
        sockets.append(Socket(await websocket_connect(HTTPRequest(url, headers=headers))))
        return sockets[-1]

    yield connect
    for socket in sockets:
        io_loop.run_sync(socket.close)


async def beat(home: InProcess, socket: Socket) -> None:
    """Have it hear a heartbeat: then it has heard all that came before."""
    heard = asyncio.create_task(socket.read("heartbeat"))
    while not heard.done():
        home.server.events.beat()
        await asyncio.sleep(0.01)
    assert heard.result()["type"] == "heartbeat"


async def test_a_snapshot_has_what_is_the_caller_s(connect: Connect) -> None:
    """And the nodes for the root token alone: they tell what others run there."""
    snapshot = await (await connect("bob")).read("snapshot")
    assert {service["name"] for service in snapshot["services"]} == {"bobs", "bobs-box"}
    assert snapshot["nodes"] == []
    snapshot = await (await connect("root")).read("snapshot")
    assert len(snapshot["services"]) == 4
    assert len(snapshot["nodes"]) == 1
    first_frame = await connect()
    first_frame.say(type="auth", token="alice")
    assert (await first_frame.read("snapshot"))["services"] == []


async def test_events_are_of_what_is_the_caller_s(ask: Ask, connect: Connect, home: InProcess) -> None:
    """Live, and when they are resumed; also where another's id is asked for."""
    since = read(await ask("root", "GET", "/status"))["cursor"]
    alice, bob, root = [await connect(who) for who in ("alice", "bob", "root")]
    asks_for_bobs = await connect("alice", f"service={OF_BOB}")
    for socket in (alice, bob, root, asks_for_bobs):
        await socket.read("snapshot")
    alices = (await run(ask, "alice", name="alices"))["id"]
    assert (await alice.read("event"))["event"]["subject"] == alices
    bobs = (await run(ask, "bob", name="bobs-second"))["id"]
    assert (await bob.read("event"))["event"]["subject"] == bobs
    assert [(await root.read("event"))["event"]["subject"] for _ in range(2)] == [alices, bobs]
    for socket in (alice, asks_for_bobs):
        await beat(home, socket)
    assert not [frame for frame in asks_for_bobs.frames if frame["type"] == "event" or frame.get("services")]
    assert len([frame for frame in alice.frames if frame["type"] == "event"]) == 1
    resumed = await connect("bob", f"since={since}")
    assert (await resumed.read("event"))["event"]["subject"] == bobs
    resumed = await connect("alice", f"since={since}&service={bobs}")
    await beat(home, resumed)
    assert [frame["type"] for frame in resumed.frames] == ["hello", "heartbeat"]


async def test_the_stream_says_what_is_missing(connect: Connect, ask: Ask, home: InProcess) -> None:
    """4401 without a token that is known, 4403 where it may not; before an upgrade it is the HTTP status."""
    home.write(ONLY_RUN)
    await until(lambda: named(home) == {"alice"})
    for token, code in (("bob", 4401), ("alice", 4403)):
        socket = await connect()
        socket.say(type="auth", token=token)
        assert (await socket.read("error"))["code"] == code
        assert await socket.end() == code
        with pytest.raises(HTTPClientError) as caught:
            await connect(token)
        assert caught.value.code == code - 4000
        assert (await ask(token, "GET", "/events")).code == code - 4000
    socket = await connect(query="topic=node")
    home.write(ALICE)
    await until(lambda: "read" in scopes(home, "alice"))
    socket.say(type="auth", token="alice")
    assert "the topic node is for the root token only" in (await socket.read("error"))["detail"]
    assert await socket.end() == 4403


# --- when the tokens change -------------------------------------------------------------------------------------------


def known(home: InProcess) -> dict[str, Identity]:
    return {identity.name: identity for _, identity in home.server.api.auth._known if identity.grant}


def named(home: InProcess) -> set[str]:
    return set(known(home))


def scopes(home: InProcess, name: str) -> frozenset[str]:
    grant = known(home)[name].grant
    return frozenset(grant.scopes) if grant else frozenset()


class Speaker:
    """Output that never ends: a line, and then silence; or with ``loud`` more and more."""

    def __init__(self, home: InProcess, *, loud: bool = False) -> None:
        self.closed = 0
        self._loud = loud
        log_reader: Any = home.server.api.log_reader
        log_reader.flow = self.flow

    async def flow(self, view: Service, wanted: LogQuery) -> AsyncIterator[list[Piece]]:
        try:
            yield [Piece(CREATED, "stdout", b"first\n")]
            while self._loud:
                yield [Piece(CREATED, "stdout", b"x" * 65_535 + b"\n")] * 256  # more than all buffers on the way hold
            await asyncio.Event().wait()
        finally:
            self.closed += 1


class Stream:
    """An answer that goes on, read from its connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def until(self, text: str) -> str:
        return (await self._reader.readuntil(text.encode())).decode()

    async def rest(self) -> str:
        return (await self._reader.read()).decode()

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def streaming(port: int, path: str, who: str, accept: str = "*/*") -> AsyncIterator[Stream]:
    reader, writer = await asyncio.open_connection("localhost", port)
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {who}\r\nAccept: {accept}\r\n\r\n"
    writer.write(head.encode())
    try:
        yield Stream(reader, writer)
    finally:
        writer.close()


def of_another(home: InProcess) -> None:
    """The same token, under another name."""
    home.write(ALICE.replace("[alice]", "[carol]"), BOB)


CHANGES: list[Any] = [
    pytest.param(lambda home: home.write(BOB), 4401, "this token is no longer valid", 401, id="gone"),
    pytest.param(of_another, 4401, "this token is no longer valid", 404, id="another's"),
    pytest.param(lambda home: home.write(BOB, ONLY_RUN), 4403, "needs the scope read", 403, id="read taken away"),
]


@pytest.mark.parametrize(("change", "code", "says", "then"), CHANGES)
async def test_open_streams_end_with_their_token(
    connect: Connect,
    http_port: int,
    ask: Ask,
    home: InProcess,
    change: Callable[[InProcess], None],
    code: int,
    says: str,
    then: int,
) -> None:
    """Within a second: websockets, Server-Sent Events and followed logs; each says why. Another's go on."""
    speaker = Speaker(home)
    alices = (await run(ask, "alice", name="alices"))["id"]
    socket, bobs, waiting = await connect("alice"), await connect("bob"), await connect()
    for one in (socket, bobs):
        await one.read("snapshot")
    async with (
        streaming(http_port, "/events", "alice") as sse,
        streaming(http_port, f"/logs/{alices}?follow=1", "alice") as log,
        streaming(http_port, "/logs/alices?follow=1", "alice", "application/x-ndjson") as ndjson,
        streaming(http_port, f"/logs/{OF_BOB}?follow=1", "bob") as bobs_log,
    ):
        await sse.until("event: snapshot")
        for one in (log, bobs_log):
            await one.until("first\n")
        await ndjson.until('"first"')
        parts = home.server.api
        assert (len(parts.sockets.open), len(parts.logs.open)) == (4, 3)

        with capture_logs() as logs:
            change(home)
            async with asyncio.timeout(WITHIN):
                assert (await socket.read("error"))["code"] == code
                assert await socket.end() == code
                assert says in await sse.until("0\r\n\r\n")  # the end of the answer; the connection may be used again
                told = await log.rest()
                told_as_json = await ndjson.rest()
        for text in (told, told_as_json):
            assert says in text
            assert "the log is cut off here" in text
            assert "0\r\n\r\n" not in text  # it is not finished, so nobody takes it for whole
        assert speaker.closed == 2

        refused = [line for line in logs if line["event"] == "refused"]
        assert sorted(line["code"] for line in refused) == [code - 4000, code - 4000, code, code]
        assert {line["by"] for line in refused} == {"alice"}
        await until(lambda: (len(parts.sockets.open), len(parts.logs.open)) == (2, 1))
        await beat(home, bobs)
        bobs_log.close()
        await until(lambda: not parts.logs.open)
    await until(lambda: +parts.connections._all == {"socket": 1, "unauthenticated": 1})
    waiting.say(type="auth", token="bob")
    await waiting.read("snapshot")
    for path in (f"/status/{alices}", f"/logs/{alices}"):
        assert (await ask("alice", "GET", path)).code == then


async def test_a_log_that_nobody_reads_ends_too(ask: Ask, http_port: int, home: InProcess) -> None:
    """Its last words are not waited for."""
    speaker = Speaker(home, loud=True)
    await run(ask, "alice", name="alices")
    async with streaming(http_port, "/logs/alices?follow=1", "alice") as log:
        await log.until("first\n")
        home.write(BOB)
        await until(lambda: speaker.closed == 1)
        await until(lambda: not home.server.api.logs.open)
    await until(lambda: home.server.api.connections._all.total() == 0)


async def test_what_is_not_taken_away_goes_on(connect: Connect, ask: Ask, http_port: int, home: InProcess) -> None:
    """Another limit, another token beside it, or a file that is wrong, close nothing."""
    Speaker(home)
    await run(ask, "alice", name="alices")
    socket = await connect("alice")
    await socket.read("snapshot")
    async with streaming(http_port, "/logs/alices?follow=1", "alice") as log:
        await log.until("first\n")
        home.write(entry("alice", "max_memory = 8"), entry("carol"))
        await until(lambda: named(home) == {"alice", "carol"})
        with capture_logs() as logs:
            home.write("[alice")
            await until(lambda: bool(logs))
        assert logs[0]["event"] == "tokens_file_wrong"
        assert len(home.server.api.logs.open) == 1
    await beat(home, socket)
    answer = await ask("alice", "POST", "/run", {**IMAGE, "memory": 9})
    assert read(answer)["error"].startswith("max_memory: ")


async def test_what_begins_as_the_token_goes_is_not_begun(ask: Ask, home: InProcess) -> None:
    """Its first look is not its last: each asks again when it has what it waited for."""
    alices = (await run(ask, "alice", name="alices"))["id"]
    auth = home.server.api.auth
    run_service: Any = home.server.api.run_service
    status, until_over = run_service.status, run_service.waiters.until_over
    grants = [identity.grant for identity in known(home).values() if identity.grant]

    async def find_and_lose(name: str, by: Identity) -> Service:
        view: Service = await status(name, by)
        auth.replace([])
        return view

    async def wait_and_lose(*args: Any) -> None:
        auth.replace([])

    waits: Any = run_service.waiters
    run_service.status, waits.until_over = find_and_lose, wait_and_lose
    for method, path, body in (
        ("GET", f"/logs/{alices}?follow=1", None),
        ("GET", f"/status/{alices}?wait=9", None),
        ("POST", "/run", {**IMAGE, "wait": 9}),
    ):
        answer = await ask("alice", method, path, body)
        assert (answer.code, read(answer)["error"]) == (401, "this token is no longer valid")
        auth.replace(grants)
    waits.until_over = until_over
    assert home.server.api.connections._all.total() == 0


# --- the audit --------------------------------------------------------------------------------------------------------


async def test_who_ran_and_stopped_what_is_logged(ask: Ask) -> None:
    """One event each, with the token's name; a retry runs nothing, and a stop of what is gone stops nothing."""
    with capture_logs() as logs:
        service = await run(ask, "alice", "k", memory=32)
        await run(ask, "alice", "k", memory=32)
        box = await run(ask, "bob", type="container", name="second-box")
        await ask("alice", "POST", "/stop", {"id": service["id"]})
        await ask("root", "POST", "/stop", {"id": "bobs"})
    told = [line for line in logs if line["event"] in ("run_started", "run_stopped", "refused")]
    assert [(line["event"], line["by"], line["run"], line["owner"], line["type"]) for line in told] == [
        ("run_started", "alice", service["id"], "alice", "service"),
        ("run_started", "bob", box["id"], "bob", "container"),
        ("run_stopped", "alice", service["id"], "alice", "service"),
        ("run_stopped", "root", OF_BOB, "bob", "service"),
    ]
    assert told[0]["image"] == "docker.io/library/busybox:latest"
    requests = [line for line in logs if line["event"] == "request"]
    assert [line["by"] for line in requests] == ["alice", "alice", "bob", "alice", "root"]


REFUSED: list[tuple[str, str, str, object, int, str]] = [
    (
        "alice",
        "POST",
        "/run",
        {**IMAGE, "memory": 65},
        403,
        "max_memory: this token's runs may have at most 64 MiB; got 65",
    ),
    (
        "alice",
        "POST",
        "/run",
        {"image": "alpine"},
        403,
        "images: this token may not run docker.io/library/alpine:latest",
    ),
    ("alice", "POST", "/run", {**IMAGE, "secrets": ["bobs-key"]}, 403, "secrets: this token may not use 'bobs-key'"),
    ("alice", "POST", "/stop", {"id": "bobs"}, 404, "the run belongs to another owner"),
    ("alice", "GET", f"/status/{OF_ROOT}", None, 404, "the run belongs to another owner"),
    ("alice", "GET", "/logs/bobs-box", None, 404, "the run belongs to another owner"),
    ("alice", "GET", "/nodes", None, 403, "scopes: this is for the root token only"),
    ("alice", "GET", "/events?topic=node", None, 403, "scopes: the topic node is for the root token only"),
    ("carol", "GET", "/status", None, 401, "invalid token"),
]


@pytest.mark.parametrize(("who", "method", "path", "body", "code", "reason"), REFUSED)
async def test_who_was_refused_what_is_logged(
    ask: Ask, home: InProcess, who: str, method: str, path: str, body: object, code: int, reason: str
) -> None:
    """The request's line, with the reason and from where; what is another's has its name in a line of its own."""
    with capture_logs() as logs:
        answer = await ask(who, method, path, body)
    assert answer.code == code
    (request,) = [line for line in logs if line["event"] == "request"]
    assert (request["status"], request["by"]) == (code, None if who == "carol" else who)
    assert (request["method"], request["path"]) == (method, path.partition("?")[0])
    assert request["request"] == answer.headers["X-Request-ID"]
    refused = [line for line in logs if line["event"] == "refused"]
    if code == 404:
        (line,) = refused
        assert (line["log_level"], line["code"], line["reason"], line["by"]) == ("warning", code, reason, who)
        assert line["asked"] in (*path.split("/"), *(body.values() if isinstance(body, dict) else ()))
    else:
        assert (request["log_level"], request["reason"], refused) == ("warning", reason, [])


async def test_a_mistake_is_no_refusal(ask: Ask) -> None:
    """Nor is what nobody has."""
    with capture_logs() as logs:
        for method, path, body in (("POST", "/run", {}), ("GET", "/status/nobodys", None), ("GET", "/nowhere", None)):
            assert (await ask("alice", method, path, body)).code in (400, 404)
    assert [line["event"] for line in logs] == ["request"] * 3


async def test_the_refusal_of_a_socket_is_logged(connect: Connect, home: InProcess) -> None:
    """With its close code."""
    with capture_logs() as logs:
        socket = await connect()
        socket.say(type="auth", token="carol")
        assert await socket.end() == 4401
    (line,) = [line for line in logs if line["event"] == "refused"]
    assert (line["code"], line["reason"], line["by"], line["path"]) == (
        4401,
        "invalid token",
        None,
        "/events",
    )


async def test_who_listens_on_a_socket_is_logged(connect: Connect) -> None:
    """Its own request's line came before its token: so there is one more, with the same id."""
    with capture_logs() as logs:
        socket = await connect()
        socket.say(type="auth", token="alice")
        await socket.read("hello")
    (request,) = [line for line in logs if line["event"] == "request"]
    (line,) = [line for line in logs if line["event"] == "socket_authenticated"]
    assert request["by"] is None
    assert (line["by"], line["path"], line["request"]) == ("alice", "/events", request["request"])
    assert line["log_level"] == "info"


@pytest.mark.parametrize("letter", ["a", "\N{DESERET CAPITAL LETTER LONG I}"])
async def test_why_a_socket_is_closed_is_cut_to_its_frame(connect: Connect, home: InProcess, letter: str) -> None:
    """By bytes: a longer one would be a failure of ours, and no close at all. The frame before has it whole."""
    with capture_logs() as logs:
        socket = await connect("alice", urllib.parse.quote(letter * 64))
        assert await socket.end() == 4400
    (frame,) = socket.frames
    assert frame["detail"].startswith(f"unknown query parameter '{letter * 64}'; known: since, service, label, topic")
    assert socket.why
    assert len(socket.why) > len("unknown query parameter '")
    assert frame["detail"].startswith(socket.why)
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert not home.server.api.sockets.open


async def test_a_socket_s_token_is_named_too(connect: Connect, home: InProcess) -> None:
    """Where it is known, and may not."""
    home.write(ONLY_RUN)
    await until(lambda: named(home) == {"alice"})
    with capture_logs() as logs:
        socket = await connect()
        socket.say(type="auth", token="alice")
        assert await socket.end() == 4403
    (line,) = [line for line in logs if line["event"] == "refused"]
    assert (line["code"], line["by"]) == (4403, "alice")


async def test_wrong_tokens_of_sockets_are_counted_too(connect: Connect, ask: Ask) -> None:
    """Guessing is no quicker over a websocket; a right one is let in."""
    for number in range(BURST + 1):
        socket = await connect()
        socket.say(type="auth", token=f"guess-{number}")
        assert await socket.end() == (4401 if number < BURST else 4429)
    answer = await ask("another guess", "GET", "/status")
    assert (answer.code, answer.headers["Retry-After"]) == (429, "3")
    socket = await connect()
    socket.say(type="auth", token="alice")
    await socket.read("snapshot")


async def test_no_token_is_in_the_log(ask: Ask, connect: Connect, home: InProcess) -> None:
    """Of none of those who call, whether they are let in or not, also where they put it in a wrong place."""
    secret = "c4n4ry-" * 6
    home.write(entry("canary").replace(_sha("canary"), _sha(secret)))
    await until(lambda: named(home) == {"canary"})
    with capture_logs() as logs:
        assert (await ask(secret, "GET", "/status")).code == 200
        assert (await ask(secret, "POST", "/run", {**IMAGE, "token": secret})).code == 200
        assert (await ask(secret, "POST", "/run", {**IMAGE, "networks": ["x"]})).code == 403
        assert (await ask(secret + "x", "GET", "/status")).code == 401
        assert (await ask("root", "POST", "/run", {**IMAGE, "token": secret})).code == 400
        assert (await ask(secret, "GET", f"/status?token={secret}")).code == 400
        assert (await ask(secret, "POST", "/stop", {"id": secret})).code == 404
        assert (await ask(secret, "GET", f"/status/{secret}")).code == 404
        socket = await connect()
        socket.say(type="auth", token=secret + "x")
        await socket.end()
        home.write("")
        await until(lambda: not named(home))
    assert len(logs) > 10
    assert secret not in repr(logs)
    assert secret not in home.tokens.read_text()


def _sha(token: str) -> str:
    return entry(token).split('"')[1]
