"""Pure: Swarm's services, tasks and nodes → what quartermaster says of them.

Which tasks count follows ``docker service ls``. A replicated service and a replicated job have slots, those of a job
beginning at 0; a global service and a global job have a task on each node. A job that is updated runs once more: each
time is an iteration with tasks of its own. Swarm keeps five tasks of a slot, so attempts that are gone are counted in
the view before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from ..engine.labels import END, MIB, OWNER, TIMEOUT, TTL
from ..models.requests import LABEL_PREFIX, MAX_SECONDS
from ..models.responses import LastExit, Node, Reason, Replicas, Reserved, Service, Status, Task

Json = Mapping[str, Any]
Counts = Mapping[tuple[int, str], int]  # by slot or node

WAITING = frozenset({"new", "allocated", "pending", "assigned", "accepted"})
PREPARING = frozenset({"preparing", "ready", "starting"})
TAKEN_AWAY = frozenset({"shutdown", "remove", "orphaned"})
ENDED = frozenset({"complete", "failed", "rejected"})  # of their own accord
TERMINAL = TAKEN_AWAY | ENDED

# Swarmkit's (api/types.proto), as they follow each other: a state only grows.
ORDER = (
    *("new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"),
    *("complete", "shutdown", "failed", "rejected", "remove", "orphaned"),
)
NODE_LOST = 255  # what Swarm says of a task whose node came back without it
LONG_AGO = datetime.min.replace(tzinfo=UTC)
NO_TIME = "0001-01-01T00:00:00Z"  # Go's zero time
# Swarm makes the task that takes over in the same transaction as it sees the end; this only covers what a listing
# of a history cut at five tasks cannot tell (see _restart_due).
RESTART_NOTICED = timedelta(seconds=10)
RESTART_DELAY = timedelta(seconds=5)  # Swarm's own default
# Docker's own stop grace period of 10 s, and 5 s: what has not ended by then is on a node that is out of reach.
ENDED_WITHIN = timedelta(seconds=15)
# Swarm's words where it has killed a task: before its first check has passed, or after (moby, cluster/executor).
_UNHEALTHY = re.compile(r"(?:task: non-zero exit \([0-9]{1,10}\): )?(?:dockerexec: )?unhealthy container")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)s")


class Verdict(NamedTuple):
    """What the tasks of a service say of it."""

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
    """A Swarm service as quartermaster shows it.

    Args:
        raw: the service, as Docker lists it.
        tasks: its tasks, as Docker lists them.
        nodes: the swarm's nodes by id.
        now: the present time, with a zone.
        before: what was last said of it: a task that has ended no longer tells when it started.
        node_was_down: whether a node that it ran on was down since it started.
    """
    spec = raw["Spec"]
    template = spec["TaskTemplate"]
    container = template.get("ContainerSpec") or {}
    limits = (template.get("Resources") or {}).get("Limits") or {}
    labels = spec.get("Labels") or {}
    ending = labels.get(END)
    overdue = ending is not None and now - (parse_time(raw.get("UpdatedAt")) or now) > ENDED_WITHIN
    # What replaces the tasks of a service that is being ended waits for a node that there is not.
    begun = _begun(tasks, spec) if ending else tasks
    replaced = len(begun) < len(tasks)
    current = newest(begun if ending else counted(raw, begun, nodes), is_per_node(spec))
    desired = desired_tasks(spec, current)
    verdict = judge(current, spec, nodes, desired, now, _history(tasks, spec))
    if ending:
        out_of_reach = overdue and all(_phase(t, spec, nodes, now, {}) != "running" for t in current)
        verdict = _ending(current, ending, out_of_reach, None if replaced else verdict)
    elif node_was_down and verdict.exit_code == NODE_LOST:
        verdict = verdict._replace(reason="node_down")
    ended = verdict.status in ("complete", "failed") or (verdict.status == "stopping" and _all_ended(current))
    return Service(
        id=raw["ID"],
        type="service",
        name=spec["Name"],
        image=container.get("Image", ""),
        command=container.get("Args"),
        labels=own_labels(labels),
        owner=labels.get(OWNER),
        status=verdict.status,
        reason=verdict.reason,
        error=verdict.error,
        exit_code=verdict.exit_code,
        replicas=_replicas(current, desired),
        created_at=raw.get("CreatedAt"),
        started_at=_started(tasks, ended, before, _checks_health(container)),
        finished_at=_finished(raw, current) if ended else None,
        removed_at=None,
        memory=mib(limits.get("MemoryBytes")),
        cpus=cores(limits.get("NanoCPUs")),
        timeout=duration(labels.get(TIMEOUT)),
        ttl=duration(labels.get(TTL)),
        tasks=[task(t, nodes, is_per_node(spec)) for t in current],
        result=before.result if before and ended else None,
    )


def with_attempts(shown: Service, raw: Json, tasks: Collection[Json], before: Service | None) -> Service:
    """The view of a service with its attempts counted.

    Args:
        shown: the service as it is.
        raw: the service, as Docker lists it.
        tasks: its tasks, as Docker lists them.
        before: what was last said of it. What it showed of each slot, and all older tasks there, is counted.
    """
    told = frozenset(task.id for task in before.tasks) if before else frozenset()
    current = frozenset(task.id for task in shown.tasks)
    chains = _by_place(counted(raw, tasks, {}), is_per_node(raw["Spec"]))
    fresh = [task for chain in chains for task in _between(chain, told, current) if task["Status"]["State"] in ENDED]
    last = before.last_exit if before else None
    if fresh:
        last = _exit_of(max(fresh, key=updated))
    return msgspec.structs.replace(shown, restarts=(before.restarts if before else 0) + len(fresh), last_exit=last)


def begun_again(shown: Service, before: Service | None, known: Collection[str]) -> bool:
    """Whether a service has a task that it had not before; ``known`` are the ids of those that were listed."""
    told = {task.id for task in before.tasks} if before else set()
    return any(task.id not in told and task.id not in known for task in shown.tasks)


def task(raw: Json, nodes: Mapping[str, Json], by_node: bool = False) -> Task:
    """A task as quartermaster shows it; ``by_node``: it is one of a node, which has no slots."""
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
    """The newest task of each slot, or of each node, in their order.

    While an update starts the new task first, or its new tasks fail, it is the one that still runs.
    """
    latest: dict[tuple[int, str], Json] = {}
    for raw in sorted(tasks, key=age):
        key = place(raw, by_node)
        if key not in latest or not _runs_on(latest[key]) or raw["Status"]["State"] == "running":
            latest[key] = raw
    return [latest[key] for key in sorted(latest)]


def _runs_on(raw: Json) -> bool:
    """Whether a task runs and is to."""
    return bool(raw["Status"]["State"] == raw.get("DesiredState") == "running")


def is_per_node(spec: Json) -> bool:
    """Whether a service has a task on each node, and no slots."""
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
    tasks = [raw for raw in tasks if raw.get("DesiredState") != "remove" or raw["Status"]["State"] not in TERMINAL]
    if not is_per_node(spec):
        return tasks
    fits = {node_id for node_id, raw in nodes.items() if _takes_tasks(raw)}
    return [raw for raw in tasks if raw["Status"]["State"] not in TAKEN_AWAY or raw.get("NodeID", "") in fits]


def desired_tasks(spec: Json, current: Collection[Json]) -> int:
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
    """The status of a service: over the newest task of each slot, the first that holds."""
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
    """A node as quartermaster shows it."""
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
    """What one task of a service reserves: MiB and cores."""
    wanted = (raw["Spec"]["TaskTemplate"].get("Resources") or {}).get("Reservations") or {}
    return mib(wanted.get("MemoryBytes")) or 0, cores(wanted.get("NanoCPUs")) or 0.0


def grown(known: Json | None, listed: Json) -> Json:
    """Of two readings of one task the later: states only grow, and an older listing may come last."""
    if known is None or _rank(listed) >= _rank(known):
        return listed
    return known


def has_container(raw: Json) -> bool:
    """Whether a task came so far that it may have said something."""
    return bool((raw["Status"].get("ContainerStatus") or {}).get("ContainerID"))


OVER = frozenset({"complete", "failed", "removed"})  # statuses after which nothing more is to come


def has_ended(view: Service) -> bool:
    """Whether it runs no more and will not again, so that what it said can be read."""
    if view.status == "stopping":
        return view.finished_at is not None
    return view.status in ("complete", "failed")


def came_to_nothing(view: Service) -> bool:
    """Whether it is a container that could not be started, and was taken back before anyone was told of it.

    Of a service nobody knows that: it may have begun and ended between two looks.
    """
    never = view.type == "container" and view.started_at is None and view.reason != "stopped"
    return never and view.status == "removed"


def nothing_runs(view: Service) -> bool:
    """Whether all its tasks have ended, or are on no node.

    One that has a node may run already: its agent tells of it a tenth of a second later.
    """
    return all(task.state in TERMINAL or task.node_id is None for task in view.tasks)


def duration(text: str | None) -> float | None:
    """Seconds, as a label of ours has them: ``1.5s``; None for anything else."""
    found = _DURATION.fullmatch(text or "")
    seconds = float(found[1]) if found else None
    return None if seconds is None or seconds > MAX_SECONDS else seconds  # labels can be set past us


def own_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The caller's labels: without quartermaster's."""
    return {key: value for key, value in labels.items() if not key.startswith(LABEL_PREFIX)}


def _begun(tasks: Collection[Json], spec: Json) -> Collection[Json]:
    """Without those that never ran where another may have before: that one ran last.

    They wait, or had no container, or were shut down before the delay of their restart was over: of these Docker says
    exit code 0.
    """
    policy = spec["TaskTemplate"].get("RestartPolicy") or {}
    delay = RESTART_DELAY if policy.get("Delay") is None else timedelta(microseconds=policy["Delay"] / 1000)
    ended: dict[tuple[int, str], Json] = {}  # what ended last, of its own accord
    begun: list[Json] = []
    by_node = is_per_node(spec)
    for raw in sorted(tasks, key=age):
        state, before = raw["Status"]["State"], ended.get(place(raw, by_node))
        early = before is not None and updated(raw) - updated(before) < delay
        if state in WAITING or (state == "shutdown" and early and not exit_code(raw)):
            continue
        if before is not None and has_container(before) and state in TERMINAL and not has_container(raw):
            continue
        begun.append(raw)
        if state in ENDED:
            ended[place(raw, by_node)] = raw
    return begun


def _phase(raw: Json, spec: Json, nodes: Mapping[str, Json], now: datetime, history: Counts) -> str:
    state = raw["Status"]["State"]
    if state == "running":
        node = nodes.get(raw.get("NodeID") or "") or {}
        return "unknown" if (node.get("Status") or {}).get("State") == "down" else "running"
    if state in WAITING or raw.get("DesiredState") == "ready":  # "ready" waits for its restart's delay
        return "pending"
    if state in PREPARING:
        return "preparing"
    if _restart_due(raw, spec, now, history):
        return "pending"
    return "complete" if state == "complete" else "failed"


def _started(tasks: Collection[Json], ended: bool, before: Service | None, checks_health: bool) -> str | None:
    """When it first ran: a task that has ended no longer tells.

    What runs again and again, each time too short to be seen, has run when one of its tasks had ended: its timeout
    counts from there. With a HEALTHCHECK, a task whose container runs is ``starting`` until the first check passes.
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
    """Whether a check of its image, or one of its own, may be on; the image alone knows."""
    return (container.get("Healthcheck") or {}).get("Test") != ["NONE"]


def _finished(raw: Json, current: list[Json]) -> str | None:
    """When it ended, by this reading; the first one stays (``ends``): an engine's restart moves the timestamps."""
    last = max(current, key=updated, default=None)
    if last is not None and not _all_ended(current):  # out of reach: nobody says when, but when it was told to end
        return raw.get("UpdatedAt")
    return last["Status"].get("Timestamp") if last else None


def _ending(current: list[Json], ending: str, out_of_reach: bool, otherwise: Verdict | None) -> Verdict:
    """The status of a service that quartermaster is ending, from its tasks that have run.

    Args:
        out_of_reach: whether what has not ended had the time to, and its node is down.
        otherwise: what it would be if nobody had ended it; None where there was more to come.
    """
    reason: Reason = "timeout" if ending == "timeout" else "stopped"
    states = {t["Status"]["State"] for t in current}
    failures = [t for t in current if t["Status"]["State"] != "complete"]
    first = min(failures or current, key=updated, default=None)
    code = exit_code(first) if first else None
    if reason == "stopped" or not (states <= TERMINAL or out_of_reach):
        return Verdict("stopping", reason, None, code)
    if otherwise is not None and otherwise.status in ("complete", "failed") and not states & {"shutdown", "remove"}:
        return otherwise  # its end came before ours: what Swarm shuts down is ``shutdown``, whatever its exit code
    return Verdict("failed", reason, None, code)


def _all_ended(current: list[Json]) -> bool:
    return all(t["Status"]["State"] in TERMINAL for t in current)


def _restart_due(raw: Json, spec: Json, now: datetime, history: Counts) -> bool:
    """Whether Swarm will put another task in this one's place."""
    policy = spec["TaskTemplate"].get("RestartPolicy") or {}
    condition = policy.get("Condition") or "any"
    if is_job(spec):
        return raw["Status"]["State"] != "complete" and tries_again(spec, condition)
    if condition == "none" or (condition == "on-failure" and raw["Status"]["State"] == "complete"):
        return False
    attempts = policy.get("MaxAttempts") or 0
    if attempts and history.get(place(raw, is_per_node(spec)), 1) > attempts:
        return False
    # Swarm keeps five tasks of a slot: with as many attempts or more the count says nothing, the time does.
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


# What a caller has chosen: something quoted, a path or a reference, and the image that there is not.
_NAMED = re.compile(r'"[^"]*"|(?<![^\s"])[^\s"/]*/\S*|(?<=no such image: )\S+')


def _rejection(error: str) -> Reason:
    text = _NAMED.sub(" ", error.lower())
    if re.search(r"unauthorized|denied|authentication required|no basic auth", text):
        return "registry_auth"
    if re.search(r"no such image|not found|manifest unknown|invalid reference", text):
        return "image_not_found"
    return "rejected"


def exit_code(raw: Json) -> int | None:
    """The exit code, in terminal states only: while a task runs, Docker says 0 or -1."""
    inner = raw["Status"].get("ContainerStatus") or {}
    if raw["Status"]["State"] not in TERMINAL or not has_container(raw):
        return None
    code = int(inner.get("ExitCode", 0))
    # A task whose container was lost before it ran is failed, "No such container", with 0 (measured on 20.10).
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
    """How many tasks each place has had, as far as Swarm keeps them."""
    return Counter(place(raw, is_per_node(spec)) for raw in tasks)


def _rank(raw: Json) -> tuple[int, int]:
    state = raw["Status"]["State"]
    return ORDER.index(state) if state in ORDER else len(ORDER), (raw.get("Version") or {}).get("Index", 0)


def age(raw: Json) -> tuple[str, int]:
    """Return the key that sorts what Docker lists, the oldest first."""
    return (raw.get("CreatedAt") or "", (raw.get("Version") or {}).get("Index", 0))


def updated(raw: Json) -> datetime:
    """When its state last changed; Docker's text would not sort, as it has no trailing zeros."""
    return parse_time(raw["Status"].get("Timestamp")) or LONG_AGO


def parse_time(text: str | None) -> datetime | None:
    """Docker's RFC 3339 with up to nine decimals; None for none and for Go's zero time."""
    if not text or text == NO_TIME:
        return None
    whole, _, rest = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{rest[:6].ljust(6, '0')}").replace(tzinfo=UTC)


def present(text: str | None) -> str | None:
    """Return a time of Docker's, None for Go's zero time."""
    return None if not text or text == NO_TIME else text


def mib(octets: int | None) -> int | None:
    """Return MiB, None for none."""
    return octets // MIB if octets else None


def cores(nano: int | None) -> float | None:
    """Return cores, None for none."""
    return nano / 1e9 if nano else None


def _by_place(tasks: Iterable[Json], by_node: bool) -> Iterable[list[Json]]:
    """The tasks of each slot or node, the oldest first."""
    chains: dict[tuple[int, str], list[Json]] = {}
    for raw in sorted(tasks, key=age):
        chains.setdefault(place(raw, by_node), []).append(raw)
    return chains.values()


def _between(chain: list[Json], told: Collection[str], current: Collection[str]) -> list[Json]:
    """Those from the one that was shown last on, before the one that is shown now: it may be the last of all."""
    start = next((at for at, raw in enumerate(chain) if raw["ID"] in told), 0)
    end = next((at for at, raw in enumerate(chain) if raw["ID"] in current), len(chain) - 1)
    return chain[start:end]


def _exit_of(raw: Json) -> LastExit:
    status = raw["Status"]
    return LastExit(exit_code(raw), status.get("Err") or None, status.get("Timestamp"))
