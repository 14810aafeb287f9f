"""The standard descriptors of the process: closed ones, unread input, and output that has no reader."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import sys
import termios

IN, OUT, ERR = 0, 1, 2


def open_missing() -> None:
    """Open ``/dev/null`` for each closed standard stream, as a service manager does.

    Otherwise the next file or connection gets its number, and output is written into it.
    """
    for number in (IN, OUT, ERR):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number
    # Python has no object for a stream that was closed at its start.
    sys.stdin = sys.stdin or open(IN, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process
    sys.stdout = sys.stdout or open(OUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(ERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def write_no_more() -> None:
    """Send further output to ``/dev/null``, so that the interpreter's last flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), OUT)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def has_data(descriptor: int = IN) -> bool:
    """Return whether standard input has data: a file or a pipe that is not empty, but not a terminal."""
    try:
        state = os.fstat(descriptor)
        if stat.S_ISREG(state.st_mode):
            return os.lseek(descriptor, 0, os.SEEK_CUR) < state.st_size
        if stat.S_ISFIFO(state.st_mode) or stat.S_ISSOCK(state.st_mode):
            return bool(_unread(descriptor))
    except OSError:
        return False
    return False


def _unread(descriptor: int) -> int:
    """Return the number of bytes that can be read."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
