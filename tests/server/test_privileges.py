"""What is said of a socket, a folder or a user that cannot be used; the step from root itself is shown by the image."""

import ctypes
import os
import pwd
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qmaster.engine import Endpoint
from qmaster.errors import ConfigError
from qmaster.server import privileges


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Path]:
    """A socket."""
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        yield path


@pytest.fixture
def a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks as if it were not root, also where it is."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("a_user")
def test_a_user_stays_who_they_are(listening: Path, tmp_path: Path) -> None:
    """What is theirs is enough: no such user is needed, and the folder is made."""
    privileges.settle("nobody-knows-this-user", listening, tmp_path / "new" / "data")
    assert (tmp_path / "new" / "data").is_dir()


@pytest.mark.usefixtures("a_user")
def test_an_engine_elsewhere_needs_no_socket(tmp_path: Path) -> None:
    """Only the folder is looked at."""
    privileges.settle("quartermaster", None, tmp_path)


@pytest.mark.usefixtures("a_user")
def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    """How it is mounted is said."""
    with pytest.raises(ConfigError, match=f"-v {tmp_path}/none:{tmp_path}/none"):
        privileges.settle("quartermaster", tmp_path / "none", tmp_path)


@pytest.mark.usefixtures("a_user")
def test_what_is_no_socket(tmp_path: Path) -> None:
    """The engine makes a folder of what it does not find."""
    with pytest.raises(ConfigError, match="is no socket"):
        privileges.settle("quartermaster", tmp_path, tmp_path)


@pytest.mark.usefixtures("a_user")
@pytest.mark.parametrize(
    ("mode", "groups", "says"),
    [
        (0o660, set(), "start with --group-add "),
        (0o600, set(), "open to its owner alone: start with -"),
        (0o660, {os.getegid()}, "label=disable"),
    ],
)
def test_a_socket_of_others(
    listening: Path, monkeypatch: pytest.MonkeyPatch, mode: int, groups: set[int], says: str
) -> None:
    """The group is named where it has the right, else the owner; with the group, something else forbids it."""
    listening.chmod(mode)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != listening)
    monkeypatch.setattr(os, "getegid", lambda: 1 << 20)
    monkeypatch.setattr(os, "getgroups", lambda: sorted(groups))
    with pytest.raises(ConfigError, match=says):
        privileges.settle("quartermaster", listening, listening.parent)


@pytest.mark.usefixtures("a_user")
def test_a_folder_above_the_socket_that_is_closed(listening: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at before the socket: its group would help nobody."""
    closed = {listening.parent}

    def access(path: Path, mode: int) -> bool:
        """A folder may be read where it may not be gone through."""
        return path != listening and not (mode == os.X_OK and path in closed)

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(ConfigError, match=f": the folder {listening.parent} .* is closed to it: open it"):
        privileges.settle("quartermaster", listening, listening.parent)
    hidden = listening.parent / "hidden" / "docker.sock"
    with pytest.raises(ConfigError, match=f": the folder {listening.parent} .* is closed to it: open it"):
        privileges.settle("quartermaster", hidden, listening.parent)
    closed.add(listening.parent.parent)
    for socket_ in (listening, hidden):
        with pytest.raises(ConfigError, match=f": the folder {listening.parent.parent} .* is closed to it: open it"):
            privileges.settle("quartermaster", socket_, listening.parent)


@pytest.mark.usefixtures("a_user")
def test_a_folder_that_is_not_there_is_not_closed(tmp_path: Path) -> None:
    """It is said that there is no socket."""
    with pytest.raises(ConfigError, match=f"--docker-host: no socket at {tmp_path}/none/docker.sock"):
        privileges.settle("quartermaster", tmp_path / "none" / "docker.sock", tmp_path)


@pytest.mark.usefixtures("a_user")
def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file is in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--data-dir: user 1000 cannot write to"):
        privileges.settle("quartermaster", None, tmp_path / "file")


def test_root_becomes_only_whom_the_system_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is none is an error, not root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match="--user: there is no user 'nobody-knows-this-user'"):
        privileges.settle("nobody-knows-this-user", None, tmp_path)


@pytest.mark.parametrize(("groups", "kept"), [({9}, [7, 9]), ({0}, [0, 7])])
def test_root_goes_step_by_step(monkeypatch: pytest.MonkeyPatch, groups: set[int], kept: list[int]) -> None:
    """Its groups first, the user id last, and then no way back; root's own group stays where the socket is of it."""
    done: list[tuple[Any, ...]] = []
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda given, name=name: done.append((name, given)))
    monkeypatch.setattr(os, "getgroups", lambda: [0, 7])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(prctl=lambda *given: done.append(given)))
    monkeypatch.setenv("HOME", "/root")
    privileges._become(pwd.struct_passwd(("theirs", "x", 1001, 1002, "", "/theirs", "")), groups)
    assert done == [("setgroups", kept), ("setgid", 1002), ("setuid", 1001), (38, 1, 0, 0, 0)]
    assert os.environ["HOME"] == "/theirs"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("", Path("/var/run/docker.sock")),
        ("unix:///run/user/1000/docker.sock", Path("/run/user/1000/docker.sock")),
        ("tcp://10.0.0.1:2375", None),
        ("ssh://user@10.0.0.1", None),
    ],
)
def test_where_the_socket_is(host: str, expected: Path | None) -> None:
    """As the docker command reads the engine's address."""
    assert Endpoint.read(host, {}).socket == expected
