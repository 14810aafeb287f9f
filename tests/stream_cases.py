"""A journal and a stream in memory."""

import asyncio
import json
import math
from typing import Any, cast

from qmaster.errors import JournalUnwritable
from qmaster.events import frames
from qmaster.events.broker import Broker, Filter, News, Subscriber, Tags
from qmaster.events.journal import Position
from qmaster.events.rows import StoredEvent
from qmaster.events.stream import EventStream

Json = dict[str, Any]
EPOCH = "0a0b0c0d"


class Journal:
    """Events 1 to `last`, of which those from `oldest` on are kept; the odd ones are of s1, the even ones of s2.

    Each was written at the second (since 1970) of its number.
    """

    def __init__(self, last: int, oldest: int = 1) -> None:
        self.position = Position(EPOCH, oldest, last)
        self.broken = False

    def kept_from(self, owner: str | None) -> int:
        return self.position.oldest

    async def events(self, after: int, limit: int, owner: str | None) -> list[StoredEvent] | None:
        await asyncio.sleep(0)
        if self.broken:
            raise JournalUnwritable("torn")
        if after < self.position.oldest - 1:
            return None
        numbers = range(max(after + 1, self.position.oldest), min(after + limit, self.position.last) + 1)
        return [event(number) for number in numbers]

    async def last_before(self, moment: float) -> int:
        before = min(math.ceil(moment) - 1, self.position.last)
        return before if before >= self.position.oldest else 0

    def grow(self) -> int:
        self.position = self.position._replace(last=self.position.last + 1)
        return self.position.last


def event(number: int) -> StoredEvent:
    subject = "s1" if number % 2 else "s2"
    data = {"labels": {"of": subject}, "owner": "root"}
    document = {"id": f"{EPOCH}:{number}", "subject": subject, "data": data}
    return StoredEvent(
        number, "io.qmaster.service.updated", json.dumps(document, separators=(",", ":")).encode(), "root", subject
    )


class Pipe:
    sent = 0

    def __init__(self) -> None:
        self.frames: list[Json] = []

    def write(self, data: bytes) -> asyncio.Future[None] | None:
        self.frames += [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: ")]
        return None


class Stream:
    """An event stream with one subscriber."""

    def __init__(self, journal: Journal, wants: Filter = Filter()) -> None:  # noqa: B008 - a constant
        self.journal, self.broker, self.pipe = journal, Broker(), Pipe()
        self.read = True
        self.made = 0
        self.stale: str | None = None
        self.shown: list[Any] = [{"id": "s1"}]
        self.event_stream = EventStream(
            cast(Any, journal), self.broker, lambda: journal.position, self._snapshot, lambda: self.stale
        )
        self.subscriber = Subscriber(self.pipe, "sse", wants, lambda: None)

    def _snapshot(self, wants: Filter) -> tuple[list[Any], list[Any]]:
        if not self.read:
            raise JournalUnwritable("not read yet")
        self.made += 1
        return self.shown, []

    def publish(self) -> None:
        number = self.journal.grow()
        stored = event(number)
        frame = frames.event(f"{EPOCH}:{number}", stored.type, stored.json)
        subject = "s1" if number % 2 else "s2"
        tags = Tags("service", subject, frozenset({f"of={subject}"}), "root")
        self.broker.publish([News(frame, tags, number)])

    def kinds(self) -> list[str]:
        return [frame.get("type", "event") for frame in self.pipe.frames]

    def ids(self) -> list[int]:
        return [int(frame["id"].partition(":")[2]) for frame in self.pipe.frames if "id" in frame]
