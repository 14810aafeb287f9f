"""invoke: `POST /functions/{name}/invoke`, over functions of the test's own."""

import asyncio
import contextlib
import json
import uuid
from typing import Any

import pytest
from api_cases import Raw, connection, head
from call_cases import Ask, FakeDispatcher, Served, answer, app, ask, bearer, calls_app, dispatcher, document, served
from call_cases import streamed as streamed_answer
from fakes import until
from structlog.testing import capture_logs
from testbed.wait import BUSY
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from qmaster import errors
from qmaster.api.calls import raw as raw_module
from qmaster.api.calls.bodies import MAX_BODIES, BodyLimiter
from qmaster.functions.invocations.invocation import MAX_PAYLOAD, Answer, Call, Chunks

__all__ = ["app", "ask", "calls_app", "dispatcher", "served"]

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("http_server")]

INVOKE = "/functions/hello/invoke"
MIB = 1024 * 1024


async def test_a_body_is_the_input_and_the_answer_the_output(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """Raw bytes in both directions, with the content type of the function and where it ran."""
    dispatcher.answers = lambda call: answer(b"\x00\xff!", "image/png", cold=True)
    got = await ask(INVOKE, b"\xff\x00?")
    assert (got.code, got.body, got.headers["Content-Type"]) == (200, b"\x00\xff!", "image/png")
    assert dispatcher.last.payload == b"\xff\x00?"
    assert (dispatcher.last.owner, dispatcher.last.streams) == ("root", True)
    told = {name: got.headers[f"Qmaster-{name}"] for name in ("Instance", "Version", "Duration-Ms", "Cold")}
    assert told == {"Instance": "s1", "Version": "3", "Duration-Ms": "1.25", "Cold": "true"}


async def test_a_call_is_one_line_of_the_log(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """The request's own, with the version, the instance, and whether it was started for the call."""
    dispatcher.answers = lambda call: answer(b"{}", cold=True)
    with capture_logs() as lines:
        await ask(INVOKE)
    (line,) = [line for line in lines if line.get("function")]
    told = {"event": "request", "function": "hello", "version": 3, "instance": "s1", "cold": True}
    assert told.items() <= line.items()


async def test_an_empty_body_is_an_empty_object(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """The Python client fails on an empty one."""
    assert (await ask(INVOKE)).code == 200
    assert dispatcher.last.payload == b"{}"


async def test_the_id_is_the_invocations_own(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """A fresh UUID, whatever the caller sends."""
    got = await ask(INVOKE, headers={**bearer(), "X-Request-ID": "mine"})
    assert got.headers["X-Request-ID"] == dispatcher.last.id == str(uuid.UUID(dispatcher.last.id))


FAILURES = [
    (
        errors.FunctionFailed("ValueError", "no", ["line 1"]),
        502,
        {"reason": "function_error", "error_type": "ValueError", "error_message": "no", "stack": ["line 1"]},
    ),
    (errors.InstanceDied("it died", 137, ["bye"]), 502, {"reason": "instance_died", "exit_code": 137}),
    (errors.CallTimedOut("too slow"), 504, {"reason": "timeout"}),
    (errors.CannotStart("no such image", "image_not_found"), 502, {"reason": "image_not_found"}),
    (errors.CannotStart("no room", "unschedulable"), 503, {"reason": "unschedulable"}),
    (errors.NoInstance("waited"), 503, {"reason": "no_instance"}),
    (errors.QueueFull("full", 2.5), 429, {"reason": "queue_full"}),
]


@pytest.mark.parametrize(("error", "status", "members"), FAILURES, ids=[type(each[0]).__name__ for each in FAILURES])
async def test_a_failure_has_its_status_and_reason(
    ask: Ask, dispatcher: FakeDispatcher, error: errors.HttpError, status: int, members: dict[str, object]
) -> None:
    """In the one shape of errors, with members of its own."""
    dispatcher.fails(error)
    got = await ask(INVOKE)
    assert (got.code, got.headers["Content-Type"]) == (status, "application/problem+json")
    assert members.items() <= document(got).items()
    assert document(got)["instance"] == dispatcher.last.id
    assert got.headers.get("Retry-After") == {"queue_full": "3", "no_instance": "1"}.get(
        str(members["reason"]), got.headers.get("Retry-After")
    )


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, INVOKE, 401),
        (bearer("nobody"), INVOKE, 401),
        (bearer("reader"), INVOKE, 403),
        (bearer("eve"), INVOKE, 404),
        (bearer(), "/functions/none/invoke", 404),
        (bearer(), f"{INVOKE}?x=1", 400),
        (bearer(), f"{INVOKE}?token=x", 400),
        ({**bearer(), "Content-Encoding": "gzip"}, INVOKE, 400),
        ({**bearer(), "Content-Length": str(MAX_PAYLOAD + 1), "Expect": "100-continue"}, INVOKE, 413),
        ({**bearer(), "Content-Length": str(raw_module.MAX_DROPPED + 1)}, INVOKE, 413),
        ({**bearer(), "Content-Length": "9" * 30}, INVOKE, 413),
    ],
)
async def test_what_is_refused_is_refused_before_its_body(
    http_port: int, dispatcher: FakeDispatcher, headers: dict[str, str], path: str, status: int
) -> None:
    """The body is never sent here, and the answer comes all the same; the connection closes."""
    lines = [f"{name}: {value}" for name, value in {"Content-Length": "1000", **headers}.items()]
    async with connection(http_port) as raw:
        raw.send("\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]))
        code, told, _ = await raw.answer()
        assert (code, told["Connection"]) == (status, "close")
        assert await raw.reader.read() == b""
    assert dispatcher.calls == []


async def test_a_token_in_the_body_is_input(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """The body is the function's; a token comes in a header only."""
    body = json.dumps({"token": "a-token-for-tests"}).encode()
    assert (await ask(INVOKE, body, {})).code == 401
    assert (await ask(INVOKE, body)).code == 200
    assert dispatcher.last.payload == body


async def test_the_largest_body_and_answer_go_through(ask: Ask, dispatcher: FakeDispatcher, served: Served) -> None:
    """6 MiB each; both are given back."""
    dispatcher.answers = lambda call: answer(call.payload)
    got = await ask(INVOKE, b"x" * MAX_PAYLOAD)
    assert (got.code, len(got.body), dispatcher.last.payload) == (200, MAX_PAYLOAD, b"x" * MAX_PAYLOAD)
    await until(lambda: not served.busy)
    assert served.unsent.of("root") == 0


async def send_chunks(raw: Raw, size: int, count: int) -> None:
    for _ in range(count):
        raw.send(f"{size:x}\r\n", b"x" * size, "\r\n")
        await raw.writer.drain()


async def test_a_chunked_body_is_counted_as_it_comes(http_port: int, dispatcher: FakeDispatcher) -> None:
    """413 if it is too large, at its end or as soon as it is much too large; one that fits is whole."""
    async with connection(http_port) as raw:
        raw.send(head("Transfer-Encoding: chunked", path=INVOKE))
        await send_chunks(raw, MIB, 6)
        raw.send("0\r\n\r\n")
        assert (await raw.answer())[0] == 200
        assert len(dispatcher.last.payload) == MAX_PAYLOAD
        raw.send(head("Transfer-Encoding: chunked", path=INVOKE))
        await send_chunks(raw, MIB, 6)
        raw.send("1\r\nx\r\n0\r\n\r\n")
        code, told, problem = await raw.answer()
        assert (code, problem["code"], told["Connection"]) == (413, 413, "close")
    async with connection(http_port) as raw:
        raw.send(head("Transfer-Encoding: chunked", path=INVOKE))
        with contextlib.suppress(ConnectionError):
            await send_chunks(raw, MIB, raw_module.MAX_DROPPED // MIB + 1)
        assert (await raw.answer())[0] == 413
    assert len(dispatcher.calls) == 1


async def test_too_large_a_body_is_read_before_it_is_refused(http_port: int, dispatcher: FakeDispatcher) -> None:
    """Many clients read no answer before they have sent all of it; its room is free at once."""
    size = MAX_PAYLOAD + 3 * MIB
    async with connection(http_port) as raw:
        raw.send(head(f"Content-Length: {size}", path=INVOKE))
        for _ in range(size // MIB):
            raw.send(b"x" * MIB)
            await raw.writer.drain()
        assert (await raw.answer())[0] == 413
    assert dispatcher.calls == []


async def test_one_tokens_bodies_leave_room_for_another(ask: Ask, base_url: str, served: Served) -> None:
    """The room is free again once its calls have ended."""
    served.dispatcher.gate = asyncio.Event()
    body, most = b"x" * MAX_PAYLOAD, MAX_BODIES // MAX_PAYLOAD // 2
    waiting = post_all(base_url, most, body)
    await until(lambda: len(served.dispatcher.calls) == most)
    refused = await ask(INVOKE, body, bearer("alice"))
    assert (refused.code, refused.headers["Retry-After"]) == (429, "5")
    served.dispatcher.gate.set()
    assert (await ask(INVOKE, body)).code == 200
    assert {(await each).code for each in waiting} == {200}
    assert (await ask(INVOKE, body, bearer("alice"))).code == 200


def post_all(base_url: str, count: int, body: bytes = b"") -> list[asyncio.Future[HTTPResponse]]:
    """So many calls of alice's at once."""
    client = AsyncHTTPClient(force_instance=True, max_clients=count)
    how: Any = {"method": "POST", "body": body, "headers": bearer("alice"), "request_timeout": 20 * BUSY}
    calls = [client.fetch(base_url + INVOKE, **how) for _ in range(count)]
    asyncio.gather(*calls).add_done_callback(lambda _: client.close())
    return [asyncio.ensure_future(call) for call in calls]


def test_an_owner_gets_more_only_while_it_holds_less_than_is_free() -> None:
    """Half for one owner, a quarter for the next, and nothing is lost when it is given back."""
    limiter = BodyLimiter(100)
    leases = {}
    for owner, most in (("a", 50), ("b", 25), ("c", 13)):
        lease = leases[owner] = limiter.lease(owner)
        for size in range(most + 1):
            lease.grow_to(size)
        with pytest.raises(errors.TooManyBodies):
            lease.grow_to(most + 1)
    leases["a"].release()
    leases["a"].release()
    limiter.lease("d").grow_to(30)
    for lease in leases.values():
        lease.release()
    assert limiter._held.total() == 30


async def test_a_slow_sender_is_cut(http_port: int, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its room is free again."""
    monkeypatch.setattr(raw_module, "BODY_WITHIN", 0.3)
    async with connection(http_port) as raw:
        raw.send(head("Content-Length: 10", path=INVOKE), "slow")
        assert await raw.reader.read() == b""
    await until(lambda: not served.busy)
    assert served.dispatcher.calls == []


async def test_who_leaves_while_sending_holds_nothing(http_port: int, ask: Ask, served: Served) -> None:
    """Neither a slot nor room."""
    async with connection(http_port) as raw:
        raw.send(head("Content-Length: 10", path=INVOKE), "slow")
        await until(lambda: served.busy)
    await until(lambda: not served.busy)
    assert served.dispatcher.calls == []


async def test_the_dispatcher_is_told_of_a_caller_that_leaves(http_port: int, served: Served) -> None:
    """And a call that has been handed over goes on."""
    served.dispatcher.gate = asyncio.Event()
    async with connection(http_port) as raw:
        raw.send(head("Content-Length: 2", path=INVOKE), "{}")
        await until(lambda: served.dispatcher.left)
        (left,) = served.dispatcher.left
        assert not left.done()
    await left
    assert served.busy
    served.dispatcher.gate.set()
    await until(lambda: not served.busy)


@pytest.mark.slow
async def test_one_tokens_calls_leave_slots_for_others(ask: Ask, base_url: str, served: Served) -> None:
    """A share each of the calls that wait, as of all that lasts."""
    served.dispatcher.gate = asyncio.Event()
    share = 2048 // 4
    waiting = post_all(base_url, share)
    await until(lambda: len(served.dispatcher.calls) == share)
    refused = await ask(INVOKE, headers=bearer("alice"))
    assert (refused.code, "too many open calls of functions of this token" in document(refused)["error"]) == (429, True)
    served.dispatcher.gate.set()
    assert (await ask(INVOKE)).code == 200
    assert {(await each).code for each in waiting} == {200}
    assert (await ask(INVOKE, headers=bearer("alice"))).code == 200


# --- streamed answers -------------------------------------------------------------------------------------------------


async def test_a_streamed_answer_comes_as_it_is_made(http_port: int, dispatcher: FakeDispatcher) -> None:
    """Each part before the next is there; the last chunk ends it."""
    chunks = Chunks()
    dispatcher.answers = lambda call: answer(b"", "text/event-stream", chunks=chunks)
    async with connection(http_port) as raw:
        raw.send(head("Content-Length: 0", path=INVOKE))
        await until(lambda: dispatcher.calls)
        for part in (b"one", b"two"):
            await chunks.put(part)
            assert (await raw.reader.readuntil(part)).endswith(part)
        chunks.end()
        assert await raw.reader.readuntil(b"0\r\n\r\n") == b"\r\n0\r\n\r\n"
        raw.send(head("Content-Length: 0", path="/functions/none/invoke"))
        assert (await raw.answer())[0] == 404


async def test_a_stream_that_fails_is_cut(http_port: int, dispatcher: FakeDispatcher, served: Served) -> None:
    """It ends without its last chunk, so that nobody takes it for complete."""
    dispatcher.answers = lambda call: streamed_answer(b"half", error=errors.InstanceDied("it died"))
    async with connection(http_port) as raw:
        raw.send(head("Content-Length: 0", path=INVOKE))
        everything = await raw.reader.read()
    assert b"half" in everything
    assert b"0\r\n\r\n" not in everything
    await until(lambda: not served.busy)


async def test_a_stream_that_fails_at_once_is_an_error(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """As nothing was sent yet."""
    dispatcher.answers = lambda call: streamed_answer(error=errors.InstanceDied("it died"))
    got = await ask(INVOKE)
    assert (got.code, document(got)["reason"]) == (502, "instance_died")


async def test_a_streams_reader_sets_the_pace(http_port: int, dispatcher: FakeDispatcher, served: Served) -> None:
    """What is not read is not taken from the function; one that leaves ends the stream."""
    chunks = Chunks()
    dispatcher.answers = lambda call: answer(b"", "text/plain", chunks=chunks)
    async with connection(http_port) as raw:
        raw.send(head("Content-Length: 0", path=INVOKE))
        taken = 0

        async def pour() -> None:
            nonlocal taken
            while not chunks._over:
                await chunks.put(b"x" * 65536)
                taken += 65536

        pouring = asyncio.create_task(pour())
        before = -1
        while before != taken:
            before = taken
            await asyncio.sleep(0.3)
        assert taken < 32 * MIB
    await until(lambda: not served.busy)
    await pouring
    assert served.unsent.of("root") == 0


async def test_unread_answers_bound_the_next_calls(http_port: int, ask: Ask, served: Served) -> None:
    """A token with unread answers gets 429 before its function is called; another token does not."""
    with served.unsent.hold("alice", 17 * MIB):
        refused = await ask(INVOKE, headers=bearer("alice"))
        assert (refused.code, served.dispatcher.calls) == (429, [])
        assert (await ask(INVOKE)).code == 200
    assert (await ask(INVOKE, headers=bearer("alice"))).code == 200


async def test_a_stream_that_may_not_be_sent_is_left(ask: Ask, served: Served, dispatcher: FakeDispatcher) -> None:
    """Its instance would wait for a reader until the end of the call's time."""
    given = streamed_answer(b"part")
    holding = contextlib.ExitStack()

    def stream(call: Call) -> Answer:
        holding.enter_context(served.unsent.hold("root", raw_module.MAX_UNREAD + 1))
        return given

    dispatcher.answers = stream
    with holding:
        assert (await ask(INVOKE)).code == 429
    assert given.chunks is not None
    assert [part async for part in given.chunks] == []


async def test_a_body_is_counted_while_its_answer_is_sent(http_port: int, served: Served) -> None:
    """It is in memory until then: a client that does not read its answers has no more than its share."""
    served.dispatcher.answers = lambda call: answer(bytes(40 * MIB))
    async with connection(http_port) as raw:
        raw.send(head(f"Content-Length: {MIB}", path=INVOKE), bytes(MIB))
        await until(lambda: served.unsent.of("root") > 0)
        (handler,) = served.busy
        assert isinstance(handler, raw_module.CallHandler)
        bodies = handler.calls.bodies
        assert bodies.of("root") == MIB
    await until(lambda: not served.busy)
    assert bodies.of("root") == 0


async def test_requests_are_counted_by_route(ask: Ask, served: Served) -> None:
    """Not by name."""
    await ask(INVOKE)
    assert served.counted == [("/functions/{id}/invoke", "POST", 200)]
