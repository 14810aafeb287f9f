"""The commands as a user has them: a process, in a pipe or in a terminal, with a server that does as it is told."""

import asyncio
import gc
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from commands_cases import ROOT, environ, qmaster
from fake_server import EPOCH, TOKEN, FakeServer, line, service
from testbed.terminal import CTRL_C, Terminal
from testbed.wait import eventually

from qmaster.cli.client import Client

WITHIN = 60.0  # seconds: a loaded machine's bound, never waited for
COMMAND = [sys.executable, "-m", "qmaster"]
pytestmark = pytest.mark.slow  # a process each


def process(fake: FakeServer, *args: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end, as a process of its own."""
    command = [*COMMAND, *args]
    return subprocess.run(command, env=environ(fake), stdin=stdin, capture_output=True, timeout=WITHIN, check=False)


class Begun:
    """A command that goes on; what it has written is in files."""

    def __init__(self, fake: FakeServer, folder: Path, *args: str) -> None:
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, *args], env=environ(fake), stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    def __enter__(self) -> "Begun":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def shows(self, text: str) -> None:
        eventually(lambda: text.encode() in self.out.read_bytes(), WITHIN, text)

    def code(self) -> int:
        return self.process.wait(WITHIN)


def asked(fake: FakeServer, path: str) -> list[Any]:
    return [call for call in fake.asked if call[1].partition("?")[0] == path]


def waits_for(fake: FakeServer, path: str, times: int = 1) -> None:
    eventually(lambda: len(asked(fake, path)) >= times, WITHIN, f"{path} is asked for")


def check_one_line(done: subprocess.CompletedProcess[bytes], code: int, *says: str) -> None:
    """That exit code, nothing on stdout, and one line on stderr."""
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), text
    assert text.startswith("qmaster: ")
    assert text.count("\n") == 1, text
    for words in says:
        assert words in text


# --- what goes wrong --------------------------------------------------------------------------------------------------

CALLS: list[Sequence[str]] = [["status"], ["logs", "-f", "x"], ["events"]]


@pytest.mark.parametrize(("args", "code"), [*((args, 1) for args in CALLS), (["run", "busybox"], 125)])
def test_a_server_that_is_not_there_is_one_line(args: Sequence[str], code: int, fake: FakeServer) -> None:
    """It names the URL and how to give another; at once, without a retry."""
    fake.down()
    begun = time.monotonic()
    done = qmaster(fake, *args)
    check_one_line(done, code, fake.url, "QMASTER_URL", "is quartermaster running there?")
    assert time.monotonic() - begun < 15
    fake.up()


@pytest.mark.parametrize(("args", "code"), [*((args, 1) for args in CALLS), (["run", "busybox"], 125)])
def test_a_wrong_token_is_one_line(args: Sequence[str], code: int, fake: FakeServer) -> None:
    """It says how to give the right one, and shows none."""
    done = qmaster(fake, *args, TOKEN="secret-but-wrong")
    check_one_line(done, code, "invalid token", "TOKEN_FILE")
    assert b"secret-but-wrong" not in done.stderr


@pytest.mark.parametrize(("command", "code"), [("status", 2), ("run", 125)])
def test_no_token_is_one_line(command: str, code: int, fake: FakeServer) -> None:
    """The server is not asked."""
    check_one_line(qmaster(fake, command, *(["busybox"] if code == 125 else []), TOKEN=""), code, "TOKEN_FILE")
    assert fake.asked == []


def test_the_token_may_be_in_a_file(fake: FakeServer, tmp_path: Path) -> None:
    """Of TOKEN_FILE, or of --token-file, which wins over both variables."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert qmaster(fake, "status", TOKEN="", TOKEN_FILE=str(tmp_path / "token")).returncode == 0
    assert qmaster(fake, "status", "--token-file", str(tmp_path / "token"), TOKEN="wrong").returncode == 0


def test_an_error_of_the_server_is_its_own_words(fake: FakeServer) -> None:
    """On one line, with exit code 1."""
    check_one_line(qmaster(fake, "status", "nothing"), 1, "no service or container nothing")


@pytest.mark.parametrize("url", ["localhost:9090", "ftp://x", "http://u:secret@x", "http://x/?token=y", "http://x:y"])
def test_a_wrong_url_is_one_line(url: str, fake: FakeServer) -> None:
    """Exit code 2; what may be a secret is not repeated."""
    done = qmaster(fake, "status", "--url", url)
    check_one_line(done, 2, "--url")
    assert b"secret" not in done.stderr


@pytest.mark.parametrize(("args", "code"), [(["status", "--nonsense"], 2), (["run", "--nonsense", "x"], 125)])
def test_a_wrong_use_is_shown(args: list[str], code: int, fake: FakeServer) -> None:
    """As click does it; of `run` with the code that no job has."""
    done = qmaster(fake, *args)
    assert done.returncode == code
    assert b"--nonsense" in done.stderr


def test_a_certificate_that_nobody_vouches_for_is_one_line(fake: FakeServer, tmp_path: Path) -> None:
    """It says how to trust it; and so it is trusted."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    fake.down()
    fake.tls = context
    fake.up()
    check_one_line(qmaster(fake, "status"), 1, "certificate", "SSL_CERT_FILE")
    assert qmaster(fake, "status", SSL_CERT_FILE=str(tmp_path / "ca.pem")).returncode == 0


class NeverCloses(threading.Thread):
    """A server that answers one call over TLS, and does not end the connection before `over` is set."""

    BODY = b'{"success": true, "cursor": "0badcafe:0", "services": [], "next_page": null}'

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__()
        self.over = threading.Event()
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        with self._listener, self._tls.wrap_socket(self._listener.accept()[0], server_side=True) as connection:
            connection.recv(65536)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(self.BODY)}\r\n\r\n"
            connection.sendall(head.encode() + self.BODY)
            self.over.wait(WITHIN)


def test_a_call_over_tls_leaves_no_connection_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the server does not end it."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = NeverCloses(context)
    server.start()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        answer = asyncio.run(Client(server.url, TOKEN).call("GET", "/status"))
        gc.collect()
    server.over.set()
    server.join()
    assert answer["services"] == []
    assert [str(warning.message) for warning in told] == []


def test_the_options_for_serving_are_no_command_s(fake: FakeServer) -> None:
    """In front of a command they are refused, and not silently without effect."""
    done = qmaster(fake, "--port", "1", "status")
    assert done.returncode == 2
    assert b"--port is for serving" in done.stderr
    assert fake.asked == []


def test_a_command_needs_no_engine_and_no_server() -> None:
    """Neither Docker's SDK nor the server is imported: a command begins quickly."""
    loaded = imported_by("qmaster.cli.main", "qmaster.cli.commands")
    assert not {"docker", "paramiko", "requests", "structlog", "sqlite3", "qmaster.server.app"} & loaded


def test_the_health_check_imports_little() -> None:
    """It runs every ten seconds, for as long as the server does: asyncio alone would double what it costs."""
    assert not {"asyncio", "aiohttp", "msgspec", "json"} & imported_by("qmaster.cli.main", "qmaster.cli.healthcheck")


def imported_by(*modules: str) -> set[str]:
    """The modules that an import of these loads."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(done.stdout.split())


# --- run: what is asked for -------------------------------------------------------------------------------------------

EVERYTHING = [
    *("--type", "service", "--name", "n", "-e", "A=1=2", "-e", "MINE", "--env", "E=", "-l", "a=b=c", "-w", "/w"),
    *("-u", "u:g", "--entrypoint", "sh -c", "--memory", "64", "--cpus", "0.5", "--replicas", "2"),
    *(
        "--restart",
        "on-failure",
        "--max-attempts",
        "3",
        "--restart-delay",
        "1",
        "--restart-window",
        "60",
        "--constraint",
        "node.role==worker",
        "--network",
        "net",
    ),
    *("--secret", "s", "-p", "8080:80", "-p", "53:53/udp", "--timeout", "1.5", "--ttl", "0"),
    *("--callback", "https://hooks.example/done"),
    *("--pids-limit", "0", "--cap-drop", "ALL", "--cap-drop", "MKNOD", "--new-privileges", "--no-healthcheck"),
    *("--pull", "never", "--mode", "global", "--init", "--stop-signal", "INT", "--stop-grace-period", "1m"),
    *("--hostname", "h", "--add-host", "a:10.0.0.1", "--dns", "10.0.0.2", "--read-only", "--tmpfs", "/t:size=1m"),
    *("--shm-size", "64m", "--ulimit", "nofile=10:20", "--ulimit", "core=0", "-v", "data:/data:ro", "--config", "c"),
    *("--generic-resource", "gpu=2", "--gpus", "all", "-i"),
]


def test_every_field_of_a_run_has_an_option(fake: FakeServer) -> None:
    """And the words behind the image are the command, options among them."""
    given = {"MINE": "from here", "QMASTER_AUTH": '{"username": "u", "password": "p"}'}
    done = qmaster(fake, "run", "-d", *EVERYTHING, "busybox", "ls", "-l", "--all", **given)
    assert (done.returncode, done.stdout) == (0, b"job-1\n")
    ((_, _, body),) = asked(fake, "/run")
    assert body == {
        "image": "busybox",
        "command": ["ls", "-l", "--all"],
        "type": "service",
        "name": "n",
        "env": {"A": "1=2", "MINE": "from here", "E": ""},
        "labels": {"a": "b=c"},
        "workdir": "/w",
        "user": "u:g",
        "entrypoint": "sh -c",
        "memory": 64,
        "cpus": 0.5,
        "replicas": 2,
        "restart": "on-failure",
        "max_attempts": 3,
        "restart_delay": 1.0,
        "restart_window": 60.0,
        "constraints": ["node.role==worker"],
        "networks": ["net"],
        "secrets": ["s"],
        "ports": ["8080:80", "53:53/udp"],
        "timeout": 1.5,
        "ttl": 0.0,
        "callback": "https://hooks.example/done",
        "pids_limit": 0,
        "cap_drop": ["ALL", "MKNOD"],
        "no_new_privileges": False,
        "healthcheck": False,
        "pull_policy": "never",
        "mode": "global",
        "init": True,
        "stop_signal": "INT",
        "stop_grace_period": 60.0,
        "hostname": "h",
        "extra_hosts": ["a:10.0.0.1"],
        "dns": ["10.0.0.2"],
        "read_only": True,
        "tmpfs": ["/t:size=1m"],
        "shm_size": 64,
        "ulimits": {"nofile": {"soft": 10, "hard": 20}, "core": 0},
        "volumes": ["data:/data:ro"],
        "configs": ["c"],
        "generic_resources": {"gpu": 2},
        "gpus": "all",
        "stdin": "",
        "auth": "eyJ1c2VybmFtZSI6ICJ1IiwgInBhc3N3b3JkIjogInAifQ==",
    }


def test_options_take_durations_and_sizes(fake: FakeServer) -> None:
    """As a request does; the body has numbers."""
    options = ["--memory", "0.5g", "--timeout", "1m30s", "--restart-delay", "500ms", "--ttl", "1h"]
    assert qmaster(fake, "run", "-d", *options, "busybox").returncode == 0
    body = {"image": "busybox", "memory": 512, "timeout": 90, "restart_delay": 0.5, "ttl": 3600}
    assert asked(fake, "/run")[0][2] == body


@pytest.mark.parametrize(("text", "ttl"), [("never", "never"), ("1.5", 1.5)])
def test_a_run_may_stay_for_ever(fake: FakeServer, text: str, ttl: float | str) -> None:
    """By the word; a number is seconds."""
    assert qmaster(fake, "run", "-d", "--ttl", text, "busybox").returncode == 0
    assert asked(fake, "/run")[0][2]["ttl"] == ttl


def test_an_empty_entrypoint_is_given(fake: FakeServer) -> None:
    """It switches the image's own off; other empty options are as if left out."""
    assert qmaster(fake, "run", "-d", "--entrypoint", "", "--user", "", "busybox", "ls").returncode == 0
    assert asked(fake, "/run")[0][2] == {"image": "busybox", "command": ["ls"], "entrypoint": ""}


def test_what_is_not_given_is_left_to_the_server(fake: FakeServer) -> None:
    """The body has the image alone."""
    assert qmaster(fake, "run", "-d", "busybox").returncode == 0
    assert asked(fake, "/run")[0][2] == {"image": "busybox"}


def test_credentials_come_from_a_file_or_from_standard_input(fake: FakeServer, tmp_path: Path) -> None:
    """As JSON, or as base64 of it."""
    (tmp_path / "auth").write_text("eyJ9\n")
    qmaster(fake, "run", "-d", "--auth-file", str(tmp_path / "auth"), "busybox")
    qmaster(fake, "run", "-d", "--auth-file", "-", "busybox", stdin='{"identitytoken": "x"}')
    assert [body["auth"] for _, _, body in asked(fake, "/run")] == ["eyJ9", "eyJpZGVudGl0eXRva2VuIjogIngifQ=="]


@pytest.mark.parametrize(
    ("args", "says"),
    [(["-e", "NOT_SET_HERE"], "NOT_SET_HERE"), (["-l", "a"], "--label"), (["--auth-file", "/missing"], "--auth-file")],
)
def test_an_option_that_cannot_be_is_one_line(args: list[str], says: str, fake: FakeServer) -> None:
    """Exit code 125, and nothing is asked for."""
    check_one_line(qmaster(fake, "run", *args, "busybox"), 125, says)
    assert fake.asked == []


@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_standard_input_that_nobody_reads_is_refused(kind: str, fake: FakeServer, tmp_path: Path) -> None:
    """Before anything is asked for; it says what to do."""
    (tmp_path / "file").write_bytes(b"x\n")
    if kind == "file":
        reader = os.open(tmp_path / "file", os.O_RDONLY)
    elif kind == "pipe":
        reader, writer = os.pipe()
        os.write(writer, b"x")
        os.close(writer)
    else:
        ours, its = socket.socketpair()
        ours.send(b"x")
        ours.close()
        reader = its.detach()
    check_one_line(process(fake, "run", "-d", "busybox", stdin=reader), 125, "standard input has data", "</dev/null")
    os.close(reader)
    assert fake.asked == []


def test_standard_input_without_data_is_no_error(fake: FakeServer, tmp_path: Path) -> None:
    """As cron, CI and ssh give it: nothing, an empty file or pipe, one that is kept open, or none at all."""
    ended, writer = os.pipe()
    os.close(writer)
    kept, writer = os.pipe()
    (tmp_path / "empty").touch()
    empty = os.open(tmp_path / "empty", os.O_RDONLY)
    for stdin in (subprocess.DEVNULL, ended, kept, empty):
        assert process(fake, "run", "-d", "busybox", stdin=stdin).returncode == 0
    for descriptor in (ended, kept, empty, writer):
        os.close(descriptor)


def test_options_of_all_commands_may_stand_in_front(fake: FakeServer, tmp_path: Path) -> None:
    """`--url`, `--token-file` and `--json`; they count more than the environment."""
    (tmp_path / "token").write_text(TOKEN)
    options = ["--url", fake.url, "--json", f"--token-file={tmp_path / 'token'}"]
    done = qmaster(fake, *options, "nodes", QMASTER_URL="http://[::1]:1", TOKEN="wrong")
    assert (done.returncode, json.loads(done.stdout)["success"]) == (0, True)


def test_a_key_that_no_header_can_carry_is_one_line(fake: FakeServer) -> None:
    """Such as one with the newline of a file."""
    check_one_line(qmaster(fake, "run", "--idempotency-key", "k\n", "busybox"), 125, "--idempotency-key: expected")


def test_a_value_of_the_environment_that_is_not_utf8_is_one_line(fake: FakeServer) -> None:
    """It names the variable."""
    check_one_line(qmaster(fake, "run", "-e", "MINE", "busybox", MINE="a\udcff"), 125, "the value of MINE is not UTF-8")
    check_one_line(qmaster(fake, "run", "busybox", QMASTER_AUTH="a\udcff"), 125, "QMASTER_AUTH: it is not UTF-8")
    assert fake.asked == []


def test_a_key_goes_along_and_makes_a_retry_safe(fake: FakeServer) -> None:
    """A 503 is tried again under the same key; without one it is told."""
    fake.refuse["/run"] = [503]
    assert qmaster(fake, "run", "-d", "--idempotency-key", "k", "busybox").returncode == 0
    assert [headers["Idempotency-Key"] for headers in fake.headers] == ["k", "k"]
    fake.refuse["/run"] = [503]
    check_one_line(qmaster(fake, "run", "-d", "busybox"), 125, "as told")


# --- run: output and exit code ----------------------------------------------------------------------------------------


def test_the_output_comes_as_it_is_written(fake: FakeServer, tmp_path: Path) -> None:
    """stdout and stderr each to their own, before the end; on no terminal there is nothing else; and the exit code."""
    with Begun(fake, tmp_path, "run", "busybox") as begun:
        waits_for(fake, "/logs/job-1")
        fake.write("job-1", line(1, "one"), line(2, "two", "stderr"))
        begun.shows("one\n")
        fake.write("job-1", line(3, "three", partial=True), line(4, " and a half", partial=True))
        fake.end(code=7)
        assert begun.code() == 7
        assert begun.out.read_text() == "one\nthree and a half"
        assert begun.err.read_text() == "two\n"


def test_what_is_not_text_survives(fake: FakeServer, tmp_path: Path) -> None:
    """The bytes are those that the job wrote."""
    with Begun(fake, tmp_path, "run", "busybox") as begun:
        waits_for(fake, "/logs/job-1")
        fake.write("job-1", line(1, "\ufffd\ufffd", base64="//4A", partial=True), line(2, "a\r"))
        fake.end()
        assert begun.code() == 0
        assert begun.out.read_bytes() == b"\xff\xfe\0a\r\n"


def test_a_remark_of_the_server_s_is_no_output(fake: FakeServer, tmp_path: Path) -> None:
    """It is said on stderr, once however often it is told."""
    with Begun(fake, tmp_path, "run", "busybox") as begun:
        waits_for(fake, "/logs/job-1")
        fake.write("job-1", line(1, "one"), *[line(2, "the node x cannot be reached", "qmaster")] * 2)
        fake.end()
        assert begun.code() == 0
        assert begun.out.read_text() == "one\n"
        assert begun.err.read_text() == "qmaster: the node x cannot be reached\n"


ENDS: list[tuple[dict[str, Any], int, str]] = [
    ({"code": 0}, 0, ""),
    ({"code": 255}, 255, ""),
    ({"code": 300}, 255, ""),
    ({"code": 143, "reason": "timeout", "timeout": 2.0}, 124, "longer than its timeout of 2 s"),
    ({"code": 137, "reason": "oom"}, 137, "ran out of memory"),
    ({"code": 143, "reason": "stopped", "status": "removed"}, 143, "was stopped"),
    ({"code": None, "reason": "stopped", "status": "removed"}, 125, "was stopped"),
    ({"code": None, "reason": None, "status": "removed"}, 125, "its exit code is not known"),
    ({"code": None, "reason": "exit", "error": "why"}, 125, "its exit code is not known"),
    ({"code": None, "reason": "image_not_found", "error": "No such image: x"}, 125, "No such image: x"),
    ({"code": 0, "status": "failed"}, 125, ""),
    ({"code": 3, "error": "task: non-zero exit (3)"}, 3, ""),
    ({"code": 127, "error": 'exec: "nosuchprog": executable file not found'}, 127, 'job-1 failed: exec: "nosuchprog"'),
    ({"code": 1, "error": "task: non-zero exit (1): unhealthy container"}, 1, "unhealthy container"),
]


@pytest.mark.parametrize(("end", "code", "says"), ENDS)
def test_the_exit_code_is_the_job_s(
    end: dict[str, Any], code: int, says: str, fake: FakeServer, tmp_path: Path
) -> None:
    """Or one that says why it has none; what the code does not say is on stderr, in one line at most."""
    with Begun(fake, tmp_path, "run", "busybox") as begun:
        waits_for(fake, "/logs/job-1")
        fake.end(**end)
        assert begun.code() == code
        said = begun.err.read_text()
        assert says in said
        assert said.count("\n") == bool(says)


def test_as_json_it_is_the_last_status(fake: FakeServer, tmp_path: Path) -> None:
    """With the result, on stdout, and nothing of the output; the exit code is still the job's."""
    with Begun(fake, tmp_path, "run", "--json", "busybox") as begun:
        waits_for(fake, "/status/job-1")
        fake.write("job-1", line(1, "one"))
        result = {"exit_code": 3, "stdout": "one\n", "stderr": "", "truncated": False, "tasks": []}
        fake.end(code=3, result=result)
        assert begun.code() == 3
        answer = json.loads(begun.out.read_text())
        assert (answer["id"], answer["status"], answer["result"]) == ("job-1", "failed", result)
        assert asked(fake, "/logs/job-1") == []


def test_it_goes_on_where_the_connection_broke(fake: FakeServer, tmp_path: Path) -> None:
    """Nothing is lost or shown twice, also of lines with one time, and of a line that is not finished."""
    with Begun(fake, tmp_path, "run", "busybox") as begun:
        waits_for(fake, "/logs/job-1")
        fake.write(
            "job-1", line(1, "a"), line(2, "b"), line(2, "b"), line(1, "e", "stderr"), line(3, "c", partial=True)
        )
        begun.shows("c")
        fake.down()
        fake.up()
        fake.write("job-1", line(3, "d"), line(2, "f", "stderr"), line(4, "g"))
        fake.end()
        assert begun.code() == 0
        assert begun.out.read_text() == "a\nb\nb\ncd\ng\n"
        assert begun.err.read_text() == "e\nf\n"


def test_a_line_that_comes_in_other_parts_is_shown_once(fake: FakeServer, tmp_path: Path) -> None:
    """A server that breaks off tells the part of a line that it has; the next one tells the whole line."""
    with Begun(fake, tmp_path, "run", "busybox") as begun:
        waits_for(fake, "/logs/job-1")
        fake.write("job-1", line(1, "a"), line(2, "abc", partial=True))
        begun.shows("abc")
        fake.down()
        fake.jobs["job-1"].lines = [line(1, "a"), line(2, "abcdef"), line(2, "g")]
        fake.up()
        fake.end()
        assert begun.code() == 0
        assert begun.out.read_text() == "a\nabcdef\ng\n"


def test_a_server_that_is_away_for_longer_is_told(fake: FakeServer, tmp_path: Path) -> None:
    """On stderr, once, and when it is back."""
    with Begun(fake, tmp_path, "run", "busybox") as begun:
        waits_for(fake, "/logs/job-1")
        fake.write("job-1", line(1, "a"))
        begun.shows("a")
        fake.down()
        eventually(lambda: "trying again" in begun.err.read_text(), WITHIN)
        fake.up()
        fake.write("job-1", line(2, "b"))
        fake.end()
        assert begun.code() == 0
        assert begun.out.read_text() == "a\nb\n"
        said = begun.err.read_text().splitlines()
        assert len(said) == 2
        assert said[0].startswith("qmaster: nothing answers at ")
        assert said[1] == "qmaster: the server is back"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_output_that_cannot_be_written_is_told(fake: FakeServer) -> None:
    """A full disk: it ends with 125, and says that the job may go on, by its name and how to find it."""
    command = [*COMMAND, "run", "--name", "clock", "busybox"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(command, env=environ(fake), stdout=full, stderr=subprocess.PIPE)
    with process:
        waits_for(fake, "/logs/job-1")
        fake.write("job-1", line(1, "a"))
        assert process.wait(WITHIN) == 125
        assert process.stderr is not None
        assert b"No space left on device; clock may go on: qmaster status job-1 shows it" in process.stderr.read()


def test_a_start_whose_answer_is_lost_is_not_sent_twice(fake: FakeServer, tmp_path: Path) -> None:
    """It may have been started: that is said, with what to do."""
    fake.swallow = True
    with Begun(fake, tmp_path, "run", "busybox") as begun:
        waits_for(fake, "/run")
        fake.cut()
        assert begun.code() == 125
        assert "it may have been started" in begun.err.read_text()
    assert len(asked(fake, "/run")) == 1


def test_output_that_nobody_reads_stops_the_job(fake: FakeServer) -> None:
    """As a local program ends whose pipe is closed; it is not left running unseen."""
    command = [*COMMAND, "run", "busybox"]
    with subprocess.Popen(command, env=environ(fake), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        waits_for(fake, "/logs/job-1")
        assert process.stdout is not None
        process.stdout.close()
        fake.write("job-1", line(1, "a"))
        assert process.wait(WITHIN) == 141
    assert asked(fake, "/stop")[0][2] == {"id": "job-1"}


def test_a_slow_reader_loses_nothing_and_holds_nothing_up(fake: FakeServer) -> None:
    """A pipe that is full is waited for: what comes through is all of it, and Ctrl-C is heard meanwhile."""
    with subprocess.Popen([*COMMAND, "run", "busybox"], env=environ(fake), stdout=subprocess.PIPE) as process:
        waits_for(fake, "/logs/job-1")
        fake.write("job-1", *(line(at, f"{at} " + "x" * 990) for at in range(2000)))
        assert process.stdout is not None
        assert process.stdout.read(2) == b"0 "
        process.send_signal(signal.SIGINT)
        waits_for(fake, "/stop")
        read = b"0 " + process.stdout.read()
        assert [int(text.split()[0]) for text in read.splitlines()] == list(range(2000))
        assert process.wait(WITHIN) == 130


# --- run in a terminal ------------------------------------------------------------------------------------------------


def terminal(fake: FakeServer, folder: Path, *args: str, **more: Any) -> Terminal:
    return Terminal([*COMMAND, *args], environ(fake), folder, **more)


def test_a_terminal_shows_what_it_waits_for(fake: FakeServer, tmp_path: Path) -> None:
    """pending with its reason, preparing on a node, running; all of it gone when the output begins."""
    fake.begins = {"status": "pending", "error": "no suitable node (insufficient resources)", "tasks": []}
    with terminal(fake, tmp_path, "run", "busybox") as screen:
        screen.until("no suitable node (insufficient resources)")
        fake.tell("service.updated", service(status="preparing"))
        screen.until("preparing on worker-1")
        fake.tell("service.running", service())
        screen.until("running on worker-1")
        fake.write("job-1", line(1, "hello"))
        fake.end(code=3, error="task: non-zero exit (3)")
        assert screen.code() == 3
        assert screen.lines == ["hello", ""]


def test_progress_is_no_wider_than_the_terminal(fake: FakeServer, tmp_path: Path) -> None:
    """A longer line would be left behind on the screen; also where the output goes elsewhere."""
    fake.begins = {"status": "pending", "error": "no suitable node " * 20}
    with (
        (tmp_path / "out").open("wb") as out,
        terminal(fake, tmp_path, "run", "busybox", columns=40, stdout=out) as screen,
    ):
        screen.until("no suitable")
        fake.end()
        assert screen.code() == 0
        assert max(len(part) for part in screen.shown.replace("\x1b[K", "\r").split("\r")) < 40


def test_ctrl_c_stops_the_job(fake: FakeServer, tmp_path: Path) -> None:
    """It waits for its end, shows its last words, says so, and ends with 130."""
    fake.stops_end = False
    with terminal(fake, tmp_path, "run", "busybox") as screen:
        waits_for(fake, "/logs/job-1")
        fake.write("job-1", line(1, "hello"))
        screen.until("hello")
        screen.press(CTRL_C)
        screen.until("stopping job-1: a second Ctrl-C does not wait for its end")
        waits_for(fake, "/stop")
        fake.write("job-1", line(2, "last words"))
        fake.end(code=143, status="removed", reason="stopped")
        assert screen.code() == 130
        assert "last words" in screen.lines
        assert "qmaster: job-1 was stopped" in screen.lines


def test_a_job_that_was_given_a_name_is_called_so(fake: FakeServer, tmp_path: Path) -> None:
    """From the first line to the last; where none was given it is its id."""
    fake.stops_end = False
    with terminal(fake, tmp_path, "run", "--name", "clock", "busybox") as screen:
        waits_for(fake, "/logs/job-1")
        screen.press(CTRL_C)
        screen.until("qmaster: stopping clock: ")
        waits_for(fake, "/stop")
        fake.end(code=143, status="removed", reason="stopped")
        assert screen.code() == 130
        assert "qmaster: clock was stopped" in screen.lines


def test_ctrl_c_twice_leaves_the_job(fake: FakeServer, tmp_path: Path) -> None:
    """It ends at once, and says which job it left, and in what state."""
    fake.stops_end = False
    with terminal(fake, tmp_path, "run", "busybox") as screen:
        waits_for(fake, "/logs/job-1")
        screen.press(CTRL_C)
        screen.until("stopping job-1")
        waits_for(fake, "/stop")
        eventually(lambda: fake.asked[-1], WITHIN)
        screen.press(CTRL_C)
        assert screen.code() == 130
        assert "left job-1" in screen.shown


def test_ctrl_c_twice_says_that_it_runs_where_the_stop_got_nowhere(fake: FakeServer, tmp_path: Path) -> None:
    """The server is away: the job goes on."""
    with terminal(fake, tmp_path, "run", "--name", "clock", "busybox") as screen:
        waits_for(fake, "/logs/job-1")
        fake.down()
        screen.until("trying again")
        screen.press(CTRL_C)
        screen.until("stopping clock")
        screen.press(CTRL_C)
        assert screen.code() == 130
        assert "left clock: the server did not take the stop, so it goes on" in screen.shown
        assert asked(fake, "/stop") == []
        fake.up()


def test_sigterm_stops_the_job_too(fake: FakeServer, tmp_path: Path) -> None:
    """As when a build is cancelled: 143."""
    with Begun(fake, tmp_path, "run", "busybox") as begun:
        waits_for(fake, "/logs/job-1")
        begun.process.send_signal(signal.SIGTERM)
        assert begun.code() == 143
        assert len(asked(fake, "/stop")) == 1


# --- stop -------------------------------------------------------------------------------------------------------------


def test_stop_stops_each(fake: FakeServer) -> None:
    """It prints what was accepted; one that is not there does not keep it from the rest, but is told."""
    fake.add(service("job-1"))
    fake.add(service("job-2"))
    done = qmaster(fake, "stop", "job-1", "nothing", "job-2")
    assert (done.returncode, done.stdout) == (1, b"job-1\njob-2\n")
    assert done.stderr == b"qmaster: nothing: no service or container nothing\n"


# --- status, nodes ----------------------------------------------------------------------------------------------------


def test_status_is_a_table(fake: FakeServer) -> None:
    """Aligned, without colours in a pipe, and with nothing cut."""
    command = ["echo", "x" * 200]
    fake.add(service("job-1", status="failed", exit_code=3, command=command, created_at="2026-11-01T00:00:00Z"))
    fake.add(service("job-2", name="a", image="busybox"))
    done = qmaster(fake, "status")
    head, one, two = done.stdout.decode().splitlines()
    assert head.split() == ["NAME", "STATUS", "EXIT", "RUNNING", "AGE", "IMAGE", "COMMAND"]
    assert one.split()[:4] == ["name-of-job-1", "failed", "3", "1/1"]
    assert one.endswith("x" * 200)
    assert two.split()[0] == "a"
    assert {text.index(word) for text, word in ((head, "IMAGE"), (one, "busybox"), (two, "busybox"))} == {
        head.index("IMAGE")
    }


def test_a_terminal_s_table_fits_and_has_colours(fake: FakeServer, tmp_path: Path) -> None:
    """No line is wider than the terminal; NO_COLOR is heeded."""
    fake.add(service("job-1", command=["x" * 300]))
    with terminal(fake, tmp_path, "status", columns=70) as screen:
        assert screen.code() == 0
    assert "\x1b[36mrunning" in screen.shown
    plain = screen.shown.replace("\x1b[36m", "").replace("\x1b[0m", "")
    assert max(map(len, plain.splitlines())) == 70
    with Terminal([*COMMAND, "status"], environ(fake, NO_COLOR="1"), tmp_path) as screen:
        assert screen.code() == 0
    assert "\x1b" not in screen.shown


def test_nothing_that_a_terminal_obeys_gets_through(fake: FakeServer) -> None:
    """A name or a command of somebody else's does not write escape sequences."""
    fake.add(service("job-1", command=["\x1b]0;mine\x07", "a\nb"]))
    shown = qmaster(fake, "status").stdout
    assert b"\x1b" not in shown
    assert shown.count(b"\n") == 2


def test_the_filters_are_the_api_s(fake: FakeServer) -> None:
    """Each is passed on."""
    args = ["--status", "running", "--status", "failed", "--name", "a b", "-l", "x=y", "--limit", "3", "--all"]
    assert qmaster(fake, "status", *args).returncode == 0
    assert fake.asked[0][1] == "/status?status=running&status=failed&name=a+b&label=x%3Dy&limit=3&all=1"
    args = [
        "--owner",
        "",
        "--reason",
        "oom",
        "--image",
        "busybox:1",
        "--since",
        "90m",
        "--until",
        "2026-11-22",
        "--page",
        "x",
    ]
    assert qmaster(fake, "status", "--limit", "0", *args).returncode == 0
    more = "owner=&reason=oom&image=busybox%3A1&since=90m&until=2026-11-22&limit=0&page=x"
    assert fake.asked[1][1] == f"/status?{more}"


def test_a_list_that_is_not_whole_says_so(fake: FakeServer) -> None:
    """With the option that goes on; where only ids are printed, and in the JSON that has it, it is not said."""
    fake.add(service("job-1"))
    fake.next_page = "abc"
    assert qmaster(fake, "status", "--limit", "1").stderr == b"qmaster: there are more: --page abc\n"
    assert qmaster(fake, "status", "--limit", "1", "--quiet").stderr == b""
    assert json.loads(qmaster(fake, "status", "--json").stdout)["next_page"] == "abc"


def test_status_of_one_shows_all(fake: FakeServer) -> None:
    """A line a field, and its tasks."""
    spec = {"image": "busybox", "command": "echo", "env": ["A", "B"], "restart": "any", "replicas": 2, "tmpfs": []}
    fake.add(service("job-1", error="no such thing", labels={"team": "blue"}, spec=spec))
    text = qmaster(fake, "status", "job-1").stdout.decode()
    for words in (
        "id:           job-1",
        "labels:       team=blue",
        "error:        no such thing",
        "1 desired, 1 running",
        "env:          A, B",
        "restart:      any",
    ):
        assert words in text
    assert text.splitlines()[-1].split()[:3] == ["1", "worker-1", "running"]


def test_json_is_the_server_s_answer(fake: FakeServer) -> None:
    """On one line, whole."""
    job = fake.add(service("job-1"))
    (listed,) = json.loads(qmaster(fake, "status", "--json").stdout)["services"]
    one = json.loads(qmaster(fake, "status", "job-1", "--json").stdout)
    assert listed == job.view
    assert one == {"success": True, **job.view}
    assert json.loads(qmaster(fake, "stop", "job-1", "--json").stdout) == {"success": True, "id": "job-1"}
    assert json.loads(qmaster(fake, "nodes", "--json").stdout)["nodes"][0]["hostname"] == "lab"


def test_quiet_is_the_ids(fake: FakeServer) -> None:
    """For `qmaster stop $(qmaster status -q)`."""
    fake.add(service("job-1"))
    fake.add(service("job-2"))
    assert qmaster(fake, "status", "-q").stdout == b"job-1\njob-2\n"


def test_nodes_is_a_table(fake: FakeServer) -> None:
    """With what is reserved, and the leader marked."""
    _, row = qmaster(fake, "nodes").stdout.decode().splitlines()
    assert row.split() == ["lab*", "manager", "ready", "active", "2", "0.5", "4096", "MiB", "250", "MiB", "20.10"]


# --- logs -------------------------------------------------------------------------------------------------------------


def test_logs_is_what_it_wrote(fake: FakeServer) -> None:
    """Each stream to its own; without --follow it ends though the job goes on."""
    fake.add(service("job-1"))
    fake.write("job-1", line(1, "one"), line(2, "two", "stderr"), line(3, "three"))
    done = process(fake, "logs", "job-1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\nthree\n", b"two\n")
    assert process(fake, "logs", "job-1", "--tail", "1").stdout == b"three\n"
    assert process(fake, "logs", "job-1", "--stream", "stderr").stderr == b"two\n"


def test_logs_has_times(fake: FakeServer) -> None:
    """In front of each line, but not within one."""
    fake.add(service("job-1"))
    fake.write("job-1", line(1, "one ", partial=True), line(2, "line"), line(3, "two"))
    lines = process(fake, "logs", "-t", "job-1").stdout.decode().splitlines()
    assert lines == ["2026-11-22T20:29:03.000000001Z one line", "2026-11-22T20:29:03.000000003Z two"]


def test_two_tasks_do_not_share_a_line_of_a_terminal(fake: FakeServer) -> None:
    """Where the first ends without a newline; also where both streams go to one place, and a remark follows."""
    fake.add(service("job-1"))
    unfinished: Any = {"partial": True}
    fake.write(
        "job-1",
        line(1, "one", **unfinished),
        line(2, " and the rest", **unfinished),
        line(3, "two", task="t2", **unfinished),
        line(4, "error", "stderr", task="t3", **unfinished),
        line(5, "a remark", "qmaster", task=None),
    )
    command = [*COMMAND, "logs", "job-1"]
    done = subprocess.run(command, env=environ(fake), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.stdout == b"one and the rest\ntwo\nerror\nqmaster: a remark\n"
    apart = process(fake, "logs", "job-1")
    assert (apart.stdout, apart.stderr) == (b"one and the rest\ntwo", b"error\nqmaster: a remark\n")


def test_logs_as_json_is_a_document_a_line(fake: FakeServer) -> None:
    """As the server tells them, on stdout."""
    fake.add(service("job-1"))
    lines = [line(1, "one"), line(2, "two", "stderr")]
    fake.write("job-1", *lines)
    assert [json.loads(text) for text in process(fake, "logs", "job-1", "--json").stdout.splitlines()] == lines


def test_logs_follows_to_the_end_across_a_break(fake: FakeServer, tmp_path: Path) -> None:
    """After --tail nothing from before comes back."""
    fake.add(service("job-1"))
    fake.write("job-1", line(1, "old"), line(1, "older", "stderr"), line(2, "b"))
    with Begun(fake, tmp_path, "logs", "--follow", "--tail", "1", "job-1") as begun:
        begun.shows("b\n")
        fake.down()
        fake.up()
        fake.write("job-1", line(3, "c"), line(4, "d", "stderr"))
        fake.end()
        assert begun.code() == 0
        assert (begun.out.read_text(), begun.err.read_text()) == ("b\nc\n", "d\n")


def test_ctrl_c_ends_logs_alone(fake: FakeServer, tmp_path: Path) -> None:
    """The job goes on; 130."""
    fake.add(service("job-1"))
    fake.write("job-1", line(1, "one"))
    with terminal(fake, tmp_path, "logs", "-f", "job-1") as screen:
        screen.until("one")
        screen.press(CTRL_C)
        assert screen.code() == 130
        assert "Traceback" not in screen.shown
    assert asked(fake, "/stop") == []


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_are_lines(fake: FakeServer, tmp_path: Path) -> None:
    """When, what, of which, and what matters of it; from now on."""
    fake.tell("service.created", service("old"))
    with Begun(fake, tmp_path, "events", "--service", "job-1", "--topic", "service", "--topic", "task") as begun:
        waits_for(fake, "/events")
        time.sleep(0.1)  # the stream begins where it is asked for
        fake.tell("service.updated", service(status="pending", error="no suitable node", reason="unschedulable"))
        moved = {"slot": 1, "node": "worker-1", "exit_code": 3, "error": None}
        fake.tell("task.failed", service(task=moved))
        fake.tell("service.failed", service(status="failed", reason="exit", exit_code=3))
        begun.shows("service.failed")
        begun.process.send_signal(signal.SIGINT)
        assert begun.code() == 130
        assert [text.split() for text in begun.out.read_text().splitlines()] == [
            [
                "2026-11-22T20:29:03Z",
                "service.updated",
                "name-of-job-1",
                "pending",
                "unschedulable:",
                "no",
                "suitable",
                "node",
            ],
            ["2026-11-22T20:29:03Z", "task.failed", "name-of-job-1", "slot", "1", "worker-1", "exit", "3"],
            ["2026-11-22T20:29:03Z", "service.failed", "name-of-job-1", "exit", "3"],
        ]
        assert begun.err.read_text() == ""
    assert fake.asked[0][1] == "/events?service=job-1&topic=service%2Ctask"


def test_events_resume_by_themselves(fake: FakeServer, tmp_path: Path) -> None:
    """After a break from the last cursor: each once, as CloudEvents with --json."""
    fake.tell("service.created", service("job-1"))
    with Begun(fake, tmp_path, "events", "--json", "--since", f"{EPOCH}:0") as begun:
        begun.shows(f"{EPOCH}:1")
        fake.down()
        fake.tell("service.running", service("job-1"))
        fake.up()
        begun.shows(f"{EPOCH}:2")
        told = [json.loads(text) for text in begun.out.read_text().splitlines()]
        assert told == fake.events
        assert [call[1] for call in fake.asked][-1] == f"/events?since={EPOCH}%3A1"


@pytest.mark.parametrize(
    ("since", "words"),
    [
        ("11111111:5", "what happened after 11111111:5 is not known"),
        ("11111111.abc:5", "another quartermaster continues; it may repeat some changes"),
    ],
)
def test_a_gap_is_told(fake: FakeServer, tmp_path: Path, since: str, words: str) -> None:
    """On stderr; the stream goes on."""
    with Begun(fake, tmp_path, "events", "--since", since) as begun:
        eventually(lambda: words in begun.err.read_text(), WITHIN)
        fake.tell("service.created", service("job-1"))
        begun.shows("service.created")


def test_a_pipe_that_is_closed_ends_events(fake: FakeServer) -> None:
    """Quietly, as `head` wants it."""
    with subprocess.Popen(
        [*COMMAND, "events"], env=environ(fake), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        waits_for(fake, "/events")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        time.sleep(0.1)  # the stream begins where it is asked for
        fake.tell("service.created", service("job-1"))
        assert process.wait(WITHIN) == 141
        assert process.stderr.read() == b""
