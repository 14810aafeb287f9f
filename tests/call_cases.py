"""An API whose functions are the test's own, and calls of it."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

import msgspec
import pytest
from api_cases import TOKEN, FakeEventStream, FakeRunService, scrape
from fakes import grant
from invocation_cases import FakeInvoker
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.netutil import bind_sockets
from tornado.web import Application

from qmaster.api.routes import AppState, make_app
from qmaster.auth.authenticator import Authenticator, Identity
from qmaster.errors import HttpError, NotFound
from qmaster.events.unsent import Unsent
from qmaster.functions.dispatcher import Dispatcher
from qmaster.functions.invocations.invocation import Answer, Call, Chunks
from qmaster.functions.invocations.replays import KeyedCalls
from qmaster.functions.versions.service import FunctionService
from qmaster.models.functions import LATEST, FunctionSpec, Version

JSON = "application/json"
Ask = Callable[..., Awaitable[HTTPResponse]]


def version(name: str = "hello", number: int = 3, **spec: Any) -> Version:
    return Version(
        id=f"config-{name}-{number}",
        function=name,
        number=number,
        spec=msgspec.convert({"image": "busybox", **spec}, FunctionSpec),
        image="busybox@sha256:" + "a" * 64,
        owner="root",
        published_at="2026-12-01T00:00:00Z",
    )


def answer(body: bytes = b"42", content_type: str = JSON, **over: Any) -> Answer:
    given = {"instance": "s1", "version": 3, "duration_ms": 1.25, "cold": False, **over}
    return Answer(body, content_type, **given)


def streamed(*parts: bytes, content_type: str = "text/plain", error: HttpError | None = None) -> Answer:
    """An answer whose parts are there, and then its end or an error."""
    chunks = Chunks()
    chunks._parts.extend(parts)
    chunks.end(error)
    return answer(b"", content_type, chunks=chunks)


class FakeFunctions(FunctionService):
    """Functions by name; `eve` sees none of them."""

    def __init__(self) -> None:
        self.there = {
            each.function: each for each in (version(), version("page", url="public"), version("door", url="token"))
        }
        self.asked: list[tuple[str, str | None, str | None]] = []

    def resolve(self, name: str, qualifier: str | None, by: Identity | None) -> Version:
        self.asked.append((name, qualifier, by.name if by else None))
        found = self.there.get(name)
        if found is None or (by and by.name == "eve"):
            raise NotFound(f"no function {name}")
        if qualifier not in (None, LATEST, str(found.number)):
            raise NotFound(f"no version {qualifier}")
        return found


class FakeDispatcher(Dispatcher):
    """Notes each call; answers with what ``answers`` makes of it, ``gate`` holds each up."""

    def __init__(self) -> None:
        self.calls: list[tuple[Version, Call]] = []
        self.left: list[asyncio.Future[None]] = []
        self.gate: asyncio.Event | None = None
        self.answers: Callable[[Call], Answer] = lambda call: answer()

    async def invoke(self, version: Version, call: Call, left: asyncio.Future[None] | None = None) -> Answer:
        self.calls.append((version, call))
        if left is not None:
            self.left.append(left)
        if self.gate:
            await self.gate.wait()
        return self.answers(call)

    def fails(self, error: Exception) -> None:
        def fail(call: Call) -> Answer:
            raise error

        self.answers = fail

    @property
    def last(self) -> Call:
        return self.calls[-1][1]


@dataclass
class Served:
    functions: FakeFunctions = field(default_factory=FakeFunctions)
    dispatcher: FakeDispatcher = field(default_factory=FakeDispatcher)
    unsent: Unsent = field(default_factory=Unsent)
    busy: set[object] = field(default_factory=set)
    counted: list[tuple[str, str, int]] = field(default_factory=list)
    hosts: frozenset[str] = frozenset()
    proxies: tuple[IPv4Network, ...] = ()
    keyed: KeyedCalls | None = None
    invoker: FakeInvoker = field(default_factory=FakeInvoker)


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def dispatcher(served: Served) -> FakeDispatcher:
    return served.dispatcher


@pytest.fixture
def invoker(served: Served) -> FakeInvoker:
    return served.invoker


@pytest.fixture
def calls_app(served: Served) -> Application:
    scopes = frozenset({"invoke"})
    grants = [grant("alice", scopes=scopes), grant("eve", scopes=scopes), grant("reader", scopes=frozenset({"read"}))]
    unused: Any = None
    run_service: Any = FakeRunService()
    event_stream: Any = FakeEventStream()
    return make_app(
        AppState(
            Authenticator(TOKEN, grants),
            run_service,
            run_service,
            run_service,
            event_stream,
            unused,
            unused,
            trouble=lambda: None,
            scrape=scrape,
            count=lambda *request: served.counted.append(request[:3]),
            busy=served.busy,
            unsent=served.unsent,
            hosts=served.hosts,
            trusted_proxies=served.proxies,
            functions=served.functions,
            dispatcher=served.dispatcher,
            function_domain="fn.example.org",
            keyed=served.keyed,
            asynchronous=served.invoker,
        )
    )


@pytest.fixture
def app(calls_app: Application) -> Application:
    return calls_app


@pytest.fixture
def url(calls_app: Application, served: Served) -> Iterator[str]:
    """An API on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    (socket,) = bind_sockets(0, "127.0.0.1")

    async def listen() -> HTTPServer:
        server = HTTPServer(calls_app)
        server.add_socket(socket)
        return server

    async def stop(server: HTTPServer) -> None:
        server.stop()
        await server.close_all_connections()

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    asyncio.run_coroutine_threadsafe(stop(server), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def ask(http_client: AsyncHTTPClient, base_url: str) -> Ask:
    """`await ask("/path", b"…")`: a POST's answer of any status; with the root token, unless headers are given."""

    def ask(path: str, body: bytes | None = b"", headers: Any = None, method: str = "POST", **more: Any) -> Any:
        return http_client.fetch(
            base_url + path,
            method=method,
            body=body,
            headers=HTTPHeaders(bearer() if headers is None else headers),
            allow_nonstandard_methods=True,
            raise_error=False,
            follow_redirects=False,
            **more,
        )

    return ask


def document(response: HTTPResponse) -> Any:
    return json.loads(response.body)
