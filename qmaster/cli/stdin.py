"""Standard input, which no job reads."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios

IN = 0


def has_data(descriptor: int = IN) -> bool:
    """Whether somebody has piped something in, or led a file there: not a terminal, and not an empty pipe."""
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
    """Bytes that wait to be read."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
