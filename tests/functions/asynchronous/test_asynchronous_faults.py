"""Asynchronous calls while quartermaster is killed and its disk is full: what was accepted is not lost.

``CALLS`` and ``KILLS`` are small here; 2,000 calls and 20 kills take about five minutes.
"""

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from called import Function
from testbed import Bed, Reply, Server, Swarm, eventually
from testbed.process import run as command

pytestmark = pytest.mark.patient

CALLS, CLIENTS, KILLS = 300, 4, 20
PAUSE = 0.25  # seconds between two calls of a client, so that calls come in each life
LIVES = (0.3, 2.0)  # seconds from when a process is alive to its kill
AWAY = (OSError, http.client.HTTPException)
Json = dict[str, Any]


@pytest.fixture
def small_disk(bed: Bed) -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = bed.root / "small-disk-of-calls"
    folder.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder))
    yield folder
    command("umount", "--lazy", str(folder))
    folder.rmdir()


@pytest.fixture
def server(bed: Bed, functions_swarm: Swarm, clean_bridged_swarm: Swarm) -> Iterator[Server]:
    """A quartermaster of the test's own, on the manager."""
    server = bed.server(functions_swarm.manager.host, bed.runtime())
    start(server)
    yield server
    server.kill()


def start(server: Server) -> None:
    server.start()
    eventually(lambda: server.call("GET", "/readyz").status == 200, 30, "it is ready")


def accept(function: Function, event: Json) -> Reply:
    return function.call(event, {"Prefer": "respond-async"})


def invocation(server: Server, invocation_id: str, wait: float = 0) -> Reply:
    reply = server.call("GET", f"/invocations/{invocation_id}" + (f"?wait={wait:g}" if wait else ""))
    assert reply.status == 200, reply.text
    return reply


def over(server: Server, invocation_id: str) -> Reply:
    """The invocation once it has ended."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        reply = invocation(server, invocation_id, 20)
        if reply["status"] in ("succeeded", "dead", "cancelled"):
            return reply
    raise TimeoutError(reply.text)


def event(number: int) -> Json:
    """Every second call takes a while, so that some run at each kill."""
    return {"number": number, **({"do": "echo"} if number % 2 else {"do": "sleep", "seconds": 0.3})}


class Clients:
    """Clients that have calls accepted, whatever happens to quartermaster; ``accepted`` are the ids by number."""

    def __init__(self, function: Function) -> None:
        self.accepted: dict[int, str] = {}
        self._function = function
        self._numbers = iter(range(CALLS))
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._done = [self._pool.submit(self._accept_all) for _ in range(CLIENTS)]

    def wait(self) -> None:
        for each in self._done:
            each.result(300)
        self._pool.shutdown()

    def _accept_all(self) -> None:
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            self._insist(number)
            time.sleep(PAUSE)

    def _insist(self, number: int) -> None:
        """Until it is accepted; a call without an answer may have been, and is sent again."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with contextlib.suppress(*AWAY):
                reply = accept(self._function, event(number))
                if reply.status == 202:
                    self.accepted[number] = reply["id"]
                    return
            time.sleep(0.1)
        raise TimeoutError(f"call {number} was not accepted")


def listed(server: Server, status: str) -> list[Json]:
    found: list[Json] = server.call("GET", f"/invocations?status={status}")["invocations"]
    return found


def test_no_accepted_call_is_lost(server: Server, measured: Callable[[str], None]) -> None:
    """quartermaster is killed twenty times at random moments while calls are accepted and made: each has succeeded."""
    function = Function(server, "kept", max_instances=2, queue=100_000, retries=10, retry_delay=0.2)
    function.echo()
    clients, dice = Clients(function), random.Random(16)
    for _ in range(KILLS):
        time.sleep(dice.uniform(*LIVES))
        server.kill()
        server.start()
    clients.wait()
    assert len(clients.accepted) == CALLS
    for number, each in clients.accepted.items():
        ended = over(server, each)
        assert ended["status"] == "succeeded", ended.text
        output = ended["output"]
        assert event(number) == (output["event"] if number % 2 else output)
        assert output.get("request_id", each) == each
    # Those too whose caller got no answer.
    for status in ("queued", "running", "dead", "cancelled"):
        eventually(lambda s=status: listed(server, s) == [], 60, f"none is {status}")  # type: ignore[misc]
    again = sum(len(invocation(server, each)["attempts"]) > 1 for each in clients.accepted.values())
    measured(f"{len(clients.accepted)} accepted, {again} of them attempted more than once")


def test_a_killed_quartermaster_takes_the_late_answer(server: Server) -> None:
    """A call that runs on while quartermaster is away is not made again.

    The start of a process takes a second, or ten on a busy machine, and the client ends if nobody takes its answer.
    """
    function = Function(server, "late", retry_delay=0.2, timeout=120)
    function.echo()
    accepted = accept(function, {"do": "sleep", "seconds": 20})
    eventually(lambda: invocation(server, accepted["id"])["status"] == "running", 20, "it runs")
    server.kill()
    server.start()
    ended = over(server, accepted["id"])
    assert (ended["status"], len(ended["attempts"])) == ("succeeded", 1), ended.text


def test_an_instance_that_died_meanwhile(server: Server, functions_swarm: Swarm) -> None:
    """The call is made again by another one, under the same id."""
    function = Function(server, "died", retry_delay=0.2)
    function.echo()
    accepted = accept(function, {"do": "sleep", "seconds": 3})
    eventually(lambda: invocation(server, accepted["id"])["status"] == "running", 20, "it runs")
    [attempt] = invocation(server, accepted["id"])["attempts"]
    server.kill()
    client: Any = functions_swarm.manager.client()
    client.remove_service(attempt["instance"])
    server.start()
    ended = over(server, accepted["id"])
    first, second = ended["attempts"]
    assert (ended["status"], first["error"]["type"], second["error"]) == ("succeeded", "Runtime.ExitError", None)
    assert first["instance"] != second["instance"]


def test_a_stopped_quartermaster(server: Server) -> None:
    """What runs finishes, and what waits is made after the next start: each once."""
    function = Function(server, "stopped", max_instances=1)
    function.echo()
    ids = [accept(function, {"do": "sleep", "seconds": 1})["id"] for _ in range(4)]
    eventually(lambda: invocation(server, ids[0])["status"] == "running", 20, "the first one runs")
    assert server.terminate() == 0
    server.start()
    for each in ids:
        ended = over(server, each)
        assert (ended["status"], len(ended["attempts"])) == ("succeeded", 1), ended.text


def test_a_full_disk(bed: Bed, functions_swarm: Swarm, clean_bridged_swarm: Swarm, small_disk: Path) -> None:
    """507, and nothing is accepted; what was accepted before is made once there is room again."""
    flags = [*bed.runtime(), "--data-dir", str(small_disk / "data")]
    server = bed.server(functions_swarm.manager.host, flags)
    start(server)
    try:
        function = Function(server, "full", max_instances=1)
        function.echo()
        before = [accept(function, {"do": "sleep", "seconds": 1})["id"] for _ in range(4)]
        filler = fill(small_disk)
        refused = accept(function, {"do": "echo"})
        assert refused.status == 507, refused.text
        time.sleep(2)
        filler.unlink()
        for each in before:
            ended = over(server, each)
            assert (ended["status"], len(ended["attempts"])) == ("succeeded", 1), ended.text
        after = eventually(lambda: accepted_id(function), 20, "it accepts again")
        assert over(server, after)["status"] == "succeeded"
        listed = server.call("GET", "/invocations")["invocations"]
        assert sorted(one["id"] for one in listed) == sorted([*before, after])
    finally:
        server.kill()


def accepted_id(function: Function) -> str:
    reply = accept(function, {"do": "echo"})
    return str(reply["id"]) if reply.status == 202 else ""


def fill(disk: Path) -> Path:
    """Leave not a byte on it."""
    path = disk / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for _ in range(8192):
            file.write(b"x" * 1024)
    return path


def test_a_hundred_dead_ones_are_tried_again(server: Server) -> None:
    """A function that always fails, then its next version that works."""
    function = Function(server, "redriven", command=["app.fail"], retries=0, max_instances=4, concurrency=1)
    ids = [accept(function, {"number": number})["id"] for number in range(100)]
    for each in ids:
        ended = over(server, each)
        assert (ended["status"], ended["error"]["type"]) == ("dead", "ValueError"), ended.text
    function.publish(command=["app.echo"], max_instances=4)
    for each in ids:
        assert server.call("POST", f"/invocations/{each}/redrive").status in (200, 202)
    for number, each in enumerate(ids):
        ended = over(server, each)
        assert (ended["status"], ended["version"], len(ended["attempts"])) == ("succeeded", 2, 2), ended.text
        assert ended["output"]["event"] == {"number": number}


def test_what_runs_when_its_function_is_deleted_ends_as_it_does(server: Server) -> None:
    """Also if quartermaster is killed after the delete: the answer of an instance is taken, and the output of a job."""
    sleeping = {"do": "sleep", "seconds": 25}
    warm = Function(server, "deleted", idle=300)
    warm.echo()
    words = ["sh", "-c", "sleep 25; echo done"]
    fields = {"image": "busybox:local", "command": words, "memory": 16, "runtime": "job"}
    assert server.call("PUT", "/functions/deleted-job", json=fields).status == 201
    job = server.call("POST", "/functions/deleted-job/invoke", json={}, headers={"Prefer": "respond-async"})
    call = accept(warm, sleeping)
    eventually(lambda: len(listed(server, "running")) == 2, 10, "both run")
    for name in ("deleted", "deleted-job"):
        assert server.call("DELETE", f"/functions/{name}").status == 200
    server.kill()
    start(server)
    assert invocation(server, call["id"])["status"] == "running"
    for reply, output in ((call, sleeping), (job, "done\n")):
        ended = over(server, reply["id"])
        assert (ended["status"], len(ended["attempts"])) == ("succeeded", 1), ended.text
        assert ended["output"] == output
