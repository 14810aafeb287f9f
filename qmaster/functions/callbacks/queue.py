"""Callbacks: sent when they are due, tried again, and recorded. Belongs to the event loop.

Each prefix of ``--callbacks`` has a coroutine and slots of its own, so that a slow receiver delays no
other's callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest

import structlog

from ...background import BackgroundTasks
from ...errors import HttpError, JournalUnwritable
from ...limiter import FairLimiter, act_for
from ...runs import callbacks
from ...runs.callbacks import CallbackStore, Kind, Row
from .sender import Answered, Sender
from .webhooks import OPTION, Prefix, Receivers

# Seconds from a failed try to the next, as Standard Webhooks suggests; then it is given up.
DELAYS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0)
GONE = 410
MAX_RETRY_AFTER = DELAYS[-1]  # seconds; a receiver that asks for more gets the next try then
OF_PREFIX, AT_ONCE = 4, 32  # callbacks that are sent at once
MAX_WAITING = 20_000  # callbacks of one owner
LOOK_EVERY = 30.0  # seconds; the clock may be set
AGAIN_EVERY = 1.0  # seconds between tries to write or read
NOT_COVERED = f"no prefix of {OPTION} covers the URL"
NOT_KEPT = "what it would tell is no longer in the journal"
TOO_MANY = f"{MAX_WAITING} newer callbacks of this token wait"

Body = Callable[[Row], Awaitable[bytes | str]]  # a text: why there is none any more

log = structlog.get_logger(__name__)


class CallbackQueue:
    """Sends the callbacks of runs and invocations.

    Args:
        store: their rows.
        receivers: where they may go.
        sender: sends one.
        bodies: for each kind returns the body of a callback, or as text why it is given up.
        delays: seconds from a failed try to the next.

    Attributes:
        tries: how many tries had which outcome: ``delivered``, ``failed`` or ``given_up``.
    """

    def __init__(
        self,
        store: CallbackStore,
        receivers: Receivers,
        sender: Sender,
        bodies: Mapping[Kind, Body],
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self._store = store
        self._receivers = receivers
        self._sender = sender
        self._bodies = bodies
        self._delays = delays
        self._slots = FairLimiter(AT_ONCE, queued_for=LOOK_EVERY)
        self._lanes = {prefix.text: _Lane(prefix.text, store, self._send) for prefix in receivers.prefixes}
        self.tries = Counter({"delivered": 0, "failed": 0, "given_up": 0})
        self._waiting: Counter[str] = Counter()  # by owner
        self._trimming: set[str] = set()
        self._background = BackgroundTasks("callback_work_failed")

    async def run(self) -> None:
        """Send callbacks until cancelled."""
        await self._begin()
        await asyncio.gather(*(lane.run() for lane in self._lanes.values()))

    async def close(self) -> None:
        """Cancel what is being sent; it is sent again after the next start."""
        await self._background.close()
        await self._sender.close()

    @property
    def waiting(self) -> int:
        """How many callbacks are neither delivered nor given up."""
        return self._waiting.total()

    def prefix_of(self, url: str) -> Prefix | None:
        """Return the prefix that covers a URL, None if none does."""
        return self._receivers.prefix_of(url)

    def row(self, kind: Kind, subject: str, event: str, owner: str, url: str) -> Callable[[sqlite3.Connection], object]:
        """Return what writes a callback that is due now, in the transaction that records the end of its subject.

        Call ``added`` once it is committed.
        """
        prefix = self.prefix_of(url)
        row = callbacks.new_row(kind, subject, event, owner, url, prefix.text if prefix else "")
        return lambda db: self._store.add(db, row, None if prefix else NOT_COVERED)

    def added(self, owner: str, url: str) -> None:
        """Look for a callback that was written, and count it."""
        prefix = self.prefix_of(url)
        if prefix is None:
            return
        self._waiting[owner] += 1
        self._lanes[prefix.text].wake.set()
        if self._waiting[owner] > MAX_WAITING and owner not in self._trimming:
            self._trimming.add(owner)
            self._background.start(self._trim(owner), owner=owner)

    def wake(self) -> None:
        """Look for what is due now."""
        for lane in self._lanes.values():
            lane.wake.set()

    # -- sending ---------------------------------------------------------------------------------------------------

    def _send(self, row: Row, done: Callable[[], None]) -> None:
        self._background.start(self._guarded(row), callback=row.id).add_done_callback(lambda _: done())

    async def _try(self, row: Row) -> None:
        """Send a callback once, and record what became of it."""
        act_for(row.prefix)  # slots are shared out by prefix
        async with self._slots.slot():
            body = await self._bodies[row.kind](row)
            said = body if isinstance(body, str) else await self._sender.send(row.id, row.url, body)
            if isinstance(said, Answered) and 200 <= said.status <= 299:
                await self._recorded(lambda: self._store.delivered(row))
                self._over(row)
                self.tries["delivered"] += 1
                log.info("callback_delivered", **_named(row), status=said.status)
                return
            if isinstance(said, Answered):
                error = f"the receiver answered {said.status}"
                delay = None if said.status == GONE else self._delay(row, said.retry_after)
            else:
                error, delay = said, self._delay(row) if isinstance(body, bytes) else None
            await self._failed(row, error, delay)

    def _delay(self, row: Row, asked: float = 0.0) -> float | None:
        """Return the seconds until the next try, None after the last one; ``asked``: what the receiver asks for."""
        if row.attempts >= len(self._delays):
            return None
        return max(self._delays[row.attempts], min(asked, MAX_RETRY_AFTER))

    async def _failed(self, row: Row, error: str, delay: float | None) -> None:
        await self._recorded(lambda: self._store.failed(row, error, delay))
        self.tries["given_up" if delay is None else "failed"] += 1
        if delay is None:
            self._over(row)
        log.warning("callback_failed", **_named(row), reason=error, again_in_s=delay)

    async def _guarded(self, row: Row) -> None:
        try:
            await self._try(row)
        except HttpError as error:  # it stays due
            log.info("callback_delayed", **_named(row), reason=str(error))
            await asyncio.sleep(AGAIN_EVERY)
        except Exception:  # the top of the task
            log.exception("callback_not_sent", **_named(row))
            await self._failed(row, "it could not be sent; the log has the reason", self._delay(row))

    async def _recorded(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write until it succeeds: an outcome that is forgotten would be sent again and again."""
        while True:
            try:
                return await write()
            except JournalUnwritable:
                await asyncio.sleep(AGAIN_EVERY)

    def _over(self, row: Row) -> None:
        self._waiting[row.owner] = max(0, self._waiting[row.owner] - 1)
        if not self._waiting[row.owner]:
            del self._waiting[row.owner]

    # -- parts -----------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Take over the rows of an earlier process, which may have had other prefixes."""

        def text_of(url: str) -> str | None:
            prefix = self.prefix_of(url)
            return prefix.text if prefix else None

        async def begin() -> None:
            await self._store.place(text_of, NOT_COVERED)
            self._waiting = Counter(await self._store.waiting())

        await self._recorded(begin)
        self.wake()

    async def _trim(self, owner: str) -> None:
        log.warning("callbacks_given_up", owner=owner, reason=TOO_MANY)
        with contextlib.suppress(JournalUnwritable):
            await self._store.trim(owner, MAX_WAITING - MAX_WAITING // 16, TOO_MANY)
            self._waiting = Counter(await self._store.waiting())
        self._trimming.discard(owner)


class _Lane:
    """The callbacks of one prefix, of its owners in turn.

    Args:
        prefix: the prefix.
        store: has the rows.
        send: begins to send a callback, and calls what it is given at the end.
    """

    def __init__(self, prefix: str, store: CallbackStore, send: Callable[[Row, Callable[[], None]], None]) -> None:
        self.wake = asyncio.Event()
        self._prefix = prefix
        self._store = store
        self._send = send
        self._sending: set[str] = set()
        self._last = ""  # the owner whose callback was begun last

    async def run(self) -> None:
        """Send what is due until cancelled."""
        while True:
            try:
                pause = await self._look()
            except (JournalUnwritable, HttpError):
                pause = AGAIN_EVERY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause, LOOK_EVERY)):
                    await self.wake.wait()

    async def _look(self) -> float:
        """Begin to send what is due and has a slot; return the seconds until the next look."""
        self.wake.clear()
        if len(self._sending) >= OF_PREFIX:
            return LOOK_EVERY
        ready, later = await self._store.due(self._prefix, frozenset(self._sending))
        ready.sort(key=lambda rows: (rows[0].owner <= self._last, rows[0].owner))
        for row in _in_turn(ready):
            if len(self._sending) >= OF_PREFIX:
                return LOOK_EVERY  # the end of one of them wakes it
            self._last = row.owner
            self._sending.add(row.id)
            self._send(row, partial(self._done, row.id))
        return LOOK_EVERY if later is None else later

    def _done(self, row_id: str) -> None:
        self._sending.discard(row_id)
        self.wake.set()


def _in_turn(by_owner: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Yield the first callback of each owner, then the second of each, and so on."""
    for some in zip_longest(*by_owner):
        yield from (row for row in some if row is not None)


def _named(row: Row) -> dict[str, object]:
    return {"callback": row.id, row.kind: row.subject, "owner": row.owner, "attempt": row.attempts + 1}
