"""The journal's file: SQLite, one connection that writes and one that reads. It knows no event loop."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import structlog

from .errors import ConfigError

FILE = "journal.db"
SCHEMA_VERSION = 2
BUSY_TIMEOUT = 2.0  # seconds that a lock of another program is waited for
LOCK_WITHIN = 5.0  # seconds
NO_EPOCH = "00000000"  # of a journal that could not be opened yet
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (seq INTEGER PRIMARY KEY, at REAL NOT NULL, type TEXT NOT NULL, event BLOB NOT NULL);
CREATE TABLE records (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, removed INTEGER NOT NULL, at REAL NOT NULL,
    view BLOB NOT NULL, body TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX records_by_name ON records (name, at);
CREATE TABLE intents (
    name TEXT NOT NULL, nonce TEXT PRIMARY KEY, type TEXT NOT NULL, at REAL NOT NULL, keyed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE endings (
    id TEXT PRIMARY KEY, at REAL NOT NULL, why TEXT NOT NULL DEFAULT 'stopped'
) WITHOUT ROWID;
CREATE TABLE outcomes (id TEXT PRIMARY KEY, at REAL NOT NULL, outcome BLOB NOT NULL);
PRAGMA user_version = 2;
"""
# Steps from each older schema version to the next, each ending as SCHEMA does: MIGRATIONS[n] makes n + 1 of n.
MIGRATIONS: dict[int, str] = {
    1: """
ALTER TABLE records ADD COLUMN body TEXT NOT NULL DEFAULT '';
ALTER TABLE intents ADD COLUMN keyed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endings ADD COLUMN why TEXT NOT NULL DEFAULT 'stopped';
CREATE TABLE outcomes (id TEXT PRIMARY KEY, at REAL NOT NULL, outcome BLOB NOT NULL);
PRAGMA user_version = 2;
"""
}

log = structlog.get_logger(__name__)


class Record(NamedTuple):
    """The last that was told of a service, a container or a node: ``view`` is its JSON.

    ``body`` is the digest of the request that a run under a key was started with, else "".
    """

    id: str
    kind: str
    name: str
    removed: bool
    view: bytes
    body: str = ""


class StoredFact(NamedTuple):
    seq: int
    type: str
    event: bytes


class Intent(NamedTuple):
    """A run that is about to be asked of the engine, or whose outcome the engine left open.

    ``keyed``: it was asked under a key, so whoever asks again is told of it.
    """

    name: str
    nonce: str
    type: str
    keyed: bool = False


class Position(NamedTuple):
    """Where the journal stands: the facts kept are those from ``oldest`` to ``last``."""

    epoch: str
    oldest: int
    last: int


class Store:
    """The file itself. ``facts``, ``record`` … run in the reader's thread, the rest in the writer's."""

    def __init__(self, path: Path, keep_facts: int, keep_days: float) -> None:
        self.path = path
        self._keep_facts = keep_facts
        self._keep_seconds = keep_days * 86400
        self._lock = _Lock(path.with_suffix(".lock"))
        self._mark = _Mark(path.with_suffix(".mark"))
        self._epoch = NO_EPOCH
        self._inode = 0
        self._write: sqlite3.Connection | None = None
        self._read: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        return self._write is not None

    def open(self) -> tuple[Position, list[Intent]]:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock.take()
        write = _connect(self.path)
        try:
            _migrate(write, self.path)
            position = _position(write, self.path, self._mark.read())
            rows = write.execute("SELECT name, nonce, type, keyed FROM intents")
            leftovers = [Intent(name, nonce, kind, bool(keyed)) for name, nonce, kind, keyed in rows]
        except BaseException:
            write.close()
            raise
        self._mark.write(position)
        self._epoch, self._inode = position.epoch, self.path.stat().st_ino
        self._write, self._read = write, _connect(self.path)
        oldest = self.prune()  # what has grown too old while nobody wrote
        return position._replace(oldest=oldest if position.last else position.oldest), leftovers

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

    def append(
        self, first: int, facts: Iterable[tuple[str, bytes]], records: Iterable[Record], settled: Iterable[str]
    ) -> None:
        now = time.time()
        facts = list(facts)
        with self._transaction() as write:
            write.executemany(
                "INSERT INTO facts VALUES (?, ?, ?, ?)",
                [(first + i, now, kind, event) for i, (kind, event) in enumerate(facts)],
            )
            write.executemany(
                "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(r.id, r.kind, r.name, r.removed, now, r.view, r.body) for r in records],
            )
            write.executemany("DELETE FROM endings WHERE id = ?", [(r.id,) for r in records if r.removed])
            write.executemany("DELETE FROM intents WHERE nonce = ?", [(nonce,) for nonce in settled])
        with contextlib.suppress(OSError):  # it is committed: a mark that lags behind raises no doubt
            self._mark.write(Position(self._epoch, 0, first + len(facts) - 1))

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
            write.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)", (run_id, time.time(), outcome))

    def prune(self) -> int:
        """Drop what is kept no longer; the oldest sequence that is left."""
        too_old = time.time() - self._keep_seconds
        with self._transaction() as write:
            last = _scalar(write, "SELECT coalesce(max(seq), 0) FROM facts")
            # Only from the front, whatever the clock did: a hole would be a gap that nobody is told of.
            fresh = "SELECT coalesce(min(seq), ?) FROM facts WHERE at >= ?"
            kept_from = int(write.execute(fresh, (last, too_old)).fetchone()[0])
            write.execute("DELETE FROM facts WHERE seq < ?", (max(kept_from, last - self._keep_facts + 1),))
            write.execute("DELETE FROM records WHERE removed AND at < ?", (too_old,))
            write.execute("DELETE FROM endings WHERE at < ?", (too_old,))
            write.execute("DELETE FROM outcomes WHERE at < ? AND id NOT IN (SELECT id FROM records)", (too_old,))
            return _scalar(write, "SELECT coalesce(min(seq), 1) FROM facts")

    def facts(self, after: int, limit: int) -> list[StoredFact]:
        rows = self._reading().execute(
            "SELECT seq, type, event FROM facts WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        )
        return [StoredFact(*row) for row in rows]

    def record(self, name_or_id: str, owner: str | None = None) -> bytes | None:
        row = (
            self._reading()
            .execute(
                "SELECT view FROM records WHERE (id = ?1 OR name = ?1) AND kind = 'service'"
                " AND (?2 IS NULL OR json_extract(CAST(view AS TEXT), '$.owner') = ?2)"
                " ORDER BY id = ?1 DESC, removed, at DESC LIMIT 1",
                (name_or_id, owner),
            )
            .fetchone()
        )
        return row[0] if row else None

    def records(self) -> list[Record]:
        rows = self._reading().execute("SELECT id, kind, name, removed, view, body FROM records WHERE NOT removed")
        return [Record(*row) for row in rows]

    def removed(self, limit: int, owner: str | None = None) -> list[bytes]:
        rows = self._reading().execute(
            "SELECT view FROM records WHERE removed AND kind = 'service'"
            " AND (?2 IS NULL OR json_extract(CAST(view AS TEXT), '$.owner') = ?2) ORDER BY at DESC LIMIT ?1",
            (limit, owner),
        )
        return [row[0] for row in rows]

    def endings(self) -> dict[str, str]:
        return dict(self._reading().execute("SELECT id, why FROM endings"))

    def outcome(self, run_id: str) -> bytes | None:
        row = self._reading().execute("SELECT outcome FROM outcomes WHERE id = ?", (run_id,)).fetchone()
        return row[0] if row else None

    def keyed(self, name: str) -> tuple[bytes, str] | None:
        query = "SELECT view, body FROM records WHERE name = ? AND kind = 'service' ORDER BY removed, at DESC LIMIT 1"
        row: tuple[bytes, str] | None = self._reading().execute(query, (name,)).fetchone()
        return row

    def size(self) -> tuple[int, int]:
        """Bytes of the file and its write-ahead log, and how many records there are (counted in an index)."""
        held = sum(path.stat().st_size for path in (self.path, Path(f"{self.path}-wal")) if path.exists())
        return held, _scalar(self._reading(), "SELECT count(*) FROM records")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._write is None:
            raise sqlite3.OperationalError("the journal is not open")
        self._require_the_file()
        with _transaction(self._write):
            yield self._write

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


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    # A commit survives the end of this process; what a power cut may take is found by its boot (see _position).
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
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


def _position(write: sqlite3.Connection, path: Path, mark: tuple[str, int] | None) -> Position:
    """Where the file stands, in a new epoch if it may have lost its tail: then a sequence could name two facts."""
    meta = dict(write.execute("SELECT key, value FROM meta"))
    boot, inode = _boot_id(), str(path.stat().st_ino)
    last = _scalar(write, "SELECT coalesce(max(seq), 0) FROM facts")
    doubt = _doubt(meta, boot, inode, last, mark)
    epoch = secrets.token_hex(4) if doubt else meta["epoch"]
    with _transaction(write):
        _set(write, epoch=epoch, boot=boot, inode=inode, clean="0")
        if doubt:
            # An intent may have been settled in the lost tail: what it made is not to be removed.
            for table in ("facts", "intents", "endings"):
                write.execute(f"DELETE FROM {table}")  # noqa: S608 - names of ours
    if doubt and meta:
        log.warning("journal_new_epoch", file=str(path), reason=doubt)
    oldest = _scalar(write, "SELECT coalesce(min(seq), 0) FROM facts")
    last = 0 if doubt else last
    return Position(epoch, oldest or last + 1, last)


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
    """Held while the journal is open: two processes would number their facts alike."""

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


def _scalar(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return f"unknown-{os.getpid()}"
