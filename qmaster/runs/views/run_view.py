"""Pure: what the views of services and containers share, and what a view says of the end of its run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ...engine.labels import CALLBACK, FUNCTION, FUNCTION_NUMBER, OWNER, SPEC, TIMEOUT, TTL
from ...models.requests import LABEL_PREFIX, MAX_SECONDS
from ...models.responses import NO_SPEC, FunctionRef, LastExit, Reason, Result, Service, Status
from ...models.units import parse_time
from .task_status import TERMINAL

_NUMBER = re.compile(r"[0-9]{1,9}")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)s")


class Verdict(NamedTuple):
    """The status of a run with its reason, error and exit code."""

    status: Status
    reason: Reason | None = None
    error: str | None = None
    exit_code: int | None = None


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
        timeout=seconds(labels.get(TIMEOUT)),
        ttl=seconds(labels.get(TTL)),
        callback=labels.get(CALLBACK) or None,
        function=_function(labels),
        spec=_spec(labels),
        result=result,
        **fields,
    )


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


def keep(shown: Service, before: Service | None, begun_again: bool) -> Service:
    """Return a new view of a run that takes back nothing of the last one. Every new view goes through this.

    A container loses its exit code while it is being removed, a task's record is deleted before its service, and a
    listing may be older than the last one.

    Args:
        shown: the run from the engine's last answer.
        before: the last view, None if there is none.
        begun_again: whether it has started again since ``before``.
    """
    if before is not None:
        shown = _with_history(shown, before, begun_again)
        if before.finished_at is not None and not begun_again:
            shown = _with_end(shown, before)
    return _in_order(_with_code_of_result(shown))


def seconds(label: str | None) -> float | None:
    """Return the seconds of a label such as ``1.5s``; None for anything else: other clients can set labels."""
    found = _DURATION.fullmatch(label or "")
    read = float(found[1]) if found else None
    return None if read is None or read > MAX_SECONDS else read


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


def _with_history(shown: Service, before: Service, begun_again: bool) -> Service:
    """Keep what no view takes back, even if the run has started again."""
    restarts, last = max(shown.restarts, before.restarts), shown.last_exit or before.last_exit
    if begun_again and before.type == "container" and before.finished_at is not None and before.status != "removed":
        restarts = max(restarts, before.restarts + 1)
        last = LastExit(before.exit_code, before.error, before.finished_at)
    return msgspec.structs.replace(
        shown,
        started_at=before.started_at or shown.started_at,
        restarts=restarts,
        last_exit=last,
        attempts=shown.attempts or before.attempts,
        result=None if begun_again else shown.result,  # a result belongs to one attempt
    )


def _with_end(shown: Service, before: Service) -> Service:
    """Keep what was known of the end, and fill in what is new."""
    stays = before.status in OVER and before.status != "removed" and not _is_taken_away(shown)
    passing = shown.finished_at is None  # the engine shows no end
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
    """Take the exit code from the result if the view has none."""
    over = view.status in ("failed", "stopping", "removed")
    if view.exit_code is not None or view.result is None or view.result.exit_code is None or not over:
        return view
    return msgspec.structs.replace(view, exit_code=view.result.exit_code)


def _in_order(view: Service) -> Service:
    """Make ``started_at`` at most ``finished_at``: of very short containers, and across two clocks, it may be later."""
    started, finished = parse_time(view.started_at), parse_time(view.finished_at)
    if started is None or finished is None or started <= finished:
        return view
    return msgspec.structs.replace(view, started_at=view.finished_at)
