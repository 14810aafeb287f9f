"""Asynchronous invocations: accepted into the journal, attempted until one succeeds, and kept. Belongs to the loop.

Accepted means committed. An attempt is committed before its call is handed over, so a call runs at least once.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from ...auth import policy
from ...auth.authenticator import Identity
from ...errors import BadRequest, Conflict, HttpError, JournalFull, JournalUnwritable, KeyReused, NotFound
from ...models.functions import FunctionSpec, Version, read_input
from ...models.invocations import InvocationView, Status
from ...models.validation import quote
from ..dispatcher import Dispatcher
from ..versions.store import VersionStore
from .attempts import PAUSE, Attempts
from .backlog import Backlog
from .ids import IdSource, address_of
from .row import OVERHEAD, Content, Row
from .store import InvocationStore, Write

MAX_PAYLOAD = 1024 * 1024  # bytes of an input
REDRIVEN_AT_ONCE = 500  # dead invocations of a function

log = structlog.get_logger(__name__)


class Order(NamedTuple):
    """What is to be called later.

    Attributes:
        id: of the invocation, from ``AsyncInvoker.new_id``.
        function: its name.
        qualifier: the number of a version; None: the newest at each attempt.
        owner: the name of the caller's token. An invocation is seen by its owner and by the root token.
        payload: at most ``MAX_PAYLOAD`` bytes, never empty.
        client_context: JSON text for ``Lambda-Runtime-Client-Context``.
        trace_id: for ``Lambda-Runtime-Trace-Id``.
        key: an ``Idempotency-Key``, hashed with the names of the token and the function.
        tick: RFC 3339 time of the schedule's tick.
    """

    id: str
    function: str
    qualifier: int | None
    owner: str
    payload: bytes
    client_context: str | None = None
    trace_id: str | None = None
    key: str | None = None
    tick: str | None = None


class Accepted(NamedTuple):
    """An invocation that is on disk: a new one, or the one that was accepted with the same key before."""

    id: str
    status: Status


class AsyncInvoker:
    """Accepts invocations, and attempts them through the dispatcher.

    Args:
        dispatcher: makes the calls.
        versions: what is called.
        store: the invocations in the journal.
        room: how many bytes of payloads may wait.
        address: returns the address and port of the runtime API, for the ids; None: not known.

    Attributes:
        listeners: called once an invocation has ended and that is committed, with its view, without an output, and its
            status.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        versions: VersionStore,
        store: InvocationStore,
        room: int,
        address: Callable[[], tuple[str, int] | None] = lambda: None,
    ) -> None:
        self.listeners: list[Callable[[InvocationView, str], None]] = []
        self._versions = versions
        self._store = store
        self._address = address
        self._ids = IdSource()
        self._backlog = Backlog(room)
        self._attempts = Attempts(dispatcher, versions, store, self._backlog, self._ended)
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}  # callers that wait for an end, by id
        self._counting = asyncio.Lock()
        self._counted = False
        self._stopping = False
        versions.listeners.append(self._versions_changed)

    @property
    def at_end(self) -> Callable[[InvocationView, FunctionSpec], Write | None]:
        """Returns what is written in the transaction of an end; given the view without output, and the spec."""
        return self._attempts.at_end

    @at_end.setter
    def at_end(self, rows: Callable[[InvocationView, FunctionSpec], Write | None]) -> None:
        self._attempts.at_end = rows

    # -- for callers -----------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """Return an id for an invocation, which tells where it is."""
        return self._ids.new(self._address())

    def queued(self) -> dict[str, int]:
        """Return how many invocations wait, by function."""
        return self._backlog.queued()

    def held_back(self, function: str) -> int:
        """Return how many invocations of a function wait, without those that the dispatcher has and counts."""
        return self._backlog.held_back(function)

    async def accept(
        self, version: Version, order: Order, also: Callable[[sqlite3.Connection], object] | None = None
    ) -> Accepted:
        """Accept an invocation; it is on disk when this returns.

        Args:
            version: what the order names now.
            order: what is to be called.
            also: is written in the same transaction.

        Raises:
            BadRequest, PayloadTooLarge: a job cannot have this input.
            QueueFull: as many wait for the function as may.
            JournalFull: what waits takes as much of the journal as it may.
            JournalUnwritable: it was not accepted.
            KeyReused: the key was used with another payload.
        """
        if version.spec.runtime == "job":
            read_input(order.payload)
        await self._require_counted()
        now, spec = time.time(), version.spec
        row = Row(
            seq=0,
            id=order.id,
            function=order.function,
            qualifier=order.qualifier or 0,
            number=version.number,
            owner=order.owner,
            status="queued",
            created=now,
            due=now,
            until=now + spec.max_age,
            max_age=spec.max_age,
            size=_size(order),
            tick=order.tick,
        )
        content = _content(order)
        try:
            self._backlog.require_room(row.function, spec.queue, row.owner, row.size)
        except HttpError:  # a call that was accepted before needs no room
            earlier = None if content.key is None else await self._store.of_key(content.key, row.created)
            if earlier is None:
                raise
            return _replayed(*earlier, content)
        self._backlog.accepted(row)
        try:
            found = await self._store.accept(row, content, also)
        except Exception:
            self._backlog.ended(row)
            raise
        if found is None:
            self._attempts.look_at(self._backlog.line(row.function, row.qualifier))
            return Accepted(row.id, row.status)
        self._backlog.ended(row)
        return _replayed(*found, content)

    async def get(self, invocation_id: str, by: Identity) -> InvocationView:
        """Return an invocation with its output.

        Raises:
            NotFound: the token sees no such invocation here.
        """
        view = await self._store.view(invocation_id, by.sees)
        if view is None:
            raise self._not_here(invocation_id)
        return view

    async def when_over(
        self, invocation_id: str, seconds: float, left: asyncio.Future[None], by: Identity
    ) -> InvocationView:
        """Return an invocation once it is over, after so many seconds, once ``left`` is done, or at a stop.

        Raises:
            NotFound: the token sees no such invocation here.
        """
        ended = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(invocation_id, set()).add(ended)
        try:
            view = await self.get(invocation_id, by)
            if view.is_over or self._stopping:
                return view
            await asyncio.wait([ended, left], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters[invocation_id].discard(ended)
            if not self._waiters[invocation_id]:
                del self._waiters[invocation_id]
        return await self.get(invocation_id, by)

    async def listing(
        self, by: Identity, function: str | None, status: str | None, limit: int, page: str | None
    ) -> tuple[list[InvocationView], str | None]:
        """Return a page of the invocations that a token sees, the newest first, without outputs.

        Returns:
            At most ``limit`` of them, and what ``page`` is for the next ones; None at the end. A page may have fewer,
            or none, although others follow.

        Raises:
            BadRequest: ``page`` is not from an answer.
        """
        rows, following = await self._store.listing(by.sees, function, status, limit, _place(page))
        return [row.view() for row in rows], None if following is None else str(following)

    async def redrive(self, invocation_id: str, by: Identity) -> InvocationView:
        """Let a dead invocation be attempted again, with all its retries.

        Raises:
            NotFound: the token sees no such invocation here, or no such function.
            Conflict: it is not dead.
            QueueFull: as many wait for the function as may.
            JournalFull: what waits takes as much of the journal as it may.
        """
        await self._require_counted()
        dead = await self._find(invocation_id, by)
        if dead.status != "dead":
            raise Conflict(f"the invocation is {dead.status}; only one that is dead can be tried again")
        self._versions.require()
        version = self._attempts.version(dead)
        if version is None or not policy.sees_function(by.grant, dead.function):
            raise NotFound(f"the function {quote(dead.function)}, or its version, was removed")
        now = time.time()
        row = dead.revived(now)
        self._backlog.require_room(row.function, version.spec.queue, row.owner, row.size)
        self._backlog.accepted(row)
        if not await self._revive([row]):
            raise Conflict("the invocation is not dead any more")
        return row.view()

    async def redrive_all(self, function: str, page: str | None, by: Identity) -> tuple[int, str | None]:
        """Let dead invocations of a function be attempted again, the oldest first; one call is one step of all.

        One stays dead if its version is no longer kept. One that dies again meanwhile is in no later step.

        Args:
            function: the name.
            page: what the step before returned; None: the first step.
            by: whose invocations; the root token has everyone's.

        Returns:
            How many are queued again, at most ``REDRIVEN_AT_ONCE``, and what ``page`` is for the next step; None: this
            was the last. A step may have queued none although others follow.

        Raises:
            BadRequest: ``page`` is not from an answer.
            NotFound: the token sees no such function.
            QueueFull: as many wait for the function as may, so that none is queued again.
            JournalFull: what waits takes as much of the journal as it may, so that none is queued again. For the
                root token, the calls of an owner whose share is full stay dead, and those of others are queued.
        """
        place = _place(page)
        await self._require_counted()
        self._versions.require()
        if self._versions.latest(function) is None or not policy.sees_function(by.grant, function):
            raise NotFound(f"no function has the name {quote(function)}")
        rows, following = await self._store.dead(by.sees, function, REDRIVEN_AT_ONCE, place or 0)
        now = time.time()
        revived: list[Row] = []
        refused: JournalFull | None = None
        for dead in rows:
            version = self._attempts.version(dead)
            if version is None:
                continue
            row = dead.revived(now)
            try:
                self._backlog.require_room(row.function, version.spec.queue, row.owner, row.size)
            except HttpError as error:
                if by.sees is None and isinstance(error, JournalFull):  # one owner's share: the others may have room
                    refused = error
                    continue
                if not revived:
                    raise
                following = dead.seq - 1
                break
            self._backlog.accepted(row)
            revived.append(row)
        if refused is not None and not revived and following is None:
            raise refused
        done = await self._revive(revived) if revived else 0
        log.info("invocations_redriven", function=function, count=done, by=by.name)
        return done, None if following is None else str(following)

    async def _revive(self, revived: Sequence[Row]) -> int:
        """Write that invocations wait, which are counted already; return how many were still dead."""
        done: set[str] = set()
        try:
            done = await self._store.redrive(revived)
        finally:
            for row in revived:
                if row.id not in done:
                    self._backlog.ended(row)
        for line in {self._backlog.line(row.function, row.qualifier) for row in revived}:
            self._attempts.look_at(line)
        return len(done)

    async def cancel(self, invocation_id: str, by: Identity) -> InvocationView:
        """Cancel an invocation that waits; one that is cancelled stays so.

        Raises:
            NotFound: the token sees no such invocation here.
            Conflict: it runs, or is over.
        """
        await self._require_counted()
        row = await self._find(invocation_id, by)
        if row.status == "cancelled":
            return row.view()
        ended = row._replace(status="cancelled", ended=time.time())
        if row.status != "queued" or not await self._store.end(ended, "queued", None, None):
            raise Conflict(f"the invocation is {row.status}; only one that waits can be cancelled")
        self._attempts.over(row, ended)
        return ended.view()

    # -- background ------------------------------------------------------------------------------------------------

    async def resume(self) -> None:
        """Take up the attempts that an earlier process has begun; instances must have been adopted before.

        Raises:
            JournalUnwritable: try again.
        """
        await self._require_counted()
        for row, version in await self._store.running():
            self._attempts.resume(row, version)

    async def called(self) -> dict[str, Version]:
        """Return the versions whose calls an earlier process has handed over, by the id of the run that got one.

        Raises:
            JournalUnwritable: try again.
        """
        found = await self._store.running()
        return {row.attempts[-1].instance or "": version for row, version in found if version and row.attempts}

    async def run(self) -> None:
        """Attempt what waits, until cancelled."""
        await self._versions.listed.wait()
        while True:
            try:
                await self._require_counted()
                await self._store.forget_versions()
                break
            except JournalUnwritable:
                await asyncio.sleep(PAUSE)
        await self._attempts.run()

    def stop(self) -> None:
        """Begin no more attempts, and let nobody wait for an end."""
        self._stopping = True
        self._attempts.stop()
        for invocation_id in self._waiters:
            self._wake(invocation_id)

    async def close(self) -> None:
        """End what is going on; the next process takes it up."""
        await self._attempts.close()

    def _versions_changed(self, name: str) -> None:
        for line in self._backlog.of_function(name):
            line.refused_until = 0.0  # the next version may start where the last one could not
            self._attempts.look_at(line)

    def _wake(self, invocation_id: str) -> None:
        for waiter in self._waiters.get(invocation_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _ended(self, row: Row) -> None:
        self._wake(row.id)
        view = row.view()
        for listener in self.listeners:
            try:
                listener(view, row.status)
            except Exception:  # one failed listener must not stop the others
                log.exception("listener_failed", invocation=row.id)

    # -- parts -----------------------------------------------------------------------------------------------------

    async def _require_counted(self) -> None:
        """Count what waits, once.

        Raises:
            JournalUnwritable: it cannot be read.
        """
        if self._counted:
            return
        async with self._counting:
            if not self._counted:
                for each in await self._store.waiting():
                    self._backlog.load(each.function, each.qualifier, each.owner, each.calls, each.size)
                self._counted = True

    async def _find(self, invocation_id: str, by: Identity) -> Row:
        row = await self._store.find(invocation_id, by.sees)
        if row is None:
            raise self._not_here(invocation_id)
        return row

    def _not_here(self, invocation_id: str) -> NotFound:
        """Return the error for an unknown id; it names the quartermaster that has made the id."""
        there, own = address_of(invocation_id), self._address()
        if there is None or (own is not None and there == own[0]):
            return NotFound(f"no invocation has the id {quote(invocation_id)}")
        return NotFound(f"no invocation has the id {quote(invocation_id)} here; the quartermaster at {there} has it")


def _place(page: str | None) -> int | None:
    """Return the place that a page begins at.

    Raises:
        BadRequest: it is not from an answer.
    """
    if page is not None and not (page.isascii() and page.isdigit() and len(page) < 19):
        raise BadRequest(f"page: expected the next_page of an earlier answer; got {quote(page)}")
    return None if page is None else int(page)


def _size(order: Order) -> int:
    """Return how many bytes an invocation that waits counts for: an empty one takes room too."""
    return OVERHEAD + len(order.payload) + len(order.client_context or "") + len(order.trace_id or "")


def _replayed(row: Row, digest: str | None, content: Content) -> Accepted:
    """Return the invocation that was accepted under a key before.

    Raises:
        KeyReused: it had another payload.
    """
    if digest != content.digest:
        raise KeyReused("this Idempotency-Key was used with another body: use a new key for a new call")
    return Accepted(row.id, row.status)


def _content(order: Order) -> Content:
    """Return what is called with; the digest tells two payloads of one key apart."""
    digest = None if order.key is None else hashlib.sha256(order.payload).hexdigest()
    return Content(order.payload, order.client_context, order.trace_id, order.key, digest)
