"""The journal: events with their sequence, the record and outcome of every run, and the intents of runs.

One thread writes to its file and one reads; all else belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from ..errors import ConfigError, JournalUnwritable
from ..limiter import FairLimiter, acting_for
from ..threads import Threads
from . import retention
from .store import (
    EVENTS_BYTES,
    FILE,
    NO_EPOCH,
    Intent,
    JournalSize,
    Key,
    NewEvent,
    Page,
    Position,
    Record,
    Store,
    StoredEvent,
    is_full,
)

__all__ = [
    "EVENTS_BYTES",
    "NO_EPOCH",
    "Intent",
    "Journal",
    "Key",
    "NewEvent",
    "Page",
    "Position",
    "Record",
    "StoredEvent",
    "is_full",
]

T = TypeVar("T")

PRUNE_EVERY = 1000  # events
PRUNE_PARTS = 32  # or one part in so many of the bytes that are kept
KEEP_SIZE = 1024  # MiB
MIB = 1024 * 1024
REOPEN_EVERY = 1.0  # seconds

log = structlog.get_logger(__name__)


class Journal:
    """The event loop's face of the file.

    Args:
        folder: where the file lives; made if missing.
        keep_facts: how many events are kept.
        keep_days: for how long events, and records of what is removed, are kept.
        keep_size: how large the file may become, in MiB.
    """

    def __init__(self, folder: Path, keep_facts: int, keep_days: float, keep_size: int = KEEP_SIZE) -> None:
        self._file = Store(folder / FILE, keep_facts, keep_days, keep_size * MIB)
        self._part = keep_size * MIB // PRUNE_PARTS
        self._written = 0  # bytes since something was pruned last
        self._writer = Threads(1, "journal-writer")
        self._reader = Threads(1, "journal-reader")
        self._writes, self._reads = FairLimiter(1, spare=1), FairLimiter(1, spare=1)
        self.position = Position(NO_EPOCH, 1, 0)
        self._deleted: dict[str, int] = {}  # the newest sequence that was pruned, by owner
        self.leftovers: list[Intent] = []  # of earlier processes: nobody was told what came of them
        self._pruning: asyncio.Task[None] | None = None
        self._prune_again = False
        self.trouble: str | None = "not open yet"
        self._tried = 0.0

    async def open(self) -> None:
        """Open the file, or note why it cannot be; a later call tries again.

        Raises:
            ConfigError: a newer quartermaster has written it.
        """
        self._tried = time.monotonic()
        try:
            self.position, self._deleted, self.leftovers = await self._writer.do(self._file.open)
        except ConfigError:
            raise
        except (sqlite3.Error, OSError) as error:
            self._note(error)
        else:
            self._well()
            self._prune_soon()

    def kept_from(self, owner: str | None) -> int:
        """Return the first sequence from which all events of an owner are kept; of everyone with None."""
        return retention.kept_from(self._deleted, owner)

    async def ensure(self) -> None:
        """Raise unless the file is open, trying to open it now and then.

        Raises:
            JournalUnwritable
        """
        if self._file.is_open:
            return
        if time.monotonic() - self._tried > REOPEN_EVERY:
            await self.open()
        if not self._file.is_open:
            raise JournalUnwritable(f"the journal cannot be opened: {self.trouble}")

    async def recheck(self) -> None:
        """Where it could not be written, see whether it can be by now; to be called every few seconds."""
        if self.trouble is not None:
            with contextlib.suppress(JournalUnwritable):
                await self._write(self._file.probe)

    async def append(
        self,
        events: Sequence[NewEvent],
        records: Sequence[Record],
        settled: Sequence[str] = (),
    ) -> None:
        """Write events in their order and the records they leave, in one transaction.

        The caller numbers them from ``position.last + 1`` and lets nobody else write meanwhile.

        Args:
            settled: nonces of intents that have come to an end with this.

        Raises:
            JournalUnwritable: nothing was written.
        """
        # Whoever asked may be cancelled, but not between the commit and the new position.
        await asyncio.shield(self._append(events, records, settled))

    async def intend(self, intent: Intent) -> None:
        """Keep what is about to be asked of the engine.

        Raises:
            JournalUnwritable
        """
        await self._write(lambda: self._file.intend(intent))

    async def settle(self, nonce: str) -> None:
        """Forget an intent: its outcome is known.

        Raises:
            JournalUnwritable
        """
        await self._write(lambda: self._file.settle([nonce]))

    async def end(self, run_id: str, why: str) -> None:
        """Keep that a run is being ended, and why: ``stopped`` or ``timeout``.

        Raises:
            JournalUnwritable
        """
        await self._write(lambda: self._file.end(run_id, why))

    async def keep_outcome(self, run_id: str, outcome: bytes) -> None:
        """Keep how a run ended and what it said.

        Raises:
            JournalUnwritable
        """
        await self._write(lambda: self._file.keep_outcome(run_id, outcome))
        self._grown(len(outcome))

    async def outcome(self, run_id: str) -> bytes | None:
        """What ``keep_outcome`` has kept of a run."""
        return await self._read(lambda: self._file.outcome(run_id))

    async def keyed(self, name: str) -> tuple[bytes, str] | None:
        """The last view of the run that had this name last, and the digest of the request that it was started with."""
        return await self._read(lambda: self._file.keyed(name))

    async def events(self, after: int, limit: int, owner: str | None = None) -> list[StoredEvent] | None:
        """Events after a sequence, at most ``limit`` and of large ones fewer, with an owner theirs.

        None where some are kept no longer; ``is_full`` tells whether there may be more.
        """
        return await self._read(lambda: self._file.events(after, limit, owner))

    async def record(self, name_or_id: str, owner: str | None = None) -> bytes | None:
        """The last view of a service or container by id, or else by name, the newest first; with owner, of theirs."""
        return await self._read(lambda: self._file.record(name_or_id, owner))

    async def records(self) -> list[Record]:
        """Those of what was there when last seen."""
        return await self._read(self._file.records)

    async def removed(self, before: Key, owner: str | None, show: Callable[[bytes], bytes | None]) -> Page:
        """A page of the last views of what is removed, by the time of creation; with an owner, of theirs.

        Args:
            before: where the page begins.
            show: what is made of a view, in the reader's thread; None leaves it out.
        """
        return await self._read(lambda: self._file.removed(before, owner, show))

    async def endings(self) -> dict[str, str]:
        """What is being ended, and why: containers, and services that are being removed at once."""
        return await self._read(self._file.endings)

    async def size(self) -> JournalSize:
        """How large it is."""
        return await self._read(self._file.size)

    async def close(self) -> None:
        """Close it so that the next start need not doubt its tail; what is still to be pruned is left to that."""
        if self._pruning is not None:
            self._pruning.cancel()
        try:
            await self._writer.do(self._file.close)
        except (sqlite3.Error, OSError) as error:
            self._note(error)
        self._writer.end()
        self._reader.end()

    async def _append(self, events: Sequence[NewEvent], records: Sequence[Record], settled: Sequence[str]) -> None:
        first = self.position.last + 1
        with acting_for(None):  # it tells what all have done, and everybody waits for it
            await self._write(lambda: self._file.append(first, events, records, settled))
        self.position = self.position._replace(last=first + len(events) - 1)
        self._grown(sum(len(one.json) for one in events) + sum(len(one.view) for one in records))
        if first // PRUNE_EVERY != (first + len(events)) // PRUNE_EVERY:
            self._prune_soon()

    def _grown(self, size: int) -> None:
        self._written += size
        if self._written > self._part:
            self._prune_soon()

    def _prune_soon(self) -> None:
        self._prune_again = True
        if self._pruning is None:
            self._pruning = asyncio.create_task(self._prune())

    async def _prune(self) -> None:
        try:
            while self._prune_again:
                self._prune_again, self._written = False, 0
                self._forget(await self._writer.do(self._file.prune))
                more = True
                while more:
                    deleted, more = await self._writer.do(self._file.shrink)
                    self._forget(deleted)
        except (sqlite3.Error, OSError) as error:
            log.warning("journal_prune_failed", reason=str(error))
        finally:
            self._pruning = None

    def _forget(self, deleted: dict[str, int]) -> None:
        self._deleted = deleted
        self.position = self.position._replace(oldest=retention.kept_from(deleted, None))

    async def _write(self, work: Callable[[], None]) -> None:
        await self.ensure()
        try:
            async with self._writes.slot():
                await self._writer.do(work)
        except (sqlite3.Error, OSError) as error:
            self._note(error)
            raise JournalUnwritable(f"the journal cannot be written: {error}") from error
        self._well()

    async def _read(self, work: Callable[[], T]) -> T:
        await self.ensure()
        try:
            async with self._reads.slot():
                return await self._reader.do(work)
        except (sqlite3.Error, OSError) as error:
            raise JournalUnwritable(f"the journal cannot be read: {error}") from error

    def _note(self, error: Exception) -> None:
        if self.trouble != str(error):
            log.error("journal_unwritable", file=str(self._file.path), reason=str(error))
        self.trouble = str(error)

    def _well(self) -> None:
        if self.trouble not in (None, "not open yet"):
            log.info("journal_writable_again", file=str(self._file.path))
        self.trouble = None
