"""The command line in a real terminal: a real server, on a real engine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testbed import Bed, Engine, Server, eventually
from testbed.server import ROOT
from testbed.terminal import CTRL_C, Terminal

QMASTER = [sys.executable, "-m", "qmaster"]
WARNING = "qmaster: warning: "  # of an engine that ignores a part of what is the default
WITHIN = 90.0  # seconds: a loaded machine's bound, never waited for
IMAGE = "busybox:local"
GENTLE = "trap 'exit 0' TERM"
NAP = "while :; do sleep 0.1; done"


def environ(server: Server) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), "QMASTER_URL": server.url, "TOKEN": server.token}


def terminal(server: Server, folder: Path, *args: str) -> Terminal:
    return Terminal([*QMASTER, *args], environ(server), folder)


def qmaster(server: Server, *args: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*QMASTER, *args],
        env=environ(server),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=WITHIN,
        check=False,
    )


def shell(script: str, *options: str) -> list[str]:
    """The words of a run of a script."""
    return ["run", "--memory", "16", *options, IMAGE, "sh", "-c", script]


def only(server: Server) -> Any:
    """The one run that is there."""
    (found,) = server.call("GET", "/status")["services"]
    return found


def test_a_run_in_a_terminal(shared: Server, tmp_path: Path) -> None:
    """It shows what it waits for; then the output alone; and it ends with the job's exit code."""
    with terminal(shared, tmp_path, *shell("sleep 2; echo hello; echo error >&2; exit 7")) as screen:
        screen.until("running on", WITHIN)
        assert screen.code(WITHIN) == 7
        assert sorted(line for line in screen.lines if not line.startswith(WARNING)) == ["", "error", "hello"]


def test_ctrl_c_ends_what_waits_for_a_node(shared: Server, tmp_path: Path) -> None:
    """The terminal says why it waits; Ctrl-C removes it: 130."""
    with terminal(shared, tmp_path, *shell("true", "--constraint", "node.labels.never==so")) as screen:
        screen.until("no suitable node", WITHIN)
        service = only(shared)["id"]
        screen.press(CTRL_C)
        assert screen.code(WITHIN) == 130
        assert f"qmaster: stopping {service}" in screen.shown
    assert shared.status(service)["status"] == "removed"


@pytest.mark.parametrize("kind", ["service", "container"])
def test_ctrl_c_stops_a_job(kind: str, shared: Server, tmp_path: Path) -> None:
    """Its last words are shown; it is gone; 130."""
    script = f"trap 'echo last words; exit 3' TERM; echo ready; {NAP}"
    with terminal(shared, tmp_path, *shell(script, "--type", kind)) as screen:
        screen.until("ready\r\n", WITHIN)
        service = only(shared)["id"]
        screen.press(CTRL_C)
        assert screen.code(WITHIN) == 130
        assert "last words" in screen.lines
        assert screen.lines[-2].endswith("was stopped")
    ended = shared.status(service)
    assert (ended["status"], ended["reason"], ended["exit_code"]) == ("removed", "stopped", 3)


def test_ctrl_c_twice_leaves_it(shared: Server, tmp_path: Path) -> None:
    """At once, though the job takes its time; it says which one."""
    with terminal(shared, tmp_path, *shell(f"trap '' TERM; echo ready; {NAP}")) as screen:
        screen.until("ready\r\n", WITHIN)
        service = only(shared)["id"]
        screen.press(CTRL_C)
        eventually(lambda: shared.status(service)["status"] == "stopping", WITHIN)
        screen.press(CTRL_C)
        assert screen.code(WITHIN) == 130
        assert f"qmaster: left {service}" in screen.shown
    assert shared.status(service)["status"] in ("stopping", "removed")  # the end of its grace period may be near


def test_ctrl_c_twice_leaves_it_running_where_the_server_is_gone(bed: Bed, engine: Engine, tmp_path: Path) -> None:
    """It says so, and it does run."""
    server = bed.server(engine.host)
    server.start()
    try:
        with terminal(server, tmp_path, *shell(f"{GENTLE}; echo ready; {NAP}")) as screen:
            screen.until("ready\r\n", WITHIN)
            service = only(server)["id"]
            server.kill()
            screen.until("trying again", WITHIN)
            screen.press(CTRL_C)
            screen.until("stopping", WITHIN)
            screen.press(CTRL_C)
            assert screen.code(WITHIN) == 130
            assert "the server did not take the stop" in screen.shown
        server.start()
        eventually(lambda: server.status(service).json.get("status") == "running", WITHIN)
    finally:
        server.kill()


def test_bytes_go_through_a_pipe(shared: Server, engine: Engine) -> None:
    """Without a newline at the end, with NUL and escape sequences, and 3 MB on one line; each stream to its own.

    Docker's json-file driver replaces what is not UTF-8; of another driver that comes as it is, too.
    """
    script = "printf 'a\\000b\\r\\n\\033[31mred'; head -c 3000000 /dev/zero | tr '\\0' x; printf 'no newline' >&2"
    done = qmaster(shared, *shell(script, "--type", "container"))
    assert (done.returncode, done.stderr) == (0, b"no newline")
    assert done.stdout == b"a\0b\r\n\x1b[31mred" + b"x" * 3_000_000
    client: Any = engine.client()
    template = {
        "ContainerSpec": {"Image": IMAGE, "Command": ["sh", "-c", "printf '\\377\\376\\n\\000\\303'"]},
        "RestartPolicy": {"Condition": "none"},
        "LogDriver": {"Name": "local"},
    }
    foreign = client.create_service(template, name="of-another-driver")["ID"]
    eventually(lambda: shared.status(foreign).json.get("status") == "complete", WITHIN)
    assert qmaster(shared, "logs", foreign).stdout == b"\xff\xfe\n\0\xc3"


@pytest.mark.patient
def test_a_run_goes_on_across_restarts_of_the_server(bed: Bed, engine: Engine, tmp_path: Path) -> None:
    """One in order and one by SIGKILL: every line once, and the exit code."""
    server = bed.server(engine.host)
    server.start()
    script = (
        "i=0; while [ $i -lt 80 ]; do echo $i; [ $((i % 10)) = 5 ] && echo $i >&2; i=$((i+1)); sleep 0.1; done; exit 9"
    )
    try:
        out, err = tmp_path / "out", tmp_path / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen([*QMASTER, *shell(script)], env=environ(server), stdout=stdout, stderr=stderr)
        with process:
            eventually(lambda: b"\n10\n" in out.read_bytes(), WITHIN)
            server.restart()
            eventually(lambda: b"\n40\n" in out.read_bytes(), WITHIN)
            server.kill()
            server.start()
            assert process.wait(WITHIN) == 9
        assert out.read_text().split() == [str(i) for i in range(80)]
        written = [text for text in err.read_text().splitlines() if not text.startswith("qmaster: ")]
        assert written == [str(i) for i in range(80) if i % 10 == 5]
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (shell(f"{GENTLE}; {NAP}", "--timeout", "1"), 124, b"longer than its timeout of 1 s"),
        (["run", "--memory", "16", "missing:1"], 125, b"missing:1"),
        (["run", "--memory", "5", IMAGE], 125, b"memory"),
        (shell("exit 255", "--type", "container"), 255, b""),
        (["run", "--memory", "16", IMAGE, "nosuchprog"], 127, b"executable file not found"),
    ],
)
def test_exit_codes(words: list[str], code: int, says: bytes, shared: Server) -> None:
    """After its timeout, without one of its own, of a refusal, of a signal, of a program that is not there."""
    done = qmaster(shared, *words)
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert says in done.stderr


def test_a_run_as_json_is_a_function_call(shared: Server) -> None:
    """Its result is in what it prints."""
    done = qmaster(shared, "run", "--json", *shell("echo 42; echo no >&2; exit 2")[1:])
    assert done.returncode == 2
    assert all(line.startswith(WARNING) for line in done.stderr.decode().splitlines())
    assert json.loads(done.stdout)["result"] == {
        "exit_code": 2,
        "stdout": "42\n",
        "stderr": "no\n",
        "truncated": False,
        "tasks": [],
    }


def test_the_other_commands(shared: Server, tmp_path: Path) -> None:
    """A run in the background: seen, read, and stopped."""
    with (tmp_path / "events").open("wb") as out:
        watching = subprocess.Popen(
            [*QMASTER, "events", "--json", "--topic", "service"], env=environ(shared), stdout=out
        )
    with watching:
        started = qmaster(shared, *shell(f"{GENTLE}; echo one; echo two; {NAP}", "-d", "--name", "nap"))
        service = started.stdout.decode().strip()
        eventually(lambda: qmaster(shared, "logs", "nap").stdout == b"one\ntwo\n", WITHIN)
        assert qmaster(shared, "logs", "nap", "--tail", "1").stdout == b"two\n"
        assert qmaster(shared, "status").stdout.decode().splitlines()[1].split()[:2] == ["nap", "running"]
        assert f"id:           {service}" in qmaster(shared, "status", "nap").stdout.decode()
        assert b"manager" in qmaster(shared, "nodes").stdout
        follower = subprocess.Popen([*QMASTER, "logs", "-f", "nap"], env=environ(shared), stdout=subprocess.PIPE)
        with follower:
            assert qmaster(shared, "stop", "nap").stdout.decode().strip() == service
            assert follower.wait(WITHIN) == 0
            assert follower.stdout is not None
            assert follower.stdout.read() == b"one\ntwo\n"
        eventually(lambda: b"service.removed" in (tmp_path / "events").read_bytes(), WITHIN)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(WITHIN) == 130
        told = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
        assert {event["subject"] for event in told} == {service}
