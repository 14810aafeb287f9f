"""The whole of quartermaster in the test's own process, over an engine that only notes what it is asked.

All parts are real and built by `app.Server`; the fixtures are imported by name where they are wanted.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeConfigs, FakeContainers, FakeSwarm, container, node, service, task
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.ioloop import IOLoop
from tornado.web import Application

from qmaster.api.routes import make_app
from qmaster.auth.tokens import digest
from qmaster.server import app as app_module
from qmaster.server import config, parts

Json = dict[str, Any]
Ask = Callable[..., Awaitable[HTTPResponse]]

TOKEN = "the-root-token-of-the-tests"
OF_ROOT, OF_BOB, FOREIGN = "s-of-root", "s-of-bob", "s-of-nobody"
BOX_OF_BOB = "b" * 64


def entry(name: str, *lines: str, scopes: str = '"run", "stop", "read"') -> str:
    """A table of the tokens file; the token is the name."""
    table = [f"[{name}]", f'sha256 = "{digest(name.encode()).hex()}"', f"scopes = [{scopes}]", *lines]
    return "\n".join(table) + "\n"


LIMITS = (
    'images = ["busybox", "docker.io/team/*:1.*", "registry.example.com:5000/team/**"]',
    "max_memory = 64",
    "max_cpus = 0.5",
    "max_replicas = 2",
    "max_running = 3",
    'networks = ["blue"]',
    'secrets = ["key"]',
    'ports = [8080, "9000-9009"]',
)
ALICE = entry("alice", *LIMITS)
BOB = entry("bob")


class Health:
    trouble = node_id = None


class Engine:
    """What `app.Server` wants of an engine. It has runs of root, of bob, and of somebody else."""

    def __init__(self, *args: object) -> None:
        self.swarm = FakeSwarm(
            of("root", OF_ROOT, "roots"),
            of("bob", OF_BOB, "bobs"),
            service(FOREIGN, "foreign"),
            tasks=tuple(_running(one) for one in (OF_ROOT, OF_BOB, FOREIGN)),
            nodes=({**node(), "Spec": {"Role": "manager", "Availability": "active"}},),
        )
        self.containers = FakeContainers(container(BOX_OF_BOB, "bobs-box", labels={"io.qmaster.owner": "bob"}))
        self.configs = FakeConfigs()
        self.health = Health()
        self.logs = self.readers = self.events = None

    async def close(self) -> None:
        pass

    def asked(self) -> list[str]:
        """All calls, by name."""
        return self.swarm.names() + self.containers.names()

    def forget(self) -> None:
        """Begin to note anew."""
        self.swarm.calls.clear()
        self.containers.calls.clear()

    def created(self) -> list[Json]:
        """What it was asked to create."""
        return [call[1] for call in self.swarm.calls + self.containers.calls if call[0] == "create"]


def of(owner: str, service_id: str, name: str) -> Json:
    return service(service_id, name, Labels={"io.qmaster.managed": "true", "io.qmaster.owner": owner})


def _running(service_id: str) -> Json:
    return task("running", ID=f"t-{service_id}", ServiceID=service_id, DesiredState="running")


class InProcess:
    """A server whose background work the test does: `engine` is what it asks, `tokens` its tokens file."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.tokens = folder / "tokens.toml"
        self.write(ALICE, BOB)
        flags = {"token": TOKEN, "data_dir": str(folder), "tokens_file": str(self.tokens), **options}
        self.server = app_module.Server(config.load(flags, {}))
        self.engine: Any = self.server.engine
        self._tasks: list[asyncio.Task[None]] = []

    def write(self, *tables: str) -> None:
        self.tokens.write_text("".join(tables))
        self.tokens.chmod(0o600)

    async def start(self) -> None:
        """Open the journal, list once, and look at the tokens file from now on."""
        await self.server.journal.open()
        await self.server.runs.reconciler.load()
        await self.server.runs.reconciler._turn()
        assert self.server.functions
        await self.server.functions.store.reload()
        self.engine.forget()
        assert self.server.token_file
        self._tasks.append(asyncio.create_task(self.server.token_file.run()))

    async def look(self) -> None:
        """What has changed at the engine is seen and told."""
        await self.server.runs.reconciler._list_all(asyncio.get_running_loop().time())
        await self.server.runs.publisher.commit()

    async def stop(self) -> None:
        self.server._tasks = self._tasks
        await self.server.close()


@pytest.fixture
def options() -> dict[str, str]:
    """Options of the server; a test's module may have others."""
    return {}


@pytest.fixture
def home(
    tmp_path: Path, io_loop: IOLoop, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> Iterator[InProcess]:
    monkeypatch.setattr(parts, "Engine", Engine)

    async def make() -> InProcess:
        return InProcess(tmp_path, **options)

    home = io_loop.run_sync(make)
    io_loop.run_sync(home.start)
    yield home
    io_loop.run_sync(home.stop)


@pytest.fixture
def app(home: InProcess) -> Application:
    return make_app(home.server.api)


@pytest.fixture
def ask(http_client: AsyncHTTPClient, base_url: str) -> Ask:
    """`await ask("alice", "POST", "/run", {…})`: an answer of any status, to the token of this name."""

    def ask(
        who: str, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Awaitable[HTTPResponse]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        token = TOKEN if who == "root" else who
        return http_client.fetch(
            base_url + path,
            method=method,
            body=data,
            headers=HTTPHeaders({"Authorization": f"Bearer {token}", **(headers or {})}),
            allow_nonstandard_methods=True,
            raise_error=False,
        )

    return ask
