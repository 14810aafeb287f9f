"""runtime: what a container that is up to no good may try, with a secret and without; the others' calls go on."""

import asyncio
import json
import socket
from typing import Any

import msgspec
import pytest
from function_cases import version
from runtime_cases import GO, Client, Site, site

from qmaster.api.runtime import connections as runtime_connections
from qmaster.api.runtime import server as runtime
from qmaster.errors import CallTimedOut, CannotStart, FunctionFailed, InstanceDied
from qmaster.models.functions import Version

__all__ = ["site"]

pytestmark = pytest.mark.gen_test

NEXT = "/2018-06-01/runtime/invocation/next"
STREAM = {"Transfer_Encoding": "chunked", "Lambda_Runtime_Function_Response_Mode": "streaming"}


def owned(owner: str, **fields: Any) -> Version:
    return msgspec.structs.replace(version(f"of-{owner}", **fields), owner=owner)


async def serve_once(client: Client, body: bytes = b"1") -> None:
    call_id = await client.next_id()
    assert (await client.post(f"invocation/{call_id}/response", body)).status == 202


async def begin_stream(client: Client, call_id: str) -> None:
    await client.send("POST", f"/2018-06-01/runtime/invocation/{call_id}/response", None, **STREAM)


async def chunk(client: Client, data: bytes) -> None:
    client.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await client.writer.drain()


# -- without a secret


async def test_calls_go_on_during_a_flood(site: Site) -> None:
    """1,100 silent connections of one address: warm calls go on, and an instance that connects meanwhile gets in."""
    called = version(max_instances=2)
    instance, calling = await site.started(called)
    warm = await site.client(instance, GO)
    await serve_once(warm)
    await calling
    silent: list[socket.socket] = []
    flood = asyncio.create_task(asyncio.to_thread(open_silent, silent, site.port))
    for is_new in (False, True, False, True):
        calling = site.stage.invoke(called)
        await serve_once(await site.client(instance, GO) if is_new else warm, b"2")
        assert (await calling).body == b"2"
    await flood
    for each in silent:
        each.close()


def open_silent(silent: list[socket.socket], port: int) -> None:
    silent.extend(socket.create_connection(("127.0.0.1", port)) for _ in range(1100))


async def test_in_a_flood_silent_connections_are_not_taken(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sends its request at once is served."""
    monkeypatch.setattr(runtime_connections, "HEAD_WITHIN", 60.0)
    monkeypatch.setattr(runtime_connections, "MAX_SILENT", 3)
    instance, calling = await site.started(version())
    silent = [await site.client("") for _ in range(3)]
    async with asyncio.timeout(20):
        while not site.server.api.connections.is_flooded_by("127.0.0.1"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await (await site.client("")).is_closed()
    opened = socket.create_connection(("127.0.0.1", site.port))
    opened.sendall(f"GET {NEXT} HTTP/1.1\r\nHost: {instance.secret}.qm.internal\r\n\r\n".encode())
    reader, writer = await asyncio.open_connection(sock=opened)
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    for each in (writer, *(client.writer for client in silent)):
        each.close()
    calling.cancel()


async def test_a_stop_closes_connections_that_are_not_taken_yet(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a flood stays open."""
    monkeypatch.setattr(runtime, "SPEAKS_WITHIN", 60.0)
    monkeypatch.setattr(runtime_connections, "MAX_SILENT", 0)
    silent = await site.client("")
    async with asyncio.timeout(20):
        while not site.server.silent:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await site.server.close_all_connections()
    assert await silent.is_closed()


async def test_a_long_head_of_a_stranger_is_not_read(site: Site) -> None:
    """350,000 header lines would take a second to parse, and others wait meanwhile."""
    client = await site.client("")
    await client.send("GET", NEXT, None, **{f"a{number}": "b" for number in range(10_000)})
    assert await client.is_closed()


# -- with a secret


async def test_one_publisher_s_connections_leave_room_for_another(site: Site) -> None:
    """It has at most half; the next one gets in."""
    site.server.api.connections.most = 10
    greedy, calling = await site.started(owned("eve", concurrency=100))
    served = []
    for _ in range(8):
        client = await site.client(greedy, GO)
        await client.send("POST", "/2020-01-01/extension/register", b"{}")
        served.append((await client.receive()).status)
    assert served == [200] * 5 + [404] * 3
    other, second = await site.started(owned("bob"))
    await serve_once(await site.client(other))
    assert (await second).body == b"1"
    calling.cancel()


async def test_a_head_of_an_instance_is_bounded(site: Site) -> None:
    """One with a stack of 250 KB is taken, ten times that is not: the call is lost."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = await client.next_id()
    await client.send("POST", f"/2018-06-01/runtime/invocation/{call_id}/error", b"{}", Cause="x" * 2_500_000)
    assert await client.is_closed()
    with pytest.raises(InstanceDied):
        await calling


async def test_an_answer_beside_a_stream_ends_nothing(site: Site) -> None:
    """The stream goes on, and its end reaches the caller."""
    instance, calling = await site.started(version(), streams=True)
    client = await site.client(instance)
    call_id = await client.next_id()
    await begin_stream(client, call_id)
    await chunk(client, b"one")
    answer = await calling
    assert await anext(answer.chunks) == b"one"
    another = await site.client(instance)
    assert (await another.post(f"invocation/{call_id}/response", b"plain")).status == 202
    await chunk(client, b"two")
    await chunk(client, b"")
    async with asyncio.timeout(20):
        assert [part async for part in answer.chunks] == [b"two"]


async def test_two_streams_of_one_call(site: Site) -> None:
    """The first one counts."""
    instance, calling = await site.started(version(), streams=True)
    client, another = await site.client(instance), await site.client(instance)
    call_id = await client.next_id()
    await begin_stream(client, call_id)
    await chunk(client, b"one")
    answer = await calling
    await begin_stream(another, call_id)
    await chunk(another, b"forged")
    await chunk(another, b"")
    assert (await another.receive()).status == 202
    await chunk(client, b"")
    async with asyncio.timeout(20):
        assert [part async for part in answer.chunks] == [b"one"]


async def test_an_error_document_is_bounded(site: Site) -> None:
    """A function that reports megabytes fails like any other."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = await client.next_id()
    document = json.dumps({"errorMessage": "x" * 5_000_000, "errorType": "Large"}).encode()
    headers = {"Lambda_Runtime_Function_Error_Type": "Large" * 1000}
    assert (await client.post(f"invocation/{call_id}/error", document, **headers)).status == 202
    with pytest.raises(FunctionFailed) as failed:
        await calling
    assert len(json.dumps(failed.value.members)) < 300_000
    assert failed.value.error_type.startswith("Large")


@pytest.mark.parametrize(
    "document",
    [b"[" * 200_000, b'{"a":' * 40_000, b"\xff\xfe", b"null", b'{"errorType": {}}'],
    ids=["arrays", "objects", "no text", "null", "no word"],
)
async def test_an_odd_error_document(site: Site, document: bytes) -> None:
    """It fails the call, and nothing else."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = await client.next_id()
    assert (await client.post(f"invocation/{call_id}/error", document)).status == 202
    with pytest.raises(FunctionFailed):
        await calling


async def test_an_init_error_twice(site: Site) -> None:
    """The first one counts, and what is kept of it is short."""
    called = version()
    instance, calling = await site.started(called)
    client = await site.client(instance)
    for text in ("first " + "x" * 100_000, "second"):
        body = json.dumps({"errorMessage": text, "errorType": "E"}).encode()
        assert (await client.post("init/error", body)).status == 202
    with pytest.raises(CannotStart):
        await calling
    (told,) = site.stage.dispatcher.stats("hello").last_errors
    assert "first" in told.message
    assert len(told.message) < 2000


async def test_an_init_error_after_the_first_question_is_ignored(site: Site) -> None:
    """The instance has started."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = await client.next_id()
    assert (await client.post("init/error", b"{}")).status == 202
    await client.post(f"invocation/{call_id}/response", b"1")
    assert (await calling).body == b"1"


async def test_two_questions_get_one_call_at_a_time(site: Site) -> None:
    """With concurrency 1."""
    called = version(max_instances=1)
    instance, calling = await site.started(called)
    one, two = await site.client(instance, GO), await site.client(instance, GO)
    await serve_once(one)
    await calling
    await one.send("GET", NEXT)
    await two.send("GET", NEXT)
    async with asyncio.timeout(20):
        while len(instance.polls) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    first, second = site.stage.invoke(called), site.stage.invoke(called)
    await site.stage.settle()
    assert len(instance.calls) == 1
    for client in (one, two):
        reply = await client.receive()
        call_id = reply.headers["lambda-runtime-aws-request-id"]
        await client.post(f"invocation/{call_id}/response", call_id.encode())
    assert (await first).body != (await second).body


async def test_questions_sent_at_once(site: Site) -> None:
    """Pipelined requests are served one after the other."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    for _ in range(3):
        await client.send("POST", "/2018-06-01/runtime/invocation/none/response", b"{}")
    await client.send("GET", NEXT)
    for _ in range(3):
        assert (await client.receive()).status == 202
    call_id = (await client.receive()).headers["lambda-runtime-aws-request-id"]
    await client.post(f"invocation/{call_id}/response", b"1")
    assert (await calling).body == b"1"


async def test_an_answer_after_its_time(site: Site) -> None:
    """The caller was told, the instance is killed, and its secret is void."""
    instance, calling = await site.started(version(timeout=0.2))
    client = await site.client(instance)
    call_id = await client.next_id()
    with pytest.raises(CallTimedOut):
        await calling
    assert (await client.post(f"invocation/{call_id}/response", b"late")).status == 404
    assert site.stage.launcher.killed == [instance.run_id]


async def test_a_slow_answer_is_cut_by_the_call_s_time(site: Site) -> None:
    """A byte now and then does not help."""
    instance, calling = await site.started(version(timeout=0.5))
    client = await site.client(instance)
    call_id = await client.next_id()
    await client.send("POST", f"/2018-06-01/runtime/invocation/{call_id}/response", None, Content_Length="1000")
    client.writer.write(b"x")
    with pytest.raises(CallTimedOut):
        await calling


async def test_a_large_answer_is_dropped_as_it_comes(site: Site) -> None:
    """100 MB: the call fails at once, and little of it is kept."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = await client.next_id()
    size = 100_000_000
    await client.send("POST", f"/2018-06-01/runtime/invocation/{call_id}/response", None, Content_Length=str(size))
    part = bytes(1_000_000)
    for _ in range(size // len(part)):
        client.writer.write(part)
        await client.writer.drain()
    assert (await client.receive()).status == 202
    with pytest.raises(FunctionFailed, match="6291456"):
        await calling


@pytest.mark.parametrize(
    "host", ["{}.QM.Internal:9001", "{}.qm.internal", "{}.qm.internal:1"], ids=["upper", "bare", "port"]
)
async def test_names_of_an_instance(site: Site, host: str) -> None:
    """Upper case, with a port or without: the name counts."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    client.host = host.format(instance.secret.upper())
    await serve_once(client)
    assert (await calling).body == b"1"


async def test_no_name_of_an_instance(site: Site) -> None:
    """Two names, one within another, or another instance's on the same connection: 404."""
    instance, calling = await site.started(version())
    other, second = await site.started(version("other"))
    for host in (
        f"{instance.secret}.qm.internal\r\nHost: {other.secret}.qm.internal",
        f"{instance.secret}.qm.internal.",
        f"x.{instance.secret}.qm.internal",
        f"{instance.secret}.qm.internal@x",
    ):
        client = await site.client("")
        client.host = host
        await client.send("GET", NEXT)
        assert (await client.receive()).status == 404
    client = await site.client(instance)
    await client.send("GET", f"http://{other.secret}.qm.internal{NEXT}")
    assert (await client.receive()).status == 404
    client.host = f"{other.secret}.qm.internal"
    await client.send("GET", NEXT)
    assert (await client.receive()).status == 404
    calling.cancel()
    second.cancel()


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "get"])
async def test_a_wrong_method(site: Site, method: str) -> None:
    """404, and no call is handed out."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    await client.send(method, NEXT, None, Upgrade="websocket", Connection="Upgrade")
    assert (await client.receive()).status == 404
    assert not instance.calls
    calling.cancel()


@pytest.mark.parametrize(
    "sent",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nError-Type: x\r\n\r\n",
        b"Content-Length: 300000000\r\n\r\n",
    ],
    ids=["both", "two lengths", "gzip", "no size", "trailers", "too long"],
)
async def test_an_answer_that_is_no_http_loses_its_call(site: Site, sent: bytes) -> None:
    """At once; nothing hangs, and no other request is read out of it."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    call_id = await client.next_id()
    head = f"POST /2018-06-01/runtime/invocation/{call_id}/response HTTP/1.1\r\nHost: {client.host}\r\n"
    client.writer.write(head.encode() + sent)
    with pytest.raises(InstanceDied):
        async with asyncio.timeout(20):
            await calling


async def test_a_flood_of_extensions(site: Site) -> None:
    """Nothing is kept of those that register, and the questions of one connection are one."""
    instance, calling = await site.started(version())
    client = await site.client(instance)
    for _ in range(200):
        await client.send("POST", "/2020-01-01/extension/register", b"{}")
        assert (await client.receive()).status == 200
    waiting = [await site.client(instance) for _ in range(runtime_connections.MORE_CONNECTIONS + 1)]
    for each in waiting:
        await each.send("GET", "/2020-01-01/extension/event/next")
    assert (await waiting[-1].receive()).status == 404
    assert len(instance.shutdown) <= runtime_connections.MORE_CONNECTIONS
    for each in waiting:
        each.close()
    async with asyncio.timeout(20):
        while instance.shutdown:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    calling.cancel()


@pytest.mark.slow
async def test_a_slow_reader_costs_no_instance(site: Site) -> None:
    """A caller that does not read its streamed answer is cut off at the end of the call's time; the instance stays."""
    called = version(timeout=0.5)
    instance, calling = await site.started(called, streams=True)
    client = await site.client(instance)
    await begin_stream(client, await client.next_id())
    answer = await calling

    async def write() -> None:
        for _ in range(64):
            await chunk(client, bytes(64 * 1024))
        await chunk(client, b"")

    await write()

    async def read_slowly() -> None:
        async for _ in answer.chunks:
            await asyncio.sleep(0.2)

    with pytest.raises(CallTimedOut):
        await read_slowly()
    assert (await client.receive()).status == 202
    calling = site.stage.invoke(called)
    await serve_once(client)
    assert (await calling).body == b"1"
    assert site.stage.launcher.killed == []
