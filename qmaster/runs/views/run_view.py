"""Pure: what the views of services and containers share, and what a view says of the end of its run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from ...engine.labels import CALLBACK, FUNCTION, FUNCTION_NUMBER, OWNER, SPEC, TIMEOUT, TTL
from ...models.requests import LABEL_PREFIX, MAX_SECONDS
from ...models.responses import NO_SPEC, FunctionRef, Reason, Result, Service, Status
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
