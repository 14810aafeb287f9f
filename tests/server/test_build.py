"""build.sh: what it says, what it keeps short, and when the audit fails."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from testbed import eventually
from testbed.process import run, start
from testbed.server import ROOT, Client

SCRIPT = ROOT / "build.sh"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHOUT = (
    "api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation; while wget -qSO in $api/next 2>head; do "
    "tr a-z A-Z <in >out; wget -qO- --post-file out $api/$(sed -n s/.*Request-Id:.//p head)/response; done"
)
PROGRAM = '#!/bin/sh\nexec {python} "$@"\n'


def call(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A piece of shell that knows the script's functions."""
    head = f"source <(sed '$d' {shlex.quote(str(SCRIPT))})\n"
    command = ["bash", "-c", head + code]
    environ = {"PATH": os.environ["PATH"], **env}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("env", "fails"), [({}, False), ({"CI": "1"}, True), ({"CI": "1", "AUDIT_OFFLINE_OK": "1"}, False)]
)
def test_an_audit_that_asked_nothing_fails_in_ci(env: dict[str, str], fails: bool) -> None:
    """Unless somebody has said that this is fine; everywhere it says so."""
    done = call('nothing_was_asked "the advisories cannot be had here"; echo goes on', **env)
    assert "the advisories cannot be had here: nothing was asked" in done.stderr
    assert (done.returncode, "goes on" in done.stdout) == ((1, False) if fails else (0, True))
    assert ("AUDIT_OFFLINE_OK=1" in done.stderr) == fails


@pytest.mark.slow
def test_an_audit_without_an_index(tmp_path: Path) -> None:
    """pip-audit cannot be installed, so nothing is asked."""
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": "/dev/null"}
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), **nowhere, "CI": "1"}
    done = subprocess.run([SCRIPT, "audit"], env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert "pip-audit cannot be installed here: nothing was asked" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("types", "tests", "code"),
    [(0, 0, 0), (0, 1, 1), (0, 2, 1), (1, 0, 1)],
    ids=["well", "a test", "a crash", "a type"],
)
def test_a_part_that_fails_fails_all(types: int, tests: int, code: int, tmp_path: Path) -> None:
    """Also where it is the type checker's alone, which no test that passes the second time excuses."""
    for part, status in (("types", types), ("first", 0), ("rest", tests)):
        (tmp_path / f"{part}.status").write_text(f"{status}\n")
    rerun = "run_again() { return $((RERUN_FAILS)); }"
    done = call(f"{rerun}; judge {shlex.quote(str(tmp_path))}", RERUN_FAILS=str(int(tests == 1)))
    assert done.returncode == code, done.stderr


def test_our_own_ci_says_that_it_may_have_no_way_out() -> None:
    """So that the audit's failure is a word of somebody's, everywhere else."""
    assert 'AUDIT_OFFLINE_OK=1 "$build" audit\n' in (ROOT / ".ci" / "run").read_text()


def test_the_base_image_has_its_digest() -> None:
    """Beside a tag with the whole version."""
    (base,) = re.findall(r"^ARG BASE=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)


@pytest.mark.slow
def test_the_engines_log_stays_short(tmp_path: Path) -> None:
    """What is too long is moved aside, once; the engine, which has it open, goes on in the same file."""
    log = tmp_path / "dockerd.log"
    code = f"""
    : >{log}
    (for n in {{1..200}}; do echo "a line of the engine"; sleep 0.01; done >>{log}) &
    writer=$!
    keep_short {log} & keeper=$!
    wait $writer; sleep 0.3; kill $keeper
    """
    done = call(code, ENGINE_LOG_CHECK="0.05", ENGINE_LOG_MOST="1000")
    assert done.stderr == ""
    assert log.stat().st_size <= 1000
    assert 1000 < (tmp_path / "dockerd.log.1").stat().st_size < 4000
    assert {path.name for path in tmp_path.iterdir()} == {"dockerd.log", "dockerd.log.1"}
    assert "\0" not in log.read_text()


def clone(folder: Path) -> None:
    """The checkout as links; its virtual environment, which build.sh finds complete, is that of the tests."""
    folder.mkdir()
    for name in ("build.sh", "qmaster", "static", "requirements.txt"):
        (folder / name).symlink_to(ROOT / name)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PROGRAM.format(python=sys.executable))
    python.chmod(0o755)
    stamp = (
        f"{run('cksum', stdin=(ROOT / 'requirements.txt').read_bytes()).strip()} {run(sys.executable, '-V').strip()}\n"
    )
    (folder / ".venv" / "run.stamp").write_text(stamp)


@pytest.mark.engine
@pytest.mark.slow
def test_the_private_engine_takes_images_and_functions(tmp_path: Path) -> None:
    """Its address is printed, for images of one's own; what a container may write is bounded, as is who may read.

    Instances of a function reach the server on their bridge, and nobody else does.
    """
    folder, log = tmp_path / "clone", tmp_path / "log"
    clone(folder)
    (folder / "data" / "engine" / "data").mkdir(parents=True)  # so it is the private one, whatever else there is
    (folder / "data").chmod(0o755)
    for name in ("token", "header"):
        (folder / "data" / name).write_text("x" * 40)
    environ = {"PATH": PATH, "HOME": str(tmp_path), "PORT": str(free_port()), "QMASTER_ADDRESS": "127.0.0.1"}
    environ["QMASTER_RUNTIME_PORT"] = str(free_port())
    process = start([str(folder / "build.sh"), "run"], log, folder, environ)
    try:
        eventually(lambda: "DOCKER_HOST=unix://" in log.read_text(), 90, "it prints the engine's address")
        (host,) = re.findall(r"DOCKER_HOST=(unix://\S+)", log.read_text())

        def docker(*args: str) -> str:
            return run("docker", *args, env={**environ, "DOCKER_HOST": host})

        docker("tag", "busybox:local", "mine:1")
        box = docker("create", "--network", "none", "mine:1", "true").strip()
        bounds = json.loads(docker("inspect", "-f", "{{json .HostConfig.LogConfig}}", box))
        assert bounds == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "10m"}}
        for path in (folder / "data").iterdir():
            assert path.is_dir() or path.stat().st_mode & 0o777 == 0o600, path
        assert "data_dir_open_to_others" in log.read_text()

        client = Client("127.0.0.1", int(environ["PORT"]), "x" * 40)
        fields = {"image": "busybox", "memory": 16, "command": ["sh", "-c", SHOUT]}
        assert client.call("PUT", "/functions/shout", json=fields).status == 201
        assert client.call("POST", "/functions/shout/invoke", body=b"hello").text == "HELLO"
        assert not listens_to_all(int(environ["QMASTER_RUNTIME_PORT"]))
    finally:
        process.terminate()
    assert (folder / "data" / "engine" / "dockerd.log").stat().st_size > 0


def listens_to_all(port: int) -> bool:
    """Whether the port can be reached here: instances reach it on their bridge alone."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
