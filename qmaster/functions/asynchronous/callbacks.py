"""Callbacks of asynchronous invocations: written in the transaction of their end. Belongs to the event loop."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import msgspec

from ...events.cloudevents import PREFIX, CloudEvent
from ...models.functions import FunctionSpec
from ...models.invocations import InvocationView
from ...runs.callbacks import Row
from ..callbacks.queue import NOT_KEPT, CallbackQueue
from .store import InvocationStore

EVENTS = {"succeeded": "completed", "dead": "failed"}  # the last word of an event's type, by status
REDRIVEN = "the call was tried again since"


class InvocationBodies:
    """Makes the bodies of the callbacks of invocations.

    Args:
        store: has the invocations.
        quartermaster: returns the id of this quartermaster.
    """

    def __init__(self, store: InvocationStore, quartermaster: Callable[[], str]) -> None:
        self._store = store
        self._quartermaster = quartermaster

    async def __call__(self, row: Row) -> bytes | str:
        """Return the event of an end, with the output; a text if the invocation is not kept, or no longer ended so."""
        view = await self._store.view(row.subject, None)
        if view is None:
            return NOT_KEPT
        if EVENTS.get(view.status) != row.event:
            return REDRIVEN
        event = CloudEvent(
            "1.0",
            row.id,
            f"/qmaster/{self._quartermaster()}",
            f"{PREFIX}invocation.{row.event}",
            row.subject,
            view.ended_at or view.created_at,
            "application/json",
            msgspec.structs.replace(view, callbacks=[]),
        )
        return msgspec.json.encode(event)


class InvocationCallbacks:
    """Makes the callbacks of each invocation due when it ends.

    Args:
        queue: sends what is due.
    """

    def __init__(self, queue: CallbackQueue) -> None:
        self._queue = queue
        self._ending: dict[str, str] = {}  # the URL that is written with the end of an invocation, by id

    def at_end(self, view: InvocationView, spec: FunctionSpec) -> Callable[[sqlite3.Connection], object] | None:
        """Return what writes the callback of an invocation that ends, None if it has none."""
        url = {"succeeded": spec.on_success, "dead": spec.on_failure}.get(view.status)
        if url is None:
            return None
        self._ending[view.id] = url
        return self._queue.row("invocation", view.id, EVENTS[view.status], view.owner, url)

    def ended(self, view: InvocationView, status: str) -> None:
        """Look for the callback of an invocation whose end is committed."""
        url = self._ending.pop(view.id, None)
        if url is not None and status in EVENTS:
            self._queue.added(view.owner, url)
