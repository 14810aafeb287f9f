"""A journal in memory."""

import asyncio
import json
from typing import Any

import msgspec

from qmaster.errors import JournalUnwritable
from qmaster.events import journal
from qmaster.events.journal import Position
from qmaster.events.rows import Record, compressed

Json = dict[str, Any]
EPOCH = "0a0b0c0d"


class Journal(journal.Journal):
    """Keeps what is appended, in a list; its own constructor is not called."""

    def __init__(self) -> None:
        self.position = Position(EPOCH, 1, 0)
        self.written: list[Json] = []
        self.kept: dict[str, Record] = {}
        self.settled: list[str] = []
        self.ending: dict[str, str] = {}
        self.full = self.unreadable = False

    async def append(self, events: Any, records: Any, settled: Any = ()) -> None:
        await asyncio.sleep(0)
        if self.full:
            raise JournalUnwritable("full")
        self.written += [json.loads(one.json) for one in events]
        self.kept |= {record.id: record for record in records}
        self.settled += settled
        self.position = self.position._replace(last=self.position.last + len(events))

    async def records(self) -> list[Record]:
        if self.unreadable:
            raise JournalUnwritable("torn")
        return [compressed(record) for record in self.kept.values() if not record.removed]

    async def endings(self) -> dict[str, str]:
        return self.ending

    async def newest(self) -> bytes | None:
        return msgspec.json.encode(self.written[-1]) if self.written else None

    async def settle(self, nonce: str) -> None:
        self.settled.append(nonce)
