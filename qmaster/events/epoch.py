"""Signs that the journal's file may have lost its last events, so that a new epoch begins. For the journal's thread."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def find_doubt(meta: Mapping[str, str], boot: str, inode: str, last: int, mark: tuple[str, int] | None) -> str | None:
    """Return why the file may have lost its tail, or None."""
    if "epoch" not in meta:
        return "it is new"
    if meta.get("inode") != inode or mark is None or mark[0] != meta["epoch"] or mark[1] > last:
        return "it is not the file that was last written"
    if meta.get("clean") != "1" and meta.get("boot") != boot:
        return "the machine ended before it was closed"
    return None


def boot_id() -> str:
    """Return what identifies this boot of the machine; where the kernel does not tell, this process."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return f"unknown-{os.getpid()}"


def read_mark(path: Path) -> tuple[str, int] | None:
    """Return the epoch and the last written sequence; a journal that lacks it was restored from a copy."""
    try:
        epoch, last = path.read_text(encoding="ascii").split()
        return epoch, int(last)
    except (OSError, ValueError):
        return None


def write_mark(file: int, epoch: str, last: int) -> None:
    """Write the epoch and the last sequence to an open mark file."""
    os.pwrite(file, f"{epoch} {last:020d}\n".encode(), 0)
