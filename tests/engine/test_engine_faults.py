"""What the engine can do to a running server: go, come back, lose an answer, talk nonsense; and what is told of it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import StartServer
from engine_cases import CREATE, IMAGE, NAP, away, becomes, in_background, made, ready, runs_again
from testbed import Bed, Engine, Proxy, Reply, Server, Swarm, eventually, sdk, started
from testbed.faults import Exchange, Fault, answer, cut, delay, forward_then, garbage, half_close, hang

NONSENSE: dict[str, Fault] = {
    "no HTTP": garbage(),
    "nothing": cut(),
    "no JSON": answer(200, "not JSON"),
    "other JSON": answer(200, '"a string"'),
    "an error that is no JSON": answer(500, "<html>"),
    "a redirect": answer(301, ""),
}


def noticed(server: Server) -> None:
    """Wait until the server knows that the engine is away; its cache may be out of date a little earlier."""

    def known() -> bool:
        reply = server.call("GET", "/readyz", token=False)
        return reply.status == 503 and "out of date" not in reply["error"]

    eventually(known, 15, "the server has noticed")


# The engine goes and comes back


@pytest.mark.parametrize(("go", "come"), [("stop", "start"), ("kill", "start"), ("freeze", "thaw")])
def test_the_engine_goes_and_comes_back(engine: Engine, shared: Server, go: str, come: str) -> None:
    """503 at once while it is away, and success when it is back, by the same process."""
    eventually(lambda: ready(shared), 20)
    becomes(shared, started(shared.run(**NAP)), "running")
    pid = shared.pid
    getattr(engine, go)()
    noticed(shared)
    calls: list[Callable[[], Reply]] = [
        lambda: shared.run(**NAP),
        lambda: shared.run(**NAP, type="container"),
        lambda: shared.stop_service("nobody-knows-it"),
        lambda: shared.status("nobody-knows-it"),
    ]
    for call in calls:
        began = time.monotonic()
        assert "engine" in away(call())
        assert time.monotonic() - began < 1
    assert shared.call("GET", "/livez", token=False).status == 200
    getattr(engine, come)()
    becomes(shared, runs_again(shared), "running")
    assert ready(shared)
    assert (shared.pid, shared.alive) == (pid, True)


def test_the_first_call_after_the_end_is_told_too(engine: Engine, shared: Server) -> None:
    """Not only when the server has noticed: the call that finds nobody is answered 503 at once."""
    eventually(lambda: ready(shared), 10)
    engine.kill()
    began = time.monotonic()
    assert "away" in away(shared.run(**NAP))
    assert time.monotonic() - began < 2


def test_a_frozen_engine_is_waited_for_within_bounds(engine: Engine, shared: Server) -> None:
    """A lookup that has begun is answered after three seconds."""
    eventually(lambda: ready(shared), 10)
    engine.freeze()
    began = time.monotonic()
    away(shared.status("nobody-knows-it"))
    assert time.monotonic() - began < 6


def test_the_engine_is_absent_at_the_start(engine: Engine, start_server: StartServer) -> None:
    """The server starts, says that it is not ready, and serves when the engine has come."""
    engine.stop()
    server = start_server(engine.host)
    away(server.call("GET", "/readyz", token=False))
    away(server.run(**NAP))
    engine.start()
    becomes(server, runs_again(server), "running")


# An engine that is no swarm manager


def test_an_engine_without_a_swarm(plain_engine: Engine, start_server: StartServer) -> None:
    """A service is 503 that names the command to run; containers need no swarm."""
    server = start_server(plain_engine.host)
    assert "docker swarm init" in away(server.run(**NAP))
    eventually(lambda: "docker swarm init" in away(server.call("GET", "/readyz", token=False)), 10)
    container = started(server.run(**NAP, type="container"))
    becomes(server, container, "running")
    assert server.stop_service(container).status == 200
    eventually(lambda: sdk(plain_engine).containers(all=True) == [], 20, "the container is gone")


def test_a_locked_manager_is_to_be_unlocked(bed: Bed, start_server: StartServer) -> None:
    """503 that names `docker swarm unlock`, in answers, `/readyz` and the log; containers run; then it serves."""
    engine = bed.single("locked")
    engine.cli("swarm", "update", "--autolock=true")
    key = engine.cli("swarm", "unlock-key", "--quiet").strip()
    engine.stop()
    engine.start()
    server = start_server(engine.host)
    assert "docker swarm init" not in server.run(**NAP).text  # also before it is known
    eventually(
        lambda: "docker swarm unlock" in server.call("GET", "/readyz", token=False).text, 20, "the lock is known"
    )
    for reply in (server.run(**NAP), server.call("GET", "/readyz", token=False)):
        assert "docker swarm unlock" in away(reply)
        assert "init" not in away(reply)
    eventually(lambda: "docker swarm unlock" in server.logs(), 20, "the lock is logged")
    becomes(server, started(server.run(**NAP, type="container")), "running")
    sdk(engine).unlock_swarm(key)
    becomes(server, runs_again(server), "running")


def test_a_worker_is_no_manager(swarm: Swarm, start_server: StartServer) -> None:
    """A service is 503 that sends to a manager; containers run on the worker."""
    worker = swarm.workers[0]
    server = start_server(worker.host)
    assert "worker" in away(server.run(**NAP))
    becomes(server, started(server.run(**NAP, type="container")), "running")
    assert len(sdk(worker).containers()) == 1
    assert sdk(swarm.manager).services() == []


# A create whose answer says something else than was done


@pytest.mark.parametrize("fault", [answer(500), cut(), garbage(), answer(200, "not JSON")])
@pytest.mark.parametrize("kind", ["service", "container"])
def test_a_create_that_was_done_is_success(
    engine: Engine, front: Proxy, behind: Server, kind: str, fault: Fault
) -> None:
    """Whatever became of the answer: it is looked up by its name, and the caller gets the real id."""
    rule = front.on(CREATE, forward_then(fault), "POST", times=1)
    run_id = started(behind.run(**NAP, type=kind))
    assert rule.hits == 1
    assert made(engine) == [run_id]
    becomes(behind, run_id, "running")
    assert front.count(CREATE, "POST") == 1


@pytest.mark.parametrize("after", [0, 40])
def test_a_half_closed_create_is_success(engine: Engine, front: Proxy, behind: Server, after: int) -> None:
    """The engine ends its side in the middle of its answer, having created the service."""
    front.on(CREATE, half_close(after), "POST", times=1)
    run_id = started(behind.run(**NAP))
    assert made(engine) == [run_id]


@pytest.mark.parametrize(("fault", "status"), [(answer(500), 502), (cut(), 503), (garbage(), 502)])
def test_a_create_that_was_not_done_is_an_error(
    engine: Engine, front: Proxy, behind: Server, fault: Fault, status: int
) -> None:
    """Looked for in vain, it is told as what it was."""
    front.on(CREATE, fault, "POST", times=1)
    assert behind.run(**NAP).status == status
    assert made(engine) == []


def test_what_others_named_so_is_not_taken_for_ours(engine: Engine, front: Proxy, behind: Server) -> None:
    """A 500 with a service of that name, which somebody else made, is no success."""
    template = {"ContainerSpec": {"Image": IMAGE, "Args": ["nap"]}}
    other = sdk(engine).create_service(template, name="mine")["ID"]
    front.on(CREATE, forward_then(answer(500)), "POST", times=1)
    assert behind.run(**NAP, name="mine").status == 502
    assert made(engine) == [other]


def test_the_engine_dies_in_a_create_and_comes_back(engine: Engine, front: Proxy, behind: Server) -> None:
    """The caller waits, and is told the id of what was made."""
    killed = threading.Event()

    def die(exchange: Exchange) -> None:
        engine.kill()
        killed.set()

    front.on(CREATE, forward_then(die), "POST", times=1)
    reply = in_background(behind, **NAP)
    assert killed.wait(30)
    engine.start()
    run_id = started(reply.result(40))
    assert made(engine) == [run_id]


@pytest.mark.patient
def test_a_create_nobody_was_told_of_is_removed(engine: Engine, proxy: Proxy, start_server: StartServer) -> None:
    """The engine is gone for longer than a caller waits: 503, and later what was made is removed by itself."""
    server = start_server(proxy.host)

    def gone(exchange: Exchange) -> None:
        proxy.on("", cut())

    proxy.on(CREATE, forward_then(gone), "POST", times=1)
    away(server.run(**NAP))
    assert len(made(engine)) == 1
    proxy.clear()
    eventually(lambda: made(engine) == [], 20, "what was made is removed")
    assert "orphan_removed" in server.logs()
    becomes(server, runs_again(server), "running")


# Nonsense


@pytest.mark.parametrize("fault", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_the_engines_failure_not_ours(engine: Engine, front: Proxy, behind: Server, fault: Fault) -> None:
    """Whatever the engine answers to whatever is asked: 502 or 503, never 500; and later all is well again."""
    service = started(behind.run(**NAP))
    becomes(behind, service, "running")
    front.on("", fault)
    front.cut_all()
    calls: list[Callable[[], Reply]] = [
        lambda: behind.status("nobody-knows-it"),
        lambda: behind.stop_service("nobody-knows-it"),
        lambda: behind.stop_service(service),
        lambda: behind.status("nobody-knows-it-either"),
    ]
    for call in calls:
        assert call().status in (502, 503)
    eventually(lambda: not ready(behind), 15, "the server has noticed")
    for kind in ("service", "container"):
        assert behind.run(**NAP, type=kind).status in (502, 503)
    assert behind.status(service).status == 200  # from the view
    front.clear()
    becomes(behind, runs_again(behind), "running")
    assert '"status":500' not in behind.logs()


@pytest.mark.parametrize("fault", [half_close(5), cut(5), hang(5)])
def test_a_broken_listing_is_bounded(engine: Engine, front: Proxy, behind: Server, fault: Fault) -> None:
    """An answer that stops in the middle, or never comes, is 502 or 503 within a few seconds."""
    eventually(lambda: ready(behind), 10)
    front.on(r"/(services|containers)/nobody", fault)
    began = time.monotonic()
    assert behind.status("nobody").status in (502, 503)
    assert time.monotonic() - began < 8
    front.clear()
    eventually(lambda: behind.status("nobody").status == 404, 20, "it is asked again")


# The end of the server itself


@pytest.mark.parametrize("kind", ["service", "container"])
def test_a_run_is_finished_before_the_server_ends(
    engine: Engine, proxy: Proxy, start_server: StartServer, kind: str
) -> None:
    """SIGTERM in the middle of a run: its caller gets the id, and then the server ends with 0."""
    server = start_server(proxy.host)
    rule = proxy.on(CREATE, delay(1.5), "POST", times=1)
    reply = in_background(server, **NAP, type=kind)
    eventually(lambda: rule.hits, 10)
    assert server.terminate() == 0
    run_id = started(reply.result(1))
    assert made(engine) == [run_id]


def killed_in(server: Server, proxy: Proxy, fault: Fault, made_first: Callable[[], object], kind: str) -> None:
    """Kill the server in the middle of a run, and start it again."""
    rule = proxy.on(CREATE, fault, "POST", times=1)
    caller = threading.Thread(target=_run_in_vain, args=(server, kind), daemon=True)
    caller.start()
    eventually(lambda: rule.hits and made_first(), 10, "the run has begun")
    server.kill()
    caller.join(10)
    server.start()


def _run_in_vain(server: Server, kind: str) -> None:
    with pytest.raises(OSError, match=r".*"):
        server.run(**NAP, type=kind)


@pytest.mark.parametrize("kind", ["service", "container"])
def test_a_killed_server_leaves_nothing_behind(
    engine: Engine, proxy: Proxy, start_server: StartServer, kind: str
) -> None:
    """What was made for a caller who was never told is removed after the restart."""
    server = start_server(proxy.host)
    acknowledged = started(server.run(**NAP))
    killed_in(server, proxy, forward_then(hang()), lambda: len(made(engine)) == 2, kind)
    eventually(lambda: made(engine) == [acknowledged], 20, "only what was acknowledged is left")
    becomes(server, acknowledged, "running")


def test_a_create_that_comes_true_after_the_restart(engine: Engine, proxy: Proxy, start_server: StartServer) -> None:
    """An engine may take a request from a server that is long dead: what it makes is removed too."""
    server = start_server(proxy.host)
    restarted = threading.Event()
    killed_in(server, proxy, lambda exchange: restarted.wait(60), lambda: True, "service")
    assert made(engine) == []
    restarted.set()
    eventually(lambda: "orphan_removed" in server.logs(), 20, "it came and was removed")
    eventually(lambda: made(engine) == [], 10)


def test_the_journal_says_what_was_intended_before_the_engine_is_asked(
    engine: Engine, front: Proxy, behind: Server
) -> None:
    """The intent is on disk when the create is sent: so a crash cannot come between."""
    rule = front.on(CREATE, delay(1), "POST", times=1)
    reply = in_background(behind, **NAP, name="intended")
    eventually(lambda: rule.hits, 10)
    written = b"".join(path.read_bytes() for path in Path(behind.folder).rglob("*") if path.is_file())
    assert b"intended" in written
    started(reply.result(20))
