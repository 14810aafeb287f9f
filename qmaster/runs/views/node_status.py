"""Pure: views of the swarm's nodes, and what services reserve of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engine.labels import MIB
from ...models.responses import Node, Reserved
from ...models.units import cores, mib

Json = Mapping[str, Any]


def node(raw: Json, reserved: Reserved) -> Node:
    """Return the view of a node."""
    spec, description, status = raw["Spec"], raw.get("Description") or {}, raw.get("Status") or {}
    manager = raw.get("ManagerStatus") or {}
    resources = description.get("Resources") or {}
    return Node(
        id=raw["ID"],
        hostname=description.get("Hostname", ""),
        role=spec.get("Role", ""),
        state=status.get("State", "unknown"),
        availability=spec.get("Availability", ""),
        address=status.get("Addr") or None,
        engine=(description.get("Engine") or {}).get("EngineVersion"),
        memory=resources.get("MemoryBytes", 0) // MIB,
        cpus=resources.get("NanoCPUs", 0) / 1e9,
        reserved=reserved,
        leader=bool(manager.get("Leader")),
    )


def reservation(raw: Json) -> tuple[int, float]:
    """Return what one task of a service reserves: MiB and cores."""
    wanted = (raw["Spec"]["TaskTemplate"].get("Resources") or {}).get("Reservations") or {}
    return mib(wanted.get("MemoryBytes")) or 0, cores(wanted.get("NanoCPUs")) or 0.0
