"""Whatever is sent without the right token, or in the wrong form: an answer, and nothing else happens."""

import gzip
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from api_cases import NOT_JSON
from fakes import steady
from hypothesis import given, settings
from hypothesis import strategies as st
from request_cases import WRONG
from testbed.probe import Probe, resident
from testbed.raw import Answer, Wire, request
from testbed.server import Server
from testbed.stub import Stub
from testbed.wait import eventually

from docs import routes
from qmaster.api.base import HEADERS
from qmaster.models.requests import RunRequest

pytestmark = pytest.mark.slow

SEED = 20_240_506
THREADS = 6
BATCH = 16  # requests sent at once
STALL = 0.3  # seconds of a busy machine
GROWTH = 6 * 1024  # KiB
BARE = b"HTTP/1.1 400 Bad Request\r\n\r\n"  # what is no HTTP is answered with

METHODS = ["GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "FOO", "M" * 200]
PATHS = [
    *("/run", "/start", "/stop", "/status", "/status/x", "/logs/x", "/nodes", "/stats", "/events", "/"),
    "/static/index.html",
    *("/static/page.js", "/metrics", "/openapi.json", "/livez", "/readyz"),
    *("/functions", "/functions/x", "/functions/x/versions", "/functions/x/rollback", "/functions/x/logs"),
    *("/functions/x/invoke", "/2015-03-31/functions/x/invocations", "/fn/x/a"),
    *("/2021-11-15/functions/x/response-streaming-invocations", "/invocations", "/invocations/x"),
    *("/invocations/x/redrive", "/functions/x/redrive"),
]
ODD_PATHS = [
    *("*", "//", "/run/", "/RUN", "/run//", "//run", "/run;x", "/run%2f", "/%72un", "/run%00", "/status/", "/logs/"),
    *("/static/../../../etc/passwd", "/static/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/static/..%5c", "/static/", "/../run"),
    *("/status/%00", "/status/%ff", "/status/%", "/status/..", "/status/a%2fb", "/status/%0d%0aX:%20y", "/logs/%25"),
    *(
        "http://localhost/run",
        "http://user:pw@localhost/run",
        "localhost:443",
        "/" + "a" * 4000,
        "/status/" + "%41" * 900,
    ),
    *("/services/create", "/containers/json", "/v1.41/info", "/.git/config", "/ä", "/status/\udcff\udcfe", "/\x7f"),
]
QUERIES = [
    *(
        "",
        "",
        "",
        "",
        "?",
        "?x=1",
        "?token=abc",
        "?Token=",
        "?access_token=x",
        "?a&b&c",
        "?%ff=%fe",
        "?status=nonsense",
    ),
    *("?limit=0", "?limit=-1", "?limit=1e3", "?limit=" + "9" * 5000, "?label==", "?wait=-1", "?wait=nan", "?tail=x"),
    *("?since=%00", "?since=a:b", "?topic=x,y", "?all=2", "?follow=maybe", "?" + "&".join(["x=1"] * 60), "?;=;", "?="),
    *("?" + "a" * 6000, "?" + "&".join(f"k{n}={n}" for n in range(900)), "?x=%", "?name=%00&name=%0a", "?stream=stdin"),
]
WRONG_TOKENS = [
    *(
        "Bearer wrong",
        "Bearer",
        "Bearer ",
        "bearer  x",
        "Basic dXNlcjpwdw==",
        "Bearer a b",
        "",
        "Token x",
        "Bearer \t x",
    ),
    *("Bearer " + "t" * 9000, "Bearer \udcff\udcfe", "Bearer ключ", 'Digest username="x"', "Bearer null", "Bearer %00"),
]
ODD_HEADERS = [
    *(("Content-Type", each) for each in ("application/xml", "multipart/form-data; boundary=x", "text/html", "\udcff")),
    *(("Content-Encoding", each) for each in ("gzip", "deflate", "br", "identity", "x, y")),
    *(("X-Request-ID", each) for each in ("a b", "x" * 300, '"}', "../..", "\udcff", "ok-1")),
    *(("Prefer", each) for each in ("respond-async", "respond-async, wait=1", ",;,", "\udcff", "")),
    *(("X-Amz-Invocation-Type", each) for each in ("Event", "DryRun", "x", "")),
    *(("Idempotency-Key", each) for each in ("", "a b", "k" * 256, "\udcff", "ok")),
    *(("Origin", each) for each in ("null", "http://evil.example", "http://localhost", "x", "http://[")),
    *(("Host", each) for each in ("evil.example", "", "a,b", "[::1]:x", "a b", "localhost:99999")),
    *(("Upgrade", each) for each in ("websocket", "h2c", "WebSocket", "")),
    *(("Connection", each) for each in ("Upgrade", "keep-alive, Upgrade", "close", "x")),
    *(("Sec-WebSocket-Version", each) for each in ("13", "8", "x")),
    *(("Expect", each) for each in ("100-continue", "x")),
    *(("Range", "bytes=0-9999999999"), ("If-None-Match", "*"), ("If-Modified-Since", "x"), ("Accept", "\udcff" * 100)),
    *(("Cookie", "a=" + "b" * 3000), ("Last-Event-ID", "\udcff"), ("X-Forwarded-For", "1.2.3.4"), ("Te", "trailers")),
    *(("Sec-WebSocket-Key", "x"), ("Sec-WebSocket-Extensions", "permessage-deflate"), ("Forwarded", 'for="[::]"')),
    *(("Sec-Fetch-Site", each) for each in ("cross-site", "same-site", "same-origin", "none", "x")),
    ("X" * 3000, "y"),
]
FRAMING = [
    *(("Content-Length", each) for each in ("5", "0", "-1", "+5", "5, 5", "0x5", "9" * 30, "")),
    *(
        ("Transfer-Encoding", each)
        for each in ("gzip", "chunked", "identity", "chunked, chunked", "\tchunked", "xchunked")
    ),
]
ODD_BODIES = [
    *NOT_JSON,
    *(b"", b"\0" * 100, b"\xef\xbb\xbf{}", b"{" * 30_000, b'{"a":' * 5_000, b'"' + b"x" * 60_000, b"\xff" * 65_000),
    *(
        b'{"image": "\\ud800"}',
        b'{"memory": ' + b"9" * 6_000 + b"}",
        b'{"cpus": 1e999}',
        b'{"\\u0000": 1}',
        b"{}",
        b"0",
    ),
    *(b'{"token": 1}', b'{"token": null}', b'{"token": ["x"]}', b'{"token": "' + b"t" * 60_000 + b'"}', b'{"": {}}'),
    *(
        b"{" + b",".join(b'"k%d":%d' % (n, n) for n in range(4_000)) + b"}",
        b"x" * 65_536,
        b"x" * 65_537,
        b"x" * 200_000,
    ),
    *(gzip.compress(b'{"image": "busybox"}'), gzip.compress(b"\0" * 10_000_000), b"a=1&b=2", b"<?xml version='1.0'?>"),
    b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nc\r\n--x--\r\n',
]
INSERTED = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\xff",
    b"%",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n\r\n",
    b"0\r\n",
]


@dataclass(frozen=True)
class Sent:
    """A request with where its body ends beyond doubt. `raw` is all of it."""

    raw: bytes
    head: bool = False


class Corpus:
    """Draws hostile requests, the same ones for the same seed; the right token only where it leads nowhere."""

    def __init__(self, seed: int, token: str) -> None:
        self.random = random.Random(seed)
        self.token = token

    def draw(self) -> Sent:
        return self.random.choices([self._stranger, self._insider], [3, 1])[0]()

    def broken(self) -> bytes:
        """Of no certain form: a request of a stranger with some bytes changed."""
        framing = [self.random.choice(FRAMING) for _ in range(self.random.choice([0, 0, 1, 2]))]
        data = bytearray(self._stranger(framing).raw[:20_000])
        for _ in range(self.random.randint(1, 4)):
            self.random.choice([self._flip, self._insert, self._cut, self._double])(data)
        return bytes(data)

    def _stranger(self, more: Sequence[tuple[str, str]] = ()) -> Sent:
        pick = self.random.choice
        method = pick(METHODS[: pick([2, 2, len(METHODS)])])
        target = pick(pick([PATHS, PATHS, PATHS, ODD_PATHS])) + pick(QUERIES)
        headers = [*more, *(pick(ODD_HEADERS) for _ in range(pick([0, 0, 1, 1, 2, 5])))]
        headers += [("Authorization", pick(WRONG_TOKENS)) for _ in range(pick([0, 1, 1, 2]))]
        body = pick([None, None, *map(self._body, range(3))]) if method != "POST" else self._body()
        if body and pick([False, False, False, True]):
            raw = request(method, target, [*headers, ("Transfer-Encoding", "chunked")]) + self._chunked(body)
        else:
            raw = request(method, target, headers, body)
        return Sent(raw, method == "HEAD")

    def _insider(self) -> Sent:
        """Who has the token, and does not know how to use it."""
        pick = self.random.choice
        token = ("Authorization", f"Bearer {self.token}")
        if pick([True, False]):
            field, value = pick(WRONG)
            body = pick(
                [{"image": "busybox", field: value}, {field: value, "nonsense": 1}, {"id": 5}, {"image": [value]}]
            )
            return Sent(request("POST", pick(["/run", "/start", "/stop"]), [token], json.dumps(body).encode()))
        if pick([True, False]):
            return Sent(request("POST", pick(["/run", "/start", "/stop"]), [token], self._useless()))
        return Sent(request("GET", pick(["/status", "/nodes", "/status", "/events?x=1", "/run"]), [token], None))

    def _useless(self) -> bytes:
        return self.random.choice([body for body in ODD_BODIES if len(body) < 66_000])

    def _body(self, _: int = 0) -> bytes:
        pick = self.random.choice
        if pick([True, False]):
            return self._useless()
        if self.random.random() < 0.02:
            return pick(ODD_BODIES)
        field, value = pick(WRONG)
        return json.dumps({"image": "busybox", "token": pick(["x", "", 5, None, "\ud800"]), field: value}).encode()

    def _chunked(self, body: bytes) -> bytes:
        pieces = []
        while body:
            size = self.random.randint(1, max(1, len(body)))
            pieces.append(b"%x\r\n%s\r\n" % (size, body[:size]))
            body = body[size:]
        return b"".join([*pieces, b"0\r\n\r\n"])

    def _flip(self, data: bytearray) -> None:
        data[self.random.randrange(len(data))] = self.random.randrange(256)

    def _insert(self, data: bytearray) -> None:
        at = self.random.randrange(len(data))
        data[at:at] = self.random.choice(INSERTED)

    def _cut(self, data: bytearray) -> None:
        at = self.random.randrange(len(data))
        del data[at : at + self.random.choice([1, 2, 40])]
        data[:] = data or b"x"

    def _double(self, data: bytearray) -> None:
        at = self.random.randrange(len(data))
        data[at:at] = data[max(0, at - self.random.choice([1, 30, 200])) : at]


class Storm:
    """Sends them to a server, and looks at each answer."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.statuses: Counter[str] = Counter()

    def send(self, requests: Sequence[Sent]) -> None:
        """Several at once on one connection; on another one from where that was closed."""
        left = list(requests)
        while left:
            with Wire(self.server.port) as wire:
                wire.send(b"".join(each.raw for each in left))
                left = left[self._answered(wire, left) :]

    def send_broken(self, data: bytes) -> None:
        """Alone, as nobody knows where it ends."""
        with Wire(self.server.port) as wire:
            wire.send(data)
            wire.finish()
            said = wire.rest()
        statuses = re.findall(rb"^HTTP/1\.1 (\d{3})", said, re.MULTILINE)
        assert all(status < b"500" for status in statuses), (data, said)
        assert b"Traceback" not in said
        self.statuses["broken"] += 1

    def _answered(self, wire: Wire, requests: Sequence[Sent]) -> int:
        """How many of them are done with when the connection is closed, or all are answered."""
        for number, sent in enumerate(requests, 1):
            answer = wire.answer(sent.head)
            if answer is None and number > 1:
                return number - 1  # an earlier one has ended the connection
            if answer is None:
                self.statuses["closed"] += 1
                return number
            check(sent, answer)
            self.statuses[str(answer.status)] += 1
            if wire.closed or answer.status == 101 or answer.headers.get("connection") == "close":
                return number
        return len(requests)


def check(sent: Sent, answer: Answer) -> None:
    """What holds for every answer."""
    assert 101 <= answer.status < 500, (sent, answer)
    assert b"Traceback" not in answer.body
    if answer.raw == BARE:
        return
    missing = [name for name in HEADERS if name.lower() not in answer.headers]
    assert not missing, (missing, sent, answer)
    if answer.status >= 400 and not sent.head:
        problem = json.loads(answer.body)
        if "x-amzn-errortype" in answer.headers:  # the routes of AWS have its errors
            assert problem.keys() <= {"Type", "message", "Reason"}
            return
        assert (problem["success"], problem["code"]) == (False, answer.status)
        assert problem["instance"] == answer.headers["x-request-id"]


@pytest.fixture(scope="module")
def storm(stub: Stub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storm]:
    server = Server(tmp_path_factory.mktemp("hostile") / "server", stub.host)
    server.start()
    try:
        eventually(lambda: server.call("GET", "/readyz").status == 200, 10, "it is ready")
        stub.asked.clear()
        yield Storm(server)
    finally:
        server.kill()


def side_by_side(work: Callable[[int], None]) -> None:
    """Do it in each of several threads; raise what one of them has raised."""
    raised: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def nothing_happened(storm: Storm, stub: Stub) -> None:
    """The engine was asked nothing, and the log has no failure."""
    assert stub.asked == []
    assert storm.server.failures() == []


def test_the_corpus_has_every_route() -> None:
    """One that is added without being shown here fails."""
    missing = [pattern for _, pattern in routes() if not any(re.fullmatch(pattern, path) for path in PATHS)]
    assert missing == []


@pytest.mark.timeout(900)
def test_a_storm_of_requests_changes_nothing(
    storm: Storm, stub: Stub, request: pytest.FixtureRequest, measured: Callable[[str], None]
) -> None:
    """No 5xx, no traceback, nothing asked of the engine, nobody kept waiting, and no memory kept."""
    total: int = request.config.getoption("--hostile-requests")
    server = storm.server
    corpora = [Corpus(SEED + number, server.token) for number in range(THREADS)]

    def blow(share: float) -> None:
        rounds = int(total * share / THREADS / (BATCH + 1)) + 1

        def work(number: int) -> None:
            for _ in range(rounds):
                storm.send([corpora[number].draw() for _ in range(BATCH)])
                storm.send_broken(corpora[number].broken())

        side_by_side(work)

    with Probe(server) as probe:
        blow(0.25)
        early = resident(server.pid)
        blow(0.75)
        late = resident(server.pid)
    sent = sum(storm.statuses.values())
    measured(f"{sent} requests; {probe.waits}; {early} KiB, then {late} KiB; {dict(storm.statuses)}")
    assert sent >= total
    assert probe.waits.longest < STALL
    assert late - early < GROWTH
    nothing_happened(storm, stub)


# What nobody thought of: of any characters but those that would make two requests of one.
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from([*RunRequest.__struct_fields__, "token", "id"]) | st.text(max_size=10)
BODIES = (
    st.none()
    | st.binary(max_size=300)
    | st.dictionaries(FIELDS, VALUES, max_size=6).map(lambda document: json.dumps(document).encode())
)
HEADER_NAMES = st.sampled_from(sorted({name for name, _ in ODD_HEADERS} | {"Authorization"})) | WORDS
FORBIDDEN = ("content-length", "transfer-encoding")  # they would make two of one as well


@st.composite
def strangers(draw: st.DrawFn) -> Sent:
    method = draw(st.sampled_from(METHODS))
    query = draw(st.just("") | WORDS.map(lambda text: f"?{text}") | st.sampled_from(QUERIES))
    drawn = draw(st.lists(st.tuples(HEADER_NAMES, WORDS), max_size=4))
    headers = [(name, value) for name, value in drawn if name.strip().lower() not in FORBIDDEN]
    raw = request(method, draw(st.sampled_from(PATHS) | WORDS) + query, headers, draw(BODIES))
    return Sent(raw, method == "HEAD")


@settings(steady, max_examples=50)
@given(batch=st.lists(strangers(), min_size=8, max_size=BATCH))
def test_nor_does_what_nobody_thought_of(storm: Storm, stub: Stub, batch: list[Sent]) -> None:
    """The same, for requests that are drawn, and made small where one of them shows a mistake."""
    storm.send(batch)
    nothing_happened(storm, stub)
