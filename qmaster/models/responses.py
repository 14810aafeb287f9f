"""What an answer shows: services, tasks, nodes and results. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .requests import Kind

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]  # RFC 3339, as the engine tells it
Status = Literal["pending", "preparing", "running", "complete", "failed", "stopping", "removed", "unknown"]
Reason = Literal[
    "exit",
    "oom",
    "timeout",
    "stopped",
    "unhealthy",
    "rejected",
    "image_not_found",
    "registry_auth",
    "unschedulable",
    "node_down",
    "orphaned",
]


class TaskResult(Struct, frozen=True, kw_only=True):
    """How one of several tasks ended, and the end of its output; ``truncated``: there was more."""

    id: str | None
    slot: int | None
    node: str | None
    exit_code: int | None
    stdout: str
    stderr: str
    truncated: bool


class Result(Struct, frozen=True, kw_only=True):
    """How a run ended: of the first task that did; ``tasks`` has all where there are several.

    What is not UTF-8 is U+FFFD.
    """

    exit_code: int | None
    stdout: str
    stderr: str
    truncated: bool
    tasks: list[TaskResult]


class Replicas(Struct, frozen=True, gc=False):
    desired: int
    running: int
    complete: int
    failed: int


class Task(Struct, frozen=True, kw_only=True, gc=False):
    """One task of a service; ``state`` is Swarm's own word."""

    id: str
    slot: int | None
    node_id: str | None
    node: str | None
    state: str
    message: str | None
    error: str | None
    exit_code: int | None
    container_id: str | None
    updated_at: Time | None


class LastExit(Struct, frozen=True, gc=False):
    """How an attempt ended that was followed by another; what the engine no longer told is null."""

    exit_code: int | None
    error: str | None
    finished_at: Time | None


class Service(Struct, frozen=True, kw_only=True, gc=False):
    """A service or a plain container, as every answer shows it.

    Times are RFC 3339, memory is MiB, ``timeout`` and ``ttl`` are seconds. ``result`` is null until it was read.
    ``restarts`` counts the attempts that ended and were followed by another, ``last_exit`` is the latest of these.
    """

    id: str
    type: Kind
    name: str
    image: str
    command: list[str] | None
    labels: dict[str, str]
    owner: str | None
    status: Status
    reason: Reason | None
    error: str | None
    exit_code: int | None
    replicas: Replicas
    created_at: Time | None
    started_at: Time | None
    finished_at: Time | None
    removed_at: Time | None
    memory: int | None
    cpus: float | None
    timeout: float | None = None
    ttl: float | None = None
    restarts: int = 0
    last_exit: LastExit | None = None
    tasks: list[Task]
    result: Result | None = None


class Reserved(Struct, frozen=True):
    """What the tasks on a node have reserved: MiB and cores."""

    memory: int
    cpus: float


class Node(Struct, frozen=True, kw_only=True):
    """A node of the swarm, as every answer shows it; ``memory`` is MiB, ``cpus`` cores."""

    id: str
    hostname: str
    role: str
    state: str
    availability: str
    address: str | None
    engine: str | None
    memory: int
    cpus: float
    reserved: Reserved
    leader: bool
