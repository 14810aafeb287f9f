"""Fan-out of frames to subscribers. No subscriber misses a frame; one that does not read is disconnected.

The event loop owns all state.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import structlog

from .frames import Frame
from .retention import share
from .unsent import MAX_UNSENT

MAX_BEHIND_BYTES = 1024 * 1024
MAX_BEHIND_FRAMES = 1000
MAX_BEHIND_SECONDS = 5.0
MAX_BYTES = 4 * 1024 * 1024
PROGRESS_WITHIN = 5.0  # seconds; a reader of a snapshot or replay that makes no progress is disconnected
BATCH = 64 * 1024  # bytes; frames that are published together are joined up to about this size
FEW = 100  # subscribers; with more, events are sent in rounds
FIRST_PAUSE = 0.01  # seconds before a round, so that the answer to a run does not wait for its first event
SLICE = 0.0006  # seconds of sending before yielding to the event loop
AT_ONCE = 20  # subscribers between two checks of the time
PAUSE = 4  # times the duration of a round, before the next one
LONGEST_PAUSE = 0.1  # seconds

Wire = Literal["websocket", "sse"]

log = structlog.get_logger(__name__)


ALL_INSTANCES = "*"  # in a filter by function; no function has this name


class Tags(NamedTuple):
    """The attributes of an event that a filter matches; ``function`` is that of an instance or an invocation."""

    topic: str
    subject: str
    labels: frozenset[str]
    owner: str | None
    function: str | None = None


class Filter(NamedTuple):
    """A subscriber's filter; empty matches everything but the instances and invocations of functions.

    ``owner`` is the token's name, None for one that sees all. ``function`` is the name of a function, to match only its
    instances and invocations, or ``ALL_INSTANCES``. A filter by ``service`` matches an instance too.
    """

    topics: frozenset[str] = frozenset()
    service: str = ""
    labels: frozenset[str] = frozenset()
    owner: str | None = None
    function: str = ""

    def lets_through(self, tags: Tags) -> bool:
        """Return whether an event with these tags is sent."""
        if self.topics and tags.topic not in self.topics:
            return False
        # A filter by service, label or function matches nodes and other functions only if it names the topic.
        named = bool(self.topics) or not (self.service or self.labels or self.function not in ("", ALL_INSTANCES))
        if tags.topic == "function":
            return self.owner in (None, tags.owner) and (named or tags.subject == self.function)
        if tags.topic == "invocation":
            asked = "invocation" in self.topics or self.function == tags.function
            of_it = self.function in ("", ALL_INSTANCES, tags.function) and self.service in ("", tags.subject)
            return asked and of_it and not self.labels and self.owner in (None, tags.owner)
        if tags.topic == "node":
            if self.owner is not None:  # nodes show what others have reserved on them
                return False
            return named
        return (
            (not self.service or tags.subject == self.service)
            and self.labels <= tags.labels
            and self.owner in (None, tags.owner)
            and self._matches_function(tags)
        )

    def _matches_function(self, tags: Tags) -> bool:
        if self.function == ALL_INSTANCES:
            return True
        return tags.function == self.function if self.function else tags.function is None or bool(self.service)

    def shows(self, tags: Tags) -> bool:
        """Return whether a snapshot has this service: topics do not count, unless none is of services."""
        others = bool(self.topics) and self.topics <= {"node", "function", "invocation"}
        return self._replace(topics=frozenset()).lets_through(tags) and not others


class News(NamedTuple):
    """A frame for subscribers that have not received ``sequence`` yet; without tags, for every filter."""

    frame: Frame
    tags: Tags | None
    sequence: int


class Pipe(Protocol):
    """A subscriber's connection; ``sent`` counts the bytes that have left."""

    @property
    def sent(self) -> int: ...

    def write(self, data: bytes) -> asyncio.Future[None] | None:
        """Send all of it; return None if it has left already, else a future that is done when it has."""


class Subscriber:
    """One reader: live frames are sent at once while it keeps up, and queued while it does not.

    Args:
        pipe: its connection.
        wire: the form of the frames.
        wants: its filter.
        cut: called when it is disconnected for being too slow.
    """

    __slots__ = (
        "_behind_since", "_cut", "_in_flight", "_pipe", "_waiting", "_waiting_bytes", "_waiting_frames",
        "after", "gone", "wants", "wire",
    )  # fmt: skip

    def __init__(self, pipe: Pipe, wire: Wire, wants: Filter, cut: Callable[[], None]) -> None:
        self._pipe = pipe
        self._cut = cut
        self.wire = wire
        self.wants = wants
        self._waiting: deque[tuple[bytes, int]] | None = None  # an empty deque takes 0.7 KB
        self._waiting_bytes = self._waiting_frames = 0
        self._in_flight = 0  # bytes
        self._behind_since: float | None = None
        self.gone = False
        self.after = 0  # the last sequence that it received before it joined the live stream

    @property
    def behind(self) -> int:
        """Bytes of live frames that have not been sent."""
        return self._waiting_bytes + self._in_flight

    def send(self, data: bytes, frames: int = 1) -> None:
        """Send live frames, or queue them behind those that have not been sent."""
        if self.gone:
            return
        if self._in_flight or self._waiting:
            if self._waiting is None:
                self._waiting = deque()
            self._waiting.append((data, frames))
            self._waiting_bytes += len(data)
            self._waiting_frames += frames
            self.check()
        else:
            self._write(data)

    async def deliver(self, frame: Frame) -> bool:
        """Send a frame at the reader's pace; return False if it made no progress and was disconnected.

        The frame is written whole, so that a pong or a close cannot come in the middle of it.
        """
        if self.gone:
            return False
        try:
            flight = self._pipe.write(getattr(frame, self.wire))
            while flight is not None and not flight.done():
                before = self._pipe.sent
                await asyncio.wait([flight], timeout=PROGRESS_WITHIN)
                if not flight.done() and self._pipe.sent == before:
                    self.drop()
                    return False
            if flight is not None:
                flight.result()
        except OSError:
            self.gone = True
        return not self.gone

    def check(self) -> None:
        """Disconnect it if it is too far behind, or has been behind for too long."""
        if self.gone:
            return
        if self.behind > MAX_BYTES:
            self.drop()
        elif self.behind > MAX_BEHIND_BYTES or self._waiting_frames > MAX_BEHIND_FRAMES:
            now = time.monotonic()
            self._behind_since = self._behind_since or now
            if now - self._behind_since > MAX_BEHIND_SECONDS:
                self.drop()
        else:
            self._behind_since = None

    def drop(self) -> None:
        """Disconnect it."""
        self._forget()
        self._cut()

    def _write(self, data: bytes) -> None:
        try:
            flight = self._pipe.write(data)
        except OSError:
            self._forget()
            return
        if flight is not None:
            self._in_flight = len(data)
            flight.add_done_callback(self._written)

    def _written(self, flight: asyncio.Future[None]) -> None:
        self._in_flight = 0
        if flight.cancelled() or flight.exception() is not None:
            self._forget()
        while self._waiting and not self._in_flight:
            data, frames = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self._waiting_frames -= frames
            self._write(data)

    def _forget(self) -> None:
        self.gone = True
        self._waiting = None
        self._waiting_bytes = self._in_flight = 0


class Broker:
    """All live subscribers, grouped by wire form and filter, so that a group shares one encoding and one match.

    With few subscribers, events are sent at once. With many, they are sent in rounds: a round yields to the event loop
    after each slice, and a pause follows it. Events published meanwhile are sent together in the next round.
    """

    def __init__(self) -> None:
        self._live: dict[tuple[Wire, Filter], set[Subscriber]] = {}
        self._news: list[News] = []
        self._sender: asyncio.Task[None] | None = None  # runs while there are many subscribers
        self.sent = 0  # frames, to all subscribers

    def __len__(self) -> int:
        return sum(map(len, self._live.values()))

    def join(self, subscriber: Subscriber) -> None:
        """Send it every frame that is published from now on."""
        self._live.setdefault((subscriber.wire, subscriber.wants), set()).add(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Stop sending to it."""
        kind = subscriber.wire, subscriber.wants
        alike = self._live.get(kind)
        if alike is not None:
            alike.discard(subscriber)
            if not alike:
                del self._live[kind]

    def publish(self, news: Iterable[News]) -> None:
        """Send frames, in order, to the subscribers whose filters match."""
        self._news += news
        if self._sender is not None:
            return
        if len(self) > FEW:
            self._sender = asyncio.create_task(self._send_in_rounds())
            return
        for _ in self._send_all():
            pass

    def check(self) -> None:
        """Disconnect subscribers that are too far behind, alone or with others of their token. Call it every second."""
        kinds: defaultdict[str | None, list[list[Subscriber]]] = defaultdict(list)
        for (_, wants), alike in list(self._live.items()):
            everyone = list(alike)  # a copy: ``leave`` changes the set
            for subscriber in everyone:
                subscriber.check()
                if subscriber.gone:
                    self.leave(subscriber)
            late = [one for one in everyone if one.behind]
            if late:
                kinds[wants.owner].append(late)
        for of_owner in kinds.values():
            # Subscribers with one filter share their bytes, so the slowest of them says how much memory they take.
            each = share([max(one.behind for one in late) for late in of_owner], MAX_UNSENT)
            for subscriber in [one for late in of_owner for one in late if one.behind > each]:
                subscriber.drop()
                self.leave(subscriber)

    async def _send_in_rounds(self) -> None:
        try:
            await asyncio.sleep(FIRST_PAUSE)
            while self._news:
                began = time.monotonic()
                until = began + SLICE
                for _ in self._send_all():
                    if time.monotonic() > until:
                        await asyncio.sleep(0)
                        until = time.monotonic() + SLICE
                await asyncio.sleep(min((time.monotonic() - began) * PAUSE, LONGEST_PAUSE))
        except Exception:  # the top of a task; the next event starts a new one
            log.exception("publish_failed")
        finally:
            self._sender = None

    def _send_all(self) -> Iterator[None]:
        """Send the published frames to one subscriber after another; yield after every ``AT_ONCE``."""
        news, self._news = self._news, []
        served = 0  # over all filters: each subscriber may have its own
        for (wire, wants), alike in list(self._live.items()):
            wanted = [one for one in news if one.tags is None or wants.lets_through(one.tags)]
            batches = list(_batches(wire, wanted))
            for subscriber in list(alike):  # a copy: ``leave`` changes the set
                if wanted and subscriber.after < wanted[0].sequence:
                    self._send(batches, subscriber)
                else:  # it joined while these were being journaled, and has read some of them from the journal
                    self._send(_batches(wire, [one for one in wanted if subscriber.after < one.sequence]), subscriber)
                served += 1
                if served % AT_ONCE == 0:
                    yield

    def _send(self, batches: Iterable[tuple[bytes, int]], to: Subscriber) -> None:
        for data, frames in batches:
            to.send(data, frames)
            self.sent += frames
        if to.gone:
            self.leave(to)


def _batches(wire: Wire, news: Iterable[News]) -> Iterator[tuple[bytes, int]]:
    """Join frames into batches of about ``BATCH`` bytes; yield each with its number of frames."""
    batch: list[bytes] = []
    size = 0
    for one in news:
        batch.append(getattr(one.frame, wire))
        size += len(batch[-1])
        if size >= BATCH:
            yield b"".join(batch), len(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch), len(batch)
