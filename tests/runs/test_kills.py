"""kill -9 of quartermaster at random moments, while jobs are started, stopped, end and are removed.

``--kills 100`` is the full run, the default a shorter one.
"""

import contextlib
import http.client
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from conftest import StartServer
from testbed import Engine, Reply, Server, eventually
from testbed.made import Made
from testbed.subscriber import Resuming

Json = dict[str, Any]
Measured = Callable[[str], None]

CALLERS = 4
PAUSE = (0.1, 0.6)  # seconds between two calls of a caller
LIVES = (0.2, 2.2)  # seconds from the start of a process, which takes about one to be alive, to its kill
WITHIN = 60.0  # seconds after the last kill
AWAY = (OSError, http.client.HTTPException)
AGAIN = (429, 500, 502, 503, 507)


@dataclass
class Job:
    """What a caller did: a run under its own name or under a key, stopped or left to its end."""

    number: int
    kind: str
    keyed: bool
    stopped: bool
    id: str = ""  # "" as long as nobody has told it

    @property
    def name(self) -> str:
        return f"kill-{self.number}"

    @property
    def code(self) -> int:
        return self.number % 7

    def fields(self) -> Json:
        script = "echo $0; exec nap" if self.stopped else "echo $0; exit $1"
        fields: Json = {"image": "busybox:local", "command": ["sh", "-c", script, str(self.number), str(self.code)]}
        fields |= {"type": self.kind, "memory": 8, "labels": {"job": self.name}}
        return fields if self.keyed else {**fields, "name": self.name}


class Callers:
    """Callers that start jobs one after another, and give up only what may not be tried again."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._numbers = iter(range(10**6))
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(CALLERS)
        self._done = [self._pool.submit(self._call, random.Random(seed)) for seed in range(CALLERS)]
        self.jobs: list[Job] = []

    def end(self) -> None:
        """Begin nothing more; what was begun is seen through."""
        self._ended.set()
        for each in self._done:
            each.result(WITHIN)
        self._pool.shutdown()

    def _call(self, dice: random.Random) -> None:
        while not self._ended.wait(dice.uniform(*PAUSE)):
            keyed, stopped = dice.random() < 0.6, dice.random() < 0.3
            with self._lock:
                job = Job(next(self._numbers), dice.choice(["service", "container"]), keyed, stopped)
                self.jobs.append(job)
            self._run(job)
            if job.id and job.stopped:
                time.sleep(dice.uniform(0, 1.0))
                assert self._insist(partial(self._server.stop_service, job.id)).status == 200

    def _run(self, job: Job) -> None:
        headers = {"Idempotency-Key": job.name} if job.keyed else None
        if job.keyed:
            reply = self._insist(lambda: self._server.run(headers, **job.fields()))
            assert reply.status == 200, reply.text
            job.id = str(reply["id"])
            return
        with contextlib.suppress(*AWAY):
            reply = self._server.run(**job.fields())
            assert reply.status in (200, *AGAIN), reply.text
            job.id = str(reply["id"]) if reply.status == 200 else ""

    def _insist(self, call: Callable[[], Reply]) -> Reply:
        """As often as it takes to be answered."""
        until = time.monotonic() + WITHIN
        while True:
            with contextlib.suppress(*AWAY):
                reply = call()
                if reply.status not in AGAIN:
                    return reply
            assert time.monotonic() < until
            time.sleep(0.1)


def left(engine: Engine) -> list[str]:
    client: Any = engine.client()
    services = [service["ID"] for service in client.services()]
    containers = [each for each in client.containers(all=True) if "com.docker.swarm.task" not in each["Labels"]]
    return services + [each["Id"] for each in containers]


@pytest.mark.timeout(900)
def test_nothing_is_lost_or_done_twice(
    engine: Engine, start_server: StartServer, request: pytest.FixtureRequest, measured: Measured
) -> None:
    """Each job that was acknowledged ran once, and its end, exit code and output are told; nothing else is left.

    Under a key a caller always gets its one run. Of a run without one whose answer was lost, the stream tells, or it is
    removed.
    """
    kills = int(request.config.getoption("--kills"))
    server = start_server(engine.host, "--ttl", "2")
    dice, made, began = random.Random(7), Made(engine), time.monotonic()
    with made.watching(), Resuming(server) as client:
        callers = Callers(server)
        for _ in range(kills):
            time.sleep(dice.uniform(*LIVES))
            server.kill()
            server.launch()
        server.wait_alive()
        callers.end()
        took = time.monotonic() - began
        eventually(lambda: not left(engine), WITHIN, "all is removed", every=0.2)
        jobs = callers.jobs
        told = {job.id for job in jobs if job.id}
        eventually(lambda: told <= of_type(client.events, "removed"), WITHIN, "all is told", every=0.1)
    measured(
        f"{kills} kills, {len(jobs)} jobs of which {len(told)} acknowledged, {took:.0f} s, "
        f"and {time.monotonic() - began - took:.0f} s until all was removed; {client.connects} connects"
    )
    assert len(told) == sum(bool(job.id) for job in jobs)
    for job in jobs:
        if job.id:
            check(server, job)
    check_stream(client.frames, told)
    check_made(made, jobs, client.events)
    server.terminate()
    check_journal(server)


def check(server: Server, job: Job) -> None:
    """Its record says how it ended and what it said."""
    shown = server.status(job.id)
    assert (shown.status, shown["status"], shown["labels"]) == (200, "removed", {"job": job.name}), shown.text
    if job.stopped:
        assert shown["reason"] == "stopped", shown.text
    else:
        assert (shown["reason"], shown["exit_code"], shown["result"]["exit_code"]) == ("exit", job.code, job.code)
        assert shown["result"]["stdout"] == f"{job.number}\n"


def check_journal(server: Server) -> None:
    """Every stop has come to its end. (Intents that came to nothing are looked for during half a minute.)"""
    journal = sqlite3.connect(server.folder / "data" / "journal.db")
    assert journal.execute("SELECT count(*) FROM endings").fetchone() == (0,)
    journal.close()


def of_type(events: list[Json], word: str) -> set[str]:
    return {event["subject"] for event in events if event["type"] == f"io.qmaster.service.{word}"}


def check_stream(frames: list[Json], told: set[str]) -> None:
    """In one order, without a gap, each job begun and removed once."""
    assert [frame for frame in frames if frame["type"] == "gap"] == []
    assert sum(frame["type"] == "snapshot" for frame in frames) == 1
    events = [frame["event"] for frame in frames if frame["type"] == "event"]
    numbers = [int(event["id"].partition(":")[2]) for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    steps: dict[str, list[tuple[str, str, str]]] = {}
    for event in events:
        if ".service." in event["type"]:
            view = event["data"]
            step = event["type"].rpartition(".")[2], view["status"], f"{view['reason']} {view['exit_code']}"
            steps.setdefault(event["subject"], []).append(step)
    for run_id in told:
        words = Counter(word for word, _, _ in steps[run_id])
        assert (words["created"], words["removed"]) == (1, 1), steps[run_id]
        assert words["complete"] + words["failed"] <= 1, steps[run_id]


def check_made(made: Made, jobs: list[Job], events: list[Json]) -> None:
    """What the engine made: one thing for each job, and for none that nobody knows of what is not removed."""
    by_id = {run_id: name for name, run_id in made.told}
    assert len(by_id) == len(made.told)
    assert len({name for name, _ in made.told}) == len(made.told)
    acknowledged = {job.id for job in jobs if job.id}
    assert acknowledged <= by_id.keys()
    labels = {e["subject"]: e["data"]["labels"].get("job") for e in events if ".service." in e["type"]}
    assert all(labels[job.id] == job.name for job in jobs if job.id)
    unacknowledged = {job.name for job in jobs if not job.id}
    assert {by_id[run_id] for run_id in by_id.keys() - acknowledged} <= unacknowledged
