"""GET /logs/{id} on real engines, and what a capture keeps."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import StartServer
from testbed import Engine, Server, Swarm, eventually
from testbed.server import ADDRESS

from qmaster.engine import Endpoint
from qmaster.engine import Engine as OurEngine
from qmaster.errors import NodeUnreachable, NotFound
from qmaster.models.results import Output, Stream

IMAGE = "busybox:local"
NDJSON = {"Accept": "application/x-ndjson"}
MANY = 100_000
MANY_LINES = b"".join(b"%d\n" % number for number in range(1, MANY + 1))
ON_A_WORKER = ["node.hostname==worker-1"]

Json = dict[str, Any]


class Follow:
    """An open log; ``got`` is what came so far."""

    def __init__(self, server: Server, path: str, **headers: str) -> None:
        self._connection = HTTPConnection(ADDRESS, server.port, timeout=90)
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {server.token}", **headers})
        self.answer = self._connection.getresponse()
        self.got = b""

    def until(self, text: bytes) -> bytes:
        """Read until that has come."""
        while text not in self.got:
            data = self.answer.read1(65536)
            assert data, f"it ended after {self.got!r}"
            self.got += data
        return self.got

    def rest(self) -> bytes:
        """Read to its end."""
        while data := self.answer.read1(65536):
            self.got += data
        return self.got

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


@contextlib.contextmanager
def following(server: Server, path: str, **headers: str) -> Iterator[Follow]:
    follow = Follow(server, path, **headers)
    try:
        assert follow.answer.status == 200, follow.rest()
        yield follow
    finally:
        follow.close()


def logs(server: Server, path: str, **headers: str) -> bytes:
    """A whole log."""
    with following(server, path, **headers) as follow:
        return follow.rest()


def objects(data: bytes) -> list[Json]:
    return [json.loads(line) for line in data.splitlines()]


def shell(server: Server, script: str, **fields: Any) -> str:
    """The id of a script that was started."""
    reply = server.run(image=IMAGE, command=["sh", "-c", script], memory=32, **fields)
    assert reply.status == 200, reply.text
    return str(reply["id"])


def shows(server: Server, job: str, *statuses: str) -> Json:
    """The status document, as soon as it has one of these."""

    def reached() -> Any:
        shown = server.status(job).json
        return shown if shown.get("status") in statuses else None

    shown: Json = eventually(reached, 60, f"{job} is {statuses}", every=0.05)
    return shown


def ended(server: Server, job: str) -> Json:
    return shows(server, job, "complete", "failed")


def connections(server: Server) -> int:
    """Of its clients, and to the engine."""
    count = 0
    for path in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            count += path.readlink().name.startswith("socket:")
    return count


def memory(server: Server) -> int:
    """MiB of the server that are in memory."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) // 1024


def foreign(engine: Engine, script: str, **template: Any) -> str:
    """A service that quartermaster did not start."""
    client: Any = engine.client()
    inside = {"Image": IMAGE, "Args": ["sh", "-c", script], **template.pop("ContainerSpec", {})}
    task = {"ContainerSpec": inside, "RestartPolicy": {"Condition": "none"}, **template}
    url = client._url("/services/create")
    return str(client._result(client._post_json(url, data={"Name": "foreign", "TaskTemplate": task}), json=True)["ID"])


def label(engine: Engine, **labels: str) -> None:
    """Give the engine's node these labels alone."""
    client: Any = engine.client()
    node = client.inspect_node(engine.node_id)
    client.update_node(node["ID"], node["Version"]["Index"], {**node["Spec"], "Labels": labels})


# Following


@pytest.mark.parametrize("kind", ["service", "container"])
def test_a_follow_ends_with_the_job(shared: Server, kind: str, measured: Callable[[str], None]) -> None:
    """It gives each line as it is written, ends by itself, and has all: the same as what is told afterwards."""
    job = shell(shared, "echo one; sleep 0.2; echo err >&2; sleep 2; echo two; printf end", type=kind)
    with following(shared, f"/logs/{job}?follow=1") as follow:
        assert follow.answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        follow.until(b"one\nerr\n")
        assert logs(shared, f"/logs/{job}") == b"one\nerr\n"
        assert shared.status(job)["status"] == "running"
        assert follow.rest() == b"one\nerr\ntwo\nend"
        at = time.time()
    finished = datetime.fromisoformat(ended(shared, job)["finished_at"][:26] + "+00:00").timestamp()
    measured(f"the log ended {at - finished:.2f} s after the {kind}")
    assert at - finished < 5
    assert logs(shared, f"/logs/{job}") == logs(shared, f"/logs/{job}?follow=1") == b"one\nerr\ntwo\nend"


def test_a_follow_waits_for_a_job_that_has_not_begun(engine: Engine, shared: Server) -> None:
    """One that fits on no node yet; and a stop of what follows is told with its last words."""
    script = "trap 'echo last words; exit' TERM; echo begun; while :; do sleep 0.1; done"
    job = shell(shared, script, constraints=["node.labels.here==yes"], name="later")
    shows(shared, job, "pending")
    with following(shared, "/logs/later?follow=1") as follow:
        label(engine, here="yes")
        follow.until(b"begun\n")
        assert shared.stop_service(job).status == 200
        assert follow.rest() == b"begun\nlast words\n"
    shows(shared, job, "removed")
    label(engine)
    assert logs(shared, f"/logs/{job}") == logs(shared, "/logs/later?follow=1") == b"begun\nlast words\n"
    assert logs(shared, f"/logs/{job}?stream=stderr") == b""


@pytest.mark.patient
def test_a_restart_goes_on_in_the_same_log(shared: Server) -> None:
    """A new task's output follows that of the one before."""
    job = shell(shared, "echo started; sleep 1; exit 1", restart="on-failure", max_attempts=1)
    assert logs(shared, f"/logs/{job}?follow=1") == b"started\n" * 2
    assert logs(shared, f"/logs/{job}") == b"started\n" * 2


@pytest.mark.patient
def test_a_healthy_engine_is_not_called_late(shared: Server) -> None:
    """A crash loop or a job that says nothing for some seconds is followed on the one connection."""
    before = len(shared.logs())
    jobs = [shell(shared, script, restart="any") for script in ("exit 1", "echo one; sleep 300")]
    with contextlib.ExitStack() as follows:
        for job in jobs:
            follows.enter_context(following(shared, f"/logs/{job}?follow=1"))
        time.sleep(8)
    assert "followed_log_lost" not in shared.logs()[before:]
    for job in jobs:
        shared.stop_service(job)


def test_words_of_the_engine_in_a_command(shared: Server) -> None:
    """They are quoted in its refusal, and mean nothing: 400, not 503."""
    for words in ("context deadline exceeded", "The swarm does not have a leader", "not a swarm manager"):
        reply = shared.run(image=IMAGE, command=[words], type="container")
        assert (reply.status, words in reply["error"]) == (400, True), reply.text


def test_two_replicas_are_followed_together(swarm: Swarm, swarm_shared: Server) -> None:
    """Each line says which task it is of, and on which node; none is lost, and none comes twice."""
    script = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done"
    job = shell(swarm_shared, script, replicas=2, constraints=["node.role==worker"])
    live = objects(logs(swarm_shared, f"/logs/{job}?follow=1", **NDJSON))
    shown = ended(swarm_shared, job)
    assert {line["stream"] for line in live} == {"stdout"}
    for task in shown["tasks"]:
        its = [line for line in live if line["task"] == task["id"]]
        assert [line["line"] for line in its] == list("12345678")
        assert {line["node"] for line in its} == {task["node"]}
        assert [line["time"] for line in its] == sorted(line["time"] for line in its)
    assert len(live) == 16
    by_time = sorted(live, key=lambda line: str(line["time"]))
    assert sorted(objects(logs(swarm_shared, f"/logs/{job}", **NDJSON)), key=lambda line: str(line["time"])) == by_time


def test_two_tasks_do_not_share_a_line(shared: Server) -> None:
    """Where neither ends with a newline: followed, afterwards, and once they are gone; of both streams."""
    job = shell(shared, "printf end; sleep 1", replicas=2)
    errors = shell(shared, "printf error >&2; sleep 1", replicas=2)
    assert logs(shared, f"/logs/{job}?follow=1") == b"end\nend"
    ended(shared, job)
    ended(shared, errors)
    for gone in (False, True):
        if gone:
            for one in (job, errors):
                shared.stop_service(one)
                shows(shared, one, "removed")
        assert logs(shared, f"/logs/{job}") == b"end\nend"
        assert logs(shared, f"/logs/{errors}") == b"error\nerror"
        lines = logs(shared, f"/logs/{job}?timestamps=1").splitlines()
        assert [line.split(b" ")[1] for line in lines] == [b"end", b"end"]
        assert [line["line"] for line in objects(logs(shared, f"/logs/{job}", **NDJSON))] == ["end", "end"]


# What is asked for


def test_the_query_says_what_is_wanted(shared: Server) -> None:
    """One stream, the end, with times, as NDJSON."""
    job = shell(shared, "echo e1 >&2; sleep 0.1; for i in 1 2 3 4 5; do echo $i; done; printf end")
    ended(shared, job)
    whole = b"e1\n1\n2\n3\n4\n5\nend"
    assert logs(shared, f"/logs/{job}") == whole
    assert logs(shared, f"/logs/{job}?tail=all&stream=stdout&stream=stderr") == whole
    assert logs(shared, f"/logs/{job}?stream=stderr") == b"e1\n"
    assert logs(shared, f"/logs/{job}?stream=stderr&tail=1") == b"e1\n"  # Docker would count the other stream's lines
    assert logs(shared, f"/logs/{job}?stream=stdout&tail=2") == b"5\nend"
    assert logs(shared, f"/logs/{job}?tail=3") == b"4\n5\nend"
    assert logs(shared, f"/logs/{job}?tail=0") == b""
    times = [line.split(b" ")[0].decode() for line in logs(shared, f"/logs/{job}?timestamps=1").splitlines()]
    task = shared.status(job)["tasks"][0]
    told = objects(logs(shared, f"/logs/{job}?timestamps=1", **NDJSON))
    assert [line["time"] for line in told] == times
    assert told[0] == {
        "time": times[0],
        "stream": "stderr",
        "node": task["node"],
        "task": task["id"],
        "line": "e1",
    }
    for query, field in (("tail=x", "tail"), ("tail=-1", "tail"), ("stream=x", "stream"), ("follow=maybe", "follow")):
        reply = shared.call("GET", f"/logs/{job}?{query}")
        assert (reply.status, reply["error"].partition(":")[0]) == (400, field)
    assert shared.call("GET", f"/logs/{job}?since=1").status == 400
    assert shared.call("GET", "/logs/nosuch").status == 404
    assert shared.call("GET", f"/logs/{job}", token=False).status == 401
    assert shared.call("HEAD", f"/logs/{job}").status == 405


def test_a_tail_can_be_followed(shared: Server) -> None:
    """What came before it is not told later either."""
    job = shell(shared, "echo a >&2; sleep 0.3; echo b; sleep 0.3; echo c; sleep 3; echo d >&2; echo e")
    eventually(lambda: logs(shared, f"/logs/{job}").count(b"\n") == 3, 30, "it has begun")
    with (
        following(shared, f"/logs/{job}?follow=1&tail=1") as last,
        following(shared, f"/logs/{job}?follow=1&tail=0") as none,
    ):
        assert sorted(last.rest().splitlines()) == [b"c", b"d", b"e"]
        assert sorted(none.rest().splitlines()) == [b"d", b"e"]


# What jobs write


def test_much_output_survives(shared: Server, measured: Callable[[str], None]) -> None:
    """100,000 lines at once, and 10 MB on one line without an end: followed, and afterwards."""
    job = shell(shared, f"seq 1 {MANY}")
    began = time.monotonic()
    assert logs(shared, f"/logs/{job}?follow=1") == MANY_LINES
    measured(f"{MANY} lines followed in {time.monotonic() - began:.1f} s")
    job = shell(shared, "head -c 10000000 /dev/zero | tr '\\0' x", type="container")
    assert logs(shared, f"/logs/{job}?follow=1") == b"x" * 10_000_000
    told = objects(logs(shared, f"/logs/{job}", **NDJSON))
    assert "".join(line["line"] for line in told) == "x" * 10_000_000
    assert max(len(line["line"]) for line in told) <= 1024 * 1024
    assert [line.get("partial", False) for line in told[:-1]] == [True] * (len(told) - 1)


def test_bytes_come_as_they_were_written(engine: Engine, shared: Server) -> None:
    """Invalid UTF-8, ANSI and what looks like Docker's frames; of a TTY too, and of a driver that keeps nothing, none.

    The json-file driver itself replaces what is not UTF-8.
    """
    script = r"printf 'a\377b\n\033[31mred\033[0m\r\n\001\000\000\000\000\000\000\003abc'"
    data = b"a\xffb\n\x1b[31mred\x1b[0m\r\n\x01\x00\x00\x00\x00\x00\x00\x03abc"
    client: Any = engine.client()
    job = shell(shared, script)
    assert logs(shared, f"/logs/{job}?follow=1") == data.replace(b"\xff", "\N{REPLACEMENT CHARACTER}".encode())
    cases: list[tuple[Json, bytes]] = [
        ({"LogDriver": {"Name": "local"}}, data),
        ({"LogDriver": {"Name": "local"}, "ContainerSpec": {"TTY": True}}, data.replace(b"\n", b"\r\n")),
        ({"LogDriver": {"Name": "none"}}, b""),
    ]
    for template, expected in cases:
        job = foreign(engine, script, **template)
        ended(shared, job)
        assert logs(shared, f"/logs/{job}") == logs(shared, f"/logs/{job}?follow=1") == expected
        client.remove_service(job)
        shows(shared, job, "removed")
        assert logs(shared, f"/logs/{job}") == b"[qmaster] the run was removed; its output was not kept\n"


def test_a_cut_result_says_so(engine: Engine, start_server: StartServer) -> None:
    """Of a long log that is gone, the end is told, after a line that says that it is only that."""
    server = start_server(engine.host, QMASTER_OUTPUT_LIMIT="6")
    job = shell(server, "echo 123456; echo 12345; echo e >&2")
    ended(server, job)
    assert len(logs(server, f"/logs/{job}")) == 15
    server.stop_service(job)
    shows(server, job, "removed")
    words = b"[qmaster] only the end of its output was kept\n"
    assert sorted(logs(server, f"/logs/{job}").splitlines()) == sorted((words + b"12345\ne\n").splitlines())
    assert logs(server, f"/logs/{job}").startswith(words)
    assert logs(server, f"/logs/{job}?stream=stdout&tail=1") == words + b"12345\n"
    assert [line["stream"] for line in objects(logs(server, f"/logs/{job}?stream=stderr", **NDJSON))] == [
        "qmaster",
        "stderr",
    ]


# Readers, and what becomes of them


def test_a_slow_reader_costs_no_memory_and_a_gone_one_no_connection(server: Server) -> None:
    """A job that writes without end, and nobody who reads on; then the read at the engine ends at once."""
    job = shell(server, f"yes {'again' * 800}", type="container")
    shows(server, job, "running")
    logs(server, "/logs/" + shell(server, "echo once") + "?follow=1")  # what is loaded at the first time is loaded
    before, at_rest = memory(server), connections(server)
    follows = [Follow(server, f"/logs/{job}?follow=1") for _ in range(3)]
    for follow in follows:
        follow.until(b"again")
    time.sleep(3)  # the time in which it would grow
    assert memory(server) - before < 40
    assert server.call("GET", "/livez", token=False).status == 200
    for follow in follows:
        follow.close()
    eventually(lambda: connections(server) <= at_rest + 1, 20, "nothing is read on")
    server.stop_service(job)


def test_readers_are_bounded_and_a_stop_does_not_wait_for_them(engine: Engine, server: Server) -> None:
    """The 65th is a 429 that says when to come again; as quartermaster ends, each sees that its log was cut off."""
    job = shell(server, "echo up; sleep 600")
    follows = [Follow(server, f"/logs/{job}?follow=1") for _ in range(64)]
    for follow in follows:
        follow.until(b"up\n")
    reply = server.call("GET", f"/logs/{job}")
    assert reply.status == 429
    assert int(reply.headers["Retry-After"]) > 0
    follows.pop().close()
    eventually(lambda: server.call("GET", f"/logs/{job}").status == 200, 20, "there is room again")
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began < 20
    for follow in follows:
        with pytest.raises((IncompleteRead, ConnectionError)):
            follow.rest()
        assert follow.got in (b"up\n", b"up\n[qmaster] quartermaster is stopping: the log is cut off here\n")
        follow.close()


@pytest.mark.patient
def test_a_follow_outlives_the_engine_s_restart(engine: Engine, shared: Server) -> None:
    """It goes on where it was, and tells no line again."""
    job = shell(shared, "echo one; sleep 600", restart="any", type="container")
    with following(shared, f"/logs/{job}?follow=1") as follow:
        follow.until(b"one\n")
        engine.kill()
        engine.start()
        follow.until(b"one\none\n")
    assert follow.got == b"one\n" * 2


@pytest.mark.patient
def test_a_node_that_is_cut_off_is_told_in_the_log(swarm: Swarm, swarm_shared: Server) -> None:
    """As a line of quartermaster's own, live and afterwards; what is on other nodes comes all the same."""
    job = shell(swarm_shared, "echo here; sleep 600", replicas=2, constraints=["node.role==worker"])
    eventually(lambda: logs(swarm_shared, f"/logs/{job}") == b"here\n" * 2, 40, "both speak")
    with following(swarm_shared, f"/logs/{job}?follow=1", **NDJSON) as follow:
        swarm.workers[0].cut_off()
        follow.until(b'"qmaster"')
        assert objects(follow.got)[-1]["line"].startswith("node worker-1 cannot be reached")
        plain = logs(swarm_shared, f"/logs/{job}")
        assert plain.count(b"here\n") == 1
        assert b"[qmaster] node worker-1 cannot be reached: it " in plain  # is silent, until Swarm takes it for down
        swarm.workers[0].bring_back()
        swarm.wait_ready()


# What a capture keeps


def capture(engine: Engine, kind: Literal["task", "container"], target: str, limit: int) -> Output:
    async def run() -> Output:
        ours = OurEngine(Endpoint.read(engine.host, {}))
        try:
            return await ours.logs.capture(kind, target, limit)
        finally:
            await ours.close()

    return asyncio.run(run())


def text(output: Output, stream: Stream) -> bytes:
    return b"".join(line.data for line in output.lines if line.stream == stream)


def finished(engine: Engine, script: str, **host: Any) -> str:
    """The id of a container that has run it."""
    client: Any = engine.client(timeout=60)
    config = client.create_container_config(IMAGE, ["sh", "-c", script], host_config=client.create_host_config(**host))
    container = str(client.create_container_from_config(config)["Id"])
    client.start(container)
    client.wait(container)
    return container


def test_a_capture_keeps_the_end_of_each_stream(engine: Engine) -> None:
    """Of a quiet one too, whatever the other wrote after it; and says whether there was more."""
    few = finished(engine, "echo out; sleep 0.1; echo err >&2; sleep 0.1; printf end")
    output = capture(engine, "container", few, 100)
    assert [(line.stream, line.data) for line in output.lines] == [
        ("stdout", b"out\n"),
        ("stderr", b"err\n"),
        ("stdout", b"end"),
    ]
    assert not output.truncated
    many = finished(engine, "echo first >&2; seq 1 20000")
    written = b"".join(b"%d\n" % number for number in range(1, 20_001))
    for limit in (10, 65536):
        output = capture(engine, "container", many, limit)
        assert (text(output, "stdout"), text(output, "stderr")) == (written[-limit:], b"first\n")
        assert output.truncated
    short = finished(engine, "yes '' | head -n 8000")
    for limit, count, truncated in ((7000, 7000, True), (8000, 8000, False)):
        output = capture(engine, "container", short, limit)
        assert (len(output.lines), output.truncated) == (count, truncated)


def test_a_capture_of_what_keeps_no_log_is_empty(engine: Engine) -> None:
    """Of what is gone it is an error."""
    silent = finished(engine, "echo out", log_config={"Type": "none"})
    assert capture(engine, "container", silent, 100) == Output()
    kinds: list[Literal["task", "container"]] = ["task", "container"]
    for kind in kinds:
        with pytest.raises(NotFound):
            capture(engine, kind, "nosuch", 100)


@pytest.mark.patient
def test_a_capture_from_a_node_that_is_cut_off_can_be_tried_again(swarm: Swarm, swarm_shared: Server) -> None:
    """It is told in less than the engine's time for a call; and what was said is there when the node is back."""
    job = shell(swarm_shared, "echo here; sleep 600", constraints=ON_A_WORKER)
    task = shows(swarm_shared, job, "running")["tasks"][0]["id"]
    eventually(lambda: logs(swarm_shared, f"/logs/{job}") == b"here\n", 20, "it speaks")
    swarm.workers[0].cut_off()
    with pytest.raises(NodeUnreachable):
        capture(swarm.manager, "task", task, 100)
    swarm.workers[0].bring_back()

    def back() -> bool:
        return text(capture(swarm.manager, "task", task, 100), "stdout") == b"here\n"

    eventually(back, 60, "it is back", ignoring=(NodeUnreachable,))
