"""The standard streams: output at the reader's pace, a progress line, and messages. Event loop only."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import select
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..errors import QmasterError
from .descriptors import ERR, OUT

PIPE_BUF = 4096  # bytes that a ready pipe takes without blocking (pipe(7))
USUAL_WIDTH, USUAL_HEIGHT = 80, 24
EVERY = 0.1  # seconds between two frames of the spinner
CLEAR = "\r\x1b[K"
BRAILLE, ASCII = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"


class OutputError(QmasterError):
    """The output cannot be written."""


def clean(text: str) -> str:
    """Return foreign text on one line, without control characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def is_terminal(descriptor: int) -> bool:
    """Return whether a descriptor is a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:  # closed
        return False


def colours(environ: Mapping[str, str], descriptor: int = OUT) -> bool:
    """Return whether to use colours: on a terminal, unless NO_COLOR is set (no-color.org)."""
    return is_terminal(descriptor) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def width(descriptor: int = OUT) -> int | None:
    """Return the terminal's width in columns; None if it is no terminal."""
    try:
        return os.get_terminal_size(descriptor).columns or USUAL_WIDTH
    except OSError:
        return None


def height(descriptor: int = OUT) -> int:
    """Return the terminal's height in lines; a usual one if it is unknown."""
    try:
        return os.get_terminal_size(descriptor).lines or USUAL_HEIGHT
    except OSError:
        return USUAL_HEIGHT


class Screen:
    """Output, messages and a progress line for the user.

    Args:
        lively: draw progress, if standard error is a terminal.
    """

    def __init__(self, lively: bool) -> None:
        self._lively = lively and is_terminal(ERR) and os.environ.get("TERM") != "dumb"
        self._progress = ""
        self._drawn = False
        self._unfinished: dict[object, str] = {}  # by place: the source whose last line has no newline yet
        self._pictures: Iterator[str] = itertools.cycle(BRAILLE if _draws(BRAILLE) else ASCII)

    @property
    def lively(self) -> bool:
        """Whether progress is drawn."""
        return self._lively

    def say(self, text: str) -> None:
        """Write a message on a line of its own on standard error."""
        self._wipe()
        break_line = "\n" if self._unfinished.pop(_place(ERR), None) is not None else ""
        _print(f"{break_line}qmaster: {clean(text)}\n")

    def progress(self, text: str) -> None:
        """Set the spinner's text."""
        self._progress = clean(text)

    def hush(self) -> None:
        """Stop the spinner, because the output begins."""
        self._wipe()
        self._lively = False

    @contextmanager
    def spinning(self) -> Iterator[None]:
        """Draw the spinner within a ``with`` block, until the output begins."""
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
        """Return whether the next output of this source begins a new line."""
        return self._unfinished.get(_place(descriptor)) != of

    async def write(self, descriptor: int, data: bytes, of: str = "") -> None:
        """Write bytes unchanged; wait for a slow reader without blocking the event loop.

        Args:
            descriptor: ``OUT`` or ``ERR``.
            data: the bytes.
            of: their source; two sources never share a line.

        Raises:
            BrokenPipeError: the reader has closed the pipe.
            OutputError: the output cannot be written, for instance because the disk is full.
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
            except BlockingIOError:  # another process made it non-blocking, and filled it first
                await asyncio.sleep(0)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EBADF):
                    raise BrokenPipeError from error
                raise OutputError(f"the output cannot be written: {error.strerror}") from None


def _place(descriptor: int) -> object:
    """Identify the target: standard output and standard error may be the same terminal, file or pipe."""
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
    """Write to standard error; a closed one is ignored."""
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
