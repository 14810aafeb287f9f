"""Clients that others' generators make of `/openapi.json` run jobs on a real server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testbed import Server, npm
from testbed.server import ROOT

CLIENTS = ROOT / "tests" / "clients"
BIN = Path(sys.executable).parent


def command(*argv: str | Path, folder: Path, **env: str) -> str:
    """Its output; where it fails, the test does with what it said."""
    environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **env}
    done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture
def document(shared: Server, tmp_path: Path) -> Path:
    """The description of the API, as it is served."""
    path = tmp_path / "openapi.json"
    path.write_text(shared.call("GET", "/openapi.json", token=False).text)
    return path


def check(printed: str) -> None:
    answers: dict[str, Any] = json.loads(printed)
    assert 0 < answers.pop("took") < 30
    assert answers == {"output": "42\n", "same": True, "listed": [True], "refused": 400, "protocol": "qmaster.v1"}


def test_a_python_client_runs_jobs(shared: Server, document: Path) -> None:
    """openapi-python-client makes it without a warning, told what it does not know: the media type of AWS' streams."""
    folder = document.parent
    options: list[str | Path] = ["--path", document, "--output-path", folder / "quartermaster_client", "--meta", "none"]
    options += ["--config", CLIENTS / "config.yaml"]
    command("openapi-python-client", "generate", *options, "--fail-on-warning", folder=folder)
    check(command(sys.executable, CLIENTS / "job.py", shared.url, shared.token, folder=folder, PYTHONPATH=str(folder)))


def test_a_typescript_client_runs_jobs(shared: Server, document: Path) -> None:
    """openapi-typescript makes its types; the compiler, strict, finds nothing wrong with how they are used."""
    folder = document.parent
    shutil.copy(CLIENTS / "job.ts", folder)
    tools = npm.modules(CLIENTS, "--ignore-scripts") / ".bin"
    command(tools / "openapi-typescript", document, "--output", "schema.d.ts", folder=folder)
    options = ["--strict", "--noEmitOnError", "--module", "nodenext", "--target", "es2022", "--lib", "es2022,dom"]
    options += ["--skipDefaultLibCheck"]  # the compiler's own files
    command(tools / "tsc", *options, "job.ts", folder=folder)
    check(command("node", "job.js", shared.url, shared.token, folder=folder))
