"""What a request may be, as the handlers see it: under which name, in what form, from which page; and what is told."""

import asyncio
import gc
import gzip
import json
import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from api_cases import BEARER, FakeEventStream, FakeRunService, check_refused, connection, head, scrape
from fakes import until
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.web import Application

from qmaster.api.base import HEADERS, BaseHandler
from qmaster.api.limits import RESERVED, WANTED
from qmaster.api.limits import connections as held_connections
from qmaster.api.pages import POLICY
from qmaster.api.routes import AppState, make_app
from qmaster.auth.authenticator import Authenticator

pytestmark = pytest.mark.gen_test(timeout=20)

Ask = Callable[..., Awaitable[HTTPResponse]]


@pytest.fixture
def run_service() -> FakeRunService:
    return FakeRunService()


@pytest.fixture
def app(run_service: FakeRunService) -> Application:
    parts: dict[str, Any] = {
        **dict.fromkeys(("starter", "run_service", "listing"), run_service),
        "event_stream": FakeEventStream(),
        "broker": None,
        "log_reader": None,
    }
    hosts = frozenset({"qm.example.com", "10.0.0.5", "[::1]"})
    auth = Authenticator(BEARER["Authorization"].removeprefix("Bearer "))
    return make_app(AppState(auth, **parts, trouble=lambda: None, scrape=scrape, hosts=hosts))


@pytest.fixture
def ask(http_client: AsyncHTTPClient, base_url: str) -> Ask:
    """`await ask("GET", "/status", Host="…")`: with the right token, and a name that is served."""

    def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> Awaitable[HTTPResponse]:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = HTTPHeaders({"Host": "qm.example.com", **BEARER, **fields})
        request = HTTPRequest(
            base_url + path, method, sent, body, allow_nonstandard_methods=True, decompress_response=False
        )
        return http_client.fetch(request, raise_error=False)

    return ask


# --- under which name -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["qm.example.com", "QM.example.com:9090", "10.0.0.5", "10.0.0.5:80", "[::1]:9090"])
async def test_a_name_that_is_listed_is_served(ask: Ask, host: str) -> None:
    """In any case, at any port."""
    assert (await ask("GET", "/status", Host=host)).code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "qm.example.com.evil.example", "evil-qm.example.com", "10.0.0.50", "localhost", "[::2]"]
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/status"), ("POST", "/run"), ("GET", "/events"), ("GET", "/nothing")]
)
async def test_another_name_is_refused(
    ask: Ask, run_service: FakeRunService, host: str, method: str, path: str
) -> None:
    """403, with the right token too: a page of that name may have been made to point here (DNS rebinding)."""
    check_refused(await ask(method, path, b"{}" if method == "POST" else None, Host=host), 403, "--allow-host")
    assert run_service.calls == []


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_a_probe_may_come_under_any_name(ask: Ask, path: str) -> None:
    """It asks by an address that nobody lists, and is told nothing of worth."""
    assert (await ask("GET", path, Host="172.17.0.3:9090")).code == 200


# --- in what form -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
async def test_a_compressed_body_is_refused(ask: Ask, run_service: FakeRunService, encoding: str) -> None:
    """Nothing that somebody sends is inflated: a few KiB could become a GiB."""
    body = gzip.compress(json.dumps({"image": "busybox"}).encode())
    check_refused(await ask("POST", "/run", body, Content_Encoding=encoding), 400, "Content-Encoding")
    assert run_service.calls == []


async def test_a_form_of_many_parts_is_not_read(ask: Ask, run_service: FakeRunService) -> None:
    """A body is JSON: no part, and no file, is ever looked for in it."""
    body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nbusybox\r\n--x--\r\n'
    check_refused(await ask("POST", "/run", body, Content_Type="multipart/form-data; boundary=x"), 400, "JSON")
    assert run_service.calls == []


@pytest.mark.parametrize("fields", ["Content-Length: 3", "Content-Length: 2, 3", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("what", ["POST /run", "GET /status", "GET /status/x", "GET /nodes", "GET /livez", "GET /"])
async def test_a_body_whose_end_is_not_certain_is_refused(
    http_client: AsyncHTTPClient, http_port: int, run_service: FakeRunService, fields: str, what: str
) -> None:
    """And nothing more is read from there; also where nobody wants a body."""
    async with connection(http_port) as raw:
        raw.send(
            f"{what} HTTP/1.1\r\nHost: 10.0.0.5\r\nContent-Length: 2\r\n{fields}\r\n\r\n"
            + "{}GET /livez HTTP/1.1\r\n\r\n"
        )
        said = (await raw.reader.read()).decode()
    assert said == "HTTP/1.1 400 Bad Request\r\n\r\n"
    assert run_service.calls == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "closes"),
    [
        ("POST", "/run", {"Host": "evil.example"}, 403, True),
        ("POST", "/run?token=x", {}, 400, True),
        ("POST", "/run", {"Content-Encoding": "gzip"}, 400, True),
        ("BREW", "/run", {}, 405, True),
        ("GET", "/run", {}, 405, False),
        ("GET", "/nothing", {}, 404, False),
        ("GET", "/status", {"Authorization": "Bearer x"}, 401, False),
    ],
)
async def test_an_answer_says_when_it_is_the_last(
    ask: Ask, method: str, path: str, headers: dict[str, str], status: int, closes: bool
) -> None:
    """One that comes before the body was read: the connection is closed then, and who goes on would wonder."""
    answer = await ask(method, path, None, Connection="keep-alive", **headers)
    assert answer.code == status
    assert (answer.headers.get("Connection") == "close") is closes


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[BaseHandler]:
    """The handlers that have begun, and are not forgotten."""
    begun: weakref.WeakSet[BaseHandler] = weakref.WeakSet()
    prepare = BaseHandler.prepare

    def noting(handler: BaseHandler) -> None:
        begun.add(handler)
        prepare(handler)

    monkeypatch.setattr(BaseHandler, "prepare", noting)
    return begun


async def forgotten(handlers: weakref.WeakSet[BaseHandler]) -> None:
    while handlers:
        await asyncio.sleep(0.02)
        gc.collect()


@pytest.mark.parametrize("path", ["/run", "/events"])
async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(
    http_client: AsyncHTTPClient, http_port: int, alive: weakref.WeakSet[BaseHandler], path: str
) -> None:
    """Else anybody could fill the memory by leaving, again and again."""
    for _ in range(3):
        async with connection(http_port) as raw:
            raw.send(f"POST {path} HTTP/1.1\r\nHost: 10.0.0.5\r\nContent-Length: 100\r\n\r\n", '{"image": ')
            await until(lambda: len(alive) > 0)
    await forgotten(alive)


# --- from which page --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin", ["http://[", "https://[::1", "x", "null", "ftp://qm.example.com", "//qm.example.com"]
)
@pytest.mark.parametrize("upgrade", ["websocket", ""])
async def test_an_origin_that_is_none_is_another(ask: Ask, origin: str, upgrade: str) -> None:
    """403, whatever a parser of URLs would say of it."""
    check_refused(await ask("GET", "/events", Origin=origin, Upgrade=upgrade), 403, "--allow-origin")


async def test_a_page_of_another_site_may_not_read_without_an_origin_either(ask: Ask) -> None:
    """The browser says where it comes from in another header."""
    check_refused(await ask("GET", "/events", Sec_Fetch_Site="cross-site"), 403, "--allow-origin")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "Connection: Upgrade"),
        ({"Connection": "close"}, "Connection: Upgrade"),
        ({"Connection": "Upgrade"}, "Sec-WebSocket-Key"),
        ({"Connection": "Upgrade", "Sec-WebSocket-Version": "13"}, "Sec-WebSocket-Key"),
        ({"Connection": "Upgrade", "Sec-WebSocket-Version": "8", "Sec-WebSocket-Key": "x"}, "Sec-WebSocket-Version"),
    ],
)
async def test_a_handshake_that_is_none_is_refused(ask: Ask, fields: dict[str, str], says: str) -> None:
    """In the one shape of errors, as everything is."""
    check_refused(await ask("GET", "/events", Upgrade="websocket", **fields), 400, says)


# --- what browsers are told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/livez", {}, 200),
        ("GET", "/status", {}, 200),
        ("GET", "/metrics", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("GET", "/openapi.json", {"If-None-Match": "*"}, 200),
        ("GET", "/", {"If-None-Match": "*"}, 304),
        ("GET", "/status", {"Authorization": "x"}, 401),
        ("GET", "/", {"Host": "evil.example"}, 403),
        ("GET", "/nothing", {}, 404),
        ("PUT", "/run", {}, 405),
        ("BREW", "/", {}, 405),
    ],
)
async def test_every_answer_tells_browsers_to_trust_nothing(
    ask: Ask, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Whatever it is: nothing in it is run, guessed, kept, or shown in another page."""
    answer = await ask(method, path, None, **headers)
    told = {name: answer.headers.get(name) for name in HEADERS}
    expected: dict[str, str | None] = dict(HEADERS)
    if path == "/":
        policy = POLICY.format(scripts=f"{headers.get('Host', 'qm.example.com')}/static/")
        expected |= {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
    assert (answer.code, told) == (status, expected)


async def test_a_connection_that_breaks_in_the_middle_of_an_answer_is_no_failure(
    http_client: AsyncHTTPClient, http_port: int, run_service: FakeRunService, alive: weakref.WeakSet[BaseHandler]
) -> None:
    """Reset, as by a client that was killed: what was begun goes on."""
    run_service.gate = asyncio.Event()
    body = json.dumps({"image": "busybox"})
    async with connection(http_port) as raw:
        raw.send(head(f"Content-Length: {len(body)}").replace("Host: x", "Host: 10.0.0.5"), body)
        await until(lambda: bool(run_service.calls))
        raw.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    run_service.gate.set()
    await forgotten(alive)


# --- how many connections ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(WANTED, WANTED - RESERVED), (1024, 768), (256, 128), (10, 5)]
)
async def test_some_descriptors_are_not_for_connections(descriptors: int, connections: int) -> None:
    """The engine and the journal need theirs; of few, that is half."""
    assert held_connections(descriptors) == connections
