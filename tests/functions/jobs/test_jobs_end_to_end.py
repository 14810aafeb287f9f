"""Jobs on a swarm of three nodes, through HTTP: any image, whose output and exit code are the answer."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from itertools import pairwise
from typing import Any

import pytest
from called import timed
from testbed import Bed, Reply, Server, Swarm, eventually
from testbed.tidy import tidy

from qmaster.models.functions import MAX_INPUT

IMAGE = "busybox:local"
Json = dict[str, Any]


class Job:
    """A function whose runtime is `job`: a shell script, which finds its input in the environment."""

    def __init__(self, server: Server, name: str, script: str, **spec: Any) -> None:
        self.server = server
        self.path = f"/functions/{name}"
        self.name = name
        self.publish(script, **spec)

    def publish(self, script: str, **spec: Any) -> Reply:
        fields = {"runtime": "job", "image": IMAGE, "command": ["sh", "-c", script], "memory": 8, **spec}
        reply = self.server.call("PUT", self.path, json=fields)
        assert reply.status in (200, 201), reply.text
        return reply

    def call(self, payload: bytes = b"{}") -> Reply:
        return self.server.call("POST", f"{self.path}/invoke", body=payload)

    def runs(self) -> list[Json]:
        return list(self.server.call("GET", f"/status?all=1&function={self.name}")["services"])

    def busy(self) -> int:
        return int(self.server.call("GET", self.path)["instances"]["busy"])


@pytest.fixture(scope="module")
def echo(functions_server: Server) -> Job:
    return Job(functions_server, "echo", 'printf %s "$QMASTER_INPUT"')


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"a": "{{.Node.ID}} {{{"}',
        b'it\'s "quoted" $HOME `id` \\n\n',
        "ä€😀".encode(),
        b"a" * MAX_INPUT,
    ],
    ids=["empty", "template", "quotes", "unicode", "24 KiB"],
)
def test_a_job_finds_its_input_as_it_was_sent(echo: Job, payload: bytes) -> None:
    """In `QMASTER_INPUT`, byte for byte; what it writes is the answer."""
    reply = echo.call(payload)
    assert (reply.status, reply.text.encode()) == (200, payload)
    assert (reply.headers["Qmaster-Version"], reply.headers["Qmaster-Cold"]) == ("1", "true")
    kind = "application/json" if payload == b"{}" or payload.startswith(b'{"a"') else "text/plain; charset=utf-8"
    assert reply.headers["Content-Type"] == kind


def test_a_job_is_not_among_the_runs(echo: Job) -> None:
    """Unless it is asked for; then it is named after its call, which is in its environment too."""
    reply = echo.call(b"1")
    call_id = reply.headers["X-Request-ID"]
    name = "qm-job-" + call_id.replace("-", "")
    assert name not in {run["name"] for run in echo.server.call("GET", "/status")["services"]}
    (run,) = (run for run in echo.runs() if run["name"] == name)
    assert (run["function"], run["timeout"]) == ({"name": "echo", "version": 1}, 60)
    assert run["id"] == reply.headers["Qmaster-Instance"]
    told = Job(echo.server, "told", "echo $QMASTER_INVOCATION").call()
    assert told.text.strip() == told.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("payload", "status", "says"),
    [(b"\xff\xfe", 400, "UTF-8"), (b"a\0", 400, "NUL"), (b"a" * (MAX_INPUT + 1), 413, "24576 bytes")],
)
def test_an_input_that_cannot_be_is_refused(echo: Job, payload: bytes, status: int, says: str) -> None:
    """With what to do; nothing is started."""
    before = len(echo.runs())
    reply = echo.call(payload)
    assert reply.status == status
    assert says in reply["error"]
    assert len(echo.runs()) <= before


def test_an_exit_code_is_an_error(functions_server: Server) -> None:
    """With the last lines of the output; its run goes, and its output stays."""
    job = Job(functions_server, "fails", "echo working; echo no such table >&2; exit 3")
    reply = job.call()
    assert (reply.status, reply["reason"]) == (502, "function_error"), reply.text + functions_server.logs()
    assert reply["error_type"] == "exit"
    assert "exit code 3" in reply["error_message"]
    assert "no such table" in reply["error_message"]
    eventually(lambda: [run["status"] for run in job.runs()] == ["removed"], 60, "its run is removed")
    log = functions_server.call("GET", f"{job.path}/logs")
    assert {"working", "no such table"} <= {line.rpartition("| ")[2] for line in log.text.splitlines()}


def test_a_job_that_takes_too_long_is_ended(functions_server: Server) -> None:
    """Its caller hears it in time."""
    job = Job(functions_server, "slow", "exec nap 300", timeout=3)
    reply, seconds = timed(job.call)
    assert (reply.status, reply["reason"]) == (504, "timeout")
    assert 2.9 < seconds < 30
    eventually(lambda: {run["reason"] for run in job.runs()} == {"timeout"}, 60, "it is killed")


@pytest.mark.parametrize(
    ("spec", "reason", "says"),
    [
        ({"image": "nowhere:1"}, "image_not_found", "nowhere:1"),
        ({"command": ["/no/such/program"]}, "rejected", "no/such/program"),
        ({"constraints": ["node.labels.there-is==none"], "timeout": 2}, "unschedulable", "no suitable node"),
    ],
    ids=["image", "program", "node"],
)
def test_a_job_that_cannot_start_is_told(functions_server: Server, spec: Json, reason: str, says: str) -> None:
    """With the reason; the next start waits."""
    job = Job(functions_server, f"cannot-{reason.replace('_', '-')}", "true", **spec)
    reply = job.call()
    assert (reply.status, reply["reason"]) in ((502, reason), (503, reason))
    assert says in reply["error"]
    assert int(reply.headers["Retry-After"]) >= 1
    (error, *_) = functions_server.call("GET", job.path)["last_errors"]
    assert error["reason"] == reason


def test_jobs_wait_for_each_other(functions_server: Server) -> None:
    """With max_instances 1 three calls run one after the other, and all are answered."""
    job = Job(functions_server, "one", 'date +%s; sleep 2; echo "$QMASTER_INPUT"', max_instances=1)
    most = 0
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(job.call, str(number).encode()) for number in range(3)]
        while not all(call.done() for call in calls):
            most = max(most, job.busy())
            time.sleep(0.05)
    replies = [call.result() for call in calls]
    assert [reply.status for reply in replies] == [200] * 3
    assert {reply.text.split()[1] for reply in replies} == {"0", "1", "2"}
    starts = sorted(int(reply.text.split()[0]) for reply in replies)
    assert all(after - before >= 2 for before, after in pairwise(starts))
    assert most == 1


def test_a_large_output_is_whole_or_an_error(functions_server: Server) -> None:
    """More than the server keeps of a run's output is read from its log; over 6 MiB is an error."""
    script = "i=0; while [ $i -lt $QMASTER_INPUT ]; do echo 0123456789012345678901234567890; i=$((i+1)); done"
    job = Job(functions_server, "large", script)
    reply = job.call(b"5000")
    assert reply.status == 200
    assert reply.text == "0123456789012345678901234567890\n" * 5000
    raw = Job(functions_server, "bytes", r"printf 'a\377b'").call()
    assert (raw.status, raw.text) == (200, "a\ufffdb")
    job.publish("dd if=/dev/zero bs=1024 count=7168 | tr '\\0' x | fold -w 100")
    over = job.call()
    assert (over.status, over["error_type"]) == (502, "Function.ResponseSizeTooLarge")


def test_an_update_and_a_delete_let_jobs_finish(functions_server: Server) -> None:
    """New calls get the new version, or are a 404."""
    job = Job(functions_server, "changes", "sleep 6; echo first")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(job.call)
        eventually(lambda: job.busy() == 1, 60, "the first runs")
        job.publish("sleep 3; echo second")
        second = pool.submit(job.call)
        eventually(lambda: job.busy() == 2 or first.done(), 60, "both run")
        assert functions_server.call("DELETE", job.path).status == 200
        assert job.call().status == 404
        replies = [first.result(), second.result()]
    assert [(reply.status, reply.text, reply.headers["Qmaster-Version"]) for reply in replies] == [
        (200, "first\n", "1"),
        (200, "second\n", "2"),
    ]


def test_a_job_answers_a_function_url_and_awss_tools(functions_server: Server) -> None:
    """The event of a URL is its input; Lambda's own call works as for any function."""
    job = Job(functions_server, "web", 'printf %s "$QMASTER_INPUT"', url="token")
    reply = functions_server.call("GET", "/fn/web/some/path?a=1")
    assert reply.status == 200
    event = json.loads(reply.text)
    assert (event["rawPath"], event["rawQueryString"]) == ("/some/path", "a=1")
    told = functions_server.call("POST", "/2015-03-31/functions/web/invocations", body=b'{"b": 2}')
    assert (told.status, told.json) == (200, {"b": 2})
    job.publish("exit 4", url="token")
    failed = functions_server.call("POST", "/2015-03-31/functions/web/invocations", body=b"{}")
    assert (failed.status, failed.headers["X-Amz-Function-Error"], failed["errorType"]) == (200, "Unhandled", "exit")


# -- asynchronous calls ------------------------------------------------------------------------------------------------


@pytest.fixture
def server(bed: Bed, functions_swarm: Swarm) -> Iterator[Server]:
    """A quartermaster of a test, which may kill it."""
    server = bed.server(functions_swarm.manager.host, bed.runtime())
    server.start()
    ready(server)
    yield server
    server.kill()
    tidy(functions_swarm.manager, functions_swarm.nodes)


def ready(server: Server) -> None:
    eventually(lambda: server.call("GET", "/readyz").status == 200, 30, "it is ready")


def accepted(job: Job, payload: bytes = b"{}") -> str:
    """The id of an accepted call."""
    headers = {"Prefer": "respond-async"}
    reply = job.server.call("POST", f"{job.path}/invoke", body=payload, headers=headers)
    assert reply.status == 202, reply.text
    return str(reply["id"])


def shown(server: Server, invocation: str, wait: float = 0) -> Reply:
    reply = server.call("GET", f"/invocations/{invocation}?wait={wait}")
    assert reply.status == 200, reply.text
    return reply


def test_an_asynchronous_job_is_run_again_until_it_succeeds(functions_server: Server) -> None:
    """Each attempt is a run, with its error; an input that cannot be is not accepted."""
    job = Job(functions_server, "again", "[ $(($(date +%s) % 3)) = 0 ] && echo 4", retries=10, retry_delay=1)
    invocation = accepted(job)
    ended = shown(functions_server, invocation, 100)
    assert (ended["status"], ended["output"]) == ("succeeded", 4)
    assert len({attempt["instance"] for attempt in ended["attempts"]}) == len(ended["attempts"])
    assert {attempt["error"]["type"] for attempt in ended["attempts"][:-1]} <= {"exit"}
    refused = functions_server.call("POST", f"{job.path}/invoke", body=b"\xff", headers={"Prefer": "respond-async"})
    assert refused.status == 400


@pytest.mark.patient
@pytest.mark.parametrize("away", [0.0, 12.0], ids=["runs on", "ends meanwhile"])
def test_an_asynchronous_job_survives_its_quartermaster(server: Server, away: float) -> None:
    """Killed while the job runs: the next process takes its end, and starts it no second time."""
    job = Job(server, f"survives-{int(away)}", 'sleep 6; echo "$QMASTER_INPUT"', retries=0)
    invocation = accepted(job, b'{"a": 1}')
    eventually(lambda: job.busy() == 1, 60, "it runs")
    server.kill()
    time.sleep(away)
    server.start()
    ready(server)
    ended = shown(server, invocation, 60)
    assert (ended["status"], ended["output"]) == ("succeeded", {"a": 1})
    assert len(ended["attempts"]) == len(job.runs()) == 1
    eventually(lambda: [run["status"] for run in job.runs()] == ["removed"], 60, "its run is removed")


@pytest.mark.patient
def test_a_job_whose_caller_is_gone_does_not_begin(server: Server) -> None:
    """It waited for a node when quartermaster was killed: nobody would hear of its end."""
    job = Job(server, "nobodys", "echo done", constraints=["node.labels.there-is==none"])
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(job.call)
        eventually(lambda: [run["status"] for run in job.runs()] == ["pending"], 60, "it waits")
        server.kill()
        assert isinstance(calling.exception(), OSError | HTTPException)
    server.start()
    ready(server)
    eventually(lambda: [run["status"] for run in job.runs()] == ["removed"], 60, "its run is removed")


@pytest.mark.patient
def test_a_job_that_is_lost_while_quartermaster_is_away_is_run_again(server: Server, functions_swarm: Swarm) -> None:
    """Its run is gone, so its attempt has failed."""
    job = Job(server, "lost", "sleep 4; echo done", retries=1, retry_delay=0.1)
    invocation = accepted(job)
    eventually(lambda: job.busy() == 1, 60, "it runs")
    name = shown(server, invocation)["attempts"][0]["instance"]
    server.kill()
    functions_swarm.manager.cli("service", "rm", name)
    server.start()
    ready(server)
    ended = shown(server, invocation, 60)
    assert (ended["status"], ended["output"]) == ("succeeded", "done\n")
    assert [bool(attempt["error"]) for attempt in ended["attempts"]] == [True, False]


@pytest.mark.patient
def test_another_quartermaster_leaves_the_end_to_its_own(bed: Bed, server: Server, functions_swarm: Swarm) -> None:
    """It records the output, but removes no run whose end the other one needs; it has no part in the call."""
    other = bed.server(functions_swarm.manager.host, bed.runtime())
    other.start()
    ready(other)
    try:
        job = Job(server, "left", "sleep 3; echo done", retries=0)
        invocation = accepted(job)
        eventually(lambda: job.busy() == 1, 60, "it runs")
        server.kill()
        there = Job.__new__(Job)
        there.server, there.name, there.path = other, job.name, job.path
        eventually(lambda: [run["status"] for run in there.runs()] == ["complete"], 60, "it has ended")
        time.sleep(8)  # longer than an ended run without a ttl stays
        assert [run["status"] for run in there.runs()] == ["complete"]
        server.start()
        ready(server)
        ended = shown(server, invocation, 60)
        assert (ended["status"], ended["output"], len(ended["attempts"])) == ("succeeded", "done\n", 1)
    finally:
        other.kill()


@pytest.mark.patient
def test_a_job_on_a_node_that_is_cut_off_is_run_again(server: Server, functions_swarm: Swarm) -> None:
    """On another node, as soon as Swarm knows that its node is down."""
    rules = {"constraints": ["node.role==worker"], "timeout": 300, "retries": 3, "retry_delay": 0.5}
    job = Job(server, "cut", "sleep 25; echo done", **rules)
    invocation = accepted(job)
    eventually(lambda: job.busy() == 1, 60, "it runs")
    (run,) = job.runs()
    (node,) = (each for each in functions_swarm.workers if each.name == run["tasks"][0]["node"])
    node.cut_off()
    try:
        ended = shown(server, invocation, 200)
    finally:
        node.bring_back()
    assert (ended["status"], ended["output"]) == ("succeeded", "done\n")
    assert ended["attempts"][0]["error"]["type"] == "Runtime.ExitError"


@pytest.mark.patient
def test_a_schedule_makes_it_cron_for_a_swarm(functions_server: Server) -> None:
    """A tick is a run, whose result is kept."""
    job = Job(functions_server, "cron", 'echo "$QMASTER_INPUT"', schedules=[{"cron": "* * * * *", "input": {"a": 1}}])

    def succeeded() -> list[Json]:
        listed = functions_server.call("GET", f"/invocations?function={job.name}&status=succeeded")
        return list(listed["invocations"])

    (first, *_) = eventually(succeeded, 120, "a tick has run")
    told = shown(functions_server, first["id"])
    assert (told["output"], told["scheduled_at"][-4:]) == ({"a": 1}, ":00Z")
    assert functions_server.call("DELETE", job.path).status == 200
