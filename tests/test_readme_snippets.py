"""The README's snippets do what it says: its shell blocks are run in their order, as a reader would, and its programs.

A block that cannot be run as it stands has its way in a table here, with the reason. Only addresses, tokens and the
names of images are put in; an id that the README shows as an answer becomes the one that was answered.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from conftest import StartServer
from playwright.sync_api import Page
from snippets import PROGRAMS, SHELL, SHOWN, Block, blocks
from testbed import Engine, Registry, Server, eventually
from testbed.browser import Chromium
from testbed.process import Process, run, start
from testbed.server import ADDRESS, ROOT, free_port
from testbed.subscriber import Subscriber

Json = dict[str, Any]

IMAGE = "busybox:local"
SAMPLE_TOKEN = "4jrs8-534js-345ds-3lrd0"
LINES = 20
SERVE = "./build.sh run"
# The first line of what is not run here: why, and the test or script that shows it.
ELSEWHERE = {
    "./build.sh test": ("it would run these tests within themselves", ".ci/run"),
    "docker run -d -e TOKEN -p 9090:9090 -v /var/run/docker.sock:/var/run/docker.sock quartermaster": (
        "there is no image yet, as the README says",
        "README.md",
    ),
    "printf '%s' \"$TOKEN\" | docker secret create quartermaster-token -": (
        "there is no image yet, as the README says",
        "README.md",
    ),
}
# The first line of what the server must not run for.
STOPPED = ("mkdir data/replaced",)
# A stream has no end: it is read until something has come.
CURL = """#!/bin/bash
case " $* " in
  *' -N '*) ;;
  *) exec {curl} -sS --fail-with-body "$@" ;;
esac
{curl} -sS --fail-with-body --dump-header head.out "$@" >stream.out &
until [[ -s stream.out ]]; do
  kill -0 $! 2>/dev/null || break
  sleep 0.05
done
kill $! 2>/dev/null
cat stream.out
head -n 1 head.out | grep -q ' 200 '
"""
PROGRAM = """#!/bin/sh
exec {python} {arguments} "$@"
"""


class Reader:
    """Someone with a clone of the repository, who types what the README says."""

    def __init__(self, folder: Path, engine: Engine, images: dict[str, str]) -> None:
        self.port = free_port()
        self.images = images
        self.folder = folder / "clone"
        self.ids: dict[str, str] = {}
        self._log = folder / "served.log"
        self._served: Process | None = None
        self._clone()
        self._env = {
            "PATH": f"{folder / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "DOCKER_HOST": engine.host,
            "PORT": str(self.port),
            "QMASTER_ADDRESS": ADDRESS,
            "QMASTER_URL": f"http://{ADDRESS}:{self.port}",
        }
        self._command("curl", CURL.format(curl=shutil.which("curl")))
        self._command("qmaster", PROGRAM.format(python=sys.executable, arguments="-m qmaster"))
        self._env["PYTHONPATH"] = str(ROOT)

    def _clone(self) -> None:
        """The checkout as links; its virtual environment, which build.sh finds complete, is that of the tests."""
        self.folder.mkdir()
        for name in ("build.sh", "qmaster", "static", "requirements.txt"):
            (self.folder / name).symlink_to(ROOT / name)
        python = self.folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        _write_program(python, PROGRAM.format(python=sys.executable, arguments=""))
        pinned = (ROOT / "requirements.txt").read_bytes()
        stamp = f"{run('cksum', stdin=pinned).strip()} {run(sys.executable, '-V').strip()}\n"
        (self.folder / ".venv" / "run.stamp").write_text(stamp)

    def _command(self, name: str, text: str) -> None:
        bin_folder = self.folder.parent / "bin"
        bin_folder.mkdir(exist_ok=True)
        _write_program(bin_folder / name, text)

    @property
    def token(self) -> str:
        """What build.sh has made."""
        return (self.folder / "data" / "token").read_text().strip()

    def serve(self) -> None:
        """Type the first block, and wait until it serves."""
        process = self._served = start(SERVE.split(), self._log, self.folder, self._env)

        def ready() -> bool:
            assert process.alive, self._log.read_text()
            address = f"http://{ADDRESS}:{self.port}/readyz"
            return subprocess.run(["curl", "-fsS", address], capture_output=True, check=False).returncode == 0

        eventually(ready, 30, "build.sh serves", every=0.1)

    def stop(self) -> None:
        if self._served:
            assert self._served.terminate() == 0, self._log.read_text()[-2000:]
            self._served = None

    def leave(self) -> None:
        if self._served:
            self._served.kill()

    def type(self, block: Block) -> str:
        """The output of a block; what it answers is known from then on. Fails where a command of it does."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.put_in(block.text)],
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"README.md:{block.line}: {done.stdout}{done.stderr}"
        return done.stdout

    def put_in(self, text: str) -> str:
        """The text with what is different here."""
        text = text.replace("localhost:9090", f"{ADDRESS}:{self.port}").replace(SAMPLE_TOKEN, self.token)
        for name, here in {**self.images, **self.ids}.items():
            text = re.sub(rf"(?<![\w/-]){re.escape(name)}(?![\w:/-])", here, text)
        return text


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def reader(tmp_path: Path, engine: Engine, registry: Registry) -> Iterator[Reader]:
    private = registry.push(engine, name="private-image:1")
    reader = Reader(tmp_path, engine, {"busybox": IMAGE, "user/image": IMAGE, "user/private-image": private})
    yield reader
    reader.leave()


def test_each_block_is_run_or_shown_elsewhere() -> None:
    """Nothing is skipped in silence: a block in an unknown language, or a way that no block takes, fails."""
    found = blocks()
    assert {block.language for block in found} <= {*SHELL, *PROGRAMS, *SHOWN}
    shell = [block.first for block in found if block.language in SHELL]
    assert {SERVE, *ELSEWHERE, *STOPPED} <= set(shell)
    assert len([first for first in shell if first in ELSEWHERE]) == len(ELSEWHERE)
    for reason, shown in ELSEWHERE.values():
        path, _, test = shown.partition("::")
        assert reason
        assert f"def {test}(" in (ROOT / path).read_text() if test else (ROOT / path).exists()
    assert sorted(block.language for block in found if block.language in PROGRAMS) == ["js", "python"]


@pytest.mark.timeout(300)
def test_the_shell_blocks(reader: Reader) -> None:
    """Each does what it says, from the first call on; what is shown as its answer has the keys of the real one."""
    said = ""
    for block in blocks():
        if block.language == "json" and said:
            check_answer(reader, block, said)
        said = ""
        if block.language not in SHELL or block.first in ELSEWHERE:
            continue
        if block.first == SERVE:
            reader.serve()
            continue
        if block.first in STOPPED:
            reader.stop()
            reader.type(block)
            reader.serve()
            continue
        said = reader.type(block)


def check_answer(reader: Reader, block: Block, said: str) -> None:
    """An answer that the README shows after a call is like the one that came; its id is known from now on."""
    shown, came = json.loads(block.text), json.loads(said.splitlines()[-1])
    assert list(shown) == list(came), f"README.md:{block.line}"
    assert len(shown["id"]) == len(came["id"]), f"README.md:{block.line}"
    reader.ids[shown["id"]] = came["id"]
