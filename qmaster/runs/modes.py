"""Pure: which tasks of a service count, and how many it wants, by its mode.

It counts as ``docker service ls`` does. A replicated service and a replicated job have slots, those of a job beginning
at 0; a global service and a global job have a task on each node. A job that is updated runs once more: each time is an
iteration with tasks of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Json = Mapping[str, Any]

TAKEN_AWAY = frozenset({"shutdown", "remove", "orphaned"})
OVER = TAKEN_AWAY | {"complete", "failed", "rejected"}


def by_node(spec: Json) -> bool:
    """Whether each node has a task, and none a slot."""
    return not {"Global", "GlobalJob"}.isdisjoint(spec.get("Mode") or ())


def is_job(spec: Json) -> bool:
    """Whether it is to end, in a mode of Swarm's own for that."""
    return not {"ReplicatedJob", "GlobalJob"}.isdisjoint(spec.get("Mode") or ())


def is_of_job(raw: Json) -> bool:
    """Whether a task is one of a job."""
    return raw.get("JobIteration") is not None


def place(raw: Json, each_node: bool) -> tuple[int, str]:
    """What a task takes, and another after it: its slot, or its node."""
    return (0, raw.get("NodeID") or "") if each_node else (raw.get("Slot") or 0, "")


def counted(service: Json, tasks: Collection[Json], nodes: Mapping[str, Json]) -> Collection[Json]:
    """The tasks of what the service wants now: not those of an earlier iteration, a larger scale, or a drained node.

    Args:
        service: as Docker lists it.
        nodes: the swarm's nodes by id.
    """
    spec = service["Spec"]
    if is_job(spec):
        current = _index((service.get("JobStatus") or {}).get("JobIteration"))
        tasks = [raw for raw in tasks if _index(raw.get("JobIteration")) == current]
    tasks = [raw for raw in tasks if raw.get("DesiredState") != "remove" or raw["Status"]["State"] not in OVER]
    if not by_node(spec):
        return tasks
    return [
        raw for raw in tasks if raw["Status"]["State"] not in TAKEN_AWAY or _may_run(nodes.get(raw.get("NodeID", "")))
    ]


def desired(spec: Json, current: Collection[Json]) -> int:
    """How many tasks it wants, or completions of a job; ``current``: its newest tasks."""
    mode = spec.get("Mode") or {}
    if "ReplicatedJob" in mode:
        return int(mode["ReplicatedJob"].get("TotalCompletions") or 1)
    if "Replicated" in mode:
        return int(mode["Replicated"].get("Replicas", 1))
    return len(current)


def tries_again(spec: Json, condition: str) -> bool:
    """Whether a task of a job that failed is followed by another.

    A replicated job tries until all is complete, whatever its restart policy says (measured on 20.10).
    """
    return "ReplicatedJob" in (spec.get("Mode") or {}) or condition != "none"


def _index(iteration: Json | None) -> int:
    return int((iteration or {}).get("Index") or 0)


def _may_run(node: Json | None) -> bool:
    return node is not None and ((node.get("Spec") or {}).get("Availability") or "active") == "active"
