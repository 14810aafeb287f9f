"""Which subnet a run may use, and what an ended run has left: one locked file per subnet.

The lock is the kernel's, so it is free as soon as its run has ended, however it ended. The file then still says what
the run had made, and the next run removes that.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import tempfile
from functools import partial
from pathlib import Path
from typing import IO, Any

from testbed import net
from testbed.process import started_at
from testbed.wait import eventually

FOLDER = Path(tempfile.gettempdir()) / "qmaster-testbed"


class Claim:
    """A subnet, a prefix for names, and a folder, kept until `release`."""

    def __init__(self) -> None:
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        for path in FOLDER.iterdir():
            _sweep(path)
        self.subnet, self._file = _lock_subnet()
        self.prefix = f"qt{secrets.token_hex(3)}"
        # Not the temporary folder of the environment: a socket's path has at most 107 characters.
        self.root = Path("/tmp") / self.prefix
        self._note(prefix=self.prefix, root=str(self.root), pid=os.getpid())
        self.root.mkdir(mode=0o700)

    def _note(self, **fields: Any) -> None:
        self._file.write(json.dumps(fields) + "\n")
        self._file.flush()

    def process(self, pid: int) -> None:
        """Note a process to be ended with the run."""
        self._note(process=pid, started=started_at(pid))

    def release(self) -> None:
        """Remove all that the run has made, and give the subnet back."""
        if not self._file.closed:
            _remove(self._file)
            self._file.close()


def _lock(path: Path) -> IO[str] | None:
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _lock_subnet() -> tuple[str, IO[str]]:
    for number in range(1, 255):
        subnet = f"10.77.{number}"
        file = _lock(FOLDER / subnet)
        if file:
            _remove(file)  # its run may have ended since the sweep
            if not net.in_use(subnet):
                return subnet, file
            file.close()
    raise RuntimeError("no subnet 10.77.N.0/24 is free")


def _sweep(path: Path) -> None:
    file = _lock(path)
    if file:
        with file:
            _remove(file)


def _remove(file: IO[str]) -> None:
    """Remove what a run's notes name, as far as it is there, and then the notes."""
    file.seek(0)
    notes = [json.loads(line) for line in file if line.endswith("}\n")]
    for note in notes:
        if "process" in note:
            _end(note["process"], note["started"])
    for note in notes:
        if "prefix" in note:
            net.remove(note["prefix"])
            remove_cgroups(note["prefix"])
            shutil.rmtree(note["root"], ignore_errors=True)
    file.truncate(0)


def _end(pid: int, started: str | None) -> None:
    """End a process, if the pid is still that one's."""
    if started is None or started_at(pid) != started:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: started_at(pid) != started, 10, f"process {pid} is gone")


def remove_cgroups(name: str) -> None:
    """Remove the cgroups that engines left under that name; the kernel keeps them when their processes are killed."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            folder = Path(mount) / name
            eventually(partial(_remove_folders, folder), 10, f"{folder} is empty", ignoring=OSError)


def _remove_folders(folder: Path) -> bool:
    for parent, folders, _ in os.walk(folder, topdown=False):
        for each in folders:
            (Path(parent) / each).rmdir()
    if folder.exists():
        folder.rmdir()
    return True
