"""client: requests to an engine that answers with bytes, whatever they are; bounds, counts, shares."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from fakes import AUTH, until
from raw_engine import MADE, PING, Say, Scripted, engine_and_client, raw_engine, reply, silence

from qmaster.engine import Endpoint
from qmaster.engine.calls import Calls, segment
from qmaster.engine.client import CHUNK, Client
from qmaster.engine.errors import NO_API, EngineBusy, EngineStopping, EngineTimeout, EngineUnreached, outcome_open
from qmaster.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    EngineAway,
    EngineRefused,
    HttpError,
    NotAManager,
    NotFound,
    TooManyCalls,
)
from qmaster.limiter import act_for
from qmaster.models.credentials import Credentials

pytestmark = pytest.mark.gen_test(timeout=8)

PATH = "/services/create"
SPEC = {"Name": "one", "Labels": {"a": "ü"}}
CREDENTIALS = Credentials.decode(AUTH).header()
SENT = json.dumps(MADE).encode()


async def post(client: Client, **headers: str) -> bytes:
    return await client.send("POST", PATH, body=SPEC, headers=headers)


async def get(client: Client) -> bytes:
    return await client.send("GET", "/services")


@pytest.fixture(autouse=True)
def _unseen() -> Iterator[None]:
    """The log of what was not understood: to show its traces takes longer than all else."""
    with structlog.testing.capture_logs():
        yield


# --- what is sent -----------------------------------------------------------------------------------------------------


async def test_a_request_has_what_it_needs_and_no_more(tmp_path: Path) -> None:
    """In the engine's newest version, with this call's own headers alone: they hold one caller's credentials."""
    async with engine_and_client(tmp_path) as (engine, client):
        assert await post(client, **{"X-Registry-Auth": CREDENTIALS}) == SENT
        assert await client.send("GET", "/tasks", {"filters": '{"service": ["s 1"]}'}) == SENT
        ping, first, second = engine.asked
        assert (ping.line, ping.body) == ("GET /_ping HTTP/1.1", b"")
        assert (first.line, json.loads(first.body)) == (f"POST /v1.41{PATH} HTTP/1.1", SPEC)
        body = {"content-type": "application/json", "content-length": str(len(first.body))}
        assert first.headers == {"host": "docker", "x-registry-auth": CREDENTIALS, **body}
        assert second.line == "GET /v1.41/tasks?filters=%7B%22service%22%3A+%5B%22s+1%22%5D%7D HTTP/1.1"
        assert second.headers == {"host": "docker"}


async def test_a_connection_is_kept(tmp_path: Path) -> None:
    """And asked but once for its version; a refusal is an answer, which ends no connection."""
    async with engine_and_client(tmp_path, reply({"message": "taken"}, 409), reply()) as (engine, client):
        with pytest.raises(Conflict, match="taken"):
            await post(client)
        for _ in range(5):
            assert await post(client) == SENT
        assert (engine.connections, len(engine.calls), len(engine.asked)) == (1, 6, 7)


async def test_a_cookie_is_not_sent_back(tmp_path: Path) -> None:
    """What stands in front of an engine may give one."""
    async with engine_and_client(tmp_path, reply(MADE, 200, "Set-Cookie: who=me")) as (engine, client):
        await get(client)
        await get(client)
        assert "cookie" not in engine.asked[-1].headers


async def test_a_proxy_of_the_environment_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor its authorities: the engine is where --docker-host says."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    async with raw_engine(tmp_path) as engine:
        server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = Client(Endpoint.read(f"tcp://127.0.0.1:{port}", {}))
        assert await get(client) == SENT
        await client.close()
        server.close()


# --- the version ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "comes", "says"),
    [
        ("1.47", "1.41", "client version 1.47 is too new. Maximum supported API version is 1.41"),
        ("1.24", "1.44", "client version 1.24 is too old. Minimum supported API version is 1.44"),
    ],
)
async def test_an_engine_that_comes_back_with_another_version_is_asked_in_that(
    tmp_path: Path, was: str, comes: str, says: str
) -> None:
    """Once more, also a POST: it was not looked at."""
    async with engine_and_client(tmp_path, reply(), reply({"message": says}, 400), reply()) as (engine, client):
        engine.ping = PING.replace(b"1.41", was.encode())
        await post(client)
        engine.ping = PING.replace(b"1.41", comes.encode())
        assert await post(client) == SENT
        assert [asked.line.split("/")[1] for asked in engine.calls] == [f"v{was}", f"v{was}", f"v{comes}"]


async def test_a_version_is_asked_for_once(tmp_path: Path) -> None:
    """An engine that contradicts itself is told of."""
    says = reply({"message": "client version 1.41 is too new"}, 400)
    async with engine_and_client(tmp_path, says) as (engine, client):
        with pytest.raises(BadRequest, match="too new"):
            await post(client)
        assert len(engine.calls) == 2


async def test_a_ping_tells_the_version(tmp_path: Path) -> None:
    """So an engine that was exchanged is known for what it is before it refuses a call."""
    async with engine_and_client(tmp_path) as (engine, client):
        await post(client)
        engine.ping = PING.replace(b"1.41", b"1.51")
        await client.ping()
        await post(client)
        assert engine.calls[-1].line.startswith("POST /v1.51/")


@pytest.mark.parametrize(
    ("ping", "kind"),
    [
        (PING.replace(b"Api-Version: 1.41\r\n", b""), EngineRefused),
        (PING.replace(b"1.41", b"1.41/../v1"), EngineRefused),
        (PING.replace(b"1.41", b"newest"), EngineRefused),
        (b"<html>\r\n\r\n", EngineRefused),
        (b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", EngineRefused),
        (reply({"message": "no such path"}, 404), EngineRefused),
        (reply({"message": "starting"}, 503), EngineBusy),
        (PING[:-1], EngineAway),
    ],
)
async def test_an_engine_that_does_not_say_its_version_is_not_asked(
    tmp_path: Path, ping: bytes, kind: type[HttpError]
) -> None:
    """Until it does. What refuses that is no engine, whatever its status."""
    async with engine_and_client(tmp_path) as (engine, client):
        engine.ping, engine.then_ends = ping, {ping}
        with pytest.raises(kind) as caught:
            await post(client)
        assert type(caught.value) is kind
        assert engine.calls == []
        engine.ping, engine.then_ends = PING, set()
        assert await post(client) == SENT


# --- answers ----------------------------------------------------------------------------------------------------------

CHUNKED = b'HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"ID"\r\n7\r\n: "s1"}\r\n0\r\n\r\n'
NO_LEADER = "rpc error: code = Unknown desc = The swarm does not have a leader."
NO_MANAGER = "This node is not a swarm manager. Worker nodes can't be used to view"
WORDS = f"the registry said {CREDENTIALS} to someone with something"


async def test_what_comes_before_an_answer_is_none(tmp_path: Path) -> None:
    """The answer is still to come."""
    async with engine_and_client(tmp_path, b"HTTP/1.1 100 Continue\r\n\r\n" + reply()) as (engine, client):
        assert [await post(client), await post(client)] == [SENT, SENT]
        assert engine.connections == 1


async def test_what_was_started_already_is_success(tmp_path: Path) -> None:
    """304, which has no body."""
    async with engine_and_client(tmp_path, b"HTTP/1.1 304 Not Modified\r\n\r\n", reply()) as (_, client):
        assert await client.send("POST", "/containers/c1/start") == b""
        assert await post(client) == SENT


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(tmp_path: Path, status: int) -> None:
    """It would lead to another name, or to another engine."""
    answer = reply(b"", status, "Location: http://docker/v1.41/there")
    async with engine_and_client(tmp_path, answer, reply()) as (engine, client):
        for send in (get, post):
            engine.answers = [answer, reply()]
            with pytest.raises(EngineRefused, match="not its API"):
                await send(client)
        assert len(engine.calls) == 2


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (400, {"message": "invalid mount"}, BadRequest),
        (404, {"message": "network x not\n found"}, NotFound),
        (409, {"message": "name in use"}, Conflict),
        (500, {"message": "oops"}, EngineRefused),
        (503, {"message": "shutting down"}, EngineBusy),
        (500, {"message": NO_LEADER}, EngineBusy),
        (503, {"message": NO_MANAGER}, NotAManager),
        (409, {"message": WORDS}, Conflict),
        (500, {"message": "x" * 999}, EngineRefused),
        (502, b"<html> no  gateway\n", EngineRefused),
        (409, b'{"message": "\xff in use"}', Conflict),
        (500, WORDS.encode(), EngineRefused),
    ],
)
async def test_a_refusal_is_told_without_the_credentials(
    tmp_path: Path, status: int, said: object, kind: type[HttpError]
) -> None:
    """An engine, or what is in front of it, may say back what it was sent."""
    async with engine_and_client(tmp_path, reply(said, status)) as (_, client):
        with pytest.raises(HttpError) as caught:
            await post(client, **{"X-Registry-Auth": CREDENTIALS})
        assert type(caught.value) is kind
        assert outcome_open(caught.value) == (status >= 500 and kind is not NotAManager)
        assert len(str(caught.value)) < 600
        assert CREDENTIALS not in str(caught.value)
        assert "something" not in str(caught.value)


@pytest.mark.parametrize("said", [b"", b" \n", {"message": ""}])
async def test_a_refusal_without_words_has_its_status(tmp_path: Path, said: object) -> None:
    """An error says something."""
    async with engine_and_client(tmp_path, reply(said, 404)) as (_, client):
        with pytest.raises(NotFound, match="404"):
            await post(client)


@pytest.mark.parametrize("body", [reply(), CHUNKED], ids=["length", "chunked"])
async def test_an_answer_that_is_cut_off_leaves_the_outcome_open(tmp_path: Path, body: bytes) -> None:
    """In its head or its body, or before it has begun. A POST is sent once; the next call is on another connection."""
    cuts = [body[:at] for at in (0, 1, 20, body.index(b"\r\n\r\n") + 2, body.index(b"\r\n\r\n") + 4, len(body) - 1)]
    async with engine_and_client(tmp_path, *cuts, reply()) as (engine, client):
        engine.then_ends = set(cuts)
        for _ in cuts:
            with pytest.raises(EngineAway, match="closed") as caught:
                await post(client)
            assert type(caught.value) is EngineAway
            assert outcome_open(caught.value)
            await until(lambda: not engine.open)
        assert await post(client) == SENT
        assert len(engine.calls) == len(cuts) + 1


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("DELETE", 2), ("POST", 1)])
async def test_what_changes_nothing_is_sent_again_where_the_connection_broke(
    tmp_path: Path, method: str, times: int
) -> None:
    """Once more: an idle connection, perhaps, that the engine had closed meanwhile."""
    async with engine_and_client(tmp_path, b"") as (engine, client):
        engine.then_ends = {b""}
        with pytest.raises(EngineAway, match="closed"):
            await client.send(method, "/services/s1")
        assert len(engine.calls) == times


async def test_a_kept_connection_that_was_ended_is_not_used(tmp_path: Path) -> None:
    """The call is sent once, on a new one."""
    async with engine_and_client(tmp_path) as (engine, client):
        await asyncio.gather(post(client), post(client))
        engine.hang_up()
        await until(lambda: not engine.open)
        assert await post(client) == SENT
        assert len(engine.calls) == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nno header\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nX: " + b"x" * 8_200 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\nX: " + b"x" * 8_200 + b"\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=lambda answer: answer[:60],
)
async def test_what_is_no_answer_is_not_understood(tmp_path: Path, answer: bytes) -> None:
    """A header over 8,190 bytes too. It is no 400 of Docker's: what was asked may have been done."""
    async with engine_and_client(tmp_path, answer, reply()) as (_, client):
        with pytest.raises(EngineRefused) as caught:
            await post(client)
        assert str(caught.value) == NO_API
        assert outcome_open(caught.value)
        assert await post(client) == SENT


# --- where nothing listens, and silence -------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [False, True])
async def test_where_nothing_listens_nothing_was_sent(tmp_path: Path, bound: bool) -> None:
    """There is no socket, or nobody is behind it."""
    path = tmp_path / "engine.sock"
    if bound:
        with socket.socket(socket.AF_UNIX) as unused:
            unused.bind(str(path))
    client = Client(Endpoint.read(f"unix://{path}", {}))
    with pytest.raises(EngineUnreached, match="nothing answers") as caught:
        await post(client)
    assert not outcome_open(caught.value)
    await client.close()


async def test_what_is_no_tls_was_sent_nothing() -> None:
    """And the error says where to look."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        client = Client(Endpoint(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        try:
            with pytest.raises(EngineUnreached, match="DOCKER_CERT_PATH"):
                await get(client)
        finally:
            await client.close()


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
        client = Client(Endpoint.read(f"unix://{path}", {}))
        with pytest.raises(EngineAway):
            await asyncio.wait_for(post(client), 5)
        await client.close()


async def test_a_frozen_engine_is_waited_for_within_the_bound(tmp_path: Path) -> None:
    """It takes connections, as the kernel does that for it, and says nothing on them: the outcome is open."""
    async with engine_and_client(tmp_path, silence, reply()) as (engine, client):
        await client.ping()
        with pytest.raises(EngineTimeout, match="in time") as caught:
            await client.bounded(post(client), 0.05, "create")
        assert outcome_open(caught.value)
        await until(lambda: not engine.open)  # the answer that may come yet is nobody's
        assert await post(client) == SENT


async def test_a_call_may_be_cancelled_at_any_moment(tmp_path: Path) -> None:
    """No connection is left behind."""

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with raw_engine(tmp_path) as engine:
        before, client = descriptors(), Client(Endpoint.read(engine.host, {}))
        for steps in range(60):
            if steps % 2:
                engine.hang_up()  # so that it begins with the connection
            calls = [asyncio.ensure_future(post(client)) for _ in range(4)]
            for _ in range(steps // 2):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert await asyncio.wait_for(get(client), 5) == SENT
        await client.close()
        await until(lambda: not engine.open and descriptors() == before)


# --- streams ----------------------------------------------------------------------------------------------------------


def endless(sent: list[int]) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
            await writer.drain()
            sent.append(0x1000)

    return say


async def test_a_stream_is_read_as_fast_as_it_is_taken(tmp_path: Path) -> None:
    """But for a bounded rest; and the silence of one that nobody takes from is not the engine's."""
    sent: list[int] = []
    async with engine_and_client(tmp_path, endless(sent)) as (engine, client):
        with await client.open("GET", "/logs", silence=0.3) as body:
            await asyncio.sleep(0.6)
            held = sum(sent)
            assert held < 2_000_000
            await asyncio.sleep(0.1)
            assert sum(sent) == held
            taken = 0
            while taken < 2 * held:
                data = await body.read()
                assert 0 < len(data) <= CHUNK
                taken += len(data)
        await until(lambda: not engine.open)


@pytest.mark.slow
async def test_a_stream_that_falls_silent_is_a_timeout(tmp_path: Path) -> None:
    """Where there is a bound for that; a read that was cancelled loses nothing."""

    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"3\r\ndef\r\n")
        await asyncio.sleep(1)

    async with engine_and_client(tmp_path, say) as (_, client):
        with await client.open("GET", "/logs", silence=0.4) as body:
            assert await body.read() == b"abc"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await body.read()
            assert await body.read() == b"def"
            with pytest.raises(EngineTimeout):
                await body.read()


# --- bounds and counts ------------------------------------------------------------------------------------------------


def calls(*answers: Any, slots: int = 2, **more: Any) -> tuple[Calls, Scripted]:
    client = Scripted(*answers)
    return Calls(client, "test", slots, **more), client


async def ask(made: Calls, within: float = 3.0, kind: str = "") -> bytes:
    return await made.call(lambda: made.client.send("GET", "/x"), within, kind)


BROKEN, REFUSED = EngineAway("closed"), EngineUnreached("nothing there")


async def test_while_the_engine_is_away_a_call_fails_at_once() -> None:
    """Nothing is sent, and nothing counted."""
    made, client = calls([])
    client.away = EngineAway("away")
    with pytest.raises(EngineUnreached, match="away"):
        await ask(made)
    assert (client.asked, client.counted) == ([], [])


@pytest.mark.parametrize("stops", [False, True])
async def test_what_waited_for_a_slot_is_not_sent_where_the_engine_goes_or_all_ends(stops: bool) -> None:
    """It is asked again when a slot is free."""
    act_for("alice")
    made, client = calls(None)
    first, second = asyncio.ensure_future(ask(made)), asyncio.ensure_future(ask(made))
    await until(lambda: client.asked)
    if stops:
        client.give_up()
        made.give_up()
    else:
        client.away = EngineAway("gone")
        first.cancel()
    with pytest.raises(EngineUnreached, match="stopping" if stops else "gone") as caught:
        await second
    assert not outcome_open(caught.value)
    assert len(client.asked) == 1
    await asyncio.wait([first])
    with pytest.raises(HttpError) if stops else pytest.raises(asyncio.CancelledError):
        first.result()


async def test_what_is_given_up_is_told_at_once_and_its_outcome_is_open() -> None:
    """It may have been done; who was cancelled is told nothing else, and it says nothing of the engine."""
    made, client = calls(None, slots=9)
    flying, left = asyncio.ensure_future(ask(made)), asyncio.ensure_future(ask(made))
    await until(lambda: len(client.asked) == 2)
    left.cancel()
    client.give_up()
    with pytest.raises(EngineTimeout, match="stopping") as told:
        await asyncio.wait_for(flying, 1)
    assert outcome_open(told.value)
    with pytest.raises(asyncio.CancelledError):
        await left
    with pytest.raises(EngineStopping, match="stopping"):
        await ask(made)
    assert (client.away, client.suspected.is_set()) == (None, False)


@pytest.mark.parametrize(
    ("answer", "outcome", "suspected", "away"),
    [
        ([], "ok", False, False),
        (Conflict("taken"), "refused", False, False),
        (EngineBusy("busy"), "refused", False, False),
        (BROKEN, "away", True, False),
        (REFUSED, "away", True, True),
        (EngineTimeout("late"), "timeout", True, False),
        (None, "timeout", True, False),
    ],
)
async def test_each_call_is_counted_and_silence_is_a_suspicion(
    answer: object, outcome: str, suspected: bool, away: bool
) -> None:
    """An answer, whatever it says, shows that the engine is there; where nothing listens, it is away."""
    made, client = calls(answer)
    with contextlib.suppress(HttpError):
        await ask(made, 0.05, "list")
    assert [call[:2] for call in client.counted] == [("list", outcome)]
    assert 0 <= client.counted[0][2] < 3
    assert (client.suspected.is_set(), client.away is not None) == (suspected, away)


async def test_a_registrys_silence_is_no_suspicion() -> None:
    """The engine waited for it; one that was not reached is away all the same."""
    made, client = calls(None, suspects=False)
    with pytest.raises(EngineTimeout):
        await ask(made, 0.05)
    assert not client.suspected.is_set()
    assert client.counted[0][:2] == ("test", "timeout")


async def test_a_call_whose_caller_leaves_is_counted_and_makes_room() -> None:
    """Its slot is free at once."""
    act_for("alice")  # who has one of the two
    made, client = calls(None, [])
    flying = asyncio.ensure_future(ask(made))
    await until(lambda: client.asked)
    flying.cancel()
    await asyncio.wait([flying])
    assert client.counted[0][1] == "cancelled"
    assert await ask(made) == b"[]"


async def test_too_many_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of an owner is bounded; it is no news of the engine."""
    monkeypatch.setattr("qmaster.limiter.MAX_QUEUED", 1)
    act_for("alice")
    made, client = calls(None)
    waiting = [asyncio.ensure_future(ask(made)) for _ in range(2)]
    await until(lambda: client.asked)
    with pytest.raises(TooManyCalls, match="this token"):
        await ask(made)
    assert not client.suspected.is_set()
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)


# --- list, inspect, change, create ------------------------------------------------------------------------------------


async def unfound() -> str | None:
    raise AssertionError("looked")


async def test_a_thing_that_is_not_there_is_none() -> None:
    """404 is an answer to an inspection, and success for a removal."""
    made, _ = calls(NotFound("no such"))
    assert await made.inspect("/services/x") is None
    await made.remove("DELETE", "/services/x")


@pytest.mark.parametrize(
    "error",
    [BadRequest("service a is ambiguous (2 matches found)"), EngineRefused("Multiple IDs found with provided prefix")],
)
async def test_the_beginning_of_several_ids_is_nobody(error: HttpError) -> None:
    """Docker refuses to choose, where it is asked for a part of an id; other refusals are told."""
    assert await calls(error)[0].inspect("/services/a") is None
    with pytest.raises(type(error)):
        await calls(type(error)("no"))[0].inspect("/services/a")


@pytest.mark.parametrize("answer", [[], "text", None, b"<html>", b"{", b'"\xff"', b"[" * 10_000])
async def test_what_is_no_json_object_is_not_understood(answer: object) -> None:
    """Whatever answers there is no engine."""
    said = b"null" if answer is None else answer
    with pytest.raises(EngineRefused) as caught:
        await calls(said)[0].inspect("/services/a")
    assert str(caught.value) == NO_API


@pytest.mark.parametrize(
    ("answers", "method", "times", "error"),
    [
        ([BROKEN, []], "POST", 2, None),
        ([BROKEN, BROKEN, []], "POST", 2, EngineAway),
        ([BROKEN, []], "DELETE", 1, EngineAway),
        ([EngineTimeout("late"), []], "POST", 1, EngineTimeout),
        ([REFUSED, []], "POST", 1, EngineUnreached),
        ([EngineRefused("oops"), []], "POST", 1, EngineRefused),
    ],
)
async def test_a_change_is_sent_again_only_where_that_is_safe(
    answers: list[Any], method: str, times: int, error: type[HttpError] | None
) -> None:
    """Once more, where the connection broke; all but a POST aiohttp has sent again already."""
    made, client = calls(*answers)
    with pytest.raises(error) if error else contextlib.nullcontext():
        await made.change(method, "/services/s1/update", {}, version="7")
    assert len(client.asked) == times


@pytest.mark.parametrize("answer", [{"ID": "s1", "Warnings": None}, {"Id": "s1"}])
async def test_what_was_created_is_known_by_its_id(answer: Any) -> None:
    """A service's and a container's are spelled differently."""
    made, client = calls(answer)
    assert await made.create("/containers/create", SPEC, unfound, {"X-Registry-Auth": "x"}, name="one") == "s1"
    assert client.asked == [("POST", "/containers/create", {"name": "one"}, SPEC, {"X-Registry-Auth": "x"})]


@pytest.mark.parametrize(
    "answer", [BROKEN, EngineTimeout("late"), EngineRefused("oops"), [], "s1", {}, {"ID": None}, {"ID": 1}]
)
async def test_a_lost_answer_is_looked_for(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creation is sent once; what it made is adopted, and where it made nothing the error is told."""
    monkeypatch.setattr("qmaster.engine.calls.LOOK_AGAIN", (0.0, 0.0))
    for found in ("s1", None):
        made, client = calls(answer, "twice")
        looked: list[int] = []

        async def find(found: str | None = found, looked: list[int] = looked) -> str | None:
            looked.append(1)
            return found

        with contextlib.nullcontext() if found else pytest.raises(HttpError) as caught:
            assert await made.create(PATH, SPEC, find) == found
        if caught is not None:
            assert str(caught.value) == (str(answer) if isinstance(answer, Exception) else NO_API)
        assert (len(client.asked), len(looked)) == (1, 1 if found else 2)


@pytest.mark.parametrize("answer", [Conflict("taken"), BadRequest("bad"), REFUSED])
async def test_a_clear_answer_is_not_looked_behind(answer: HttpError) -> None:
    """Docker said no, or was never reached: nothing was made."""
    with pytest.raises(type(answer)):
        await calls(answer)[0].create(PATH, SPEC, unfound)


async def test_a_creation_that_was_never_sent_is_not_looked_for() -> None:
    """While the engine is known to be away the caller is told at once."""
    made, client = calls({"ID": "s1"})
    client.away = EngineAway("away")
    with pytest.raises(EngineAway, match="away"):
        await made.create(PATH, SPEC, unfound)


async def test_an_engine_that_restarts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was lost as it went down: what was made is found when it is up again."""
    monkeypatch.setattr("qmaster.engine.calls.LOOK_AWAY_EVERY", 0.0)
    found: Iterator[Any] = iter([EngineAway("away"), EngineAway("away"), "id"])

    async def find() -> str | None:
        value = next(found)
        if isinstance(value, Exception):
            raise value
        return str(value)

    assert await calls(BROKEN)[0].create(PATH, SPEC, find) == "id"


@pytest.mark.parametrize(
    ("name", "part"), [("web", "web"), ("a b", "a%20b"), ("ü", "%C3%BC"), ("a?b", "a%3Fb"), ("x..y", "x..y"),
                       ("a/b", None), ("/", None), ("..", None), (".", None), ("", None)],
)  # fmt: skip
def test_a_name_with_a_slash_is_nobodys(name: str, part: str | None) -> None:
    """Docker redirects to what it takes the path for, which is another one's."""
    assert segment(name) == part


# --- where the engine is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["", "unix:///run/docker.sock", "tcp://127.0.0.1:2375", "ssh://root@machine", "ssh://a@b:22/run/user/1/d.sock"],
)
def test_an_address_is_read_as_docker_reads_it(host: str) -> None:
    """None connects before the first call."""
    assert Endpoint.read(host, {}) == Endpoint(host or None, None)


@pytest.mark.parametrize(
    "host", ["nonsense://x", "tcp://", "tcp://x:port", "unix", "/run/x.sock", "ssh://", "ssh://x:y"]
)
def test_a_wrong_address_is_named(host: str) -> None:
    """At the start, with the flag."""
    with pytest.raises(ConfigError, match=r"^--docker-host: "):
        Endpoint.read(host, {})


def test_tls_is_for_tcp(tmp_path: Path) -> None:
    """As docker does: DOCKER_TLS_VERIFY with a socket changes nothing; with tcp it wants the certificates."""
    environ = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    assert Endpoint.read("unix:///run/docker.sock", environ).tls is None
    with pytest.raises(ConfigError, match=r"^--docker-host: "):
        Endpoint.read("tcp://127.0.0.1:2376", environ)
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (tmp_path / name).touch()
    endpoint = Endpoint.read("tcp://127.0.0.1:2376", environ)
    assert endpoint.tls is not None
    assert (endpoint.tls.verify, endpoint.tls.ca_cert) == (True, str(tmp_path / "ca.pem"))
    assert endpoint.url == "https://127.0.0.1:2376"


async def test_what_is_closed_leaves_nothing_open(tmp_path: Path) -> None:
    """Whatever became of its calls."""
    last, cut = reply(MADE, 201, "Connection: close"), reply()[:-1]

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with raw_engine(tmp_path, *[reply(), last, cut, b"?\r\n\r\n", reply(MADE, 409)] * 60, reply()) as engine:
        engine.then_ends = {last, cut}
        before, client = descriptors(), Client(Endpoint.read(engine.host, {}))
        for _ in range(20):
            await asyncio.gather(*(post(client) for _ in range(15)), return_exceptions=True)
        assert len(engine.calls) == 300
        await client.close()
        await until(lambda: not engine.open and descriptors() == before)
