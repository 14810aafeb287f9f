"""The standard streams: output at the reader's pace, a progress line, remarks; whether there is input. Loop only."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import itertools
import os
import select
import stat
import struct
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..errors import QmasterError

IN, OUT, ERR = 0, 1, 2
PIPE_BUF = 4096  # what a pipe that is ready takes without blocking (pipe(7))
USUAL_WIDTH = 80
EVERY = 0.1  # seconds between two pictures of the spinner
CLEAR = "\r\x1b[K"
BRAILLE, ASCII = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"


class OutputError(QmasterError):
    """The output cannot be written."""


def clean(text: str) -> str:
    """Text that comes from elsewhere, on one line and without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def is_terminal(descriptor: int) -> bool:
    """Return whether a descriptor is a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:  # closed
        return False


def colours(environ: Mapping[str, str], descriptor: int = OUT) -> bool:
    """Whether to colour: on a terminal, unless NO_COLOR says otherwise (no-color.org)."""
    return is_terminal(descriptor) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def width(descriptor: int = OUT) -> int | None:
    """The terminal's columns; None where it is none."""
    try:
        return os.get_terminal_size(descriptor).columns or USUAL_WIDTH
    except OSError:
        return None


class Screen:
    """What the user sees.

    Args:
        lively: draw progress; only on a terminal.
    """

    def __init__(self, lively: bool) -> None:
        self._lively = lively and is_terminal(ERR) and os.environ.get("TERM") != "dumb"
        self._progress = ""
        self._drawn = False
        self._unfinished: dict[object, str] = {}  # by where it is shown: whose line has no newline yet
        self._pictures: Iterator[str] = itertools.cycle(BRAILLE if _draws(BRAILLE) else ASCII)

    @property
    def lively(self) -> bool:
        return self._lively

    def say(self, text: str) -> None:
        """A remark of ours, on a line of its own on standard error."""
        self._wipe()
        break_line = "\n" if self._unfinished.pop(_place(ERR), None) is not None else ""
        _print(f"{break_line}qmaster: {clean(text)}\n")

    def progress(self, text: str) -> None:
        """What the spinner says from now on."""
        self._progress = clean(text)

    def hush(self) -> None:
        """The output begins: no spinner any more."""
        self._wipe()
        self._lively = False

    @contextmanager
    def spinning(self) -> Iterator[None]:
        spinner = asyncio.create_task(self._spin())
        try:
            yield
        finally:
            spinner.cancel()
            self._wipe()

    async def _spin(self) -> None:
        while self._lively:
            columns = width(ERR) or USUAL_WIDTH
            _print(CLEAR + f"{next(self._pictures)} {self._progress}"[: max(1, columns - 1)])
            self._drawn = True
            await asyncio.sleep(EVERY)

    def _wipe(self) -> None:
        if self._drawn:
            _print(CLEAR)
        self._drawn = False

    def begins_line(self, descriptor: int, of: str) -> bool:
        """Whether what is written next of this source is not the rest of its line."""
        return self._unfinished.get(_place(descriptor)) != of

    async def write(self, descriptor: int, data: bytes, of: str = "") -> None:
        """Bytes as they are; waits for a reader that is slow, without holding up anything else.

        Args:
            of: their source; those of two never share a line.

        Raises:
            BrokenPipeError: nobody reads any more.
            OutputError: it cannot be written for another reason, such as a full disk.
        """
        if self._lively:
            self.hush()
        place = _place(descriptor)
        if data and self._unfinished.pop(place, of) != of:
            data = b"\n" + data
        if data and not data.endswith(b"\n"):
            self._unfinished[place] = of
        view = memoryview(data)
        while view:
            try:
                await _writable(descriptor)
                view = view[os.write(descriptor, view[:PIPE_BUF]) :]
            except BlockingIOError:  # somebody else has made it non-blocking, and was faster
                await asyncio.sleep(0)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EBADF):
                    raise BrokenPipeError from error
                raise OutputError(f"the output cannot be written: {error.strerror}") from None


def _place(descriptor: int) -> object:
    """Where it goes: standard output and error may be one terminal, file or pipe."""
    try:
        state = os.fstat(descriptor)
    except OSError:
        return descriptor
    return state.st_dev, state.st_ino


def _draws(text: str) -> bool:
    try:
        text.encode(getattr(sys.stderr, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _print(text: str) -> None:
    """On standard error; one that is gone is no reason to fail."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return


async def _writable(descriptor: int) -> None:
    if select.select([], [descriptor], [], 0)[1]:
        return
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)


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
