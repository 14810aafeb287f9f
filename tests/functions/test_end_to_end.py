"""Functions on a swarm of three nodes, through HTTP, with AWS's own clients in the instances."""

import pytest
from called import Function, all_called, own, timed
from testbed import Server, Swarm, eventually
from testbed.lambdas import NODE, SHELL

TOLD = {"success", "error", "code", "type", "title", "status", "detail", "instance", "reason"}


@pytest.fixture(scope="module")
def any_of(functions_server: Server) -> Function:
    """A function that does what its event names."""
    return Function(functions_server, "any-of", timeout=20)


def test_a_call_starts_an_instance_and_the_next_finds_it_warm(functions_server: Server) -> None:
    """The same process answers both; the answer says what it cost."""
    function = Function(functions_server, "first")
    cold, warm = function.call({"do": "echo"}), function.call({"do": "echo", "text": "ä"})
    assert (cold.status, cold.headers["Qmaster-Cold"], cold["calls"]) == (200, "true", 1)
    assert (warm.status, warm.headers["Qmaster-Cold"], warm["calls"]) == (200, "false", 2)
    assert warm["event"] == {"do": "echo", "text": "ä"}
    assert warm.headers["Content-Type"] == "application/json"
    assert warm.headers["Qmaster-Instance"] == cold.headers["Qmaster-Instance"]
    assert warm.headers["Qmaster-Version"] == "1"
    assert float(warm.headers["Qmaster-Duration-Ms"]) < 5000
    assert warm["request_id"] == warm.headers["X-Request-ID"]
    assert function.counts() == {"starting": 0, "idle": 1, "busy": 0}


def test_an_instance_has_lambdas_environment(any_of: Function) -> None:
    """Its function, version, memory, handler and region, and the runtime API under a name of its own."""
    env = any_of.call({"do": "environment"}).json
    assert env["AWS_LAMBDA_FUNCTION_NAME"] == "any-of"
    assert env["AWS_LAMBDA_FUNCTION_VERSION"] == "1"
    assert env["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "128"
    assert env["_HANDLER"] == "app.any_of"
    assert env["AWS_REGION"] == "local"
    assert env["LAMBDA_TASK_ROOT"] == "/var/task"
    assert ".qm.internal:" in env["AWS_LAMBDA_RUNTIME_API"]


def test_an_instance_is_not_among_the_runs(any_of: Function) -> None:
    """Unless it is asked for; no answer and no log line has its secret."""
    any_of.echo()
    secret = any_of.call({"do": "environment"})["AWS_LAMBDA_RUNTIME_API"].split(".")[0]
    assert any_of.server.call("GET", "/status")["services"] == []
    (run,) = (run for run in any_of.runs() if run["status"] == "running")
    assert run["function"] == {"name": "any-of", "version": 1}
    seen = [any_of.server.call("GET", path).text for path in ("/status?all=1", f"/status/{run['id']}", any_of.path)]
    assert not any(secret in text for text in [*seen, any_of.server.logs()])


def test_an_exception_is_told(any_of: Function) -> None:
    """With its type, message and stack; the instance goes on."""
    calls = any_of.echo()["calls"]
    reply = any_of.call({"do": "fail", "number": 7})
    assert (reply.status, reply["reason"], reply["error_type"]) == (502, "function_error", "ValueError")
    assert "'number': 7" in reply["error_message"]
    assert any("in fail" in line for line in reply["stack"])
    assert any_of.echo()["calls"] == calls + 1


@pytest.mark.parametrize(
    ("event", "exit_code"),
    [({"do": "leave", "code": 7}, 7), ({"do": "crash"}, 139), ({"do": "hoard"}, 137)],
    ids=["os._exit", "segfault", "memory"],
)
def test_a_death_is_told_and_the_next_call_gets_another_instance(
    any_of: Function, event: dict[str, object], exit_code: int
) -> None:
    """With the exit code and the last lines, soon, and the call is not made again."""
    any_of.echo()
    for _ in range(3):
        reply, seconds = timed(lambda: any_of.call(event))
        assert (reply.status, reply["reason"]) == (502, "instance_died")
        if reply["exit_code"] is not None:
            break  # else a busy engine had not told it by the time that the caller is answered
    assert reply["exit_code"] == exit_code
    assert event["do"] != "leave" or reply["last_lines"][-1] == "about to leave"
    assert event["do"] == "hoard" or seconds < 5
    assert any_of.echo()["calls"] == 1


def test_a_call_that_takes_too_long_ends_in_time(functions_server: Server) -> None:
    """With 504, and its instance is killed."""
    function = Function(functions_server, "slow", timeout=4)
    first = function.echo()
    reply, seconds = timed(lambda: function.call({"do": "sleep", "seconds": 60}))
    assert (reply.status, reply["reason"]) == (504, "timeout")
    assert 3.9 < seconds < 10
    eventually(lambda: [run["status"] for run in function.runs()] == ["failed"], 20, "the instance is killed")
    assert function.echo()["host"] != first["host"]


@pytest.mark.parametrize(
    ("spec", "reason", "says"),
    [
        ({"image": "nowhere:1"}, "image_not_found", "nowhere:1"),
        ({"command": ["broken.handler"]}, "init_error", "no database"),
        ({"command": ["slow.handler"], "env": {"LOAD_SECONDS": "60"}, "init_timeout": 2}, "init_timeout", "2 s"),
        ({"constraints": ["node.labels.there-is==none"]}, "unschedulable", "no suitable node"),
    ],
    ids=["image", "init", "init_timeout", "no_node"],
)
def test_an_instance_that_cannot_start_is_told(
    functions_server: Server, spec: dict[str, object], reason: str, says: str
) -> None:
    """The caller gets the reason, and `GET /functions/{name}` has it too; the next start waits."""
    function = Function(functions_server, f"cannot-{reason.replace('_', '-')}", **{"timeout": 15, **spec})
    reply = function.call({"do": "echo"})
    assert (reply.status, reply["reason"]) in ((502, reason), (503, reason))
    assert says in reply["error"]
    assert int(reply.headers["Retry-After"]) >= 1
    (error, *_) = function.show()["last_errors"]
    assert error["reason"] == reason
    function.delete()


def test_calls_beyond_the_queue_are_refused(functions_server: Server) -> None:
    """With 429, at once; those that wait get their turn."""
    function = Function(functions_server, "narrow", max_instances=1, queue=1, timeout=20)
    function.echo()
    running = function.call_later({"do": "sleep", "seconds": 2})
    eventually(lambda: function.counts()["busy"] == 1, 10, "one runs")
    waiting = function.call_later({"do": "sleep", "seconds": 0})
    eventually(lambda: function.show()["queued"] == 1, 10, "one waits")
    reply, seconds = timed(lambda: function.call({"do": "echo"}))
    assert (reply.status, reply["reason"]) == (429, "queue_full")
    assert seconds < 1.5
    assert [running.result(60).status, waiting.result(60).status] == [200, 200]


def test_an_update_loses_no_call(functions_server: Server) -> None:
    """Two updates and a rollback under load: each call is answered, by the version of its time, with its own answer."""
    function = Function(functions_server, "updated", max_instances=3, env={"NUMBER": "1"})
    function.echo()

    def update() -> None:
        function.publish(max_instances=3, env={"NUMBER": "2"})
        function.publish(max_instances=3, env={"NUMBER": "3"})
        done = functions_server.call("POST", f"{function.path}/rollback", json={"version": 1})
        assert (done.status, done["version"]) == (201, 4), done.text

    replies = all_called(function, 300, 6, update)
    assert [reply.text for reply in replies if reply.status != 200] == []
    assert own(replies)
    assert {reply.headers["Qmaster-Version"] for reply in replies} >= {"1", "4"}
    eventually(lambda: any(run["reason"] == "update" for run in function.runs()), 20, "old ones have ended")


def test_a_delete_lets_calls_finish(functions_server: Server) -> None:
    """The call that runs is answered; a new one is a 404; no instance stays."""
    function = Function(functions_server, "deleted")
    function.echo()
    running = function.call_later({"do": "sleep", "seconds": 2})
    eventually(lambda: function.counts()["busy"] == 1, 10, "it runs")
    function.delete()
    assert function.call({"do": "echo"}).status == 404
    assert running.result(60).status == 200
    eventually(lambda: {run["status"] for run in function.runs()} == {"complete"}, 20, "its instance has ended")


def test_an_idle_instance_ends(functions_server: Server) -> None:
    """As complete, with the reason `idle`; those that are kept warm stay."""
    function = Function(functions_server, "idle", idle=1, min_instances=1, max_instances=3)
    function.wait_warm()
    calls = [function.call_later({"do": "sleep", "seconds": 1}) for _ in range(3)]
    assert [call.result(60).status for call in calls] == [200, 200, 200]
    eventually(lambda: function.counts() == {"starting": 0, "idle": 1, "busy": 0}, 30, "one is left")
    ended = eventually(lambda: [run for run in function.runs() if run["status"] != "running"], 10, "two have ended")
    assert {(run["status"], run["reason"]) for run in ended} == {("complete", "idle")}


def test_seven_lines_of_shell_are_a_client(functions_server: Server) -> None:
    """Any program whose input is a call and whose output is its answer; one that fails is an error."""
    function = Function(functions_server, "shell", image=SHELL, command=["tr", "a-z", "A-Z"], memory=16)
    assert function.call({"a": 1}).text == '{"A": 1}'
    failing = Function(functions_server, "shell-fails", image=SHELL, command=["false"], memory=16)
    reply = failing.call({})
    assert (reply.status, reply["error_type"], reply["error_message"]) == (502, "Exit", "false ended with 1")


def test_large_answers_and_too_large_ones(any_of: Function) -> None:
    """6 MiB pass; a byte more is the function's error."""
    most = 6 * 1024 * 1024
    host = any_of.echo()["host"]
    assert len(any_of.call({"do": "big", "bytes": most}).text) == most
    reply = any_of.call({"do": "big", "bytes": most + 1})
    assert (reply.status, reply["error_type"]) == (502, "Function.ResponseSizeTooLarge")
    assert any_of.echo()["host"] == host


def test_the_node_client(functions_server: Server, node_swarm: Swarm) -> None:
    """AWS's, unchanged: an answer, an error, and an answer that streams."""
    spec = {"image": NODE, "memory": 256}
    echo = Function(functions_server, "node-echo", **spec, command=["app.echo"])
    assert [echo.call({"n": 1})["calls"], echo.call({"n": 2})["event"]] == [1, {"n": 2}]
    fails = Function(functions_server, "node-fails", **spec, command=["app.fail"])
    reply = fails.call({"n": 1})
    assert (reply.status, reply["error_type"]) == (502, "RangeError")
    streams = Function(functions_server, "node-streams", **spec, command=["app.stream"])
    reply = streams.call({"parts": 3, "pause": 10})
    assert (reply.text, reply.headers["Content-Type"]) == ("part 0\npart 1\npart 2\n", "text/plain")
