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
JOINED = 64 * 1024  # bytes; live frames are joined up to about so many
SLICE = 0.0006  # seconds of sending, after which the loop serves others
FEW = 100  # subscribers who are sent to at once
FIRST_PAUSE = 0.01  # seconds, before a round to more of them
PAUSE = 4  # times as long as a round of several slices took
LONGEST_PAUSE = 0.1  # seconds
AT_ONCE = 20  # subscribers that are sent to between two looks at the clock

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


class News(NamedTuple):
    """A frame for those who have not read as far as ``sequence`` and want such; without tags everyone does."""

    frame: Frame
    tags: Tags | None
    sequence: int


class Pipe(Protocol):
    """Where a subscriber's bytes go; ``sent`` grows as they leave."""

    @property
    def sent(self) -> int: ...

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

    __slots__ = (
        "_behind_since", "_cut", "_flying", "_pipe", "_waiting", "_waiting_bytes", "_waiting_frames",
        "after", "gone", "wants", "wire",
    )  # fmt: skip

    def __init__(self, pipe: Pipe, wire: Wire, wants: Filter, cut: Callable[[], None]) -> None:
        self._pipe = pipe
        self._cut = cut
        self.wire = wire
        self.wants = wants
        self._waiting: deque[tuple[bytes, int]] | None = None  # an empty deque takes 0.7 KB
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
            if self._waiting is None:
                self._waiting = deque()
            self._waiting.append((data, frames))
            self._waiting_bytes += len(data)
            self._waiting_frames += frames
            self.check()
        else:
            self._fly(data)

    async def deliver(self, frame: Frame) -> bool:
        """Send a frame at the reader's pace; False where it made no progress and was cut.

        It is handed on whole: what else is said on the connection meanwhile, as a pong or a close, comes behind it.
        """
        if self.gone:
            return False
        try:
            flight = self._pipe.write(getattr(frame, self.wire))
            while flight is not None and not flight.done():
                before = self._pipe.sent
                await asyncio.wait([flight], timeout=PATIENCE)
                if not flight.done() and self._pipe.sent == before:
                    self.drop()
                    return False
            if flight is not None:
                flight.result()
        except OSError:
            self.gone = True
        return not self.gone

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
            self._fly(self._next_batch(self._waiting))

    def _lose(self) -> None:
        self.gone = True
        self._waiting = None

    def _next_batch(self, waiting: deque[tuple[bytes, int]]) -> bytes:
        batch, size = [], 0
        while waiting and size < JOINED:
            data, frames = waiting.popleft()
            batch.append(data)
            size += len(data)
            self._waiting_frames -= frames
        self._waiting_bytes -= size
        return b"".join(batch)


class Broker:
    """Everyone who is listening live, by what they get: one encoding and one look at a filter serve all of a kind.

    News goes out in rounds: at once to a few subscribers, to many a little later, so that the answer to a run is not
    behind its own first event, and in slices, so that the loop serves others in between. After a round of several
    slices there is a pause, so that short rounds take a fifth of the time. What comes meanwhile is in the next one,
    together.
    """

    def __init__(self) -> None:
        self._live: dict[tuple[Wire, Filter], set[Subscriber]] = {}
        self._news: list[News] = []
        self._round: Iterator[None] | None = None
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

    def publish(self, news: Iterable[News]) -> None:
        """Send news, in its order, to those who want it."""
        self._news += news
        if self._round is not None:
            return
        if len(self) <= FEW:
            self._begin_round()
        else:
            self._round = iter(())  # it is about to begin
            asyncio.get_running_loop().call_later(FIRST_PAUSE, self._begin_round)

    def check(self) -> None:
        """Cut those who have been behind for too long; to be called every second."""
        for subscriber in [one for alike in self._live.values() for one in alike]:
            subscriber.check()
            if subscriber.gone:
                self.leave(subscriber)

    def _begin_round(self) -> None:
        news, self._news = self._news, []
        self._round = self._sending(news) if news else None
        self._go_on(time.monotonic(), first=True)

    def _go_on(self, began: float, first: bool = False) -> None:
        if self._round is None:
            return
        until = time.monotonic() + SLICE
        try:
            for _ in self._round:
                if time.monotonic() > until:
                    asyncio.get_running_loop().call_soon(self._go_on, began)
                    return
        except BaseException:  # a mistake of ours must not end all rounds
            self._round = None
            raise
        if first:
            self._round = None
        else:
            pause = min((time.monotonic() - began) * PAUSE, LONGEST_PAUSE)
            asyncio.get_running_loop().call_later(pause, self._begin_round)

    def _sending(self, news: Sequence[News]) -> Iterator[None]:
        """Send to one after the other, with a stop after some."""
        served = 0  # of all kinds: each subscriber may be of one of its own
        for (wire, wants), alike in list(self._live.items()):
            wanted = [one for one in news if one.tags is None or wants.lets_through(one.tags)]
            parcels = list(_joined(wire, wanted))
            for subscriber in list(alike):  # a copy: one that is cut leaves while this goes on
                if wanted and subscriber.after < wanted[0].sequence:
                    self._send(parcels, subscriber)
                else:  # it came while these were written to the journal, and has read some of them there
                    rest = [one for one in wanted if subscriber.after < one.sequence]
                    self._send(_joined(wire, rest), subscriber)
                served += 1
                if served % AT_ONCE == 0:
                    yield

    def _send(self, parcels: Iterable[tuple[bytes, int]], to: Subscriber) -> None:
        for data, frames in parcels:
            to.send(data, frames)
            self.sent += frames
        if to.gone:
            self.leave(to)


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
