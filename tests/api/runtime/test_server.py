"""runtime: what a Lambda client needs, on raw sockets; and what one without a secret, or with another's, cannot do."""

import asyncio
import json
import socket
from typing import Any

import aiohttp
import pytest
from function_cases import version
from runtime_cases import GO, PYTHON, Client, Site, site
from tornado.netutil import bind_sockets

from qmaster.api.runtime import connections as runtime_connections
from qmaster.api.runtime import server as runtime
from qmaster.errors import CannotStart, FunctionFailed, InstanceDied
from qmaster.functions.instances.instance import Instance
from qmaster.functions.invocations.invocation import MAX_PAYLOAD

__all__ = ["site"]


@pytest.mark.gen_test
async def test_a_loop_like_that_of_a_client(site: Site) -> None:
    """Ask, answer, ask: on one connection, with the headers that clients need."""
    called = version(number=7, timeout=30)
    instance, calling = await site.started(called, payload=b'{"a": 1}', client_context='{"custom": "\u00e9"}')
    client = await site.client(instance)
    got = await client.ask()
    assert (got.status, got.body) == (200, b'{"a": 1}')
    assert got.headers["lambda-runtime-aws-request-id"]
    assert int(got.headers["lambda-runtime-deadline-ms"]) > 1_600_000_000_000
    assert got.headers["lambda-runtime-invoked-function-arn"] == "arn:aws:lambda:local:000000000000:function:hello:7"
    assert got.headers["lambda-runtime-trace-id"].startswith("Root=1-")
    assert json.loads(got.headers["lambda-runtime-client-context"]) == {"custom": "\u00e9"}
    call_id = got.headers["lambda-runtime-aws-request-id"]
    reply = await client.post(f"invocation/{call_id}/response", b'{"b": 2}', Content_Type="application/json")
    assert reply.status == 202
    answer = await calling
    assert (answer.body, answer.content_type) == (b'{"b": 2}', "application/json")
    warm = site.stage.invoke(called, b"2")
    assert (await client.ask()).body == b"2"
    warm.cancel()


@pytest.mark.gen_test
async def test_a_content_type_that_is_too_long_is_dropped(site: Site) -> None:
    """It is kept with the answer of an asynchronous call, where only the bytes of the body count."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = (await client.ask()).headers["lambda-runtime-aws-request-id"]
    await client.post(f"invocation/{call_id}/response", b"1", Content_Type="text/" + "x" * 100_000)
    answer = await calling
    assert (answer.body, answer.content_type) == (b"1", "")


@pytest.mark.gen_test
async def test_calls_of_an_http_client_with_keep_alive(site: Site) -> None:
    """A hundred calls through three instances: each gets its own answer."""
    called = version(max_instances=3)
    calls = [site.stage.invoke(called, str(number).encode()) for number in range(100)]

    async def loop(instance: Instance) -> None:
        headers = {"Host": f"{instance.secret}.qm.internal:{site.port}", "User-Agent": PYTHON}
        base = f"http://127.0.0.1:{site.port}/2018-06-01/runtime/invocation"
        async with aiohttp.ClientSession(headers=headers) as session:
            while True:
                async with session.get(f"{base}/next") as got:
                    call_id, payload = got.headers["Lambda-Runtime-Aws-Request-Id"], await got.read()
                async with session.post(f"{base}/{call_id}/response", data=b"re: " + payload) as posted:
                    assert posted.status == 202

    loops = [asyncio.create_task(loop(await site.stage.instance(number))) for number in (1, 2, 3)]
    answers = [(await each).body for each in calls]
    assert answers == [b"re: %d" % number for number in range(100)]
    for each in loops:
        each.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


@pytest.mark.parametrize(
    ("document", "stack"),
    [
        ({"errorMessage": "no", "errorType": "ValueError", "stackTrace": ["  File x\n"]}, ["  File x\n"]),
        ({"errorMessage": "no", "errorType": "ValueError", "trace": ["Error: no", "at x"]}, ["Error: no", "at x"]),
        ({"errorMessage": "no", "errorType": "ValueError", "stackTrace": [{"line": 1}]}, ['{"line": 1}']),
        ({"errorMessage": "no", "errorType": "ValueError"}, []),
    ],
)
@pytest.mark.gen_test
async def test_an_error_of_the_function_is_the_caller_s(site: Site, document: dict[str, Any], stack: list[str]) -> None:
    """As Python's, Node's and Go's clients send it."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = await client.next_id()
    assert (await client.post(f"invocation/{call_id}/error", json.dumps(document).encode())).status == 202
    with pytest.raises(FunctionFailed) as failed:
        await calling
    assert (failed.value.error_type, failed.value.error_message, failed.value.stack) == ("ValueError", "no", stack)
    assert json.loads(failed.value.document) == document


@pytest.mark.gen_test
async def test_an_error_that_is_no_json_is_told_all_the_same(site: Site) -> None:
    """With the type of the header."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = await client.next_id()
    await client.post(f"invocation/{call_id}/error", b"oh no", Lambda_Runtime_Function_Error_Type="Runtime.Odd")
    with pytest.raises(FunctionFailed) as failed:
        await calling
    assert (failed.value.error_type, failed.value.error_message) == ("Runtime.Odd", "oh no")


@pytest.mark.gen_test
async def test_a_header_with_a_long_stack_is_taken(site: Site) -> None:
    """Python sends one of 77 KB after a RecursionError."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = await client.next_id()
    cause = "x" * 80_000
    reply = await client.post(f"invocation/{call_id}/error", b"{}", Lambda_Runtime_Function_XRay_Error_Cause=cause)
    assert reply.status == 202
    with pytest.raises(FunctionFailed):
        await calling


@pytest.mark.gen_test
async def test_an_init_error_fails_the_start(site: Site) -> None:
    """With the words of the function."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    document = {"errorMessage": "Unable to import module 'app'", "errorType": "Runtime.ImportModuleError"}
    assert (await client.post("init/error", json.dumps(document).encode())).status == 202
    with pytest.raises(CannotStart, match="Unable to import module 'app'"):
        await calling


@pytest.mark.gen_test
async def test_an_unknown_call_is_answered_like_any_other(site: Site) -> None:
    """Clients end on anything but 202: one that was busy across a restart answers a call that nobody knows."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    for what in ("response", "error"):
        assert (await client.post(f"invocation/of-yesterday/{what}", b"{}")).status == 202
    call_id = await client.next_id()
    await client.post(f"invocation/{call_id}/response", b"1")
    assert (await client.post(f"invocation/{call_id}/response", b"2")).status == 202  # a second answer is dropped
    assert (await calling).body == b"1"


@pytest.mark.gen_test
async def test_another_instance_cannot_answer(site: Site) -> None:
    """A call is answered by the instance that has it; the other one hears 202, and nothing happens."""
    first, calling = await site.started(version())
    one = await site.client(first)
    call_id = await one.next_id()
    second, other = await site.started(version("other"))
    two = await site.client(second)
    assert (await two.post(f"invocation/{call_id}/response", b"forged")).status == 202
    assert (await two.post(f"invocation/{call_id}/error", b"{}")).status == 202
    assert not calling.done()
    await one.post(f"invocation/{call_id}/response", b"true")
    assert (await calling).body == b"true"
    other.cancel()


# -- the end


@pytest.mark.gen_test
async def test_an_instance_that_is_to_end_is_told_410(site: Site) -> None:
    """And its secret is nobody's from then on."""
    called = site.stage.versions.publish(version(idle=0.2))
    instance, calling = await site.started(called)
    client = await site.client(instance)
    call_id = await client.next_id()
    await client.post(f"invocation/{call_id}/response", b"")
    await calling
    assert (await client.ask()).status == 410
    late = await site.client(instance)
    assert (await late.ask()).status == 404
    assert await late.is_closed()


@pytest.mark.gen_test
async def test_a_closed_connection_is_the_end_of_the_call(site: Site) -> None:
    """For a client that keeps its connection: the caller hears it, and nothing is tried again."""
    instance, calling = await site.started(version())
    client = await site.client(instance, PYTHON)
    await client.next_id()
    client.close()
    with pytest.raises(InstanceDied):
        await calling
    assert len(site.stage.launcher.started) == 1


@pytest.mark.gen_test
async def test_a_client_that_answers_on_another_connection_may(site: Site) -> None:
    """Go closes an idle connection, and posts its answer on a new one."""
    instance, calling = await site.started(version())
    client = await site.client(instance, GO)
    call_id = await client.next_id()
    client.close()
    await client.writer.wait_closed()
    await asyncio.sleep(0.1)
    another = await site.client(instance, GO)
    assert (await another.post(f"invocation/{call_id}/response", b"late")).status == 202
    assert (await calling).body == b"late"


@pytest.mark.gen_test
async def test_a_question_whose_connection_closed_gets_no_call(site: Site) -> None:
    """The call goes to the one that asks."""
    called = version(max_instances=1)
    instance, calling = await site.started(called)
    client = await site.client(instance)
    call_id = await client.next_id()
    await client.post(f"invocation/{call_id}/response", b"")
    await calling
    await client.send("GET", "/2018-06-01/runtime/invocation/next")
    async with asyncio.timeout(20):
        while not instance.polls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        client.close()
        while instance.polls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    calling = site.stage.invoke(called)
    again = await site.client(instance)
    call_id = await again.next_id()
    await again.post(f"invocation/{call_id}/response", b"here")
    assert (await calling).body == b"here"


@pytest.mark.gen_test
async def test_an_answer_that_is_cut_is_lost(site: Site) -> None:
    """Whatever client sent it."""
    instance, calling = await site.started(version())
    client = await site.client(instance, GO)
    call_id = await client.next_id()
    path = f"/2018-06-01/runtime/invocation/{call_id}/response"
    await client.send("POST", path, None, Content_Length="100")
    client.writer.write(b"half")
    await client.writer.drain()
    client.close()
    with pytest.raises(InstanceDied):
        await calling


# -- large and streamed answers


@pytest.mark.gen_test
async def test_an_answer_over_the_limit_fails_the_call_and_the_instance_stays(site: Site) -> None:
    """202 all the same, and the next call is served."""
    called = version()
    instance, calling = await site.started(called)
    client = await site.client(instance)
    call_id = await client.next_id()
    assert (await client.post(f"invocation/{call_id}/response", bytes(MAX_PAYLOAD + 1))).status == 202
    with pytest.raises(FunctionFailed, match="6291456") as failed:
        await calling
    assert failed.value.error_type == "Function.ResponseSizeTooLarge"
    calling = site.stage.invoke(called)
    call_id = await client.next_id()
    await client.post(f"invocation/{call_id}/response", bytes(MAX_PAYLOAD))
    assert len((await calling).body) == MAX_PAYLOAD


async def _chunk(client: Client, data: bytes) -> None:
    client.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await client.writer.drain()


async def _begin_stream(client: Client, call_id: str) -> None:
    path = f"/2018-06-01/runtime/invocation/{call_id}/response"
    headers = {"Transfer_Encoding": "chunked", "Lambda_Runtime_Function_Response_Mode": "streaming"}
    await client.send("POST", path, None, Content_Type="text/plain", **headers)


@pytest.mark.gen_test
async def test_a_streamed_answer_is_passed_on_as_it_comes(site: Site) -> None:
    """Each part before the next is sent."""
    instance, calling = await site.started(version(), streams=True)
    client = await site.client(instance)
    await _begin_stream(client, await client.next_id())
    answer = await calling
    assert (answer.content_type, answer.body) == ("text/plain", b"")
    for part in (b"one", b"two"):
        await _chunk(client, part)
        assert await anext(answer.chunks) == part
    await _chunk(client, b"")
    assert [part async for part in answer.chunks] == []
    assert (await client.receive()).status == 202


@pytest.mark.gen_test
async def test_a_stream_goes_at_its_reader_s_pace(site: Site) -> None:
    """What nobody reads stays at the instance."""
    instance, calling = await site.started(version(), streams=True)
    client = await site.client(instance)
    await _begin_stream(client, await client.next_id())
    answer = await calling

    async def write() -> None:
        for _ in range(512):
            await _chunk(client, bytes(64 * 1024))
        await _chunk(client, b"")

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.5)
    assert not writing.done()
    size = 0
    async for part in answer.chunks:
        size += len(part)
    assert size == 32 * 1024 * 1024
    await writing


@pytest.mark.gen_test
async def test_a_streamed_answer_is_collected_for_a_caller_that_wants_it_whole(site: Site) -> None:
    """With the limit of any other answer."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    await _begin_stream(client, await client.next_id())
    for part in (b"one", b"two", b""):
        await _chunk(client, part)
    answer = await calling
    assert (answer.body, answer.chunks) == (b"onetwo", None)


# -- extensions


@pytest.mark.gen_test
async def test_an_extension_registers_and_hears_of_the_end(site: Site) -> None:
    """So that images with extensions start, and end."""
    called = site.stage.versions.publish(version(idle=0.3, command=["app.handler"]))
    instance, calling = await site.started(called)
    extension = await site.client(instance, "extension")
    await extension.send("POST", "/2020-01-01/extension/register", b'{"events": ["INVOKE", "SHUTDOWN"]}')
    registered = await extension.receive()
    assert registered.status == 200
    assert registered.headers["lambda-extension-identifier"]
    assert json.loads(registered.body) == {"functionName": "hello", "functionVersion": "1", "handler": "app.handler"}
    await extension.send("GET", "/2020-01-01/extension/event/next")
    client = await site.client(instance)
    call_id = await client.next_id()
    await client.post(f"invocation/{call_id}/response", b"")
    await calling
    assert (await client.ask()).status == 410
    assert json.loads((await extension.receive()).body)["eventType"] == "SHUTDOWN"


# -- strangers


@pytest.mark.parametrize("host", ["", "localhost", "guess.qm.internal:1", "x" * 300])
@pytest.mark.gen_test
async def test_nobody_without_a_secret_is_served(site: Site, host: str) -> None:
    """404 on every path, and the connection is closed."""
    for method, path in (("GET", "/2018-06-01/runtime/invocation/next"), ("POST", "/2018-06-01/runtime/init/error")):
        client = await site.client("")
        client.host = host
        await client.send(method, path, b"{}" if method == "POST" else None)
        assert (await client.receive()).status == 404
        assert await client.is_closed()


@pytest.mark.gen_test
async def test_an_unknown_path_is_404(site: Site) -> None:
    """For an instance too."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    for method, path in (("GET", "/"), ("POST", "/2018-06-01/runtime/"), ("PUT", "/2018-06-01/runtime/init/error")):
        await client.send(method, path, b"" if method != "GET" else None)
        assert (await client.receive()).status == 404
    calling.cancel()


@pytest.mark.gen_test
async def test_a_silent_connection_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that sends half a head."""
    monkeypatch.setattr(runtime_connections, "HEAD_WITHIN", 0.2)
    silent, half = await site.client(""), await site.client("")
    half.writer.write(b"GET / HT")
    assert await silent.is_closed()
    assert await half.is_closed()


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_question_waits_for_longer_than_a_head_may_take(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a waiting question nor a call that is worked on is cut."""
    monkeypatch.setattr(runtime_connections, "HEAD_WITHIN", 0.2)
    called = version()
    instance, calling = await site.started(called)
    client = await site.client(instance)
    call_id = await client.next_id()
    await asyncio.sleep(0.5)
    await client.post(f"invocation/{call_id}/response", b"")
    await calling
    await client.send("GET", "/2018-06-01/runtime/invocation/next")
    await asyncio.sleep(0.5)
    calling = site.stage.invoke(called)
    assert (await client.receive()).status == 200
    calling.cancel()


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_flood_of_strangers_keeps_no_instance_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is closed for the newest; an instance's connections are not theirs."""
    monkeypatch.setattr(runtime_connections, "HEAD_WITHIN", 60.0)
    called = version()
    instance, calling = await site.started(called)
    client = await site.client(instance)
    call_id = await client.next_id()
    strangers = [await site.client("") for _ in range(runtime_connections.MAX_UNIDENTIFIED + 3)]
    for stranger in strangers[:3]:
        assert await stranger.is_closed()
    late = await site.client(instance, GO)
    assert (await late.post(f"invocation/{call_id}/response", b"through")).status == 202
    assert (await calling).body == b"through"
    for stranger in strangers:
        stranger.close()


@pytest.mark.gen_test
async def test_an_instance_has_a_bound_of_connections(site: Site) -> None:
    """Its calls, and some more; what is over is refused, and those that it has stay."""
    instance, calling = await site.started(version())
    clients = [await site.client(instance) for _ in range(1 + runtime_connections.MORE_CONNECTIONS)]
    for client in clients:
        assert (await client.post("invocation/x/response", b"")).status == 202
    over = await site.client(instance)
    await over.send("POST", "/2018-06-01/runtime/invocation/x/response", b"")
    assert (await over.receive()).status == 404
    clients[0].close()
    await site.stage.settle()
    assert (await clients[1].ask()).status == 200
    calling.cancel()


@pytest.mark.gen_test
async def test_a_connection_stays_one_instance_s(site: Site) -> None:
    """Another secret on it is refused, also one that is known."""
    first, one = await site.started(version())
    second, two = await site.started(version("other"))
    client = await site.client(first)
    assert (await client.post("invocation/x/response", b"")).status == 202
    client.host = f"{second.secret}.qm.internal"
    await client.send("GET", "/2018-06-01/runtime/invocation/next")
    assert (await client.receive()).status == 404
    one.cancel()
    two.cancel()


def test_the_listening_socket_notices_a_cut(site: Site) -> None:
    """Accepted connections inherit its keepalive."""
    [listener] = bind_sockets(0, "127.0.0.1")
    runtime.prepare([listener])
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
    listener.close()
