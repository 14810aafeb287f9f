"""`wait`, `status --watch`, `run --dry-run`, `--env-file`, other names of commands, and bare surroundings."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from commands_cases import environ, qmaster
from fake_server import FakeServer, service
from testbed.terminal import CTRL_C, Terminal
from testbed.wait import eventually

from qmaster.cli import main
from qmaster.cli.options import inputs
from qmaster.errors import ConfigError
from qmaster.models.requests import MAX_STDIN

WITHIN = 30.0  # seconds: a loaded machine's bound, never waited for
COMMAND = [sys.executable, "-m", "qmaster"]


# --- wait -------------------------------------------------------------------------------------------------------------


def test_wait_prints_the_exit_codes_in_order(fake: FakeServer) -> None:
    """And exits with the first that is not 0; it waits for those that go on."""
    for number, over in enumerate(
        [{"status": "complete", "exit_code": 0}, {}, {"status": "failed", "reason": "timeout", "exit_code": 143}]
    ):
        fake.add(service(f"job-{number}", **over))
    threading.Timer(0.3, fake.end, ("job-1", 3)).start()
    done = qmaster(fake, "wait", "job-0", "job-1", "job-2")
    assert (done.returncode, done.stdout) == (3, b"0\n3\n124\n")
    assert done.stderr == b"qmaster: job-2 ran longer than its timeout, and was ended\n"


def test_wait_for_success_is_success(fake: FakeServer) -> None:
    """Also where it had ended before."""
    fake.add(service("job-1", status="complete", exit_code=0))
    done = qmaster(fake, "wait", "job-1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")


def test_what_cannot_be_waited_for_is_told(fake: FakeServer) -> None:
    """125, on a line of its own; the others are waited for."""
    fake.add(service("job-1", status="complete", exit_code=0))
    done = qmaster(fake, "wait", "gone", "job-1")
    assert (done.returncode, done.stdout) == (125, b"0\n")
    assert done.stderr.startswith(b"qmaster: gone: ")
    assert qmaster(fake, "wait").returncode == 125


def test_wait_as_json_is_the_status_with_the_result(fake: FakeServer) -> None:
    """A document for each."""
    fake.add(service("job-1", status="complete", exit_code=0, result={"exit_code": 0, "stdout": "x"}))
    (line,) = qmaster(fake, "wait", "--json", "job-1").stdout.splitlines()
    assert json.loads(line)["result"]["stdout"] == "x"


def test_a_name_is_waited_for_by_its_id(fake: FakeServer) -> None:
    """As another run may get the name."""
    job = fake.add(service("job-1"))
    fake.jobs["nice name"] = job
    threading.Timer(0.3, fake.end, ("job-1", 0)).start()
    assert qmaster(fake, "wait", "nice name").returncode == 0
    paths = [call[1].partition("?")[0] for call in fake.asked]
    assert paths[0] == "/status/nice%20name"
    assert set(paths[1:]) == {"/status/job-1"}


# --- status --watch ---------------------------------------------------------------------------------------------------


class Watching:
    """A `status --watch` whose output is a file."""

    def __init__(self, fake: FakeServer, folder: Path, *args: str) -> None:
        self.out = folder / "out"
        with self.out.open("wb") as out:
            command = [*COMMAND, "status", "--watch", *args]
            self.process = subprocess.Popen(command, env=environ(fake), stdin=subprocess.DEVNULL, stdout=out)

    def __enter__(self) -> "Watching":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def lines(self, number: int) -> list[str]:
        eventually(lambda: self.out.read_bytes().count(b"\n") >= number, WITHIN, "its lines")
        return self.out.read_text().splitlines()

    def leave(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(WITHIN) == 130


@pytest.mark.slow
def test_watch_prints_what_changes(fake: FakeServer, tmp_path: Path) -> None:
    """The table, and then the rows that have changed; across a restart of the server."""
    fake.add(service("job-1"))
    fake.add(service("job-2"))
    with Watching(fake, tmp_path, "--label", "a=b") as watching:
        check_watched(fake, watching)
    asked = [call[1] for call in fake.asked]
    assert {"/status?label=a%3Db", "/events?topic=service&label=a%3Db"} <= set(asked)


def check_watched(fake: FakeServer, watching: Watching) -> None:
    head, *rows = watching.lines(3)
    assert (head.split()[0], [row.split()[:2] for row in rows]) == (
        "NAME",
        [["name-of-job-1", "running"], ["name-of-job-2", "running"]],
    )
    fake.end("job-2", 3)
    fake.tell("service.failed", service("job-2"))
    row = watching.lines(4)[3]
    assert (row.split()[:3], row.index("busybox")) == (["name-of-job-2", "failed", "3"], head.index("IMAGE"))
    fake.down()
    fake.end("job-1", 0)
    fake.tell("service.complete", service("job-1"))
    fake.up()
    assert watching.lines(5)[4].split()[:3] == ["name-of-job-1", "complete", "0"]
    watching.leave()


@pytest.mark.slow
def test_watch_as_json_is_a_document_a_change(fake: FakeServer, tmp_path: Path) -> None:
    """Of one run too, which is known by its id from then on."""
    fake.add(service("job-1"))
    with Watching(fake, tmp_path, "--json", "job-1") as watching:
        assert json.loads(watching.lines(1)[0])["status"] == "running"
        fake.end("job-1", 0)
        fake.tell("service.complete", service("job-1"))
        assert json.loads(watching.lines(2)[1])["status"] == "complete"
        watching.leave()
    assert "/events?service=job-1" in [call[1] for call in fake.asked]


@pytest.mark.slow
@pytest.mark.parametrize("args", [(), ("job-1",)])
def test_a_terminal_is_drawn_anew(fake: FakeServer, tmp_path: Path, args: tuple[str, ...]) -> None:
    """With its newest state on top, cut to its height."""
    for number in range(60):
        fake.add(service(f"job-{number}"))
    with Terminal([*COMMAND, "status", "-w", *args], environ(fake, TERM="xterm"), tmp_path) as screen:
        screen.until("running")
        fake.end("job-1", 3)
        fake.tell("service.failed", service("job-1"))
        screen.until("failed")
        last = screen.shown.rpartition("\x1b[3J")[2]
        assert last.count("\n") <= 24
        screen.press(CTRL_C)
        assert screen.code() == 130


def test_watch_shows_no_ids_alone(fake: FakeServer) -> None:
    """What would change in them?"""
    done = qmaster(fake, "status", "--watch", "--quiet")
    assert (done.returncode, done.stderr) == (2, b"qmaster: status: --watch and --quiet cannot be combined\n")


# --- other names ------------------------------------------------------------------------------------------------------


def test_other_tools_names_work(fake: FakeServer) -> None:
    """With the options of the command that they stand for; `--help` and the shell show the one name."""
    fake.add(service("job-1"))
    assert qmaster(fake, "ps", "-aq").stdout == b"job-1\n"
    assert qmaster(fake, "ls").stdout == qmaster(fake, "status").stdout
    assert qmaster(fake, "rm", "job-1").stdout == b"job-1\n"
    assert fake.asked[-1] == ("POST", "/stop", {"id": "job-1"})
    assert b"Usage: qmaster ps" in qmaster(fake, "ps", "--help").stdout.replace(b"main", b"qmaster")
    assert b"\n  ps " not in qmaster(fake, "--help").stdout
    assert not main.ALIASES.keys() & main.COMMANDS.keys()


OFFERS = {"wa": "wait", "run --env": "--env-file", "run --restart ": "on-failure", "ps --wat": "--watch"}


@pytest.mark.slow
def test_a_shell_completes(tmp_path: Path) -> None:
    """With the lines of docs/cli.md, in a real bash."""
    (tmp_path / "qmaster").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{STARTED}" "$@"\n')
    (tmp_path / "qmaster").chmod(0o755)
    script = ['eval "$(_QMASTER_COMPLETE=bash_source qmaster)"']
    for words in OFFERS:
        begun = words + "''" * words.endswith(" ")  # the word that is to be completed
        script += [
            f"COMP_WORDS=(qmaster {begun})",
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))",
            "_qmaster_completion qmaster",
            'echo "${COMPREPLY[@]}"',
        ]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(main.__file__).parents[2])}
    shell = shutil.which("bash")
    assert shell
    done = subprocess.run([shell, "-c", "\n".join(script)], env=env, capture_output=True, timeout=WITHIN, check=True)
    for offered, line in zip(OFFERS.values(), done.stdout.decode().splitlines(), strict=True):
        assert offered in line.split(), done.stderr


STARTED = "import sys; sys.argv[0] = 'qmaster'; from qmaster.cli.main import main; main()"  # as an installed command


# --- run --dry-run, --env-file ----------------------------------------------------------------------------------------


def test_a_dry_run_prints_what_would_run(fake: FakeServer) -> None:
    """The fields on stdout, warnings on stderr; nothing is started."""
    done = qmaster(fake, "run", "--dry-run", "-m", "64", "busybox", "ls", "a b")
    assert done.returncode == 0, done.stderr
    shown = dict(line.split(":", 1) for line in done.stdout.decode().splitlines())
    assert {name: value.strip() for name, value in shown.items()} == {
        "image": "busybox@sha256:" + "a" * 64,
        "memory": "64",
        "command": "ls 'a b'",
    }
    assert done.stderr == b"qmaster: warning: of the fake\n"
    assert [call[1] for call in fake.asked] == ["/run?dry_run=1"]
    assert json.loads(qmaster(fake, "run", "--dry-run", "--json", "busybox").stdout)["dry_run"] is True
    assert fake.jobs == {}


def test_files_have_variables(fake: FakeServer, tmp_path: Path) -> None:
    """As docker reads them; the later file wins, and `--env` most."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(
        '\ufeff# a comment\n\n  A=1\nB="quoted" \nC=a=b\nHERE\nNOT_SET_HERE\nE=\n  # more\nD=first\nF=first\n'
    )
    second.write_text("D=second\r\nF=second")
    options = ["--env-file", str(first), "--env-file", str(second), "-e", "F=mine"]
    assert qmaster(fake, "run", "-d", *options, "busybox", HERE="from here").returncode == 0
    assert fake.asked[0][2]["env"] == {
        "A": "1",
        "B": '"quoted" ',
        "C": "a=b",
        "HERE": "from here",
        "E": "",
        "D": "second",
        "F": "mine",
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read"),
        (b"A=\xff", "it is not UTF-8"),
        (b"ok=1\nexport A=1\n", "line 2: expected NAME=value; got the name 'export A'"),
        (b"=1\n", "line 1: expected NAME=value"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    fake: FakeServer, tmp_path: Path, content: bytes | None, says: str
) -> None:
    """It names the file and the line; nothing is started."""
    file = tmp_path / "env"
    if content is not None:
        file.write_bytes(content)
    done = qmaster(fake, "run", "--env-file", str(file), "busybox")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (125, b"", 1)
    assert says in done.stderr.decode()
    assert str(file) in done.stderr.decode()
    assert fake.asked == []


def test_a_value_of_this_environment_in_a_file_is_utf8() -> None:
    """As with `--env NAME`."""
    with pytest.raises(ConfigError, match="A is not set in this environment"):
        inputs.environment(["A"], [], {})


# --- run: standard input ----------------------------------------------------------------------------------------------


def piped(fake: FakeServer, data: bytes, *args: str, after: float = 0) -> subprocess.CompletedProcess[bytes]:
    """A run behind a pipe whose writer begins that many seconds later."""
    command = ["sh", "-c", 'sleep "$1"; cat', "sh", str(after)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin
        writer.stdin.write(data)
        writer.stdin.close()
        done = subprocess.run(
            [*COMMAND, "run", "-d", *args, "busybox", "cat"],
            env=environ(fake),
            stdin=writer.stdout,
            capture_output=True,
            timeout=WITHIN,
            check=False,
        )
        writer.kill()
        return done


@pytest.mark.slow
def test_what_is_piped_in_is_the_containers(fake: FakeServer) -> None:
    """All of it, also where it comes late."""
    assert piped(fake, "grüße\r\n".encode(), "--type", "container", "-i", after=0.5).returncode == 0
    assert fake.asked[0][2] == {"image": "busybox", "command": ["cat"], "type": "container", "stdin": "grüße\r\n"}


@pytest.mark.slow
def test_a_file_is_the_containers_too(fake: FakeServer, tmp_path: Path) -> None:
    """Without an option: it has data when the command begins. A service is told that it takes none."""
    (tmp_path / "file").write_bytes(b"from a file")
    for args, code in ((["--type", "container"], 0), ([], 125)):
        with (tmp_path / "file").open("rb") as file:
            command = [*COMMAND, "run", "-d", *args, "busybox"]
            done = subprocess.run(
                command, env=environ(fake), stdin=file, capture_output=True, timeout=WITHIN, check=False
            )
        assert done.returncode == code, done.stderr
    assert done.stderr.startswith(b"qmaster: standard input has data, which a service cannot take")
    assert [call[2].get("stdin") for call in fake.asked] == ["from a file"]


@pytest.mark.parametrize(
    ("stdin", "args", "says"),
    [
        ("x" * (MAX_STDIN + 1), ["-i"], f"at most {MAX_STDIN} bytes"),
        ("x", ["-i", "--auth-file", "-"], "both read standard input"),
    ],
)
def test_standard_input_that_cannot_be_passed_is_one_line(
    fake: FakeServer, stdin: str, args: list[str], says: str
) -> None:
    """Before anything is asked for."""
    done = qmaster(fake, "run", "--type", "container", *args, "busybox", stdin=stdin)
    assert (done.returncode, done.stderr.count(b"\n"), fake.asked) == (125, 1, [])
    assert says in done.stderr.decode()


# --- bare surroundings ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("args", [("ps",), ("run", "-d", "busybox")])
def test_it_needs_nothing_of_its_surroundings(fake: FakeServer, args: tuple[str, ...]) -> None:
    """LANG=C, no HOME, and closed standard descriptors; a name that is not ASCII is shown as it can be."""
    fake.add(service("job-1", name="größer", status="complete", exit_code=0))
    kept = {name: value for name, value in environ(fake).items() if name != "HOME"}
    env = {**kept, "LANG": "C", "LC_ALL": "C"}
    done = subprocess.run([*COMMAND, *args], env=env, capture_output=True, timeout=WITHIN, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    closed: dict[str, Any] = {"env": env, "timeout": WITHIN, "check": False}
    assert subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND, *args], **closed).returncode == 0
