"""A small file of an operator, read at the start and again whenever it changes."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError

MAX_SIZE = 1024 * 1024  # bytes of the file
LOOK_EVERY = 1.0  # seconds
SETTLES_IN = 0.25  # seconds to wait after a change, so that the file is not read half-written


class WatchedFile:
    """Reads a file; content that is refused changes nothing. Belongs to the event loop; a thread reads the disk.

    Args:
        path: the file.
        option: the flag that names it, for errors.
        take: receives each new content; raises ConfigError if it has a mistake.
        refused: called if a changed file cannot be read or has a mistake.
    """

    def __init__(
        self, path: Path, option: str, take: Callable[[bytes], None], refused: Callable[[ConfigError], None]
    ) -> None:
        self._path = path
        self._option = option
        self._give = take
        self._refused = refused
        self._stamp: tuple[int, ...] = ()
        self._content: bytes | str = b""

    def load(self) -> None:
        """Read the file for the first time.

        Raises:
            ConfigError: it cannot be read, or has a mistake.
        """
        self._stamp, self._content = _stamp(self._path), _content(self._path)
        self._take()

    async def run(self) -> None:
        """Read the file again whenever it changes."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            stamp = await asyncio.to_thread(_stamp, self._path)
            if stamp != self._stamp:
                await asyncio.sleep(SETTLES_IN)
                content = await asyncio.to_thread(_content, self._path)
                if await asyncio.to_thread(_stamp, self._path) == stamp:
                    self._stamp = stamp
                    self._replace(content)

    def _replace(self, content: bytes | str) -> None:
        if content == self._content:
            return
        self._content = content
        try:
            self._take()
        except ConfigError as error:
            self._refused(error)

    def _take(self) -> None:
        if isinstance(self._content, str):
            raise ConfigError(f"{self._option}: cannot read {self._path}: {self._content}")
        try:
            self._give(self._content)
        except ConfigError as error:
            raise ConfigError(f"{self._option}: {self._path}: {error}") from None


def has_mode(path: Path, bits: int) -> str | None:
    """Return the permissions of a file, such as ``0664``, if they have any of these bits."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    return f"{mode:04o}" if mode & bits else None


def _stamp(path: Path) -> tuple[int, ...]:
    """Return values that differ after a change; () if there is no file."""
    try:
        state = path.stat()
    except OSError:
        return ()
    return state.st_ino, state.st_mode, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _content(path: Path) -> bytes | str:
    """Return the content, or as text why it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "it is not a file"  # a pipe might never end
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        return error.strerror or type(error).__name__
    return content if len(content) <= MAX_SIZE else f"it has more than {MAX_SIZE} bytes"
