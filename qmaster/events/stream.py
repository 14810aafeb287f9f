"""The frames of one subscriber, in order: hello, then a snapshot or the missed events, then live events."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from .. import __version__
from ..models.responses import ROOT
from ..models.units import rfc3339
from . import frames
from .broker import Broker, Filter, News, Subscriber, Tags
from .cloudevents import cursor, cursor_of, seconds_of
from .frames import Frame
from .journal import INVOCATION, Journal, Position
from .rows import EVENTS_BYTES, StoredEvent, is_full
from .unsent import Lease, Unsent

PAGE = 200  # events in one read of the journal
# Seconds by which the replay for another quartermaster's cursor begins earlier: that one may have been slower to see
# some changes, and the clocks of two nodes differ.
OVERLAP = 10.0


class Since(NamedTuple):
    """The cursor from which a subscriber resumes."""

    epoch: str
    sequence: int
    time: str = ""


class _Labelled(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Stored(msgspec.Struct):
    """The part of a stored event that a filter by labels reads."""

    data: _Labelled


class _Named(msgspec.Struct):
    name: str


class _Instance(msgspec.Struct):
    function: _Named | None = None


class _Invocation(msgspec.Struct):
    function: str


class _OfInvocation(msgspec.Struct):
    """The part of a stored event that says which function an invocation is of."""

    data: _Invocation


class _OfInstance(msgspec.Struct):
    """The part of a stored event that says which function an instance is of."""

    data: _Instance


class EventStream:
    """Brings each subscriber up to the live events, at its own pace.

    Args:
        journal: has the events that a subscriber missed.
        broker: sends the live events.
        position: returns the sequence of the last published event, and what the journal keeps.
        snapshot: returns the services and nodes that a filter lets through, and the functions or None, as of the last
            published event; raises JournalUnwritable until the journal has been read.
        stale_since: returns since when the cache may be behind the engine, or None.
        cursor_time: returns the time in the cursor of the last published event.
    """

    def __init__(
        self,
        journal: Journal,
        broker: Broker,
        position: Callable[[], Position],
        snapshot: Callable[[Filter], tuple[Any, ...]],
        stale_since: Callable[[], str | None],
        cursor_time: Callable[[], str] = lambda: "",
    ) -> None:
        self._journal = journal
        self._broker = broker
        self._position = position
        self._snapshot = snapshot
        self._last: _Snapshot | None = None  # the newest
        self.unsent = Unsent()  # the memory that the unread snapshots and events of each token may take
        # The subscribers of one token read one page at a time, so that they do not block those of others.
        self._reading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stale_since = stale_since
        self._cursor_time = cursor_time

    @property
    def cursor(self) -> str:
        """The cursor of the last published event."""
        position = self._position()
        return cursor(position.epoch, position.last, self._cursor_time())

    async def bring_up(self, subscriber: Subscriber, since: Since | None) -> None:
        """Send hello and everything up to the last event, then let the subscriber join the live stream.

        Raises:
            JournalUnwritable: the events that it missed cannot be read.
        """
        await self._deliver(subscriber, frames.hello(__version__, self.cursor))
        after = None
        if since is not None and self._can_resume(since, subscriber.wants):
            after = since.sequence
        elif since is not None:
            after = await self._after_time_of(since, subscriber.wants)
            await self._deliver(subscriber, self._gap(since, resumed=after is not None))
        if after is None:
            after = await self._send_snapshot(subscriber)
        await self._replay(subscriber, after)

    def leave(self, subscriber: Subscriber) -> None:
        """Stop sending to it."""
        subscriber.gone = True
        self._broker.leave(subscriber)

    def beat(self) -> None:
        """Send a heartbeat to all."""
        now = rfc3339()
        beat = frames.heartbeat(self.cursor, now, self._stale_since())
        # With the next event's sequence, so that no subscriber that has read past its cursor receives it.
        self._broker.publish([News(beat, None, self._position().last + 1)])

    async def _deliver(self, subscriber: Subscriber, frame: Frame) -> bool:
        self._broker.sent += 1
        return await subscriber.deliver(frame)

    def _can_resume(self, since: Since, wants: Filter) -> bool:
        """Return whether all events that its token may see are kept; deleted events of others do not count."""
        position = self._position()
        oldest = self._journal.kept_from(wants.owner)
        return since.epoch == position.epoch and oldest - 1 <= since.sequence <= position.last

    async def _after_time_of(self, since: Since, wants: Filter) -> int | None:
        """Return the last sequence from before the time of another quartermaster's cursor.

        None if the journal does not have all that its token may see since then, or the clocks differ by too much.
        """
        position = self._position()
        if since.epoch == position.epoch or not since.time or not position.last:
            return None
        moment = seconds_of(since.time)
        if moment > time.time() + OVERLAP:
            return None
        after = await self._journal.last_before(moment - OVERLAP)
        is_kept = after > 0 and after + 1 >= self._journal.kept_from(wants.owner)
        return min(after, position.last) if is_kept else None

    def _gap(self, since: Since, resumed: bool = False) -> Frame:
        position = self._position()
        expired = since.epoch == position.epoch and since.sequence < position.last
        reason = "cursor_expired" if expired else "epoch_changed"
        return frames.gap(reason, cursor(*since), self.cursor, resumed)

    async def _send_snapshot(self, subscriber: Subscriber) -> int:
        """Send a snapshot as soon as its token has room for it; return its sequence."""
        if not self._is_last(subscriber.wants):
            await self.unsent.wait_for_room(_owner(subscriber))
        last = self._position().last
        if not subscriber.gone:
            snapshot = self._snapshot_for(subscriber.wants)
            with snapshot.read_by(_owner(subscriber), self.unsent):
                await self._deliver(subscriber, snapshot.frame)
        return last

    def _is_last(self, wants: Filter) -> bool:
        return self._last is not None and (self._last.cursor, self._last.wants) == (self.cursor, wants)

    def _snapshot_for(self, wants: Filter) -> _Snapshot:
        """Return the snapshot, shared by all that connect at the same time: after a restart, every subscriber."""
        if self._last is None or not self._is_last(wants):
            at = self.cursor
            self._last = _Snapshot(at, wants, frames.snapshot(at, *self._snapshot(wants)))
        return self._last

    async def _replay(self, subscriber: Subscriber, after: int) -> None:
        while not subscriber.gone:
            if after >= self._position().last:
                # No await since reading the position, so no event falls between the replay and the live stream.
                subscriber.after = after
                self._broker.join(subscriber)
                return
            after = await self._replay_page(subscriber, after)

    async def _replay_page(self, subscriber: Subscriber, after: int) -> int:
        """Send the next events as soon as its token has room for them; return the last sequence considered."""
        owner = _owner(subscriber)
        await self.unsent.wait_for_room(owner)
        with self.unsent.hold(owner, EVENTS_BYTES):
            epoch, until = self._position().epoch, self._position().last
            async with self._reading[owner]:
                page = await self._journal.events(after, PAGE, subscriber.wants.owner)
            if page is not None:
                return await self._send_page(subscriber, page, after, epoch, until)
        # The events were pruned while the reader was slow.
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
                known = cursor_of(event.json) or cursor(epoch, event.seq)
                if not await self._deliver(subscriber, frames.event(known, event.type, event.json)):
                    return after
        return after if is_full(page, PAGE) else until


class _Snapshot:
    """A snapshot shared by subscribers with one filter; its bytes are counted to their token while one reads it."""

    def __init__(self, cursor: str, wants: Filter, frame: Frame) -> None:
        self.cursor, self.wants, self.frame = cursor, wants, frame
        self._readers = 0
        self._lease: Lease | None = None

    @contextlib.contextmanager
    def read_by(self, owner: str, unsent: Unsent) -> Iterator[None]:
        self._lease = self._lease or unsent.hold(owner, 2 * len(self.frame.payload))  # twice: payload and frame
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
    function = _function(event)
    if wants == Filter():
        return function is None
    labels = _labels(event) if wants.labels else frozenset()
    if labels is None:  # the record was deleted: an extra event is better than a missing one
        labels = wants.labels
    return wants.lets_through(Tags(event.type.split(".")[2], event.subject, labels, event.owner or None, function))


def _function(event: StoredEvent) -> str | None:
    """Return the function of the event of an instance or an invocation."""
    if event.type.startswith(INVOCATION):
        return msgspec.json.decode(event.json, type=_OfInvocation).data.function
    if b'"function":{' not in event.json:  # only as a key: quotes within a value are escaped
        return None
    function = msgspec.json.decode(event.json, type=_OfInstance).data.function
    return function.name if function else None


def _labels(event: StoredEvent) -> frozenset[str] | None:
    """Return the labels of the event's service, from the event or (of a task's event) from the record."""
    labels = msgspec.json.decode(event.json, type=_Stored).data.labels
    if labels is None and event.labels is not None:
        labels = msgspec.json.decode(event.labels, type=dict[str, str])
    return None if labels is None else frozenset(f"{key}={value}" for key, value in labels.items())
