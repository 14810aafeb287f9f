"""Pure: what was told of a run's end stays told, whatever the engine passes through afterwards.

Each new view of a run goes through ``keep``. A container that is being removed has no exit code any more, a task's
record goes before its service does, and a listing may be older than the last one.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from ..models.responses import LastExit, Service
from .status import OVER, parse_time


def keep(shown: Service, before: Service | None, begun_again: bool) -> Service:
    """A new view of a run, with all that was told of it before.

    Args:
        shown: the run as the engine tells of it now.
        before: the view before, None where there was none.
        begun_again: whether it has begun once more since ``before``.
    """
    if before is not None:
        shown = _with_history(shown, before, begun_again)
        if before.finished_at is not None and not begun_again:
            shown = _with_end(shown, before)
    return _in_order(_with_code_of_result(shown))


def tasks_begun_again(shown: Service, before: Service | None, known: Collection[str]) -> bool:
    """Whether a service has a task that it had not before; ``known`` are the ids of those that were listed."""
    told = {task.id for task in before.tasks} if before else set()
    return any(task.id not in told and task.id not in known for task in shown.tasks)


def container_begun_again(shown: Service, started_at: str | None, before: Service | None) -> bool:
    """Whether a container has started once more since its end was told.

    Docker may say of a very short one that it has started after its end: that moves only with another start.

    Args:
        started_at: when it started last, as Docker tells it.
    """
    if before is None or before.finished_at is None:
        return False
    if shown.status in ("running", "pending"):
        return True
    started, finished = parse_time(started_at), parse_time(before.finished_at)
    return bool(
        shown.finished_at and shown.finished_at != before.finished_at and started and finished and started > finished
    )


def _with_history(shown: Service, before: Service, begun_again: bool) -> Service:
    """What is never taken back, also of what has begun again."""
    restarts, last = max(shown.restarts, before.restarts), shown.last_exit or before.last_exit
    if begun_again and before.type == "container" and before.finished_at is not None and before.status != "removed":
        restarts = max(restarts, before.restarts + 1)
        last = LastExit(before.exit_code, before.error, before.finished_at)
    return msgspec.structs.replace(
        shown,
        started_at=before.started_at or shown.started_at,
        restarts=restarts,
        last_exit=last,
        result=None if begun_again else shown.result,  # what an attempt has said is not of the next one
    )


def _with_end(shown: Service, before: Service) -> Service:
    """What is known of the end by now is filled in, what was told of it stays."""
    stays = before.status in OVER and before.status != "removed" and not _is_taken_away(shown)
    passing = shown.finished_at is None  # the engine tells nothing of an end
    other = passing or {task.id for task in shown.tasks} != {task.id for task in before.tasks}
    return msgspec.structs.replace(
        shown,
        status=before.status if stays or (passing and not _is_taken_away(shown)) else shown.status,
        reason=before.reason or shown.reason,
        error=before.error or (None if passing else shown.error),
        exit_code=shown.exit_code if before.exit_code is None and not passing else before.exit_code,
        finished_at=before.finished_at,
        result=before.result or shown.result,
        tasks=before.tasks if other else shown.tasks,
        replicas=before.replicas if other or (stays and shown.status != before.status) else shown.replicas,
    )


def _is_taken_away(shown: Service) -> bool:
    return shown.status == "removed" or (shown.status == "stopping" and shown.reason == "stopped")


def _with_code_of_result(view: Service) -> Service:
    """An exit code that was read with the output is one that the run has ended with."""
    over = view.status in ("failed", "stopping", "removed")
    if view.exit_code is not None or view.result is None or view.result.exit_code is None or not over:
        return view
    return msgspec.structs.replace(view, exit_code=view.result.exit_code)


def _in_order(view: Service) -> Service:
    """Nothing starts after its end: Docker's times of very short containers, and clocks of two nodes, may say so."""
    started, finished = parse_time(view.started_at), parse_time(view.finished_at)
    if started is None or finished is None or started <= finished:
        return view
    return msgspec.structs.replace(view, started_at=view.finished_at)
