"""Deletion of the journal's oldest rows, of the owner with most first. Used in the journal's thread.

Services that quartermaster did not start have the owner "".
"""

from __future__ import annotations

import heapq
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping

from .schema import scalar

EVERYONE = "*"  # the owner, in the table ``pruned``, of events that were deleted before events had owners
SHRINK_BYTES = 4 * 1024 * 1024  # to delete in one transaction
ANSWERS_KEPT_FOR = 86_400.0  # seconds that an Idempotency-Key of a call is remembered
INSTANCES_KEPT = 10  # removed instances of each function
_SURPLUS_INSTANCES = (
    "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY function ORDER BY at DESC, id) AS place"  # noqa: S608
    f" FROM records WHERE removed AND function IS NOT NULL) WHERE place > {INSTANCES_KEPT}"
)
_OF_REMOVED = "id NOT IN (SELECT id FROM records WHERE NOT removed)"


def share(held: Iterable[int], limit: int) -> int:
    """Return the equal limit for each owner that keeps all of them together within ``limit``."""
    left, rest = limit, sorted(held)
    for number, amount in enumerate(rest):
        equal = left // (len(rest) - number)
        if amount > equal:
            return equal
        left -= amount
    return limit


def pruned(db: sqlite3.Connection) -> dict[str, int]:
    """Return the newest sequence that was deleted, by owner."""
    return dict(db.execute("SELECT owner, seq FROM pruned"))


def kept_from(pruned: Mapping[str, int], owner: str | None) -> int:
    """Return the first sequence from which all events of an owner (None: of all owners) are kept."""
    if owner is None:
        return max(pruned.values(), default=0) + 1
    return max(pruned.get(owner, 0), pruned.get(EVERYONE, 0)) + 1


def drop_old(db: sqlite3.Connection, too_old: float, keep: int) -> dict[str, int]:
    """Delete rows older than ``too_old``, then the oldest events of the owners with most, so that ``keep`` remain."""
    last = scalar(db, "SELECT coalesce(max(seq), 0) FROM facts")
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
    for table in ("outcomes", "records"):
        db.execute(f"DELETE FROM {table} WHERE id IN ({_SURPLUS_INSTANCES})")  # noqa: S608 - text of ours
    db.execute("DELETE FROM records WHERE removed AND at < ?", (too_old,))
    db.execute("DELETE FROM endings WHERE at < ?", (too_old,))
    db.execute("DELETE FROM outcomes WHERE at < ? AND id NOT IN (SELECT id FROM records)", (too_old,))
    db.execute("DELETE FROM answers WHERE at < ?", (time.time() - ANSWERS_KEPT_FOR,))
    db.execute("DELETE FROM invocations WHERE ended < ?", (too_old,))
    db.execute("DELETE FROM callbacks WHERE state = 'over' AND at < ?", (too_old,))
    return pruned(db)


def drop_bytes(db: sqlite3.Connection, amount: int) -> int:
    """Delete about ``amount`` bytes; return the number of rows. Records and results of live runs stay."""
    held = deletable(db)
    each = share(held.values(), max(0, sum(held.values()) - amount))
    return sum(_drop_oldest(db, owner, size - each) for owner, size in held.items() if size > each)


def deletable(db: sqlite3.Connection) -> dict[str, int]:
    """Return the number of bytes that may be deleted, by owner."""
    return dict(
        db.execute(
            "SELECT owner, sum(size) FROM (SELECT owner, size FROM facts"  # noqa: S608 - text of ours
            " UNION ALL SELECT owner, size FROM records WHERE removed"
            f" UNION ALL SELECT owner, size FROM outcomes WHERE {_OF_REMOVED}"
            " UNION ALL SELECT owner, size FROM invocations WHERE ended IS NOT NULL"
            " UNION ALL SELECT owner, size FROM answers WHERE answer IS NOT NULL"
            " UNION ALL SELECT owner, size FROM callbacks WHERE state = 'over') GROUP BY owner"
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
    db.execute("DELETE FROM answers WHERE answer IS NOT NULL AND owner = ? AND at <= ?", (owner, at))
    db.execute("DELETE FROM invocations WHERE owner = ? AND ended <= ?", (owner, at))
    db.execute("DELETE FROM callbacks WHERE state = 'over' AND owner = ? AND at <= ?", (owner, at))
    return db.total_changes - before


def _by_age(db: sqlite3.Connection, owner: str) -> Iterator[tuple[float, int, int]]:
    """Iterate over the rows of an owner by age: when written, bytes, and the sequence (0 if it is no event)."""
    queries = (
        "SELECT at, size, seq FROM facts WHERE owner = ? ORDER BY seq",
        "SELECT at, size, 0 FROM records WHERE removed AND owner = ? ORDER BY at",
        f"SELECT at, size, 0 FROM outcomes WHERE owner = ? AND {_OF_REMOVED} ORDER BY at",  # noqa: S608
        "SELECT at, size, 0 FROM answers WHERE answer IS NOT NULL AND owner = ? ORDER BY at",
        "SELECT ended, size, 0 FROM invocations WHERE ended IS NOT NULL AND owner = ? ORDER BY ended",
        "SELECT at, size, 0 FROM callbacks WHERE state = 'over' AND owner = ? ORDER BY at",
    )
    return heapq.merge(*(db.execute(query, (owner,)) for query in queries))


def _drop_events(db: sqlite3.Connection, owner: str, until: int) -> None:
    """Delete an owner's events up to a sequence, except the very last one, which numbers the next."""
    until = min(until, scalar(db, "SELECT coalesce(max(seq), 0) FROM facts") - 1)
    if db.execute("DELETE FROM facts WHERE owner = ? AND seq <= ?", (owner, until)).rowcount:
        db.execute("INSERT OR REPLACE INTO pruned VALUES (?, ?)", (owner, until))


def give_back(db: sqlite3.Connection, beyond: int) -> bool:
    """Return up to ``beyond`` bytes of free pages to the disk; return whether there were any."""
    page, pages, free = count_pages(db)
    spare = min(free, beyond // page, SHRINK_BYTES // page)
    if spare > 0:
        db.executescript(f"PRAGMA incremental_vacuum({spare})")  # ``execute`` would free only one page
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # until then the file keeps its size
    return count_pages(db)[1] < pages


def count_pages(db: sqlite3.Connection) -> tuple[int, int, int]:
    """Return the page size in bytes, the number of pages, and the number of free pages."""
    page, pages, free = (scalar(db, f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count"))
    return page, pages, free
