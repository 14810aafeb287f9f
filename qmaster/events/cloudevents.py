"""Pure: the changes between two views of a service or node, as CloudEvents 1.0."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from ..models.functions import FunctionVersion
from ..models.invocations import InvocationView
from ..models.responses import Node, Service, Task, Time

Topic = Literal["service", "task", "node", "function", "invocation"]
View = Service | Node | FunctionVersion | InvocationView

PREFIX = "io.qmaster."
SERVICE_EVENTS = ("created", "updated", "running", "complete", "failed", "stopping", "removed")
NODE_EVENTS = ("joined", "ready", "down", "updated", "removed")
FUNCTION_EVENTS = ("published", "removed")
INVOCATION_EVENTS = ("completed", "failed")
MANY_TASKS = 20  # with more, a task's event has only its own task
# Left out of task events, as they would be most of the journal. The service's own events have them.
ASIDE = ("labels", "command", "spec", "attempts")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID = re.compile(rb'"id":"([^"]*)"')  # the first one in a CloudEvent is its own
_OWN_EVENT = frozenset(SERVICE_EVENTS) - {"created", "updated"}


class Event(NamedTuple):
    """A change that has no sequence yet.

    ``subject`` is the id of the service, node or invocation, or the function's name, ``time`` the engine's own
    timestamp of the change (RFC 3339), ``before`` the view that was last published.
    """

    topic: Topic
    type: str
    subject: str
    time: str
    view: View
    task: Task | None = None
    before: View | None = None


class CloudEvent(msgspec.Struct, frozen=True):
    """A CloudEvent; ``id`` is the cursor."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: Time
    datacontenttype: str
    data: Any


def of_service(before: Service | None, after: Service, now: str) -> Iterator[Event]:
    """Yield the changes between two views of a service: those of its tasks, then its own.

    Args:
        before: the view that was last published, None if there is none.
        after: the current view.
        now: the time (RFC 3339) of a change for which the engine has no timestamp.
    """
    if before is None:
        yield _service_event("created", None, after, after.created_at or now)
    known = {task.id: task.state for task in before.tasks} if before else {}
    for task in sorted(after.tasks, key=lambda task: task.updated_at or ""):
        if known.get(task.id) != task.state:
            yield Event("task", f"{PREFIX}task.{task.state}", after.id, task.updated_at or now, after, task, before)
    if before is None:
        if after.status in _OWN_EVENT:
            yield _service_event(after.status, None, after, _moment(after, now))
    elif after.status != before.status:
        word = after.status if after.status in _OWN_EVENT else "updated"
        yield _service_event(word, before, after, _moment(after, now))
    elif _shown(before) != _shown(after):
        yield _service_event("updated", before, after, _moment(after, now))


def of_node(before: Node | None, after: Node | None, now: str) -> Iterator[Event]:
    """Yield the changes between two views of a node. Docker keeps no timestamp of them."""
    view = after or before
    if view is None:
        return
    if after is None:
        yield _node_event("removed", view, now)
    elif before is None:
        yield _node_event("joined", view, now)
    elif after.state != before.state:
        yield _node_event(after.state if after.state in ("ready", "down") else "updated", view, now)
    elif (after.availability, after.role) != (before.availability, before.role):
        yield _node_event("updated", view, now)


def of_function(before: FunctionVersion | None, after: FunctionVersion | None, now: str) -> Iterator[Event]:
    """Yield the changes between two newest versions of a function.

    Docker keeps no timestamp of a removal, after which an earlier version may be the newest.
    """
    if after is None and before is not None:
        yield Event("function", f"{PREFIX}function.removed", before.name, now, before)
    if after is not None and after != before:
        time = now if before is not None and after.published_at <= before.published_at else after.published_at
        yield Event("function", f"{PREFIX}function.published", after.name, time, after)


def of_invocation(view: InvocationView) -> Event:
    """Return the event of an invocation that has succeeded, or is dead."""
    word = "completed" if view.status == "succeeded" else "failed"
    return Event("invocation", f"{PREFIX}invocation.{word}", view.id, view.ended_at or view.created_at, view)


def encode(event: Event, epoch: str, sequence: int, time: str = "") -> bytes:
    """Return the event as a CloudEvent in JSON; epoch, sequence and time are its cursor."""
    data: Any = event.view
    if event.task is not None:
        data = {**msgspec.structs.asdict(event.view), "task": event.task}
        for name in ASIDE:
            data.pop(name, None)
        if len(data["tasks"]) > MANY_TASKS:  # else n tasks would make n events of n tasks each
            data["tasks"] = [event.task]
    cloud_event = CloudEvent(
        "1.0",
        cursor(epoch, sequence, time),
        f"/qmaster/{epoch}",
        event.type,
        event.subject,
        event.time,
        "application/json",
        data,
    )
    return msgspec.json.encode(cloud_event)


def cursor(epoch: str, sequence: int, time: str = "") -> str:
    """Return the cursor of a sequence, which is opaque to clients.

    Args:
        epoch: belongs to one quartermaster.
        sequence: counts the events of the epoch.
        time: from ``cursor_time``; another quartermaster continues from it. "": none.
    """
    return f"{epoch}.{time}:{sequence}" if time else f"{epoch}:{sequence}"


def cursor_time(seconds: float) -> str:
    """Return a time (seconds since 1970) as in a cursor: milliseconds, in base 36."""
    rest, digits = max(1, int(seconds * 1000)), ""
    while rest:
        rest, digit = divmod(rest, 36)
        digits = _DIGITS[digit] + digits
    return digits


def seconds_of(time: str) -> float:
    """Return the time of a cursor in seconds since 1970."""
    return int(time, 36) / 1000


def cursor_of(cloud_event: bytes) -> str:
    """Return the cursor of a CloudEvent in JSON; "" if it has none."""
    found = _ID.search(cloud_event)
    return found[1].decode() if found else ""


def _service_event(word: str, before: Service | None, view: Service, time: str) -> Event:
    return Event("service", f"{PREFIX}service.{word}", view.id, time, view, before=before)


def _node_event(word: str, view: Node, time: str) -> Event:
    return Event("node", f"{PREFIX}node.{word}", view.id, time, view)


def _shown(view: Service) -> tuple[object, ...]:
    """Return what causes an ``updated`` event if it changes while the status stays the same."""
    return (view.reason, view.error, view.exit_code, view.replicas, view.restarts, view.result is None)


def _moment(view: Service, now: str) -> str:
    """Return when the status changed: the latest change of a task, or of the container."""
    if view.status == "removed":
        return view.removed_at or now
    if view.status in ("stopping", "unknown"):
        return now
    latest = max((task.updated_at or "" for task in view.tasks), default="")
    return view.finished_at or latest or view.started_at or view.created_at or now
