"""cli.invocations: asynchronous calls are made, waited for, listed, shown, redriven and cancelled."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from api_cases import TOKEN
from call_cases import calls_app, invoker, served, url
from click.testing import CliRunner
from commands_cases import ROOT
from invocation_cases import FakeInvoker, invocation
from structlog.testing import capture_logs

from qmaster import errors
from qmaster.api.openapi import functions as openapi_functions
from qmaster.api.openapi import invocations as openapi_invocations
from qmaster.cli import answers, main, tables
from qmaster.cli.functions import invocations

__all__ = ["calls_app", "invoker", "served", "url"]  # the fixtures

FAILED = {"type": "ValueError", "message": "no\x1b[2J good", "stack": ['  File "app.py", line 3\x07']}
ATTEMPT = {"started_at": "2026-12-01T08:00:01Z", "ended_at": "2026-12-01T08:00:02Z", "instance": "s1", "error": FAILED}


def run(url: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    env = {"QMASTER_URL": url, "TOKEN": TOKEN, "TOKEN_FILE": None}
    done = CliRunner().invoke(main.main, args, env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout_bytes, done.stderr_bytes)


def process(url: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    """The same in a process of its own, for what is written to a descriptor."""
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), "QMASTER_URL": url, "TOKEN": TOKEN}
    command = [sys.executable, "-m", "qmaster", *args]
    return subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The server's log would be among what the commands print."""
    with capture_logs():
        yield


def told(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


# --- invoke --async ---------------------------------------------------------------------------------------------------


def test_a_call_is_made_later(url: str, invoker: FakeInvoker) -> None:
    """Its id is printed; with --json the answer."""
    said = told(run(url, "invoke", "hello", "--async", "--data", "grüß", "--idempotency-key", "k"))
    assert said == f"{invoker.orders[0].id}\n"
    assert (invoker.orders[0].payload, invoker.orders[0].key is None) == ("grüß".encode(), False)
    answer = json.loads(told(run(url, "invoke", "hello", "--async", "--json")))
    assert answer == {"success": True, "id": invoker.orders[1].id, "status": "queued"}


OUTPUTS = [
    ({"output": {"a": "ä"}}, '{"a":"ä"}\n'.encode()),
    ({"output": None}, b"null\n"),
    ({"output": "text"}, b"text\n"),
    ({"output": "a line\n"}, b"a line\n"),
    ({"output_base64": "AP8="}, b"\0\xff"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("output", "printed"), OUTPUTS)
def test_its_output_is_printed(url: str, invoker: FakeInvoker, output: dict[str, Any], printed: bytes) -> None:
    """Once it is over: JSON, text or bytes."""
    invoker.on_accept = lambda one: invoker.end(one, status="succeeded", **output)
    done = process(url, "invoke", "hello", "--async", "--wait", "30")
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, b"")
    kind, _, seconds = invoker.asked[0]
    assert kind == "when_over"
    assert 20 < seconds <= 30


def test_its_failure_is_told(url: str, invoker: FakeInvoker) -> None:
    """With the stack; nothing that a terminal obeys gets through."""
    invoker.on_accept = lambda one: invoker.end(one, status="dead", error=FAILED)
    done = process(url, "invoke", "hello", "--async", "--wait", "30")
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (1, b"")
    assert lines[0].startswith("qmaster: the function failed: ValueError: no")
    assert lines[1] == '    File "app.py", line 3\N{REPLACEMENT CHARACTER}'
    assert "\x1b" not in done.stderr.decode()


@pytest.mark.parametrize("status", ["queued", "running", "cancelled"])
def test_one_without_output_is_told(url: str, invoker: FakeInvoker, status: str) -> None:
    """With its id, so that it can be looked for; with --json it is printed all the same."""
    invoker.on_accept = lambda one: invoker.end(one, status=status)
    done = run(url, "invoke", "hello", "--async", "--wait", "0")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert invoker.orders[0].id in done.stderr.decode()
    as_json = run(url, "invoke", "hello", "--async", "--wait", "0", "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)["status"]) == (1, status)


@pytest.mark.slow
def test_a_wait_goes_on_over_a_restart(url: str, invoker: FakeInvoker) -> None:
    """A server that stops answers at once, with what is known then."""

    def end_later(one: str) -> None:
        if len(invoker.asked) > 1:
            invoker.end(one, status="succeeded", output="late")

    invoker.on_wait = end_later
    done = process(url, "invoke", "hello", "--async", "--wait", "60")
    assert (done.returncode, done.stdout, len(invoker.asked)) == (0, b"late\n", 2)


def test_an_accepted_call_is_named_if_the_wait_fails(url: str, invoker: FakeInvoker) -> None:
    """Its id must not be lost."""
    done = run(url, "invoke", "hello", "--async", "--wait", "86401")
    assert done.returncode == 1
    assert invoker.orders[0].id in done.stderr.decode()
    assert "wait: expected seconds" in done.stderr.decode()


def test_what_is_not_accepted_is_told(url: str, invoker: FakeInvoker) -> None:
    """As the server says it."""
    invoker.error = errors.QueueFull("as many calls wait as queue allows", 1)
    done = run(url, "invoke", "hello", "--async")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"qmaster: as many calls wait as queue allows\n"


# --- invocations ------------------------------------------------------------------------------------------------------


def test_calls_are_listed(url: str, invoker: FakeInvoker) -> None:
    """As a table, as ids, or as JSON, with filters."""
    invoker.there["i1"] = invocation("i1", status="dead", error=FAILED, attempts=[ATTEMPT])
    invoker.there["i2"] = invocation("i2", function="hello")
    table = told(run(url, "invocations")).splitlines()
    assert table[0].split() == list(tables.INVOCATIONS)
    assert [line.split()[:4] for line in table[1:]] == [["i2", "hello", "queued", "0"], ["i1", "resize", "dead", "1"]]
    assert "ValueError: no" in table[2]
    assert told(run(url, "invocations", "--quiet", "--status", "dead")) == "i1\n"
    assert json.loads(told(run(url, "invocations", "--json", "--function", "hello")))["invocations"][0]["id"] == "i2"


def test_a_long_list_is_read_page_by_page(url: str, invoker: FakeInvoker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the limit; without one a hundred."""
    monkeypatch.setattr(invocations, "PAGE", 60)
    invoker.there = {f"i{number}": invocation(f"i{number}") for number in range(150)}
    assert len(told(run(url, "invocations", "--quiet")).split()) == 100
    ids = told(run(url, "invocations", "--quiet", "--limit", "500")).split()
    assert ids == [f"i{number}" for number in reversed(range(150))]
    assert told(run(url, "invocations", "--quiet", "--limit", "1")).split() == ["i149"]


def test_one_is_shown(url: str, invoker: FakeInvoker) -> None:
    """With its attempts, its output and its callbacks."""
    callback = {"url": "https://a.example/hook", "delivered_at": None, "attempts": 2, "last_error": "503"}
    invoker.there["i1"] = invocation(
        "i1", status="succeeded", attempts=[ATTEMPT], output={"a": 1}, callbacks=[callback]
    )
    head, _, attempts = told(run(url, "invocations", "i1")).partition("\n\n")
    said = dict(line.split(":", 1) for line in head.splitlines())
    assert {key: value.strip() for key, value in said.items()}.items() >= {
        "id": "i1",
        "status": "succeeded",
        "output": '{"a": 1}',
        "callback": "https://a.example/hook 503 (2 tries)",
    }.items()
    assert attempts.splitlines()[0].split() == list(tables.ATTEMPTS)
    assert attempts.splitlines()[1].split()[:3] == ["2026-12-01T08:00:01Z", "2026-12-01T08:00:02Z", "s1"]
    assert told(run(url, "invocations", "i1", "--quiet")) == "i1\n"
    assert json.loads(told(run(url, "invocations", "i1", "--json", "--wait", "5")))["output"] == {"a": 1}
    assert invoker.asked[-1][0] == "when_over"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("invocations", "none"), 1, "the quartermaster at 10.0.0.5 has it"),
        (("invocations", "i1", "--status", "dead"), 2, "filters cannot be combined with an ID"),
        (("invocations", "i1", "--limit", "3"), 2, "filters cannot be combined with an ID"),
        (("invocations", "--wait", "3"), 2, "--wait needs an ID"),
        (("invocations", "--limit", "0"), 2, "0 is not in the range"),
        (("invocations", "--status", "ded"), 1, "status: expected one of queued,"),
        (("invoke", "hello", "--wait", "3"), 2, "--wait is for --async"),
        (("redrive",), 2, "expected IDs, or --all NAME"),
        (("redrive", "i1", "--all", "hello"), 2, "expected IDs, or --all NAME"),
        (("cron",), 2, "no such command 'cron': use schedules"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(url: str, args: tuple[str, ...], code: int, says: str) -> None:
    """With the exit code of all commands."""
    done = run(url, *args)
    assert (done.returncode, done.stderr.count(b"\n")) == (code, 1), done.stderr
    assert says in done.stderr.decode()


def test_calls_are_redriven_and_cancelled(url: str, invoker: FakeInvoker) -> None:
    """Each; one that cannot be is named, and the others go on."""
    invoker.there = {name: invocation(name, status="dead") for name in ("i1", "i2")}
    assert told(run(url, "redrive", "i1", "i2")) == "i1\ni2\n"
    invoker.end("i1", status="running")
    done = run(url, "cancel", "i1", "i2")
    assert (done.returncode, done.stdout) == (1, b"i2\n")
    assert done.stderr == b"qmaster: i1: the invocation is running, not queued\n"
    assert invoker.there["i2"].status == "cancelled"


def test_all_dead_calls_of_a_function_are_redriven(url: str, invoker: FakeInvoker) -> None:
    """All steps of it; the number of calls is printed, also where a later step fails."""
    dead = {f"i{number}": invocation(f"i{number}", status="dead", function="hello") for number in range(5)}
    invoker.there = dict(dead)
    assert told(run(url, "redrive", "--all", "hello")) == "5\n"
    invoker.there = dict(dead)
    assert json.loads(told(run(url, "--json", "redrive", "--all", "hello"))) == {"success": True, "redriven": 5}
    assert [page for _, _, _, page in invoker.asked] == [None, "2", "4"] * 2
    invoker.error = errors.QueueFull("100 calls wait")
    done = run(url, "redrive", "--all", "hello")
    assert (done.returncode, done.stderr) == (1, b"qmaster: 100 calls wait\n")


# --- the forms of answers ---------------------------------------------------------------------------------------------


def test_the_answers_are_those_of_the_server() -> None:
    """Each form that the commands rely on fits what the API's description shows."""
    listed = {"success": True, "invocations": [openapi_invocations.LISTED], "next_page": None}
    for path, method, example in (
        ("/invocations", "GET", listed),
        ("/invocations/i", "GET", openapi_invocations.SHOWN),
        ("/invocations/i", "DELETE", openapi_invocations.QUEUED),
        ("/invocations/i/redrive", "POST", openapi_invocations.QUEUED),
        ("/functions/f/invoke", "POST", {"success": True, "id": "i", "status": "queued"}),
        ("/functions/f/redrive", "POST", {"success": True, "redriven": 3, "next_page": None}),
    ):
        answers.check(path, example, method)
        with pytest.raises(msgspec.ValidationError):
            answers.check(path, {"success": True}, method)


def test_schedules_are_shown() -> None:
    """One row each, of the functions that have some; those that are suspended have no next tick."""
    every = {"cron": "@hourly", "time_zone": "Europe/Berlin", "suspend": False}
    due = {**every, "last": None, "next": "2026-12-01T09:00:00Z"}
    off = {**every, "suspend": True, "last": "2026-12-01T08:00:00.123Z", "next": None}
    listed = [openapi_functions.FUNCTION | {"schedules": []}, openapi_functions.FUNCTION | {"schedules": [due, off]}]
    assert tables.schedules(listed) == [
        ["resize", "@hourly", "Europe/Berlin", "", "2026-12-01T09:00:00Z"],
        ["resize", "@hourly", "Europe/Berlin", "2026-12-01T08:00:00Z", "suspended"],
    ]
    assert tables.schedules([{"name": "older"}]) == []


def test_an_event_of_a_call_is_a_line() -> None:
    """With the function, and why it failed."""
    event = {
        "type": "io.qmaster.invocation.failed",
        "time": "2026-12-01T08:00:02Z",
        "subject": "i1",
        "data": msgspec.to_builtins(invocation("i1", status="dead", error=FAILED)),
    }
    assert tables.event(event).split() == [
        *("2026-12-01T08:00:02Z", "invocation.failed", "i1", "resize", "ValueError:"),
        *("no\N{REPLACEMENT CHARACTER}[2J", "good"),
    ]
