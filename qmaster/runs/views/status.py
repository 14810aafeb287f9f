"""Pure: views of Swarm's services, tasks and nodes.

The tasks that count are those of ``docker service ls``. Replicated services and replicated jobs have slots, which begin
at 0 for a job; global services and global jobs have one task on each node. An update of a job runs it again, as a new
iteration with its own tasks. Swarm keeps five tasks of a slot, so the last view has the count of older attempts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from ...engine.labels import CALLBACK, END, FUNCTION, FUNCTION_NUMBER, IDLE, MIB, OWNER, SPEC, TIMEOUT, TTL, UPDATED
from ...models.requests import LABEL_PREFIX, MAX_SECONDS
from ...models.responses import (
    NO_SPEC,
    FunctionRef,
    LastExit,
    Node,
    Reason,
    Replicas,
    Reserved,
    Result,
    Service,
    Status,
    Task,
)

Json = Mapping[str, Any]
Counts = Mapping[tuple[int, str], int]  # by slot or node

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
NODE_LOST = 255  # the exit code of a task whose node came back without it
LONG_AGO = datetime.min.replace(tzinfo=UTC)
NO_TIME = "0001-01-01T00:00:00Z"  # Go's zero time
# Swarm creates the next task in the transaction that records the end of the last. This time only serves where the
# five tasks that Swarm keeps do not show whether a restart is due (see _restart_due).
RESTART_NOTICED = timedelta(seconds=10)
RESTART_DELAY = timedelta(seconds=5)  # Swarm's default
# A task that has not ended so long after its grace period, its own or Docker's, is on an unreachable node.
GRACE, AFTER_GRACE = timedelta(seconds=10), timedelta(seconds=5)
# Swarm's message for a task that it killed as unhealthy, before or after the first check passed (cluster/executor).
_UNHEALTHY = re.compile(r"(?:task: non-zero exit \([0-9]{1,10}\): )?(?:dockerexec: )?unhealthy container")
_NUMBER = re.compile(r"[0-9]{1,9}")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)s")


class Verdict(NamedTuple):
    """The status of a run with its reason, error and exit code."""

    status: Status
    reason: Reason | None = None
    error: str | None = None
    exit_code: int | None = None


def service(
    raw: Json,
    tasks: Collection[Json],
    nodes: Mapping[str, Json],
    now: datetime,
    before: Service | None = None,
    node_was_down: bool = False,
) -> Service:
    """Return the view of a Swarm service.

    Args:
        raw: the service, as Docker lists it.
        tasks: its tasks, as Docker lists them.
        nodes: the swarm's nodes by id.
        now: the current time, with a zone.
        before: the last view, which has the start that an ended task no longer shows.
        node_was_down: whether a node that it ran on was down since it started.
    """
    spec = raw["Spec"]
    template = spec["TaskTemplate"]
    container = template.get("ContainerSpec") or {}
    limits = (template.get("Resources") or {}).get("Limits") or {}
    labels = spec.get("Labels") or {}
    told_to_end = labels.get(END) if labels.get(END) in (IDLE, UPDATED) else None
    ending = None if told_to_end else labels.get(END)
    overdue = ending is not None and now - (parse_time(raw.get("UpdatedAt")) or now) > ends_within(raw)
    # When a service is being ended, replacement tasks wait for a node that does not exist.
    started = _without_unstarted(tasks, spec) if ending else tasks
    replaced = len(started) < len(tasks)
    current = newest(started if ending else counted(raw, started, nodes), is_per_node(spec))
    desired = desired_tasks(spec, current)
    verdict = judge(current, spec, nodes, desired, now, _history(tasks, spec))
    if ending:
        out_of_reach = overdue and all(_phase(t, spec, nodes, now, {}) != "running" for t in current)
        verdict = _ending(current, ending, out_of_reach, None if replaced else verdict)
    elif node_was_down and verdict.exit_code == NODE_LOST:
        verdict = verdict._replace(reason="node_down")
    if told_to_end and verdict.status in ("complete", "failed"):
        verdict = Verdict("complete", "update" if told_to_end == UPDATED else "idle", None, verdict.exit_code)
    ended = verdict.status in ("complete", "failed") or (verdict.status == "stopping" and _all_ended(current))
    return make_view(
        verdict,
        labels,
        before.result if before and ended else None,
        id=raw["ID"],
        type="service",
        name=spec["Name"],
        image=container.get("Image", ""),
        command=container.get("Args"),
        replicas=_replicas(current, desired),
        created_at=raw.get("CreatedAt"),
        started_at=_started(tasks, ended, before, _checks_health(container)),
        finished_at=_finished(raw, current) if ended else None,
        memory=mib(limits.get("MemoryBytes")),
        cpus=cores(limits.get("NanoCPUs")),
        tasks=[task(t, nodes, is_per_node(spec)) for t in current],
    )


def ends_within(raw: Json) -> timedelta:
    """Return how long the tasks of a service may take to end."""
    period = (raw["Spec"]["TaskTemplate"].get("ContainerSpec") or {}).get("StopGracePeriod")
    return (timedelta(microseconds=period / 1000) if isinstance(period, int) else GRACE) + AFTER_GRACE


def make_view(verdict: Verdict, labels: Mapping[str, str], result: Result | None, **fields: Any) -> Service:
    """Return the view of a run.

    Args:
        verdict: its status.
        labels: all of its labels, quartermaster's own among them.
        result: its result if it has ended and was read.
        fields: the rest of the view, which a service and a container show differently.
    """
    return Service(
        labels=own_labels(labels),
        owner=labels.get(OWNER),
        status=verdict.status,
        reason=verdict.reason,
        error=verdict.error,
        exit_code=verdict.exit_code,
        removed_at=None,
        timeout=duration(labels.get(TIMEOUT)),
        ttl=duration(labels.get(TTL)),
        callback=labels.get(CALLBACK) or None,
        function=_function(labels),
        spec=_spec(labels),
        result=result,
        **fields,
    )


def with_attempts(shown: Service, raw: Json, tasks: Collection[Json], before: Service | None) -> Service:
    """Return the view of a service with its attempts counted.

    Args:
        shown: the view without attempts.
        raw: the service, as Docker lists it.
        tasks: its tasks, as Docker lists them.
        before: the last view; its tasks, and all older ones of their slots, are counted.
    """
    previous = frozenset(task.id for task in before.tasks) if before else frozenset()
    current = frozenset(task.id for task in shown.tasks)
    chains = _by_place(counted(raw, tasks, {}), is_per_node(raw["Spec"]))
    passed = [task for chain in chains for task in _between(chain, previous, current)]
    fresh = [task for task in passed if task["Status"]["State"] in ENDED]
    last = before.last_exit if before else None
    if fresh:
        last = _exit_of(max(fresh, key=updated))
    return msgspec.structs.replace(shown, restarts=(before.restarts if before else 0) + len(fresh), last_exit=last)


def begun_again(shown: Service, before: Service | None, known: Collection[str]) -> bool:
    """Return whether a service has a new task; ``known`` are the ids of the tasks listed before."""
    previous = {task.id for task in before.tasks} if before else set()
    return any(task.id not in previous and task.id not in known for task in shown.tasks)


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
        error=status.get("Err") or None,
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


def judge(
    current: list[Json],
    spec: Json,
    nodes: Mapping[str, Json],
    desired: int,
    now: datetime,
    history: Counts,
) -> Verdict:
    """Return the status of a service: the first that holds, over the newest task of each slot."""
    by_state: dict[str, list[Json]] = {}
    for raw in current:
        by_state.setdefault(_phase(raw, spec, nodes, now, history), []).append(raw)
    if "running" in by_state:
        return Verdict("running")
    if "unknown" in by_state:
        return Verdict("unknown", "node_down", "the node it runs on is down")
    if "preparing" in by_state:
        return Verdict("preparing")
    if "pending" in by_state or len(current) < desired:
        return _pending(by_state.get("pending", []))
    if not current and is_per_node(spec):
        return Verdict("pending")  # no node fits
    failures = by_state.get("failed", [])
    if failures:
        return _failed(min(failures, key=updated))
    return Verdict("complete", "exit", None, 0) if current else Verdict("complete")


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


def grown(known: Json | None, listed: Json) -> Json:
    """Return the later of two readings of a task, by its state: an older listing may arrive later."""
    if known is None or _rank(listed) >= _rank(known):
        return listed
    return known


def has_container(raw: Json) -> bool:
    """Return whether a task had a container, so that it may have output."""
    return bool((raw["Status"].get("ContainerStatus") or {}).get("ContainerID"))


OVER = frozenset({"complete", "failed", "removed"})  # final statuses


def has_ended(view: Service) -> bool:
    """Return whether a run has ended and will not start again, so that its output is complete."""
    if view.status == "stopping":
        return view.finished_at is not None
    return view.status in ("complete", "failed")


def came_to_nothing(view: Service) -> bool:
    """Return whether the run is a container that could not be started, and was removed before it was acknowledged.

    For a service this cannot be known: it may have run between two looks.
    """
    never = view.type == "container" and view.started_at is None and view.reason != "stopped"
    return never and view.status == "removed"


def nothing_runs(view: Service) -> bool:
    """Return whether all tasks have ended, or are on no node.

    A task on a node may already run, as its agent reports that 0.1 s later.
    """
    return all(task.state in TERMINAL or task.node_id is None for task in view.tasks)


def duration(text: str | None) -> float | None:
    """Return the seconds of a label such as ``1.5s``; None for anything else."""
    found = _DURATION.fullmatch(text or "")
    seconds = float(found[1]) if found else None
    return None if seconds is None or seconds > MAX_SECONDS else seconds  # other clients can set labels


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels without quartermaster's own."""
    return {key: value for key, value in labels.items() if not key.startswith(LABEL_PREFIX)}


def _function(labels: Mapping[str, str]) -> FunctionRef | None:
    """Return the function that a service is an instance of; any client can set labels."""
    name, number = labels.get(FUNCTION), labels.get(FUNCTION_NUMBER, "")
    return FunctionRef(name, int(number)) if name and _NUMBER.fullmatch(number) else None


def _spec(labels: Mapping[str, str]) -> msgspec.Raw:
    """Return the fields that a run was started with; any client can set labels."""
    try:
        spec = msgspec.json.decode(labels.get(SPEC, ""), type=dict[str, Any])
    except msgspec.DecodeError:
        return NO_SPEC
    return msgspec.Raw(msgspec.json.encode(spec))


def _without_unstarted(tasks: Collection[Json], spec: Json) -> Collection[Json]:
    """Leave out the tasks that never ran, so that an earlier task of their slot is the newest.

    They wait, had no container, or were shut down within the restart delay, for which Docker shows exit code 0.
    """
    policy = spec["TaskTemplate"].get("RestartPolicy") or {}
    delay = RESTART_DELAY if policy.get("Delay") is None else timedelta(microseconds=policy["Delay"] / 1000)
    ended: dict[tuple[int, str], Json] = {}  # the last task of each slot or node that was not ended by Swarm
    started: list[Json] = []
    by_node = is_per_node(spec)
    for raw in sorted(tasks, key=age):
        state, before = raw["Status"]["State"], ended.get(place(raw, by_node))
        early = before is not None and updated(raw) - updated(before) < delay
        if state in WAITING or (state == "shutdown" and early and not exit_code(raw)):
            continue
        if before is not None and has_container(before) and state in TERMINAL and not has_container(raw):
            continue
        started.append(raw)
        if state in ENDED:
            ended[place(raw, by_node)] = raw
    return started


def _phase(raw: Json, spec: Json, nodes: Mapping[str, Json], now: datetime, history: Counts) -> str:
    state = raw["Status"]["State"]
    if state == "running":
        node = nodes.get(raw.get("NodeID") or "") or {}
        return "unknown" if (node.get("Status") or {}).get("State") == "down" else "running"
    if state in WAITING or raw.get("DesiredState") == "ready":  # "ready": waits for the restart delay
        return "pending"
    if state in PREPARING:
        return "preparing"
    if _restart_due(raw, spec, now, history):
        return "pending"
    return "complete" if state == "complete" else "failed"


def _started(tasks: Collection[Json], ended: bool, before: Service | None, checks_health: bool) -> str | None:
    """Return when a service first ran; an ended task no longer shows its start.

    If a service keeps restarting, and each task is too short to be seen running, the end of the first one counts as the
    start. With a HEALTHCHECK, a task whose container runs is ``starting`` until the first check passes.
    """
    states = ("running",) if ended else ("running", "complete", "failed")
    if checks_health:
        states = (*states, "starting")
    first = min((t for t in tasks if t["Status"]["State"] in states and _ran(t)), key=updated, default=None)
    found = first["Status"].get("Timestamp") if first else None
    known = before.started_at if before is not None else None
    # Tasks are not seen in the order of their starts: of several replicas an earlier one may show later.
    return min(filter(None, (known, found)), key=_moment, default=None)


def _moment(timestamp: str) -> datetime:
    return parse_time(timestamp) or datetime.max.replace(tzinfo=UTC)


def _ran(raw: Json) -> bool:
    if raw["Status"]["State"] == "starting":
        return has_container(raw)
    return raw["Status"]["State"] == "running" or exit_code(raw) is not None


def _checks_health(container: Json) -> bool:
    """Return whether a health check may be on; without one in the spec, it may be in the image."""
    return (container.get("Healthcheck") or {}).get("Test") != ["NONE"]


def _finished(raw: Json, current: list[Json]) -> str | None:
    """Return when a service ended. ``cache.keep`` keeps the first value, as a restart of an engine moves it."""
    last = max(current, key=updated, default=None)
    if last is not None and not _all_ended(current):  # unreachable: the time of the ending update
        return raw.get("UpdatedAt")
    return last["Status"].get("Timestamp") if last else None


def _ending(current: list[Json], ending: str, out_of_reach: bool, otherwise: Verdict | None) -> Verdict:
    """Return the status of a service that quartermaster is ending.

    Args:
        current: its newest tasks that have run.
        ending: why it is being ended: ``stopped`` or ``timeout``.
        out_of_reach: whether the tasks that have not ended are overdue, and their nodes are down.
        otherwise: its status if it were not being ended; None if a restart was due.
    """
    reason: Reason = "timeout" if ending == "timeout" else "stopped"
    states = {t["Status"]["State"] for t in current}
    failures = [t for t in current if t["Status"]["State"] != "complete"]
    first = min(failures or current, key=updated, default=None)
    code = exit_code(first) if first else None
    if reason == "stopped" or not (states <= TERMINAL or out_of_reach):
        return Verdict("stopping", reason, None, code)
    if otherwise is not None and otherwise.status in ("complete", "failed") and not states & {"shutdown", "remove"}:
        return otherwise  # it ended by itself: a task that Swarm ends is ``shutdown``, whatever its exit code
    return Verdict("failed", reason, None, code)


def _all_ended(current: list[Json]) -> bool:
    return all(t["Status"]["State"] in TERMINAL for t in current)


def _restart_due(raw: Json, spec: Json, now: datetime, history: Counts) -> bool:
    """Return whether Swarm will replace this task."""
    policy = spec["TaskTemplate"].get("RestartPolicy") or {}
    condition = policy.get("Condition") or "any"
    if is_job(spec):
        return raw["Status"]["State"] != "complete" and tries_again(spec, condition)
    if condition == "none" or (condition == "on-failure" and raw["Status"]["State"] == "complete"):
        return False
    attempts = policy.get("MaxAttempts") or 0
    # With a window Swarm counts the latest ones only.
    if attempts and not policy.get("Window") and history.get(place(raw, is_per_node(spec)), 1) > attempts:
        return False
    # Swarm keeps five tasks of a slot: from five attempts on, the time decides, not the count.
    ended = parse_time(raw["Status"].get("Timestamp"))
    return not attempts or ended is None or now - ended < RESTART_NOTICED


def _pending(waiting: list[Json]) -> Verdict:
    error = next((t["Status"]["Err"] for t in waiting if t["Status"].get("Err")), None)
    if error and "no suitable node" in error:
        return Verdict("pending", "unschedulable", error)
    return Verdict("pending", None, error)


def _failed(raw: Json) -> Verdict:
    state, error, code = raw["Status"]["State"], raw["Status"].get("Err") or None, exit_code(raw)
    if state == "orphaned":
        return Verdict("failed", "orphaned", error, code)
    if state == "rejected":
        return Verdict("failed", _rejection(error or ""), error, code)
    if state in ("shutdown", "remove"):
        return Verdict("failed", "stopped", error, code)
    if _UNHEALTHY.fullmatch(error or ""):
        return Verdict("failed", "unhealthy", error, code)
    return Verdict("failed", "exit", error, code)


# Text that a caller has chosen: in quotes, a path or a reference, and the name of a missing image.
_NAMED = re.compile(r'"[^"]*"|(?<![^\s"])[^\s"/]*/\S*|(?<=no such image: )\S+')


def _rejection(error: str) -> Reason:
    text = _NAMED.sub(" ", error.lower())
    if re.search(r"unauthorized|denied|authentication required|no basic auth", text):
        return "registry_auth"
    if re.search(r"no such image|not found|manifest unknown|invalid reference", text):
        return "image_not_found"
    return "rejected"


def exit_code(raw: Json) -> int | None:
    """Return the exit code, in terminal states only: while a task runs, Docker shows 0 or -1."""
    inner = raw["Status"].get("ContainerStatus") or {}
    if raw["Status"]["State"] not in TERMINAL or not has_container(raw):
        return None
    code = int(inner.get("ExitCode", 0))
    # A task whose container was lost before it ran is ``failed`` ("No such container") with 0 (measured on 20.10).
    return None if code == 0 and raw["Status"]["State"] == "failed" else code


def _replicas(current: list[Json], desired: int) -> Replicas:
    states = [t["Status"]["State"] for t in current]
    complete = states.count("complete")
    return Replicas(
        desired=desired,
        running=states.count("running"),
        complete=complete,
        failed=sum(state in TERMINAL for state in states) - complete,
    )


def _history(tasks: Iterable[Json], spec: Json) -> Counts:
    """Return the number of tasks of each slot or node that Swarm has kept."""
    return Counter(place(raw, is_per_node(spec)) for raw in tasks)


def _rank(raw: Json) -> tuple[int, int]:
    state = raw["Status"]["State"]
    return ORDER.index(state) if state in ORDER else len(ORDER), (raw.get("Version") or {}).get("Index", 0)


def age(raw: Json) -> tuple[str, int]:
    """Return a sort key for Docker's objects, the oldest first."""
    return (raw.get("CreatedAt") or "", (raw.get("Version") or {}).get("Index", 0))


def updated(raw: Json) -> datetime:
    """Return when a task's state last changed; Docker's text does not sort, as it has no trailing zeros."""
    return parse_time(raw["Status"].get("Timestamp")) or LONG_AGO


def parse_time(text: str | None) -> datetime | None:
    """Parse Docker's RFC 3339 with up to nine decimals; return None for no time and for Go's zero time."""
    if not text or text == NO_TIME:
        return None
    whole, _, rest = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{rest[:6].ljust(6, '0')}").replace(tzinfo=UTC)


def present(text: str | None) -> str | None:
    """Return Docker's time unchanged, None for Go's zero time."""
    return None if not text or text == NO_TIME else text


def mib(octets: int | None) -> int | None:
    """Return bytes as MiB, None for none."""
    return octets // MIB if octets else None


def cores(nano: int | None) -> float | None:
    """Return Docker's nano CPUs as cores, None for none."""
    return nano / 1e9 if nano else None


def _by_place(tasks: Iterable[Json], by_node: bool) -> Iterable[list[Json]]:
    """Return the tasks of each slot or node, the oldest first."""
    chains: dict[tuple[int, str], list[Json]] = {}
    for raw in sorted(tasks, key=age):
        chains.setdefault(place(raw, by_node), []).append(raw)
    return chains.values()


def _between(chain: list[Json], previous: Collection[str], current: Collection[str]) -> list[Json]:
    """Return the tasks from the one in the last view up to, not including, the one in the new view."""
    start = next((at for at, raw in enumerate(chain) if raw["ID"] in previous), 0)
    end = next((at for at, raw in enumerate(chain) if raw["ID"] in current), len(chain) - 1)
    return chain[start:end]


def _exit_of(raw: Json) -> LastExit:
    status = raw["Status"]
    return LastExit(exit_code(raw), status.get("Err") or None, status.get("Timestamp"))
