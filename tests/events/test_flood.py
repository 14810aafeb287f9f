"""A token that floods a real server costs another's cursor nothing, and the journal's file keeps its bound."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import StartServer
from testbed import Bed, Engine, Server, eventually, started
from testbed.background import Background
from testbed.subscriber import Subscriber
from testbed.tokens import tokens_file

MIB = 1024 * 1024
IMAGE = "busybox:local"
NOWHERE = {"image": IMAGE, "command": "true", "memory": 16, "constraints": ["node.labels.of==nobody"]}
LABELS = {f"k{n}": "x" * 1000 for n in range(8)}  # 8 KiB in all: the most that is taken
LOUD = NOWHERE | {"labels": LABELS, "command": ["true", *("y" * 4000 for _ in range(8))]}
THREADS = 3
ENOUGH = 200  # runs that write twice of what the journal keeps
KEEP_SIZE, KEEP_FACTS = 16, 1000  # the least of each
Measured = Callable[[str], None]


class Loop(Background):
    """A thread of mallory's that starts and stops runs."""

    def __init__(self, server: Server, run: dict[str, Any]) -> None:
        super().__init__()
        self._server, self._body = server, run
        self.runs = 0

    def work(self) -> None:
        while not self.over.is_set():
            run = started(self._server.call("POST", "/run", json=self._body, token="mallory", timeout=60))
            stopped = self._server.call("POST", "/stop", json={"id": run}, token="mallory", timeout=60)
            assert stopped.status == 200, stopped.text
            self.runs += 1


class Journal(Background):
    """Watches how large the journal's file becomes, with its WAL."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._folder = server.folder / "data"
        self.most = 0

    def work(self) -> None:
        while not self.over.wait(0.02):
            sizes = []
            for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
                path = self._folder / name
                sizes.append(path.stat().st_size if path.exists() else 0)
            self.most = max(self.most, sum(sizes))


@pytest.fixture(scope="module")
def engine(bed: Bed) -> Iterator[Engine]:
    """One of its own: after thousands of services a start of an engine takes it twenty seconds."""
    made = bed.single("flooded")
    yield made
    made.stop()


@pytest.fixture
def server(tmp_path: Path, start_server: StartServer, engine: Engine) -> Server:
    file = tokens_file(tmp_path, {"mallory": "", "bob": ""})
    options = {"QMASTER_KEEP_SIZE": str(KEEP_SIZE), "QMASTER_KEEP_FACTS": str(KEEP_FACTS)}
    server = start_server(engine.host, QMASTER_TOKENS_FILE=file, **options)
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    return server


def bobs(server: Server, calls: int = 20) -> float:
    """The median of how long his calls take, in seconds; each is answered."""
    times = []
    for _ in range(calls):
        began = time.monotonic()
        assert server.call("GET", "/status", token="bob").status == 200
        times.append(time.monotonic() - began)
        time.sleep(0.02)
    return statistics.median(times)


class Told(NamedTuple):
    """A cursor, and the events of a run that came after it."""

    cursor: str
    events: list[dict[str, Any]]


def told(server: Server, who: str, since: str | None = None) -> Told:
    """What they are told from a cursor on, as far as the end of a run that begins now; without one, of that run."""
    with Subscriber(server, since, token=who) as subscriber:
        first = subscriber.until(lambda frame: frame["type"] in ("snapshot", "gap", "event"))
        run = started(server.call("POST", "/run", json=NOWHERE, token=who))
        server.call("POST", "/stop", json={"id": run}, token=who)
        subscriber.event(lambda event: event["type"].endswith("service.removed") and event["subject"] == run)
        return Told("gap" if first["type"] == "gap" else first["cursor"], subscriber.events)


def test_a_loop_of_large_runs_takes_its_own_history_alone(
    server: Server, request: pytest.FixtureRequest, measured: Measured
) -> None:
    """Three threads start and stop runs as large as may be; the file stays within --keep-size all the time.

    Another's cursor from before resumes and has missed nothing; the one of who floods has a gap.
    """
    too_large = NOWHERE | {"labels": {f"k{n}": "x" * 1000 for n in range(60)}}
    assert server.call("POST", "/run", json=too_large, token="mallory").status == 400
    before = {who: told(server, who) for who in ("bob", "mallory")}
    alone = bobs(server)
    loops = [Loop(server, LOUD) for _ in range(THREADS)]
    beside = []
    with Journal(server) as journal, loops[0], loops[1], loops[2]:
        began = time.monotonic()
        until = began + request.config.getoption("--flood-seconds")
        while time.monotonic() < until or runs(loops) < ENOUGH:
            assert time.monotonic() < began + 120, f"{runs(loops)} runs in two minutes"
            beside.append(bobs(server))
    measured(
        f"{runs(loops)} runs, journal at most {journal.most / MIB:.1f} MiB of {KEEP_SIZE}, another's call "
        f"{alone * 1000:.1f} → {statistics.median(beside) * 1000:.1f} ms"
    )
    assert journal.most <= KEEP_SIZE * MIB
    check_cursors(server, before)


def test_a_crash_loop_rolls_no_other_s_cursor_away(
    server: Server, request: pytest.FixtureRequest, measured: Measured
) -> None:
    """Six tasks that crash again and again, beside a loop of runs: more facts than the journal keeps in all."""
    before = {who: told(server, who) for who in ("bob", "mallory")}
    crash = {"image": IMAGE, "command": "false", "memory": 16, "replicas": 6, "restart": "any"}
    crashing = started(server.call("POST", "/run", json=crash, token="mallory"))
    loops = [Loop(server, NOWHERE) for _ in range(THREADS)]
    began, first = time.monotonic(), last(server)
    with loops[0], loops[1], loops[2]:
        until = began + request.config.getoption("--flood-seconds")
        while time.monotonic() < until or last(server) - first < 2 * KEEP_FACTS:
            assert time.monotonic() < began + 120, f"{last(server) - first} facts in two minutes"
            time.sleep(0.2)
    facts = last(server) - first
    view = server.call("GET", f"/status/{crashing}", token="mallory")
    measured(f"{facts} facts, {facts / (time.monotonic() - began):.0f} a second, {view['restarts']} restarts")
    assert view["restarts"] > 0
    check_cursors(server, before)
    server.call("POST", "/stop", json={"id": crashing}, token="mallory")


def check_cursors(server: Server, before: dict[str, Told]) -> None:
    """Bob's brings all that he was told then, and mallory's a gap."""
    bob, mallory = (told(server, who, before[who].cursor) for who in ("bob", "mallory"))
    assert before["bob"].events
    assert bob.events[: len(before["bob"].events)] == before["bob"].events
    assert mallory.cursor == "gap"


def runs(loops: list[Loop]) -> int:
    return sum(loop.runs for loop in loops)


def last(server: Server) -> int:
    """The sequence of the newest fact."""
    cursor: str = server.call("GET", "/status?limit=1")["cursor"]
    return int(cursor.rpartition(":")[2])
