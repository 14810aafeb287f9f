"""retention: the journal's file stays within its bound, and one owner's flood costs nobody else their history."""

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from qmaster.events import journal as journals
from qmaster.events import retention
from qmaster.events.broker import Broker, Filter, Subscriber
from qmaster.events.epoch import boot_id
from qmaster.events.journal import FILE, Journal
from qmaster.events.rows import NewEvent, Record
from qmaster.events.stream import EventStream, Since

unit = pytest.mark.gen_test(timeout=60)
MIB = 1024 * 1024
Json = dict[str, Any]


def event(owner: str, size: int = 100, kind: str = "service.updated", **labels: str) -> NewEvent:
    data = {"owner": owner or None, "pad": "x" * size, **({"labels": labels} if labels else {})}
    document = json.dumps({"subject": f"s-{owner}", "data": data}).encode()
    return NewEvent(f"io.qmaster.{kind}", document, owner, f"s-{owner}")


def record(run_id: str, owner: str, removed: bool, size: int = 100, **labels: str) -> Record:
    view = json.dumps({"owner": owner, "labels": labels, "pad": "x" * size}).encode()
    return Record(run_id, "service", run_id, removed, view, "", owner)


async def opened(folder: Path, keep_facts: int = 100_000, keep_size: int = 16) -> Journal:
    journal = Journal(folder, keep_facts, 30, keep_size)
    await journal.open()
    return journal


async def settled(journal: Journal) -> None:
    while journal._pruning is not None:
        await journal._pruning


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{FILE}*"))


async def sequences(journal: Journal, owner: str) -> list[int]:
    found = await journal.events(journal.kept_from(owner) - 1, 1_000_000, owner)
    assert found is not None
    return [one.seq for one in found]


class Pipe:
    sent = 0

    def __init__(self) -> None:
        self.frames: list[Json] = []

    def write(self, data: bytes) -> None:
        self.frames += [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: ")]


async def resumed(journal: Journal, since: int, wants: Filter) -> list[str]:
    """What a subscriber of this filter gets after hello, who comes back with this sequence."""
    event_stream = EventStream(journal, Broker(), lambda: journal.position, lambda wants: ([], []), lambda: None)
    pipe = Pipe()
    await event_stream.bring_up(Subscriber(pipe, "sse", wants, lambda: None), Since(journal.position.epoch, since))
    return [frame.get("type", "event") for frame in pipe.frames[1:]]


@pytest.mark.parametrize(
    ("held", "limit", "each"),
    [((), 10, 10), ((4, 5), 10, 10), ((100, 3), 10, 7), ((100, 100), 10, 5), ((9, 9, 1), 9, 4), ((5, 5), 0, 0)],
)
def test_whoever_has_most_gives_first(held: tuple[int, ...], limit: int, each: int) -> None:
    """The share is what nobody may exceed; whoever has less gives nothing."""
    assert retention.share(held, limit) == each
    assert sum(min(one, each) for one in held) <= limit


@pytest.mark.slow
@unit
async def test_a_flood_costs_only_who_floods(tmp_path: Path) -> None:
    """Ten minutes of 240 events a second by one owner: another's cursor from before resumes, and misses nothing.

    The flooding one, and the root token, who would have seen what is gone, are told of a gap.
    """
    journal = await opened(tmp_path, keep_facts=10_000, keep_size=1024)
    await journal.append([event("alice") for _ in range(5)], [])
    for _ in range(600):
        await journal.append([event("mallory", 10) for _ in range(240)], [])
        await journal.append([event("alice")] if journal.position.last % 50_000 < 241 else [], [])
    await settled(journal)
    kept = await sequences(journal, "alice")
    assert kept[:5] == [1, 2, 3, 4, 5]
    assert len(kept) >= 6
    assert await resumed(journal, 2, Filter(owner="alice")) == ["event"] * (len(kept) - 2)
    assert await resumed(journal, 2, Filter(owner="bob")) == []  # whoever wrote nothing has lost nothing
    assert await resumed(journal, 2, Filter(owner="mallory")) == ["gap", "snapshot"]
    assert await resumed(journal, 2, Filter()) == ["gap", "snapshot"]
    last = journal.position.last
    assert await resumed(journal, last - 100, Filter()) == ["event"] * 100
    assert (await journal.size()).events <= 10_000 + journals.PRUNE_EVERY + 240
    await journal.close()


@unit
async def test_what_was_lost_is_known_after_a_restart(tmp_path: Path) -> None:
    """A cursor that was expired before is expired after, and another owner's resumes still."""
    journal = await opened(tmp_path, keep_facts=1000)
    await journal.append([event("alice"), *(event("mallory") for _ in range(3000))], [])
    await settled(journal)
    await journal.close()
    journal = await opened(tmp_path, keep_facts=1000)
    assert await resumed(journal, 0, Filter(owner="alice")) == ["event"]
    assert await resumed(journal, 0, Filter(owner="mallory")) == ["gap", "snapshot"]
    assert journal.position.oldest == journal.kept_from(None) == journal.kept_from("mallory") == 2003
    await journal.close()


@unit
async def test_foreign_services_are_one_owner(tmp_path: Path) -> None:
    """What others do in the swarm expires no token's cursor."""
    journal = await opened(tmp_path, keep_facts=1000)
    await journal.append([event("alice"), *(event("") for _ in range(3000))], [])
    await settled(journal)
    assert await sequences(journal, "alice") == [1]
    assert await resumed(journal, 0, Filter()) == ["gap", "snapshot"]
    await journal.close()


@pytest.mark.slow
@unit
async def test_the_file_stays_within_its_size(tmp_path: Path) -> None:
    """150 MB of events, records and outcomes of one owner: at no moment is it over; another keeps all, and so do runs
    that are still there."""
    journal = await opened(tmp_path, keep_size=16)
    await journal.append(
        [event("alice", 10_000)], [record("a", "alice", True), record("live", "mallory", False, 50_000)]
    )
    await journal.keep_outcome("a", b"said")
    await journal.keep_outcome("live", b"y" * 100_000)
    most = 0
    for number in range(500):
        run = f"run-{number}"
        await journal.append([event("mallory", 60_000) for _ in range(3)], [record(run, "mallory", True, 60_000)])
        await journal.keep_outcome(run, b"z" * 60_000)
        most = max(most, on_disk(tmp_path))
    await settled(journal)
    assert most <= 16 * MIB
    assert len(await sequences(journal, "alice")) == 1
    assert (await journal.record("a"), await journal.outcome("a")) != (None, None)
    assert await journal.outcome("live") == b"y" * 100_000
    assert [one.id for one in await journal.records()] == ["live"]
    assert await journal.record("run-0") is None
    assert await journal.outcome("run-0") is None
    assert await journal.record("run-499") is not None
    assert await resumed(journal, 0, Filter(owner="mallory")) == ["gap", "snapshot"]
    assert await resumed(journal, 0, Filter(owner="alice")) == ["event"]
    await journal.close()
    assert on_disk(tmp_path) <= 16 * MIB


@unit
async def test_the_numbers_go_on_when_all_is_deleted(tmp_path: Path) -> None:
    """The last event always stays: the next is numbered from it, also after a restart."""
    journal = await opened(tmp_path)
    await journal.append([event("mallory", 15 * MIB)], [])
    await settled(journal)
    await journal.append([event("mallory", 15 * MIB)], [])
    await settled(journal)
    epoch = journal.position.epoch
    await journal.close()
    journal = await opened(tmp_path)
    assert (journal.position.epoch, journal.position.last) == (epoch, 2)
    await journal.close()


@pytest.mark.slow
@unit
async def test_a_smaller_size_is_reached_after_a_restart(tmp_path: Path) -> None:
    """The pages that are free go back to the disk."""
    journal = await opened(tmp_path, keep_size=256)
    for _ in range(20):
        await journal.append([event("mallory", 60_000) for _ in range(50)], [])
    await journal.close()
    assert on_disk(tmp_path) > 50 * MIB
    journal = await opened(tmp_path, keep_size=16)
    await settled(journal)
    await journal.close()
    assert on_disk(tmp_path) <= 16 * MIB


VERSION_2 = """
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


def version_2(folder: Path, last: int, size: int) -> None:
    """A file of the schema before events had owners, which was well closed; its first nine events were pruned."""
    connection = sqlite3.connect(folder / FILE)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(VERSION_2)
    inode = str((folder / FILE).stat().st_ino)
    meta = {"epoch": "0a0b0c0d", "boot": boot_id(), "inode": inode, "clean": "1"}
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    now = time.time()
    events = [event("alice" if n % 2 else "mallory", size, of="x") for n in range(10, last + 1)]
    connection.executemany(
        "INSERT INTO facts VALUES (?, ?, ?, ?)", [(n, now, one.type, one.json) for n, one in enumerate(events, 10)]
    )
    view = record("r1", "alice", True).view
    connection.execute("INSERT INTO records VALUES ('r1', 'service', 'one', 1, ?, ?, '')", (now, view))
    connection.execute("INSERT INTO outcomes VALUES ('r1', ?, x'00')", (now,))
    connection.commit()
    connection.close()
    (folder / "journal.mark").write_text(f"0a0b0c0d {last:020d}\n")


@unit
async def test_a_file_without_owners_is_taken_over(tmp_path: Path) -> None:
    """In its epoch, with all it has; what was pruned before may have been anyone's."""
    version_2(tmp_path, last=100, size=100)
    journal = await opened(tmp_path)
    assert journal.position == ("0a0b0c0d", 10, 100)
    assert await sequences(journal, "alice") == list(range(11, 101, 2))
    assert await resumed(journal, 9, Filter(labels=frozenset({"of=x"}))) == ["event"] * 91
    assert await resumed(journal, 8, Filter(owner="alice")) == ["gap", "snapshot"]
    await journal.close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT owner, size FROM records").fetchall() == [
            ("alice", len(record("r1", "alice", True).view))
        ]
        assert connection.execute("SELECT owner, size FROM outcomes").fetchall() == [("alice", 1)]


@pytest.mark.slow
@unit
async def test_a_large_file_without_owners_is_brought_to_its_size(tmp_path: Path) -> None:
    """It shrinks, although a file of that schema could not."""
    version_2(tmp_path, last=600, size=60_000)
    assert on_disk(tmp_path) > 30 * MIB
    journal = await opened(tmp_path)
    await settled(journal)
    assert on_disk(tmp_path) <= 16 * MIB
    assert await resumed(journal, 595, Filter()) == ["event"] * 5
    await journal.close()


@unit
async def test_a_reader_that_its_own_flood_overtakes_is_told(tmp_path: Path) -> None:
    """What is pruned while it reads is a gap, not a hole; another owner's replay is whole."""
    journal = await opened(tmp_path, keep_facts=1000)
    await journal.append([event("mallory") for _ in range(900)], [])
    await journal.append([event("alice") for _ in range(10)], [])
    pages = {}
    for owner in ("alice", "mallory"):
        pages[owner] = await journal.events(0, 10, owner)
    await journal.append([event("mallory") for _ in range(2000)], [])
    await settled(journal)
    assert await journal.events(10, 10, "mallory") is None
    assert await journal.events(0, 10, "alice") == pages["alice"]
    await journal.close()


@unit
async def test_tasks_are_found_by_the_labels_of_their_service(tmp_path: Path) -> None:
    """Their own events do not carry them; what no record knows any more is sent rather than lost."""
    journal = await opened(tmp_path)
    await journal.append(
        [event("alice", kind="task.running"), event("bob", kind="task.running"), event("carol", kind="task.running")],
        [record("s-alice", "alice", False, of="x"), record("s-bob", "bob", False, of="y")],
    )
    for owner, seen in (("alice", 1), ("bob", 0), ("carol", 1)):
        wants = Filter(owner=owner, labels=frozenset({"of=x"}))
        assert await resumed(journal, 0, wants) == ["event"] * seen
    await journal.close()


@pytest.mark.slow
@unit
async def test_pruning_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """While a large part is deleted, what is written waits for a part of it at most."""
    version_2(tmp_path, last=800, size=60_000)
    journal = await opened(tmp_path)
    waits = []
    while journal._pruning is not None:
        began = time.monotonic()
        await journal.append([event("alice")], [])
        waits.append(time.monotonic() - began)
        await asyncio.sleep(0)
    assert len(waits) > 5
    await journal.close()


@pytest.mark.slow
@unit
async def test_closing_does_not_wait_for_pruning(tmp_path: Path) -> None:
    """What is left of it is done after the next start."""
    version_2(tmp_path, last=800, size=60_000)
    journal = await opened(tmp_path)
    await journal.close()
    assert on_disk(tmp_path) > 30 * MIB
    journal = await opened(tmp_path)
    assert journal.position.last == 800
    await settled(journal)
    assert on_disk(tmp_path) <= 16 * MIB
    await journal.close()


@unit
async def test_few_ended_instances_of_a_function_are_kept(tmp_path: Path) -> None:
    """The newest of each function, with their output; runs, and instances that are there, stay all."""

    def instance(number: int, function: str, removed: bool = True) -> Record:
        view = json.dumps({"owner": "root", "function": {"name": function, "version": 1}}).encode()
        return Record(f"{function}-{number:02}", "service", f"{function}-{number}", removed, view, "", "root")

    journal = await opened(tmp_path)
    for number in range(retention.INSTANCES_KEPT + 3):
        await journal.append([event("root")], [instance(number, "a"), record(f"run-{number:02}", "root", True)])
        await journal.keep_outcome(f"a-{number:02}", b"output")
    await journal.append([event("root")], [instance(1, "b"), *(instance(each, "c", False) for each in range(20))])
    await journal.close()
    journal = await opened(tmp_path)  # which prunes
    kept = [number for number in range(13) if await journal.record(f"a-{number:02}") is not None]
    assert kept == list(range(3, 13))
    assert [number for number in range(13) if await journal.outcome(f"a-{number:02}") is not None] == kept
    assert await journal.record("b-01") is not None
    assert len(await journal.records()) == 20
    assert None not in [await journal.record(f"run-{number:02}") for number in range(13)]
    await journal.close()


async def put_invocations(journal: Journal, owner: str, count: int, *, ended: float | None, size: int = 1000) -> None:
    """Asynchronous invocations that are over since then, or that wait."""
    status = "queued" if ended is None else "dead"
    query = (
        "INSERT INTO invocations (id, function, qualifier, number, owner, status, created, due, until, max_age, ended,"
        " size, payload) VALUES (?, 'f', 0, 1, ?, ?, 0, 0, 0, 0, ?, ?, ?)"
    )
    rows = [(f"{owner}-{status}-{ended}-{n}", owner, status, ended, size, b"x" * size) for n in range(count)]
    await journal.write(lambda db: db.executemany(query, rows), size=count * size)


async def invocations(journal: Journal) -> dict[tuple[str, str], int]:
    query = "SELECT owner, status, count(*) FROM invocations GROUP BY owner, status"
    rows = await journal.read(lambda db: db.execute(query).fetchall())
    return {(owner, status): count for owner, status, count in rows}


@unit
async def test_invocations_are_kept_for_keep_days_from_their_end(tmp_path: Path) -> None:
    """Those that wait stay, however old they are."""
    journal = await opened(tmp_path)
    now = time.time()
    await put_invocations(journal, "alice", 3, ended=now - 31 * 86_400)
    await put_invocations(journal, "alice", 2, ended=now)
    await put_invocations(journal, "alice", 4, ended=None)
    await journal.close()
    journal = await opened(tmp_path)
    assert await invocations(journal) == {("alice", "dead"): 2, ("alice", "queued"): 4}
    await journal.close()


@unit
async def test_the_owner_with_most_loses_its_oldest_invocations_first(tmp_path: Path) -> None:
    """And never one that waits."""
    journal, now = await opened(tmp_path), time.time()
    await put_invocations(journal, "bob", 10, ended=now - 500)
    await put_invocations(journal, "alice", 100, ended=None, size=20_000)
    for n in range(20):
        await put_invocations(journal, "alice", 50, ended=now - 200 + n, size=20_000)
        await settled(journal)
    left = await invocations(journal)
    assert left["alice", "queued"] == 100
    assert left["bob", "dead"] == 10
    assert 0 < left["alice", "dead"] < 500
    query = "SELECT min(ended), max(ended) FROM invocations WHERE owner = 'alice'"
    oldest, newest = await journal.read(lambda db: db.execute(query).fetchone())
    assert oldest > now - 200
    assert newest == now - 181
    assert on_disk(tmp_path) < 18 * MIB
    await journal.close()
