"""entrypoint.sh: which folder becomes the user's, and whose socket's group it joins; in an image: test_image.py."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOCKET, DATA = "/var/run/docker.sock", "./data"
# Stand-ins for the programs that want root. `stat` finds no file for an address such as tcp://.
PROGRAMS = {
    "id": 'case $* in -u) echo 0 ;; -G) echo "0 5" ;; *) echo 10001 ;; esac',
    "stat": 'case $3 in /*) echo "group-of-$3" ;; *) exit 1 ;; esac',
    "mkdir": "exit 0",
    "chown": 'echo "data $3"',
    "getent": "echo quartermaster:x:10001:10001::/home/quartermaster:/bin/false",
    "setpriv": 'echo "groups $6"; shift 8; echo "runs $*"',
}


@pytest.fixture
def entrypoint(tmp_path: Path) -> Path:
    for name, text in PROGRAMS.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "env", "data", "socket"),
    [
        ("", {}, DATA, SOCKET),
        ("", {"QMASTER_DATA_DIR": ""}, DATA, SOCKET),
        ("", {"QMASTER_DATA_DIR": "/data", "DOCKER_HOST": "unix:///run/d.sock"}, "/data", "/run/d.sock"),
        ("--port 80", {"QMASTER_DATA_DIR": "/data"}, "/data", SOCKET),
        ("--data-dir /flag --docker-host unix:///f.sock", {"QMASTER_DATA_DIR": "/data"}, "/flag", "/f.sock"),
        ("--docker-host=unix:///f.sock --data-dir=/flag", {"DOCKER_HOST": "unix:///run/d.sock"}, "/flag", "/f.sock"),
        ("run --network host busybox --data-dir /etc --docker-host=unix:///x", {}, DATA, SOCKET),
        ("--json run busybox ls --data-dir /etc", {}, DATA, SOCKET),
        ("--docker-host tcp://engine:2375", {}, DATA, None),
    ],
)
def test_the_folder_and_the_socket_are_those_of_the_options(
    entrypoint: Path, words: str, env: dict[str, str], data: str, socket: str | None
) -> None:
    """The flag, else the variable, else the default; a command's own arguments are not read."""
    asked = ["python", "-m", "qmaster", *words.split()]
    path = f"{entrypoint}:/usr/bin:/bin"
    done = subprocess.run(
        [ROOT / "entrypoint.sh", *asked], env={"PATH": path, **env}, capture_output=True, text=True, check=True
    )
    group = f"group-of-{socket}" if socket else "10001"
    assert done.stdout.splitlines() == [f"data {data}", f"groups 5,{group}", f"runs {' '.join(asked)}"]
    assert done.stderr == ""
