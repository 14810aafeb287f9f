"""The wheel, installed and used outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qmaster import __version__

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout with what is here; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it is installed into; what it depends on is that of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    command = [*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


def run(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "HOME": str(folder)}
    return subprocess.run(
        command, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    """Every module of it and the status page, and nothing else of the checkout."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "qmaster").rglob("*.py")} <= names
    assert {f"qmaster/{path.relative_to(ROOT)}" for path in (ROOT / "static").iterdir()} <= names
    assert {name.partition("/")[0] for name in names} == {"qmaster"}


def test_the_installed_command_is_qmaster(installed: Path, tmp_path: Path) -> None:
    """It is what ``python -m qmaster`` is, without the checkout; it serves, and asks."""
    qmaster = str(installed / "bin" / "qmaster")
    where = run(installed, tmp_path, sys.executable, "-c", "import qmaster; print(qmaster.__file__)")
    assert where.stdout.startswith(str(installed))
    assert run(installed, tmp_path, qmaster, "--version").stdout.split()[-1] == __version__
    serving = run(installed, tmp_path, qmaster)
    assert (serving.returncode, serving.stderr.partition(":")[0]) == (2, "qmaster")
    asking = run(installed, tmp_path, qmaster, "status", "--url", "http://127.0.0.1:9", "--token-file", "/dev/null")
    assert (asking.returncode, asking.stderr.count("\n")) == (2, 1)
    assert "Usage: qmaster run" in run(installed, tmp_path, qmaster, "run", "--help").stdout
