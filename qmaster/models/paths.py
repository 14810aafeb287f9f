"""Absolute paths that are mounted: folders of the host, and places in a container. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from .validation import quote

MAX_PATH = 4096  # characters
# A run cannot mount these, nor over them: they show the kernel, and Docker fills them itself.
KERNELS = ("/proc", "/sys", "/dev")


def folder(path: str) -> str:
    """Return a folder of the host as it is mounted.

    Raises:
        ValueError: it is no absolute path, has ``..``, or is all of the host.
    """
    if not path.startswith("/"):
        raise ValueError(f"volumes: expected an absolute path of a folder, or the name of a volume; got {quote(path)}")
    found = plain("volumes", path)
    if found == "/" or any(is_below(found, each) for each in KERNELS):
        raise ValueError(f"volumes: {quote(path)} cannot be mounted")
    return found


def plain(field: str, path: str) -> str:
    """Return an absolute path without ``..``, which is checked as it is used.

    Raises:
        ValueError: it is none; the message begins with ``field``.
    """
    absolute = path.startswith("/") and ".." not in path.split("/") and path.isprintable()
    if not absolute or len(path) > MAX_PATH or set(path) & set("{}\\,"):
        raise ValueError(f"{field}: expected an absolute path without '..'; got {quote(path)}")
    return "/" + posixpath.normpath(path).lstrip("/")


def is_below(path: str, other: str) -> bool:
    """Return whether a path is another one, or in it."""
    return path == other or path.startswith(f"{other}/")


def holder(path: str, folders: Iterable[str]) -> str | None:
    """Return the folder that is a path or holds it, the outermost of several; None if there is none."""
    return min((each for each in folders if is_below(path, each)), key=len, default=None)
