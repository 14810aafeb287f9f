"""journal: events in their order, records and intents on disk; and a disk that is full, torn, locked or not ours."""

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import types
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from testbed import Bed, Engine, Server, eventually
from testbed.process import run as command
from testbed.subscriber import Subscriber, heartbeat

from qmaster.errors import ConfigError, JournalUnwritable
from qmaster.events import journal as journals
from qmaster.events import retention, rows
from qmaster.events.journal import FILE, Journal
from qmaster.events.rows import Intent, NewEvent, Record, RemovedQuery, StoredEvent
from qmaster.events.schema import SCHEMA
from qmaster.server import app as server

Json = dict[str, Any]
StartServer = Callable[..., Server]
unit = pytest.mark.gen_test(timeout=20)


def event(number: int, owner: str = "", size: int = 0) -> NewEvent:
    document = f'{{"n":{number},"data":{{"owner":"{owner}","pad":"{"x" * size}"}}}}'.encode()
    return NewEvent("io.qmaster.service.updated", document, owner, "s1")


def record(service: str, name: str = "one", removed: bool = False, view: bytes = b"{}") -> Record:
    return Record(service, "service", name, removed, view)


async def events(journal: Journal, after: int, limit: int = 100_000, owner: str | None = None) -> list[StoredEvent]:
    found = await journal.events(after, limit, owner)
    assert found is not None
    return found


async def opened(folder: Path, keep_facts: int = 1000, keep_days: float = 30) -> Journal:
    journal = Journal(folder, keep_facts, keep_days)
    await journal.open()
    return journal


@unit
async def test_what_waits_is_written_before_the_file_is_closed(tmp_path: Path) -> None:
    """What is written in the same turn, behind a transaction, and by callers that were cancelled."""
    journal = await opened(tmp_path)
    first = asyncio.create_task(journal.end("first", "stopped"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # now the thread has it
    others = [asyncio.create_task(journal.end(run, "stopped")) for run in ("second", "third")]
    await asyncio.sleep(0)
    others[1].cancel()
    await journal.close()
    await asyncio.gather(first, *others, return_exceptions=True)
    journal = await opened(tmp_path)
    assert set(await journal.endings()) == {"first", "second", "third"}
    await journal.close()


@unit
async def test_a_durable_write_waits_for_the_disk(tmp_path: Path) -> None:
    """Those that are committed together do so as soon as one of them has to."""
    journal, seen = await opened(tmp_path), []

    def note(db: sqlite3.Connection) -> None:
        seen.append(db.execute("PRAGMA synchronous").fetchone()[0])

    normal, full = 1, 2
    await journal.write(note)
    await asyncio.gather(*(journal.write(note, durable=durable) for durable in (False, False, True)))
    await journal.write(note)
    assert seen == [normal, full, full, full, normal]
    await journal.close()


@unit
async def test_writes_of_one_moment_share_a_commit(tmp_path: Path) -> None:
    """Their callers go on together, so their next writes share one too: none waits for the disk twice."""
    journal, seen = await opened(tmp_path), []

    def note(db: sqlite3.Connection) -> None:
        seen.append(db.execute("PRAGMA synchronous").fetchone()[0])

    async def write(durable: bool) -> None:
        for _ in range(3):
            await journal.write(note, durable=durable)

    full = 2  # as the first caller wants it
    await asyncio.gather(*(write(durable=number == 0) for number in range(16)))
    assert seen == [full] * 48
    await journal.close()


@unit
async def test_a_file_that_was_opened_in_part_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the journal would number its events from 1 again, in no epoch."""
    journal = await opened(tmp_path)
    await journal.append([event(1)], [])
    await journal.close()
    with monkeypatch.context() as broken:
        broken.setattr(retention, "drop_old", lambda *args: sqlite3.connect(tmp_path / "no" / "file"))
        journal = await opened(tmp_path)
    assert journal.trouble is not None
    monkeypatch.setattr(journals, "REOPEN_EVERY", 0)
    await journal.recheck()
    await journal.append([event(2)], [])
    assert [one.seq for one in await events(journal, 0)] == [1, 2]
    assert journal.position.epoch != journals.NO_EPOCH
    await journal.close()


@unit
async def test_another_user_of_a_folder_ends_nothing_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only at the start it ends the process; what looks every second whether the journal is back goes on."""
    folder = tmp_path / "data"
    folder.write_text("in its way")
    journal = await opened(folder)
    folder.unlink()
    other = await opened(folder)
    monkeypatch.setattr(journals, "REOPEN_EVERY", 0)
    monkeypatch.setattr(journals, "LOCK_WITHIN", 0)
    await journal.recheck()
    assert "another quartermaster" in str(journal.trouble)
    await other.close()
    await journal.recheck()
    assert journal.trouble is None
    await journal.close()


@unit
async def test_events_are_numbered_and_stay(tmp_path: Path) -> None:
    """From 1, in the order given; after a restart they are there, in the same epoch."""
    journal = await opened(tmp_path)
    epoch = journal.position.epoch
    assert journal.position[1:] == (1, 0)
    await journal.append([event(1), event(2)], [])
    await journal.append([event(3)], [])
    await journal.close()
    journal = await opened(tmp_path)
    assert journal.position == (epoch, 1, 3)
    assert [stored.seq for stored in await events(journal, 1, 10)] == [2, 3]
    assert [stored.json for stored in await events(journal, 0, 2)] == [event(1).json, event(2).json]
    await journal.close()


def intent(name: str) -> Intent:
    return Intent(name, f"nonce-of-{name}", "service")


async def intents(folder: Path) -> set[str]:
    """Those that the next process finds."""
    again = await opened(folder)
    await again.close()
    return {each.name for each in again.leftovers}


@unit
async def test_what_is_written_at_one_time_is_one_transaction(tmp_path: Path) -> None:
    """All that comes in one turn of the loop; each is on disk when its caller goes on."""
    journal = await opened(tmp_path)
    statements: list[str] = []
    assert journal._pruning is not None
    await journal._pruning  # what follows the start
    assert journal._db is not None
    journal._db.set_trace_callback(statements.append)
    names = [f"run-{number}" for number in range(50)]
    await asyncio.gather(*(journal.intend(intent(name)) for name in names), journal.append([event(1)], []))
    assert len([said for said in statements if said == "COMMIT"]) == 1
    assert journal.position.last == 1
    journal._db.set_trace_callback(None)
    await journal.close()
    assert await intents(tmp_path) == set(names)


@unit
async def test_a_write_that_fails_fails_no_other(tmp_path: Path) -> None:
    """Whatever is wrong with it: those that are written with it are kept."""
    journal = await opened(tmp_path)
    writes = [intent("a"), intent("b"), intent("b"), intent("half a pair \udc80"), intent("c")]
    done = await asyncio.gather(*map(journal.intend, writes), return_exceptions=True)
    assert [type(each) for each in done] == [type(None)] * 2 + [JournalUnwritable, UnicodeEncodeError, type(None)]
    assert journal.trouble is None
    await journal.close()
    assert await intents(tmp_path) == {"a", "b", "c"}


@unit
async def test_a_read_whose_caller_has_gone_is_left_out(tmp_path: Path) -> None:
    """Else who opens a stream and closes it again and again fills the queue of the journal's thread."""
    journal = await opened(tmp_path)
    going, begun = threading.Event(), list[sqlite3.Connection]()

    def wait(db: sqlite3.Connection) -> None:
        going.wait(10)

    first = asyncio.create_task(journal.read(wait))
    await asyncio.sleep(0)
    for _ in range(20):
        read = asyncio.create_task(journal.read(begun.append))
        await asyncio.sleep(0)
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)
    going.set()
    await first
    await journal.intend(intent("a"))
    assert begun == []
    await journal.close()


@unit
async def test_a_write_is_done_without_its_caller(tmp_path: Path) -> None:
    """Who is cancelled while it is written, or before, leaves the position right for the next."""
    journal = await opened(tmp_path)
    writes = [asyncio.create_task(journal.append([event(1)], []))]
    await asyncio.sleep(0)
    writes.append(asyncio.create_task(journal.intend(intent("a"))))
    await asyncio.sleep(0)
    for write in writes:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)
    await journal.intend(intent("b"))
    assert journal.position.last == 1
    await journal.append([event(2)], [])
    assert [each.seq for each in await events(journal, 0)] == [1, 2]
    await journal.close()
    assert await intents(tmp_path) == {"a", "b"}


@unit
async def test_what_comes_too_late_is_refused(tmp_path: Path) -> None:
    """What waits as the journal is closed is written or refused; nobody waits for ever."""
    journal = await opened(tmp_path)
    writes = [asyncio.create_task(journal.intend(intent(name))) for name in "abc"]
    await asyncio.sleep(0)
    closing = asyncio.create_task(journal.close())
    done = await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), 10)
    await closing
    kept = {name for name, error in zip("abc", done, strict=True) if error is None}
    assert all(error is None or isinstance(error, JournalUnwritable) for error in done)
    assert await intents(tmp_path) == kept


@unit
async def test_records_are_found_by_id_and_name(tmp_path: Path) -> None:
    """Of one name what is there comes before what is removed, and of those the newest first."""
    journal = await opened(tmp_path)
    for service, removed in (("a", True), ("b", True), ("c", False)):
        await journal.append([], [record(service, removed=removed, view=service.encode())])
        await asyncio.sleep(0.01)
    assert await journal.record("one") == b"c"
    assert await journal.record("a") == b"a"
    assert await journal.record("nothing") is None
    assert [each.id for each in await journal.records()] == ["c"]
    await journal.append([], [record("c", removed=True, view=b"c2")])
    assert await journal.records() == []
    await journal.close()


def view(number: int, owner: str | None, size: int = 0) -> bytes:
    created = f"2026-01-01T00:00:{number:02d}Z"
    return json.dumps({"created_at": created, "owner": owner, "labels": {"a": "x" * size}}).encode()


async def pages(journal: Journal, owner: str | None) -> list[list[str]]:
    """The ids of what is removed, by page."""
    found, before = [], ("9", "")
    while True:
        page = await journal.removed(RemovedQuery(before, owner=owner), lambda view: view)
        found.append([run_id for (_, run_id), _ in page.rows])
        if page.next is None:
            return found
        before = page.next


@unit
async def test_what_is_removed_is_read_in_pages(tmp_path: Path) -> None:
    """By the time of creation, the newest first, of all or of one owner; what is large is alone on its page."""
    journal = await opened(tmp_path)
    for number, owner in ((3, "a"), (1, "a"), (4, "b"), (2, None)):
        size = 2 * rows.PAGE_BYTES if number == 3 else 0
        one = record(f"r{number}", removed=True, view=view(number, owner, size))
        await journal.append([], [one._replace(owner=owner or "")])
    await journal.append([], [record("there", view=view(5, "a")), record("broken", removed=True, view=b"{")])
    assert await pages(journal, None) == [["r4", "r3"], ["r2", "r1", "broken"]]
    assert await pages(journal, "a") == [["r3"], ["r1"]]
    assert await pages(journal, "nobody") == [[]]
    await journal.close()


@unit
async def test_little_is_read_for_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing of it is wanted, so that others have a turn; the next page goes on where it ended."""
    monkeypatch.setattr(rows, "SCANNED_BYTES", 1000)
    journal = await opened(tmp_path)
    await journal.append([], [record(f"r{n}", removed=True, view=view(n, "a", 600)) for n in range(6)])
    page = await journal.removed(RemovedQuery(("9", "")), lambda view: None)
    assert (page.rows, page.next) == ([], ("2026-01-01T00:00:04Z", "r4"))
    await journal.close()


@unit
async def test_an_older_file_is_listed_too(tmp_path: Path) -> None:
    """What was written before there were listings in pages, and what a version without them writes and deletes."""
    old = sqlite3.connect(tmp_path / FILE)
    old.executescript(SCHEMA)
    row = "INSERT INTO records (id, kind, name, removed, at, view) VALUES (?, 'service', 'n', 1, 1e12, ?)"
    old.execute(row, ("r1", view(1, "a")))
    old.commit()
    journal = await opened(tmp_path)
    old.execute(row, ("r2", view(2, "a")))
    old.commit()
    assert await pages(journal, None) == [["r2", "r1"]]
    await journal.append([], [record("r1", removed=True, view=view(1, "a", 10))])
    assert await pages(journal, None) == [["r2", "r1"]]
    old.execute("DELETE FROM records WHERE id = 'r2'")
    old.commit()
    assert await pages(journal, None) == [["r1"]]
    assert old.execute("SELECT id FROM removed_runs").fetchall() == [("r1",)]
    await journal.close()
    old.close()


@unit
async def test_a_table_without_exit_codes_is_made_again(tmp_path: Path) -> None:
    """As the version before it made it: its rows get theirs, and what is written later too."""
    ended = view(1, "a").replace(b"{", b'{"exit_code":3,', 1)
    journal = await opened(tmp_path)
    await journal.append([], [record("r1", removed=True, view=ended)])
    await journal.close()
    old = sqlite3.connect(tmp_path / FILE)
    old.executescript(
        "DROP INDEX removed_runs_by_owner; ALTER TABLE removed_runs DROP COLUMN exit_code; DROP TRIGGER"
        " removed_run_added; CREATE TRIGGER removed_run_added AFTER INSERT ON records BEGIN SELECT 1; END;"
    )
    old.close()
    journal = await opened(tmp_path)
    await journal.append([], [record("r2", removed=True, view=ended.replace(b":01Z", b":02Z"))])
    assert await pages(journal, None) == [["r2", "r1"]]
    await journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        assert db.execute("SELECT count(exit_code) FROM removed_runs").fetchall() == [(2,)]


@unit
async def test_a_page_of_events_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large ones there are fewer on it, but one at least."""
    monkeypatch.setattr(rows, "EVENTS_BYTES", 100)
    journal = await opened(tmp_path)
    await journal.append([NewEvent("t", b"x" * size) for size in (60, 60, 60, 200)], [])
    assert [stored.seq for stored in await events(journal, 0)] == [1, 2]
    assert [stored.seq for stored in await events(journal, 3)] == [4]
    await journal.close()


@unit
async def test_what_is_open_is_kept_for_the_next_start(tmp_path: Path) -> None:
    """Intents until they are settled, containers that are being stopped until they are removed."""
    journal = await opened(tmp_path)
    for nonce in ("x", "y", "z"):
        await journal.intend(Intent(f"name-{nonce}", nonce, "service", keyed=nonce == "z"))
    await journal.settle("x")
    await journal.append([event(1)], [], settled=["y"])
    await journal.end("c1", "stopped")
    await journal.end("c2", "timeout")
    await journal.end("c3", "timeout")
    await journal.end("c3", "stopped")
    await journal.append([], [record("c1", removed=True)])
    await journal.close()
    journal = await opened(tmp_path)
    assert journal.leftovers == [Intent("name-z", "z", "service", keyed=True)]
    assert await journal.endings() == {"c2": "timeout", "c3": "stopped"}
    await journal.close()


@unit
async def test_events_are_kept_by_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go; the position says which is the first that is left."""
    monkeypatch.setattr(journals, "PRUNE_EVERY", 10)
    journal = await opened(tmp_path, keep_facts=25)
    for number in range(60):
        await journal.append([event(number)], [])
    await settled(journal)
    assert journal.position.last == 60
    assert 60 - 25 - 10 <= journal.position.oldest <= 60 - 25 + 1
    oldest = journal.position.oldest
    assert (await events(journal, oldest - 1))[0].seq == oldest
    assert await journal.events(oldest - 2, 1) is None
    await journal.close()
    journal = await opened(tmp_path, keep_facts=25)
    assert journal.position[1:] == (36, 60)  # pruned as it opens, too
    await journal.close()


@unit
async def test_events_and_records_are_kept_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed goes after so many days, what is there stays; the last event is always kept."""
    monkeypatch.setattr(journals, "PRUNE_EVERY", 5)
    journal = await opened(tmp_path, keep_days=30)
    await journal.append([event(n) for n in range(3)], [record("gone", removed=True), record("there", "two")])
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE facts SET at = at - 31 * 86400")
        connection.execute("UPDATE records SET at = at - 31 * 86400")
    connection.close()
    await journal.append([event(n) for n in range(3)], [])
    await settled(journal)
    assert journal.position[1:] == (4, 6)
    assert (await journal.record("gone"), await journal.record("there")) == (None, b"{}")
    await journal.close()


@unit
async def test_where_the_journal_was_at_a_time(tmp_path: Path) -> None:
    """The last event before it, whether events between were deleted or not; 0 where none is kept."""
    journal = await opened(tmp_path)
    assert (await journal.last_before(5), await journal.newest()) == (0, None)
    await journal.append([event(n) for n in range(1, 21)], [])
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("UPDATE facts SET at = seq")
        connection.execute("DELETE FROM facts WHERE seq < 4 OR seq IN (8, 9, 10, 15, 19)")
    connection.close()
    kept = [4, 5, 6, 7, 11, 12, 13, 14, 16, 17, 18, 20]
    for moment in range(25):
        found = await journal.last_before(moment + 0.5)
        assert [each for each in kept if each <= found] == [each for each in kept if each <= moment], moment
        assert (found == 0) == (moment < 4)
    assert await journal.newest() == event(20).json
    await journal.close()


async def settled(journal: Journal) -> None:
    """Until it prunes no more."""
    while journal._pruning is not None:
        await journal._pruning


# --- epochs -----------------------------------------------------------------------------------------------------------


async def crashed(folder: Path) -> str:
    """A journal with two events, a record and an intent that was not closed; its epoch."""
    journal = await opened(folder)
    await journal.append([event(1), event(2)], [record("a")])
    await journal.intend(Intent("name", "x", "service"))
    assert journal._lock is not None
    os.close(journal._lock)  # as the end of the process does
    return journal.position.epoch


@unit
async def test_a_crash_of_the_process_loses_nothing(tmp_path: Path) -> None:
    """The same epoch goes on."""
    epoch = await crashed(tmp_path)
    journal = await opened(tmp_path)
    assert journal.position == (epoch, 1, 2)
    assert len(journal.leftovers) == 1
    await journal.close()


@unit
async def test_a_crash_of_the_machine_begins_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tail may be lost: the events go, the records stay. A clean end before another boot is none."""
    epoch = await crashed(tmp_path)
    boot = tmp_path / "boot"
    boot.write_text("another")
    monkeypatch.setattr("qmaster.events.epoch.BOOT_ID", boot)
    journal = await opened(tmp_path)
    assert journal.position.epoch != epoch
    assert journal.position[1:] == (1, 0)
    assert [each.id for each in await journal.records()] == ["a"]
    await journal.append([event(1)], [])
    second = journal.position.epoch
    await journal.close()
    boot.write_text("a third")
    journal = await opened(tmp_path)
    assert journal.position == (second, 1, 1)
    await journal.close()


@unit
async def test_a_restored_file_begins_an_epoch(tmp_path: Path) -> None:
    """A copy, though it was closed cleanly: what came after it was made is not in it."""
    journal = await opened(tmp_path / "one")
    await journal.append([event(1)], [])
    epoch = journal.position.epoch
    await journal.close()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    journal = await opened(tmp_path / "two")
    assert journal.position.epoch != epoch
    await journal.close()


@unit
async def test_a_file_put_back_in_place_begins_an_epoch(tmp_path: Path) -> None:
    """Into the same inode, as `cp backup journal.db` does."""
    journal = await opened(tmp_path)
    await journal.append([event(1)], [])
    epoch = journal.position.epoch
    await journal.close()
    backup = (tmp_path / FILE).read_bytes()
    journal = await opened(tmp_path)
    await journal.append([event(2)], [])
    await journal.close()
    (tmp_path / FILE).write_bytes(backup)
    journal = await opened(tmp_path)
    assert journal.position.epoch != epoch
    await journal.close()


# --- what can be wrong with the file ----------------------------------------------------------------------------------


@unit
async def test_a_locked_file_is_waited_for_and_then_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program's lock: nothing is written, and it goes on when the lock is gone."""
    monkeypatch.setattr(journals, "BUSY_TIMEOUT", 0.1)
    journal = await opened(tmp_path)
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalUnwritable, match="locked"):
        await journal.append([event(1)], [])
    assert (journal.position.last, await events(journal, 0, 10)) == (0, [])
    await journal.recheck()
    assert journal.trouble
    other.execute("COMMIT")
    other.close()
    await journal.recheck()
    assert not journal.trouble
    await journal.append([event(1)], [])
    assert journal.position.last == 1
    assert not journal.trouble
    await journal.close()


@unit
async def test_a_torn_file_is_said_until_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call says so; when somebody moves it away, a new one is made."""
    monkeypatch.setattr(journals, "REOPEN_EVERY", 0.0)
    journal = await opened(tmp_path)
    await journal.append([event(1)], [])
    await journal.close()
    (tmp_path / FILE).write_bytes(b"SQLite format 3\0" + b"torn" * 2000)
    journal = await opened(tmp_path)
    for call in (journal.append([event(1)], []), journal.records(), journal.intend(Intent("name", "x", "service"))):
        with pytest.raises(JournalUnwritable):
            await call
    (tmp_path / FILE).rename(tmp_path / "torn")
    await journal.append([event(1)], [])
    assert journal.position.last == 1
    await journal.close()


@unit
@pytest.mark.parametrize("put_back", [False, True])
async def test_a_file_that_is_deleted_or_replaced_takes_no_more(tmp_path: Path, put_back: bool) -> None:
    """What is written then would be lost with the process; the next one begins anew."""
    journal = await opened(tmp_path)
    await journal.append([event(1)], [])
    epoch = journal.position.epoch
    if put_back:
        shutil.copy(tmp_path / FILE, tmp_path / "copy")
        (tmp_path / "copy").replace(tmp_path / FILE)
    else:
        (tmp_path / FILE).unlink()
    for call in (journal.append([event(2)], []), journal.intend(Intent("name", "x", "service"))):
        with pytest.raises(JournalUnwritable, match="deleted or replaced"):
            await call
    assert journal.position.last == 1
    await journal.close()
    journal = await opened(tmp_path)
    assert journal.position.epoch != epoch
    await journal.append([event(1)], [])
    await journal.close()


@unit
async def test_a_folder_that_cannot_be_made_is_said_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stands in its place."""
    monkeypatch.setattr(journals, "REOPEN_EVERY", 0.0)
    (tmp_path / "data").write_text("in the way")
    journal = await opened(tmp_path / "data")
    assert journal.trouble
    with pytest.raises(JournalUnwritable):
        await journal.append([event(1)], [])
    (tmp_path / "data").unlink()
    await journal.append([event(1)], [])
    await journal.close()


VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (seq INTEGER PRIMARY KEY, at REAL NOT NULL, type TEXT NOT NULL, event BLOB NOT NULL);
CREATE TABLE records (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, removed INTEGER NOT NULL, at REAL NOT NULL,
    view BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX records_by_name ON records (name, at);
CREATE TABLE intents (
    name TEXT NOT NULL, nonce TEXT PRIMARY KEY, type TEXT NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE endings (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
INSERT INTO records VALUES ('s1', 'service', 'one', 0, 1e12, x'7b7d');
INSERT INTO intents VALUES ('two', 'n2', 'service', 1e12);
INSERT INTO endings VALUES ('c1', 1e12);
PRAGMA user_version = 1;
"""


@unit
async def test_views_of_functions_are_compressed_when_they_are_read(tmp_path: Path) -> None:
    """All of them wait in memory for the listing of the functions; the others are as they were written."""
    journal = await opened(tmp_path)
    view = b'{"name":"f"}'
    await journal.append([], [Record("f", "function", "f", False, view), Record("s", "service", "s", False, view)])
    read = {each.id: each.view for each in await journal.records()}
    assert read["s"] == zlib.decompress(read["f"]) == view
    await journal.close()


@unit
async def test_an_older_file_is_taken_over(tmp_path: Path) -> None:
    """What it has stays, in a new epoch where it did not come with its mark; what is new can be kept."""
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript(VERSION_1)
    connection.close()
    journal = await opened(tmp_path)
    assert await journal.records() == [Record("s1", "service", "one", False, b"{}", "")]
    await journal.keep_outcome("s1", b"said")
    await journal.intend(Intent("three", "n3", "service", keyed=True))
    assert await journal.outcome("s1") == b"said"
    await journal.close()
    assert await schema(tmp_path) == await schema(await new(tmp_path / "new"))


async def new(folder: Path) -> Path:
    await (await opened(folder)).close()
    return folder


async def schema(folder: Path) -> dict[str, list[Any]]:
    """The columns of each table, by name."""
    connection = sqlite3.connect(folder / FILE)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    columns = {table: sorted(row[1:5] for row in connection.execute(f"PRAGMA table_info({table})")) for table in tables}
    connection.close()
    return columns


@unit
async def test_an_outcome_outlives_the_run(tmp_path: Path) -> None:
    """It is replaced by a later one, and goes with the record."""
    journal = await opened(tmp_path)
    await journal.keep_outcome("a", b"first")
    await journal.keep_outcome("a", b"second")
    await journal.append([], [record("a", removed=True)])
    await journal.close()
    journal = await opened(tmp_path)
    assert (await journal.outcome("a"), await journal.outcome("b")) == (b"second", None)
    await journal.close()
    age(tmp_path)
    journal = await opened(tmp_path, keep_days=1)
    assert (await journal.record("a"), await journal.outcome("a")) == (None, None)
    await journal.close()


@unit
async def test_the_outcome_of_what_is_there_is_kept_however_old(tmp_path: Path) -> None:
    """Only what is removed grows too old."""
    journal = await opened(tmp_path)
    await journal.append([], [record("a")])
    await journal.keep_outcome("a", b"said")
    await journal.close()
    age(tmp_path)
    journal = await opened(tmp_path, keep_days=1)
    assert await journal.outcome("a") == b"said"
    await journal.close()


def age(folder: Path) -> None:
    """Two days pass."""
    connection = sqlite3.connect(folder / FILE)
    for table in ("records", "outcomes"):
        connection.execute(f"UPDATE {table} SET at = at - 2 * 86400")  # noqa: S608 - names of ours
    connection.commit()
    connection.close()


@unit
async def test_a_key_is_found_by_its_runs_name(tmp_path: Path) -> None:
    """Also when the run is gone; what has no key has an empty digest."""
    journal = await opened(tmp_path)
    await journal.append([], [record("a", "qm-1", removed=True)._replace(body="digest"), record("b", "two")])
    assert await journal.keyed("qm-1") == (record("a", "qm-1").view, "digest")
    assert await journal.keyed("two") == (record("b", "two").view, "")
    assert await journal.keyed("three") is None
    await journal.close()


@unit
async def test_of_several_runs_of_one_key_the_last_that_is_there_is_found(tmp_path: Path) -> None:
    """One that is gone does not hide it, however late that was told; a node of that name is none."""
    journal = await opened(tmp_path)
    for one in (record("a", "qm-1", True, b"a"), record("b", "qm-1", True, b"b")):
        await journal.append([], [one])
    assert await journal.keyed("qm-1") == (b"b", "")
    await journal.append([], [record("c", "qm-1", False, b"c")])
    await journal.append([], [record("b", "qm-1", True, b"b"), record("n", "qm-1")._replace(kind="node")])
    assert await journal.keyed("qm-1") == (b"c", "")
    await journal.close()


@unit
async def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """Nothing in it is touched."""
    journal = await opened(tmp_path)
    await journal.close()
    make_newer(tmp_path)
    with pytest.raises(ConfigError, match="newer quartermaster"):
        await opened(tmp_path)


@unit
async def test_a_folder_is_one_processs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second would number its events alike."""
    monkeypatch.setattr(journals, "LOCK_WITHIN", 0.1)
    journal = await opened(tmp_path)
    with pytest.raises(ConfigError, match="another quartermaster"):
        await opened(tmp_path)
    await journal.close()
    await (await opened(tmp_path)).close()


def make_newer(folder: Path) -> None:
    connection = sqlite3.connect(folder / FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


# --- a server with such a file ----------------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_server_refuses_a_newer_file_in_one_line(bed: Bed) -> None:
    """And ends with 2."""
    server = bed.server("unix:///nowhere")
    data = server.folder / "data"
    data.mkdir()
    make_newer(data)
    done = subprocess.run(
        [sys.executable, "-m", "qmaster"], env=server.env, cwd=server.folder, capture_output=True, timeout=20
    )
    assert done.returncode == 2
    (line,) = done.stderr.decode().strip().splitlines()
    assert "newer quartermaster" in line


@pytest.fixture
def small_disk(bed: Bed) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = bed.root / "small-disk"
    folder.mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder))
    yield folder
    command("umount", "--lazy", str(folder))
    folder.rmdir()


def fill(disk: Path) -> Path:
    """Leave not a byte on it."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            for _ in range(4096):
                file.write(b"x" * 1024)
        except OSError:
            pass
    return path


def test_a_full_disk(start_server: StartServer, small_disk: Path, engine: Engine) -> None:
    """/run answers 507 and starts nothing; reads, /stop and sockets go on, and with room again so does the rest."""
    server = start_server(engine.host, "--data-dir", str(small_disk / "data"))
    eventually(lambda: server.call("GET", "/readyz").status == 200, 10)
    fields: Json = {"image": "busybox:local", "memory": 16}
    ends, stopped = (server.run(**fields, command=command)["id"] for command in ("sleep 3", "nap"))
    with Subscriber(server) as subscriber:
        eventually(lambda: {server.status(each)["status"] for each in (ends, stopped)} == {"running"}, 10)
        filler = fill(small_disk)
        client: Any = engine.client()
        refused = server.run(**fields, command="nap")
        assert refused.status == 507, refused.text
        assert len(client.services()) == 2
        assert subscriber.until(heartbeat(stale=True), 15)["stale_since"]
        assert server.call("GET", "/livez").status == 200
        assert server.call("GET", "/readyz").status == 503
        assert server.status(ends)["status"] in ("running", "complete")
        assert len(server.call("GET", "/status")["services"]) == 2
        assert server.stop_service(stopped).status == 200
        told = len(subscriber.events)
        time.sleep(0.5)
        assert len(subscriber.events) == told  # nothing is told that the journal does not have
        filler.unlink()
        ended = {ends: "complete", stopped: "removed"}
        for service, status in ended.items():
            word = f"io.qmaster.service.{status}"
            eventually(lambda s=service, w=word: (w, s) in [(e["type"], e["subject"]) for e in subscriber.events], 20)  # type: ignore[misc]
        subscriber.until(heartbeat(stale=False), 10)
        assert server.run(**fields, command="true").status == 200
        assert subscriber.close_code is None
        numbers = [int(event["id"].partition(":")[2]) for event in subscriber.events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert "journal_unwritable" in server.logs()
    assert "journal_writable_again" in server.logs()
    server.terminate()


# --- who may read it --------------------------------------------------------------------------------------------------


def _open_to_all(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.is_file()}


@unit
@pytest.mark.parametrize("umask", [0o022, 0o000])
async def test_the_owner_alone_reads_the_files(tmp_path: Path, umask: int) -> None:
    """Whatever the umask is, in a folder that was there and is open, and also where they were there and open."""
    before = os.umask(umask)
    try:
        for _ in range(2):
            _open_to_all(tmp_path)
            made = await opened(tmp_path)
            await made.append([event(1)], [])
            modes = _modes(tmp_path)
            assert set(modes) == {"journal.db", "journal.db-wal", "journal.db-shm", "journal.lock", "journal.mark"}
            assert set(modes.values()) == {0o600}
            await made.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mode", "warned"), [(0o755, True), (0o701, True), (0o770, False), (0o700, False)])
def test_a_folder_that_is_open_to_others_is_a_warning(tmp_path: Path, mode: int, warned: bool) -> None:
    """With the mode, and what to do."""
    tmp_path.chmod(mode)
    config = types.SimpleNamespace(data_dir=str(tmp_path), tls_cert="x", token="x" * 64, ttl=1)
    with capture_logs() as lines:
        server._warn(cast(Any, config), [])
    assert [line["event"] for line in lines] == ["data_dir_open_to_others"] * warned
    assert [line["mode"] for line in lines] == [f"{mode:04o}"] * warned


async def _full(folder: Path, runs: int) -> Journal:
    """A file with many runs and events of one owner, all under one name, and one of another's before them."""
    journal = Journal(folder, 100_000, 30)
    await journal.open()
    told = [record("mine", "x", True, view(1, "bob"))._replace(owner="bob")]
    await journal.append([event(1, "bob")], told)
    told = [record(f"r{n}", "x", True, view(2, "eve"))._replace(owner="eve") for n in range(runs)]
    await journal.append([event(n, "eve") for n in range(runs)], told)
    await settled(journal)
    return journal


async def _steps(journal: Journal, work: Callable[[], Awaitable[object]]) -> int:
    """How many hundreds of SQLite's instructions some work takes."""
    steps: list[None] = []
    journal._opened().set_progress_handler(lambda: steps.append(None), 100)
    await work()
    journal._opened().set_progress_handler(None, 0)
    return len(steps)


@unit
async def test_what_others_have_is_not_read_through(tmp_path: Path) -> None:
    """Events of one owner, and a name that was given to thousands of runs: others wait for each such look."""
    journal = await _full(tmp_path, 3000)
    for look in (
        lambda: journal.events(0, 200, "bob"),
        lambda: journal.events(0, 200, "nobody"),
        lambda: journal.record("x", "eve"),
        lambda: journal.record("x"),
    ):
        assert await _steps(journal, look) < 20  # over 200, were they read through
    assert await journal.record("x", "bob") == view(1, "bob")
    assert await journal.record("mine", "eve") is None
    await journal.close()


@unit
async def test_pruning_reads_indexes_alone(tmp_path: Path) -> None:
    """It looks up no record that stays: the writer, for which everybody waits, would be held up for seconds."""
    journal = await _full(tmp_path, 10)
    asked: list[str] = []
    db = journal._opened()
    db.set_trace_callback(asked.append)
    journal._drop_old()
    retention.deletable(db)
    db.set_trace_callback(None)
    plans = [
        line[3]
        for one in asked
        if one.startswith(("SELECT", "DELETE", "INSERT"))
        for line in db.execute(f"EXPLAIN QUERY PLAN {one}")
    ]
    scans = [line for line in plans if line.startswith("SCAN") and "removed" in line]
    assert len(scans) == 2
    assert all("COVERING" in line for line in scans)
    await journal.close()
