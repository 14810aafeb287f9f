"""Responses: services, tasks, nodes and results, and the masking of other owners' names. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from .requests import Kind

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]  # RFC 3339, as the engine reports it
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
    "idle",
    "update",
]
Outcome = Literal["complete", "failed", "stopped"]
NO_SPEC = msgspec.Raw(b"null")
ROOT = "root"  # the owner of what the root token starts
MASKED = "…"
EVERYBODYS = ("0.0.0.0", "::", "docker.io", "index.docker.io", "registry-1.docker.io", "auth.docker.io")  # noqa: S104
_HOLDER = re.compile(r"\b((?:in use|used|held|owned|allocated|reserved) by) .*", re.DOTALL | re.IGNORECASE)
# A name has no spaces; quoted text with spaces is a hint of quartermaster's, or a sentence.
_QUOTED = re.compile(r"(?P<open>[\"'`])(?P<name>[^\s\"'`]+)(?P=open)")
_NAMED = re.compile(r"\b(with name|with id|named|endpoint(?! with)) (?P<name>[\"'`]?[\w./:@-]+[\"'`]?)", re.IGNORECASE)
_IDS = re.compile(r"\b(?P<name>[0-9a-f]{12,64}|(?=[a-z]*[0-9])[0-9a-z]{25})\b")
_ADDRESSES = re.compile(
    r"(?<![\w.:])(?P<name>\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*[.]\d)|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?![\w:]))"
)
# Not a file of an engine's source (.go), and not a part of a path or of quoted text.
_HOSTS = re.compile(
    r"(?:(?<=//)|(?<![\w./:@\"'`-])(?:\*\.)?)(?P<name>[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?!go\b)[a-z]{2,})(?![\w-])"
)
_LOOKUPS = re.compile(r"\blookup (?P<name>[\w.-]+)(?= on |:)")
_FOLDERS = re.compile(r"(?P<name>/(?:var/lib|var/run|run|root|home|etc/docker)/[^\s\"'`:;,)]+)")


class TaskResult(Struct, frozen=True, kw_only=True):
    """How one of several tasks ended, and the end of its output; ``truncated``: there was more output."""

    id: str | None
    slot: int | None
    node: str | None
    exit_code: int | None
    stdout: str
    stderr: str
    truncated: bool


class Result(Struct, frozen=True, kw_only=True):
    """How a run ended: the result of the task that ended first; ``tasks`` has all if there are several.

    Bytes that are not UTF-8 are U+FFFD.
    """

    exit_code: int | None
    stdout: str
    stderr: str
    truncated: bool
    tasks: list[TaskResult]


class Replicas(Struct, frozen=True, gc=False):
    """How many replicas a service should have, and how many are in each state."""

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
    """How an attempt ended that was followed by another; null for what the engine no longer reports."""

    exit_code: int | None
    error: str | None
    finished_at: Time | None


class Attempt(Struct, frozen=True, gc=False):
    """An attempt of a run that is restarted, and how it ended; null for what was not seen."""

    task: str | None
    started_at: Time | None
    finished_at: Time | None
    exit_code: int | None
    error: str | None


class FunctionRef(Struct, frozen=True, gc=False):
    """The function, and the number of its version, that a run is an instance of."""

    name: str
    version: int


class CallbackView(Struct, frozen=True, kw_only=True):
    """What became of a callback: ``attempts`` counts its tries; ``last_error`` is why the last that failed did."""

    url: str
    delivered_at: Time | None = None
    attempts: int = 0
    last_error: str | None = None


class Service(Struct, frozen=True, kw_only=True, gc=False):
    """A service or a plain container, as every answer shows it.

    Times are RFC 3339, memory is MiB, ``timeout`` and ``ttl`` are seconds. ``result`` is null until it is read.
    ``restarts`` counts the attempts that ended and were followed by another; ``last_exit`` is the latest of them.
    ``attempts`` are those of a run that is restarted which have ended: the newest ones, the newest last.
    ``callback`` is the URL that is told of its end. ``spec`` has the fields of the request that started it, null if
    quartermaster did not; it is JSON, as only clients read it.
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
    callback: str | None = None
    restarts: int = 0
    last_exit: LastExit | None = None
    attempts: tuple[Attempt, ...] = ()
    function: FunctionRef | None = None
    spec: msgspec.Raw = msgspec.field(default_factory=lambda: NO_SPEC)
    tasks: list[Task]
    result: Result | None = None


def outcome(view: Service) -> Outcome | None:
    """Return how a run has ended, also one that was removed since; None if it has not, or if no end was seen."""
    if view.status not in ("complete", "failed", "removed") or view.reason == "unschedulable":
        return None
    if view.status == "complete" or view.reason in ("idle", "update"):
        return "complete"
    if view.reason is None:
        return None if view.status == "removed" else "failed"
    if view.reason == "stopped":
        return "stopped"
    return "complete" if view.reason == "exit" and view.exit_code == 0 else "failed"


class Accepted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a start or a stop; ``warnings`` are settings of the run that are not in force, if there are any."""

    success: bool
    id: str
    warnings: list[str] = []


class DryRun(Struct, frozen=True, kw_only=True):
    """The answer to a dry run: what would be run, and what of it would not be in force; nothing was started.

    ``image`` is the reference that would be used, with the digest where the registry tells one. ``spec`` has the fields
    of the request, with what the token's policy adds; of the environment only the names.
    """

    success: Literal[True] = True
    dry_run: Literal[True] = True
    image: str
    spec: dict[str, Any]
    warnings: list[str]


class Reserved(Struct, frozen=True):
    """Resources that tasks have reserved on a node: MiB and cores."""

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


def mask(text: str, own: object, quoted: bool = True) -> str:
    """Return an engine's message without names, hosts, ids, addresses and folders that the caller did not send.

    Args:
        text: the message.
        own: what the caller sent or owns: strings, and lists and objects of them.
        quoted: whether quoted names are masked too.
    """
    sent = "\0".join(_strings(own))

    def hide(found: re.Match[str]) -> str:
        name = found["name"].strip("\"'`")
        known = name in EVERYBODYS or name.removeprefix("/") in sent
        return found[0] if known else found[0].replace(name, MASKED)

    def hide_address(found: re.Match[str]) -> str:
        return hide(found) if _is_address(found["name"]) else found[0]

    text = _HOLDER.sub(r"\1 another", text)
    for pattern in (*([_QUOTED] if quoted else []), _NAMED, _LOOKUPS, _HOSTS, _IDS, _FOLDERS):
        text = pattern.sub(hide, text)
    return _ADDRESSES.sub(hide_address, text)


def masked(view: Service) -> Service:
    """Return a run with masked errors; those of its attempts are masked as they come."""
    last = view.last_exit
    if not any((view.error, last and last.error, *(task.error for task in view.tasks))):
        return view
    mask_one = masker(view)

    def hide(error: str | None) -> str | None:
        return None if error is None else mask_one(error)

    return msgspec.structs.replace(
        view,
        error=hide(view.error),
        last_exit=last and msgspec.structs.replace(last, error=hide(last.error)),
        tasks=[
            task if task.error is None else msgspec.structs.replace(task, error=hide(task.error)) for task in view.tasks
        ],
    )


def masker(view: Service) -> Callable[[str], str]:
    """Return what masks an error of a run. Quoted names stay: they are of its own command, entrypoint and the like."""
    own = [view.id, view.name, view.image, view.command or [], view.labels]
    own += [[task.id, task.container_id or "", task.node_id or ""] for task in view.tasks]
    return lambda error: mask(error, own, quoted=False)


def _is_address(text: str) -> bool:
    """Return whether a text is an address; a time of day has colons too."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (key, *_strings(each))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)
    elif value is not None:
        yield str(value)
