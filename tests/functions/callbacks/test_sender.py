"""callbacks.sender: one try of a callback against real receivers, and the addresses that it connects to."""

import asyncio
import contextlib
import gc
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from fakes import until
from receivers import SECRET, Receiver, allowed, receiving, status
from standardwebhooks import Webhook

from qmaster.functions.callbacks.addresses import Reach
from qmaster.functions.callbacks.sender import AddressRefused, Answered, Resolver, Sender, look_up, seconds_of

pytestmark = pytest.mark.gen_test

BODY = json.dumps({"type": "io.qmaster.service.complete", "data": "ü"}).encode()
NO_ADDRESS = "the host has no address that callbacks may go to"


class Names:
    """A name server of the test's: each lookup of a name takes the next answer, the last for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.hold: asyncio.Event | None = None

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if self.hold:
            await self.hold.wait()
        if host.partition(".")[0] not in self.answers:
            raise OSError(-2, "Name or service not known")
        left = self.answers[host.partition(".")[0]]
        return left.pop(0) if len(left) > 1 else left[0]


@asynccontextmanager
async def sending(
    folder: Path, *prefixes: str, names: Names | None = None, within: float = 20
) -> AsyncIterator[Sender]:
    made = Sender(allowed(folder, *prefixes), Resolver(names or Names()), within)
    yield made
    await made.close()


async def send(folder: Path, receiver: Receiver, path: str = "hook", within: float = 20) -> Answered | str:
    async with sending(folder, receiver.url, within=within) as sender:
        return await sender.send("msg_1", receiver.url + path, BODY)


@contextmanager
def flooding(flood: bytes) -> Iterator[str]:
    """A receiver in a thread, which sends the same again and again; its URL."""

    def pour() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while True:
                connection.sendall(flood)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=pour)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


# --- answers ----------------------------------------------------------------------------------------------------------


async def test_a_callback_is_one_signed_post(tmp_path: Path) -> None:
    """It is a CloudEvent in JSON, and has the three headers of Standard Webhooks, and nothing of ours beside."""
    async with receiving() as receiver:
        assert await send(tmp_path, receiver, "a%20b/?x=%2e&y=[1]") == Answered(204)
    (got,) = receiver.got
    assert got.line == "POST /a%20b/?x=%2e&y=[1] HTTP/1.1"
    assert Webhook(SECRET).verify(got.body, got.headers) == json.loads(BODY)
    assert got.headers["webhook-id"] == "msg_1"
    assert got.headers["content-type"] == "application/cloudevents+json"
    assert not {"authorization", "cookie", "proxy-authorization"} & got.headers.keys()


@pytest.mark.parametrize("code", [200, 201, 299, 400, 404, 410, 429, 500, 503])
async def test_the_status_is_returned(tmp_path: Path, code: int) -> None:
    """Whoever sends decides what it means."""
    async with receiving(status(code)) as receiver:
        assert await send(tmp_path, receiver) == Answered(code)


@pytest.mark.parametrize(("code", "seconds"), [(429, 120), (503, 120), (500, 0), (200, 0), (301, 0)])
async def test_what_a_busy_receiver_asks_for_is_returned(tmp_path: Path, code: int, seconds: float) -> None:
    """With the statuses that mean it."""
    async with receiving(status(code, "Retry-After: 120")) as receiver:
        assert await send(tmp_path, receiver) == Answered(code, seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("9" * 4000, 999_999_999),
        ("Tue, 01 Dec 2026 08:01:00 GMT", 60),
        ("Tue, 01 Dec 2026 08:01:00 -0000", 60),
        ("Tue, 01 Dec 2026 07:00:00 GMT", 0),
        ("Tue, 01 Dec 9999999 08:01:00 GMT", 0),
        ("-5", 0),
        ("1.5", 0),
        ("\u0663", 0),
        ("", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float) -> None:
    """What is neither asks for nothing."""
    assert seconds_of(text, datetime(2026, 12, 1, 8, tzinfo=UTC).timestamp()) == seconds


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(tmp_path: Path, code: int) -> None:
    """Also to the same host: the new URL is of the receiver's choice."""
    async with receiving() as other, receiving(status(code, f"Location: {other.url}")) as receiver:
        async with sending(tmp_path, receiver.url, other.url) as sender:
            assert await sender.send("msg_1", receiver.url, BODY) == Answered(code)
        assert other.connections == 0
        assert len(receiver.got) == 1


async def test_a_slow_receiver_is_left_after_the_time(tmp_path: Path) -> None:
    """One that takes the body and does not answer."""

    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(600)

    async with receiving(never) as receiver:
        assert await send(tmp_path, receiver, within=0.3) == "no answer within 0.3 s"


async def test_a_receiver_that_drips_its_head_is_left_after_the_time(tmp_path: Path) -> None:
    """Each byte alone would keep a timeout between two of them from passing."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with receiving(drip) as receiver:
        assert await send(tmp_path, receiver, within=0.5) == "no answer within 0.5 s"


@pytest.mark.slow
@pytest.mark.parametrize("head", [b"HTTP/1.1 100 Continue", b"HTTP/1.1 102 Processing", b"HTTP/1.1 204 No Content"])
async def test_a_flood_of_heads_does_not_block_the_loop(tmp_path: Path, head: bytes) -> None:
    """However many come at once, others have their turns between them."""
    turns = [0.0]

    async def take_turns() -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            turns.append((now := time.thread_time()) - last)
            last = now

    # The receiver is in a thread of its own, so that only the sender's work counts.
    with flooding((head + b"\r\n\r\n") * 20_000) as url:
        async with sending(tmp_path, url, within=1) as sender:
            gc.disable()  # what other tests have left takes it longer than the limit
            turning = asyncio.create_task(take_turns())
            try:
                assert await sender.send("msg_1", url, BODY) in (Answered(204), "no answer within 1 s")
            finally:
                turning.cancel()
                gc.enable()
    assert max(turns) < 0.03


async def test_a_receiver_that_refuses_is_told_so(tmp_path: Path) -> None:
    """In the system's words."""
    async with receiving() as receiver:
        pass
    assert await send(tmp_path, receiver) == "cannot connect: Connection refused"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the connection was closed before the answer"),
        (b"HTTP/1.1 200", "the connection was closed before the answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "the answer is not HTTP"),
    ],
)
async def test_an_answer_that_is_none(tmp_path: Path, answer: bytes, said: str) -> None:
    """Cut off in its head, of another protocol, or with a head without end."""
    async with receiving(answer) as receiver:
        assert await send(tmp_path, receiver) == said


async def test_an_answer_that_ends_in_the_middle_has_its_status(tmp_path: Path) -> None:
    """The head says that the callback has arrived."""
    async with receiving(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf") as receiver:
        assert await send(tmp_path, receiver) == Answered(200)


async def test_of_an_endless_answer_little_is_read(tmp_path: Path) -> None:
    """What the receiver can send before it is cut off is bounded by the buffers of the sockets."""
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with receiving(endless) as receiver:
        assert await send(tmp_path, receiver) == Answered(200)
        await until(lambda: not receiver.open)
    assert sent < 64 * 1024 * 1024


async def test_each_try_has_a_connection_of_its_own(tmp_path: Path) -> None:
    """So that its address is checked."""
    async with receiving(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n") as receiver:
        async with sending(tmp_path, receiver.url) as sender:
            for number in range(3):
                assert await sender.send(f"msg_{number}", receiver.url, BODY) == Answered(200)
        assert receiver.connections == 3


async def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would connect to addresses that nobody checked; nor are credentials of a .netrc sent."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert await send(tmp_path, receiver) == Answered(204)
        assert proxy.connections == 0
    assert "authorization" not in receiver.got[0].headers


async def test_a_cookie_is_not_kept(tmp_path: Path) -> None:
    """A receiver cannot mark the callbacks of different owners."""
    async with receiving(status(200, "Set-Cookie: a=b")) as receiver, sending(tmp_path, receiver.url) as sender:
        await sender.send("msg_1", receiver.url, BODY)
        await sender.send("msg_2", receiver.url, BODY)
    assert "cookie" not in receiver.got[1].headers


async def test_a_receiver_with_a_wrong_certificate_gets_nothing(tmp_path: Path) -> None:
    """Of an authority that nobody here trusts."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    async with receiving(tls=tls) as receiver:
        url = receiver.url.replace("http:", "https:")
        async with sending(tmp_path, url) as sender:
            assert await sender.send("msg_1", url, BODY) == "the certificate is not valid for the host"
    assert receiver.got == []


# --- addresses --------------------------------------------------------------------------------------------------------


async def test_a_url_outside_the_prefixes_gets_nothing(tmp_path: Path) -> None:
    """Also where it was accepted under earlier options."""
    async with receiving() as receiver, sending(tmp_path, receiver.url + "hooks") as sender:
        assert await sender.send("msg_1", receiver.url + "other", BODY) == "no prefix of --callbacks covers the URL"
        assert receiver.connections == 0


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "fe80::1", "0.0.0.0"],
)
async def test_a_host_with_a_link_local_address_gets_nothing(tmp_path: Path, address: str) -> None:
    """At the first lookup and at each other."""
    names = Names(hooks=[[address]])
    async with sending(tmp_path, "http://hooks.example", names=names) as sender:
        for _ in range(2):
            assert await sender.send("msg_1", "http://hooks.example/", BODY) == NO_ADDRESS
    assert names.asked == ["hooks.example"] * 2


async def addresses(resolver: Resolver, host: str) -> list[str]:
    try:
        return [found["host"] for found in await resolver.resolve(host, 80)]
    except AddressRefused:
        return []


@pytest.mark.parametrize("second", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1", "fd12::1", "169.254.169.254"])
async def test_a_host_on_the_internet_never_leads_to_a_private_address(second: str) -> None:
    """A name server that answers otherwise at the second time (DNS rebinding), alone or beside a good address."""
    resolver = Resolver(Names(hooks=[["8.8.8.8"], [second], ["8.8.4.4", second], [second]]))
    assert await addresses(resolver, "hooks.example") == ["8.8.8.8"]
    assert await addresses(resolver, "hooks.example") == []
    assert await addresses(resolver, "hooks.example") == ["8.8.4.4"]
    assert await addresses(resolver, "hooks.example") == []


async def test_a_rebound_host_gets_nothing(tmp_path: Path) -> None:
    """A receiver on the loopback, to which a public name leads at the second try."""
    async with receiving() as receiver:
        url = f"http://hooks.example:{receiver.port}/"
        names = Names(hooks=[["127.0.0.1"]])
        made = Sender(allowed(tmp_path, url), Resolver(names, {"hooks.example": "global"}))
        assert await made.send("msg_1", url, BODY) == NO_ADDRESS
        await made.close()
        assert receiver.connections == 0


async def test_a_private_host_that_the_operator_named_is_reached(tmp_path: Path) -> None:
    """Its first address was private, so callbacks go into this network; how it was first reached is kept."""
    learned: list[tuple[str, Reach]] = []
    async with receiving() as receiver:
        url = f"http://hooks.internal:{receiver.port}/"
        resolver = Resolver(Names(hooks=[["127.0.0.1"]]), learned=lambda host, kind: learned.append((host, kind)))
        made = Sender(allowed(tmp_path, url), resolver)
        assert [await made.send("msg_1", url, BODY) for _ in range(2)] == [Answered(204)] * 2
        await made.close()
    assert learned == [("hooks.internal", "local")]
    assert receiver.got[0].headers["host"] == f"hooks.internal:{receiver.port}"


async def test_only_checked_addresses_are_tried(tmp_path: Path) -> None:
    """Of several addresses of a private host those that are never connected to are left out."""
    async with receiving() as receiver:
        url = f"http://hooks.internal:{receiver.port}/"
        names = Names(hooks=[["169.254.169.254", "127.0.0.1", "fe80::1"]])
        async with sending(tmp_path, url, names=names) as sender:
            assert await sender.send("msg_1", url, BODY) == Answered(204)


async def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    """The words do not tell what the name server said."""
    async with sending(tmp_path, "http://none.example") as sender:
        assert await sender.send("msg_1", "http://none.example/", BODY) == "the host name cannot be looked up"


async def test_callers_share_a_lookup() -> None:
    """A lookup may hold a thread for minutes: a host with many callbacks takes one."""
    names = Names(hooks=[["8.8.8.8"]])
    names.hold = asyncio.Event()
    resolver = Resolver(names)
    waiting = [asyncio.create_task(resolver.resolve("hooks.example", 80)) for _ in range(50)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()
    names.hold.set()
    found = await asyncio.gather(*waiting[1:])
    assert names.asked == ["hooks.example"]
    assert all(each[0]["host"] == "8.8.8.8" and each[0]["family"] == socket.AF_INET for each in found)


async def test_the_system_s_lookup_returns_addresses() -> None:
    """Each once, without a scope."""
    assert "127.0.0.1" in await look_up("localhost", 80)
    with pytest.raises(OSError, match="label"):
        await look_up("x" * 64 + ".example", 80)
