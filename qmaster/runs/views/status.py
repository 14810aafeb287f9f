"""Pure: views of Swarm's services, and their statuses.

Swarm keeps five tasks of a slot, so the last view has the count of older attempts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from ...engine.labels import END, IDLE, UPDATED
from ...engine.subfolders import explained
from ...models.responses import LastExit, Reason, Replicas, Service
from ...models.units import cores, mib, parse_time
from .run_view import Verdict, make_view
from .task_status import (
    ENDED,
    PREPARING,
    TERMINAL,
    WAITING,
    age,
    counted,
    desired_tasks,
    exit_code,
    has_container,
    is_job,
    is_per_node,
    newest,
    place,
    task,
    tries_again,
    updated,
)

Json = Mapping[str, Any]
Counts = Mapping[tuple[int, str], int]  # by slot or node
NODE_LOST = 255  # the exit code of a task whose node came back without it
# Swarm creates the next task in the transaction that records the end of the last. This time only serves where the
# five tasks that Swarm keeps do not show whether a restart is due (see _restart_due).
RESTART_NOTICED = timedelta(seconds=10)
RESTART_DELAY = timedelta(seconds=5)  # Swarm's default
# A task that has not ended so long after its grace period, its own or Docker's, is on an unreachable node.
GRACE, AFTER_GRACE = timedelta(seconds=10), timedelta(seconds=5)
# Swarm's message for a task that it killed as unhealthy, before or after the first check passed (cluster/executor).
_UNHEALTHY = re.compile(r"(?:task: non-zero exit \([0-9]{1,10}\): )?(?:dockerexec: )?unhealthy container")


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


def ends_within(raw: Json | None) -> timedelta:
    """Return how long the tasks of a service may take to end; None: of one whose spec is not known."""
    period = (raw["Spec"]["TaskTemplate"].get("ContainerSpec") or {}).get("StopGracePeriod") if raw else None
    return (timedelta(microseconds=period / 1000) if isinstance(period, int) else GRACE) + AFTER_GRACE


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
    """Return when a service ended. ``run_view.keep`` keeps the first value, as a restart of an engine moves it."""
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
    state, said, code = raw["Status"]["State"], raw["Status"].get("Err") or "", exit_code(raw)
    error = explained(said)
    if state == "orphaned":
        return Verdict("failed", "orphaned", error, code)
    if state == "rejected":
        return Verdict("failed", _rejection(said), error, code)
    if state in ("shutdown", "remove"):
        return Verdict("failed", "stopped", error, code)
    if _UNHEALTHY.fullmatch(said):
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
    return LastExit(exit_code(raw), explained(raw["Status"].get("Err")), raw["Status"].get("Timestamp"))
