"""Fan-out of frames to subscribers: none misses a frame, and one that does not read is disconnected.

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
from .journal import share
from .unsent import MAX_UNSENT

MAX_BEHIND_BYTES = 1024 * 1024
MAX_BEHIND_FRAMES = 1000
MAX_BEHIND_SECONDS = 5.0
MAX_BYTES = 4 * 1024 * 1024
PROGRESS_WITHIN = 5.0  # seconds in which the reader of a snapshot or a replay must make progress
BATCH = 64 * 1024  # bytes; frames that are published together are joined up to about this size
FEW = 100  # up to so many subscribers are sent to at once
FIRST_PAUSE = 0.01  # seconds before sending to more: the answer to a run is not kept waiting by its own first event
SLICE = 0.0006  # seconds of sending, after which the loop serves others
AT_ONCE = 20  # subscribers between two looks at the clock
PAUSE = 4  # pause for so many times as long as it took to send to all
LONGEST_PAUSE = 0.1  # seconds

Wire = Literal["websocket", "sse"]

log = structlog.get_logger(__name__)


class Tags(NamedTuple):
    """What a filter looks at."""

    topic: str
    subject: str
    labels: frozenset[str]
    owner: str | None


class Filter(NamedTuple):
    """What a subscriber asked for; empty is everything. ``owner`` is its token's name, or None if that sees all."""

    topics: frozenset[str] = frozenset()
    service: str = ""
    labels: frozenset[str] = frozenset()
    owner: str | None = None

    def lets_through(self, tags: Tags) -> bool:
        """Whether an event with these tags is sent."""
        if self.topics and tags.topic not in self.topics:
            return False
        if tags.topic == "node":
            if self.owner is not None:  # nodes tell what others run on them
                return False
            # A filter for services gets nodes only if it asks for them.
            return bool(self.topics) or not (self.service or self.labels)
        return (
            (not self.service or tags.subject == self.service)
            and self.labels <= tags.labels
            and self.owner in (None, tags.owner)
        )

    def shows(self, tags: Tags) -> bool:
        """Whether a snapshot shows this service: whatever the topics, unless they are nodes alone."""
        return self._replace(topics=frozenset()).lets_through(tags) and self.topics != {"node"}


class News(NamedTuple):
    """A frame for subscribers that have not got ``sequence`` yet; without tags, for all of them."""

    frame: Frame
    tags: Tags | None
    sequence: int


class Pipe(Protocol):
    """A subscriber's connection; ``sent`` grows as it reads."""

    @property
    def sent(self) -> int: ...

    def write(self, data: bytes) -> asyncio.Future[None] | None:
        """Send all of it; return None if it has left already, else what is done when it has."""


class Subscriber:
    """One reader: live frames go straight out while it keeps up, and wait in order while it does not.

    Args:
        pipe: its connection.
        wire: which form of a frame it reads.
        wants: its filter.
        cut: called once when it is too slow.
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
        self.after = 0  # the last sequence that it got before it joined the live stream

    @property
    def behind(self) -> int:
        """Bytes of live frames that have not left."""
        return self._waiting_bytes + self._in_flight

    def send(self, data: bytes, frames: int = 1) -> None:
        """Send live frames, or keep them until those before them have left."""
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

        The frame is written whole: what else is said on the connection, such as a pong or a close, comes after it.
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
    """All live subscribers, by what they get: subscribers with one filter share one encoding and one look at it.

    Events go out at once to a few subscribers. To many they go in slices, so that the loop serves others in between,
    and with a pause after each round; what is published meanwhile goes out together in the next one.
    """

    def __init__(self) -> None:
        self._live: dict[tuple[Wire, Filter], set[Subscriber]] = {}
        self._news: list[News] = []
        self._sender: asyncio.Task[None] | None = None  # while there are many
        self.sent = 0  # frames, to any of them

    def __len__(self) -> int:
        return sum(map(len, self._live.values()))

    def join(self, subscriber: Subscriber) -> None:
        """Send it every frame that is published from now on, in the same order as to all."""
        self._live.setdefault((subscriber.wire, subscriber.wants), set()).add(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Send it nothing more."""
        kind = subscriber.wire, subscriber.wants
        alike = self._live.get(kind)
        if alike is not None:
            alike.discard(subscriber)
            if not alike:
                del self._live[kind]

    def publish(self, news: Iterable[News]) -> None:
        """Send frames, in order, to those who want them."""
        self._news += news
        if self._sender is not None:
            return
        if len(self) > FEW:
            self._sender = asyncio.create_task(self._send_in_rounds())
            return
        for _ in self._send_all():
            pass

    def check(self) -> None:
        """Disconnect subscribers that are too far behind, each for itself and by token; to be called every second."""
        kinds: defaultdict[str | None, list[list[Subscriber]]] = defaultdict(list)
        for (_, wants), alike in list(self._live.items()):
            everyone = list(alike)  # a copy: one that is disconnected leaves meanwhile
            for subscriber in everyone:
                subscriber.check()
                if subscriber.gone:
                    self.leave(subscriber)
            late = [one for one in everyone if one.behind]
            if late:
                kinds[wants.owner].append(late)
        for of_owner in kinds.values():
            # Subscribers with one filter wait for the same bytes, so the slowest of them tells how much memory that is.
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
        except Exception:  # the top of a task; the next event begins another
            log.exception("publish_failed")
        finally:
            self._sender = None

    def _send_all(self) -> Iterator[None]:
        """Send what was published to one subscriber after the other, with a stop now and then."""
        news, self._news = self._news, []
        served = 0  # of all filters: each subscriber may have one of its own
        for (wire, wants), alike in list(self._live.items()):
            wanted = [one for one in news if one.tags is None or wants.lets_through(one.tags)]
            batches = list(_batches(wire, wanted))
            for subscriber in list(alike):  # a copy: one that is disconnected leaves meanwhile
                if wanted and subscriber.after < wanted[0].sequence:
                    self._send(batches, subscriber)
                else:  # it came while these were written to the journal, and has read some of them there
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
    """Join frames to about ``BATCH`` bytes; with each, how many they are."""
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
