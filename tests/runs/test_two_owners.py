"""Two owners on a real engine: with tokens as the command makes them, over HTTP, the stream, and from a terminal."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testbed import Engine, Reply, Server, eventually
from testbed.server import ROOT
from testbed.subscriber import Sse, Subscriber

StartServer = Callable[..., Server]
Made = tuple[str, str]  # a token, and its entry
Tokens = tuple[Made, Made]

IMAGE = "busybox:local"
LIMITS = """images = ["busybox:local"]
max_memory = 32
max_cpus = 0.5
max_running = 2
constraints = ["node.role==manager"]
"""


def qmaster(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", **env}
    command = [sys.executable, "-m", "qmaster", *args]
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)


def made(name: str) -> Made:
    """A new token, and its entry."""
    done = qmaster("token", name)
    assert done.returncode == 0, done.stderr
    return done.stderr.strip(), done.stdout


class Two:
    """Alice, who has limits, and Bob, who has none, on one server."""

    def __init__(self, file: Path, tokens: Tokens, start_server: StartServer, engine: Engine) -> None:
        self.file = file
        (self.alice, self._alices), (self.bob, self._bobs) = tokens
        self.write(self._alices + LIMITS, self._bobs)
        self.server = start_server(engine.host, QMASTER_TOKENS_FILE=str(self.file))
        eventually(lambda: self.server.call("GET", "/readyz").status == 200, 10, "it is ready")

    def write(self, *tables: str) -> None:
        beside = self.file.with_suffix(".new")
        beside.write_text("".join(tables))
        beside.replace(self.file)

    def leave_bob_alone(self) -> None:
        self.write(self._bobs)

    def call(self, who: str, method: str, path: str, body: Any = None) -> Reply:
        token = {"alice": self.alice, "bob": self.bob}[who]
        return self.server.call(method, path, json=body, token=token, timeout=60)

    def run(self, who: str, **fields: Any) -> Reply:
        return self.call(who, "POST", "/run", {"image": IMAGE, "memory": 16, "command": "nap 300", **fields})


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    """Alice's and Bob's."""
    return made("alice"), made("bob")


@pytest.fixture
def two(tmp_path: Path, tokens: Tokens, start_server: StartServer, engine: Engine) -> Two:
    return Two(tmp_path / "tokens.toml", tokens, start_server, engine)


def names(reply: Reply) -> set[str]:
    return {service["name"] for service in reply["services"]}


def test_two_owners_do_not_see_each_other(two: Two, engine: Engine) -> None:
    """Nor reach each other's runs; the root token sees both. What is run is within the limits."""
    client: Any = engine.client()
    with (
        Subscriber(two.server, token=two.alice) as alice,
        Subscriber(two.server, token=two.bob) as bob,
        Subscriber(two.server) as root,
    ):
        for subscriber in (alice, bob, root):
            subscriber.until(lambda frame: frame["type"] == "snapshot")
        alices = two.run("alice", name="alices", memory=None, command=["sh", "-c", "echo of alice; nap 300"])
        bobs = two.run("bob", name="bobs", type="container", command="echo of bob", wait=30)
        assert (alices.status, bobs.status, bobs["result"]["stdout"]) == (200, 200, "of bob\n"), alices.text

        # What Docker was asked for.
        spec = client.inspect_service(alices["id"])["Spec"]
        assert spec["Labels"]["io.qmaster.owner"] == "alice"
        limits = spec["TaskTemplate"]["Resources"]["Limits"]
        assert limits == {"MemoryBytes": 32 * 1024 * 1024, "NanoCPUs": 500_000_000, "Pids": 1024}
        assert spec["TaskTemplate"]["Placement"]["Constraints"] == ["node.role==manager"]

        # What each sees.
        alice.event(lambda event: event["type"].endswith("service.running"))
        bob.event(lambda event: event["type"].endswith("service.updated") and event["data"]["result"])
        root.event(lambda event: event["subject"] == bobs["id"])
        assert {event["subject"] for event in alice.events} == {alices["id"]}
        assert {event["subject"] for event in bob.events} == {bobs["id"]}
        assert {alices["id"], bobs["id"]} <= {event["subject"] for event in root.events}
        assert names(two.call("alice", "GET", "/status")) == {"alices"}
        assert names(two.call("bob", "GET", "/status")) == {"bobs"}
        assert names(two.server.call("GET", "/status")) >= {"alices", "bobs"}
        assert two.call("alice", "GET", "/logs/alices").text == "of alice\n"

        # What is another's, by its name and its id.
        for who, other in (("alice", bobs["id"]), ("alice", "bobs"), ("bob", alices["id"]), ("bob", "alices")):
            assert two.call(who, "GET", f"/status/{other}").status == 404
            assert two.call(who, "GET", f"/logs/{other}").status == 404
            assert two.call(who, "POST", "/stop", {"id": other}).status == 404
        assert two.call("bob", "GET", f"/status/{alices['id'][:12]}").status == 404

        # What is beyond a limit.
        for fields, rule in (
            ({"memory": 33}, "max_memory"),
            ({"image": "busybox:other"}, "images"),
            ({"type": "container"}, "constraints"),
            ({"networks": ["ingress"]}, "networks"),
            ({"ports": ["8080:80"]}, "ports"),
        ):
            refused = two.run("alice", **fields)
            assert (refused.status, refused["error"].partition(":")[0]) == (403, rule)
        assert two.run("alice", name="alices-second").status == 200
        assert two.run("alice")["error"].startswith("max_running: ")

        # Her own she stops, and may run another then.
        assert two.call("alice", "POST", "/stop", {"id": "alices-second"}).status == 200
        eventually(lambda: two.run("alice", name="alices-third").status == 200, 30, "she may run one more")


def test_a_token_that_is_taken_away_is_gone_within_a_second(two: Two, engine: Engine) -> None:
    """From all that is open; its run goes on, and is told in the terminal as well. No token is in the log."""
    follows = qmaster("run", "--memory", "16", IMAGE, "echo", "done", QMASTER_URL=two.server.url, TOKEN=two.alice)
    assert (follows.returncode, follows.stdout) == (0, "done\n"), follows.stderr
    nap = two.run("alice", command=["sh", "-c", "echo first; nap 300"])
    command = [sys.executable, "-m", "qmaster", "logs", "--follow", nap["id"]]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "QMASTER_URL": two.server.url, "TOKEN": two.alice}
    with (
        Subscriber(two.server, token=two.alice) as alice,
        Subscriber(two.server, token=two.bob) as bob,
        Sse(two.server, headers={"Authorization": f"Bearer {two.alice}"}) as sse,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as log,
    ):
        alice.event(lambda event: event["subject"] == nap["id"] and event["type"].endswith("service.running"))
        events = iter(sse)
        while next(events).name != "snapshot":
            pass
        assert log.stdout
        assert log.stdout.readline() == "first\n"
        two.leave_bob_alone()
        assert alice.closed(1) == 4401
        assert [event.data["code"] for event in events if event.name == "error"] == [4401]
        out, err = log.communicate(timeout=10)
        assert log.returncode == 1, (out, err)
        assert "no longer valid" in out + err or "invalid token" in out + err
        assert bob.close_code is None
    assert two.call("alice", "GET", "/status").status == 401
    assert two.server.status(nap["id"])["status"] == "running"
    assert two.server.stop_service(nap["id"]).status == 200
    logged = two.server.logs()
    assert two.alice not in logged
    assert two.bob not in logged
    assert two.server.token not in logged
    lines = [json.loads(line) for line in logged.splitlines() if line.startswith("{")]
    audited = ("run_started", "run_stopped")
    audit = [(line["event"], line["by"], line.get("run")) for line in lines if line["event"] in audited]
    assert audit[1:] == [("run_started", "alice", nap["id"]), ("run_stopped", "root", nap["id"])]
    assert {line["by"] for line in lines if line["event"] == "refused"} == {"alice"}
    assert not re.search("Traceback", logged)


def test_who_has_a_port_is_not_told_to_others(two: Two) -> None:
    """The engine's words name the service, or its id: the root token sees them, another only that the port is taken."""
    two.write(two._bobs + 'ports = ["31000-31999"]\n')
    port = "31234:80"
    fields = {"image": IMAGE, "command": "nap 300", "ports": [port]}
    victim = two.server.call("POST", "/run", json={**fields, "name": "victim"})
    assert victim.status == 200, victim.text
    eventually(lambda: two.run("bob", ports=["1:1"]).status == 403, 10, "the file is read")
    refused = two.run("bob", name="other", ports=[port])
    assert refused.status >= 400
    assert "31234" in refused.text
    for name in ("victim", victim["id"], victim["id"][:12]):
        assert name not in refused.text
    roots = two.server.call("POST", "/run", json=fields)
    assert roots.status >= 400
    assert "victim" in roots.text


def test_the_time_of_an_answer_does_not_tell_whether_another_has_it(two: Two) -> None:
    """An id of another's, a name of another's and what nobody has: medians that are near each other."""
    alices = two.run("alice", name="alices")
    assert alices.status == 200, alices.text
    foreign = two.server.call("POST", "/run", json={"image": IMAGE, "command": "nap 300", "type": "container"})
    asked = [alices["id"], "alices", foreign["id"], "nobodys", "0" * 25, "0" * 64]
    times: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(15):
        for name in asked:
            began = time.monotonic()
            assert two.call("bob", "GET", f"/status/{name}").status == 404
            times[name].append(time.monotonic() - began)
    medians = sorted(statistics.median(each) for each in times.values())
    assert medians[-1] < 1.3 * medians[0], times


def test_only_so_many_ended_runs_stay(two: Two) -> None:
    """The oldest goes from the swarm early; its record, exit code and output stay. Another's stay as they were."""
    two.write(two._alices + LIMITS + "max_kept = 1\nmax_rate = 3\nmax_ttl = 600\n", two._bobs)
    eventually(lambda: two.server.logs().count('"names"') > 1, 5, "the file is read")
    assert two.run("alice", ttl=601)["error"].startswith("max_ttl: this token's runs are kept at most 600 seconds")
    bobs, first, second = (
        two.run(who, command=["sh", "-c", f"echo {word}; exit 3"], wait=60)
        for who, word in (("bob", "zero"), ("alice", "one"), ("alice", "two"))
    )
    assert (first["result"]["exit_code"], first["ttl"]) == (3, 600)
    path = f"/status/{first['id']}"
    eventually(lambda: two.call("alice", "GET", path)["status"] == "removed", 30, "the oldest goes")
    gone = two.call("alice", "GET", path)
    assert (gone["exit_code"], gone["result"]) == (3, first["result"])
    assert two.call("alice", "GET", f"/status/{second['id']}")["status"] == "failed"
    assert two.call("bob", "GET", f"/status/{bobs['id']}")["status"] == "failed"
    two.run("alice", command="true", wait=60)
    refused = two.run("alice")
    assert (refused.status, refused["error"].partition(":")[0]) == (429, "max_rate")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
