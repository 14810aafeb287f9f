"""The fixtures that give tests real engines. Each thing is made once per run, when a test first asks for it."""

import asyncio
import inspect
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import structlog
from testbed import Bed, Engine, Proxy, Registry, Server, Ssh, Swarm, TlsEngine, eventually
from testbed.browser import Chromium, Visit
from testbed.debian import Debian
from testbed.stub import Stub, stub_engine
from testbed.tidy import tidy, tidy_plain

StartServer = Callable[..., Server]
Browse = Callable[..., Visit]


def pytest_configure(config: pytest.Config) -> None:
    # Else the first test on a loop makes one beside it that nobody closes, and whichever test runs as it is collected
    # fails for it.
    asyncio.set_event_loop(None)
    # structlog's default draws a traceback with Rich, for a quarter of a second each.
    draw = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], draw])
    config.addinivalue_line("markers", "engine: needs a real engine, so root and Docker (set by the fixtures it uses)")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-jobs", type=int, default=60, help="jobs in test_stream_chaos: 500 is the full run")
    parser.addoption("--kills", type=int, default=10, help="kills in test_kills: 100 is the full run")
    parser.addoption("--page-seconds", type=float, default=10, help="how long the page is watched: 300 is the full run")
    parser.addoption("--canary-requests", type=int, default=2_000, help="in test_canary: 10000 is the full run")
    parser.addoption("--hostile-requests", type=int, default=12_000, help="in test_hostile: 100000 is the full run")
    parser.addoption("--contract-calls", type=int, default=20, help="in test_contract: 40 is the full run")
    parser.addoption("--flood-seconds", type=float, default=3, help="in test_flood: 30 is the full run")
    parser.addoption("--engine-root", type=Path, default=None, help="a folder with the Debian whose engine is used")
    parser.addoption("--screenshots", type=Path, default=None, help="a folder for the README's picture of the page")


MEASURED = pytest.StashKey[list[str]]()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`measured(text)`: a line that the run's summary shows, whatever becomes of the test."""
    lines = request.config.stash.setdefault(MEASURED, [])
    return lambda text: lines.append(f"{request.node.name}: {text}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(MEASURED, []):
        terminalreporter.write_line(line)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let SIGTERM end the run in order, as Ctrl-C does."""

    def terminated(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # only the first counts, so that the teardown is not cut short
        session.shouldstop = "terminated"  # should the interrupt be lost, as one raised in a `__del__` is
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"bed", "chromium"} & set(getattr(item, "fixturenames", ())):  # all of them build on these
            item.add_marker(pytest.mark.engine)
    items.sort(key=lambda item: item.get_closest_marker("late") is not None)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run what uses the browser on the browser's thread."""
    chromium = pyfuncitem.funcargs.get("chromium")
    if not isinstance(chromium, Chromium):
        return None
    asked = inspect.signature(pyfuncitem.obj).parameters
    chromium.do(lambda: pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in asked}))
    return True


@pytest.fixture(scope="session")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """The testbed of this run."""
    with Bed(request.config.getoption("--engine-root")) as made:
        yield made


@pytest.fixture(scope="session")
def debian(bed: Bed) -> Iterator[Debian]:
    """A small Debian with Python, as a base of images."""
    made = Debian(bed.root / "debian")
    yield made
    made.end()


@pytest.fixture(scope="session", autouse=True)
def _begin_what_takes_long(request: pytest.FixtureRequest) -> None:
    """The Debian, as soon as it is known that a test will ask for it."""
    if any("debian" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("debian")


@pytest.fixture(scope="session")
def engine(bed: Bed) -> Engine:
    """An engine that is a swarm of one node, with `busybox:local`."""
    return bed.single("single")


@pytest.fixture(scope="session")
def plain_engine(bed: Bed) -> Engine:
    """An engine outside any swarm, with `busybox:local`."""
    engine = bed.engine("plain")
    engine.start()
    engine.load_busybox()
    return engine


@pytest.fixture(scope="session")
def tls_engine(bed: Bed) -> TlsEngine:
    """An engine reached over TCP with TLS: a swarm of one node, with `busybox:local`."""
    engine = bed.tls_engine("tls")
    engine.start()
    engine.swarm_init()
    engine.load_busybox()
    return engine


@pytest.fixture(scope="session")
def ssh(engine: Engine) -> Ssh:
    """A way to `engine` over ssh."""
    if not Ssh.available():
        pytest.skip("needs openssh-server")
    ssh = Ssh(engine)
    ssh.start()
    return ssh


@pytest.fixture(scope="session")
def swarm(bed: Bed) -> Swarm:
    """A manager and two workers, each with `busybox:local`."""
    return bed.three()


@pytest.fixture(scope="session")
def bridged_swarm(bed: Bed) -> Swarm:
    """A manager and two workers whose containers reach the host, each with `busybox:local`.

    What a test does to it and leaves on it stays; `clean_bridged_swarm` undoes that.
    """
    swarm = bed.swarm("b-manager", "b-worker-1", "b-worker-2", bridge=True)
    swarm.form()
    return swarm


@pytest.fixture
def clean_bridged_swarm(bridged_swarm: Swarm) -> Iterator[Swarm]:
    """`bridged_swarm`, restored and cleared after the test."""
    yield bridged_swarm
    bridged_swarm.restore()
    tidy(bridged_swarm.manager, bridged_swarm.nodes)
    for node in bridged_swarm.nodes:
        node.close_clients()


@pytest.fixture(scope="session")
def registry(bed: Bed) -> Registry:
    """A private registry that all engines may reach; what it holds is pushed by the tests."""
    registry = bed.registry()
    registry.start()
    return registry


@pytest.fixture
def proxy(bed: Bed, engine: Engine) -> Iterator[Proxy]:
    """A proxy in front of `engine`, transparent until told otherwise."""
    proxy = bed.proxy(engine)
    yield proxy
    proxy.close()


@pytest.fixture
def start_server(bed: Bed) -> Iterator[StartServer]:
    """`start_server(host, *args, **env)`: a quartermaster on the engine at `host`, ended after the test.

    `wrapper` is a program that becomes it, with its arguments.
    """
    servers: list[Server] = []

    def start(host: str, *args: str, wrapper: Sequence[str] = (), **env: str) -> Server:
        server = bed.server(host, args, env)
        server.wrapper += wrapper
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def server(start_server: StartServer, engine: Engine) -> Server:
    """A quartermaster on `engine`."""
    return start_server(engine.host)


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    """An engine that knows nothing and notes what it is asked; it wants no root."""
    with stub_engine(tmp_path_factory.mktemp("stub") / "engine.sock") as made:
        yield made


@pytest.fixture(scope="module")
def shared(bed: Bed, engine: Engine) -> Iterator[Server]:
    """A quartermaster on `engine` that the tests of a file share; it is ready."""
    server = bed.server(engine.host)
    server.start()
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def _proxied(bed: Bed, engine: Engine) -> Iterator[tuple[Proxy, Server]]:
    proxy = bed.proxy(engine)
    server = bed.server(proxy.host)
    server.start()
    yield proxy, server
    server.kill()
    proxy.close()


@pytest.fixture
def front(_proxied: tuple[Proxy, Server], engine: Engine) -> Iterator[Proxy]:
    """A proxy in front of `engine` that the tests of a file share; it is transparent at the beginning of each."""
    proxy, server = _proxied
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    proxy.forget()
    yield proxy
    proxy.clear()


@pytest.fixture
def behind(front: Proxy, _proxied: tuple[Proxy, Server]) -> Server:
    """The quartermaster behind `front`; it is ready."""
    return _proxied[1]


@pytest.fixture(scope="module")
def swarm_shared(bed: Bed, swarm: Swarm) -> Iterator[Server]:
    """A quartermaster on the manager of `swarm` that the tests of a file share; it is ready."""
    server = bed.server(swarm.manager.host)
    server.start()
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    yield server
    server.kill()


@pytest.fixture
def swarm_server(start_server: StartServer, swarm: Swarm) -> Server:
    """A quartermaster on the manager of `swarm`."""
    return start_server(swarm.manager.host)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A browser. Who asks for it runs on its thread."""
    chromium = Chromium()
    chromium.start()
    yield chromium
    chromium.close()


@pytest.fixture
def browse(chromium: Chromium) -> Iterator[Browse]:
    """`browse(url, **options)`: the page there, in a profile of its own; the options are those of Playwright's context.

    The test fails where something went wrong in the page, or it asked another origin.
    """
    visits: list[Visit] = []

    def visit(url: str, **options: Any) -> Visit:
        visits.append(Visit(chromium, url, **options))
        return visits[-1]

    yield visit
    for one in visits:
        chromium.do(one.close)


@pytest.fixture(autouse=True)
def _restore(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test: undo what it did to its engines, and remove what it left on them."""
    yield
    used: dict[str, Any] = getattr(request.node, "funcargs", None) or {}  # none when the run is interrupted
    if "registry" in used:
        used["registry"].restore()
    if "ssh" in used:
        used["ssh"].start()
    for name in {"engine", "plain_engine", "tls_engine"} & used.keys():
        engine: Engine = used[name]
        engine.restore()
        tidy_plain(engine) if name == "plain_engine" else tidy(engine, [engine])
        engine.close_clients()
    if "swarm" in used:
        swarm: Swarm = used["swarm"]
        swarm.restore()
        tidy(swarm.manager, swarm.nodes)
        for node in swarm.nodes:
            node.close_clients()
