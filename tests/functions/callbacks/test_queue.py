"""callbacks.queue: each is delivered once or more, across faults and restarts; a slow receiver delays no other's."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from fakes import until
from receivers import OK, SECRET, allowed, receiving, status
from standardwebhooks import Webhook

from qmaster.events.journal import FILE, Journal
from qmaster.functions.callbacks import queue
from qmaster.functions.callbacks.queue import CallbackQueue
from qmaster.functions.callbacks.sender import Resolver, Sender
from qmaster.models.responses import CallbackView
from qmaster.runs import callbacks as rows
from qmaster.runs.callbacks import CallbackStore, Row

pytestmark = pytest.mark.gen_test

BODY = b'{"a":1}'
T = TypeVar("T")
PREFIX = "http://127.0.0.1/"
SOON = (0.01, 0.01, 0.01)


class Quartermaster:
    """One process: a journal, and a queue that sends to the receivers below these prefixes."""

    def __init__(self, folder: Path, *prefixes: str, delays: tuple[float, ...] = SOON, timeout: float = 30) -> None:
        self.journal = Journal(folder, 1000, 30)
        self.store = CallbackStore(self.journal)
        self.bodies: dict[str, bytes | str] = {}
        receivers = allowed(folder, *prefixes)
        self.queue = CallbackQueue(
            self.store, receivers, Sender(receivers, Resolver(_no_names), timeout), {"invocation": self.body}, delays
        )

    async def body(self, row: Row) -> bytes | str:
        return self.bodies.get(row.subject, BODY)

    async def ended(self, subject: str, url: str, owner: str = "root") -> None:
        """An invocation has ended, and the journal knows that it is to be told."""
        await self.journal.write(self.queue.row("invocation", subject, "completed", owner, url))
        self.queue.added(owner, url)

    async def shown(self, subject: str) -> CallbackView:
        (view,) = await self.store.views("invocation", subject)
        return view

    async def is_delivered(self, *subjects: str) -> bool:
        return all([(await self.shown(subject)).delivered_at for subject in subjects])


async def _no_names(host: str, port: int) -> list[str]:
    raise OSError


@asynccontextmanager
async def working(quartermaster: Quartermaster, start: bool = True) -> AsyncIterator[Quartermaster]:
    """A process from its start to its end."""
    await quartermaster.journal.open()
    task = asyncio.create_task(quartermaster.queue.run()) if start else None
    try:
        yield quartermaster
    finally:
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await quartermaster.queue.close()
        await quartermaster.journal.close()


async def reached(look: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    """Look until what is found is as wanted, and return it."""
    async with asyncio.timeout(50):
        while not wanted(found := await look()):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.002)
    return found


async def settled(quartermaster: Quartermaster, *subjects: str) -> list[CallbackView]:
    """Wait until nothing waits, and return what is shown of these."""
    await reached(quartermaster.store.waiting, lambda waiting: not waiting)
    return [await quartermaster.shown(subject) for subject in subjects]


def _tried(times: int, view: CallbackView) -> bool:
    return view.attempts >= times


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "AGAIN_EVERY", 0.02)


# --- delivery ---------------------------------------------------------------------------------------------------------


async def test_a_callback_is_delivered_and_shown(tmp_path: Path) -> None:
    """Signed, with an id of its own."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.ended("one", receiver.url + "hook")
        (view,) = await settled(qm, "one")
        await until(lambda: qm.queue.tries["delivered"] == 1 and qm.queue.waiting == 0)
    assert (view.url, view.attempts, view.last_error) == (receiver.url + "hook", 1, None)
    assert view.delivered_at
    Webhook(SECRET).verify(receiver.got[0].body, receiver.got[0].headers)


async def test_a_failed_try_is_made_again_under_the_same_id(tmp_path: Path) -> None:
    """And with a timestamp of its own, so that its signature is valid later too."""
    answers = status(500), status(302), b"", status(200)
    async with receiving(*answers) as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.ended("one", receiver.url)
        (view,) = await settled(qm, "one")
    assert (view.attempts, view.last_error) == (4, "the connection was closed before the answer")
    assert view.delivered_at
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    for got in receiver.got:
        Webhook(SECRET).verify(got.body, got.headers)


async def test_a_receiver_that_is_gone_is_not_asked_again(tmp_path: Path) -> None:
    """410 says that it wants no more of this."""
    async with receiving(status(410)) as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.ended("one", receiver.url)
        (view,) = await settled(qm, "one")
        assert (view.attempts, view.delivered_at, view.last_error) == (1, None, "the receiver answered 410")
        assert len(receiver.got) == 1


async def test_after_the_last_try_it_is_given_up(tmp_path: Path) -> None:
    """The schedule has so many delays, so there is one try more."""
    async with receiving(status(503)) as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.ended("one", receiver.url)
        (view,) = await settled(qm, "one")
        assert (view.attempts, view.delivered_at, view.last_error) == (4, None, "the receiver answered 503")
        await until(lambda: qm.queue.tries == {"delivered": 0, "failed": 3, "given_up": 1})
        assert len(receiver.got) == 4


async def waits(folder: Path, *answers: bytes) -> list[float]:
    """The seconds from each failed try to the next, of a receiver that answers so."""
    now, found = 1_000_000.0, []
    async with receiving(*answers) as receiver:
        qm = Quartermaster(folder, receiver.url, delays=queue.DELAYS)
        qm.store = qm.queue._store = CallbackStore(qm.journal, lambda: now)
        for lane in qm.queue._lanes.values():
            lane._store = qm.store
        async with working(qm):
            await qm.ended("one", receiver.url)
            for number in range(1, 8):
                view = await reached(lambda: qm.shown("one"), partial(_tried, number))
                rows = await qm.journal.read(lambda db: db.execute("SELECT due FROM callbacks").fetchall())
                if rows[0][0] is not None:
                    found.append(rows[0][0] - now)
                    now = rows[0][0]
                    qm.queue.wake()
    assert view.delivered_at is None
    return found


async def test_the_schedule_is_that_of_the_docs(tmp_path: Path) -> None:
    """5 s, 5 min, 30 min, 2 h, 5 h, 10 h after each failure."""
    assert await waits(tmp_path, status(500)) == [5, 300, 1800, 7200, 18_000, 36_000]


async def test_a_receiver_may_ask_for_more_time(tmp_path: Path) -> None:
    """With 429 and 503; less than the schedule's delay does not count, nor more than ten hours, nor other statuses."""
    answers = [
        status(429, "Retry-After: 60"),
        status(503, "Retry-After: 3600"),
        status(429, "Retry-After: 1"),
        status(503, "Retry-After: 999999999"),
        status(500, "Retry-After: 30000"),
        status(503, "Retry-After: soon"),
        status(429, "Retry-After: 60"),
    ]
    assert await waits(tmp_path, *answers) == [60, 3600, 1800, 36_000, 18_000, 36_000]


async def test_what_is_no_longer_known_is_given_up(tmp_path: Path) -> None:
    """An invocation that was removed from the journal before its callback was delivered."""
    async with receiving() as receiver:
        qm = Quartermaster(tmp_path, receiver.url)
        qm.bodies["one"] = queue.NOT_KEPT
        async with working(qm):
            await qm.ended("one", receiver.url)
            (view,) = await settled(qm, "one")
        assert view.last_error == queue.NOT_KEPT
        assert receiver.connections == 0


async def test_a_body_that_cannot_be_made_gives_up_only_its_own(tmp_path: Path) -> None:
    """A defect in one callback is logged, and the others are delivered."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        qm.queue._bodies = {"invocation": _broken_for("bad")}
        await qm.ended("bad", receiver.url)
        await qm.ended("good", receiver.url)
        bad, good = await settled(qm, "bad", "good")
    assert bad.last_error == "it could not be sent; the log has the reason"
    assert good.delivered_at


def _broken_for(subject: str) -> queue.Body:
    async def body(row: Row) -> bytes:
        if row.subject == subject:
            raise RuntimeError(subject)
        return BODY

    return body


async def test_a_url_that_is_no_longer_covered_is_given_up_at_once(tmp_path: Path) -> None:
    """The options may have changed since the function was published."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url + "hooks")) as qm:
        await qm.ended("one", receiver.url + "other")
        view = await qm.shown("one")
        assert (view.last_error, view.attempts) == (queue.NOT_COVERED, 0)
        assert not await qm.store.waiting()


# --- restarts and faults ----------------------------------------------------------------------------------------------


async def test_a_restart_loses_none(tmp_path: Path) -> None:
    """What waits when a process ends is delivered by the next, under the same id."""
    async with receiving(status(500), status(200)) as receiver:
        async with working(Quartermaster(tmp_path, receiver.url, delays=(600.0,))) as first:
            await first.ended("one", receiver.url)
            await reached(lambda: first.shown("one"), partial(_tried, 1))
            await first.journal.write(lambda db: db.execute("UPDATE callbacks SET due = ?", (time.time(),)))
        async with working(Quartermaster(tmp_path, receiver.url)) as second:
            (view,) = await settled(second, "one")
    assert (view.attempts, bool(view.delivered_at)) == (2, True)
    assert receiver.got[0].headers["webhook-id"] == receiver.got[1].headers["webhook-id"]


async def test_one_that_was_being_sent_is_sent_again(tmp_path: Path) -> None:
    """Nobody knows whether it has arrived, so the next process tries again."""
    held = asyncio.Event()

    async def hold(writer: asyncio.StreamWriter) -> None:
        await held.wait()

    async with receiving(hold, status(200)) as receiver:
        async with working(Quartermaster(tmp_path, receiver.url)) as first:
            await first.ended("one", receiver.url)
            await until(lambda: receiver.got)
        async with working(Quartermaster(tmp_path, receiver.url)) as second:
            (view,) = await settled(second, "one")
        held.set()
    assert (view.attempts, bool(view.delivered_at)) == (1, True)
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1


async def test_other_options_after_a_restart(tmp_path: Path) -> None:
    """What no prefix covers any more is given up; what another covers is sent."""
    async with receiving() as receiver:
        async with working(Quartermaster(tmp_path, receiver.url), start=False) as first:
            await first.ended("one", receiver.url + "a/x")
            await first.ended("two", receiver.url + "b/x")
        async with working(Quartermaster(tmp_path, receiver.url + "a")) as second:
            one, two = await settled(second, "one", "two")
    assert one.delivered_at
    assert (two.last_error, two.delivered_at) == (queue.NOT_COVERED, None)
    assert len(receiver.got) == 1


@pytest.mark.slow
async def test_a_journal_that_cannot_be_written_sends_nothing_twice(tmp_path: Path) -> None:
    """The outcome is kept until it can be written; else the callback would stay due, and be sent again and again."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.ended("held-up", receiver.url)
        await settled(qm)
        other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        await qm.journal.write(qm.queue.row("invocation", "one", "completed", "root", receiver.url))
        other.execute("BEGIN IMMEDIATE")
        qm.queue.added("root", receiver.url)
        await until(lambda: len(receiver.got) == 2)
        await until(lambda: qm.journal.trouble)  # it was tried, for as long as SQLite waits for a lock
        other.execute("ROLLBACK")
        other.close()
        (view,) = await settled(qm, "one")
        assert (view.attempts, bool(view.delivered_at)) == (1, True)
        assert len(receiver.got) == 2


async def test_a_clock_that_is_set_back_holds_up_no_callback(tmp_path: Path) -> None:
    """What would be due in more than a day is due now."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        row = qm.queue.row("invocation", "one", "completed", "root", receiver.url)
        later = time.time() + 10 * 86_400

        def write(db: sqlite3.Connection) -> None:
            row(db)
            db.execute("UPDATE callbacks SET due = ?", (later,))

        await qm.journal.write(write)
        qm.queue.added("root", receiver.url)
        (view,) = await settled(qm, "one")
        assert view.delivered_at


# --- many receivers and owners ----------------------------------------------------------------------------------------


def _never(event: asyncio.Event) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    async def hold(writer: asyncio.StreamWriter) -> None:
        await event.wait()

    return hold


async def test_a_receiver_that_never_answers_delays_no_other(tmp_path: Path) -> None:
    """Nine of them hold their slots, and a tenth receiver gets its callbacks meanwhile."""
    held = asyncio.Event()
    async with receiving(_never(held)) as dead, receiving() as alive:
        prefixes = [f"{dead.url}{number}" for number in range(9)]
        async with working(Quartermaster(tmp_path, alive.url, *prefixes)) as qm:
            for number, prefix in enumerate(prefixes):
                for each in range(6):
                    await qm.ended(f"{number}-{each}", prefix)
            await until(lambda: dead.open >= 27)
            for each in range(20):
                await qm.ended(f"alive-{each}", alive.url)
            await until(lambda: len(alive.got) == 20)
            assert dead.most <= queue.AT_ONCE
    held.set()


async def test_a_receiver_gets_a_few_at_once(tmp_path: Path) -> None:
    """Four, however many wait."""

    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(OK)

    async with receiving(slow) as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        for each in range(40):
            await qm.ended(str(each), receiver.url)
        await until(lambda: len(receiver.got) == 40)
        assert receiver.most == queue.OF_PREFIX


async def test_owners_are_served_in_turn(tmp_path: Path) -> None:
    """One with a thousand callbacks does not delay those of another, whatever their names."""
    async with receiving() as receiver:
        qm = Quartermaster(tmp_path, receiver.url)
        async with working(qm, start=False):
            writes = [qm.queue.row("invocation", f"a{n}", "completed", "aaa", receiver.url) for n in range(1000)]
            await qm.journal.write(lambda db: [write(db) for write in writes])
            for owner in ("bob", "zoe"):
                await qm.ended(owner, receiver.url, owner)
        async with working(second := Quartermaster(tmp_path, receiver.url)):
            await reached(lambda: second.is_delivered("bob", "zoe"), bool)
            assert len(receiver.got) < 100


async def test_more_owners_than_slots_are_served_in_turn(tmp_path: Path) -> None:
    """Those whose names come last are not left out while the others have more."""
    async with receiving() as receiver:
        qm = Quartermaster(tmp_path, receiver.url)
        owners = [f"owner-{number}" for number in range(10)]
        async with working(qm, start=False):
            writes = [
                qm.queue.row("invocation", f"{owner}-{n}", "completed", owner, receiver.url)
                for owner in owners
                for n in range(100)
            ]
            await qm.journal.write(lambda db: [write(db) for write in writes])
        async with working(second := Quartermaster(tmp_path, receiver.url)):
            await reached(lambda: second.is_delivered(*(f"{owner}-0" for owner in owners)), bool)
            assert len(receiver.got) < 200


async def test_an_owner_has_so_many_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it the oldest are given up, with an error that says so; those of others stay."""
    monkeypatch.setattr(queue, "MAX_WAITING", 32)
    async with (
        receiving(status(500)) as receiver,
        working(Quartermaster(tmp_path, receiver.url, delays=(600.0,))) as qm,
    ):
        await qm.ended("other", receiver.url, "bob")
        for each in range(33):
            await qm.ended(str(each), receiver.url, "alice")
        await reached(qm.store.waiting, lambda waiting: waiting["alice"] <= 30)
        oldest, newest, other = [await qm.shown(subject) for subject in ("0", "32", "other")]
        assert oldest.last_error == queue.TOO_MANY
        assert newest.last_error != queue.TOO_MANY
        assert other.last_error != queue.TOO_MANY


async def test_many_due_callbacks_take_little_of_the_journal(tmp_path: Path) -> None:
    """A look finds owners, and the first callbacks of each, in an index."""
    async with working(Quartermaster(tmp_path), start=False) as qm:
        plan = await qm.journal.read(_plans)
    assert not [step for step in plan if "SCAN" in step or "TEMP B-TREE" in step]


def _plans(db: sqlite3.Connection) -> list[str]:
    asked: list[str] = []
    db.set_trace_callback(asked.append)
    assert list(rows._owners(db, PREFIX)) == []
    assert rows._first(db, PREFIX, "o1", 4) == []
    db.set_trace_callback(None)
    assert len(asked) == 2
    return [row[3] for query in asked for row in db.execute(f"EXPLAIN QUERY PLAN {query}")]
