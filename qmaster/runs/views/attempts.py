"""Pure: the attempts of a run that is restarted, each with its exit code and its times.

Swarm keeps five tasks of a slot, and Docker a container's last end, so a view adds to the attempts of the last view.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from ...engine.subfolders import explained
from ...models.responses import Attempt, LastExit, Service
from ...models.units import parse_time, present
from .task_status import ENDED, counted, exit_code, is_job, tries_again, updated

Json = Mapping[str, Any]
Attempts = tuple[Attempt, ...]

MOST = 20  # the newest attempts that a view has
MAX_ERROR = 200  # characters of an attempt's error


def of_service(raw: Json, tasks: Collection[Json], before: Service | None, hide: Callable[[str], str]) -> Attempts:
    """Return the attempts of a service that have ended; none if it is not restarted.

    Args:
        raw: the service, as Docker lists it.
        tasks: its tasks, as Docker lists them.
        before: the last view, whose attempts stay as they are, and whose tasks show when the ended ones started.
        hide: masks an error.
    """
    told = before.attempts if before else ()
    if not _restarts(raw["Spec"]):
        return told
    known = {attempt.task for attempt in told}
    fresh = [
        task
        for task in counted(raw, tasks, {})
        if task["Status"]["State"] in ENDED and task["ID"] not in known and (len(told) < MOST or _is_later(task, told))
    ]
    if not fresh:
        return told
    starts = {task.id: task.updated_at for task in before.tasks if task.state == "running"} if before else {}
    return add(told, *(_of_task(task, starts.get(task["ID"]), hide) for task in sorted(fresh, key=updated)))


def of_container(raw: Json, last: LastExit | None, before: Service | None) -> Attempts:
    """Return the attempts of a container that have ended; none if Docker does not restart it.

    Args:
        raw: the container, as Docker inspects it.
        last: how the last attempt ended that was followed by another, as far as Docker shows it.
        before: the last view.
    """
    told = before.attempts if before else ()
    if ((raw["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no") == "no":
        return told
    state = raw["State"]
    started = present(state.get("StartedAt"))
    if state.get("Status") == "exited":
        last = LastExit(state.get("ExitCode"), explained(state.get("Error")), present(state.get("FinishedAt")))
    elif state.get("Status") != "restarting":  # it runs again, so Docker shows the start of the next attempt
        started = None
    if last is None or last.finished_at is None:
        return told
    ended = Attempt(None, started, last.finished_at, last.exit_code, last.error)
    if told and told[-1].finished_at == ended.finished_at:
        if told[-1].exit_code is not None or ended.exit_code is None:
            return told
        told = told[:-1]  # Docker shows the exit code only while the container waits
    return add(told, ended)


def add(told: Attempts, *fresh: Attempt) -> Attempts:
    """Return some attempts with further ones, the newest last."""
    return tuple(sorted((*told, *fresh), key=lambda each: _moment(each.finished_at))[-MOST:])


def _restarts(spec: Json) -> bool:
    condition = (spec["TaskTemplate"].get("RestartPolicy") or {}).get("Condition") or "any"
    return tries_again(spec, condition) if is_job(spec) else condition != "none"


def _is_later(task: Json, told: Attempts) -> bool:
    """Return whether a task is not one of the attempts that are no longer shown."""
    return _moment(task["Status"].get("Timestamp")) > _moment(told[0].finished_at)


def _of_task(raw: Json, started_at: str | None, hide: Callable[[str], str]) -> Attempt:
    error = explained(raw["Status"].get("Err"))
    ended_at = raw["Status"].get("Timestamp")
    return Attempt(raw["ID"], started_at, ended_at, exit_code(raw), hide(error)[:MAX_ERROR] if error else None)


def _moment(text: str | None) -> float:
    time = parse_time(text)
    return time.timestamp() if time else 0.0


def with_attempts(view: Service, attempts: Attempts) -> Service:
    """Return the view of a run with these attempts."""
    return view if view.attempts == attempts else msgspec.structs.replace(view, attempts=attempts)
