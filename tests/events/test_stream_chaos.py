"""A burst of jobs while streams are cut, the manager's engine is killed and so is quartermaster: nothing is lost.

``--chaos-jobs 500`` is the full run, the default a shorter one.
"""

import contextlib
import http.client
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import docker
import pytest
import requests
from testbed import Bed, Server, Swarm, eventually
from testbed.background import Background
from testbed.subscriber import Resuming

Json = dict[str, Any]
Measured = Callable[[str], None]

ORDER = ["pending", "preparing", "running", "unknown", "stopping", "complete", "failed", "removed"]
AWAY = (OSError, http.client.HTTPException, docker.errors.DockerException, requests.exceptions.RequestException)
ENDS = ("complete", "failed")
WITHIN = 150.0  # seconds after the last fault


class Poll(Background):
    """What the engine itself says of all tasks, read again and again: the last state of each, by service."""

    def __init__(self, swarm: Swarm) -> None:
        super().__init__()
        self._engine = swarm.manager
        self._client: Any = swarm.manager.client(timeout=5)
        self.codes: dict[str, int] = {}

    def work(self) -> None:
        while not self.over.wait(0.5):
            if self._engine.up:  # the SDK leaves the socket of a refused connection open
                with contextlib.suppress(*AWAY):
                    self.look()

    def look(self) -> bool:
        for task in self._client.tasks():
            inner = task["Status"].get("ContainerStatus") or {}
            if task["Status"]["State"] in ENDS and inner.get("ContainerID"):
                self.codes[task["ServiceID"]] = int(inner.get("ExitCode", 0))
        return True


def run_job(server: Server, number: int) -> tuple[str, int] | None:
    """Start a job on some node, again and again until it is accepted; its id and the exit code it ends with.

    Not on the manager's node: what runs there dies with its engine, which is no exit code of its own.
    """
    code = number % 5
    fields: Json = {"image": "busybox:local", "memory": 8, "constraints": [f"node.hostname==worker-{1 + number % 2}"]}
    fields["command"] = ["sh", "-c", f"sleep {0.2 * (number % 6)}; exit {code}"]
    for _ in range(60):
        with contextlib.suppress(*AWAY):
            reply = server.run(name=f"chaos-{number}-{time.time_ns()}", **fields)
            if reply.status == 200:
                return str(reply["id"]), code
        time.sleep(0.5)
    return None


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_nothing_is_lost_in_a_storm(bed: Bed, swarm: Swarm, request: pytest.FixtureRequest, measured: Measured) -> None:
    """A client that resumes has the end and the exit code of each job, each status in order; no event has two cursors.

    Whatever an independent polling of the engine has seen is what the client was told.
    """
    jobs = int(request.config.getoption("--chaos-jobs"))
    full = jobs >= 500
    proxy = bed.proxy(swarm.manager)
    server = bed.server(proxy.host)
    server.start()
    random.seed(11)
    faults: list[Callable[[], object]] = [proxy.cut_all] * (20 if full else 6)
    faults += [lambda: kill_manager(swarm)] * (3 if full else 1)
    faults += [lambda: kill_server(server)] * (5 if full else 2)
    random.shuffle(faults)
    began = time.monotonic()
    with Resuming(server) as client, Poll(swarm) as poll, ThreadPoolExecutor(16) as pool:
        runs = [pool.submit(run_job, server, number) for number in range(jobs)]
        for fault in faults:
            time.sleep(random.uniform(0.2, 1.0))
            fault()
        started = [each.result(WITHIN) for each in runs]
        expected = dict(job for job in started if job)
        assert len(expected) == jobs
        took = time.monotonic() - began
        eventually(lambda: expected.keys() <= ended(client.events).keys(), WITHIN, "all have ended", every=0.2)
        eventually(lambda: server.call("GET", "/readyz").status == 200, 20, ignoring=AWAY)
        eventually(poll.look, 20, ignoring=AWAY)
        shown = {each["id"]: each for each in server.call("GET", "/status?limit=10000")["services"]}
    all_took = time.monotonic() - began
    events = client.events
    told = ended(events)
    measured(f"{jobs} jobs, {took:.0f} s, told {all_took:.0f} s; {len(events)} events, {client.connects} connects")
    assert {service: told[service]["exit_code"] for service in expected} == {s: expected[s] for s in expected}
    assert {service: shown[service]["exit_code"] for service in expected} == {s: expected[s] for s in expected}
    assert {s: code for s, code in poll.codes.items() if s in expected} == expected
    assert [frame for frame in client.frames if frame["type"] == "gap"] == []
    assert sum(frame["type"] == "snapshot" for frame in client.frames) == 1
    check_order(events, expected)
    check_once(events)
    server.kill()
    proxy.close()


def kill_manager(swarm: Swarm) -> None:
    swarm.manager.kill()
    time.sleep(0.3)
    swarm.manager.start()


def kill_server(server: Server) -> None:
    server.kill()
    server.start()


def ended(events: list[Json]) -> dict[str, Json]:
    """The last that was told of each service that has ended."""
    return {event["subject"]: event["data"] for event in events if event["data"].get("status") in ENDS}


def check_order(events: list[Json], services: dict[str, int]) -> None:
    """Statuses only go on; `unknown` comes while a node counts as down, and goes."""
    told: dict[str, list[str]] = {}
    for event in events:
        if event["subject"] in services:
            told.setdefault(event["subject"], []).append(event["data"]["status"])
    for service, statuses in told.items():
        steps = [status for status, _ in groupby(s for s in statuses if s != "unknown")]
        assert steps == sorted(set(steps), key=ORDER.index), (service, statuses)
        assert steps[-1] == ("failed" if services[service] else "complete")
    created = [e["subject"] for e in events if e["type"] == "io.qmaster.service.created"]
    assert Counter(created) == Counter(set(created))
    assert set(created) >= services.keys()


def check_once(events: list[Json]) -> None:
    """Without a filter the cursors grow by one, and no change of a task is told under two of them."""
    numbers = [int(event["id"].partition(":")[2]) for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    tasks = Counter((e["type"], e["data"]["task"]["id"]) for e in events if ".task." in e["type"])
    assert [task for task, times in tasks.items() if times > 1] == []
