"""The step from root to a user, once, at the start: with the group of the engine's socket, without capabilities."""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import sys
from pathlib import Path

from ..errors import ConfigError

PR_SET_NO_NEW_PRIVS = 38  # prctl(2)


def settle(user: str, socket: Path | None, folder: Path) -> None:
    """Become that user if this process is root, and see to it that its socket and its folder can be used.

    As another user than root nothing is changed, only looked at. A group of the process is kept, except root's.

    Args:
        user: a name that the system knows.
        socket: the engine's socket; None where the engine is elsewhere.
        folder: the data folder; made if missing, and the user's from then on.

    Raises:
        ConfigError: with what is missing, and how it is given.
    """
    status = _look_at(socket) if socket else None
    if os.geteuid() == 0:
        account = _account(user)
        _give(folder, account)
        _become(account, {status.st_gid} if status else set())
    if socket and status and not os.access(socket, os.R_OK | os.W_OK):
        raise ConfigError(_closed_above(socket) or _no_access(socket, status))
    if not _writable(folder):
        raise ConfigError(
            f"--data-dir: {_who()} cannot write to {folder}: make it theirs (chown), or give another folder or volume"
        )


def _look_at(socket: Path) -> os.stat_result:
    """The socket's status."""
    try:
        status = socket.stat()
    except OSError as error:
        raise ConfigError(
            _closed_above(socket)
            or f"--docker-host: no socket at {socket} ({error.strerror}): in a container, mount it "
            f"(-v {socket}:{socket}), or name another engine with DOCKER_HOST"
        ) from None
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"--docker-host: {socket} is no socket: is the engine's really at the place that is mounted?")
    return status


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"--user: there is no user {user!r}") from None


def _give(folder: Path, account: pwd.struct_passwd) -> None:
    """Make the folder, and the files in it, the user's; where root may not, `settle` finds whether it matters."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (folder, *folder.iterdir()):
            if path.lstat().st_uid != account.pw_uid:
                os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    except OSError:
        pass


def _become(account: pwd.struct_passwd, groups: set[int]) -> None:
    """Be that user for good: capabilities go with the user id 0 (capabilities(7)), and no program brings one back."""
    try:
        os.setgroups(sorted({*os.getgroups(), *groups} - ({0} - groups)))
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    except OSError:
        raise ConfigError(
            f"--user: root needs the capabilities SETUID and SETGID to become {account.pw_name}: "
            f"give both (--cap-add), or start as that user: --user {account.pw_uid}{_added(groups)}"
        ) from None
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.environ["HOME"] = account.pw_dir


def _closed_above(socket: Path) -> str | None:
    """What is wrong where a folder on the way to the socket lets this user not through."""
    folder = next((one for one in reversed(socket.absolute().parents) if not _lets_through(one)), None)
    if folder is None:
        return None
    return (
        f"--docker-host: {_who()} may not use {socket}: the folder {folder} ({stat.filemode(folder.stat().st_mode)}) "
        f"is closed to it: open it (chmod o+x {folder}), or start with another --user"
    )


def _lets_through(folder: Path) -> bool:
    return os.access(folder, os.X_OK) or not folder.exists()


def _added(groups: set[int]) -> str:
    return "".join(f" --group-add {group}" for group in groups)


def _no_access(socket: Path, status: os.stat_result) -> str:
    wrong = f"--docker-host: {_who()} may not use {socket} ({stat.filemode(status.st_mode)})"
    if not (status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP):
        owner = f"--user {status.st_uid}" if status.st_uid else "-e QMASTER_USER=root"
        return f"{wrong}: it is open to its owner alone: start with {owner}"
    if status.st_gid not in {os.getegid(), *os.getgroups()}:
        return f"{wrong}: start with --group-add {status.st_gid}"
    return f"{wrong}, though it has its group: with SELinux, start with --security-opt label=disable"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _who() -> str:
    return f"user {os.geteuid()}"
