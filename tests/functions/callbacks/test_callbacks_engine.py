"""Callbacks on real engines: of runs and functions, with quartermaster killed between the end and the delivery."""

import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from called import Function
from receivers import SECRET
from standardwebhooks import Webhook
from testbed import Bed, Reply, Server, Swarm, eventually, started
from testbed.tidy import tidy

IMAGE = "busybox:local"
LATER = {"Prefer": "respond-async"}
Json = dict[str, Any]


class Receiver:
    """A receiver of callbacks in threads of its own; while `gate` is not set, it takes them and does not answer."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                if receiver.gate.wait(60):
                    self.send_response(204)
                    self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/hooks"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def events(self, path: str) -> list[Json]:
        """What it got at a path; the signatures are right."""
        return [Webhook(SECRET).verify(body, headers) for at, headers, body in list(self.got) if at == path]

    def ids(self, path: str) -> list[str]:
        return [headers["webhook-id"] for at, headers, _ in list(self.got) if at == path]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.gate.set()
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(scope="module")
def server(
    bed: Bed, functions_swarm: Swarm, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A quartermaster that sends callbacks to the receiver."""
    keys: Path = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{receiver.url} {SECRET}\n")
    keys.chmod(0o600)
    flags = [*bed.runtime(), "--callbacks", receiver.url, "--webhook-key-file", str(keys)]
    server = bed.server(functions_swarm.manager.host, flags)
    server.start()
    ready(server)
    yield server
    assert server.failures() == []
    server.kill()
    tidy(functions_swarm.manager, functions_swarm.nodes)


def ready(server: Server) -> None:
    eventually(lambda: server.call("GET", "/readyz").status == 200, 30, "it is ready")


def start(server: Server, url: str, script: str, **fields: Any) -> str:
    return started(server.run(image=IMAGE, command=["sh", "-c", script], memory=8, callback=url, **fields))


def delivered(server: Server, path: str) -> Reply:
    """The document of a run or invocation, once its callback was delivered."""

    def look() -> Reply | None:
        reply = server.call("GET", path)
        assert reply.status == 200, reply.text
        (callback,) = reply["callbacks"] or [{"delivered_at": None}]
        return reply if callback["delivered_at"] else None

    reply = eventually(look, 60, f"the callback of {path} is delivered")
    assert reply is not None
    return reply


@pytest.mark.parametrize("kind", ["service", "container"])
def test_the_end_of_a_run_is_told(server: Server, receiver: Receiver, kind: str) -> None:
    """With its exit code and its output, which `GET /status/{id}` has too."""
    run = start(server, f"{receiver.url}/{kind}", "echo 42; exit 3", type=kind)
    reply = delivered(server, f"/status/{run}")
    (event,) = receiver.events(f"/hooks/{kind}")
    assert (event["type"], event["subject"]) == ("io.qmaster.service.failed", run)
    assert (event["data"]["exit_code"], event["data"]["result"]["stdout"]) == (3, "42\n")
    assert event["data"]["result"] == reply["result"]
    assert (reply["callbacks"][0]["attempts"], reply["callbacks"][0]["last_error"]) == (1, None)
    assert not [label for label in reply["labels"] if label.startswith("io.qmaster.")]


def test_a_stopped_run_is_told(server: Server, receiver: Receiver) -> None:
    """Its reason says so."""
    run = start(server, f"{receiver.url}/stopped", "sleep 600")
    assert server.stop_service(run).status == 200
    delivered(server, f"/status/{run}")
    (event,) = receiver.events("/hooks/stopped")
    assert event["data"]["reason"] == "stopped"


def test_a_run_that_ends_while_quartermaster_is_away_is_told(server: Server, receiver: Receiver) -> None:
    """Killed right after it has accepted it."""
    run = start(server, f"{receiver.url}/away", "sleep 2; echo done")
    server.kill()
    server.start()
    ready(server)
    delivered(server, f"/status/{run}")
    (event,) = receiver.events("/hooks/away")
    assert (event["type"], event["data"]["result"]["stdout"]) == ("io.qmaster.service.complete", "done\n")


def test_a_kill_between_the_end_and_the_delivery(server: Server, receiver: Receiver) -> None:
    """The receiver has taken it and not answered, so nobody knows that it arrived: it gets it again, as the same."""
    receiver.gate.clear()
    run = start(server, f"{receiver.url}/killed", "echo 1")
    eventually(lambda: receiver.ids("/hooks/killed"), 30, "it is being sent")
    server.kill()
    receiver.gate.set()
    server.start()
    ready(server)
    delivered(server, f"/status/{run}")
    first, second = receiver.events("/hooks/killed")
    assert len(set(receiver.ids("/hooks/killed"))) == 1
    assert first == second


@pytest.mark.patient
def test_kills_at_random_moments_lose_none(server: Server, receiver: Receiver) -> None:
    """Of the runs that were acknowledged; all tries of one have one id."""
    chance = random.Random(16)
    runs: list[str] = []
    done = threading.Event()

    def keep_starting() -> None:
        for number in range(300):
            if number >= 24 and len(runs) >= 4:  # a busy machine takes longer to start
                break
            with contextlib.suppress(OSError, http.client.HTTPException):  # it was killed meanwhile
                kind = "container" if number % 3 else "service"
                reply = server.run(image=IMAGE, command="true", memory=8, callback=f"{receiver.url}/many", type=kind)
                if reply.status == 200:
                    runs.append(reply["id"])
            time.sleep(0.2)
        done.set()

    threading.Thread(target=keep_starting, daemon=True).start()
    while not done.wait(chance.uniform(0.5, 2)):
        server.kill()
        server.start()
    ready(server)
    for run in runs:
        delivered(server, f"/status/{run}")
    told = {event["subject"] for event in receiver.events("/hooks/many")}
    assert len(runs) > 1
    assert set(runs) <= told
    assert len(set(receiver.ids("/hooks/many"))) == len(told)


@pytest.fixture(scope="module")
def function(server: Server, receiver: Receiver) -> Function:
    """One that does what its event names, and tells how it ended."""
    urls = {"on_success": f"{receiver.url}/success", "on_failure": f"{receiver.url}/failure"}
    return Function(server, "telling", timeout=30, max_instances=1, retries=1, retry_delay=0.1, **urls)


def accepted(function: Function, event: Json) -> str:
    reply = function.call(event, LATER)
    assert reply.status == 202, reply.text
    return str(reply["id"])


def test_the_ends_of_calls_are_told(function: Function, server: Server, receiver: Receiver) -> None:
    """To one URL that they succeeded, to the other that they are dead; a synchronous call tells nobody else."""
    function.echo("hello")
    good, bad = accepted(function, {"do": "echo", "text": "hi"}), accepted(function, {"do": "fail"})
    reply = delivered(server, f"/invocations/{good}")
    delivered(server, f"/invocations/{bad}")
    (success,), (failure,) = receiver.events("/hooks/success"), receiver.events("/hooks/failure")
    assert (success["type"], success["subject"]) == ("io.qmaster.invocation.completed", good)
    assert success["data"]["output"] == reply["output"]
    assert (failure["type"], failure["subject"]) == ("io.qmaster.invocation.failed", bad)
    assert (failure["data"]["status"], failure["data"]["error"]["type"]) == ("dead", "ValueError")
    assert [attempt["error"]["type"] for attempt in failure["data"]["attempts"]] == ["ValueError"] * 2


def test_a_call_whose_end_is_not_told_yet_survives_a_kill(
    function: Function, server: Server, receiver: Receiver
) -> None:
    """Ended, being told, and killed; the next process tells it, and the call is not made again."""
    before = len(receiver.got)
    receiver.gate.clear()
    call = accepted(function, {"do": "echo", "text": "once"})
    eventually(lambda: len(receiver.got) > before, 60, "it is being sent")
    server.kill()
    receiver.gate.set()
    server.start()
    ready(server)
    reply = delivered(server, f"/invocations/{call}")
    assert len(reply["attempts"]) == 1
    told = [json.loads(body) for _, _, body in receiver.got[before:]]
    assert [each["subject"] for each in told] == [call, call]
    assert told[0] == told[1]


def test_a_job_that_fails_is_told(server: Server, receiver: Receiver) -> None:
    """With its exit code and the end of its output: what a job by schedule needs where nobody watches."""
    spec = {"runtime": "job", "image": IMAGE, "command": ["sh", "-c", "echo broken >&2; exit 7"], "memory": 8}
    spec |= {"retries": 0, "on_failure": f"{receiver.url}/job"}
    assert server.call("PUT", "/functions/nightly", json=spec).status == 201
    reply = server.call("POST", "/functions/nightly/invoke", headers=LATER)
    assert reply.status == 202, reply.text
    delivered(server, f"/invocations/{reply['id']}")
    (event,) = receiver.events("/hooks/job")
    error = event["data"]["error"]
    assert (event["type"], error["type"]) == ("io.qmaster.invocation.failed", "exit")
    assert "7" in error["message"]
    assert "broken" in error["message"]


def test_a_function_cannot_tell_others(server: Server) -> None:
    """Publishing it is refused."""
    spec = {"image": IMAGE, "on_failure": "http://127.0.0.1:1/hooks"}
    reply = server.call("PUT", "/functions/elsewhere", json=spec)
    assert reply.status == 403, reply.text
    assert reply["error"].startswith("on_failure: no prefix of the server's option --callbacks covers this URL")
