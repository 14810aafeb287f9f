"""A program in a terminal of its own: what it shows, and keys."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from testbed.wait import BUSY

CTRL_C = b"\x03"
# The session is Popen's; the terminal becomes its own, so that Ctrl-C is a signal to what runs there.
_OWN = "import fcntl,os,sys,termios;fcntl.ioctl(0,termios.TIOCSCTTY,0);os.execvp(sys.argv[1],sys.argv[1:])"


class Terminal:
    """Runs `command` with all its streams on a new terminal; `stdout` may go elsewhere instead."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        stdout: IO[bytes] | None = None,
        columns: int = 100,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN, *command],
            env={"TERM": "xterm", **env},
            cwd=folder,
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._shown = bytearray()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join(5)
        os.close(self._master)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the last that had it open has ended
            while data := os.read(self._master, 65536):
                with self._changed:
                    self._shown += data
                    self._changed.notify_all()

    @property
    def shown(self) -> str:
        """All that it has written so far, with what moves the cursor."""
        return bytes(self._shown).decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """What stays on the screen: each line after its last return to the beginning, without escape sequences."""
        text = self.shown.replace("\r\n", "\n").replace("\x1b[K", "")
        return [line.rpartition("\r")[2] for line in text.split("\n")]

    def until(self, text: str, timeout: float = 30) -> None:
        """Wait until it has written that."""
        until = time.monotonic() + timeout * BUSY
        with self._changed:
            while text not in self.shown:
                assert self._changed.wait(until - time.monotonic()), f"no {text!r} in {self.shown!r}"

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def code(self, timeout: float = 60) -> int:
        """The exit code, when it has ended and all that it wrote was read."""
        code = self.process.wait(timeout * BUSY)
        self._thread.join(timeout)
        return code
