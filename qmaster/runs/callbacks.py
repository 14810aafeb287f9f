"""The journal's rows of callbacks: what is to be sent where, when it is due, and what became of it.

A row is ``armed`` while its run goes on, ``waiting`` until it is delivered or given up, then ``over``. The event loop
owns the rest of the state.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Literal, NamedTuple

from ..events.journal import Journal
from ..models.responses import CallbackView
from ..models.units import rfc3339

Kind = Literal["run", "invocation"]

PAGE = 500  # rows that are read at once
OF_OWNER = 4  # rows of each owner in one look; owners are served in turn
FAR = 86_400.0  # seconds; what is due later was written before the clock was set back
ROW_BYTES = 512  # that a row counts for in addition to its URL
_COLUMNS = "id, kind, subject, event, owner, url, prefix, attempts"


class Row(NamedTuple):
    """A callback that waits.

    Attributes:
        id: the ``webhook-id``, the same for all tries.
        kind: of the subject.
        subject: the id of the run or invocation.
        event: the last word of the event's type, such as ``complete``.
        owner: of the run or invocation.
        url: where it goes.
        prefix: the prefix that covered the URL when the row was written.
        attempts: how many have failed.
    """

    id: str
    kind: Kind
    subject: str
    event: str
    owner: str
    url: str
    prefix: str
    attempts: int = 0


class CallbackStore:
    """The rows.

    Attributes:
        armed: the ids of runs that go on and have a callback.

    Args:
        journal: keeps the rows.
        clock: returns seconds since 1970.
    """

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        self.armed: set[str] = set()
        self._journal = journal
        self._clock = clock

    async def load(self) -> frozenset[str]:
        """Read which runs are armed, and return those that an earlier process has armed.

        Raises:
            JournalUnwritable: they cannot be read.
        """
        query = "SELECT subject FROM callbacks WHERE state = 'armed'"
        found = {row[0] for row in await self._journal.read(lambda db: db.execute(query).fetchall())}
        earlier = frozenset(found - self.armed)
        self.armed |= earlier
        return earlier

    # -- writing ---------------------------------------------------------------------------------------------------

    async def arm(self, run_id: str, owner: str, url: str) -> None:
        """Keep the callback of a run that was created, before anybody hears of the run.

        Raises:
            JournalUnwritable: it is not kept.
        """
        row = Row(_new_id(), "run", run_id, "", owner, url, "")
        self.armed.add(run_id)  # before it is written, so that it is not taken for one of an earlier process
        await self._journal.write(lambda db: _arm(db, row, self._clock()), size=_size(url), durable=True)

    async def release(self, run_id: str, event: str, prefix: str) -> None:
        """Make the callback of a run due, as the run is over.

        Raises:
            JournalUnwritable: nothing has changed.
        """
        query = (
            "UPDATE callbacks SET state = 'waiting', event = ?, prefix = ?, at = ?, due = ?"
            " WHERE kind = 'run' AND subject = ? AND state = 'armed'"
        )
        now = self._clock()
        await self._journal.write(lambda db: db.execute(query, (event, prefix, now, now, run_id)))
        self.armed.discard(run_id)

    async def give_up(self, run_id: str, why: str) -> None:
        """Give up the callback of a run that nobody knows any more, or whose URL is no longer allowed."""
        query = (
            "UPDATE callbacks SET state = 'over', at = ?, last_error = ?"
            " WHERE kind = 'run' AND subject = ? AND state = 'armed'"
        )
        await self._journal.write(lambda db: db.execute(query, (self._clock(), why, run_id)))
        self.armed.discard(run_id)

    def add(self, db: sqlite3.Connection, row: Row, error: str | None = None) -> None:
        """Write a callback that is due now, in a transaction of the caller's; with an error it is given up at once."""
        _insert(db, row, "waiting" if error is None else "over", self._clock(), error)

    async def delivered(self, row: Row) -> None:
        """Record that a callback was delivered."""
        await self._finish(row, "over", None, rfc3339(self._clock()), None)

    async def failed(self, row: Row, error: str, delay: float | None) -> None:
        """Record a failed try; the next is due after ``delay`` seconds, None: it is given up."""
        due = None if delay is None else self._clock() + delay
        await self._finish(row, "over" if due is None else "waiting", due, None, error)

    async def _finish(
        self, row: Row, state: str, due: float | None, delivered_at: str | None, error: str | None
    ) -> None:
        query = (
            "UPDATE callbacks SET state = ?, due = ?, delivered_at = ?, last_error = coalesce(?, last_error),"
            # One that was given up while it was being sent is delivered all the same.
            " attempts = ?, at = ? WHERE id = ? AND (state = 'waiting' OR ? IS NOT NULL)"
        )
        values = (state, due, delivered_at, error, row.attempts + 1, self._clock(), row.id, delivered_at)
        await self._journal.write(lambda db: db.execute(query, values))

    async def trim(self, owner: str, most: int, why: str) -> None:
        """Give up the oldest callbacks of an owner, so that at most so many wait."""
        query = (
            "UPDATE callbacks SET state = 'over', due = NULL, last_error = ? WHERE rowid IN"
            " (SELECT rowid FROM callbacks WHERE owner = ? AND state = 'waiting' ORDER BY rowid DESC LIMIT -1 OFFSET ?)"
        )
        await self._journal.write(lambda db: db.execute(query, (why, owner, most)))

    async def place(self, prefix_of: Callable[[str], str | None], why: str) -> None:
        """Give each waiting callback the prefix that covers its URL now; give up those that none covers."""
        last = 0
        while page := await self._journal.read(partial(_page, last)):
            last = page[-1][0]
            placed = [(prefix_of(url), prefix, place) for place, url, prefix in page]
            moved = [(prefix, place) for prefix, before, place in placed if prefix not in (None, before)]
            gone = [(why, place) for prefix, _, place in placed if prefix is None]
            if moved or gone:
                await self._journal.write(partial(_place, moved, gone))

    # -- reading ---------------------------------------------------------------------------------------------------

    async def waiting(self) -> dict[str, int]:
        """Return how many callbacks wait, by owner."""
        query = "SELECT owner, count(*) FROM callbacks WHERE state = 'waiting' GROUP BY owner"
        return await self._journal.read(lambda db: dict(db.execute(query).fetchall()))

    async def armed_url(self, run_id: str) -> str | None:
        """Return the URL of an armed run, None if it has none."""
        query = "SELECT url FROM callbacks WHERE kind = 'run' AND subject = ? AND state = 'armed'"
        row = await self._journal.read(lambda db: db.execute(query, (run_id,)).fetchone())
        return row[0] if row else None

    async def due(self, prefix: str, without: Collection[str]) -> tuple[list[list[Row]], float | None]:
        """Return the callbacks of a prefix that are due, for each owner the first few.

        Args:
            prefix: the prefix.
            without: the ids of those that are being sent.

        Returns:
            The rows by owner, and the seconds until the next of the others is due; None: there is none.
        """
        now, limit = self._clock(), OF_OWNER + len(without)
        found = await self._journal.read(lambda db: [_first(db, prefix, owner, limit) for owner in _owners(db, prefix)])
        mine = [[(row, due) for row, due in rows if row.id not in without] for rows in found]
        ready = [[row for row, due in rows if not now < due < now + FAR][:OF_OWNER] for rows in mine]
        later = [due - now for rows in mine for _, due in rows if now < due < now + FAR]
        return [rows for rows in ready if rows], min(later, default=None)

    async def hosts(self, named: Collection[str]) -> dict[str, str]:
        """Return how the hosts of prefixes were first reached; forget the hosts that no prefix names any more."""
        rows = await self._journal.read(lambda db: db.execute("SELECT host, reach FROM callback_hosts").fetchall())
        gone = [(host,) for host, _ in rows if host not in named]
        if gone:
            await self._journal.write(lambda db: db.executemany("DELETE FROM callback_hosts WHERE host = ?", gone))
        return {host: reach for host, reach in rows if host in named}

    async def learn(self, host: str, reach: str) -> None:
        """Keep how the host of a prefix was first reached."""
        query = "INSERT OR IGNORE INTO callback_hosts VALUES (?, ?)"
        await self._journal.write(lambda db: db.execute(query, (host, reach)))

    async def views(self, kind: Kind, subject: str) -> list[CallbackView]:
        """Return what is known of the callbacks of a run or invocation."""
        return await self._journal.read(lambda db: read_views(db, kind, subject))


def read_views(db: sqlite3.Connection, kind: Kind, subject: str) -> list[CallbackView]:
    """Return what is known of the callbacks of a run or invocation."""
    query = (
        "SELECT url, delivered_at, attempts, last_error FROM callbacks WHERE subject = ? AND kind = ? ORDER BY rowid"
    )
    rows = db.execute(query, (subject, kind)).fetchall()
    return [CallbackView(url=url, delivered_at=at, attempts=tries, last_error=error) for url, at, tries, error in rows]


def new_row(kind: Kind, subject: str, event: str, owner: str, url: str, prefix: str) -> Row:
    """Return a new callback."""
    return Row(_new_id(), kind, subject, event, owner, url, prefix)


def _new_id() -> str:
    return f"msg_{secrets.token_hex(16)}"


def _size(url: str) -> int:
    return ROW_BYTES + len(url)


def _arm(db: sqlite3.Connection, row: Row, now: float) -> None:
    """Write the row of a run, unless there is one: a run may be found again under its key."""
    if not db.execute("SELECT 1 FROM callbacks WHERE subject = ? AND kind = 'run'", (row.subject,)).fetchone():
        _insert(db, row, "armed", now)


def _insert(db: sqlite3.Connection, row: Row, state: str, now: float, error: str | None = None) -> None:
    due = now if state == "waiting" else None
    db.execute(
        f"INSERT INTO callbacks ({_COLUMNS}, state, at, due, last_error, size)"  # noqa: S608 - text of ours
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*row, state, now, due, error, _size(row.url)),
    )


def _owners(db: sqlite3.Connection, prefix: str) -> Iterable[str]:
    """Yield the owners with callbacks that wait; each takes one step in the index, however many wait."""
    query = "SELECT min(owner) FROM callbacks WHERE state = 'waiting' AND prefix = ? AND owner > ?"
    owner = ""
    while (owner := db.execute(query, (prefix, owner)).fetchone()[0]) is not None:
        yield owner


def _first(db: sqlite3.Connection, prefix: str, owner: str, limit: int) -> list[tuple[Row, float]]:
    """Return the callbacks of an owner that are due first, with when."""
    query = (
        f"SELECT {_COLUMNS}, due FROM callbacks"  # noqa: S608 - text of ours
        " WHERE state = 'waiting' AND prefix = ? AND owner = ? ORDER BY due LIMIT ?"
    )
    return [(Row(*row[:-1]), row[-1]) for row in db.execute(query, (prefix, owner, limit))]


def _page(last: int, db: sqlite3.Connection) -> list[tuple[int, str, str]]:
    """Return places, URLs and prefixes of the next callbacks that wait."""
    query = "SELECT rowid, url, prefix FROM callbacks WHERE state = 'waiting' AND rowid > ? ORDER BY rowid LIMIT ?"
    return db.execute(query, (last, PAGE)).fetchall()


def _place(moved: Sequence[tuple[str | None, int]], gone: Sequence[tuple[str, int]], db: sqlite3.Connection) -> None:
    db.executemany("UPDATE callbacks SET prefix = ? WHERE rowid = ?", moved)
    db.executemany("UPDATE callbacks SET state = 'over', due = NULL, last_error = ? WHERE rowid = ?", gone)
