"""Pure: views of Swarm's tasks, and which of them count.

The tasks that count are those of ``docker service ls``. Replicated services and replicated jobs have slots, which begin
at 0 for a job; global services and global jobs have one task on each node. An update of a job runs it again, as a new
iteration with its own tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from ...engine.subfolders import explained
from ...models.responses import Task
from ...models.units import LONG_AGO, parse_time

Json = Mapping[str, Any]

WAITING = frozenset({"new", "allocated", "pending", "assigned", "accepted"})
PREPARING = frozenset({"preparing", "ready", "starting"})
TAKEN_AWAY = frozenset({"shutdown", "remove", "orphaned"})
ENDED = frozenset({"complete", "failed", "rejected"})  # not ended by Swarm
TERMINAL = TAKEN_AWAY | ENDED

# The task states of swarmkit (api/types.proto) in their order: a task never goes back to an earlier one.
ORDER = (
    *("new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"),
    *("complete", "shutdown", "failed", "rejected", "remove", "orphaned"),
)


def task(raw: Json, nodes: Mapping[str, Json], by_node: bool = False) -> Task:
    """Return the view of a task; ``by_node``: its service has a task on each node, and no slots."""
    status = raw["Status"]
    inner = status.get("ContainerStatus") or {}
    node_id = raw.get("NodeID") or None
    hostname = ((nodes.get(node_id or "") or {}).get("Description") or {}).get("Hostname")
    return Task(
        id=raw["ID"],
        slot=raw.get("Slot") or (0 if is_of_job(raw) and not by_node else None),
        node_id=node_id,
        node=hostname,
        state=status["State"],
        message=status.get("Message") or None,
        error=explained(status.get("Err")),
        exit_code=exit_code(raw),
        container_id=inner.get("ContainerID") or None,
        updated_at=status.get("Timestamp"),
    )


def newest(tasks: Iterable[Json], by_node: bool = False) -> list[Json]:
    """Return the newest task of each slot or node, in their order.

    While an update starts the new task first, or its new tasks fail, that is the one still running.
    """
    latest: dict[tuple[int, str], Json] = {}
    for raw in sorted(tasks, key=age):
        key = place(raw, by_node)
        if key not in latest or not _runs_on(latest[key]) or raw["Status"]["State"] == "running":
            latest[key] = raw
    return [latest[key] for key in sorted(latest)]


def _runs_on(raw: Json) -> bool:
    """Return whether a task runs and is meant to."""
    return bool(raw["Status"]["State"] == raw.get("DesiredState") == "running")


def is_per_node(spec: Json) -> bool:
    """Return whether a service has a task on each node, and no slots."""
    return not {"Global", "GlobalJob"}.isdisjoint(spec.get("Mode") or ())


def is_job(spec: Json) -> bool:
    """Return whether a service is in one of Swarm's job modes."""
    return not {"ReplicatedJob", "GlobalJob"}.isdisjoint(spec.get("Mode") or ())


def is_of_job(raw: Json) -> bool:
    """Return whether a task belongs to a job."""
    return raw.get("JobIteration") is not None


def place(raw: Json, each_node: bool) -> tuple[int, str]:
    """Return the slot or node of a task."""
    return (0, raw.get("NodeID") or "") if each_node else (raw.get("Slot") or 0, "")


def counted(service: Json, tasks: Collection[Json], nodes: Mapping[str, Json]) -> Collection[Json]:
    """Return the tasks that count: none of an earlier iteration, a larger scale, or a drained node.

    Args:
        service: the service, as Docker lists it.
        tasks: its tasks.
        nodes: the swarm's nodes by id.
    """
    spec = service["Spec"]
    if is_job(spec):
        current = _index((service.get("JobStatus") or {}).get("JobIteration"))
        tasks = [raw for raw in tasks if _index(raw.get("JobIteration")) == current]
    tasks = [raw for raw in tasks if raw.get("DesiredState") != "remove" or raw["Status"]["State"] not in TERMINAL]
    if not is_per_node(spec):
        return tasks
    fits = {node_id for node_id, raw in nodes.items() if _takes_tasks(raw)}
    return [raw for raw in tasks if raw["Status"]["State"] not in TAKEN_AWAY or raw.get("NodeID", "") in fits]


def desired_tasks(spec: Json, current: Collection[Json]) -> int:
    """Return the desired number of tasks, or of a job's completions; ``current``: the newest tasks."""
    mode = spec.get("Mode") or {}
    if "ReplicatedJob" in mode:
        return int(mode["ReplicatedJob"].get("TotalCompletions") or 1)
    if "Replicated" in mode:
        return int(mode["Replicated"].get("Replicas", 1))
    return len(current)


def tries_again(spec: Json, condition: str) -> bool:
    """Return whether a failed task of a job is followed by another.

    A replicated job retries until it is complete, whatever its restart policy (measured on 20.10).
    """
    return "ReplicatedJob" in (spec.get("Mode") or {}) or condition != "none"


def _index(iteration: Json | None) -> int:
    return int((iteration or {}).get("Index") or 0)


def _takes_tasks(node: Json) -> bool:
    return bool(((node.get("Spec") or {}).get("Availability") or "active") == "active")


def grown(known: Json | None, listed: Json) -> Json:
    """Return the later of two readings of a task, by its state: an older listing may arrive later."""
    if known is None or _rank(listed) >= _rank(known):
        return listed
    return known


def has_container(raw: Json) -> bool:
    """Return whether a task had a container, so that it may have output."""
    return bool((raw["Status"].get("ContainerStatus") or {}).get("ContainerID"))


def exit_code(raw: Json) -> int | None:
    """Return the exit code, in terminal states only: while a task runs, Docker shows 0 or -1."""
    inner = raw["Status"].get("ContainerStatus") or {}
    if raw["Status"]["State"] not in TERMINAL or not has_container(raw):
        return None
    code = int(inner.get("ExitCode", 0))
    # A task whose container was lost before it ran is ``failed`` ("No such container") with 0 (measured on 20.10).
    return None if code == 0 and raw["Status"]["State"] == "failed" else code


def _rank(raw: Json) -> tuple[int, int]:
    state = raw["Status"]["State"]
    return ORDER.index(state) if state in ORDER else len(ORDER), (raw.get("Version") or {}).get("Index", 0)


def age(raw: Json) -> tuple[str, int]:
    """Return a sort key for Docker's objects, the oldest first."""
    return (raw.get("CreatedAt") or "", (raw.get("Version") or {}).get("Index", 0))


def updated(raw: Json) -> datetime:
    """Return when a task's state last changed; Docker's text does not sort, as it has no trailing zeros."""
    return parse_time(raw["Status"].get("Timestamp")) or LONG_AGO
