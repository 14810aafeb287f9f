"""Calls drawn from `/openapi.json` on a real server: no failure of ours, and no answer that is not described.

What is checked of each answer: its status is described and is not 500, its media type, its headers and its body are
those described, with no key more. A 502, 503 or 507 is described: the engine, the registry or the journal may be away.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import requests
import schemathesis
from contract import DOCUMENT, check_answer
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from testbed import Engine, Server, eventually
from testbed.server import free_port

Json = dict[str, Any]
Case = schemathesis.Case[Any]

SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {
    (each.path, each.method.upper()): each for each in (cast(Any, one).ok() for one in SCHEMA.get_all_operations())
}
pytestmark = pytest.mark.slow  # hundreds of calls
BOTH = list(GenerationMode)
FUNCTIONS = {"QMASTER_RUNTIME_PORT": str(free_port())}
PLAIN = {"/", "/static/{file}", "/livez", "/readyz", "/openapi.json"}  # take nothing that could be wrong
READS = [(p, mode) for p, method in OPERATIONS if method == "GET" for mode in (BOTH[:1] if p in PLAIN else BOTH)]

# No shrinking: each call is made once, and the first answer that is wrong says enough.
drawn = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A quartermaster without an engine; it serves functions."""
    server = Server(tmp_path_factory.mktemp("contract") / "server", "unix:///nowhere/docker.sock", env=FUNCTIONS)
    server.start()
    yield server
    server.kill()


class Caller:
    """Makes calls, and checks each answer."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session = requests.Session()
        self.statuses: set[int] = set()

    def __call__(self, case: Case) -> None:
        sent = case.as_transport_kwargs(base_url=self._server.url)
        sent["headers"] = {**sent["headers"], "Authorization": f"Bearer {self._server.token}"}
        with self._session.request(**sent, stream=True, timeout=60) as answer:
            self.statuses.add(answer.status_code)
            # A stream of events has no end.
            body = b"" if answer.headers["Content-Type"].startswith("text/event-stream") else answer.content
        assert answer.status_code != 500, body
        check_answer(case.operation.path, case.method, answer.status_code, answer.headers, body)
        assert answer.headers["X-Request-ID"]


def draw(path: str, method: str, mode: GenerationMode, examples: int, call: Callable[[Case], None]) -> None:
    """So many calls, the same in every run: such as are described (positive), or are not (negative)."""

    @settings(drawn, max_examples=examples)
    @given(OPERATIONS[path, method].as_strategy(generation_mode=mode))
    def calls(case: Case) -> None:
        call(case)

    calls()


def calls(request: pytest.FixtureRequest) -> int:
    """How many are drawn of each change and mode; of what is read, three eighths."""
    return int(request.config.getoption("--contract-calls"))


@pytest.mark.parametrize(("path", "mode"), READS)
def test_what_is_read_is_as_described(
    lonely: Server, path: str, mode: GenerationMode, request: pytest.FixtureRequest
) -> None:
    """Each GET, as it is described and otherwise, without an engine."""
    draw(path, "GET", mode, calls(request) * 3 // 8, Caller(lonely))


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize(("path", "method"), [one for one in OPERATIONS if one[1] != "GET"])
def test_what_is_asked_for_is_as_described(
    lonely: Server, path: str, method: str, mode: GenerationMode, request: pytest.FixtureRequest
) -> None:
    """Each change: without an engine it is 503, or 400 where fields do not go together; otherwise never a success."""
    call = Caller(lonely)
    draw(path, method, mode, calls(request), call)
    assert call.statuses <= {400, 404, 405, 503}
    if path.startswith("/invocations/"):
        assert 404 in call.statuses  # it needs no engine to know that there is none
    elif mode is GenerationMode.POSITIVE:
        assert 503 in call.statuses
    elif "{" not in path:  # else a name that is none goes with a body that is one
        assert 503 not in call.statuses


def tame(case: Case, images: tuple[str, ...] = ("busybox:local", "no-such-image:1")) -> None:
    """A run as drawn, but made, of an image that does not have to be pulled, small, and not waited for."""
    (case.query or {}).pop("dry_run", None)  # whose answer is another
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("image"), str):
        body["image"] = images[len(body) % len(images)]
        body |= {"auth": None, "wait": 0.1 if body.get("wait") else False, "timeout": 5, "ttl": 5, "replicas": 1}


@pytest.mark.parametrize("mode", BOTH)
def test_runs_on_an_engine_are_as_described(server: Server, engine: Engine, mode: GenerationMode) -> None:
    """Services and containers are started, listed, read and stopped: no 500, and no answer that is not described."""
    eventually(lambda: server.call("GET", "/readyz").status == 200, 15, "it is ready")
    call = Caller(server)

    def run(case: Case) -> None:
        if mode is GenerationMode.POSITIVE:
            tame(case)
        call(case)

    draw("/run", "POST", mode, 15, run)
    if mode is GenerationMode.POSITIVE:
        assert call.statuses & {200, 202}
    there = server.call("GET", "/status")["services"]
    for service in there[:4]:
        status = OPERATIONS["/status/{id}", "GET"].Case(path_parameters={"id": service["id"]})
        stop = OPERATIONS["/stop", "POST"].Case(body={"id": service["id"]}, media_type="application/json")
        call(status)
        call(stop)
    for path, method in (("/status/{id}", "GET"), ("/stop", "POST")):
        draw(path, method, mode, 10, call)
    for path in ("/status", "/nodes"):
        draw(path, "GET", mode, 5, call)
