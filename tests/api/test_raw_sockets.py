"""What no HTTP client would send: slow, endless, ambiguous and half-open connections, and very many of them."""

import contextlib
import json
import re
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest
from testbed.probe import Probe, descriptors, resident
from testbed.raw import Answer, Wire, request
from testbed.server import ADDRESS, Server
from testbed.stub import Stub
from testbed.subscriber import Connection, Sse, Subscriber
from testbed.wait import BUSY, eventually

from qmaster.api import events, limits
from qmaster.api.base import HEADERS
from qmaster.auth.authenticator import BURST

Start = Callable[..., Server]
Measured = Callable[[str], None]

BARE = b"HTTP/1.1 400 Bad Request\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
TEXT, BINARY, PING, CLOSE, CONTINUED = 0x1, 0x2, 0x9, 0x8, 0x0
FINAL = 0x80


@pytest.fixture(scope="module")
def start(stub: Stub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`start(*wrapper)`: a quartermaster on the stub, ended after these tests."""
    servers: list[Server] = []

    def start(*wrapper: str) -> Server:
        server = Server(tmp_path_factory.mktemp("raw") / "server", stub.host)
        server.wrapper += wrapper
        servers.append(server)
        server.start()
        eventually(lambda: server.call("GET", "/readyz").status == 200, 10, "it is ready")
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def server(start: Start) -> Server:
    return start()


@pytest.fixture(autouse=True)
def _nothing_failed(server: Server) -> Iterator[None]:
    """Whatever a test does, the log has no failure, and each of its lines is one event."""
    before = len(server.logs())
    yield
    assert server.failures(before) == []


def heard(wire: Wire, sent: bytes) -> Answer:
    """What a request is answered with."""
    wire.send(sent)
    answer = wire.answer()
    assert answer
    return answer


def bearer(server: Server) -> tuple[str, str]:
    return "Authorization", f"Bearer {server.token}"


@pytest.mark.slow
def test_large_bodies_that_come_at_once_hold_nobody_up(server: Server, measured: Measured) -> None:
    """Each takes the event loop some time to check: another's call has its turn between two of them."""
    body = json.dumps({"image": "busybox", "command": "'" + '\\"' * 15_000}).encode()
    whole = request("POST", "/run", [bearer(server)], body)
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(Wire(server.port)) for _ in range(60)]
        for wire in crowd:
            wire.send(whole[:-1])
        time.sleep(0.5)
        began = time.monotonic()
        for wire in crowd:
            wire.send(whole[-1:])
        assert server.call("GET", "/livez").status == 200
        answered = time.monotonic() - began
        answers = [wire.answer() for wire in crowd]
        took = time.monotonic() - began
    assert {answer and answer.status for answer in answers} == {400}
    measured(f"another's call {answered:.2f} s, {len(crowd)} large bodies {took:.2f} s")
    assert answered < took / 4


# --- two requests in one ----------------------------------------------------------------------------------------------


def post(fields: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST /stop HTTP/" + version + b"\r\nHost: x\r\n" + fields + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "sent",
    [
        post(b"Content-Length: 0\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n"),
        post(b"Content-Length: 2\r\nContent-Length: 0", b"{}"),
        post(b"Content-Length: +2", b"{}"),
        post(b"Content-Length: 0x2", b"{}"),
        post(b"Content-Length: 2_0", b"{}"),
        post(b"Content-Length: -1", b"{}"),
        post(b"Content-Length: ", b"{}"),
        post(b"Content-Length : 2", b"{}"),
        post(b"Content-Length\t: 2", b"{}"),
        post(b" Content-Length: 2", b"{}"),
        post(b"X: y\r\n Content-Length: 2", b"{}"),
        post(b"X: y\rContent-Length: 2", b"{}"),
        post(b"X: y\0\r\nContent-Length: 2", b"{}"),
        post(b"Content-Length: 2\0", b"{}"),
        post(b"Transfer-Encoding: chunked, chunked", b"0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"0\r\n\r\n"),
        post(b"Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"),
        post(b"Transfer-Encoding: xchunked", b"0\r\n\r\n"),
        post(b"Transfer-Encoding : chunked", b"0\r\n\r\n"),
        post(b"Transfer-Encoding: \x0bchunked", b"0\r\n\r\n"),
        post(b"Transfer-Encoding:\n chunked", b"0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", b"2;x=y\r\n{}\r\n0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", b"2 \r\n{}\r\n0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", b"0x2\r\n{}\r\n0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", b"-2\r\n{}\r\n0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", b"2\n{}\n0\n\n"),
        post(b"Transfer-Encoding: chunked", b"2\r\n{}0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", b"2\r\n{}XX0\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", b"0\r\nTrailer: x\r\n\r\n"),
        post(b"Transfer-Encoding: chunked", b"FFFFFFFFFFFFFFFF2\r\n{}\r\n0\r\n\r\n"),
        b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x, y\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET http:///livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://:80/livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://u:p@x/livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x,y/livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x/livez HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        b"GET http://x/livez HTTP/1.1\r\nHost: x, y\r\n\r\n",
        b"GET http://x/livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /livez\r\nHost: x\r\n\r\n",
        b"GET  /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1 \r\nHost: x\r\n\r\n",
        b"GET /li vez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_nothing_is_smuggled(server: Server, sent: bytes) -> None:
    """What could be read in two ways is answered with one 400, and the connection ends: nothing behind it is read."""
    before = len(server.logs())
    with Wire(server.port) as wire:
        wire.send(sent + SMUGGLED)
        said = wire.rest()
    assert STATUS.findall(said) == [b"400"], said
    assert "/smuggled" not in server.logs()[before:]


@pytest.mark.parametrize("root", ["http://x", "https://x:9090", "HTTP://[::1]:9090"])
def test_a_target_in_absolute_form_is_served(server: Server, root: str) -> None:
    """As one in origin form (RFC 9112, 3.2.2), with its query; an empty path is the root."""
    with Wire(server.port) as wire:
        for target, status in (("/status?limit=1", 200), ("/status?limit=0", 400), ("/nothing", 404)):
            assert heard(wire, request("GET", root + target, [bearer(server)])).status == status
        for target in ("", "?"):
            answer = heard(wire, request("GET", root + target))
            assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_a_token_in_an_absolute_target_is_refused(server: Server) -> None:
    """And does not get into the log, as in any URL."""
    before = len(server.logs())
    with Wire(server.port) as wire:
        assert heard(wire, request("GET", "http://x/status?token=not-to-be-logged")).status == 400
    assert "not-to-be-logged" not in server.logs()[before:]


@pytest.mark.slow
def test_the_host_of_an_absolute_target_is_the_one_that_counts(stub: Stub, tmp_path: Path) -> None:
    """For `--allow-host`, whatever the header Host says; a Host that is not served does not matter beside it."""
    server = Server(tmp_path / "server", stub.host, ["--allow-host", "qm.example.com"])
    try:
        server.start()
        with Wire(server.port) as wire:
            for named, host, status in (
                ("qm.example.com:80", "evil.example", 401),
                ("evil.example", "qm.example.com", 403),
            ):
                sent = f"GET http://{named}/status HTTP/1.1\r\nHost: {host}\r\n\r\n"
                assert heard(wire, sent.encode()).status == status
        with Wire(server.port) as wire:
            assert heard(wire, b"GET http://qm.example.com/status HTTP/1.0\r\n\r\n").status == 401
    finally:
        server.kill()


def test_other_forms_of_a_target_lead_nowhere(server: Server) -> None:
    """The asterisk and authority forms are for other servers, and so are other schemes."""
    for method, target in (("OPTIONS", "*"), ("GET", "ftp://x/livez"), ("GET", "x:443"), ("GET", "http:/livez")):
        with Wire(server.port) as wire:
            assert heard(wire, request(method, target)).status == 404


def test_what_is_well_formed_is_answered_in_order(server: Server) -> None:
    """Several requests at once, each with its own body; so that the test above means something."""
    sent = [
        request("POST", "/stop", [("X-Request-ID", "one")], b"{}"),
        post(b"X-Request-ID: two\r\nTransfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n"),
        b"\r\n" + request("GET", "/livez", [("X-Request-ID", "three")]),
    ]
    with Wire(server.port) as wire:
        wire.send(b"".join(sent))
        answers = [wire.answer() for _ in sent]
    assert [(a.status, a.headers["x-request-id"]) for a in answers if a] == [(401, "one"), (401, "two"), (200, "three")]


@pytest.mark.parametrize(
    "request_id",
    [b"a\r\nSet-Cookie: x=y", b"a%0d%0aSet-Cookie:%20x=y", b"a\nb", b"a\rb", b'"} {"event": "forged"', b"\xe5\x98\x8a"],
)
def test_nothing_is_written_into_an_answer_or_the_log(server: Server, request_id: bytes) -> None:
    """What a client sends begins no line of its own, neither of a head nor of the log."""
    with Wire(server.port) as wire:
        wire.send(b"GET /status/" + request_id.replace(b"\r\n", b"%0d%0a").replace(b" ", b"%20"))
        wire.send(b" HTTP/1.1\r\nHost: x\r\nX-Request-ID: " + request_id + b"\r\nConnection: close\r\n\r\n")
        said = wire.rest()
    assert STATUS.findall(said) in ([b"400"], [b"401"])
    assert b"\r\nSet-Cookie" not in said.partition(b"\r\n\r\n")[0]
    assert all(json.loads(line)["event"] != "forged" for line in server.logs().splitlines())


# --- slow ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def idle(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd: list[socket.socket] = []
    try:
        for _ in range(min(count, hard - 1000)):
            crowd += [socket.create_connection((ADDRESS, server.port), timeout=30)]
        yield crowd
    finally:
        for each in crowd:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def asks_the_engine(server: Server, stub: Stub) -> bool:
    """Whether a stop is let in and gets as far as the engine."""
    stub.asked.clear()
    reply = server.stop_service("nobody")
    return reply.status == 404 and len(stub.asked) > 0


def trickle(port: int, first: bytes, more: bytes) -> float:
    """Send a byte now and then; after how many seconds the connection was ended."""
    began = time.monotonic()
    with Wire(port, timeout=30) as wire, contextlib.suppress(OSError):
        wire.send(first)
        wire.socket.settimeout(0.4)
        while True:
            if more:
                wire.socket.sendall(more)
            with contextlib.suppress(TimeoutError):
                if not wire.socket.recv(65536):
                    break
    return time.monotonic() - began


@pytest.mark.slow
def test_the_slow_and_the_idle_are_ended_in_time(server: Server, stub: Stub, measured: Measured) -> None:
    """In the head, in the body, or saying nothing at all, which 5,000 do: each is ended, and nobody else waits."""
    half = request("POST", "/run", [bearer(server), ("Content-Length", "1000")])
    chunks = request("POST", "/run", [bearer(server), ("Transfer-Encoding", "chunked")])
    handshake = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
    slow = {
        "nothing": (b"", b""),
        "a byte": (b"G", b""),
        "a slow head": (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ", b"y"),
        "a slow second head": (request("GET", "/livez") + b"GET /", b"y"),
        "a head without its last line": (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b""),
        "a slow body": (half, b" "),
        "half a body": (half + b'{"image"', b""),
        "slow chunks": (chunks, b"1\r\n \r\n"),
        "a chunk that never ends": (chunks + b"ff\r\n", b" "),
        "a websocket without a token": (request("GET", "/events", [*handshake, ("Sec-WebSocket-Key", "eA==")]), b""),
        "a slow frame": (request("GET", "/events", [*handshake, ("Sec-WebSocket-Key", "eA==")]) + b"\x81", b""),
    }
    before, lean = descriptors(server.pid), resident(server.pid)
    with Probe(server) as probe, ThreadPoolExecutor(len(slow) * 4) as pool, idle(server, 5000) as crowd:
        ended = {(name, n): pool.submit(trickle, server.port, *said) for name, said in slow.items() for n in range(4)}
        assert eventually(lambda: descriptors(server.pid) >= before + len(crowd) - 10, 10)
        assert asks_the_engine(server, stub)
        cost = (resident(server.pid) - lean) / len(crowd)
        took = {name: future.result() for (name, _), future in ended.items()}
        eventually(lambda: descriptors(server.pid) <= before + 10, 10, "the idle ones are ended")
    measured(f"{ {name: round(seconds, 1) for name, seconds in took.items()} }")
    measured(f"{len(crowd)} idle connections of {cost:.1f} KiB; {probe.waits}")
    for name, seconds in took.items():
        bound = events.AUTH_WITHIN + 5 if "socket" in name or "frame" in name else limits.IDLE
        assert bound - 6 < seconds < bound + 4, name
    assert cost < 30
    assert probe.waits.longest < 0.5  # many end in the same moment


@pytest.mark.slow
def test_idle_and_half_sent_connections_harm_nobody(server: Server, stub: Stub, measured: Measured) -> None:
    """Beside 4,000 idle connections and 2,000 with half a head, calls are answered within a second."""
    took = []
    with idle(server, 6000) as crowd:
        for each in crowd[:2000]:
            each.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\nX: ")
        for _ in range(20):
            began = time.monotonic()
            assert server.call("GET", "/status").status == 200
            took.append(time.monotonic() - began)
        assert asks_the_engine(server, stub)
        assert len(crowd) == 6000
    measured(f"/status {max(took) * 1000:.0f} ms at most")
    assert median(took) < 1
    assert max(took) < BUSY


# --- endless ---------------------------------------------------------------------------------------------------------


def flood(port: int, first: bytes, again: bytes, most: int) -> int:
    """Send it again and again until the server hangs up; how many bytes it let come, `most` where it did not."""
    sent = 0
    with Wire(port) as wire, contextlib.suppress(OSError):
        wire.socket.sendall(first)
        while sent < most:
            wire.socket.sendall(again)
            sent += len(again)
    return sent


@pytest.mark.parametrize(
    ("first", "again", "most"),
    [
        (b"", b"x" * 4096, 20_000_000),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"y" * 4096, 20_000_000),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n" * 1000, 20_000_000),
        (b"GET /", b"y" * 4096, 20_000_000),
        (b"\r\n", b"\r\n" * 1000, 20_000_000),
        (
            b"POST /run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"400\r\n" + b"x" * 1024 + b"\r\n",
            50_000_000,
        ),
        (
            b"POST /run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
            (b"10\r\n" + b"x" * 16 + b"\r\n") * 500,
            50_000_000,
        ),
        (b"POST /run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 1000, 20_000_000),
        (b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 65536, 50_000_000),
    ],
)
def test_the_endless_is_ended(server: Server, first: bytes, again: bytes, most: int) -> None:
    """Early, and without being kept in memory."""
    before = resident(server.pid)
    assert flood(server.port, first, again, most) < most
    assert server.call("GET", "/livez").status == 200
    assert resident(server.pid) - before < 8 * 1024


def frame(opcode: int, payload: bytes = b"", final: bool = True, masked: bool = True, bits: int = 0) -> bytes:
    """A frame as a client sends it."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack("!H", size)
    if not masked:
        return bytes([(FINAL if final else 0) | bits | opcode]) + length + payload
    head = bytes([(FINAL if final else 0) | bits | opcode, length[0] | 0x80]) + length[1:]
    return head + b"\0\0\0\0" + payload  # a mask of zeros changes nothing


def said_until_closed(connection: Connection) -> list[tuple[int, bytes]]:
    """The frames that come until the connection ends."""
    frames = []
    with contextlib.suppress(OSError):
        while True:
            frames.append(connection.receive())
    return frames


def close_codes(connection: Connection) -> list[int]:
    return [int.from_bytes(payload[:2], "big") for opcode, payload in said_until_closed(connection) if opcode == CLOSE]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("sent", "codes"),
    [
        (frame(TEXT, b"x" * 4097), [1009]),
        (bytes([FINAL | TEXT, 0xFF]) + struct.pack("!Q", 2**62), [1009]),
        (frame(TEXT, b"x" * 4000, final=False) + frame(CONTINUED, b"x" * 97), [1009]),
        (frame(PING, b"x" * 126), []),
        (frame(PING, b"x", final=False), []),
        (frame(CONTINUED, b"x"), []),
        (frame(TEXT, b"x", final=False) + frame(TEXT, b"y"), []),
        (frame(TEXT, b"x", bits=0x40), []),
        (frame(0x3, b"x"), []),
        (frame(0xB, b"x"), []),
        (frame(TEXT, b"\xff\xfe"), []),
    ],
)
def test_a_frame_that_may_not_be_ends_the_socket(server: Server, known: bool, sent: bytes, codes: list[int]) -> None:
    """Too large, in however many pieces, or against the protocol; with a token too."""
    headers = {"Authorization": f"Bearer {server.token}"} if known else {}
    for _ in range(20 if codes else 1):  # each time: a reset would take the code from some
        connection = Connection(server.port, "/events", headers)
        try:
            connection.socket.sendall(sent)
            assert close_codes(connection) == codes
        finally:
            connection.close()


TALK = {
    "texts": (b"", frame(TEXT) * 500),
    "pings": (b"", frame(PING, b"x" * 125) * 50),
    "pongs": (b"", frame(0xA) * 500),
    "large frames": (b"", frame(BINARY, b"x" * 4096)),
}


def talk(server: Server, known: bool, first: bytes, again: bytes) -> int:
    """Say it without end; how many bytes until the connection ended."""
    headers = {"Authorization": f"Bearer {server.token}"} if known else {}
    connection = Connection(server.port, "/events", headers)
    sent = 0
    with contextlib.suppress(OSError):
        connection.socket.sendall(first)
        while sent < 50_000_000:
            connection.socket.sendall(again)
            sent += len(again)
    connection.close()
    return sent


@pytest.mark.slow
def test_who_talks_without_end_is_ended(server: Server, measured: Measured) -> None:
    """The stream goes one way: a token, and then a ping now and then, is all that a client has to say."""
    kinds = [(name, known) for name in TALK for known in (True, False)] * 3
    with Probe(server) as probe, ThreadPoolExecutor(len(kinds)) as pool:
        sent = [(kind, pool.submit(talk, server, kind[1], *TALK[kind[0]])) for kind in kinds]
        most = max((future.result(), kind) for kind, future in sent)
    measured(f"at most {most}; {probe.waits}")
    assert most[0] < 10_000_000  # most of it was in the kernels' buffers
    assert probe.waits.longest < 0.1


def test_who_pings_now_and_then_is_not_ended(server: Server) -> None:
    """Each ping is answered, also where its payload is as long as it may be."""
    with Subscriber(server) as subscriber:
        subscriber.next()
        for _ in range(30):
            subscriber.connection.socket.sendall(frame(PING, b"x" * 125))
        subscriber.send("hello?")
        with Subscriber(server) as other:
            assert other.next()["type"] == "hello"
        assert subscriber.next()["type"] == "snapshot"
        assert subscriber.close_code is None


def test_small_frames_count_for_more_than_their_bytes(server: Server) -> None:
    """To take one is work, whatever is in it: a thousand that have come at once are not all taken before the end."""
    connection = Connection(server.port, "/events", {"Authorization": f"Bearer {server.token}"})
    pongs = 0
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.socket.settimeout(5)
        connection.socket.sendall(frame(PING) * 1000)
        while True:
            pongs += connection.receive()[0] == 0xA
    assert pongs <= events.SAID_AT_ONCE // events.FRAME_COST + 1


# --- half-open -------------------------------------------------------------------------------------------------------


def reset(wire: Wire) -> None:
    """End it as a killed machine's kernel would: without a goodbye."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.socket.close()


@pytest.mark.parametrize("end", [Wire.finish, reset, lambda wire: wire.socket.close()])
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET /livez HTT",
        request("POST", "/run", [("Content-Length", "1000")]) + b"{",
        request("POST", "/run", [("Transfer-Encoding", "chunked")]) + b"5\r\nab",
        request("GET", "/livez") * 3,
        request("GET", "/openapi.json") * 30,
    ],
)
def test_a_connection_that_ends_anywhere_leaves_nothing(
    server: Server, said: bytes, end: Callable[[Wire], None]
) -> None:
    """Half-closed, reset or closed: its descriptor is free again."""
    before = descriptors(server.pid)
    wires = [Wire(server.port) for _ in range(20)]
    for wire in wires:
        wire.send(said)
        end(wire)
    for wire in wires:
        if wire.socket.fileno() >= 0:
            wire.rest()
            wire.socket.close()
    eventually(lambda: descriptors(server.pid) <= before, 5, "the descriptors are free again")


@pytest.mark.slow
def test_a_subscriber_that_ends_without_a_word_leaves_nothing(server: Server) -> None:
    """A websocket and an event stream that are reset in the middle."""
    before = descriptors(server.pid)
    for _ in range(10):
        with Subscriber(server) as subscriber:
            subscriber.next()
            subscriber.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire = Wire(server.port)
        wire.send(request("GET", "/events", [bearer(server)]))
        assert wire.socket.recv(10)
        reset(wire)
    eventually(lambda: descriptors(server.pid) <= before, 5, "the descriptors are free again")


# --- very many -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_with_few_descriptors_those_that_are_open_are_served(start: Start, stub: Stub, measured: Measured) -> None:
    """The next one is refused until those that say nothing are closed, after ten seconds; descriptors are left."""
    server = start("prlimit", "--nofile=1024:1024")
    with contextlib.ExitStack() as opened:
        kept = opened.enter_context(Wire(server.port))
        with Subscriber(server) as subscriber, idle(server, 3000):
            assert subscriber.next()["type"] == "hello"
            kept.send(request("POST", "/stop", [bearer(server)], b'{"id": "nobody"}'))
            answer = kept.answer()
            assert answer
            assert answer.status == 404
            assert stub.asked
            eventually(lambda: asks_the_engine(server, stub), 20, "there is room again", ignoring=OSError)
            subscriber.until(lambda frame: frame["type"] == "heartbeat", 20)
    eventually(lambda: "connections_full" in server.logs(), 5, "it is logged, once a second")
    assert "Traceback" not in server.logs()
    measured(f"{descriptors(server.pid)} descriptors after it")


@pytest.mark.slow
def test_what_is_held_leaves_room_for_short_calls(start: Start, stub: Stub) -> None:
    """With a token too: streams are counted, the next is told so, and `/stop` and the engine are reached."""
    server = start("prlimit", "--nofile=1024:1024")
    held: list[Wire] = []
    try:
        while True:
            held.append(Wire(server.port))
            held[-1].send(request("GET", "/events", [bearer(server)]))
            if not held[-1].socket.recv(12, socket.MSG_PEEK).endswith(b"200"):
                break
        refused = held[-1].answer()
        assert refused
        assert (refused.status, len(held) > 300) == (429, True)
        assert int(refused.headers["retry-after"]) > 0
        with Subscriber(server) as subscriber:
            assert subscriber.closed() == 4429
        assert server.call("GET", "/status/nobody?wait=5").status in (404, 429)
        for _ in range(5):
            assert asks_the_engine(server, stub)
    finally:
        for wire in held:
            wire.socket.close()
    eventually(lambda: _is_let_in(server), 10, "there is room again")


def _is_let_in(server: Server) -> bool:
    with Subscriber(server) as subscriber:
        try:
            return bool(subscriber.next(2)["type"] == "hello")
        except EOFError:
            return False


@pytest.mark.slow
def test_strangers_of_one_address_leave_room_for_those_of_another(start: Start) -> None:
    """Websockets that have shown no token: one address has its share, and the next takes the place of the oldest."""
    server = start()
    crowd = [Connection(server.port, "/events", {}) for _ in range(100)]
    try:
        with Subscriber(server, token=False) as subscriber:
            subscriber.send(json.dumps({"type": "auth", "token": server.token}))
            assert subscriber.next()["type"] == "hello"
        elsewhere = socket.create_connection((ADDRESS, server.port), source_address=("127.0.0.9", 0), timeout=10)
        with elsewhere:
            handshake = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
            elsewhere.sendall(request("GET", "/events", [*handshake, ("Sec-WebSocket-Key", "eA==")]))
            said = json.dumps({"type": "auth", "token": server.token}).encode()
            elsewhere.sendall(frame(TEXT, said))
            heard = b""
            while b'"hello"' not in heard:
                data = elsewhere.recv(65536)
                assert data, heard
                heard += data
    finally:
        for connection in crowd:
            connection.close()


# --- wrong tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_address_that_guesses_is_throttled_and_a_right_token_is_not(start: Start) -> None:
    """429 and when to try again, in each place where a token is taken; from the same address the right one works."""
    server = start()
    statuses = [server.call("GET", "/status", token=f"wrong{n}").status for n in range(BURST + 5)]
    assert statuses == [401] * BURST + [429] * 5
    reply = server.call("POST", "/run", json={"image": "busybox", "token": "wrong"}, token=False)
    assert (reply.status, int(reply.headers["Retry-After"]) > 0) == (429, True)
    with Subscriber(server, token=False) as subscriber:
        subscriber.send(json.dumps({"type": "auth", "token": "wrong"}))
        assert subscriber.closed() == 4429
    for _ in range(20):
        assert server.call("GET", "/status").status == 200
    with Subscriber(server) as subscriber:
        assert subscriber.next()["type"] == "hello"
    wrong = socket.create_connection((ADDRESS, server.port), source_address=("127.0.0.8", 0), timeout=10)
    with wrong:
        wrong.sendall(request("GET", "/status", [("Authorization", "Bearer wrong")]))
        assert b" 401 " in wrong.recv(65536)


# --- behind a proxy --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_behind_a_trusted_proxy_the_address_is_the_clients(stub: Stub, tmp_path: Path) -> None:
    """In the log and for wrong tokens; of anybody else, and without the option, the header is ignored."""

    def guess(server: Server, client: str, peer: str = ADDRESS) -> int:
        wire = socket.create_connection((ADDRESS, server.port), source_address=(peer, 0), timeout=10)
        with wire:
            fields = [("X-Forwarded-For", client), ("X-Real-IP", "192.0.2.99"), ("Authorization", "Bearer wrong")]
            wire.sendall(request("GET", "/status", fields))
            found = STATUS.match(wire.recv(65536))
        assert found
        return int(found[1])

    trusting = Server(tmp_path / "trusting", stub.host, ["--trusted-proxies", f"{ADDRESS},10.0.0.0/8"])
    plain = Server(tmp_path / "plain", stub.host)
    try:
        for server in (trusting, plain):
            server.start()
        attempts = range(BURST + 5)
        assert {guess(trusting, f"192.0.2.{n}, 10.1.2.3") for n in attempts} == {401}
        assert [guess(trusting, "192.0.2.1, 198.51.100.7") for _ in attempts][-1] == 429
        assert guess(trusting, "198.51.100.8") == 401
        assert [guess(trusting, f"192.0.2.{n}", "127.0.0.9") for n in attempts][-1] == 429
        assert [guess(plain, f"192.0.2.{n}") for n in attempts][-1] == 429
    finally:
        for server in (trusting, plain):
            server.kill()
    lines = [json.loads(line) for line in trusting.logs().splitlines()]
    count = len(attempts)
    assert [line["remote"] for line in lines if line["event"] == "request"] == [
        *(f"192.0.2.{n}" for n in attempts), *["198.51.100.7"] * count, "198.51.100.8", *["127.0.0.9"] * count,
    ]  # fmt: skip
    assert {json.loads(line).get("remote", ADDRESS) for line in plain.logs().splitlines()} == {ADDRESS}


# --- what a stream's head says ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_streams_tell_browsers_to_trust_nothing_either(server: Server) -> None:
    """The head of an event stream, of a log and of a websocket's handshake have the safe headers too."""
    with Sse(server) as sse:
        for name, value in HEADERS.items():
            assert sse.answer.headers[name] == value
    with Wire(server.port) as wire:
        handshake = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
        wire.send(request("GET", "/events", [*handshake, ("Sec-WebSocket-Key", "eA=="), bearer(server)]))
        answer = wire.answer()
        assert answer
        assert answer.status == 101
        assert {name.lower(): value for name, value in HEADERS.items()}.items() <= answer.headers.items()
