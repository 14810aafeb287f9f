"""The functions as the event stream has them: their views, and which of them are not published yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..events import cloudevents
from ..events.cloudevents import Event
from ..models.functions import FunctionVersion


class FunctionViews:
    """The newest version of each function, by name; ``dirty`` are the names that may have unpublished changes."""

    def __init__(self) -> None:
        self.dirty: set[str] = set()
        self._current: dict[str, FunctionVersion] = {}
        self._published: dict[str, FunctionVersion] = {}

    def restore(self, view: FunctionVersion) -> None:
        """Add a function from its record in the journal."""
        self._published[view.name] = view

    def show(self, name: str, view: FunctionVersion | None) -> None:
        """Set the newest version of a function; None: there is no such function."""
        if view is None:
            self._current.pop(name, None)
        else:
            self._current[name] = view
        self.dirty.add(name)

    def published(self) -> list[FunctionVersion]:
        """Return the functions as of the journal's last event."""
        return list(self._published.values())

    def events(self, names: Iterable[str], now: str) -> Iterator[Event]:
        """Yield the unpublished changes of some functions; ``now`` is the time of those without a timestamp."""
        for name in sorted(names):
            yield from cloudevents.of_function(self._published.get(name), self._current.get(name), now)

    def mark_published(self, event: Event, view: FunctionVersion) -> None:
        """Record that an event is in the journal."""
        if event.type.endswith(".removed"):
            self._published.pop(view.name, None)
        else:
            self._published[view.name] = view
