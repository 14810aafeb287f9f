"""Asynchronous invocations in the journal: the SQL of their table.

Functions that take a connection run in the journal's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from ...events.journal import Journal
from ...events.retention import ANSWERS_KEPT_FOR
from ...models.functions import Version
from ...models.invocations import InvocationAttempt, InvocationError, InvocationView, Status, with_output
from ...models.responses import CallbackView
from ...runs.callbacks import read_views
from .row import OVERHEAD, Content, Output, Row

Write = Callable[[sqlite3.Connection], object]

SCANNED = 5000  # rows that one page of a listing looks at
MAX_PAGE = 1024 * 1024  # characters of errors after which a page ends: each may have a stack of 200 KiB
MAX_REVIVED = 8 * 1024 * 1024  # bytes of invocations that one redrive writes again
EXPIRED_AT_ONCE = 200
VERSIONS_KEPT = 100  # of functions of which no call runs, until those are forgotten

_SMALL = (
    "seq, id, function, qualifier, number, owner, status, created, due, until, max_age, tries, deadline, started,"
    " ended, size, attempts, tick, error"
)
_BY_PLACE = f"SELECT {_SMALL} FROM invocations WHERE seq = ?"  # noqa: S608 - text of ours
# What is called with, of which a call that is over counts nothing; one that is dead is tried again with it.
_KEPT_IF_DEAD = ", ".join(
    f"{column} = CASE WHEN ? = 'dead' THEN {column} END" for column in ("payload", "client_context", "trace_id")
)
_UNUSED = (
    "id NOT IN (SELECT version FROM invocations INDEXED BY invocations_running"
    " WHERE status = 'running' AND version IS NOT NULL)"
)


class Waits(NamedTuple):
    """How many invocations of one owner wait for a version of a function, and how many bytes of payload they have."""

    function: str
    qualifier: int
    owner: str
    calls: int
    size: int


class Taken(NamedTuple):
    """What is due: rows to begin, rows that are too old, and when the next one is due (None: no other waits)."""

    rows: list[Row]
    expired: list[Row]
    next_due: float | None


class InvocationStore:
    """The table of invocations. Methods raise JournalUnwritable.

    Args:
        journal: the file it is in.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    # -- changes ---------------------------------------------------------------------------------------------------

    async def accept(self, row: Row, content: Content, also: Write | None) -> tuple[Row, str | None] | None:
        """Add an invocation; with a key that was used before, return that invocation and its digest instead."""
        found: list[tuple[Row, str | None]] = []

        def work(db: sqlite3.Connection) -> None:
            found.clear()
            if content.key is not None:
                found.extend(_of_key(db, content.key, row.created - ANSWERS_KEPT_FOR))
            if not found:
                _insert(db, row, content)
                if also is not None:
                    also(db)

        await self._journal.write(work, size=row.size, durable=True)
        return found[0] if found else None

    async def of_key(self, key: str, now: float) -> tuple[Row, str | None] | None:
        """Return the invocation that was accepted with a key, and its digest; None if the key is not remembered."""
        query = f"SELECT digest, {_SMALL} FROM invocations WHERE key = ? AND created >= ?"  # noqa: S608 - text of ours
        found = await self._journal.read(lambda db: db.execute(query, (key, now - ANSWERS_KEPT_FOR)).fetchone())
        return None if found is None else (_row(found[1:]), found[0])

    async def begin(self, row: Row, version: Version) -> Content | None:
        """Write that an attempt begins, and return what to call with; None if the invocation is over."""
        found: list[Content] = []
        query = (
            "UPDATE invocations SET status = 'running', number = ?, tries = ?, deadline = ?, started = ?, attempts = ?,"
            " version = ? WHERE id = ? AND status IN ('queued', 'running')"
        )

        def work(db: sqlite3.Connection) -> None:
            found.clear()
            values = (row.number, row.tries, row.deadline, row.started, row.attempts_json, version.id, row.id)
            if db.execute(query, values).rowcount:
                _keep_version(db, version)
                columns = "payload, client_context, trace_id"
                found.append(Content(*_one(db, columns, row.id)))

        await self._journal.write(work)
        return found[0] if found else None

    async def wait_again(self, row: Row) -> None:
        """Write that a running invocation waits for its next attempt."""
        query = (
            "UPDATE invocations SET status = 'queued', tries = ?, due = ?, started = ?, attempts = ?"
            " WHERE id = ? AND status = 'running'"
        )
        values = (row.tries, row.due, row.started, row.attempts_json, row.id)
        await self._journal.write(lambda db: db.execute(query, values))

    async def end(self, row: Row, was: Status, output: Output | None, also: Write | None) -> bool:
        """Write the end of an invocation; return False if its status was another, and nothing was written.

        A dead one keeps its payload, so that it can be tried again.
        """
        ended: list[bool] = []
        body, content_type = output or (None, None)
        error, attempts = row.error_json, row.attempts_json
        size = OVERHEAD + len(body or b"") + len(error or "") + len(attempts)
        size += row.size if row.status == "dead" else 0
        query = (
            "UPDATE invocations SET status = ?, ended = ?, told = ?, size = ?, attempts = ?, error = ?, output = ?,"  # noqa: S608
            f" content_type = ?, {_KEPT_IF_DEAD} WHERE id = ? AND status = ?"
        )
        told = row.status == "cancelled"
        values = (
            row.status,
            row.ended,
            told,
            size,
            attempts,
            error,
            body,
            content_type,
            *[row.status] * 3,
            row.id,
            was,
        )

        def work(db: sqlite3.Connection) -> None:
            ended[:] = [db.execute(query, values).rowcount > 0]
            if ended[0] and also is not None:
                also(db)

        await self._journal.write(work, size=size, durable=row.status == "cancelled")
        return ended[0]

    async def redrive(self, rows: Sequence[Row]) -> set[str]:
        """Let dead invocations wait again; return the ids of those that were still dead."""
        done: set[str] = set()
        query = (
            "UPDATE invocations SET status = 'queued', due = ?, until = ?, tries = 0, ended = NULL, error = NULL,"
            " told = 1, size = ? WHERE id = ? AND status = 'dead'"
        )

        def work(db: sqlite3.Connection) -> None:
            done.clear()
            for row in rows:
                if db.execute(query, (row.due, row.until, row.size, row.id)).rowcount:
                    done.add(row.id)

        await self._journal.write(work, durable=True)
        return done

    async def cancel_waiting(self, function: str, ended: float, limit: int) -> list[Row]:
        """Cancel some of the invocations of a function that wait, and return them."""
        rows: list[Row] = []
        query = f"SELECT {_SMALL} FROM invocations WHERE function = ? AND status = 'queued' LIMIT ?"  # noqa: S608
        over = f"status = 'cancelled', ended = ?, size = ?, {_KEPT_IF_DEAD}"
        change = f"UPDATE invocations SET {over} WHERE seq = ?"  # noqa: S608

        def work(db: sqlite3.Connection) -> None:
            rows[:] = [_row(found) for found in db.execute(query, (function, limit))]
            db.executemany(change, [(ended, OVERHEAD, *["cancelled"] * 3, row.seq) for row in rows])

        await self._journal.write(work)
        return [row._replace(status="cancelled", ended=ended) for row in rows]

    # -- queries ---------------------------------------------------------------------------------------------------

    async def find(self, invocation_id: str, owner: str | None) -> Row | None:
        """Return an invocation of one owner, or of all."""
        query = f"SELECT {_SMALL} FROM invocations WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)"  # noqa: S608
        found = await self._journal.read(lambda db: db.execute(query, (invocation_id, owner)).fetchone())
        return None if found is None else _row(found)

    async def view(self, invocation_id: str, owner: str | None) -> InvocationView | None:
        """Return the view of an invocation of one owner, or of all, with its output."""
        query = (
            f"SELECT output, content_type, {_SMALL} FROM invocations"  # noqa: S608 - text of ours
            " WHERE id = ?1 AND (?2 IS NULL OR owner = ?2)"
        )

        def read(db: sqlite3.Connection) -> tuple[tuple[Any, ...] | None, list[CallbackView]]:
            return db.execute(query, (invocation_id, owner)).fetchone(), read_views(db, "invocation", invocation_id)

        found, callbacks = await self._journal.read(read)
        if found is None:
            return None
        output, content_type, *small = found
        view = msgspec.structs.replace(_row(small).view(), callbacks=callbacks)
        return view if output is None else with_output(view, output, content_type or "")

    async def listing(
        self, owner: str | None, function: str | None, status: str | None, limit: int, before: int | None
    ) -> tuple[list[Row], int | None]:
        """Return a page of invocations, the newest first, and the place before which the next page begins."""
        wanted = {"owner": owner, "status": status, "before": before}
        terms = {"owner": "owner = :owner", "status": "status = :status", "before": "seq < :before"}
        where = " AND ".join(terms[name] for name, value in wanted.items() if value is not None) or "1"
        # Of an index alone, or in the order of the table, so that other functions' payloads are not read.
        scan = f"SELECT seq, function FROM invocations WHERE {where} ORDER BY seq DESC LIMIT {SCANNED}"  # noqa: S608

        def read(db: sqlite3.Connection) -> tuple[list[Row], int | None]:
            rows: list[Row] = []
            last, size = None, 0
            for scanned, (last, name) in enumerate(db.execute(scan, wanted), 1):
                if function in (None, name):
                    found = db.execute(_BY_PLACE, (last,)).fetchone()
                    rows.append(_row(found))
                    size += sum(len(value) for value in found if isinstance(value, str))
                if len(rows) == limit or scanned == SCANNED or size > MAX_PAGE:
                    return rows, last
            return rows, None

        return await self._journal.read(read)

    async def dead(self, owner: str | None, function: str, limit: int, after: int) -> tuple[list[Row], int | None]:
        """Return dead invocations of a function, the oldest first, and the place after which the next ones begin.

        Args:
            owner: whose; None: everyone's.
            function: the name.
            limit: how many at most; fewer are returned if they are large, or if many others of the owner (of everyone)
                lie between them.
            after: the place after which they begin.
        """
        wanted = {"owner": owner, "after": after}
        index, of = ("status", "status = 'dead'") if owner is None else ("owner", "owner = :owner")
        scan = (
            f"SELECT seq, function, status FROM invocations INDEXED BY invocations_by_{index}"  # noqa: S608
            f" WHERE {of} AND seq > :after ORDER BY seq LIMIT {SCANNED}"
        )

        def read(db: sqlite3.Connection) -> tuple[list[Row], int | None]:
            rows: list[Row] = []
            size = 0
            for scanned, (last, name, status) in enumerate(db.execute(scan, wanted), 1):
                if name == function and status == "dead":
                    rows.append(_row(db.execute(_BY_PLACE, (last,)).fetchone()))
                    size += rows[-1].size
                if len(rows) == limit or scanned == SCANNED or size > MAX_REVIVED:
                    return rows, last
            return rows, None

        return await self._journal.read(read)

    async def waiting(self) -> list[Waits]:
        """Return what waits."""
        query = (
            "SELECT function, qualifier, owner, count(*), sum(size) FROM invocations INDEXED BY invocations_due"
            " WHERE status = 'queued' GROUP BY function, qualifier, owner"
        )
        return await self._journal.read(lambda db: [Waits(*row) for row in db.execute(query)])

    async def running(self) -> list[tuple[Row, Version | None]]:
        """Return the invocations that an instance had, each with the version that was called, if that is kept."""
        called = "(SELECT version FROM called_versions WHERE id = invocations.version)"
        query = f"SELECT {called}, {_SMALL} FROM invocations INDEXED BY invocations_running WHERE status = 'running'"  # noqa: S608

        def read(db: sqlite3.Connection) -> list[tuple[Row, Version | None]]:
            return [(_row(small), _version(version)) for version, *small in db.execute(query)]

        return await self._journal.read(read)

    async def forget_versions(self) -> None:
        """Forget the versions of which no call runs."""
        await self._journal.write(lambda db: db.execute(f"DELETE FROM called_versions WHERE {_UNUSED}"))  # noqa: S608

    async def untold(self, before: float, limit: int) -> list[Row]:
        """Return some invocations that ended before a time and whose end is not in the stream, the oldest first."""
        query = f"SELECT {_SMALL} FROM invocations WHERE NOT told AND ended < ? ORDER BY seq LIMIT ?"  # noqa: S608
        return await self._journal.read(lambda db: [_row(found) for found in db.execute(query, (before, limit))])

    async def take(
        self, function: str, qualifier: int, owners: Sequence[str], count: int, skip: Collection[str], now: float
    ) -> Taken:
        """Return what is due of a version of a function: at most ``count`` rows, of the owners in turn.

        Args:
            function: the name.
            qualifier: the version.
            owners: whose invocations, in the order of their turns.
            count: how many.
            skip: ids that are left out.
            now: seconds since 1970.
        """
        return await self._journal.read(lambda db: _take(db, (function, qualifier), owners, count, skip, now))


def _take(
    db: sqlite3.Connection, line: tuple[str, int], owners: Sequence[str], count: int, skip: Collection[str], now: float
) -> Taken:
    rows: list[Row] = []
    expired: list[Row] = []
    later: list[float] = []
    turns = [_waiting(db, line, owner, skip) for owner in owners]
    while turns:
        for turn in list(turns):
            if len(expired) == EXPIRED_AT_ONCE or (rows and len(rows) == count):
                return Taken(rows, expired, None)
            row = next(turn, None)
            if row is not None and row.due <= now and row.until <= now:
                expired.append(row)
            elif row is not None and row.due <= now and count:
                rows.append(row)
            else:
                turns.remove(turn)
                later += [row.due] if row else []
    return Taken(rows, expired, min(later, default=None))


def _waiting(db: sqlite3.Connection, line: tuple[str, int], owner: str, skip: Collection[str]) -> Iterator[Row]:
    """Yield the invocations of an owner that wait, by when they are due."""
    query = (
        f"SELECT {_SMALL} FROM invocations INDEXED BY invocations_due"  # noqa: S608 - text of ours
        " WHERE function = ? AND qualifier = ? AND owner = ? AND status = 'queued' ORDER BY due, seq"
    )
    for found in db.execute(query, (*line, owner)):
        row = _row(found)
        if row.id not in skip:
            yield row


def _insert(db: sqlite3.Connection, row: Row, content: Content) -> None:
    db.execute(
        "INSERT INTO invocations (id, function, qualifier, number, owner, status, created, due, until, max_age, size,"
        " tick, key, digest, client_context, trace_id, payload)"
        " VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(row.id, row.function, row.qualifier, row.number, row.owner, row.created, row.due, row.until),
            *(row.max_age, row.size, row.tick, content.key, content.digest, content.client_context, content.trace_id),
            content.payload,
        ),
    )


def _of_key(db: sqlite3.Connection, key: str, since: float) -> list[tuple[Row, str | None]]:
    """Return the invocation with this key; an earlier one than ``since`` loses it."""
    db.execute("UPDATE invocations SET key = NULL WHERE key = ? AND created < ?", (key, since))
    query = f"SELECT digest, {_SMALL} FROM invocations WHERE key = ?"  # noqa: S608 - text of ours
    return [(_row(found[1:]), found[0]) for found in db.execute(query, (key,))]


def _keep_version(db: sqlite3.Connection, version: Version) -> None:
    """Keep the version of a call that begins; forget those of its function, or of all, of which no call runs."""
    if db.execute("SELECT 1 FROM called_versions WHERE id = ?", (version.id,)).fetchone():
        return
    are_many = db.execute("SELECT count(*) FROM called_versions").fetchone()[0] >= VERSIONS_KEPT
    values = (version.function, are_many)
    db.execute(f"DELETE FROM called_versions WHERE (function = ? OR ?) AND {_UNUSED}", values)  # noqa: S608
    # No instance is started by what is kept, so it has neither values of the environment nor the inputs of schedules.
    spec = msgspec.structs.replace(version.spec, env={}, schedules=[])
    kept = msgspec.json.encode(msgspec.structs.replace(version, spec=spec))
    db.execute("INSERT INTO called_versions VALUES (?, ?, ?)", (version.id, version.function, kept))


def _version(kept: bytes | None) -> Version | None:
    """Decode a version; one that another version of quartermaster wrote may not be understood."""
    try:
        return None if kept is None else msgspec.json.decode(kept, type=Version)
    except msgspec.MsgspecError:
        return None


def _one(db: sqlite3.Connection, columns: str, invocation_id: str) -> tuple[bytes, str | None, str | None]:
    query = f"SELECT {columns} FROM invocations WHERE id = ?"  # noqa: S608 - text of ours
    found: tuple[bytes, str | None, str | None] = db.execute(query, (invocation_id,)).fetchone()
    return found


def _row(found: Sequence[object]) -> Row:
    """Return the row of the small columns."""
    *plain, attempts, tick, error = found
    decoded = msgspec.json.decode(str(attempts), type=tuple[InvocationAttempt, ...]) if attempts != "[]" else ()
    fault = None if error is None else msgspec.json.decode(str(error), type=InvocationError)
    return Row._make([*plain, decoded, tick, fault])
