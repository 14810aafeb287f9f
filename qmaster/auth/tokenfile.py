"""Reads the tokens file, and again when it changes. Belongs to the event loop; the disk is read in a thread."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import structlog

from ..errors import ConfigError
from . import tokens
from .tokens import TokenPolicy

LOOK_EVERY = 0.25  # seconds; a change counts when two looks in a row agree, so that none is seen half-written
MAX_SIZE = 1024 * 1024

log = structlog.get_logger(__name__)


class TokenFile:
    """Hands on what the file holds; what cannot be read changes nothing.

    Args:
        path: of the file.
        taken: digests that nobody else may have.
        changed: told of the tokens that there are from now on.
    """

    def __init__(self, path: Path, taken: Collection[bytes], changed: Callable[[Sequence[TokenPolicy]], None]) -> None:
        self._path = path
        self._taken = taken
        self._changed = changed
        self._seen: bytes | str = b""

    def load(self) -> None:
        """Read it for the first time.

        Raises:
            ConfigError: it cannot be read, or is wrong.
        """
        self._seen = _look(self._path)
        self._take(self._seen)

    async def run(self) -> None:
        """Look at it for ever."""
        last = self._seen
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = await asyncio.to_thread(_look, self._path)
            if now == last != self._seen:
                self._seen = now
                self._try_to_take(now)
            last = now

    def _try_to_take(self, seen: bytes | str) -> None:
        try:
            self._take(seen)
        except ConfigError as error:
            log.warning("tokens_file_wrong", error=str(error), advice="the tokens that were read last stay")

    def _take(self, seen: bytes | str) -> None:
        """
        Args:
            seen: the content, or why there is none.
        """
        if isinstance(seen, str):
            raise ConfigError(f"--tokens-file: cannot read {self._path}: {seen}")
        try:
            grants = tokens.read(seen, self._taken)
        except ConfigError as error:
            raise ConfigError(f"--tokens-file: {self._path}: {error}") from None
        self._changed(grants)
        log.info("tokens", names=[grant.name for grant in grants])
        _warn_if_writable(self._path)


def _look(path: Path) -> bytes | str:
    """The content, or why there is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "it is not a file"  # a pipe might never end
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        return error.strerror or type(error).__name__
    return content if len(content) <= MAX_SIZE else f"it has more than {MAX_SIZE} bytes"


def _warn_if_writable(path: Path) -> None:
    """It holds no secret, as digests of long random tokens are none; but who can write it gives themselves a token."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        log.warning("tokens_file_writable_by_others", mode=f"{mode:04o}", advice=f"chmod go-w {path}")
