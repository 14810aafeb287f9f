"""cli.invoke: a function is called with bytes, and its output is printed as it comes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from api_cases import TOKEN
from call_cases import FakeDispatcher, answer, calls_app, dispatcher, served, url
from commands_cases import ROOT

from qmaster import errors
from qmaster.functions.invocations.invocation import Answer, Call, Chunks

__all__ = ["calls_app", "dispatcher", "served", "url"]

BINARY = bytes(range(256)) * 300


def invoke(url: str, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, as it writes to its descriptors."""
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), "QMASTER_URL": url, "TOKEN": TOKEN}
    command = [sys.executable, "-m", "qmaster", "invoke", *args]
    return subprocess.run(command, env=env, input=stdin, capture_output=True, timeout=60, check=False)


@pytest.mark.slow
def test_bytes_go_in_and_come_out(url: str, dispatcher: FakeDispatcher, tmp_path: Path) -> None:
    """Of a text, of a file, of standard input, or none; nothing is added to them."""
    dispatcher.answers = lambda call: answer(call.payload, "application/octet-stream")
    (tmp_path / "in").write_bytes(BINARY)
    for args, stdin, payload in (
        (("hello", "--data", "grüß"), b"", "grüß".encode()),
        (("hello", "--data", f"@{tmp_path / 'in'}"), b"", BINARY),
        (("hello", "-"), BINARY, BINARY),
        (("hello",), b"not read", b"{}"),
    ):
        done = invoke(url, *args, stdin=stdin)
        assert (done.returncode, done.stdout, done.stderr) == (0, payload, b""), args


@pytest.mark.slow
def test_a_streamed_output_is_whole(url: str, dispatcher: FakeDispatcher) -> None:
    """Or the command fails."""

    def stream(call: Call) -> Answer:
        chunks = Chunks()
        chunks._parts.extend([b"one\n", b"two\n"])
        chunks.end(errors.InstanceDied("died") if call.payload == b"break" else None)
        return answer(b"", "text/plain", chunks=chunks)

    dispatcher.answers = stream
    whole, broken = invoke(url, "hello"), invoke(url, "hello", "--data", "break")
    assert (whole.returncode, whole.stdout) == (0, b"one\ntwo\n")
    assert (broken.returncode, broken.stdout) == (1, b"one\ntwo\n")
    assert b"broke" in broken.stderr


@pytest.mark.slow
def test_a_failure_is_told_with_its_stack(url: str, dispatcher: FakeDispatcher) -> None:
    """Type, message and stack on standard error, and the exit code is 1; nothing that a terminal obeys gets through."""
    dispatcher.fails(errors.FunctionFailed("ValueError", "no\x1b[2J", ['  File "app.py", line 3\n    raise\x07\n']))
    done = invoke(url, "hello")
    lines = done.stderr.decode().splitlines()
    assert (done.returncode, done.stdout) == (1, b"")
    assert lines[0].startswith("qmaster: the function failed: ValueError: no")
    assert lines[1:] == ['    File "app.py", line 3', "      raise\N{REPLACEMENT CHARACTER}"]
    assert "\x1b" not in done.stderr.decode()
    told = json.loads(invoke(url, "hello", "--json").stderr)
    assert (told["reason"], told["error_type"], told["code"]) == ("function_error", "ValueError", 502)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("none",), 1, "no function none"),
        (("hello", "--data", "@/nowhere/x"), 2, "--data: cannot read /nowhere/x: No such file or directory"),
        (("hello", "-", "--data", "x"), 2, "--data and - are two inputs: give one"),
        (("hello", "x"), 2, "'x' is not '-'"),
        ((), 2, "missing argument 'NAME'"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(url: str, args: tuple[str, ...], code: int, says: str) -> None:
    """With the exit code of all commands."""
    done = invoke(url, *args)
    assert (done.returncode, done.stderr.count(b"\n")) == (code, 1)
    assert says.lower() in done.stderr.decode().lower()
