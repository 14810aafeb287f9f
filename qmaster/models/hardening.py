"""Pure: what a job may not do unless it says otherwise: processes, capabilities, new privileges."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .responses import Node

PIDS_LIMIT = 1024  # processes and threads
DROPPED = ("NET_RAW", "MKNOD", "AUDIT_WRITE")
ALL = "ALL"
# Swarm's services have the field since API 1.44; an older node ignores it.
NO_NEW_PRIVILEGES_SINCE = 25
SHOWN = 5  # host names in a warning
_MAJOR = re.compile(r"[0-9]{1,4}(?=\.)")


def dropped(asked: Sequence[str] | None) -> list[str]:
    """The capabilities that a run drops, in Docker's own spelling."""
    return [name if name == ALL else f"CAP_{name}" for name in (DROPPED if asked is None else asked)]


def kept(asked: Sequence[str] | None) -> list[str]:
    """The capabilities that a run keeps although jobs drop them by default."""
    return [] if asked is None or ALL in asked else [name for name in DROPPED if name not in asked]


def warn_of_older_nodes(nodes: Iterable[Node], named: bool) -> list[str]:
    """What to tell of the nodes whose engine ignores ``no_new_privileges`` of a service: at most one warning.

    Args:
        named: whether their names are told; else how many they are.
    """
    older = sorted(node.hostname for node in nodes if _major(node.engine) < NO_NEW_PRIVILEGES_SINCE)
    if not older:
        return []
    shown = ", ".join(older[:SHOWN]) + (f" and {len(older) - SHOWN} more" if len(older) > SHOWN else "")
    if not named:
        shown = "1 node" if len(older) == 1 else f"{len(older)} nodes"
    return [f"no_new_privileges: services need Docker {NO_NEW_PRIVILEGES_SINCE} or newer; not in force on {shown}"]


def _major(version: str | None) -> int:
    found = _MAJOR.match(version or "")
    return int(found[0]) if found else 0
