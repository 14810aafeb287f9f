"""Attempts of asynchronous invocations: what waits in the journal goes to the dispatcher, and the outcome back.

An attempt is committed before its call is handed over. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from ...background import BackgroundTasks
from ...errors import (
    CallFailed,
    CallTimedOut,
    Conflict,
    FunctionFailed,
    HttpError,
    InstanceDied,
    JournalUnwritable,
    NotFound,
)
from ...models.functions import FunctionSpec, Version
from ...models.invocations import InvocationAttempt, InvocationError, InvocationView
from ...models.units import rfc3339
from ..dispatcher import Dispatcher
from ..invocations.invocation import Answer, Call, Invocation
from ..versions.store import VersionStore
from .backlog import Backlog, InHand, Line
from .row import Output, Row, fault_of
from .store import InvocationStore, Write

MAX_OUTPUT = 1024 * 1024  # bytes
MAX_IN_HAND = 1000  # invocations of one version that the dispatcher has at once
MAX_WAITING = 32  # of those that wait for an instance: each takes 5 KB of memory
EXPIRE_EVERY = 60.0  # seconds between looks for those that are too old, while no instance is free
PAUSE = 1.0  # seconds before another try, where the journal cannot be used
LONGEST_PAUSE = 10.0
CANCELLED_AT_ONCE = 500
ATTEMPTS_KEPT = 50
CLOSE_WITHIN = 2.0  # seconds
TOO_LARGE = "Function.ResponseSizeTooLarge"

log = structlog.get_logger(__name__)


class Attempts:
    """Gives to the dispatcher what is due, as far as instances may take it.

    Args:
        dispatcher: makes the calls.
        versions: what is called.
        store: the invocations.
        backlog: counts them.
        ended: called with an invocation whose end is committed.

    Attributes:
        at_end: returns what is written in the transaction of an invocation's end, or None; given the view without its
            output, and the spec of the version.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        versions: VersionStore,
        store: InvocationStore,
        backlog: Backlog,
        ended: Callable[[Row], None],
    ) -> None:
        self.at_end: Callable[[InvocationView, FunctionSpec], Write | None] = lambda view, spec: None
        self._dispatcher = dispatcher
        self._versions = versions
        self._store = store
        self._backlog = backlog
        self._ended = ended
        self._due: dict[Line, None] = {}  # lines with something to do
        self._wake = asyncio.Event()
        self._background = BackgroundTasks("invocation_failed_here")
        self._stopping = False

    def version(self, line: Line | Row) -> Version | None:
        """Return the version that is called now."""
        if line.qualifier:
            return self._versions.find(line.function, line.qualifier)
        return self._versions.latest(line.function)

    # -- what waits ------------------------------------------------------------------------------------------------

    def look_at(self, line: Line) -> None:
        """Give to the dispatcher what is due of a line."""
        self._due[line] = None
        self._wake.set()

    async def run(self) -> None:
        """Give to the dispatcher what is due, until cancelled."""
        for line in self._backlog.lines.values():
            self.look_at(line)
        while True:
            self._wake.clear()
            lines, self._due = self._due, {}
            for line in lines:
                await self._feed_safely(line)
            await self._wake.wait()

    def stop(self) -> None:
        """Give nothing more to the dispatcher."""
        self._stopping = True

    async def close(self) -> None:
        """Write the outcomes that are known, as far as that takes a short time; the next process takes up the rest."""
        known = [each.task for line in self._backlog.lines.values() for each in line.in_hand.values() if each.over]
        if tasks := [task for task in known if task is not None]:
            await asyncio.wait(tasks, timeout=CLOSE_WITHIN)
        await self._background.close()

    async def _feed_safely(self, line: Line) -> None:
        try:
            await self._feed(line)
        except HttpError as error:
            log.debug("invocations_not_read", function=line.function, reason=str(error))
            self._look_later(line, PAUSE)
        except Exception:  # the top of the task, as far as this line goes
            log.exception("invocations_not_fed", function=line.function)
            self._look_later(line, PAUSE)

    async def _feed(self, line: Line) -> None:
        """Give to the dispatcher what is due, of the owners in turn, and end what is too old."""
        if self._stopping or not line.waiting:
            self._backlog.forget_if_empty(line)
            return
        version = self.version(line)
        if version is None:
            await self._give_up(line)
            return
        now = asyncio.get_running_loop().time()
        room = _room(line, version.spec) if now >= line.refused_until else 0
        if room <= 0 and now < line.expire_at:
            self._look_later(line, line.next_look(now))
            return
        line.expire_at, line.due_at = now + EXPIRE_EVERY, math.inf
        wall = time.time()
        taken = await self._store.take(*line.key, list(line.waiting), max(0, room), line.in_hand, wall)
        for row in taken.expired:
            self._take(line, row, self._expire(line, row, version.spec))
        for row in taken.rows:
            self._take(line, row, self._attempt(line, row, version))
            line.served(row.owner)
        if taken.next_due is not None:
            line.due_at = min(line.due_at, now + taken.next_due - wall)
        self._look_later(line, line.next_look(now))

    def _look_later(self, line: Line, seconds: float) -> None:
        if line.timer is not None:
            line.timer.cancel()
        line.timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self.look_at, line)

    async def _give_up(self, line: Line) -> None:
        """End what waits for a version that is not there."""
        self._versions.require()
        if not self._versions.numbers(line.function):
            rows = await self._store.cancel_waiting(line.function, time.time(), CANCELLED_AT_ONCE)
            for row in rows:
                self.over(row._replace(status="queued"), row)
            if rows:
                self.look_at(line)
        elif line.qualifier:
            taken = await self._store.take(*line.key, list(line.waiting), CANCELLED_AT_ONCE, line.in_hand, time.time())
            for row in [*taken.rows, *taken.expired]:
                message = f"version {line.qualifier} of the function {line.function!r} is no longer kept"
                fault = InvocationError(type="VersionNotFound", message=message)
                self._take(line, row, self._end(row, row.dead(fault, time.time()), None, None))
            self._look_later(line, PAUSE)
        else:  # the newest version needs a newer quartermaster
            self._look_later(line, EXPIRE_EVERY)

    def _take(self, line: Line, row: Row, work: Coroutine[Any, Any, None]) -> None:
        held = line.in_hand[row.id] = InHand(row)
        held.task = self._background.start(work, invocation=row.id)
        held.task.add_done_callback(lambda done: self._done(done, line, row))

    def _done(self, task: asyncio.Task[None], line: Line, row: Row) -> None:
        line.in_hand.pop(row.id, None)
        if not task.cancelled():
            self.look_at(line)

    # -- an attempt ------------------------------------------------------------------------------------------------

    async def _attempt(self, line: Line, row: Row, version: Version) -> None:
        held = line.in_hand[row.id]

        async def begin(run_id: str) -> None:
            async with held.lock:
                await self._begin(held, version, invocation, run_id)
            if len(line.in_hand) >= MAX_WAITING:
                self.look_at(line)

        now = asyncio.get_running_loop().time()
        invocation = Invocation(Call(row.id, b"", row.owner), now, begin)
        await self._conclude(line, held, version, self._dispatcher.attempt(version, invocation, held.left))

    async def _begin(self, held: InHand, version: Version, invocation: Invocation, run_id: str) -> None:
        """Write that an instance gets the call.

        Raises:
            Conflict: the invocation is over.
            JournalUnwritable: it was not written.
        """
        if held.over:
            raise Conflict("the invocation is over")
        row, now = held.row, time.time()
        again = row.status == "running"  # the connection closed before the call was written to it
        begun = row._replace(
            status="running",
            number=version.number,
            tries=row.tries if again else row.tries + 1,
            deadline=now + version.spec.timeout,
            started=row.started or now,
            attempts=(
                *row.attempts[: -1 if again else None],
                InvocationAttempt(started_at=rfc3339(now), instance=run_id),
            ),
        )
        content = await self._store.begin(begun, version)
        if content is None:
            raise Conflict("the invocation is over")
        held.row = begun
        if not again:
            self._backlog.begun(row)
        payload, client_context, trace_id, *_ = content
        invocation.call = Call(row.id, payload, row.owner, client_context, trace_id)

    async def _conclude(
        self, line: Line, held: InHand, version: Version, answering: Awaitable[Answer], resumed: bool = False
    ) -> None:
        """Wait for the outcome of an attempt, and write it; ``resumed``: an earlier process has begun it."""
        try:
            answer = await answering
        except (FunctionFailed, InstanceDied, CallTimedOut) as error:
            lost = resumed and isinstance(error, InstanceDied)
            await self._failed(line, held, version.spec, fault_of(error), lost)
        except HttpError as error:
            await self._refused(line, held, error)
        else:
            await self._answered(line, held, version.spec, answer)

    async def _answered(self, line: Line, held: InHand, spec: FunctionSpec, answer: Answer) -> None:
        if len(answer.body) > MAX_OUTPUT:
            message = f"the answer is over {MAX_OUTPUT} bytes"
            await self._failed(line, held, spec, InvocationError(type=TOO_LARGE, message=message))
            return
        row = await self._last_state(held)
        now = time.time()
        ended = row.attempt_ended(now, None)._replace(status="succeeded", ended=now, error=None)
        await self._end(row, ended, Output(answer.body, answer.content_type), spec)

    async def _failed(
        self, line: Line, held: InHand, spec: FunctionSpec, fault: InvocationError, lost: bool = False
    ) -> None:
        """Write a failed attempt; the next one comes later, unless it was the last.

        One more than ``retries`` is made where quartermaster ended during an attempt (``lost``), which its instance may
        not have got. Only one, so that a call that ends quartermaster does not do so for ever. None is made of a
        function, or a version, that was removed: what the attempt ended with is the end.
        """
        row = await self._last_state(held)
        if row.status != "running":  # the instance ended before the attempt was written
            return
        now = time.time()
        row = row.attempt_ended(now, fault)
        due = now + spec.retry_delay * 2.0 ** (row.tries - 1)
        was_last = row.tries > spec.retries + lost or due >= row.until or self._is_removed(row)
        if was_last or fault.type == TOO_LARGE:
            await self._end(row, row.dead(fault, now), None, spec)
        else:
            await self._wait_again(line, row._replace(due=due))

    def _is_removed(self, row: Row) -> bool:
        """Return whether nothing is left to call; a version that needs a newer quartermaster is there."""
        numbers = self._versions.numbers(row.function)
        return not numbers or (row.qualifier != 0 and row.qualifier not in numbers)

    async def _refused(self, line: Line, held: InHand, error: HttpError) -> None:
        """Let an invocation wait again that no instance got; that is no attempt."""
        row = await self._last_state(held)
        if not (held.left.done() or isinstance(error, NotFound | Conflict)):
            reason = error.reason if isinstance(error, CallFailed) else "journal"
            seconds = float(error.headers.get("Retry-After", PAUSE))
            line.refuse(asyncio.get_running_loop().time() + seconds, reason)
        if row.status == "running":  # it was written, and the connection had closed
            await self._wait_again(line, row._replace(tries=row.tries - 1, due=time.time(), attempts=row.attempts[:-1]))

    async def _last_state(self, held: InHand) -> Row:
        """Return the invocation as it is on disk; no attempt begins from now on."""
        held.over = True
        async with held.lock:
            return held.row

    async def _wait_again(self, line: Line, row: Row) -> None:
        row = row._replace(status="queued", attempts=row.attempts[-ATTEMPTS_KEPT:])
        await self._insist(lambda: self._store.wait_again(row))
        self._backlog.waits(row)
        line.due_at = min(line.due_at, asyncio.get_running_loop().time() + row.due - time.time())

    # -- ends ------------------------------------------------------------------------------------------------------

    async def _expire(self, line: Line, row: Row, spec: FunctionSpec) -> None:
        """End an invocation that waited for too long."""
        why = f"; the last refusal: {line.refusal}" if line.refusal else ""
        message = f"it was not done within its max_age of {row.max_age:g} s{why}"
        last = row.attempts[-1].error if row.attempts else None
        fault = last or InvocationError(type="MaxAgeExceeded", message=message)
        await self._end(row, row.dead(fault, time.time()), None, spec)

    async def _end(self, before: Row, row: Row, output: Output | None, spec: FunctionSpec | None) -> None:
        row = row._replace(attempts=row.attempts[-ATTEMPTS_KEPT:])
        also = self.at_end(row.view(), spec) if spec is not None else None
        ended = False

        async def write() -> None:
            nonlocal ended
            ended = await self._store.end(row, before.status, output, also)

        await self._insist(write)
        if ended:
            self.over(before, row)

    def over(self, before: Row, row: Row) -> None:
        """Count an end that is committed, and tell of it."""
        self._backlog.ended(before)
        line = self._backlog.line(row.function, row.qualifier)
        held = line.in_hand.get(row.id)
        if held is not None and not held.left.done():
            held.left.set_result(None)
        self.look_at(line)
        log.info("invocation_ended", invocation=row.id, function=row.function, status=row.status, attempts=row.tries)
        self._ended(row)

    async def _insist(self, write: Callable[[], Awaitable[object]]) -> None:
        """Write to the journal, if need be once it can be written again."""
        pause = PAUSE
        while True:
            try:
                await write()
                return
            except JournalUnwritable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    # -- after a start ---------------------------------------------------------------------------------------------

    def resume(self, row: Row, version: Version | None) -> None:
        """Take up an attempt that an earlier process has begun: its instance may still answer.

        Args:
            row: of the invocation.
            version: that was called, as the journal has it; None: an earlier version of quartermaster kept none.
        """
        line = self._backlog.line(row.function, row.qualifier)
        if row.id in line.in_hand:
            return
        self._backlog.add_bytes(row.owner, row.size)
        self._take(line, row, self._resumed(line, row, version or self._versions.find(row.function, row.number)))

    async def _resumed(self, line: Line, row: Row, version: Version | None) -> None:
        held = line.in_hand[row.id]
        invocation = Invocation(Call(row.id, b"", row.owner), asyncio.get_running_loop().time())
        run_id = row.attempts[-1].instance or ""
        if version is not None and self._dispatcher.resume(version, invocation, run_id, row.deadline or 0.0):
            await self._conclude(line, held, version, invocation.answered, resumed=True)
            return
        gone = InvocationError(type="Runtime.ExitError", message="the instance ended while quartermaster was away")
        present = version or self._versions.latest(row.function)
        if present is not None:
            await self._failed(line, held, present.spec, gone, lost=True)
        else:  # the function was removed, and nobody knows what it was
            now = time.time()
            await self._end(row, row.attempt_ended(now, gone).dead(gone, now), None, None)


def _room(line: Line, spec: FunctionSpec) -> int:
    """Return how many more invocations the dispatcher may have."""
    most = min(MAX_IN_HAND, spec.max_instances * spec.concurrency)
    waiting = sum(held.row.status == "queued" for held in line.in_hand.values())
    return min(most - len(line.in_hand), MAX_WAITING - waiting)
