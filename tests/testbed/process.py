"""Processes that the testbed started: run to the end, signalled and ended by their pid only."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from testbed.wait import BUSY, eventually


class CommandFailed(RuntimeError):
    """A command of the testbed that did not end with 0; its output is in the message."""


def run(*argv: str, timeout: float = 300, env: Mapping[str, str] | None = None, stdin: bytes | None = None) -> str:
    """The command's standard output. Raises `CommandFailed`."""
    # A session of its own, so that a Ctrl-C in the terminal stops the tests and not what tears them down.
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, env=env, start_new_session=True)
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


def start(argv: Sequence[str], log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> "Process":
    """Start a process whose output is appended to `log`."""
    with log.open("ab") as output:
        popen = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd, env=env, start_new_session=True
        )
    return Process(popen, popen.pid)


@dataclass(eq=False)
class Process:
    """A started process. `pid` is the program's, `popen` what we wait for (its nsenter, when it is in a namespace)."""

    popen: subprocess.Popen[bytes]
    pid: int
    frozen: bool = field(default=False, init=False)

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        if self.alive:
            _kill(self.pid, number)

    def freeze(self) -> None:
        """SIGSTOP; returns when every thread stands still: on a busy machine some go on for a while."""
        self.signal(signal.SIGSTOP)
        self.frozen = True
        eventually(self._stands_still, 10, "it stands still", every=0.001)

    def _stands_still(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        with contextlib.suppress(OSError):  # it has ended, or one of its threads has
            return all(thread.read_text().rpartition(")")[2].split()[0] in "TtZX" for thread in threads)
        return False

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)
        if self.pid != self.popen.pid and self.alive:
            _kill(self.popen.pid, signal.SIGCONT)  # nsenter stops itself along with its child
        self.frozen = False

    def terminate(self, timeout: float = 30) -> int:
        """SIGTERM and the exit code."""
        self.thaw()
        self.signal(signal.SIGTERM)
        return self.popen.wait(timeout * BUSY)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        if self.frozen:
            self.thaw()
        self.popen.wait(10 * BUSY)


def _kill(pid: int, number: int) -> None:
    # The program in a namespace can be gone while its nsenter is still about to end.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def only_child(pid: int) -> int:
    """The pid of a process's only child, as soon as it has one."""

    def child() -> int:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else 0

    return eventually(child, timeout=10, what=f"a child of process {pid}", every=0.002)


def started_at(pid: int) -> str | None:
    """The start time of a process in clock ticks: with its pid it names a process for good; None when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
