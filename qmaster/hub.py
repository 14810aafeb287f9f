"""Fan-out of frames to subscribers, bounded: one that does not read is cut, nobody is skipped. The loop owns it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from .frames import Frame

MAX_BEHIND_BYTES = 1024 * 1024
MAX_BEHIND_FRAMES = 1000
MAX_BEHIND_SECONDS = 5.0
MAX_BYTES = 4 * 1024 * 1024
PATIENCE = 5.0  # seconds that a reader of a snapshot or a replay may make no progress
JOINED = 64 * 1024  # bytes of frames written at once

Wire = Literal["websocket", "sse"]


class Tags(NamedTuple):
    """What a filter looks at."""

    topic: str
    subject: str
    labels: frozenset[str]
    owner: str | None


class Filter(NamedTuple):
    """What a subscriber asked for; empty is everything."""

    topics: frozenset[str] = frozenset()
    service: str = ""
    labels: frozenset[str] = frozenset()
    owner: str | None = None

    def lets_through(self, tags: Tags) -> bool:
        if self.topics and tags.topic not in self.topics:
            return False
        if tags.topic == "node":
            # Who narrows to services gets nodes only by asking for them.
            return bool(self.topics) or not (self.service or self.labels)
        return (
            (not self.service or tags.subject == self.service)
            and self.labels <= tags.labels
            and self.owner in (None, tags.owner)
        )

    def shows(self, tags: Tags) -> bool:
        """Whether a snapshot shows this service: whatever the topics, but for nodes alone."""
        return self._replace(topics=frozenset()).lets_through(tags) and self.topics != {"node"}


class News(NamedTuple):
    """An event, for those who asked for such and have not read it from the journal."""

    frame: Frame
    tags: Tags
    sequence: int


class Pipe(Protocol):
    """Where a subscriber's bytes go."""

    def write(self, data: bytes) -> asyncio.Future[None] | None:
        """Send all of it; None where it has left already, else what is done when it has."""


class Subscriber:
    """One reader: frames go straight out while it keeps up, and wait in order while it does not.

    Args:
        pipe: where to.
        wire: which form of a frame it reads.
        wants: its filter.
        cut: called once when it is too slow.
    """

    def __init__(self, pipe: Pipe, wire: Wire, wants: Filter, cut: Callable[[], None]) -> None:
        self._pipe = pipe
        self._cut = cut
        self.wire = wire
        self.wants = wants
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = self._waiting_frames = 0
        self._flying = 0
        self._behind_since: float | None = None
        self.gone = False
        self.after = 0  # the last sequence that it has been brought up to

    def send(self, data: bytes, frames: int = 1) -> None:
        """Send live frames, or keep them until those before them have left."""
        if self.gone:
            return
        if self._flying or self._waiting:
            self._waiting.append((data, frames))
            self._waiting_bytes += len(data)
            self._waiting_frames += frames
            self.check()
        else:
            self._fly(data)

    async def deliver(self, frame: Frame) -> bool:
        """Send a frame at the reader's pace; False where it made no progress and was cut."""
        data = memoryview(getattr(frame, self.wire))
        for start in range(0, len(data), JOINED):
            if self.gone:
                return False
            try:
                flight = self._pipe.write(bytes(data[start : start + JOINED]))
                if flight is not None:
                    await asyncio.wait_for(asyncio.shield(flight), PATIENCE)
            except TimeoutError:
                self.drop()
                return False
            except OSError:
                self.gone = True
                return False
        return True

    def check(self) -> None:
        """Cut it if it is too far behind, or has been behind for too long."""
        if self.gone:
            return
        behind = self._waiting_bytes + self._flying
        if behind > MAX_BYTES:
            self.drop()
        elif behind > MAX_BEHIND_BYTES or self._waiting_frames > MAX_BEHIND_FRAMES:
            now = time.monotonic()
            self._behind_since = self._behind_since or now
            if now - self._behind_since > MAX_BEHIND_SECONDS:
                self.drop()
        else:
            self._behind_since = None

    def drop(self) -> None:
        self._lose()
        self._cut()

    def _fly(self, data: bytes) -> None:
        try:
            flight = self._pipe.write(data)
        except OSError:
            self._lose()
            return
        if flight is None:
            return
        if flight.done():
            self._landed(flight)
        else:
            self._flying = len(data)
            flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Future[None]) -> None:
        self._flying = 0
        if flight.cancelled() or flight.exception() is not None:
            self._lose()
        while self._waiting and not self._flying:
            self._fly(self._next_batch())

    def _lose(self) -> None:
        self.gone = True
        self._waiting.clear()

    def _next_batch(self) -> bytes:
        batch, size = [], 0
        while self._waiting and size < JOINED:
            data, frames = self._waiting.popleft()
            batch.append(data)
            size += len(data)
            self._waiting_frames -= frames
        self._waiting_bytes -= size
        return b"".join(batch)


class Hub:
    """Everyone who is listening live, by what they get: one encoding and one look at a filter serve all of a kind."""

    def __init__(self) -> None:
        self._live: dict[tuple[Wire, Filter], set[Subscriber]] = {}
        self.sent = 0  # frames, to any of them

    def __len__(self) -> int:
        return sum(map(len, self._live.values()))

    def join(self, subscriber: Subscriber) -> None:
        """From now on it gets every frame that is published, in the same order as all."""
        self._live.setdefault((subscriber.wire, subscriber.wants), set()).add(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        kind = subscriber.wire, subscriber.wants
        alike = self._live.get(kind)
        if alike is not None:
            alike.discard(subscriber)
            if not alike:
                del self._live[kind]

    def publish(self, news: Sequence[News]) -> None:
        """Send events, in their order, to those who want them: what comes together leaves together."""
        for (wire, wants), alike in list(self._live.items()):
            wanted = [one for one in news if wants.lets_through(one.tags)]
            if wanted:
                self._publish(wire, wanted, list(alike))

    def broadcast(self, frame: Frame) -> None:
        """Send a frame to everyone."""
        for (wire, _), alike in list(self._live.items()):
            self._send([(getattr(frame, wire), 1)], list(alike))

    def check(self) -> None:
        """Cut those who have been behind for too long; to be called every second."""
        for subscriber in [one for alike in self._live.values() for one in alike]:
            subscriber.check()
            if subscriber.gone:
                self.leave(subscriber)

    def _publish(self, wire: Wire, wanted: Sequence[News], alike: Iterable[Subscriber]) -> None:
        first = wanted[0].sequence
        late = [subscriber for subscriber in alike if subscriber.after >= first]  # it came while these were written
        self._send(list(_joined(wire, wanted)), [one for one in alike if one.after < first] if late else alike)
        for subscriber in late:
            rest = [one for one in wanted if one.sequence > subscriber.after]
            self._send(list(_joined(wire, rest)), [subscriber])

    def _send(self, parcels: Sequence[tuple[bytes, int]], to: Iterable[Subscriber]) -> None:
        for subscriber in to:  # a copy: one that is cut leaves while this goes on
            for data, frames in parcels:
                subscriber.send(data, frames)
                self.sent += frames
            if subscriber.gone:
                self.leave(subscriber)


def _joined(wire: Wire, news: Iterable[News]) -> Iterator[tuple[bytes, int]]:
    """Their frames joined to parcels of about ``JOINED`` bytes, and how many are in each."""
    batch: list[bytes] = []
    size = 0
    for one in news:
        batch.append(getattr(one.frame, wire))
        size += len(batch[-1])
        if size >= JOINED:
            yield b"".join(batch), len(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch), len(batch)
