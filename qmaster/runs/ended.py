"""The ends of asynchronous invocations that the event stream does not have yet."""

from __future__ import annotations

from collections.abc import Iterable

from ..models.invocations import InvocationView

AT_ONCE = 200  # in one transaction of the journal


class EndedInvocations:
    """The invocations that have ended, by id, until their event is in the journal."""

    def __init__(self) -> None:
        self.waiting: dict[str, InvocationView] = {}

    def show(self, view: InvocationView) -> None:
        """Add an invocation that has ended."""
        self.waiting[view.id] = view

    def take(self) -> list[InvocationView]:
        """Return the first ones, to be put back if their events cannot be journaled."""
        views = list(self.waiting.values())[:AT_ONCE]
        for view in views:
            del self.waiting[view.id]
        return views

    def put_back(self, views: Iterable[InvocationView]) -> None:
        """Let them wait again, before all others."""
        self.waiting = {**{view.id: view for view in views}, **self.waiting}
