"""What a subscriber gets, in order: hello, then a snapshot or the events that it missed, then live events."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from .. import __version__
from ..models.responses import ROOT
from . import frames
from .broker import Broker, Filter, News, Subscriber, Tags
from .cloudevents import cursor
from .frames import Frame
from .journal import EVENTS_BYTES, Journal, Position, StoredEvent, is_full
from .unsent import Lease, Unsent

PAGE = 200  # events read at once


class Since(NamedTuple):
    """The cursor from which a subscriber resumes."""

    epoch: str
    sequence: int


class _Labelled(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Stored(msgspec.Struct):
    """The part of a stored event that a filter by labels reads."""

    data: _Labelled


class EventStream:
    """Brings subscribers up to the live events, each at its own pace.

    Args:
        journal: the events that they missed.
        broker: sends the live events.
        position: returns the sequence of the last published event, and what the journal keeps.
        snapshot: returns the services and nodes that a filter lets through, as of the last published event; raises
            JournalUnwritable until the journal has been read.
        stale_since: returns since when the cache may be behind the engine, or None.
        unsent: the memory that the unread snapshots and events of each token may take.
    """

    def __init__(
        self,
        journal: Journal,
        broker: Broker,
        position: Callable[[], Position],
        snapshot: Callable[[Filter], tuple[list[Any], list[Any]]],
        stale_since: Callable[[], str | None],
        unsent: Unsent | None = None,
    ) -> None:
        self._journal = journal
        self._broker = broker
        self._position = position
        self._snapshot = snapshot
        self._last: _Snapshot | None = None  # the one that was made last
        self.unsent = unsent or Unsent()
        # One token's readers read the journal one page at a time, so that they do not keep others from it.
        self._reading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stale_since = stale_since

    @property
    def cursor(self) -> str:
        """The cursor of the last published event."""
        return cursor(self._position().epoch, self._position().last)

    async def bring_up(self, subscriber: Subscriber, since: Since | None) -> None:
        """Send hello and everything up to now, and let the subscriber join the live stream.

        Raises:
            JournalUnwritable: the events that it missed cannot be read.
        """
        await self._deliver(subscriber, frames.hello(__version__, self.cursor))
        after = since.sequence if since and self._can_resume(since, subscriber.wants) else None
        if after is None:
            if since is not None:
                await self._deliver(subscriber, self._gap(since))
            after = await self._send_snapshot(subscriber)
        await self._replay(subscriber, after)

    def leave(self, subscriber: Subscriber) -> None:
        """Send it nothing more."""
        subscriber.gone = True
        self._broker.leave(subscriber)

    def beat(self) -> None:
        """Send a heartbeat to all."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        beat = frames.heartbeat(self.cursor, now, self._stale_since())
        # In the place of the next event: a subscriber that joins later and has read more than this cursor needs none.
        self._broker.publish([News(beat, None, self._position().last + 1)])

    async def _deliver(self, subscriber: Subscriber, frame: Frame) -> bool:
        self._broker.sent += 1
        return await subscriber.deliver(frame)

    def _can_resume(self, since: Since, wants: Filter) -> bool:
        """Whether all that its token may see is kept; it loses nothing where events of others were deleted."""
        position = self._position()
        oldest = self._journal.kept_from(wants.owner)
        return since.epoch == position.epoch and oldest - 1 <= since.sequence <= position.last

    def _gap(self, since: Since) -> Frame:
        position = self._position()
        expired = since.epoch == position.epoch and since.sequence < position.last
        reason = "cursor_expired" if expired else "epoch_changed"
        return frames.gap(reason, cursor(*since), self.cursor)

    async def _send_snapshot(self, subscriber: Subscriber) -> int:
        """Send a snapshot as soon as its token has room for it; return the sequence of it."""
        if not self._is_last(subscriber.wants):
            await self.unsent.turn(_owner(subscriber))
        last = self._position().last
        if not subscriber.gone:
            snapshot = self._snapshot_for(subscriber.wants)
            with snapshot.read_by(_owner(subscriber), self.unsent):
                await self._deliver(subscriber, snapshot.frame)
        return last

    def _is_last(self, wants: Filter) -> bool:
        return self._last is not None and (self._last.cursor, self._last.wants) == (self.cursor, wants)

    def _snapshot_for(self, wants: Filter) -> _Snapshot:
        """Make it once for all who come at the same time: after a restart that is everyone."""
        if self._last is None or not self._is_last(wants):
            at = self.cursor
            self._last = _Snapshot(at, wants, frames.snapshot(at, *self._snapshot(wants)))
        return self._last

    async def _replay(self, subscriber: Subscriber, after: int) -> None:
        while not subscriber.gone:
            if after >= self._position().last:
                # No await since the look at the position: nothing can come between the replay and the live stream.
                subscriber.after = after
                self._broker.join(subscriber)
                return
            after = await self._replay_page(subscriber, after)

    async def _replay_page(self, subscriber: Subscriber, after: int) -> int:
        """Send the next events as soon as its token has room for them; return the last sequence considered."""
        owner = _owner(subscriber)
        await self.unsent.turn(owner)
        with self.unsent.hold(owner, EVENTS_BYTES):
            epoch, until = self._position().epoch, self._position().last
            async with self._reading[owner]:
                page = await self._journal.events(after, PAGE, subscriber.wants.owner)
            if page is not None:
                return await self._send_page(subscriber, page, after, epoch, until)
        # They were pruned while the reader was slow.
        await self._deliver(subscriber, self._gap(Since(epoch, after)))
        return await self._send_snapshot(subscriber)

    async def _send_page(
        self, subscriber: Subscriber, page: list[StoredEvent], after: int, epoch: str, until: int
    ) -> int:
        for event in page:
            if event.seq > until:
                return until
            after = event.seq
            if _wanted(subscriber.wants, event):
                frame = frames.event(cursor(epoch, event.seq), event.type, event.json)
                if not await self._deliver(subscriber, frame):
                    return after
        return after if is_full(page, PAGE) else until


class _Snapshot:
    """A snapshot for all who asked for the same; its bytes count as its token's while one of them reads it."""

    def __init__(self, cursor: str, wants: Filter, frame: Frame) -> None:
        self.cursor, self.wants, self.frame = cursor, wants, frame
        self._readers = 0
        self._lease: Lease | None = None

    @contextlib.contextmanager
    def read_by(self, owner: str, unsent: Unsent) -> Iterator[None]:
        self._lease = self._lease or unsent.hold(owner, 2 * len(self.frame.payload))  # and once more as it is sent
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers and self._lease is not None:
                self._lease.release()
                self._lease = None


def _owner(subscriber: Subscriber) -> str:
    return subscriber.wants.owner or ROOT


def _wanted(wants: Filter, event: StoredEvent) -> bool:
    if wants == Filter():
        return True
    labels = _labels(event) if wants.labels else frozenset()
    if labels is None:  # they are not known any more: an event too many is better than one too few
        labels = wants.labels
    return wants.lets_through(Tags(event.type.split(".")[2], event.subject, labels, event.owner or None))


def _labels(event: StoredEvent) -> frozenset[str] | None:
    """Return the labels of its service, from the event or (for a task's) from the record."""
    labels = msgspec.json.decode(event.json, type=_Stored).data.labels
    if labels is None and event.labels is not None:
        labels = msgspec.json.decode(event.labels, type=dict[str, str])
    return None if labels is None else frozenset(f"{key}={value}" for key, value in labels.items())
