"""The journal: events with their sequence, the last view and the result of each run, and intents.

One SQLite file, used by one thread; the functions that run there take the connection as their first argument. The
event loop owns all other state.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import heapq
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog

from ..errors import ConfigError, JournalUnwritable
from ..limiter import FairLimiter, acting_for

T = TypeVar("T")

MIB = 1024 * 1024
FILE = "journal.db"
SCHEMA_VERSION = 3
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NO_EPOCH = "00000000"  # the epoch of a journal that is not open yet
EVERYONE = "*"  # the owner, in the table ``pruned``, of events that were deleted before events had owners
INCREMENTAL = 2  # a value of SQLite's auto_vacuum

BUSY_TIMEOUT = 2.0  # seconds to wait for another program's lock on the file
LOCK_WITHIN = 5.0  # seconds to wait for another quartermaster to end
REOPEN_EVERY = 1.0  # seconds
PRUNE_EVERY = 1000  # events
PRUNE_PARTS = 32  # prune also whenever this fraction of the size limit was written
KEEP_SIZE = 1024  # MiB
WAL_LIMIT = 4 * MIB  # the write-ahead log is truncated to this size
WAL_ROOM = 2 * WAL_LIMIT  # part of the size limit that is reserved for it
SHRINK_BYTES = 4 * MIB  # to delete in one transaction
PAGE_BYTES = 64 * 1024  # size of a page of a listing; its last row may exceed this
EVENTS_BYTES = 256 * 1024  # size of a page of events; its last event may exceed this
SCANNED_BYTES = MIB  # limit of a page of a listing when few rows match

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, owner TEXT NOT NULL, subject TEXT NOT NULL, size INTEGER NOT NULL,
    type TEXT NOT NULL, event BLOB NOT NULL
);
CREATE TABLE pruned (owner TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, removed INTEGER NOT NULL, at REAL NOT NULL,
    view BLOB NOT NULL, body TEXT NOT NULL DEFAULT '', owner TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX records_by_name ON records (name, at);
CREATE TABLE intents (
    name TEXT NOT NULL, nonce TEXT PRIMARY KEY, type TEXT NOT NULL, at REAL NOT NULL, keyed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE endings (
    id TEXT PRIMARY KEY, at REAL NOT NULL, why TEXT NOT NULL DEFAULT 'stopped'
) WITHOUT ROWID;
CREATE TABLE outcomes (
    id TEXT PRIMARY KEY, at REAL NOT NULL, outcome BLOB NOT NULL, owner TEXT NOT NULL DEFAULT '',
    size INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX facts_by_owner ON facts (owner, seq, at, size);
CREATE INDEX records_there ON records (id) WHERE NOT removed;
CREATE INDEX outcomes_by_owner ON outcomes (owner, at, size, id);
PRAGMA user_version = 3;
"""

# Listings of removed runs are ordered by this column. It is computed from the view, so that the rows of an older
# version have it too.
_TEXT = "CASE WHEN json_valid(CAST(view AS TEXT)) THEN CAST(view AS TEXT) END"
_CREATED = f"coalesce(json_extract({_TEXT}, '$.created_at'), '')"
ADD_CREATED = f"ALTER TABLE records ADD COLUMN created TEXT GENERATED ALWAYS AS ({_CREATED}) VIRTUAL;"
_REMOVED = "removed AND kind = 'service'"
# ``removed`` is a column of the first index because SQLite would otherwise look up every row in the table, and pruning
# would block the journal for seconds.
INDEXES = f"""
DROP INDEX IF EXISTS removed_by_owner;
CREATE INDEX IF NOT EXISTS removed_by_age ON records (owner, at, size, removed) WHERE removed;
CREATE INDEX IF NOT EXISTS listed_by_time ON records (created, id) WHERE {_REMOVED};
CREATE INDEX IF NOT EXISTS listed_by_owner ON records (owner, created, id) WHERE {_REMOVED};
"""
_MATCHES = "kind = 'service' AND (?2 IS NULL OR owner = ?2)"
# Find a run by its id, else by its name: one that is not removed, else the newest removed one. Three queries, so that
# a name of thousands of runs needs no scan.
RECORD_QUERIES = (
    f"SELECT view FROM records WHERE id = ?1 AND {_MATCHES}",  # noqa: S608 - text of ours
    f"SELECT view FROM records INDEXED BY records_there WHERE NOT removed AND name = ?1 AND {_MATCHES}"  # noqa: S608
    " ORDER BY at DESC LIMIT 1",
    f"SELECT view FROM records WHERE removed AND name = ?1 AND {_MATCHES} ORDER BY at DESC LIMIT 1",  # noqa: S608
)
EVENTS = (
    "SELECT seq, type, event, owner, subject, CASE WHEN type LIKE 'io.qmaster.task.%' THEN"
    " (SELECT json_extract(CAST(view AS TEXT), '$.labels') FROM records WHERE id = subject) END"
    " FROM facts WHERE seq > ?1 AND"
)
_OF_REMOVED = "id NOT IN (SELECT id FROM records WHERE NOT removed)"
KEEP_OUTCOME = (
    "INSERT OR REPLACE INTO outcomes (id, at, outcome, owner, size)"
    " VALUES (?1, ?2, ?3, coalesce((SELECT owner FROM records WHERE id = ?1), ''), ?4)"
)

# MIGRATIONS[n] turns a file of schema version n into one of version n + 1.
MIGRATIONS: dict[int, str] = {
    1: """
ALTER TABLE records ADD COLUMN body TEXT NOT NULL DEFAULT '';
ALTER TABLE intents ADD COLUMN keyed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endings ADD COLUMN why TEXT NOT NULL DEFAULT 'stopped';
CREATE TABLE outcomes (id TEXT PRIMARY KEY, at REAL NOT NULL, outcome BLOB NOT NULL);
PRAGMA user_version = 2;
""",
    2: """
CREATE TABLE owned (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, owner TEXT NOT NULL, subject TEXT NOT NULL, size INTEGER NOT NULL,
    type TEXT NOT NULL, event BLOB NOT NULL
);
INSERT INTO owned SELECT seq, at,
    CASE WHEN json_valid(CAST(event AS TEXT)) THEN coalesce(json_extract(CAST(event AS TEXT), '$.data.owner'), '')
    ELSE '' END,
    CASE WHEN json_valid(CAST(event AS TEXT)) THEN coalesce(json_extract(CAST(event AS TEXT), '$.subject'), '')
    ELSE '' END,
    length(event), type, event FROM facts;
DROP TABLE facts;
ALTER TABLE owned RENAME TO facts;
CREATE TABLE pruned (owner TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO pruned SELECT '*', min(seq) - 1 FROM facts HAVING min(seq) > 1;
ALTER TABLE records ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
UPDATE records SET size = length(view), owner =
    CASE WHEN json_valid(CAST(view AS TEXT)) THEN coalesce(json_extract(CAST(view AS TEXT), '$.owner'), '')
    ELSE '' END;
ALTER TABLE outcomes ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE outcomes ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
UPDATE outcomes SET size = length(outcome),
    owner = coalesce((SELECT owner FROM records WHERE records.id = outcomes.id), '');
CREATE INDEX facts_by_owner ON facts (owner, seq, at, size);
CREATE INDEX records_there ON records (id) WHERE NOT removed;
CREATE INDEX outcomes_by_owner ON outcomes (owner, at, size, id);
PRAGMA user_version = 3;
""",
}


log = structlog.get_logger(__name__)


class JournalSize(NamedTuple):
    """Bytes of the file with its write-ahead log, and the number of events and records."""

    bytes: int
    events: int
    records: int


class Record(NamedTuple):
    """The last published view of a service, a container or a node, as JSON.

    ``body`` is the digest of the request if the run was started with a key, else "". ``owner`` is "" if quartermaster
    did not start it.
    """

    id: str
    kind: str
    name: str
    removed: bool
    view: bytes
    body: str = ""
    owner: str = ""


class NewEvent(NamedTuple):
    """An event to write; ``json`` is its CloudEvent."""

    type: str
    json: bytes
    owner: str = ""
    subject: str = ""


class StoredEvent(NamedTuple):
    """An event of the journal; ``labels`` is, for a task's event, the JSON of its service's labels if recorded."""

    seq: int
    type: str
    json: bytes
    owner: str = ""
    subject: str = ""
    labels: str | None = None


class Intent(NamedTuple):
    """A run that is about to be created, or whose outcome the engine left open.

    ``keyed``: the request has a key, so that a retry of it returns this run.
    """

    name: str
    nonce: str
    type: str
    keyed: bool = False


Key = tuple[str, str]  # of a run in a listing: its time of creation and its id


class Page(NamedTuple):
    """Runs of a listing with their keys, the newest first; ``next`` is the key to continue before, None at the end."""

    rows: list[tuple[Key, bytes]]
    next: Key | None


class Position(NamedTuple):
    """The range of sequences in the journal: all from ``oldest`` to ``last``, and some before ``oldest``."""

    epoch: str
    oldest: int
    last: int


def is_full(page: Sequence[StoredEvent], limit: int) -> bool:
    """Return whether a page of events reached its limit, so that there may be more."""
    return len(page) >= limit or sum(len(event.json) for event in page) >= EVENTS_BYTES


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
        self._slots = FairLimiter(2, spare=1)
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._lock: int | None = None  # file descriptors, as is the next one
        self._mark: int | None = None
        self._shrinking = self._over_size = False
        self.position = Position(NO_EPOCH, 1, 0)
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
        try:
            await self._in_thread(self._close)
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
        self._thread.shutdown(wait=False)

    async def recheck(self) -> None:
        """Try to write again if the last attempt failed. Call it every few seconds."""
        if self.trouble is not None:
            with contextlib.suppress(JournalUnwritable):
                await self._write(lambda db: _set(db, clean="0"))

    # -- writing ---------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[NewEvent], records: Sequence[Record], settled: Sequence[str] = ()) -> None:
        """Write events in order and the records after them, in one transaction.

        The caller numbers the events from ``position.last + 1`` and appends one batch at a time.

        Args:
            events: the events.
            records: the records after these events.
            settled: nonces of intents whose outcome is now known.
        """
        # The caller may be cancelled, but not between the commit and the new position.
        await asyncio.shield(self._append(events, records, settled))

    async def intend(self, intent: Intent) -> None:
        """Record an intent before the engine is asked."""
        row = (intent.name, intent.nonce, intent.type, time.time(), intent.keyed)
        await self._write(lambda db: db.execute("INSERT INTO intents VALUES (?, ?, ?, ?, ?)", row))

    async def settle(self, nonce: str) -> None:
        """Delete an intent: its outcome is known."""
        await self._write(lambda db: db.execute("DELETE FROM intents WHERE nonce = ?", (nonce,)))

    async def end(self, run_id: str, why: str) -> None:
        """Record that a run is being ended, and why: ``stopped`` or ``timeout``."""
        row = (run_id, time.time(), why)
        await self._write(lambda db: db.execute("INSERT OR REPLACE INTO endings VALUES (?, ?, ?)", row))

    async def keep_outcome(self, run_id: str, outcome: bytes) -> None:
        """Keep the result of a run."""
        row = (run_id, time.time(), outcome, len(outcome))
        await self._write(lambda db: db.execute(KEEP_OUTCOME, row))
        self._grown(len(outcome))

    # -- reading ---------------------------------------------------------------------------------------------------

    def kept_from(self, owner: str | None) -> int:
        """Return the first sequence from which all events of an owner (None: of all owners) are kept."""
        return _kept_from(self._pruned, owner)

    async def events(self, after: int, limit: int, owner: str | None = None) -> list[StoredEvent] | None:
        """Return the next events after a sequence, of one owner or of all; None if some of them were deleted.

        Returns at most ``limit``, and fewer if they are large; ``is_full`` tells whether there may be more.
        """
        return await self._read(lambda db: _events(db, after, limit, owner))

    async def record(self, name_or_id: str, owner: str | None = None) -> bytes | None:
        """Return the last view of the run with this id, else of the newest with this name, of one owner or of all."""
        return await self._read(lambda db: _record(db, name_or_id, owner))

    async def records(self) -> list[Record]:
        """Return the records of all runs and nodes that are not removed."""
        query = "SELECT id, kind, name, removed, view, body, owner FROM records WHERE NOT removed"
        return await self._read(lambda db: [Record(*row) for row in db.execute(query)])

    async def removed(self, before: Key, owner: str | None, show: Callable[[bytes], bytes | None]) -> Page:
        """Return a page of the last views of removed runs, the newest first.

        Args:
            before: the key that the page begins before.
            owner: whose runs; None: all.
            show: converts a view for the listing, or returns None to leave it out; runs in the journal's thread.
        """
        return await self._read(lambda db: _removed(db, before, owner, show))

    async def keyed(self, name: str) -> tuple[bytes, str] | None:
        """Return the last view of the newest run with this name, and the digest of its request."""
        query = "SELECT view, body FROM records WHERE name = ? AND kind = 'service' ORDER BY removed, at DESC LIMIT 1"
        return await self._read(lambda db: db.execute(query, (name,)).fetchone())

    async def outcome(self, run_id: str) -> bytes | None:
        """Return the result of a run, as given to ``keep_outcome``."""
        row = await self._read(lambda db: db.execute("SELECT outcome FROM outcomes WHERE id = ?", (run_id,)).fetchone())
        return row[0] if row else None

    async def endings(self) -> dict[str, str]:
        """Return why each run that is being ended is ended, by id."""
        return await self._read(lambda db: dict(db.execute("SELECT id, why FROM endings")))

    async def size(self) -> JournalSize:
        """Return the size of the journal."""
        return await self._read(self._size)

    # -- on the event loop -----------------------------------------------------------------------------------------

    async def _append(self, events: Sequence[NewEvent], records: Sequence[Record], settled: Sequence[str]) -> None:
        before = self.position.last
        last = before + len(events)
        with acting_for(None):  # a commit has events of all owners
            await self._write(lambda db: _append(db, before, events, records, settled), last)
        self.position = self.position._replace(last=last)
        self._grown(sum(len(event.json) for event in events) + sum(len(record.view) for record in records))
        if before // PRUNE_EVERY != last // PRUNE_EVERY:
            self._prune_soon()

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
        self.position = self.position._replace(oldest=_kept_from(pruned, None))

    async def _write(self, work: Callable[[sqlite3.Connection], object], last: int | None = None) -> None:
        """Run ``work`` in a transaction; ``last`` is the newest sequence after it, if it writes events."""
        await self._ensure_open()
        try:
            async with self._slots.slot():
                await self._in_thread(lambda: self._commit(work, last))
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            raise JournalUnwritable(f"the journal cannot be written: {error}") from error
        self._recovered()

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
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
            _migrate(db, self._path)
            _make_shrinkable(db, self._path)
            _add_created(db)
            position = _position(db, self._path, _read_mark(mark))
            rows = db.execute("SELECT name, nonce, type, keyed FROM intents")
            leftovers = [Intent(name, nonce, kind, bool(keyed)) for name, nonce, kind, keyed in rows]
            if self._mark is None:
                self._mark = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _write_mark(self._mark, position.epoch, position.last)
            self._inode, self._db = self._path.stat().st_ino, db
            pruned = self._drop_old()  # rows that became too old since the last process
        except BaseException:
            self._db = None
            db.close()
            raise
        return position._replace(oldest=_kept_from(pruned, None)), pruned, leftovers

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

    def _commit(self, work: Callable[[sqlite3.Connection], T], last: int | None = None) -> T:
        db = self._opened()
        self._require_file()
        with _transaction(db):
            done = work(db)
        if last is not None and self._mark is not None:
            with contextlib.suppress(OSError):  # it is committed; a mark that lags behind is harmless
                _write_mark(self._mark, self.position.epoch, last)
        return done

    def _require_file(self) -> None:
        """Check that the file still has its name: SQLite does not, and would write to a deleted file."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                return
        raise sqlite3.OperationalError(f"{self._path} was deleted or replaced while it was open: restart quartermaster")

    def _size(self, db: sqlite3.Connection) -> JournalSize:
        files = (self._path, Path(f"{self._path}-wal"))
        events, records = (_scalar(db, f"SELECT count(*) FROM {table}") for table in ("facts", "records"))  # noqa: S608
        return JournalSize(sum(file.stat().st_size for file in files if file.exists()), events, records)

    def _drop_old(self) -> dict[str, int]:
        """Delete rows that are too old and surplus events; return the newest deleted sequence by owner."""
        too_old = time.time() - self._keep_seconds
        return self._commit(lambda db: _drop_old(db, too_old, self._keep_events))

    def _shrink(self) -> tuple[dict[str, int], bool]:
        """Delete part of what exceeds the size limit; return the newest deleted sequence by owner, and if more remains.

        One part at a time, so that writes need not wait for all of it.
        """
        db, room = self._opened(), self._keep_bytes - WAL_ROOM
        page, pages, free = _pages(db)
        used = (pages - free) * page
        # Start above 15/16 and stop at 7/8 of the limit, so that shrinking does not run for every few rows.
        self._shrinking = used > (room - room // 8 if self._shrinking else room - room // 16)
        over = min(used - (room - room // 8), SHRINK_BYTES)
        dropped = self._commit(lambda db: _drop_bytes(db, over)) if self._shrinking else 0
        if not dropped:
            self._warn_if_over(used, room)
        return _pruned(db), dropped > 0 or _give_back(db, pages * page - room)

    def _warn_if_over(self, used: int, room: int) -> None:
        if used > room and not self._over_size:
            advice = "runs that were not removed are kept; stop some, or raise --keep-size"
            log.warning("journal_over_keep_size", bytes=used, advice=advice)
        self._over_size = used > room


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
    # A commit survives the end of the process. A loss by power failure is detected by the boot id (see _doubt).
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    version = _scalar(db, "PRAGMA user_version")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"--data-dir: a newer quartermaster wrote {path} (schema {version}, this one knows {SCHEMA_VERSION})"
        )
    steps = [SCHEMA] if version == 0 else [MIGRATIONS[n] for n in range(version, SCHEMA_VERSION)]
    for step in steps:
        db.executescript(f"BEGIN; {step} COMMIT;")


def _make_shrinkable(db: sqlite3.Connection, path: Path) -> None:
    """Enable incremental vacuum for a file of an older schema. VACUUM needs disk space of the file's size."""
    if _scalar(db, "PRAGMA auto_vacuum") == INCREMENTAL:
        return
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:  # not fatal: free pages are still reused
        log.warning("journal_cannot_shrink", file=str(path), reason=str(error), advice="free some disk and restart")


def _add_created(db: sqlite3.Connection) -> None:
    """Add the computed column and the indexes, which an older version ignores."""
    columns = {row[1] for row in db.execute("PRAGMA table_xinfo(records)")}
    step = "" if "created" in columns else ADD_CREATED
    db.executescript(f"BEGIN; {step} {INDEXES} COMMIT;")


def _position(db: sqlite3.Connection, path: Path, mark: tuple[str, int] | None) -> Position:
    """Return the position; start a new epoch if the tail may be lost, as a sequence could then name two events."""
    meta = dict(db.execute("SELECT key, value FROM meta"))
    boot, inode = _boot_id(), str(path.stat().st_ino)
    last = _scalar(db, "SELECT coalesce(max(seq), 0) FROM facts")
    doubt = _doubt(meta, boot, inode, last, mark)
    epoch = secrets.token_hex(4) if doubt else meta["epoch"]
    with _transaction(db):
        _set(db, epoch=epoch, boot=boot, inode=inode, clean="0")
        if doubt:
            # The lost tail may have settled an intent, and its run must not be removed.
            for table in ("facts", "pruned", "intents", "endings"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of ours
    if doubt and meta:
        log.warning("journal_new_epoch", file=str(path), reason=doubt)
    return Position(epoch, _kept_from(_pruned(db), None), 0 if doubt else last)


def _doubt(meta: Mapping[str, str], boot: str, inode: str, last: int, mark: tuple[str, int] | None) -> str | None:
    """Return why the file may have lost its tail, or None."""
    if "epoch" not in meta:
        return "it is new"
    if meta.get("inode") != inode or mark is None or mark[0] != meta["epoch"] or mark[1] > last:
        return "it is not the file that was last written"
    if meta.get("clean") != "1" and meta.get("boot") != boot:
        return "the machine ended before it was closed"
    return None


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return f"unknown-{os.getpid()}"


def _read_mark(path: Path) -> tuple[str, int] | None:
    """Return the epoch and the last written sequence; a journal that lacks it was restored from a copy."""
    try:
        epoch, last = path.read_text(encoding="ascii").split()
        return epoch, int(last)
    except (OSError, ValueError):
        return None


def _write_mark(file: int, epoch: str, last: int) -> None:
    os.pwrite(file, f"{epoch} {last:020d}\n".encode(), 0)


# --- SQL -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk may have rolled it back already
            db.execute("ROLLBACK")
        raise


def _scalar(db: sqlite3.Connection, query: str) -> int:
    return int(db.execute(query).fetchone()[0])


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


def _events(db: sqlite3.Connection, after: int, limit: int, owner: str | None) -> list[StoredEvent] | None:
    if _kept_from(_pruned(db), owner) > after + 1:
        return None
    of = "owner = ?3" if owner is not None else "?3 IS NULL"  # two forms, so that SQLite uses the index for one owner
    page, size = [], 0
    with contextlib.closing(db.execute(f"{EVENTS} {of} ORDER BY seq LIMIT ?2", (after, limit, owner))) as rows:
        for row in rows:
            page.append(StoredEvent(*row))
            size += len(page[-1].json)
            if size >= EVENTS_BYTES:
                break
    return page


def _record(db: sqlite3.Connection, name_or_id: str, owner: str | None) -> bytes | None:
    for query in RECORD_QUERIES:
        row = db.execute(query, (name_or_id, owner)).fetchone()
        if row:
            return bytes(row[0])
    return None


def _removed(db: sqlite3.Connection, before: Key, owner: str | None, show: Callable[[bytes], bytes | None]) -> Page:
    of = "owner = ?3" if owner is not None else "?3 IS NULL"
    query = (
        f"SELECT created, id, view FROM records WHERE {_REMOVED} AND {of}"  # noqa: S608 - text of ours
        " AND (created, id) < (?1, ?2) ORDER BY created DESC, id DESC"
    )
    shown: list[tuple[Key, bytes]] = []
    size = scanned = 0
    with contextlib.closing(db.execute(query, (*before, owner))) as rows:
        for created, run_id, view in rows:
            one = show(view)
            if one is not None:
                shown.append(((created, run_id), one))
                size += len(one)
            scanned += len(view)
            if size >= PAGE_BYTES or scanned >= SCANNED_BYTES:
                return Page(shown, (created, run_id))
    return Page(shown, None)


# --- retention: the oldest rows of the owner with most are deleted first; foreign services have the owner "" --------


def share(held: Iterable[int], limit: int) -> int:
    """Return the equal limit for each owner that keeps all of them together within ``limit``."""
    left, rest = limit, sorted(held)
    for number, amount in enumerate(rest):
        equal = left // (len(rest) - number)
        if amount > equal:
            return equal
        left -= amount
    return limit


def _pruned(db: sqlite3.Connection) -> dict[str, int]:
    """Return the newest sequence that was deleted, by owner."""
    return dict(db.execute("SELECT owner, seq FROM pruned"))


def _kept_from(pruned: Mapping[str, int], owner: str | None) -> int:
    if owner is None:
        return max(pruned.values(), default=0) + 1
    return max(pruned.get(owner, 0), pruned.get(EVERYONE, 0)) + 1


def _drop_old(db: sqlite3.Connection, too_old: float, keep: int) -> dict[str, int]:
    """Delete rows older than ``too_old``, then the oldest events of the owners with most, so that ``keep`` remain."""
    last = _scalar(db, "SELECT coalesce(max(seq), 0) FROM facts")
    # Only from the front, even if the clock was set back: a hole would be a gap that no subscriber is told of.
    query = "SELECT coalesce(min(seq), ?) FROM facts WHERE at >= ?"
    oldest = db.execute(query, (last, too_old)).fetchone()[0]
    db.execute(
        "INSERT INTO pruned SELECT owner, max(seq) FROM facts WHERE seq < ? GROUP BY owner"
        " ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
        (oldest,),
    )
    db.execute("DELETE FROM facts WHERE seq < ?", (oldest,))
    counts = dict(db.execute("SELECT owner, count(*) FROM facts GROUP BY owner"))
    each = share(counts.values(), keep)
    for owner in [owner for owner, count in counts.items() if count > each]:
        query = "SELECT seq FROM facts WHERE owner = ? ORDER BY seq DESC LIMIT 1 OFFSET ?"
        _drop_events(db, owner, db.execute(query, (owner, each)).fetchone()[0])
    db.execute("DELETE FROM records WHERE removed AND at < ?", (too_old,))
    db.execute("DELETE FROM endings WHERE at < ?", (too_old,))
    db.execute("DELETE FROM outcomes WHERE at < ? AND id NOT IN (SELECT id FROM records)", (too_old,))
    return _pruned(db)


def _drop_bytes(db: sqlite3.Connection, amount: int) -> int:
    """Delete about ``amount`` bytes; return the number of rows. Records and results of live runs stay."""
    held = _deletable(db)
    each = share(held.values(), max(0, sum(held.values()) - amount))
    return sum(_drop_oldest(db, owner, size - each) for owner, size in held.items() if size > each)


def _deletable(db: sqlite3.Connection) -> dict[str, int]:
    """Return the number of bytes that may be deleted, by owner."""
    return dict(
        db.execute(
            "SELECT owner, sum(size) FROM (SELECT owner, size FROM facts"  # noqa: S608 - text of ours
            " UNION ALL SELECT owner, size FROM records WHERE removed"
            f" UNION ALL SELECT owner, size FROM outcomes WHERE {_OF_REMOVED}) GROUP BY owner"
        )
    )


def _drop_oldest(db: sqlite3.Connection, owner: str, amount: int) -> int:
    """Delete the oldest rows of an owner, at least ``amount`` bytes if there are; return the number of rows."""
    before, freed, at, last = db.total_changes, 0, 0.0, 0
    for row in _by_age(db, owner):
        at, freed, last = max(at, row[0]), freed + row[1], max(last, row[2])
        if freed >= amount:
            break
    _drop_events(db, owner, last)
    db.execute("DELETE FROM records WHERE removed AND owner = ? AND at <= ?", (owner, at))
    db.execute(f"DELETE FROM outcomes WHERE owner = ? AND at <= ? AND {_OF_REMOVED}", (owner, at))  # noqa: S608
    return db.total_changes - before


def _by_age(db: sqlite3.Connection, owner: str) -> Iterator[tuple[float, int, int]]:
    """Iterate over the rows of an owner by age: when written, bytes, and the sequence (0 if it is no event)."""
    queries = (
        "SELECT at, size, seq FROM facts WHERE owner = ? ORDER BY seq",
        "SELECT at, size, 0 FROM records WHERE removed AND owner = ? ORDER BY at",
        f"SELECT at, size, 0 FROM outcomes WHERE owner = ? AND {_OF_REMOVED} ORDER BY at",  # noqa: S608
    )
    return heapq.merge(*(db.execute(query, (owner,)) for query in queries))


def _drop_events(db: sqlite3.Connection, owner: str, until: int) -> None:
    """Delete an owner's events up to a sequence, except the very last one, which numbers the next."""
    until = min(until, _scalar(db, "SELECT coalesce(max(seq), 0) FROM facts") - 1)
    if db.execute("DELETE FROM facts WHERE owner = ? AND seq <= ?", (owner, until)).rowcount:
        db.execute("INSERT OR REPLACE INTO pruned VALUES (?, ?)", (owner, until))


def _give_back(db: sqlite3.Connection, beyond: int) -> bool:
    """Return up to ``beyond`` bytes of free pages to the disk; return whether there were any."""
    page, pages, free = _pages(db)
    spare = min(free, beyond // page, SHRINK_BYTES // page)
    if spare > 0:
        db.executescript(f"PRAGMA incremental_vacuum({spare})")  # ``execute`` would free only one page
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # until then the file keeps its size
    return _pages(db)[1] < pages


def _pages(db: sqlite3.Connection) -> tuple[int, int, int]:
    """Return the page size in bytes, the number of pages, and the number of free pages."""
    page, pages, free = (_scalar(db, f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count"))
    return page, pages, free
