"""The standard descriptors, where the process was started without some of them (``<&- >&- 2>&-``)."""

from __future__ import annotations

import os
import sys

IN, OUT, ERR = 0, 1, 2


def open_missing() -> None:
    """Open ``/dev/null`` in the place of each that is closed, as a service manager does.

    Else the next file or connection would get its number, and what is meant for a terminal would be written into it.
    """
    for number in (IN, OUT, ERR):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    # Python has none for what was closed as it began.
    sys.stdin = sys.stdin or open(IN, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process
    sys.stdout = sys.stdout or open(OUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(ERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def write_no_more() -> None:
    """Nobody takes the output: or the interpreter's last flush fails too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), OUT)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
