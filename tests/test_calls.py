"""Function calls on real engines: wait, the result, timeout, ttl, and the last words of what is ended."""

from typing import Any

import pytest
from conftest import StartServer
from testbed import Reply, Server, eventually

IMAGE = "busybox:local"
ECHO = "echo out-$0; echo err-$0 >&2; exit $1"
# Says something when it is told to end, and does not end by it.
STUBBORN = "trap 'echo last words' TERM; echo first words; while :; do sleep 0.1; done"
OBEDIENT = "trap 'echo last words; exit 7' TERM; echo first words; while :; do sleep 0.1; done"
KINDS = ["service", "container"]

Json = dict[str, Any]


def call(server: Server, script: str, *args: str, wait: object = 60, **fields: Any) -> Reply:
    """`POST /run` of a shell script, with `wait`."""
    return server.run(image=IMAGE, command=["sh", "-c", script, *args], wait=wait, memory=16, **fields)


def result_of(server: Server, run_id: str) -> Json:
    """The result of a run, as soon as there is one."""

    def read() -> Any:
        return server.status(run_id)["result"]

    found: Json = eventually(read, 40, f"{run_id} has a result: {server.status(run_id).text}", every=0.1)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_is_answered_with_its_end(server: Server, kind: str) -> None:
    """Status, exit code and both streams; the same in the status document afterwards."""
    answer = call(server, ECHO, "7", "3", type=kind)
    assert answer.status == 200
    assert (answer["success"], answer["status"], answer["reason"], answer["exit_code"]) == (True, "failed", "exit", 3)
    assert answer["result"] == {
        "exit_code": 3,
        "stdout": "out-7\n",
        "stderr": "err-7\n",
        "truncated": False,
        "tasks": [],
    }
    assert server.status(answer["id"]).json == answer.json


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_takes_longer_is_answered_in_time(server: Server, kind: str) -> None:
    """202 with what it has come to; it goes on, and its end can be waited for."""
    answer = call(server, "sleep 2; echo done", wait=0.5, type=kind)
    assert answer.status == 202
    assert answer["status"] in ("pending", "preparing", "running")
    assert answer["result"] is None
    over = server.call("GET", f"/status/{answer['id']}?wait=30")
    assert (over.status, over["status"], over["result"]["stdout"]) == (200, "complete", "done\n")


def test_the_end_is_told_before_its_result(server: Server, start_server: StartServer) -> None:
    """Placeholder."""
