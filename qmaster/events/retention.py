"""What the journal deletes when it holds too much: the oldest rows of the owner who keeps most.

A foreign service has the owner "". The journal's writer thread runs all of this inside a transaction.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Mapping

EVERYONE = "*"  # the owner, in ``pruned``, of events that were deleted before events had owners

Row = tuple[float, int, int]  # when it was written (seconds since 1970), its bytes, and its sequence if it is an event


def share(held: Iterable[int], limit: int) -> int:
    """Return how much each owner may keep, so that all of them together keep at most ``limit``."""
    left, rest = limit, sorted(held)
    for number, amount in enumerate(rest):
        equal = left // (len(rest) - number)
        if amount > equal:
            return equal
        left -= amount
    return limit


def pruned(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the newest sequence that was deleted, by owner."""
    return dict(connection.execute("SELECT owner, seq FROM pruned"))


def kept_from(deleted: Mapping[str, int], owner: str | None) -> int:
    """Return the first sequence from which every event of an owner is there; of all owners with None."""
    if owner is None:
        return max(deleted.values(), default=0) + 1
    return max(deleted.get(owner, 0), deleted.get(EVERYONE, 0)) + 1


def drop_facts_before(write: sqlite3.Connection, sequence: int) -> None:
    """Delete the events before a sequence, whose ever they are."""
    write.execute(
        "INSERT INTO pruned SELECT owner, max(seq) FROM facts WHERE seq < ? GROUP BY owner"
        " ON CONFLICT DO UPDATE SET seq = max(seq, excluded.seq)",
        (sequence,),
    )
    write.execute("DELETE FROM facts WHERE seq < ?", (sequence,))


def drop_facts_beyond(write: sqlite3.Connection, keep: int) -> None:
    """Delete the oldest events of those who have most, so that at most ``keep`` stay."""
    counts = dict(write.execute("SELECT owner, count(*) FROM facts GROUP BY owner"))
    each = share(counts.values(), keep)
    for owner in [owner for owner, count in counts.items() if count > each]:
        query = "SELECT seq FROM facts WHERE owner = ? ORDER BY seq DESC LIMIT 1 OFFSET ?"
        _drop_facts(write, owner, write.execute(query, (owner, each)).fetchone()[0])


def drop_bytes(write: sqlite3.Connection, amount: int) -> int:
    """Delete about so many bytes of the oldest rows of those who keep most; return how many rows went.

    The records of what is still there stay, and so does what it said.
    """
    held = _deletable(write)
    each = share(held.values(), max(0, sum(held.values()) - amount))
    return sum(_drop_oldest(write, owner, size - each) for owner, size in held.items() if size > each)


def _deletable(write: sqlite3.Connection) -> dict[str, int]:
    """Bytes by owner, without what has to stay."""
    return dict(
        write.execute(
            "SELECT owner, sum(size) FROM (SELECT owner, size FROM facts"
            " UNION ALL SELECT owner, size FROM records WHERE removed UNION ALL SELECT owner, size FROM outcomes"
            " WHERE id NOT IN (SELECT id FROM records WHERE NOT removed)) GROUP BY owner"
        )
    )


def _drop_oldest(write: sqlite3.Connection, owner: str, amount: int) -> int:
    """Delete the oldest rows of an owner that have so many bytes together."""
    before, freed, at, sequence = write.total_changes, 0, 0.0, 0
    for row in _by_age(write, owner):
        at, sequence, freed = max(at, row[0]), max(sequence, row[2]), freed + row[1]
        if freed >= amount:
            break
    _drop_facts(write, owner, sequence)
    write.execute("DELETE FROM records WHERE removed AND owner = ? AND at <= ?", (owner, at))
    write.execute(
        "DELETE FROM outcomes WHERE owner = ? AND at <= ? AND id NOT IN (SELECT id FROM records WHERE NOT removed)",
        (owner, at),
    )
    return write.total_changes - before


def _by_age(write: sqlite3.Connection, owner: str) -> Iterator[Row]:
    events = write.execute("SELECT at, size, seq FROM facts WHERE owner = ? ORDER BY seq", (owner,))
    records = write.execute("SELECT at, size, 0 FROM records WHERE removed AND owner = ? ORDER BY at", (owner,))
    outcomes = write.execute(
        "SELECT at, size, 0 FROM outcomes WHERE owner = ? AND id NOT IN (SELECT id FROM records WHERE NOT removed)"
        " ORDER BY at",
        (owner,),
    )
    return heapq.merge(events, records, outcomes)


def _drop_facts(write: sqlite3.Connection, owner: str, until: int) -> None:
    """Delete an owner's events up to a sequence; never the last of all, from which the next one is numbered."""
    last = write.execute("SELECT coalesce(max(seq), 0) FROM facts").fetchone()[0]
    until = min(until, last - 1)
    gone = write.execute("DELETE FROM facts WHERE owner = ? AND seq <= ?", (owner, until)).rowcount
    if gone:
        write.execute("INSERT OR REPLACE INTO pruned VALUES (?, ?)", (owner, until))
