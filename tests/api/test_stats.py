"""api.stats: which numbers each token gets, of how many minutes; and that they fill as runs and calls end."""

import json
import time
from datetime import datetime
from typing import Any

import contract
import pytest
from function_cases import call, version, view
from in_process import ALICE, BOB, Ask, InProcess, app, ask, entry, home, options
from testbed import Server, Swarm, eventually
from tornado.httpclient import HTTPResponse

from qmaster.api import stats
from qmaster.events import cloudevents
from qmaster.functions.invocations.invocation import Ended

__all__ = ["app", "ask", "home", "options"]  # the fixtures

Json = dict[str, Any]
COUNTS = ("started", "complete", "failed", "stopped")


def document(answer: HTTPResponse) -> Any:
    """The answer's document, as soon as it is one that `/openapi.json` has."""
    contract.check_answer("/stats", "GET", answer.code, answer.headers, answer.body)
    return json.loads(answer.body)


def end(home: InProcess, owner: str, status: str = "complete") -> None:
    """A run of that owner is seen, which has ended now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run = view(f"run of {owner}", status, owner=owner, function=None, created_at=now, started_at=now, finished_at=now)
    for event in cloudevents.of_service(None, run, now):
        for listener in home.server.runs.publisher.event_listeners:
            listener(event)


def called(home: InProcess, name: str, times: int = 1) -> None:
    assert home.server.functions
    calls = home.server.functions.stats
    calls._is_there = lambda name: True  # nothing is published here
    for _ in range(times):
        calls.call(Ended(version(name), call(), "i", "ok", queued=0, duration=0.1, cold=False))


@pytest.fixture
def used(home: InProcess) -> InProcess:
    """Runs of root and of alice have ended, two functions were called, and a minute has begun."""
    team = entry("team", 'functions = ["team-*"]', scopes='"read"')
    home.write(ALICE, BOB, team, entry("blind", scopes='"run"'))
    assert home.server.token_file
    home.server.token_file.load()
    for owner in ("root", "alice", "alice"):
        end(home, owner)
    called(home, "team-resize", 3)
    called(home, "backup")
    home.server._tick()
    return home


def summed(numbers: Json) -> list[int]:
    return [sum(numbers[name]) for name in COUNTS]


@pytest.mark.gen_test
async def test_root_gets_all(ask: Ask, used: InProcess) -> None:
    """Lists of one length, a day's by default, the present minute last."""
    told = document(await ask("root", "GET", "/stats"))
    lists = [*told["runs"].values()]
    lists += [one for each in (*told["nodes"].values(), *told["functions"].values()) for one in each.values()]
    assert {len(one) for one in lists} == {1440}
    assert told["interval"] == 60
    start = datetime.fromisoformat(told["start"]).timestamp()
    assert start % 60 == 0
    assert 0 <= time.time() - (start + 1439 * 60) < 120
    assert summed(told["runs"]) == [3, 3, 0, 0]
    assert {name: sum(each["calls"]) for name, each in told["functions"].items()} == {"backup": 1, "team-resize": 3}
    assert {name: each["memory_reserved"][-1] for name, each in told["nodes"].items()} == {"host-1": 0}


@pytest.mark.gen_test
async def test_another_token_gets_its_own(ask: Ask, used: InProcess) -> None:
    """Its own runs, the functions that it sees, and no nodes."""
    told = document(await ask("alice", "GET", "/stats?minutes=5"))
    assert (summed(told["runs"]), told["nodes"], told["functions"]) == ([2, 2, 0, 0], {}, {})
    told = document(await ask("team", "GET", "/stats?minutes=5"))
    assert (summed(told["runs"]), told["nodes"], list(told["functions"])) == ([0, 0, 0, 0], {}, ["team-resize"])
    assert document(await ask("team", "GET", "/stats?function=backup"))["functions"] == {}


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("minutes=1", 200, ""),
        ("minutes=1440", 200, ""),
        ("function=backup&minutes=2", 200, ""),
        ("minutes=0", 400, "minutes: expected a whole number from 1 to 1440"),
        ("minutes=1441", 400, "minutes: expected"),
        ("minutes=an-hour", 400, "minutes: expected"),
        ("minutes=1&minutes=2", 400, "minutes: expected"),
        ("function=a/b", 400, "function: expected the name of one function"),
        ("hours=1", 400, "unknown query parameter 'hours'; known: minutes, function"),
    ],
)
async def test_the_query_is_checked(ask: Ask, used: InProcess, query: str, status: int, says: str) -> None:
    """As everywhere: an error names the parameter."""
    answer = await ask("root", "GET", f"/stats?{query}")
    told = document(answer)
    assert answer.code == status
    assert says in told.get("error", "")
    if status == 200:
        assert len(told["runs"]["started"]) == int(query.rpartition("=")[2])
    if "function" in query and status == 200:
        assert list(told["functions"]) == ["backup"]


@pytest.mark.gen_test
async def test_the_scope_is_read(ask: Ask, used: InProcess) -> None:
    """As for `/status`."""
    assert (await ask("blind", "GET", "/stats")).code == 403
    assert (await ask(None, "GET", "/stats")).code == 401


@pytest.mark.gen_test
async def test_the_busiest_functions_are_told(ask: Ask, used: InProcess) -> None:
    """Of more than the answer has; one that is named is told."""
    for number in range(stats.MOST_FUNCTIONS + 5):
        called(used, f"f-{number:03}", 2)
    told = document(await ask("root", "GET", "/stats?minutes=2"))["functions"]
    assert len(told) == stats.MOST_FUNCTIONS
    assert "team-resize" in told
    assert "backup" not in told
    assert list(document(await ask("root", "GET", "/stats?minutes=2&function=backup"))["functions"]) == ["backup"]


# --- on a swarm -------------------------------------------------------------------------------------------------------


def test_what_ends_on_a_swarm_is_counted_also_after_a_restart(swarm_server: Server, swarm: Swarm) -> None:
    """Runs by how they ended, and the memory of each node; the journal has the runs of before the restart."""
    server = swarm_server
    assert server.run(image="busybox:local", command="true", memory=16, wait=30)["status"] == "complete"
    assert server.run(image="busybox:local", command="false", memory=16, wait=30)["status"] == "failed"
    kept = server.run(image="busybox:local", command="nap", memory=16, name="kept")
    eventually(lambda: server.status(str(kept["id"]))["status"] == "running", 30, "it runs")
    stopped = server.run(image="busybox:local", command="nap", memory=16)
    server.stop_service(str(stopped["id"]))
    eventually(lambda: summed(server.call("GET", "/stats")["runs"]) == [4, 1, 1, 1], 30, "each has ended once")
    before = server.call("GET", "/stats?minutes=60")["runs"]
    assert 0 < max(each for each in before["duration_p95"] if each is not None) < 30
    nodes = server.call("GET", "/stats?minutes=60")["nodes"]
    assert set(nodes) == {node.name for node in (swarm.manager, *swarm.workers)}
    server.terminate()
    server.start()
    eventually(lambda: summed(server.call("GET", "/stats?minutes=60")["runs"]) == [4, 1, 1, 1], 30, "it has them again")
    server.stop_service(str(kept["id"]))
    eventually(lambda: summed(server.call("GET", "/stats")["runs"]) == [4, 1, 1, 2], 30, "what ends now counts")
