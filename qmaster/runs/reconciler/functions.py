"""Functions and ends of their asynchronous invocations, on their way into the event stream. The cache owns them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import msgspec

from ...events import cloudevents
from ...events.cloudevents import Event
from ...models.functions import FunctionVersion, Version
from ...models.invocations import InvocationView

ENDS_AT_ONCE = 200  # in one transaction of the journal


class FunctionViews:
    """The newest version of each function, by name; ``dirty`` are the names with unpublished changes.

    It shares the versions with their store and has others as compressed JSON, since views of thousands would take more
    memory, and leave it fragmented.
    """

    def __init__(self) -> None:
        self.dirty: set[str] = set()
        self._unpublished: dict[str, Version | None] = {}
        self._published: dict[str, Version | bytes] = {}

    def restore(self, name: str, view: bytes) -> None:
        """Add a function from its record in the journal, whose view is compressed."""
        self._published[name] = view

    def show(self, name: str, version: Version | None) -> None:
        """Set the newest version of a function; None: there is no such function."""
        self._unpublished[name] = version
        self.dirty.add(name)

    def published(self) -> list[FunctionVersion]:
        """Return the functions as of the journal's last event."""
        return [view for view in map(_view, self._published.values()) if view is not None]

    def names(self) -> list[str]:
        """Return the names of the functions as of the journal's last event."""
        return list(self._published)

    def events(self, names: Iterable[str], now: str) -> Iterator[Event]:
        """Yield the unpublished changes of some functions; ``now`` is the time of those without a timestamp.

        No earlier changes may be on their way to the journal meanwhile.
        """
        for name in sorted(self._unpublished.keys() & set(names)):
            before, after = self._published.get(name), self._unpublished[name]
            changes = list(cloudevents.of_function(_view(before), _view(after), now))
            if not changes:
                del self._unpublished[name]
                if after is not None:
                    self._published.pop(name, None)  # and its key: the name of the version is another string
                    self._published[name] = after  # not the view that the journal has
            yield from changes

    def mark_published(self, event: Event, view: FunctionVersion) -> None:
        """Record that an event is in the journal."""
        name, removed = view.name, event.type.endswith(".removed")
        version = self._unpublished.get(name)
        if removed:
            self._published.pop(name, None)
        else:
            is_shown = version is not None and version.view() == view
            self._published[name] = (
                version if version is not None and is_shown else zlib.compress(msgspec.json.encode(view))
            )
        if name in self._unpublished and (version is None if removed else self._published[name] is version):
            del self._unpublished[name]  # else there is a newer change


class EndedInvocations:
    """The asynchronous invocations that have ended, by id, until their event is in the journal."""

    def __init__(self) -> None:
        self.waiting: dict[str, InvocationView] = {}

    def show(self, view: InvocationView) -> None:
        """Add an invocation that has ended."""
        self.waiting[view.id] = view

    def take(self) -> list[InvocationView]:
        """Return the first ones, to be put back if their events cannot be journaled."""
        views = list(self.waiting.values())[:ENDS_AT_ONCE]
        for view in views:
            del self.waiting[view.id]
        return views

    def put_back(self, views: Iterable[InvocationView]) -> None:
        """Let them wait again, before all others."""
        self.waiting = {**{view.id: view for view in views}, **self.waiting}


def _view(shown: Version | bytes | None) -> FunctionVersion | None:
    if isinstance(shown, bytes):
        return msgspec.json.decode(zlib.decompress(shown), type=FunctionVersion)
    return None if shown is None else shown.view()
