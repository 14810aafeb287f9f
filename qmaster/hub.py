"""Fan-out of frames to subscribers, bounded: one that does not read is cut, nobody is skipped. The loop owns it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
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
    """What a subscriber asked for; empty is everything. ``owner`` is not asked for: it is whose token it is."""

    topics: frozenset[str] = frozenset()
    service: str = ""
    labels: frozenset[str] = frozenset()
    owner: str | None = None

    def lets_through(self, tags: Tags) -> bool:
        if self.topics and tags.topic not in self.topics:
            return False
        if tags.topic == "node":
            if self.owner is not None:  # the nodes belong to everyone, and tell what others run there
                return False
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


class Pipe(Protocol):
    """Where a subscriber's bytes go."""

    def write(self, data: bytes) -> asyncio.Future[None]: ...


class Subscriber:
    """One reader: frames go straight out while it keeps up, and wait in order while it does not.

    Args:
        pipe: where to; ``write`` returns a future that is done when the bytes have left.
        wire: which form of a frame it reads.
        wants: its filter.
        cut: called once when it is too slow.
    """

    def __init__(self, pipe: Pipe, wire: Wire, wants: Filter, cut: Callable[[], None]) -> None:
        self._pipe = pipe
        self._wire = wire
        self._cut = cut
        self.wants = wants
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._flying = 0
        self._behind_since: float | None = None
        self.gone = False
        self.after = 0  # the last sequence that it has been brought up to

    def send(self, frame: Frame) -> None:
        """Send a live frame, or keep it until those before it have left."""
        if self.gone:
            return
        data: bytes = getattr(frame, self._wire)
        if self._flying or self._waiting:
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self.check()
        else:
            self._fly(data)

    async def deliver(self, frame: Frame) -> bool:
        """Send a frame at the reader's pace; False where it made no progress and was cut."""
        data = memoryview(getattr(frame, self._wire))
        for start in range(0, len(data), JOINED):
            if self.gone:
                return False
            try:
                await asyncio.wait_for(asyncio.shield(self._pipe.write(bytes(data[start : start + JOINED]))), PATIENCE)
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
        elif behind > MAX_BEHIND_BYTES or len(self._waiting) > MAX_BEHIND_FRAMES:
            now = time.monotonic()
            self._behind_since = self._behind_since or now
            if now - self._behind_since > MAX_BEHIND_SECONDS:
                self.drop()
        else:
            self._behind_since = None

    def drop(self) -> None:
        self.gone = True
        self._waiting.clear()
        self._cut()

    def _fly(self, data: bytes) -> None:
        try:
            future = self._pipe.write(data)
        except OSError:
            self.gone = True
            return
        if future.done():
            self._landed(future)
        else:
            self._flying = len(data)
            future.add_done_callback(self._landed)

    def _landed(self, future: asyncio.Future[None]) -> None:
        self._flying = 0
        if future.cancelled() or future.exception() is not None:
            self.gone = True
            self._waiting.clear()
        elif self._waiting:
            self._fly(self._next_batch())

    def _next_batch(self) -> bytes:
        batch, size = [], 0
        while self._waiting and size < JOINED:
            data = self._waiting.popleft()
            batch.append(data)
            size += len(data)
        self._waiting_bytes -= size
        return b"".join(batch)


class Hub:
    """Everyone who is listening live."""

    def __init__(self) -> None:
        self._live: set[Subscriber] = set()
        self.sent = 0  # frames, to any of them

    def __len__(self) -> int:
        return len(self._live)

    def join(self, subscriber: Subscriber) -> None:
        """From now on it gets every frame that is published, in the same order as all."""
        self._live.add(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        self._live.discard(subscriber)

    def publish(self, frame: Frame, tags: Tags, sequence: int) -> None:
        """Send an event to those who asked for such and have not read it from the journal."""
        for subscriber in list(self._live):  # one that is cut leaves while this goes on
            if sequence > subscriber.after and subscriber.wants.lets_through(tags):
                subscriber.send(frame)
                self.sent += 1
        self._forget_gone()

    def broadcast(self, frame: Frame) -> None:
        """Send a frame to everyone."""
        for subscriber in list(self._live):
            subscriber.send(frame)
            self.sent += 1
        self._forget_gone()

    def check(self) -> None:
        """Cut those who have been behind for too long; to be called every second."""
        for subscriber in list(self._live):
            subscriber.check()
        self._forget_gone()

    def _forget_gone(self) -> None:
        gone = [subscriber for subscriber in self._live if subscriber.gone]
        self._live.difference_update(gone)
