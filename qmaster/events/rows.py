"""Events and records of the journal, and the queries that read them. Used in the journal's thread."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from .retention import kept_from, pruned
from .schema import scalar

PAGE_BYTES = 64 * 1024  # size of a page of a listing; its last row may exceed this
EVENTS_BYTES = 256 * 1024  # size of a page of events; its last event may exceed this
SCANNED_BYTES = 1024 * 1024  # limit of a page of a listing when few rows match

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

# How a removed run has ended, by its reason and exit code, as ``models.responses.outcome`` says.
OUTCOMES = {
    "complete": "run.reason IN ('idle', 'update') OR (run.reason = 'exit' AND run.exit_code IS 0)",
    "failed": "NOT (run.reason = 'exit' AND run.exit_code IS 0)"  # first, as it is quicker and often decides
    " AND run.reason NOT IN ('idle', 'update', 'stopped', 'unschedulable')",
    "stopped": "run.reason = 'stopped'",
}


class Record(NamedTuple):
    """The last published view of a service, a container, a node or a function, as JSON.

    That of a function is compressed by zlib where it was read: thousands wait for the listing of the functions.
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


class RemovedQuery(NamedTuple):
    """Which removed runs to list: those that match all of these; empty matches all.

    Attributes:
        before: the key that the listing begins before.
        since: the first time of creation (RFC 3339).
        owner: whose runs; None: all.
        names: the names; ``*`` in one matches any text.
        reasons: the reasons.
        outcomes: how they have ended: the keys of ``OUTCOMES``.
        function: the function that they are instances of; "": of none.
        image: a part of the image.
    """

    before: Key
    since: str = ""
    owner: str | None = None
    names: Collection[str] = ()
    reasons: Collection[str] = ()
    outcomes: Collection[str] = ()
    function: str | None = None
    image: str = ""


class Page(NamedTuple):
    """Runs of a listing with their keys, the newest first; ``next`` is the key to continue before, None at the end."""

    rows: list[tuple[Key, bytes]]
    next: Key | None


def is_full(page: Sequence[StoredEvent], limit: int) -> bool:
    """Return whether a page of events reached its limit, so that there may be more."""
    return len(page) >= limit or sum(len(event.json) for event in page) >= EVENTS_BYTES


def events(db: sqlite3.Connection, after: int, limit: int, owner: str | None) -> list[StoredEvent] | None:
    """Return the next events after a sequence, of one owner or of all; None if some of them were deleted."""
    if kept_from(pruned(db), owner) > after + 1:
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


def last_before(db: sqlite3.Connection, moment: float) -> int:
    """Return the newest sequence written before a time (seconds since 1970); 0 if no event before it is kept.

    A search of halves, as sequences grow with time. After the clock was set back it may return 0, or an older sequence.
    """
    first = scalar(db, "SELECT coalesce(min(seq), 1) FROM facts")
    before, until = first - 1, scalar(db, "SELECT coalesce(max(seq), 0) FROM facts")  # the sequence is in this range
    while before < until:
        middle = (before + until + 1) // 2
        seq, at = db.execute("SELECT seq, at FROM facts WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (middle,)).fetchone()
        if at < moment:
            before = middle
        else:
            until = seq - 1
    return before if before >= first else 0


def newest(db: sqlite3.Connection) -> bytes | None:
    """Return the CloudEvent of the newest event."""
    row = db.execute("SELECT event FROM facts ORDER BY seq DESC LIMIT 1").fetchone()
    return row[0] if row else None


def records(db: sqlite3.Connection) -> list[Record]:
    """Return the records of what is not removed."""
    query = "SELECT id, kind, name, removed, view, body, owner FROM records WHERE NOT removed"
    found = [compressed(Record(*row)) for row in db.execute(query)]
    db.execute("PRAGMA shrink_memory")  # up to 2 MB of pages that are read once
    return found


def compressed(record: Record) -> Record:
    """Return a record as it is kept in memory: that of a function is compressed."""
    return record._replace(view=zlib.compress(record.view)) if record.kind == "function" else record


def record(db: sqlite3.Connection, name_or_id: str, owner: str | None) -> bytes | None:
    """Return the last view of the run with this id, else of the newest with this name, of one owner or of all."""
    for query in RECORD_QUERIES:
        row = db.execute(query, (name_or_id, owner)).fetchone()
        if row:
            return bytes(row[0])
    return None


def removed(db: sqlite3.Connection, wanted: RemovedQuery, show: Callable[[bytes], bytes | None]) -> Page:
    """Return a page of removed runs, the newest first; ``show`` converts or drops a view."""
    conditions, values = _conditions(wanted)
    index = "" if wanted.owner is None else "INDEXED BY removed_runs_by_owner"
    query = (
        f"SELECT run.created, run.id, view FROM removed_runs AS run {index} CROSS JOIN records USING (id)"  # noqa: S608
        f" WHERE {' AND '.join(conditions)} ORDER BY run.created DESC, run.id DESC"
    )
    shown: list[tuple[Key, bytes]] = []
    size = scanned = 0
    with contextlib.closing(db.execute(query, values)) as rows:
        for created, run_id, view in rows:
            one = show(view)
            if one is not None:
                shown.append(((created, run_id), one))
                size += len(one)
            scanned += len(view)
            if size >= PAGE_BYTES or scanned >= SCANNED_BYTES:
                return Page(shown, (created, run_id))
    return Page(shown, None)


def _conditions(wanted: RemovedQuery) -> tuple[list[str], list[str]]:
    """Return conditions in SQL on removed runs, and their values."""
    conditions, values = ["(run.created, run.id) < (?, ?)", "run.created >= ?"], [*wanted.before, wanted.since]
    for column, value in (("run.owner", wanted.owner), ("coalesce(run.function, '')", wanted.function)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    if wanted.names:
        names = [name for name in wanted.names if "*" not in name]
        patterns = [name for name in wanted.names if "*" in name]
        conditions.append(_any([_in("run.name", names), *("run.name GLOB ?" for _ in patterns)]))
        values += names + patterns
    if wanted.reasons:
        conditions.append(_in("run.reason", wanted.reasons))
        values += wanted.reasons
    if wanted.outcomes:
        conditions.append(_any(OUTCOMES[each] for each in wanted.outcomes))
    if wanted.image:
        conditions.append("instr(run.image, ?)")
        values.append(wanted.image)
    return conditions, values


def _in(column: str, values: Collection[str]) -> str:
    """Return the condition that a column has one of these values. SQLite takes at most 1,000 that are joined by OR."""
    return f"{column} IN ({', '.join('?' * len(values))})"


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(f'({each})' for each in conditions)})"
