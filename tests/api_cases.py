"""An API with fakes behind it, and calls of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog
from fakes import service, task
from invocation_cases import FakeInvoker, invocation
from swarm_cases import NODES, NOW
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.web import Application
from version_cases import config
from version_cases import service as function_service

from qmaster import errors
from qmaster.api.routes import AppState, make_app
from qmaster.auth.authenticator import Authenticator, Identity
from qmaster.functions.versions.service import FunctionService
from qmaster.models.requests import Key, RunRequest, Started
from qmaster.models.responses import DryRun, Result, Service
from qmaster.runs.listing import Listed, ListQuery, Part
from qmaster.runs.views import status as lifecycle

TOKEN = "a-token-for-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
IMAGE = {"image": "busybox"}

Ask = Callable[..., Awaitable[HTTPResponse]]


class FakeRunService:
    """Notes what it is asked; ``error`` is raised by each verb, ``gate`` holds each up."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.breaks: Exception | None = None  # a listing, behind its first page
        self.gate: asyncio.Event | None = None
        self.views: list[Service] = []
        self.following: tuple[str, str] | None = None  # the key of a listing's last run
        self.settled: int | None = None
        self.replays = False
        self.warnings: tuple[str, ...] = ()
        self.left: asyncio.Future[None] | None = None
        self.logged_as: list[object] = []

    async def _note(self, *call: Any) -> None:
        self._ask(*call)
        if self.gate:
            await self.gate.wait()
        self._fail()

    def _ask(self, *call: Any) -> None:
        self.calls.append(call)
        self.logged_as.append(structlog.contextvars.get_contextvars().get("request"))

    def _fail(self) -> None:
        if self.error:
            raise self.error

    async def run(self, request: RunRequest, by: Identity, key: Key | None = None) -> Started:
        await self._note("run", request, by.name, *([key] if key else []))
        return Started("s1", self.replays, self.warnings)

    async def dry_run(self, request: RunRequest, by: Identity) -> DryRun:
        await self._note("dry_run", request, by.name)
        return DryRun(image=request.image, spec=request.shown(), warnings=list(self.warnings))

    async def stop(self, name_or_id: str, by: Identity) -> str:
        await self._note("stop", name_or_id)
        return "s1"

    async def status(self, name_or_id: str, by: Identity) -> Service:
        await self._note("status", name_or_id)
        return self.views[0]

    async def when_over(self, name_or_id: str, seconds: float, left: asyncio.Future[None], by: Identity) -> Service:
        self.left = left
        await self._note("when_over", name_or_id, seconds)
        return self.views[0]

    @property
    def revision(self) -> object:
        """Another each time, as ``views`` may be set anew, unless ``settled`` names one."""
        return object() if self.settled is None else self.settled

    def there(self, owner: str | None, wanted: ListQuery) -> Listed:
        self._ask("listing", wanted.removed)
        self._fail()
        return Listed(list(filter(wanted.keeps, self.views))[: wanted.limit], self.following)

    async def parts(self, owner: str | None, wanted: ListQuery) -> AsyncIterator[Part]:
        if wanted.removed:
            await self._note("listing", True)
        rows = [msgspec.json.encode(view) for view in self.views if wanted.keeps(view)][: wanted.limit]
        yield Part(rows, self.following)
        if self.breaks:
            raise self.breaks


class State(NamedTuple):
    run_service: FakeRunService
    trouble: list[errors.HttpError]
    auth: Authenticator
    busy: set[object]
    counted: list[tuple[str, str, int]]
    functions: FunctionService
    invoker: FakeInvoker


@pytest.fixture
def state() -> State:
    functions = function_service(*(config("resize", number, memory=64 + number) for number in range(1, 4)))
    invoker = FakeInvoker()
    invoker.there["nap"] = invocation("nap")
    return State(FakeRunService(), [], Authenticator(TOKEN), set(), [], functions, invoker)


@pytest.fixture
def run_service(state: State) -> FakeRunService:
    return state.run_service


class FakeEventStream:
    cursor = "epoch:1"


async def scrape(accept: str) -> tuple[bytes, str]:
    return f"metrics for {accept}".encode(), "text/plain; version=0.0.4"


@pytest.fixture
def app(state: State) -> Application:
    parts: dict[str, Any] = {
        **dict.fromkeys(("starter", "run_service", "listing"), state.run_service),
        "event_stream": FakeEventStream(),
        "broker": None,
        "log_reader": None,
    }
    return make_app(
        AppState(
            state.auth,
            **parts,
            trouble=lambda: state.trouble[0] if state.trouble else None,
            scrape=scrape,
            count=lambda *request: state.counted.append(request[:3]),
            busy=state.busy,
            functions=state.functions,
            asynchronous=state.invoker,
        )
    )


@pytest.fixture
def ask(http_client: AsyncHTTPClient, base_url: str) -> Ask:
    """`await ask("POST", "/run", {…})`: an answer of any status; with the right token, unless headers are given."""

    def ask(
        method: str, path: str, body: object = None, headers: dict[str, str] | HTTPHeaders | None = None
    ) -> Awaitable[HTTPResponse]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return http_client.fetch(
            base_url + path,
            method=method,
            body=data,
            headers=BEARER if headers is None else headers,
            allow_nonstandard_methods=True,
            raise_error=False,
        )

    return ask


def document(answer: HTTPResponse) -> Any:
    assert answer.headers["Content-Type"] in ("application/json", "application/problem+json")
    return json.loads(answer.body)


def check_refused(answer: HTTPResponse, status: int, says: str = "") -> None:
    """The one shape of errors: its status three times, its detail twice, and the request's id."""
    problem = document(answer)
    assert (answer.code, problem["code"], problem["status"]) == (status, status, status), problem
    assert problem["success"] is False
    assert problem["error"] == problem["detail"]
    assert says in problem["error"]
    assert problem["instance"] == answer.headers["X-Request-ID"]
    assert set(problem) == {"success", "error", "code", "type", "title", "status", "detail", "instance"}
    assert answer.headers["Content-Type"] == "application/problem+json"


RESULT = Result(exit_code=0, stdout="hi\n", stderr="", truncated=False, tasks=[])
GOING_ON = lifecycle.service(service(), [task("running")], NODES, NOW)
OVER = msgspec.structs.replace(
    lifecycle.service(service(), [task("complete", code=0)], NODES, NOW), owner="root", result=RESULT
)


NOT_JSON = [
    b"image=busybox",
    b"[]",
    b'"busybox"',
    b"null",
    b" ",
    b'{"image": "busy\xffbox"}',
    b'{"image": "busybox", "cpus": NaN}',
    b'{"image": "busybox", "cpus": Infinity}',
    b'{"image": "busybox", "image": "busybox"}',
    b'{"image": "busybox", "env": {"A": "1", "A": "2"}}',
    b'{"image": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    b'{"image": "busybox"',
]


# --- over a socket: what no client library sends ----------------------------------------------------------------------


class Raw(NamedTuple):
    """A connection, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, *parts: str | bytes) -> None:
        for part in parts:
            self.writer.write(part.encode() if isinstance(part, str) else part)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.title(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("Content-Length", "0")))
        return int(head[0].split()[1]), headers, json.loads(body) if body else None


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[Raw]:
    raw = Raw(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield raw
    finally:
        raw.writer.close()


def head(*lines: str, path: str = "/run", method: str = "POST") -> str:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", *lines, "", ""])
