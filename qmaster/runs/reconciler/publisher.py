"""Publishes the changes of the cache: to the journal, then at once to subscribers and listeners.

The event loop owns it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Collection, Iterable

import msgspec
import structlog

from ...errors import JournalUnwritable
from ...events import cloudevents, frames
from ...events.broker import News, Tags
from ...events.cloudevents import Event
from ...events.journal import NO_EPOCH, Journal, Position
from ...events.rows import NewEvent, Record
from ...models.functions import FunctionVersion
from ...models.invocations import InvocationView
from ...models.responses import Node, Service
from ...models.units import rfc3339
from .cache import RunCache

MOST_AT_ONCE = 200  # services with events in one transaction

log = structlog.get_logger(__name__)


class Publisher:
    """Publishes the changes of the cache in one order.

    Args:
        cache: has the changes.
        journal: numbers and stores events before they are published.
        publish: sends events to subscribers.

    Attributes:
        listeners: called with the view of each run that has changed.
        event_listeners: called with each event.
        cursor_time: the time in the cursor of the last published event.
        complete_until: the time, as in a cursor, until which all changes are published; "" if not known.
    """

    def __init__(self, cache: RunCache, journal: Journal, publish: Callable[[list[News]], None]) -> None:
        self.cache = cache
        self.listeners: list[Callable[[Service], None]] = []
        self.event_listeners: list[Callable[[Event], None]] = []
        self.cursor_time = ""
        self.complete_until = ""
        self._journal = journal
        self._publish = publish
        self._commits = asyncio.Lock()
        self._settled: set[str] = set()
        self._published = 0

    @property
    def position(self) -> Position:
        """The position of the last published event; the journal may be slightly ahead."""
        if not self.cache.restored:
            return Position(NO_EPOCH, 1, 0)
        return self._journal.position._replace(last=self._published)

    async def restore(self) -> None:
        """Restore the cache from the journal.

        Raises:
            JournalUnwritable: it cannot be read; until it can, nothing is published.
        """
        records, newest = await self._journal.records(), await self._journal.newest()
        for record in records:
            if record.kind == "node":
                self.cache.nodes.restore(msgspec.json.decode(record.view, type=Node))
            elif record.kind == "function":
                self.cache.functions.restore(record.name, record.view)
            else:
                self.cache.restore(msgspec.json.decode(record.view, type=Service), record.body)
        self._published = self._journal.position.last
        found = frames.parse_cursor(cloudevents.cursor_of(newest or b""))
        self.cursor_time = self.complete_until = found[2] if found else ""
        self.cache.restored = True

    async def commit(self, settled: Iterable[str] = ()) -> None:
        """Write unpublished changes to the journal, then publish them, in one order.

        Args:
            settled: nonces of intents to settle in the same transaction.

        Raises:
            JournalUnwritable: the changes stay unpublished.
        """
        mine = set(settled)
        self._settled |= mine
        async with self._commits:
            if mine and not mine & self._settled:
                return  # another commit has settled them
            try:
                await self._commit()
            except BaseException:
                self._settled -= mine  # a waiting commit tries with its own only
                raise

    async def _commit(self) -> None:
        if not self.cache.restored:
            raise JournalUnwritable("the journal has not been read yet; try again")
        # Taken at the same moment, so that the run of an intent is published before the intent is settled, or with it.
        ids, (settled, self._settled) = sorted(self.cache.dirty), (self._settled, set())
        try:
            # All of 5,000 services in one transaction would take 50 MB, which the process would then keep.
            *first, last = [ids[at : at + MOST_AT_ONCE] for at in range(0, len(ids), MOST_AT_ONCE)] or [[]]
            for some in first:
                await self._commit_some(some)
            await self._commit_some(last, True, settled)
        except BaseException:
            self._settled |= settled
            raise

    async def _commit_some(self, ids: list[str], nodes: bool = False, settled: Collection[str] = ()) -> None:
        fresh, unpublished = self.cache.take_unpublished(ids, nodes, rfc3339())
        if not fresh and not settled:
            return
        position, at = self._journal.position, self.complete_until
        encoded = [_encoded(event, position.epoch, position.last + 1 + i, at) for i, event in enumerate(fresh)]
        try:
            await self._journal.append(encoded, list(_records(fresh, self.cache.body)), sorted(settled))
        except BaseException:
            self.cache.put_back(unpublished)
            raise
        # No await from here on: the cache, the position and the published events stay consistent.
        self.cache.mark_published(fresh)
        if fresh:
            self._published, self.cursor_time = position.last + len(fresh), at
        self._publish(
            [
                News(
                    frames.event(cloudevents.cursor(position.epoch, sequence, at), new.type, new.json),
                    tags(event),
                    sequence,
                )
                for sequence, (event, new) in enumerate(zip(fresh, encoded, strict=True), position.last + 1)
            ]
        )
        for event in fresh:
            for listener in self.event_listeners:
                listener(event)
        self._call_listeners(fresh)

    def _call_listeners(self, fresh: list[Event]) -> None:
        changed = {event.subject: event.view for event in fresh if isinstance(event.view, Service)}
        # An empty context: a request's commit also publishes changes of others, whose log lines must not have its id.
        context = contextvars.Context()
        for view in changed.values():
            for listener in self.listeners:
                try:
                    context.run(listener, view)
                except Exception:  # one failed listener must not stop the others
                    log.exception("listener_failed", run=view.id)


def tags(event: Event) -> Tags:
    """Return the attributes of an event that filters match."""
    if isinstance(event.view, Node):
        return Tags("node", event.subject, frozenset(), None)
    if isinstance(event.view, FunctionVersion):
        return Tags("function", event.subject, frozenset(), event.view.owner)
    if isinstance(event.view, InvocationView):
        return Tags("invocation", event.subject, frozenset(), event.view.owner, event.view.function)
    return service_tags(event.view, event.topic)


def service_tags(view: Service, topic: str = "service") -> Tags:
    """Return the attributes of a service that filters match."""
    labels = frozenset(f"{key}={value}" for key, value in view.labels.items())
    return Tags(topic, view.id, labels, view.owner, view.function.name if view.function else None)


def _encoded(event: Event, epoch: str, sequence: int, at: str) -> NewEvent:
    return NewEvent(event.type, cloudevents.encode(event, epoch, sequence, at), tags(event).owner or "", event.subject)


def _records(fresh: Iterable[Event], body: Callable[[str], str]) -> Iterable[Record]:
    """Yield the record of each run, node and function after these events."""
    last = {_record_id(event): event for event in fresh if event.topic != "invocation"}
    for subject, event in last.items():
        view, removed = msgspec.json.encode(event.view), event.type.endswith(".removed")
        if isinstance(event.view, Node):
            yield Record(subject, "node", event.view.hostname, removed, view)
        elif isinstance(event.view, FunctionVersion):
            yield Record(subject, "function", event.view.name, removed, view, owner=event.view.owner)
        elif isinstance(event.view, Service):
            yield Record(subject, "service", event.view.name, removed, view, body(subject), event.view.owner or "")


def _record_id(event: Event) -> str:
    """Return the id of the record that an event changes; a function may have the name that a run has as its id."""
    return f"function/{event.subject}" if event.topic == "function" else event.subject
