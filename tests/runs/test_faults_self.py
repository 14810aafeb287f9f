"""Faults of the machine that quartermaster is on, and its own end: clocks, the journal, descriptors, signals.

`docs/operations.md` lists all that there are tests of, here and elsewhere.
"""

import http.client
import json
import os
import resource
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from engine_cases import CREATE, NAP, away, becomes, in_background, made, ready
from fault_cases import has, shell
from testbed import Engine, Proxy, Reply, Server, eventually, started
from testbed.faults import delay, forward_then, hang
from testbed.server import ADDRESS
from testbed.subscriber import Connection, Subscriber

Json = dict[str, Any]

OBEDIENT = "trap 'echo last words; exit 7' TERM; echo first words; while :; do sleep 0.1; done"
SLOWLY = "trap 'sleep 1; echo last words; exit 7' TERM; while :; do sleep 0.1; done"


def contiguous(subscriber: Subscriber) -> bool:
    numbers = [int(event["id"].partition(":")[2]) for event in subscriber.events]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


# The clock


class Clock:
    """The clock of the day as one process sees it (libfaketime); the monotonic one it leaves alone."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, ahead: int) -> None:
        """So many seconds ahead of what it is."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{ahead:+d}\n")
        fresh.replace(self._file)


def test_a_clock_that_jumps(engine: Engine, start_server: StartServer, tmp_path: Path) -> None:
    """An hour ahead, and an hour back: nothing is ended early, and timeouts and times to live still come in time."""
    clock = Clock(tmp_path)
    server = start_server(engine.host, **clock.env)
    with Subscriber(server) as subscriber:
        nap, done = shell(server, "exec nap", timeout=600), shell(server, "echo kept", ttl=600)
        old = shell(server, "exit 3", ttl=5)
        becomes(server, nap, "running")
        for each in (done, old):
            eventually(lambda each=each: server.status(each)["result"], 20)  # type: ignore[misc]
        for ahead in (3600, -3600):
            clock.set(ahead)
            late = shell(server, OBEDIENT, timeout=1)
            becomes(server, late, "running")
            began = time.monotonic()
            has(server, late, "failed", reason="timeout", exit_code=7)
            assert 0.5 < time.monotonic() - began < 10
        has(server, old, "removed", reason="exit", exit_code=3)
        assert ready(server)
        assert server.status(nap)["status"] == "running"
        assert server.status(done)["status"] == "complete"
        assert subscriber.close_code is None
        assert contiguous(subscriber)


# The journal


def journal(server: Server) -> Path:
    return server.folder / "data" / "journal.db"


def refuses(server: Server) -> Reply:
    """Its answer to a run that it could not keep."""
    reply = server.run(**NAP)
    assert (reply.status, "journal" in reply["error"]) == (507, True), reply.text
    return reply


def test_a_torn_journal_at_the_start(engine: Engine, start_server: StartServer) -> None:
    """It starts, shows what there is and stops it, and starts nothing; moved away, a new one is begun."""
    server = start_server(engine.host)
    service = started(server.run(**NAP, memory=16))
    becomes(server, service, "running")
    server.terminate()
    whole = journal(server).read_bytes()
    journal(server).write_bytes(whole[:100] + os.urandom(len(whole) - 100))
    server.start()
    eventually(lambda: server.call("GET", "/readyz").status == 503, 10)
    refuses(server)
    assert made(engine) == [service]
    eventually(lambda: server.call("GET", "/status")["services"], 10, "what there is is shown")
    assert server.status(service)["status"] == "running"
    assert server.stop_service(service).status == 200
    journal(server).rename(server.folder / "torn.db")
    eventually(lambda: server.run(**NAP, memory=16).status == 200, 10)
    eventually(lambda: ready(server), 10)
    assert "journal_unwritable" in server.logs()


def test_a_torn_write_ahead_log(engine: Engine, start_server: StartServer) -> None:
    """What it has lost is not told as if it had never been: who resumes hears of a gap and has a snapshot."""
    server = start_server(engine.host)
    with Subscriber(server) as subscriber:
        service = started(server.run(**NAP, memory=16))
        subscriber.event(lambda e: e["subject"] == service and e["data"]["status"] == "running")
    server.kill()
    log = Path(f"{journal(server)}-wal")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    server.start()
    eventually(lambda: ready(server), 10)
    with subscriber.resume() as resumed:
        assert resumed.until(lambda f: f["type"] == "gap")["reason"] == "epoch_changed"
        snapshot = resumed.until(lambda f: f["type"] == "snapshot")
        eventually(lambda: server.status(service)["status"] == "running", 10)
        if service not in {each["id"] for each in snapshot["services"]}:
            resumed.event(lambda e: e["subject"] == service and e["data"]["status"] == "running")
    assert made(engine) == [service]


def test_a_journal_torn_under_it(engine: Engine, start_server: StartServer) -> None:
    """Whatever it can still read and write: nothing is acknowledged that a restart does not know."""
    server = start_server(engine.host)
    service = started(server.run(**NAP, memory=16))
    becomes(server, service, "running")
    with journal(server).open("r+b") as file:
        file.write(os.urandom(journal(server).stat().st_size))
    Path(f"{journal(server)}-wal").write_bytes(os.urandom(8192))
    replies = [server.run(**NAP, memory=16) for _ in range(3)]
    assert {reply.status for reply in replies} <= {200, 507}
    known = {service} | {reply["id"] for reply in replies if reply.status == 200}
    assert server.status(service).status == 200
    server.kill()
    server.start()
    eventually(lambda: server.call("GET", "/status").status == 200, 10)
    eventually(lambda: {each["id"] for each in server.call("GET", "/status")["services"]} >= known, 20)


@pytest.mark.patient
def test_a_locked_journal(engine: Engine, start_server: StartServer) -> None:
    """While another program has it /run is 507 after two seconds, all else goes on; free again, so does the rest."""
    server = start_server(engine.host)
    service = started(server.run(**NAP, memory=16))
    becomes(server, service, "running")
    with Subscriber(server) as subscriber:
        other = sqlite3.connect(journal(server), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        refuses(server)
        assert not ready(server)
        assert made(engine) == [service]
        assert server.status(service)["status"] == "running"
        assert server.stop_service(service).status == 200
        subscriber.until(lambda f: f["type"] == "heartbeat" and "stale_since" in f, 15)
        other.execute("ROLLBACK")
        other.close()
        subscriber.event(lambda e: e["subject"] == service and e["type"] == "io.qmaster.service.removed", 20)
        assert contiguous(subscriber)
    eventually(lambda: ready(server), 10)
    started(server.run(**NAP, memory=16))


def test_a_journal_that_is_deleted_under_it(engine: Engine, start_server: StartServer) -> None:
    """Nothing more is acknowledged, /stop and reads go on; the next start begins a new one with all that there is."""
    server = start_server(engine.host)
    service, other = (started(server.run(**NAP, memory=16)) for _ in range(2))
    for each in (service, other):
        becomes(server, each, "running")
    shutil.rmtree(journal(server).parent)
    assert "deleted" in refuses(server)["error"]
    assert sorted(made(engine)) == sorted([service, other])
    eventually(lambda: not ready(server), 10)
    assert server.stop_service(other).status == 200
    assert server.status(service)["status"] == "running"
    server.restart()
    becomes(server, service, "running")
    eventually(lambda: ready(server), 10)
    eventually(lambda: service in made(engine) and other not in made(engine), 20)
    started(server.run(**NAP, memory=16))


# Descriptors


class Kept:
    """A connection that stays open."""

    def __init__(self, server: Server) -> None:
        self._token = server.token
        self._connection = http.client.HTTPConnection(ADDRESS, server.port, timeout=30)
        self.ask("GET", "/livez")

    def ask(self, method: str, path: str, **body: Any) -> tuple[int, Json]:
        self._connection.request(
            method, path, json.dumps(body) if body else None, {"Authorization": f"Bearer {self._token}"}
        )
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        self._connection.close()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stopped(server: Server, kept: Kept, service: str) -> bool:
    """Whether a new connection is let in; the other one is used meanwhile, so that it is not idle."""
    kept.ask("GET", "/livez")
    return server.stop_service(service).status == 200


@pytest.mark.patient
def test_connections_that_use_up_all_descriptors(engine: Engine, start_server: StartServer) -> None:
    """Who is served stays, the next is refused; who says nothing is closed after ten seconds, and makes room."""
    server = start_server(engine.host, wrapper=["prlimit", "--nofile=160:160"])
    eventually(lambda: ready(server), 10)
    service = started(server.run(**NAP, memory=16))
    becomes(server, service, "running")
    kept = Kept(server)
    crowd = [http.client.HTTPConnection(ADDRESS, server.port, timeout=10) for _ in range(200)]
    for each in crowd:
        each.connect()
    before = cpu_seconds(server.pid)
    status, document = kept.ask("POST", "/run", **NAP, memory=16)
    assert status == 200, document
    assert kept.ask("GET", "/livez")[0] == 200
    eventually(lambda: stopped(server, kept, service), 20, every=0.5, ignoring=OSError)
    eventually(lambda: kept.ask("GET", f"/status/{service}")[1]["status"] == "stopping", 20, every=0.2)
    time.sleep(0.5)
    assert cpu_seconds(server.pid) - before < 2  # in more than ten seconds
    for each in crowd:
        each.close()
    eventually(lambda: server.stop_service(document["id"]).status == 200, 10, ignoring=OSError)
    assert ready(server)
    kept.close()
    eventually(lambda: "connections_full" in server.logs(), 5, "it is in the log, within a second")
    assert server.logs().count("connections_full") < 25  # at most once a second
    assert "Traceback" not in server.logs()


def test_no_descriptor_at_all(engine: Engine, start_server: StartServer) -> None:
    """Nothing can be opened any more: what is open works, or says 503; and with descriptors again all is well."""
    server = start_server(engine.host)
    eventually(lambda: ready(server), 10)
    service = started(server.run(**NAP, memory=16))
    becomes(server, service, "running")
    kept = Kept(server)
    with Subscriber(server) as subscriber:
        soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        used = max(int(each.name) for each in Path(f"/proc/{server.pid}/fd").iterdir()) + 1
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used, hard))
        for _ in range(2):
            assert kept.ask("POST", "/run", **NAP, memory=16)[0] in (200, 503)
            assert kept.ask("GET", f"/status/{service}")[0] == 200
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
        eventually(lambda: ready(server), 20)
        assert kept.ask("POST", "/stop", id=service)[0] == 200
        subscriber.event(lambda e: e["subject"] == service and e["data"]["status"] == "stopping")
        assert subscriber.close_code is None
        assert contiguous(subscriber)
    kept.close()


# Its own end


@pytest.mark.parametrize(("kind", "end"), [("service", "kill"), ("container", "terminate")])
def test_an_end_in_the_middle_of_a_stop(engine: Engine, server: Server, kind: str, end: str) -> None:
    """The stop was accepted: the next start finishes it, with the last words and the exit code."""
    run_id = shell(server, SLOWLY, type=kind)
    becomes(server, run_id, "running")
    assert server.stop_service(run_id).status == 200
    began = time.monotonic()
    getattr(server, end)()
    assert time.monotonic() - began < 10
    server.start()
    gone = has(server, run_id, "removed", reason="stopped", exit_code=7)
    assert gone["result"]["stdout"] == "last words\n"
    eventually(lambda: made(engine) == [], 10)


def test_a_kill_as_what_waits_is_stopped(engine: Engine, proxy: Proxy, start_server: StartServer) -> None:
    """Removed at once, as nothing runs: the next start tells who did it, though nothing of it is left."""
    server = start_server(proxy.host)
    run_id = started(server.run(**NAP, constraints=["node.labels.there==yes"]))
    becomes(server, run_id, "pending")
    rule = proxy.on(f"/services/{run_id}", forward_then(hang()), "DELETE", times=1)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(server.stop_service, run_id)
        eventually(lambda: rule.hits and made(engine) == [], 10)
        server.kill()
    server.start()
    has(server, run_id, "removed", reason="stopped")


def test_an_end_while_the_engine_is_silent(engine: Engine, proxy: Proxy, start_server: StartServer) -> None:
    """A run that is not done in time is 503, and it ends; what the engine made is removed at the next start."""
    server = start_server(proxy.host, "--shutdown-timeout", "4")
    rule = proxy.on(CREATE, forward_then(hang()), "POST", times=1)
    reply = in_background(server, **NAP)
    eventually(lambda: rule.hits and made(engine), 10)
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began < 5.5
    assert "stopping" in away(reply.result(1))
    server.start()
    eventually(lambda: made(engine) == [], 20, "it is removed")


def test_a_clean_stop_tells_everybody(engine: Engine, proxy: Proxy, start_server: StartServer) -> None:
    """A run is answered its id, a wait 200, a socket 1001; nobody new is let in, however often it is told to end."""
    server = start_server(proxy.host)
    with Subscriber(server) as subscriber, ThreadPoolExecutor(1) as pool:
        nap = started(server.run(**NAP, memory=16))
        becomes(server, nap, "running")
        waiting = pool.submit(server.call, "GET", f"/status/{nap}?wait=60", timeout=70)
        rule = proxy.on(CREATE, delay(1.5), "POST", times=1)
        reply = in_background(server, **NAP, memory=16)
        eventually(lambda: rule.hits, 10)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(server.pid, number)
            eventually(lambda: refused(server), 5, "nobody is let in")
        assert server.terminate() == 0
        run_id = started(reply.result(1))
        assert waiting.result(5).status == 200
        assert waiting.result(5)["status"] == "running"
        assert subscriber.closed() == 1001
    server.start()
    with subscriber.resume() as resumed:
        resumed.event(lambda e: e["subject"] == run_id and e["data"]["status"] == "running")
        assert not any(frame["type"] in ("gap", "snapshot") for frame in resumed.frames)
    assert sorted(made(engine)) == sorted([nap, run_id])


def refused(server: Server) -> bool:
    try:
        Connection(server.port, "/events", {}).close()
    except OSError:
        return True
    return False


def test_a_server_that_is_frozen(server: Server, engine: Engine) -> None:
    """SIGSTOP, as a debugger does: thawed, it has missed nothing and cut nobody."""
    with Subscriber(server) as subscriber:
        job = shell(server, "sleep 1; echo meanwhile; exit 6")
        becomes(server, job, "running")
        server.freeze()
        time.sleep(2)
        server.thaw()
        subscriber.event(lambda e: e["subject"] == job and e["type"] == "io.qmaster.service.failed", 10)
        assert subscriber.close_code is None
    shown = has(server, job, "failed", exit_code=6)
    assert eventually(lambda: server.status(shown["id"])["result"], 10)["stdout"] == "meanwhile\n"
