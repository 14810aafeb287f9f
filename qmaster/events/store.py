"""The journal's file: SQLite, one connection that writes and one that reads. It knows no event loop."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from ..errors import ConfigError
from . import retention

FILE = "journal.db"
SCHEMA_VERSION = 3
INCREMENTAL = 2  # of SQLite's auto_vacuum
WAL_LIMIT = 4 * 1024 * 1024  # bytes that the write-ahead log is cut back to
WAL_ROOM = 2 * WAL_LIMIT  # bytes of keep_bytes that are left for it
SHRINK_BYTES = 4 * 1024 * 1024  # that are deleted at once
BUSY_TIMEOUT = 2.0  # seconds that a lock of another program is waited for
LOCK_WITHIN = 5.0  # seconds
NO_EPOCH = "00000000"  # of a journal that could not be opened yet
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

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
# What listings of removed runs are ordered by: read from the view as it is written, by any version.
_TEXT = "CASE WHEN json_valid(CAST(view AS TEXT)) THEN CAST(view AS TEXT) END"
_CREATED = f"coalesce(json_extract({_TEXT}, '$.created_at'), '')"
ADD_CREATED = f"ALTER TABLE records ADD COLUMN created TEXT GENERATED ALWAYS AS ({_CREATED}) VIRTUAL;"
_REMOVED = "removed AND kind = 'service'"
# SQLite looks each row up in the table where an index lacks ``removed``, though all of its rows have it: pruning would
# hold up the writer for seconds.
INDEXES = f"""
DROP INDEX IF EXISTS removed_by_owner;
CREATE INDEX IF NOT EXISTS removed_by_age ON records (owner, at, size, removed) WHERE removed;
CREATE INDEX IF NOT EXISTS listed_by_time ON records (created, id) WHERE {_REMOVED};
CREATE INDEX IF NOT EXISTS listed_by_owner ON records (owner, created, id) WHERE {_REMOVED};
"""
_MATCHES = "kind = 'service' AND (?2 IS NULL OR owner = ?2)"
# What has an id, or else a name: what is there first, then the newest of what is removed. One after the other, so that
# a name that somebody gave to thousands of runs is not read through.
RECORD_QUERIES = (
    f"SELECT view FROM records WHERE id = ?1 AND {_MATCHES}",  # noqa: S608 - text of ours
    f"SELECT view FROM records INDEXED BY records_there WHERE NOT removed AND name = ?1 AND {_MATCHES}"  # noqa: S608
    " ORDER BY at DESC LIMIT 1",
    f"SELECT view FROM records WHERE removed AND name = ?1 AND {_MATCHES} ORDER BY at DESC LIMIT 1",  # noqa: S608
)
FACTS = (
    "SELECT seq, type, event, owner, subject, CASE WHEN type LIKE 'io.qmaster.task.%' THEN"
    " (SELECT json_extract(CAST(view AS TEXT), '$.labels') FROM records WHERE id = subject) END"
    " FROM facts WHERE seq > ?1 AND"
)
PAGE_BYTES = 64 * 1024  # of what is read for one page, but for what its last row is larger
EVENTS_BYTES = 256 * 1024  # of a page of events, but for what the last is larger
SCANNED_BYTES = 1024 * 1024  # read for one page where little of it is wanted

# Steps from each older schema version to the next, each ending as SCHEMA does: MIGRATIONS[n] makes n + 1 of n.
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
    """``bytes`` of the file and its write-ahead log, and how many events and records it keeps."""

    bytes: int
    events: int
    records: int


class Record(NamedTuple):
    """The last that was told of a service, a container or a node: ``view`` is its JSON.

    ``body`` is the digest of the request that a run under a key was started with, else "". ``owner`` is "" of what
    quartermaster did not start.
    """

    id: str
    kind: str
    name: str
    removed: bool
    view: bytes
    body: str = ""
    owner: str = ""


class NewEvent(NamedTuple):
    """An event that is about to be written: its type, its CloudEvent as JSON, and of whom and what it tells."""

    type: str
    json: bytes
    owner: str = ""
    subject: str = ""


class StoredEvent(NamedTuple):
    """An event as it is kept. ``labels`` is the JSON of the labels of a task's service, where it has a record."""

    seq: int
    type: str
    json: bytes
    owner: str = ""
    subject: str = ""
    labels: str | None = None


class Intent(NamedTuple):
    """A run that is about to be asked of the engine, or whose outcome the engine left open.

    ``keyed``: it was asked under a key, so whoever asks again is told of it.
    """

    name: str
    nonce: str
    type: str
    keyed: bool = False


Key = tuple[str, str]  # of a run in a listing: when it was created, and its id


class Page(NamedTuple):
    """Runs of a listing by their keys, the newest first; what is next is before ``next``, None at the end."""

    rows: list[tuple[Key, bytes]]
    next: Key | None


class Position(NamedTuple):
    """Where the journal stands: all events from ``oldest`` to ``last`` are kept, and some before."""

    epoch: str
    oldest: int
    last: int


def is_full(page: Sequence[StoredEvent], limit: int) -> bool:
    """Whether a page of events has as many as it may, so that there may be more."""
    return len(page) >= limit or sum(len(event.json) for event in page) >= EVENTS_BYTES


class Store:
    """The file itself. ``events``, ``record`` … run in the reader's thread, the rest in the writer's.

    Args:
        keep_facts: how many events are kept.
        keep_days: for how long events, and records of what is removed, are kept.
        keep_bytes: how large the file and its write-ahead log may become.
    """

    def __init__(self, path: Path, keep_facts: int, keep_days: float, keep_bytes: int) -> None:
        self.path = path
        self._keep_bytes = keep_bytes
        self._keep_facts = keep_facts
        self._keep_seconds = keep_days * 86400
        self._lock = _Lock(path.with_suffix(".lock"))
        self._mark = _Mark(path.with_suffix(".mark"))
        self._epoch = NO_EPOCH
        self._inode = 0
        self._shrinking = self._full = False
        self._write: sqlite3.Connection | None = None
        self._read: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        return self._write is not None

    def open(self) -> tuple[Position, dict[str, int], list[Intent]]:
        """Open it; return where it stands, what ``retention.pruned`` does, and the intents that were left open."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock.take()
        _shut(self.path)
        write = _connect(self.path)
        try:
            _migrate(write, self.path)
            _make_shrinkable(write, self.path)
            _add_listed(write)
            position = _position(write, self.path, self._mark.read())
            rows = write.execute("SELECT name, nonce, type, keyed FROM intents")
            leftovers = [Intent(name, nonce, kind, bool(keyed)) for name, nonce, kind, keyed in rows]
        except BaseException:
            write.close()
            raise
        self._mark.write(position)
        self._epoch, self._inode = position.epoch, self.path.stat().st_ino
        self._write, self._read = write, _connect(self.path)
        deleted = self.prune()  # what has grown too old while nobody wrote
        return position._replace(oldest=retention.kept_from(deleted, None)), deleted, leftovers

    def close(self) -> None:
        if self._write is None or self._read is None:
            return
        with self._transaction() as write:
            _set(write, clean="1")
        self._read.close()
        self._write.close()
        self._write = self._read = None
        self._lock.release()

    def probe(self) -> None:
        """Write what is there already."""
        with self._transaction() as write:
            _set(write, clean="0")

    def append(self, first: int, events: Sequence[NewEvent], records: Iterable[Record], settled: Iterable[str]) -> None:
        now = time.time()
        with self._transaction() as write:
            write.executemany(
                "INSERT INTO facts (seq, at, owner, subject, size, type, event) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(first + i, now, e.owner, e.subject, len(e.json), e.type, e.json) for i, e in enumerate(events)],
            )
            write.executemany(
                "INSERT OR REPLACE INTO records (id, kind, name, removed, at, view, body, owner, size)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(r.id, r.kind, r.name, r.removed, now, r.view, r.body, r.owner, len(r.view)) for r in records],
            )
            write.executemany("DELETE FROM endings WHERE id = ?", [(r.id,) for r in records if r.removed])
            write.executemany("DELETE FROM intents WHERE nonce = ?", [(nonce,) for nonce in settled])
        with contextlib.suppress(OSError):  # it is committed: a mark that lags behind raises no doubt
            self._mark.write(Position(self._epoch, 0, first + len(events) - 1))

    def intend(self, intent: Intent) -> None:
        with self._transaction() as write:
            write.execute(
                "INSERT INTO intents VALUES (?, ?, ?, ?, ?)",
                (intent.name, intent.nonce, intent.type, time.time(), intent.keyed),
            )

    def settle(self, nonces: Iterable[str]) -> None:
        with self._transaction() as write:
            write.executemany("DELETE FROM intents WHERE nonce = ?", [(nonce,) for nonce in nonces])

    def end(self, run_id: str, why: str) -> None:
        with self._transaction() as write:
            write.execute("INSERT OR REPLACE INTO endings VALUES (?, ?, ?)", (run_id, time.time(), why))

    def keep_outcome(self, run_id: str, outcome: bytes) -> None:
        with self._transaction() as write:
            write.execute(
                "INSERT OR REPLACE INTO outcomes (id, at, outcome, owner, size)"
                " VALUES (?1, ?2, ?3, coalesce((SELECT owner FROM records WHERE id = ?1), ''), ?4)",
                (run_id, time.time(), outcome, len(outcome)),
            )

    def prune(self) -> dict[str, int]:
        """Delete what is too old, and the events that are too many; return what ``pruned`` does."""
        too_old = time.time() - self._keep_seconds
        with self._transaction() as write:
            last = _scalar(write, "SELECT coalesce(max(seq), 0) FROM facts")
            # Only from the front, whatever the clock did: a hole would be a gap that nobody is told of.
            fresh = "SELECT coalesce(min(seq), ?) FROM facts WHERE at >= ?"
            kept_from = int(write.execute(fresh, (last, too_old)).fetchone()[0])
            retention.drop_facts_before(write, kept_from)
            retention.drop_facts_beyond(write, self._keep_facts)
            write.execute("DELETE FROM records WHERE removed AND at < ?", (too_old,))
            write.execute("DELETE FROM endings WHERE at < ?", (too_old,))
            write.execute("DELETE FROM outcomes WHERE at < ? AND id NOT IN (SELECT id FROM records)", (too_old,))
            return retention.pruned(write)

    def shrink(self) -> tuple[dict[str, int], bool]:
        """Delete a part of what is beyond ``keep_bytes``; return what ``pruned`` does, and whether there is more to do.

        A part at a time, so that what is to be written meanwhile need not wait for all of it.
        """
        room = self._keep_bytes - WAL_ROOM
        with self._transaction() as write:
            page, pages, free = _pages(write)
            used = (pages - free) * page
            self._shrinking = used > (room - room // 8 if self._shrinking else room - room // 16)
            over = min(used - (room - room // 8), SHRINK_BYTES)
            dropped = retention.drop_bytes(write, over) if self._shrinking else 0
            deleted = retention.pruned(write)
        if not dropped:
            self._warn_if_full(used, room)
        return deleted, dropped > 0 or self._give_back(pages * page - room)

    def _give_back(self, beyond: int) -> bool:
        """Give some free pages back to the disk, of so many bytes; return whether there were some."""
        write = self._writing()
        page, pages, free = _pages(write)
        spare = min(free, beyond // page, SHRINK_BYTES // page)
        if spare > 0:
            write.executescript(f"PRAGMA incremental_vacuum({spare})")  # ``execute`` would free one page of them
            write.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # until then the file is as large as it was
        return _pages(write)[1] < pages

    def _warn_if_full(self, used: int, room: int) -> None:
        if used > room and not self._full:
            advice = "runs that were not removed are kept; stop some, or raise --keep-size"
            log.warning("journal_over_keep_size", bytes=used, advice=advice)
        self._full = used > room

    def events(self, after: int, limit: int, owner: str | None = None) -> list[StoredEvent] | None:
        """Return the next events, with an owner theirs; None where some of them are kept no longer."""
        read = self._reading()
        of = "owner = ?3" if owner is not None else "?3 IS NULL"  # so that an owner's are found by the index
        with _transaction(read, "DEFERRED"):  # what was deleted and what is there, of one moment
            if retention.kept_from(retention.pruned(read), owner) > after + 1:
                return None
            rows = read.execute(f"{FACTS} {of} ORDER BY seq LIMIT ?2", (after, limit, owner))
            page, size = [], 0
            for row in rows:
                page.append(StoredEvent(*row))
                size += len(page[-1].json)
                if size >= EVENTS_BYTES:
                    break
            rows.close()
            return page

    def record(self, name_or_id: str, owner: str | None = None) -> bytes | None:
        for query in RECORD_QUERIES:
            row = self._reading().execute(query, (name_or_id, owner)).fetchone()
            if row:
                return bytes(row[0])
        return None

    def records(self) -> list[Record]:
        rows = self._reading().execute(
            "SELECT id, kind, name, removed, view, body, owner FROM records WHERE NOT removed"
        )
        return [Record(*row) for row in rows]

    def removed(self, before: Key, owner: str | None, show: Callable[[bytes], bytes | None]) -> Page:
        of = "owner = ?3" if owner is not None else "?3 IS NULL"
        query = (
            f"SELECT created, id, view FROM records WHERE {_REMOVED} AND {of}"  # noqa: S608 - text of ours
            " AND (created, id) < (?1, ?2) ORDER BY created DESC, id DESC"
        )
        shown: list[tuple[Key, bytes]] = []
        size = scanned = 0
        with contextlib.closing(self._reading().execute(query, (*before, owner))) as rows:
            for created, run_id, view in rows:
                one = show(view)
                if one is not None:
                    shown.append(((created, run_id), one))
                    size += len(one)
                scanned += len(view)
                if size >= PAGE_BYTES or scanned >= SCANNED_BYTES:
                    return Page(shown, (created, run_id))
        return Page(shown, None)

    def endings(self) -> dict[str, str]:
        return dict(self._reading().execute("SELECT id, why FROM endings"))

    def outcome(self, run_id: str) -> bytes | None:
        row = self._reading().execute("SELECT outcome FROM outcomes WHERE id = ?", (run_id,)).fetchone()
        return row[0] if row else None

    def keyed(self, name: str) -> tuple[bytes, str] | None:
        query = "SELECT view, body FROM records WHERE name = ? AND kind = 'service' ORDER BY removed, at DESC LIMIT 1"
        row: tuple[bytes, str] | None = self._reading().execute(query, (name,)).fetchone()
        return row

    def size(self) -> JournalSize:
        """Bytes of the file and its write-ahead log, and how many events and records there are (counted in indexes)."""
        held = sum(path.stat().st_size for path in (self.path, Path(f"{self.path}-wal")) if path.exists())
        events, records = (_scalar(self._reading(), f"SELECT count(*) FROM {t}") for t in ("facts", "records"))  # noqa: S608
        return JournalSize(held, events, records)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        write = self._writing()
        self._require_the_file()
        with _transaction(write):
            yield write

    def _writing(self) -> sqlite3.Connection:
        if self._write is None:
            raise sqlite3.OperationalError("the journal is not open")
        return self._write

    def _require_the_file(self) -> None:
        """What is written to a file that has no name any more is lost with this process, and SQLite does not notice."""
        try:
            there = self.path.stat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise sqlite3.OperationalError(
                f"{self.path} was deleted or replaced while it was open: restart quartermaster"
            )

    def _reading(self) -> sqlite3.Connection:
        if self._read is None:
            raise sqlite3.OperationalError("the journal is not open")
        return self._read


def _shut(path: Path) -> None:
    """The owner alone reads the journal: SQLite makes the files beside it with its mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in path.parent.glob(f"{path.stem}.*"):
        with contextlib.suppress(OSError):  # it is gone meanwhile, or another's, who may open it as they like
            file.chmod(0o600)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before all else: of a file with tables only VACUUM does it
    connection.execute("PRAGMA journal_mode = WAL")
    # A commit survives the end of this process; what a power cut may take is found by its boot (see _position).
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT}")
    return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise


def _migrate(write: sqlite3.Connection, path: Path) -> None:
    version = _scalar(write, "PRAGMA user_version")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"--data-dir: a newer quartermaster wrote {path} (schema {version}, this one knows {SCHEMA_VERSION})"
        )
    steps = [SCHEMA] if version == 0 else [MIGRATIONS[n] for n in range(version, SCHEMA_VERSION)]
    for step in steps:
        write.executescript(f"BEGIN; {step} COMMIT;")


def _make_shrinkable(write: sqlite3.Connection, path: Path) -> None:
    """Have a file of an older schema give its free pages back; this takes as much room again, for a moment."""
    if _scalar(write, "PRAGMA auto_vacuum") == INCREMENTAL:
        return
    try:
        write.execute("PRAGMA auto_vacuum = INCREMENTAL")
        write.execute("VACUUM")
        write.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:  # its pages are used again all the same
        log.warning("journal_cannot_shrink", file=str(path), reason=str(error), advice="free some disk and restart")


def _add_listed(write: sqlite3.Connection) -> None:
    """Add the column that is computed, and indexes; a version that does not know them writes them too."""
    there = {row[1] for row in write.execute("PRAGMA table_xinfo(records)")}
    step = "" if "created" in there else ADD_CREATED
    write.executescript(f"BEGIN; {step} {INDEXES} COMMIT;")


def _position(write: sqlite3.Connection, path: Path, mark: tuple[str, int] | None) -> Position:
    """Where the file stands, in a new epoch if it may have lost its tail: then a sequence could name two events."""
    meta = dict(write.execute("SELECT key, value FROM meta"))
    boot, inode = _boot_id(), str(path.stat().st_ino)
    last = _scalar(write, "SELECT coalesce(max(seq), 0) FROM facts")
    doubt = _doubt(meta, boot, inode, last, mark)
    epoch = secrets.token_hex(4) if doubt else meta["epoch"]
    with _transaction(write):
        _set(write, epoch=epoch, boot=boot, inode=inode, clean="0")
        if doubt:
            # An intent may have been settled in the lost tail: what it made is not to be removed.
            for table in ("facts", "pruned", "intents", "endings"):
                write.execute(f"DELETE FROM {table}")  # noqa: S608 - names of ours
    if doubt and meta:
        log.warning("journal_new_epoch", file=str(path), reason=doubt)
    return Position(epoch, retention.kept_from(retention.pruned(write), None), 0 if doubt else last)


def _doubt(meta: dict[str, str], boot: str, inode: str, last: int, mark: tuple[str, int] | None) -> str | None:
    """Why the file may have lost its tail, or None."""
    if "epoch" not in meta:
        return "it is new"
    if meta.get("inode") != inode or mark is None or mark[0] != meta["epoch"] or mark[1] > last:
        return "it is not the file that was last written"
    if meta.get("clean") != "1" and meta.get("boot") != boot:
        return "the machine ended before it was closed"
    return None


class _Lock:
    """Held while the journal is open: two processes would number their events alike."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> None:
        """Wait a little for a process that is ending.

        Raises:
            ConfigError: another quartermaster has it.
        """
        if self._file is not None:
            return
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + LOCK_WITHIN
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    os.close(file)
                    raise ConfigError(f"--data-dir: another quartermaster uses {self._path.parent}") from None
                time.sleep(0.1)
            else:
                self._file = file
                return

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class _Mark:
    """The last sequence that was given out, beside the journal: one that is behind it was put back from a copy."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def read(self) -> tuple[str, int] | None:
        try:
            epoch, last = self._path.read_text(encoding="ascii").split()
            return epoch, int(last)
        except (OSError, ValueError):
            return None

    def write(self, position: Position) -> None:
        if self._file is None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(self._file, f"{position.epoch} {position.last:020d}\n".encode(), 0)


def _set(write: sqlite3.Connection, **values: str) -> None:
    write.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def _pages(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Bytes of a page, how many pages the file has, and how many of them are free."""
    size, count, free = (
        _scalar(connection, f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count")
    )
    return size, count, free


def _scalar(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return f"unknown-{os.getpid()}"
