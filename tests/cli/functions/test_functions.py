"""cli.functions: deploy, functions, rollback and undeploy, on a real server; their options, hints and tables."""

import json
from datetime import UTC, datetime

import msgspec
import pytest
from click.testing import CliRunner
from commands_cases import fake, qmaster
from conftest import StartServer
from fake_server import FakeServer
from testbed import Engine, Server, eventually
from testbed.server import free_port

from qmaster.api.openapi import functions as openapi_functions
from qmaster.cli import answers, main, tables
from qmaster.cli.functions import functions
from qmaster.models.functions import FunctionSpec

__all__ = ["fake"]  # the fixture

NEVER, IMAGE = ("--pull", "never"), "busybox:local"


def on(server: Server, *args: str, code: int = 0) -> str:
    """Run a command on a server to its end; what it has printed."""
    env = {"QMASTER_URL": server.url, "TOKEN": server.token, "TOKEN_FILE": None, "QMASTER_AUTH": None, "MINE": "hush"}
    done = CliRunner().invoke(main.main, args, env=env)
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr


def test_a_function_lives(engine: Engine, start_server: StartServer) -> None:
    """It is deployed, listed, shown with its versions, rolled back to and undeployed; no value of env is shown."""
    server = start_server(engine.host, QMASTER_RUNTIME_PORT=str(free_port()))
    eventually(lambda: server.call("GET", "/functions").status == 200, 20, "it has listed")
    first = on(server, "deploy", "--env", "MINE", "--memory", "64", *NEVER, "resize", IMAGE, "cat", "-n")
    assert first == "resize version 1\n"
    assert on(server, "deploy", *NEVER, "--function-url", "token", "resize", IMAGE) == "resize version 2\n"
    table = on(server, "functions").splitlines()
    assert table[0].split() == list(tables.FUNCTIONS)
    assert table[1].split()[:6] == ["resize", "2", "0", "0", "0", "0"]
    assert on(server, "rollback", "resize", "1") == "resize version 3\n"
    shown = on(server, "functions", "resize")
    assert {"command: cat -n", "memory: 64", "env: MINE"} <= {" ".join(line.split()) for line in shown.splitlines()}
    assert [line.split()[0] for line in shown.partition("\n\n")[2].splitlines()] == ["VERSION", "3", "2", "1"]
    assert "hush" not in shown + on(server, "functions", "--json") + on(server, "functions", "--json", "resize")
    assert json.loads(on(server, "deploy", "--json", *NEVER, "other", IMAGE))["version"] == 1
    said = on(server, "undeploy", "resize", "none", "other", code=1)
    assert said == "qmaster: none: no function has the name 'none'\n"
    assert json.loads(on(server, "functions", "--json"))["functions"] == []
    assert on(server, "rollback", "resize", "1", code=1) == "qmaster: no function has the name 'resize'\n"


def test_every_field_of_a_function_is_an_option() -> None:
    """`url` is another one, as the option of that name is the server's."""
    options = {param.name for param in functions.deploy.params} - {"url", "token_file", "as_json", "name", "env_files"}
    assert {"url" if name == "url_of_function" else name for name in options} == set(FunctionSpec.__struct_fields__)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--rm", ": not supported for a function"),
        ("--environment", ": use --env"),
        ("--max-instance", "; did you mean --max-instances?"),
        ("--frobnicate", ""),
    ],
)
def test_another_tools_option_is_answered(fake: FakeServer, option: str, says: str) -> None:
    """Without options that a function does not have."""
    said = qmaster(fake, "deploy", option, "f", "busybox").stderr.decode()
    assert said.rpartition(" (")[0] == f"qmaster: no such option: {option}{says}"


def test_schedules_are_expressions_or_objects(fake: FakeServer) -> None:
    """In the order in which they were given."""
    given = ("--schedule", "30 2 * * *", "--schedule", ' {"cron": "@hourly", "input": [1]}')
    qmaster(fake, "deploy", *given, "f", "busybox")
    schedules = [{"cron": "30 2 * * *"}, {"cron": "@hourly", "input": [1]}]
    assert fake.asked == [("PUT", "/functions/f", {"image": "busybox", "schedules": schedules})]


def test_a_schedule_that_is_no_json_is_refused(fake: FakeServer) -> None:
    """With the name of the option."""
    done = qmaster(fake, "deploy", "--schedule", '{"cron": }', "f", "busybox")
    assert (done.returncode, fake.asked) == (2, [])
    assert done.stderr.startswith(b"qmaster: --schedule: ")


def test_credentials_of_a_run_are_not_those_of_a_function(fake: FakeServer) -> None:
    """QMASTER_AUTH is not sent."""
    qmaster(fake, "deploy", "f", "busybox", QMASTER_AUTH="e30=")
    assert fake.asked == [("PUT", "/functions/f", {"image": "busybox"})]


@pytest.mark.parametrize("words", [("functions",), ("functions", "f"), ("deploy", "f", "i"), ("rollback", "f", "1")])
def test_another_programs_answer_is_told(fake: FakeServer, words: tuple[str, ...]) -> None:
    """In one line, not in a traceback."""
    done = qmaster(fake, *words)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"qmaster: ")
    assert done.stderr.count(b"\n") == 1


def test_the_answers_are_those_of_the_server() -> None:
    """Each form that the commands rely on fits what the API's description shows."""
    examples = {
        ("/functions", "GET"): openapi_functions.LISTED,
        ("/functions/f", "GET"): openapi_functions.SHOWN,
        ("/functions/f", "PUT"): openapi_functions.SHOWN | {"warnings": ["w"]},
        ("/functions/f/versions", "GET"): {"success": True, "versions": [openapi_functions.VERSION]},
        ("/functions/f/rollback", "POST"): openapi_functions.SHOWN,
        ("/functions/f", "DELETE"): {"success": True, "name": "f"},
    }
    for (path, method), example in examples.items():
        answers.check(path, example, method)
        if method != "DELETE":
            with pytest.raises(msgspec.ValidationError):
                answers.check(path, {"success": True}, method)


def test_a_function_is_shown_as_lines() -> None:
    """What is set, and why calls failed; control characters of a name cannot reach the terminal."""
    failed = {"time": "2026-11-22T20:29:03Z", "reason": "init_error", "message": "no\x1b[31m module"}
    one = {**openapi_functions.FUNCTION, "last_errors": [failed]}
    one["spec"] = {**one["spec"], "command": ["app.handler"], "constraints": ["a==b", "c==d"], "labels": {"a": "b"}}
    lines = dict(line.split(":", 1) for line in tables.function(one))
    said = {key: value.strip() for key, value in lines.items()}
    assert (said["version"], said["command"]) == ("3", "app.handler")
    assert (said["constraints"], said["labels"]) == ("a==b c==d", "a=b")
    assert said["instances"] == "0 starting, 1 idle, 2 busy"
    last, following = "last 2026-11-22T01:30:00Z", "next 2026-11-23T01:30:00Z"
    assert said["schedule"] == f"30 2 * * * (Europe/Berlin, forbid): {last}, {following}"
    assert said["error"].startswith("2026-11-22T20:29:03Z init_error: no")
    assert "\x1b" not in str(lines)
    assert "workdir" not in said
    now = datetime(2026, 11, 22, 21, tzinfo=UTC)
    (row,) = tables.functions([one], now)
    assert row == ["resize", "3", "0", "1", "2", "0", "30m", "registry.example.com/resize:1"]
