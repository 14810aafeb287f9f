"""Nodes of the swarm: as Docker lists them, and as the journal's last event has them. The cache owns them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...engine.labels import MIB
from ...events import cloudevents
from ...events.cloudevents import Event
from ...models.responses import Node, Reserved
from ...models.units import cores, mib

Json = Mapping[str, Any]

# Swarm's services have the field since API 1.44; an older node ignores it.
NO_NEW_PRIVILEGES_SINCE = 25
SHOWN = 5  # most host names in a warning
_MAJOR = re.compile(r"[0-9]{1,4}(?=\.)")


class NodeViews:
    """The nodes by id.

    Attributes:
        listed: the nodes, as Docker lists them.
        dirty: whether they may have unpublished changes.
    """

    def __init__(self) -> None:
        self.listed: dict[str, Json] = {}
        self.dirty = False
        self._published: dict[str, Node] = {}

    def restore(self, node: Node) -> None:
        """Take a node of the journal as published."""
        self._published[node.id] = node

    def replace(self, nodes: Iterable[Json]) -> set[str]:
        """Replace all nodes; return the ids of those whose views of services change: their state or name has."""
        fresh = {raw["ID"]: raw for raw in nodes}
        before, self.listed, self.dirty = self.listed, fresh, True
        return {i for i in fresh.keys() | before.keys() if _shows(fresh.get(i)) != _shows(before.get(i))}

    def views(self, reserved: Mapping[str, Reserved]) -> list[Node]:
        """Return the nodes with what is reserved on each."""
        return [view(raw, reserved.get(i, Reserved(0, 0.0))) for i, raw in self.listed.items()]

    def warn_of_older(self, named: bool) -> list[str]:
        """Return a warning about nodes whose engine ignores ``no_new_privileges`` of a service; none if all are newer.

        Args:
            named: whether the warning has their names; else it has their number.
        """
        older = sorted(_hostname(raw) for raw in self.listed.values() if _major(raw) < NO_NEW_PRIVILEGES_SINCE)
        if not older:
            return []
        shown = ", ".join(older[:SHOWN]) + (f" and {len(older) - SHOWN} more" if len(older) > SHOWN else "")
        if not named:
            shown = "1 node" if len(older) == 1 else f"{len(older)} nodes"
        return [f"no_new_privileges: services need Docker {NO_NEW_PRIVILEGES_SINCE} or newer; not in force on {shown}"]

    def events(self, reserved: Mapping[str, Reserved], now: str) -> Iterator[Event]:
        """Yield the unpublished changes; ``now`` is their time."""
        fresh = {node.id: node for node in self.views(reserved)}
        for node_id in sorted(fresh.keys() | self._published.keys()):
            yield from cloudevents.of_node(self._published.get(node_id), fresh.get(node_id), now)

    def mark_published(self, event: Event, node: Node) -> None:
        """Record that an event is in the journal."""
        if event.type.endswith(".removed"):
            self._published.pop(event.subject, None)
        else:
            self._published[event.subject] = node


def view(raw: Json, reserved: Reserved) -> Node:
    """Return the view of a node."""
    spec, description, status = raw["Spec"], raw.get("Description") or {}, raw.get("Status") or {}
    manager = raw.get("ManagerStatus") or {}
    resources = description.get("Resources") or {}
    return Node(
        id=raw["ID"],
        hostname=_hostname(raw),
        role=spec.get("Role", ""),
        state=status.get("State", "unknown"),
        availability=spec.get("Availability", ""),
        address=status.get("Addr") or None,
        engine=_version(raw),
        memory=resources.get("MemoryBytes", 0) // MIB,
        cpus=resources.get("NanoCPUs", 0) / 1e9,
        reserved=reserved,
        leader=bool(manager.get("Leader")),
    )


def reservation(raw: Json) -> tuple[int, float]:
    """Return what one task of a service reserves: MiB and cores."""
    wanted = (raw["Spec"]["TaskTemplate"].get("Resources") or {}).get("Reservations") or {}
    return mib(wanted.get("MemoryBytes")) or 0, cores(wanted.get("NanoCPUs")) or 0.0


def _hostname(raw: Json) -> str:
    return str((raw.get("Description") or {}).get("Hostname", ""))


def _version(raw: Json) -> str | None:
    """Return the version of a node's engine, None if it is not known."""
    version: str | None = ((raw.get("Description") or {}).get("Engine") or {}).get("EngineVersion")
    return version


def _major(raw: Json) -> int:
    found = _MAJOR.match(_version(raw) or "")
    return int(found[0]) if found else 0


def _shows(raw: Json | None) -> tuple[str | None, ...]:
    """Return the attributes of a node that views of services use: state, name and availability."""
    if not raw:
        return None, None, None
    status, description, spec = (raw.get(part) or {} for part in ("Status", "Description", "Spec"))
    return status.get("State"), description.get("Hostname"), spec.get("Availability")
