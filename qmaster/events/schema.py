"""Tables of the journal's file, and the upgrade of older files. Used in the journal's thread."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import structlog

from ..errors import ConfigError

SCHEMA_VERSION = 4
INCREMENTAL = 2  # a value of SQLite's auto_vacuum

# ``records`` has row ids, as most of its rows are over a quarter of a page: a write takes 45 us, and 110 without.
# In files of earlier versions it has none; every query works on both.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, owner TEXT NOT NULL, subject TEXT NOT NULL, size INTEGER NOT NULL,
    type TEXT NOT NULL, event BLOB NOT NULL
);
CREATE TABLE pruned (owner TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE records (
    id TEXT NOT NULL PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, removed INTEGER NOT NULL, at REAL NOT NULL,
    view BLOB NOT NULL, body TEXT NOT NULL DEFAULT '', owner TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0
);
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
PRAGMA user_version = 4;
"""

# Computed from the view, so that the rows of an older version have them too: the order of listings, and the function of
# instances.
_TEXT = "CASE WHEN json_valid(CAST(view AS TEXT)) THEN CAST(view AS TEXT) END"
COMPUTED = {
    "created": f"coalesce(json_extract({_TEXT}, '$.created_at'), '')",
    "function": f"json_extract({_TEXT}, '$.function.name')",
}
# ``removed`` is a column of the first index because SQLite would otherwise look up every row in the table, and pruning
# would block the journal for seconds.
INDEXES = """
DROP INDEX IF EXISTS removed_by_owner;
DROP INDEX IF EXISTS listed_by_time;
DROP INDEX IF EXISTS listed_by_owner;
CREATE INDEX IF NOT EXISTS removed_by_age ON records (owner, at, size, removed) WHERE removed;
CREATE INDEX IF NOT EXISTS removed_instances ON records (function, at, id) WHERE removed AND function IS NOT NULL;
"""

# The removed runs in the order of listings, with the columns that filter them. No index of ``records`` covers a
# computed column: a filter that matches few of 100,000 runs would look up each row, in 500 ms instead of 20. Triggers
# keep the table, also where an older version writes.
LIST_REMOVED = (
    f"INSERT OR REPLACE INTO removed_runs SELECT created, id, owner, name, json_extract({_TEXT}, '$.reason'),"  # noqa: S608
    f" json_extract({_TEXT}, '$.image'), function, json_extract({_TEXT}, '$.exit_code') FROM records"
    " WHERE removed AND kind = 'service'"
)
LISTED = f"""
CREATE TABLE IF NOT EXISTS removed_runs (
    created TEXT NOT NULL, id TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, reason TEXT, image TEXT,
    function TEXT, exit_code INTEGER, PRIMARY KEY (created, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS removed_runs_by_owner ON removed_runs (
    owner, created, id, name, reason, image, function, exit_code
);
CREATE TRIGGER IF NOT EXISTS removed_run_added AFTER INSERT ON records WHEN NEW.removed AND NEW.kind = 'service' BEGIN
    {LIST_REMOVED} AND id = NEW.id;
END;
CREATE TRIGGER IF NOT EXISTS removed_run_deleted AFTER DELETE ON records WHEN OLD.removed AND OLD.kind = 'service' BEGIN
    DELETE FROM removed_runs WHERE created = OLD.created AND id = OLD.id;
END;
"""  # noqa: S608 - text of ours
# The table and the trigger of an earlier version, which have no exit code. It can use those above.
UNLISTED = "DROP TABLE IF EXISTS removed_runs; DROP TRIGGER IF EXISTS removed_run_added;"

# Answers of calls with an Idempotency-Key; NULL: the call was begun. An older version ignores the table.
ANSWERS = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, at REAL NOT NULL, owner TEXT NOT NULL, size INTEGER NOT NULL, digest TEXT NOT NULL,
    answer BLOB
);
CREATE INDEX IF NOT EXISTS answers_by_owner ON answers (owner, at, size);
"""

# Asynchronous invocations of functions, in the order in which they were accepted; ``functions/store`` has the queries.
# ``qualifier`` 0: the newest version. ``ended``: NULL until it is over; ``told``: whether its end is in the stream. The
# small columns come first, so that a listing reads no payload. ``version``: the config of the version that was called
# last. ``called_versions`` has those of the calls that run, and some others: the swarm may no longer have them when the
# calls end. An older version ignores the tables.
INVOCATIONS = """
CREATE TABLE IF NOT EXISTS invocations (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, function TEXT NOT NULL, qualifier INTEGER NOT NULL,
    number INTEGER NOT NULL, owner TEXT NOT NULL, status TEXT NOT NULL, created REAL NOT NULL, due REAL NOT NULL,
    until REAL NOT NULL, max_age REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0, deadline REAL, started REAL,
    ended REAL, told INTEGER NOT NULL DEFAULT 1, size INTEGER NOT NULL, attempts TEXT NOT NULL DEFAULT '[]',
    tick TEXT, key TEXT, digest TEXT, error TEXT, version TEXT, client_context TEXT, trace_id TEXT, content_type TEXT,
    payload BLOB, output BLOB
);
CREATE INDEX IF NOT EXISTS invocations_due ON invocations (function, qualifier, owner, due, seq, size)
    WHERE status = 'queued';
CREATE INDEX IF NOT EXISTS invocations_running ON invocations (seq) WHERE status = 'running';
CREATE INDEX IF NOT EXISTS invocations_untold ON invocations (seq) WHERE NOT told;
CREATE UNIQUE INDEX IF NOT EXISTS invocations_by_key ON invocations (key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS invocations_over ON invocations (owner, ended, size, seq) WHERE ended IS NOT NULL;
CREATE INDEX IF NOT EXISTS invocations_by_status ON invocations (status, seq, owner, function);
CREATE INDEX IF NOT EXISTS invocations_by_owner ON invocations (owner, seq, status, function);
CREATE TABLE IF NOT EXISTS called_versions (id TEXT PRIMARY KEY, function TEXT NOT NULL, version BLOB NOT NULL)
    WITHOUT ROWID;
"""

# The newest tick of each schedule whose call was made, by function and key of the schedule. The same holds.
TICKS = """
CREATE TABLE IF NOT EXISTS ticks (
    function TEXT NOT NULL, key TEXT NOT NULL, tick INTEGER NOT NULL, nonce TEXT NOT NULL,
    PRIMARY KEY (function, key)
) WITHOUT ROWID;
"""

# Callbacks; ``due`` is set while they wait. An older version ignores the table.
CALLBACKS = """
CREATE TABLE IF NOT EXISTS callbacks (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, event TEXT NOT NULL, owner TEXT NOT NULL,
    url TEXT NOT NULL, prefix TEXT NOT NULL, state TEXT NOT NULL, at REAL NOT NULL, due REAL,
    attempts INTEGER NOT NULL DEFAULT 0, delivered_at TEXT, last_error TEXT, size INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS callbacks_of ON callbacks (subject);
CREATE INDEX IF NOT EXISTS callbacks_due ON callbacks (prefix, owner, due) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS callbacks_waiting ON callbacks (owner) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS callbacks_armed ON callbacks (subject) WHERE state = 'armed';
CREATE INDEX IF NOT EXISTS callbacks_over ON callbacks (owner, at, size) WHERE state = 'over';
CREATE TABLE IF NOT EXISTS callback_hosts (host TEXT PRIMARY KEY, reach TEXT NOT NULL) WITHOUT ROWID;
"""

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
    # Nothing changes in the tables: records may be of functions now, which an older version would take for runs.
    3: "PRAGMA user_version = 4;",
}

log = structlog.get_logger(__name__)


def upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new file, or turn an older file into one of this version.

    Raises:
        ConfigError: a newer quartermaster wrote the file.
    """
    _migrate(db, path)
    _make_shrinkable(db, path)
    _add_computed(db)


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    version = scalar(db, "PRAGMA user_version")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"--data-dir: a newer quartermaster wrote {path} (schema {version}, this one knows {SCHEMA_VERSION})"
        )
    steps = [SCHEMA] if version == 0 else [MIGRATIONS[n] for n in range(version, SCHEMA_VERSION)]
    for step in steps:
        db.executescript(f"BEGIN; {step} COMMIT;")


def _make_shrinkable(db: sqlite3.Connection, path: Path) -> None:
    """Enable incremental vacuum for a file of an older schema. VACUUM needs disk space of the file's size."""
    if scalar(db, "PRAGMA auto_vacuum") == INCREMENTAL:
        return
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:  # not fatal: free pages are still reused
        log.warning("journal_cannot_shrink", file=str(path), reason=str(error), advice="free some disk and restart")


def _add_computed(db: sqlite3.Connection) -> None:
    """Add the computed columns, the indexes and the tables that an older version ignores."""
    columns = {row[1] for row in db.execute("PRAGMA table_xinfo(records)")}
    is_listed = any(row[1] == "exit_code" for row in db.execute("PRAGMA table_info(removed_runs)"))
    step = " ".join(
        f"ALTER TABLE records ADD COLUMN {column} TEXT GENERATED ALWAYS AS ({value}) VIRTUAL;"
        for column, value in COMPUTED.items()
        if column not in columns
    )
    invocations = {row[1] for row in db.execute("PRAGMA table_info(invocations)")}
    if invocations and "version" not in invocations:
        step += " ALTER TABLE invocations ADD COLUMN version TEXT;"
    step += f" {INDEXES} {LISTED if is_listed else f'{UNLISTED} {LISTED} {LIST_REMOVED};'}"
    db.executescript(f"BEGIN; {step} {ANSWERS} {INVOCATIONS} {TICKS} {CALLBACKS} COMMIT;")


def scalar(db: sqlite3.Connection, query: str) -> int:
    """Return the number that a query yields."""
    return int(db.execute(query).fetchone()[0])
