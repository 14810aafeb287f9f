"""The docs and the changelog say what the code does: their tables and calls are compared with it."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import get_args

import click
import msgspec
import pytest
from documents import TEXT

import qmaster
from docs import ROOT, Row, as_pattern, code, lines_with_fence, routes, section, statuses, table
from qmaster import errors, limiter
from qmaster.api import base, events, filters, limits
from qmaster.api.calls import bodies, raw
from qmaster.api.openapi import document as openapi
from qmaster.api.runtime import connections
from qmaster.api.runtime import server as runtime
from qmaster.auth import authenticator, tokens
from qmaster.auth.authenticator import Authenticator
from qmaster.cli import base as commands_of_client
from qmaster.cli import main, run
from qmaster.engine import errors as failures
from qmaster.engine import logs
from qmaster.engine.calls import CALLS, CAPTURES, PULLS, REGISTRY, STOPS
from qmaster.events import unsent
from qmaster.functions.asynchronous import attempts, invoker
from qmaster.functions.callbacks import queue, sender
from qmaster.functions.invocations import replays
from qmaster.functions.invocations.invocation import MAX_PAYLOAD
from qmaster.models import functions, requests
from qmaster.models.responses import Reason, Service, Status, Task
from qmaster.models.validation import MAX_TOKEN
from qmaster.server import config

CODE = ROOT / "qmaster"
BODIES: dict[str, type[msgspec.Struct]] = {
    "/run": requests.RunRequest,
    "/start": requests.RunRequest,
    "/stop": requests.StopRequest,
    r"/functions/[a-z]+": functions.FunctionSpec,
    r"/functions/[a-z]+/rollback": functions.RollbackRequest,
}
RAW = r"/functions/[a-z]+/invoke"  # any bytes are its body


def column(rows: list[Row], name: str) -> list[str]:
    """The first thing that each cell of a column shows as code."""
    return [code(row[name])[0] for row in rows]


def default(cell: str) -> str:
    """A default that is a value, and "" for one that is told in words."""
    whole = re.fullmatch(r"`([^`]+)`", cell)
    return whole[1] if whole else ""


def commands() -> Iterator[list[str]]:
    """The words of each shell command in the docs; one may go over several lines."""
    text = ""
    for line, fence in lines_with_fence():
        if fence != "sh":
            assert not text, f"a command is not finished: {text}"
            continue
        text += line + "\n"
        try:
            words = shlex.split(text)
        except ValueError:  # a quote or a backslash is open
            continue
        if not line.endswith("\\"):
            yield words
            text = ""


def calls() -> list[tuple[str, str, str | None]]:
    """The calls with curl: method, path, body."""
    found = []
    for words in commands():
        if words and words[0] == "curl":
            url = next(word for word in words if word.startswith("http://localhost:9090"))
            body = words[words.index("-d") + 1] if "-d" in words else None
            path = url.removeprefix("http://localhost:9090").partition("?")[0]
            method = words[words.index("-X") + 1] if "-X" in words else "GET" if body is None else "POST"
            found.append((method, path, body))
    return found


def modules() -> list[str]:
    """The modules of the layout's table, with their packages."""
    found = []
    for row in table("Layout"):
        names = code(row["package"])
        folder = names.pop(0) if names[0].endswith("/") else ""
        found += [folder + name for name in names]
    return found


def as_json(value: object) -> str:
    """A value as a body has it; a string without its quotes."""
    return msgspec.json.encode(value).decode().strip('"')


# The tests


def test_the_options_are_those_of_the_code() -> None:
    """The table has each option with its variables and its default, in the order of ``--help``."""
    documented = [(*code(row["flag"]), *code(row["environment"]), default(row["default"])) for row in table("Options")]
    expected = [
        (option.flag, option.env, *(["TOKEN_FILE"] if option.env == "TOKEN" else []), option.default)
        for option in config.OPTIONS
    ]
    assert documented == expected


def test_the_commands_are_those_of_the_code() -> None:
    """The table has each command with its options, in the order of ``--help``; those that all have are in the text."""
    common = {"--url", "--token-file", "--json"}
    documented = {code(row["command"])[0].split()[0]: code(row["options"]) for row in table("Command line", "command")}
    expected = {
        name: [
            flag for option in command.params for flag in option.opts if flag.startswith("--") and flag not in common
        ]
        for name in main.COMMANDS
        if (command := main.main.get_command(click.Context(main.main), name))
    }
    assert list(documented.items()) == list(expected.items())
    assert list(documented) == list(main.COMMANDS)
    assert common <= set(code(" ".join(section("Command line"))))


def test_the_exit_codes_are_those_of_the_code() -> None:
    """The table has each exit code of the commands, and nothing else."""
    documented = [int(row["code"]) for row in table("Command line", "code")]
    ours = {commands_of_client.FAILED, commands_of_client.WRONG_USE, commands_of_client.INTERRUPTED}
    of_run = {run.TIMED_OUT, run.OWN_FAILURE, run.OUTPUT_CLOSED, *(run.SIGNALLED + number for number in run.SIGNALS)}
    assert documented == sorted({0} | ours | of_run)


def test_the_routes_are_those_of_the_application() -> None:
    """The table has each route's method and path, and nothing else."""
    rows = table("Routes")
    documented = [(method, as_pattern(code(row["path"])[0])) for row in rows for method in code(row["method"])]
    assert sorted(documented) == sorted(routes())


@pytest.mark.parametrize(("title", "request_type"), [("Run", requests.RunRequest), ("Stop", requests.StopRequest)])
def test_the_fields_are_those_of_the_request(title: str, request_type: type[msgspec.Struct]) -> None:
    """The table has each field with its default, and says which are required."""
    documented = [
        (code(row["field"])[0], default(row["default"]), row["default"] == "required") for row in table(title)
    ]
    expected = [
        (field.name, "" if field.default in (None, msgspec.NODEFAULT) else as_json(field.default), field.required)
        for field in msgspec.structs.fields(request_type)
    ]
    assert sorted(documented) == sorted(expected)


def test_the_fields_of_a_function_are_those_of_its_spec() -> None:
    """The table has those that it shares with a run in its first row, then its own with their defaults."""
    first, *own = table("Functions")
    assert sorted(code(first["field"])) == sorted(requests.RunFields.__struct_fields__)
    documented = [(code(row["field"])[0], default(row["default"])) for row in own]
    shared = set(requests.RunFields.__struct_fields__)
    fields = [each for each in msgspec.structs.fields(functions.FunctionSpec) if each.name not in shared]
    made = functions.FunctionSpec(image="busybox")
    assert documented == [(field.name, as_json(getattr(made, field.name))) for field in fields]


def test_the_scopes_are_those_of_the_application() -> None:
    """The table has what the token of each route needs, or that it takes none; ``/start`` is ``/run``."""
    documented = {(code(row["method"])[0], code(row["path"])[0]): row["token"].strip("`") for row in table("Routes")}
    expected = {
        (method.upper(), path): operation["security"][0]["bearer"][0] if operation["security"] else "none"
        for path, item in openapi.document()["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }
    assert documented == {**expected, ("POST", "/start"): expected["POST", "/run"]}


def test_the_keys_are_those_of_the_tokens_file() -> None:
    """The table has each key, and says which are required; the file that is shown has all of them, and is one."""
    documented = [(code(row["key"])[0], row["default"] == "required") for row in table("Tokens")]
    expected = [(field.name, field.required) for field in msgspec.structs.fields(tokens.Table)]
    assert documented == expected
    (shown,) = re.findall(r"^```toml\n(\[.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (grant,) = tokens.read(shown.encode())
    assert [name for name, _ in expected] == list(tomllib.loads(shown)[grant.name])
    assert set(code(table("Tokens")[1]["meaning"])) == set(tokens.SCOPES)


def test_the_close_codes_are_those_of_the_stream() -> None:
    """The table has each code that the server closes a socket with, and that of a cut, which comes before any word."""
    ours = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, int)}
    codes = {value for value in ours if 1001 <= value <= 1013 or 4400 <= value < 4500}
    assert {int(row["close code"]) for row in table("Events", "close code")} == codes | {1011, 1013}


def test_the_filters_are_those_of_the_listing() -> None:
    """The table has each query parameter of ``GET /status``."""
    assert sorted(column(table("Status"), "query")) == sorted(filters.FILTERS)


def test_the_status_words_are_those_of_the_messages() -> None:
    """The tables have every status, and no reason that there is not."""
    assert set(column(table("Status", "status"), "status")) == set(get_args(Status))
    assert set(column(table("Status", "reason"), "reason")) <= set(get_args(Reason))


def test_the_answer_that_is_shown_is_a_service() -> None:
    """The status in the docs has the keys of a service as the code shows one, in its order."""
    blocks = re.findall(r"^```json\n(\{\n.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    answer = next(document for document in map(msgspec.json.decode, blocks) if "tasks" in document)
    assert list(answer) == ["success", *Service.__struct_fields__]
    assert list(answer["tasks"][0]) == list(Task.__struct_fields__)


def test_the_error_that_is_shown_is_a_problem() -> None:
    """The error in the docs is what the code makes of it."""
    blocks = re.findall(r"^```json\n(\{\n.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    answer = next(document for document in map(msgspec.json.decode, blocks) if not document["success"])
    assert answer == errors.problem(answer["status"], answer["detail"], answer["instance"])


def test_the_errors_are_those_of_the_code() -> None:
    """The table has the status of each error, and nothing else."""
    documented = [int(row["status"]) for row in table("Errors")]
    assert documented == sorted({405, *statuses(errors.HttpError)})  # 405 is Tornado's own


def kib(size: int) -> str:
    assert size % 1024 == 0
    return f"{size // 1024} KiB"


def test_the_limits_are_those_of_the_code() -> None:
    """The table has each bound as the code has it."""
    said_first, said_later = kib(events.SAID_AT_ONCE), kib(events.SAID_EACH_SECOND)
    expected = {
        "body of a request": kib(requests.MAX_BODY),
        "arrays and objects in a body": f"{requests.MAX_PARTS}, at {requests.MAX_DEPTH} levels",
        "head of a request": kib(limits.MAX_HEADER),
        "time for a head": f"{limits.IDLE:g} s from the request before it, or from the connection's beginning",
        "time for a body": f"{limits.BODY_WITHIN:g} s",
        "time without progress in reading an answer": (
            f"{base.READ_WITHIN:g} s if it is over {kib(unsent.SMALL)}, else {limits.UNREAD:g} s; no limit for a log"
        ),
        "unread answers, snapshots and replays of one token": f"{unsent.MAX_UNSENT // 2**20} MiB",
        "unread live events of one token; streams with one filter count once": f"{unsent.MAX_UNSENT // 2**20} MiB",
        "query parameters": str(base.MAX_PARAMETERS),
        "strings of a request": f"labels {kib(requests.MAX_LABELS)} in all; `command`, `entrypoint` and `env` "
        f"{kib(requests.MAX_WORDS)} each; a constraint {requests.MAX_CONSTRAINT} characters; "
        f"`auth` {kib(requests.MAX_AUTH)}; "
        f"a token {kib(MAX_TOKEN)}",
        "frame from a client": kib(events.MAX_INBOUND),
        "bytes from a client on a websocket": f"{said_first} at once, then {said_later} a second",
        "time until a websocket sends its token": f"{events.AUTH_WITHIN:g} s",
        "invalid tokens of one address": f"{authenticator.BURST} at once, then one in {authenticator.REGAINED_IN:g} s",
        "open event streams": str(limits.MOST["socket"]),
        "open websockets that have sent no token": str(limits.MOST["unauthenticated"]),
        "calls that wait for the end of a run": str(limits.MOST["wait"]),
        "open logs": str(limits.MOST["log"]),
        "open calls of functions; of one address without a token": f"{limits.MOST['call']}; {bodies.MAX_OF_ADDRESS}",
        "input of a call; answer that is not streamed": f"{MAX_PAYLOAD // 2**20} MiB; {MAX_PAYLOAD // 2**20} MiB",
        "time for the input of a call": f"{raw.BODY_WITHIN:g} s",
        "inputs of calls in flight": f"{bodies.MAX_BODIES // 2**20} MiB",
        "input of an asynchronous call; its output": (
            f"{invoker.MAX_PAYLOAD // 2**20} MiB; {attempts.MAX_OUTPUT // 2**20} MiB"
        ),
        "asynchronous calls of a function that wait": f"its `queue`, {functions.MAX_QUEUE} at most",
        "inputs of asynchronous calls that wait; those of one token": (
            "half of `--keep-size`; half of what the other tokens leave of that, so a quarter at most (the root token: "
            "all of it)"
        ),
        "unread answers of calls of one token": (
            f"{unsent.MAX_UNSENT // 2**20} MiB before the next call, {raw.MAX_UNREAD // 2**20} MiB with those in flight"
        ),
        "callbacks that are sent at once: to a prefix; to all": f"{queue.OF_PREFIX}; {queue.AT_ONCE}",
        "time of a try of a callback": f"{sender.TIMEOUT:g} s",
        "tries of a callback": f"{len(queue.DELAYS) + 1}, within {sum(queue.DELAYS) / 3600:.1f} hours",
        "callbacks of one token that wait": f"{queue.MAX_WAITING:,}",
        "answers that are kept for AWS' SDKs": (
            f"{replays.MAX_REMEMBERED // 2**20} MiB, for {replays.REMEMBERED_FOR:g} s"
        ),
        "concurrent calls to Docker: short calls; registry requests; pulls; reads of ended runs' output; "
        "stops of containers": "; ".join(map(str, (CALLS, REGISTRY, PULLS, CAPTURES, STOPS))),
        "queued calls of one token": f"{limiter.MAX_QUEUED} of each kind",
        "runtime API: time for the first head": f"{connections.HEAD_WITHIN:g} s",
        "runtime API: connections of one address that have sent no secret": (
            f"{connections.MAX_UNIDENTIFIED}, not counting those of the last second; beyond {connections.MAX_SILENT}, "
            f"those that send nothing for {connections.SPEAKS_WITHIN * 1000:g} ms"
        ),
        "runtime API: connections of one instance": f"{connections.MORE_CONNECTIONS} more than its `concurrency`",
        "runtime API: connections": f"{connections.MAX_CONNECTIONS}, a quarter of the descriptors at most",
        "runtime API: connections of the functions of one token, except the root token's": (
            "while there are fewer than are free"
        ),
        "runtime API: head of a request, and before a secret was sent; an answer that is streamed": (
            f"{runtime.MAX_HEAD // 1024} KiB, and {runtime.MAX_FIRST_HEAD // 1024} KiB; {runtime.MAX_BODY // 2**20} MiB"
        ),
        "runtime API: document of an error": f"{runtime.MAX_ERROR // 1024} KiB",
        "connections": (
            f"the descriptors of the process (`ulimit -n`) less {limits.RESERVED}, and less those of the runtime API"
        ),
    }
    assert {row["limit"]: row["value"] for row in table("Limits")} == expected
    prose = " ".join(section("Limits"))
    assert (f"the last {limits.SPARE} connections" in prose, limits.SHARE, "a quarter" in prose) == (True, 4, True)
    assert limits.MOST["log"] == logs.MAX_READERS


def test_the_layout_has_every_module() -> None:
    """The table has each module once, and nothing else."""
    there = [str(path.relative_to(CODE)) for path in CODE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(modules()) == sorted(there)


def test_each_call_is_one_that_the_server_takes() -> None:
    """Each curl of the docs names a route, and its body is a request that the code accepts."""
    patterns = routes()
    assert {path for _, path, body in calls() if body} >= {"/run", "/stop"}
    for method, path, body in calls():
        assert any(method == m and re.fullmatch(pattern, path) for m, pattern in patterns), f"{method} {path}"
        if body is not None and not re.fullmatch(RAW, path):
            document = requests.decode_object(body.encode())
            document.pop("token", None)
            (body_type,) = (each for pattern, each in BODIES.items() if re.fullmatch(pattern, path))
            requests.convert(document, body_type)


def test_the_troubles_are_told_in_the_code_s_words() -> None:
    """The table has the messages exactly as they are shown, where they can be had without an engine."""
    shown = [code(row["you see"])[0] for row in table("Troubleshooting")]
    with pytest.raises(errors.ConfigError) as no_token:
        config.load({}, {})
    assert f"qmaster: {no_token.value}" in shown
    for header in (None, "Bearer another"):
        with pytest.raises(errors.Unauthorized) as unauthorized:
            Authenticator("this").identify(header, None)
        assert str(unauthorized.value) in shown
    assert {failures.AWAY, failures.NO_SWARM, failures.WORKER} <= set(shown)


def test_what_to_watch_is_there() -> None:
    """Each metric that the docs advise to watch is in its table of metrics, and each line of the log in the code."""
    source = "".join(path.read_text(encoding="utf-8") for path in CODE.rglob("*.py"))
    metrics = set(column(table("Metrics"), "metric"))
    watched = [word for row in table("Disk, log, and what to watch") for word in code(row["watch"])]
    assert {word for word in watched if word.startswith("qmaster_")} <= metrics
    named = [word for row in table("Disk, log, and what to watch") for word in code(row["it means"]) if "_" in word]
    assert named
    assert all(f'"{word}"' in source for word in named)


def test_each_dependency_has_its_reason() -> None:
    """The table has each package that pyproject.toml asks for, and nothing else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {"running": project["project"]["dependencies"], "testing": project["dependency-groups"]["test"]}
    rows = table("Dependencies")
    assert all(row["reason"] for row in rows)
    assert [(row["for"], *code(row["package"])) for row in rows] == [
        (use, re.split(r"[^\w.-]", requirement)[0]) for use, names in wanted.items() for requirement in names
    ]


def test_the_changelog_has_this_version() -> None:
    """The changelog begins with the version that the code says it is, or with the next one, which is not released."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d\S*)(.*)", changelog, re.MULTILINE)
    while versions[0][0] != qmaster.__version__:
        assert versions.pop(0)[1].endswith(" unreleased")
