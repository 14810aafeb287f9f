"""What tests of several modules share."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_server import TOKEN, FakeServer

from qmaster.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


def environ(fake: FakeServer, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    env = {**kept, "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT), "QMASTER_URL": fake.url, "TOKEN": TOKEN, **more}
    return {name: value for name, value in env.items() if value}


def qmaster(fake: FakeServer, *args: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[bytes]:
    """Run it to its end, in this process: a hundred of their own would take a minute."""
    env = dict.fromkeys(("TOKEN_FILE", "QMASTER_AUTH", "NO_COLOR")) | environ(fake, **more)
    env |= {name: "" for name, value in more.items() if not value}
    done = CliRunner().invoke(main.main, args, input=stdin, env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout_bytes, done.stderr_bytes)
