"""The journal: events with their sequence, the last view and the result of each run, and intents.

One SQLite file, used by one thread; the functions that run there take the connection as their first argument. The
event loop owns all other state. ``rows`` has the queries that read, ``retention`` those that delete; other packages
keep their own tables here through ``write`` and ``read``.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog

from ..errors import ConfigError, JournalUnwritable
from ..limiter import FairLimiter
from . import retention, rows
from .epoch import boot_id, find_doubt, read_mark, write_mark
from .retention import ANSWERS_KEPT_FOR
from .rows import Intent, NewEvent, Page, Record, RemovedQuery, StoredEvent
from .schema import scalar, upgrade

T = TypeVar("T")

MIB = 1024 * 1024
FILE = "journal.db"
NO_EPOCH = "00000000"  # the epoch of a journal that is not open yet

BUSY_TIMEOUT = 2.0  # seconds to wait for another program's lock on the file
LOCK_WITHIN = 5.0  # seconds to wait for another quartermaster to end
REOPEN_EVERY = 1.0  # seconds
PRUNE_EVERY = 1000  # events
PRUNE_PARTS = 32  # prune also whenever this fraction of the size limit was written
KEEP_SIZE = 1024  # MiB
WAL_LIMIT = 4 * MIB  # the write-ahead log is truncated to this size
WAL_ROOM = 2 * WAL_LIMIT  # part of the size limit that is reserved for it
# FULL waits for the disk at each commit, 0.2 ms where NORMAL takes 0.03; the file stays whole with both.
NORMAL, FULL = "PRAGMA synchronous = NORMAL", "PRAGMA synchronous = FULL"
INVOCATION = "io.qmaster.invocation."  # the types of the ends of invocations begin with it
KEEP_OUTCOME = (
    "INSERT OR REPLACE INTO outcomes (id, at, outcome, owner, size)"
    " VALUES (?1, ?2, ?3, coalesce((SELECT owner FROM records WHERE id = ?1), ''), ?4)"
)

log = structlog.get_logger(__name__)


class JournalSize(NamedTuple):
    """Bytes of the file with its write-ahead log, and the number of events and records."""

    bytes: int
    events: int
    records: int


class Position(NamedTuple):
    """The range of sequences in the journal: all from ``oldest`` to ``last``, and some before ``oldest``."""

    epoch: str
    oldest: int
    last: int


class _Write(NamedTuple):
    """A write that waits for the journal's thread.

    ``last`` is the newest sequence after it, if it writes events; ``durable``: it must also survive a power failure.
    """

    work: Callable[[sqlite3.Connection], object]
    last: int | None
    durable: bool
    done: asyncio.Future[None]


class Journal:
    """The events, records and intents on disk.

    Methods that read or write raise JournalUnwritable on failure; ``trouble`` has the reason of the last one, or None.

    Args:
        folder: the folder of the file; created if missing.
        keep_facts: how many events to keep.
        keep_days: for how many days to keep events, and records of removed runs.
        keep_size: the largest size of the file with its write-ahead log, in MiB.
    """

    def __init__(self, folder: Path, keep_facts: int, keep_days: float, keep_size: int = KEEP_SIZE) -> None:
        self._path = folder / FILE
        self._keep_events = keep_facts
        self._keep_seconds = keep_days * 86400
        self._keep_bytes = keep_size * MIB
        self._thread = ThreadPoolExecutor(1, "journal")
        self._slots = FairLimiter(2, spare=1)  # for reads, and for writes that may be large
        self._waiting: list[_Write] = []  # these are committed together
        self._is_writing = False
        self._db: sqlite3.Connection | None = None
        self._synchronous = NORMAL  # as the connection has it
        self._inode = 0
        self._lock: int | None = None  # file descriptors, as is the next one
        self._mark: int | None = None
        self._shrinking = self._over_size = False
        self.position = Position(NO_EPOCH, 1, 0)
        self.id = ""  # of this quartermaster on its swarm: chosen once, then kept; "" until the journal is open
        self.leftovers: list[Intent] = []  # unsettled intents of earlier processes
        self.trouble: str | None = "not open yet"
        self._tried = 0.0
        self._pruned: dict[str, int] = {}  # the newest sequence that was deleted, by owner
        self._written = 0  # bytes since the last pruning
        self._pruning: asyncio.Task[None] | None = None
        self._prune_again = False

    # -- opening and closing ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file, or set ``trouble`` to why it cannot be opened; a later call tries again.

        Raises:
            ConfigError: a newer quartermaster wrote the file, or another process uses it.
        """
        self._tried = time.monotonic()
        try:
            self.position, self._pruned, self.leftovers = await self._in_thread(self._open)
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        else:
            self._recovered()
            self._prune_soon()

    async def close(self) -> None:
        """Close the file and mark it as complete, so that the next start keeps its epoch."""
        if self._pruning is not None:
            self._pruning.cancel()
        if self._waiting:
            self._write_next()  # before the file is closed
        try:
            await self._in_thread(self._close)
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        self._thread.shutdown(wait=False)

    async def recheck(self) -> None:
        """Try to write again if the last attempt failed. Call it every few seconds."""
        if self.trouble is not None:
            with contextlib.suppress(JournalUnwritable):
                await self.write(lambda db: _set(db, clean="0"))

    # -- writing ---------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[NewEvent], records: Sequence[Record], settled: Sequence[str] = ()) -> None:
        """Write events in order and the records after them, in one transaction.

        The caller numbers the events from ``position.last + 1`` and appends one batch at a time.

        Args:
            events: the events.
            records: the records after these events.
            settled: nonces of intents whose outcome is now known.
        """
        before = self.position.last
        last = before + len(events)
        size = sum(len(event.json) for event in events) + sum(len(record.view) for record in records)
        await self.write(lambda db: _append(db, before, events, records, settled), last, size)
        if before // PRUNE_EVERY != last // PRUNE_EVERY:
            self._prune_soon()

    async def intend(self, intent: Intent) -> None:
        """Record an intent before the engine is asked."""
        row = (intent.name, intent.nonce, intent.type, time.time(), intent.keyed)
        await self.write(lambda db: db.execute("INSERT INTO intents VALUES (?, ?, ?, ?, ?)", row))

    async def settle(self, nonce: str) -> None:
        """Delete an intent: its outcome is known."""
        await self.write(lambda db: db.execute("DELETE FROM intents WHERE nonce = ?", (nonce,)))

    async def end(self, run_id: str, why: str) -> None:
        """Record that a run is being ended, and why: ``stopped`` or ``timeout``."""
        row = (run_id, time.time(), why)
        await self.write(lambda db: db.execute("INSERT OR REPLACE INTO endings VALUES (?, ?, ?)", row))

    async def keep_outcome(self, run_id: str, outcome: bytes) -> None:
        """Keep the result of a run."""
        row = (run_id, time.time(), outcome, len(outcome))
        async with self._slots.slot():
            await self.write(lambda db: db.execute(KEEP_OUTCOME, row), size=len(outcome))

    async def begin_call(self, key: str, owner: str, digest: str) -> None:
        """Record that a call with an idempotency key is about to be handed over."""
        row = (key, time.time(), owner, digest)
        query = "INSERT OR REPLACE INTO answers (key, at, owner, size, digest) VALUES (?, ?, ?, 0, ?)"
        await self.write(lambda db: db.execute(query, row), durable=True)

    async def keep_answer(self, key: str, answer: bytes) -> None:
        """Keep the answer of a call that was begun."""
        row = (answer, len(answer), key)
        query = "UPDATE answers SET answer = ?, size = ? WHERE key = ?"
        await self.write(lambda db: db.execute(query, row), size=len(answer))

    async def forget_call(self, key: str) -> None:
        """Forget a call that was not handed over."""
        await self.write(lambda db: db.execute("DELETE FROM answers WHERE key = ?", (key,)))

    # -- reading ---------------------------------------------------------------------------------------------------

    def kept_from(self, owner: str | None) -> int:
        """Return the first sequence from which all events of an owner (None: of all owners) are kept."""
        return retention.kept_from(self._pruned, owner)

    async def events(self, after: int, limit: int, owner: str | None = None) -> list[StoredEvent] | None:
        """Return the next events after a sequence, of one owner or of all; None if some of them were deleted.

        Returns at most ``limit``, and fewer if they are large; ``is_full`` tells whether there may be more.
        """
        return await self.read(lambda db: rows.events(db, after, limit, owner))

    async def last_before(self, moment: float) -> int:
        """Return the newest sequence written before a time (seconds since 1970); 0 if no event before it is kept."""
        return await self.read(lambda db: rows.last_before(db, moment))

    async def newest(self) -> bytes | None:
        """Return the CloudEvent of the newest event."""
        return await self.read(rows.newest)

    async def record(self, name_or_id: str, owner: str | None = None) -> bytes | None:
        """Return the last view of the run with this id, else of the newest with this name, of one owner or of all."""
        return await self.read(lambda db: rows.record(db, name_or_id, owner))

    async def records(self) -> list[Record]:
        """Return the records of all runs, nodes and functions that are not removed."""
        return await self.read(rows.records)

    async def removed(self, wanted: RemovedQuery, show: Callable[[bytes], bytes | None]) -> Page:
        """Return a page of the last views of removed runs, the newest first.

        Args:
            wanted: which runs.
            show: converts a view for the listing, or returns None to leave it out; runs in the journal's thread.
        """
        return await self.read(lambda db: rows.removed(db, wanted, show))

    async def keyed(self, name: str) -> tuple[bytes, str] | None:
        """Return the last view of the newest run with this name, and the digest of its request."""
        query = "SELECT view, body FROM records WHERE name = ? AND kind = 'service' ORDER BY removed, at DESC LIMIT 1"
        return await self.read(lambda db: db.execute(query, (name,)).fetchone())

    async def outcome(self, run_id: str) -> bytes | None:
        """Return the result of a run, as given to ``keep_outcome``."""
        row = await self.read(lambda db: db.execute("SELECT outcome FROM outcomes WHERE id = ?", (run_id,)).fetchone())
        return row[0] if row else None

    async def kept_answer(self, key: str) -> tuple[str, bytes | None] | None:
        """Return the digest of the call with a key, and its answer; None where it was begun, and not answered."""
        query, since = "SELECT digest, answer FROM answers WHERE key = ? AND at >= ?", time.time() - ANSWERS_KEPT_FOR
        return await self.read(lambda db: db.execute(query, (key, since)).fetchone())

    async def endings(self) -> dict[str, str]:
        """Return why each run that is being ended is ended, by id."""
        return await self.read(lambda db: dict(db.execute("SELECT id, why FROM endings")))

    async def size(self) -> JournalSize:
        """Return the size of the journal."""
        return await self.read(self._size)

    # -- on the event loop -----------------------------------------------------------------------------------------

    def _grown(self, size: int) -> None:
        self._written += size
        if self._written > self._keep_bytes // PRUNE_PARTS:
            self._prune_soon()

    def _prune_soon(self) -> None:
        self._prune_again = True
        if self._pruning is None:
            self._pruning = asyncio.create_task(self._prune())

    async def _prune(self) -> None:
        try:
            while self._prune_again:
                self._prune_again, self._written = False, 0
                self._note_pruned(await self._in_thread(self._drop_old))
                more = True
                while more:
                    pruned, more = await self._in_thread(self._shrink)
                    self._note_pruned(pruned)
        except (sqlite3.Error, OSError) as error:
            log.warning("journal_prune_failed", reason=str(error))
        finally:
            self._pruning = None

    def _note_pruned(self, pruned: dict[str, int]) -> None:
        self._pruned = pruned
        self.position = self.position._replace(oldest=retention.kept_from(pruned, None))

    async def write(
        self,
        work: Callable[[sqlite3.Connection], object],
        last: int | None = None,
        size: int = 0,
        durable: bool = False,
    ) -> None:
        """Run ``work`` in a transaction, together with what others write meanwhile.

        It is also done if the caller is cancelled.

        Args:
            work: runs in the journal's thread.
            last: the newest sequence after it, if it writes events.
            size: bytes that it adds to the file, about.
            durable: whether it must also survive a power failure; any write survives the end of the process.
        """
        await self._ensure_open()
        write = _Write(work, last, durable, asyncio.get_running_loop().create_future())
        self._waiting.append(write)
        if not self._is_writing:
            self._write_soon()
        try:
            await write.done
        except (sqlite3.Error, OSError) as error:
            raise JournalUnwritable(f"the journal cannot be written: {error}") from error
        if size:
            self._grown(size)

    def _write_soon(self) -> None:
        """Let the next transaction begin once all that is due now has run, as more of it may want to write.

        Callers whose writes were committed together then also write their next ones together.
        """
        self._is_writing = True
        asyncio.get_running_loop().call_soon(self._write_next)

    def _write_next(self) -> None:
        """Give all that waits to the journal's thread."""
        writes, self._waiting = self._waiting, []
        try:
            self._thread.submit(self._write_together, asyncio.get_running_loop(), writes)
        except RuntimeError:  # the journal was closed
            self._finish(writes, [sqlite3.OperationalError("the journal is closed") for _ in writes])

    def _finish(self, writes: list[_Write], errors: list[Exception | None]) -> None:
        for write, error in zip(writes, errors, strict=True):
            if isinstance(error, sqlite3.Error | OSError):
                self._failed(error)
            elif error is None:
                self._recovered()
                self.position = self.position if write.last is None else self.position._replace(last=write.last)
            if not write.done.done():  # its caller may have been cancelled
                write.done.set_result(None) if error is None else write.done.set_exception(error)
        self._is_writing = False
        if self._waiting:
            self._write_soon()

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return what ``query`` finds; it runs in the journal's thread."""
        await self._ensure_open()
        try:
            async with self._slots.slot():
                return await self._in_thread(lambda: query(self._opened()))
        except (sqlite3.Error, OSError) as error:
            raise JournalUnwritable(f"the journal cannot be read: {error}") from error

    async def _ensure_open(self) -> None:
        if self._db is None and time.monotonic() - self._tried > REOPEN_EVERY:
            try:
                await self.open()
            except ConfigError as error:  # only at the start it ends the process
                self._failed(error)
        if self._db is None:
            raise JournalUnwritable(f"the journal cannot be opened: {self.trouble}")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _failed(self, error: Exception) -> None:
        if self.trouble != str(error):
            log.error("journal_unwritable", file=str(self._path), reason=str(error))
        self.trouble = str(error)

    def _recovered(self) -> None:
        if self.trouble not in (None, "not open yet"):
            log.info("journal_writable_again", file=str(self._path))
        self.trouble = None

    # -- in the journal's thread -----------------------------------------------------------------------------------

    def _open(self) -> tuple[Position, dict[str, int], list[Intent]]:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._lock is None:
            self._lock = _lock(self._path.with_suffix(".lock"))
        _make_private(self._path)
        mark = self._path.with_suffix(".mark")
        db = _connect(self._path)
        try:
            upgrade(db, self._path)
            position = _position(db, self._path, read_mark(mark))
            rows = db.execute("SELECT name, nonce, type, keyed FROM intents")
            leftovers = [Intent(name, nonce, kind, bool(keyed)) for name, nonce, kind, keyed in rows]
            if self._mark is None:
                self._mark = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            write_mark(self._mark, position.epoch, position.last)
            self._inode, self._db, self.id = self._path.stat().st_ino, db, _id(db)
            self._synchronous = NORMAL
            pruned = self._drop_old()  # rows that became too old since the last process
        except BaseException:
            self._db = None
            db.close()
            raise
        return position._replace(oldest=retention.kept_from(pruned, None)), pruned, leftovers

    def _close(self) -> None:
        if self._db is not None:
            try:
                self._commit(lambda db: _set(db, clean="1"))
            finally:
                self._db.close()
                self._db = None
                for file in (self._lock, self._mark):
                    if file is not None:
                        os.close(file)
                self._lock = self._mark = None

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.OperationalError("the journal is not open")
        return self._db

    def _write_together(self, loop: asyncio.AbstractEventLoop, writes: list[_Write]) -> None:
        errors = self._commit_together(writes)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._finish, writes, errors)

    def _commit_together(self, writes: list[_Write]) -> list[Exception | None]:
        """Write in one transaction; if that fails, in one for each write, so that none fails for another's mistake.

        Returns:
            The error of each write, or None.
        """
        try:
            durable = any(write.durable for write in writes)
            self._commit(lambda db: [write.work(db) for write in writes], _newest(writes), durable)
        except (sqlite3.OperationalError, OSError) as error:  # of the disk or the file: all would wait for it in turn
            return [error for _ in writes]
        except Exception as error:  # the top of the thread
            if len(writes) == 1:
                return [error]
            return [error for write in writes for error in self._commit_together([write])]
        return [None for _ in writes]

    def _commit(self, work: Callable[[sqlite3.Connection], T], last: int | None = None, durable: bool = False) -> T:
        db = self._opened()
        self._require_file()
        self._synchronize(db, FULL if durable else NORMAL)
        db.execute("BEGIN IMMEDIATE")
        with db:  # commits, or rolls back
            done = work(db)
        if last is not None and self._mark is not None:
            with contextlib.suppress(OSError):  # it is committed; a mark that lags behind is harmless
                write_mark(self._mark, self.position.epoch, last)
        return done

    def _synchronize(self, db: sqlite3.Connection, wanted: str) -> None:
        """Set what the next transaction waits for; it stays so, as one like it often follows."""
        if self._synchronous != wanted:
            db.execute(wanted)
            self._synchronous = wanted

    def _require_file(self) -> None:
        """Check that the file still has its name: SQLite does not, and would write to a deleted file."""
        try:
            inode = self._path.stat().st_ino
        except OSError:
            inode = 0
        if inode != self._inode:
            reason = "was deleted or replaced while it was open: restart quartermaster"
            raise sqlite3.OperationalError(f"{self._path} {reason}")

    def _size(self, db: sqlite3.Connection) -> JournalSize:
        files = (self._path, Path(f"{self._path}-wal"))
        events, records = (scalar(db, f"SELECT count(*) FROM {table}") for table in ("facts", "records"))  # noqa: S608
        return JournalSize(sum(file.stat().st_size for file in files if file.exists()), events, records)

    def _drop_old(self) -> dict[str, int]:
        """Delete rows that are too old and surplus events; return the newest deleted sequence by owner."""
        too_old = time.time() - self._keep_seconds
        return self._commit(lambda db: retention.drop_old(db, too_old, self._keep_events))

    def _shrink(self) -> tuple[dict[str, int], bool]:
        """Delete part of what exceeds the size limit; return the newest deleted sequence by owner, and if more remains.

        One part at a time, so that writes need not wait for all of it.
        """
        db, room = self._opened(), self._keep_bytes - WAL_ROOM
        page, pages, free = retention.count_pages(db)
        used = (pages - free) * page
        # Start above 15/16 and stop at 7/8 of the limit, so that shrinking does not run for every few rows.
        self._shrinking = used > (room - room // 8 if self._shrinking else room - room // 16)
        over = min(used - (room - room // 8), retention.SHRINK_BYTES)
        dropped = self._commit(lambda db: retention.drop_bytes(db, over)) if self._shrinking else 0
        if not dropped:
            self._warn_if_over(used, room)
        return retention.pruned(db), dropped > 0 or retention.give_back(db, pages * page - room)

    def _warn_if_over(self, used: int, room: int) -> None:
        if used > room and not self._over_size:
            advice = "runs that were not removed are kept; stop some, or raise --keep-size"
            log.warning("journal_over_keep_size", bytes=used, advice=advice)
        self._over_size = used > room


def _newest(writes: Iterable[_Write]) -> int | None:
    return max((write.last for write in writes if write.last is not None), default=None)


# --- opening the file ----------------------------------------------------------------------------------------------


def _lock(path: Path) -> int:
    """Lock the folder, as two processes would use the same sequences. Wait up to ``LOCK_WITHIN`` for one that ends.

    Raises:
        ConfigError: another quartermaster holds the lock.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + LOCK_WITHIN
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(file)
                raise ConfigError(f"--data-dir: another quartermaster uses {path.parent}") from None
            time.sleep(0.1)
        else:
            return file


def _make_private(path: Path) -> None:
    """Make the journal's files readable by their owner only; SQLite gives its other files the mode of the first."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in path.parent.glob(f"{path.stem}.*"):
        with contextlib.suppress(OSError):  # it was deleted, or belongs to another user
            file.chmod(0o600)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, check_same_thread=False, isolation_level=None)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # first: once there are tables, only VACUUM changes it
    db.execute("PRAGMA journal_mode = WAL")
    # A commit survives the end of the process. A loss by power failure is detected by the boot id (see ``epoch``).
    db.execute(NORMAL)
    db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    return db


def _position(db: sqlite3.Connection, path: Path, mark: tuple[str, int] | None) -> Position:
    """Return the position; start a new epoch if the tail may be lost, as a sequence could then name two events."""
    meta = dict(db.execute("SELECT key, value FROM meta"))
    boot, inode = boot_id(), str(path.stat().st_ino)
    last = scalar(db, "SELECT coalesce(max(seq), 0) FROM facts")
    doubt = find_doubt(meta, boot, inode, last, mark)
    epoch = secrets.token_hex(4) if doubt else meta["epoch"]
    db.execute("BEGIN IMMEDIATE")
    with db:
        _set(db, epoch=epoch, boot=boot, inode=inode, clean="0")
        if doubt:
            # The lost tail may have settled an intent, and its run must not be removed.
            for table in ("facts", "pruned", "intents", "endings"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of ours
    if doubt and meta:
        log.warning("journal_new_epoch", file=str(path), reason=doubt)
    return Position(epoch, retention.kept_from(retention.pruned(db), None), 0 if doubt else last)


def _id(db: sqlite3.Connection) -> str:
    """Return the id of this quartermaster, which is not that of the epoch; choose one for a new file."""
    db.execute("INSERT OR IGNORE INTO meta VALUES ('id', ?)", (secrets.token_hex(4),))
    return str(db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0])


# --- SQL -----------------------------------------------------------------------------------------------------------


def _set(db: sqlite3.Connection, **values: str) -> None:
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def _append(
    db: sqlite3.Connection,
    after: int,
    events: Sequence[NewEvent],
    records: Sequence[Record],
    settled: Iterable[str],
) -> None:
    now = time.time()
    db.executemany(
        "INSERT INTO facts (seq, at, owner, subject, size, type, event) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(n, now, e.owner, e.subject, len(e.json), e.type, e.json) for n, e in enumerate(events, after + 1)],
    )
    db.executemany(
        "INSERT OR REPLACE INTO records (id, kind, name, removed, at, view, body, owner, size)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(r.id, r.kind, r.name, r.removed, now, r.view, r.body, r.owner, len(r.view)) for r in records],
    )
    db.executemany("DELETE FROM endings WHERE id = ?", [(r.id,) for r in records if r.removed])
    db.executemany("DELETE FROM intents WHERE nonce = ?", [(nonce,) for nonce in settled])
    ended = [(event.subject,) for event in events if event.type.startswith(INVOCATION)]
    db.executemany("UPDATE invocations SET told = 1 WHERE id = ?", ended)
