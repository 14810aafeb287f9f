"""The queue and the instances of one version: who gets which call, and how it ends. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ...errors import (
    CallTimedOut,
    CannotStart,
    FunctionFailed,
    HttpError,
    InstanceDied,
    NoInstance,
    QueueFull,
)
from ...models.functions import Version
from ..invocations.invocation import Answer, Chunks, Ended, Invocation
from . import scaling
from .backoff import Backoff
from .endings import Ending, Trouble
from .instance import Instance, Poll
from .scaling import Load, Scale

MAX_CONTENT_TYPE = 1024  # characters; a longer one is dropped, as it is kept with the answer but not counted


class Hooks(NamedTuple):
    """What a pool calls: to have instances started, to have one killed, and to report a call that is over."""

    wake: Callable[[], None]
    kill: Callable[[Instance, Ending], None]
    report: Callable[[Ended], None]


class Pool:
    """The calls and instances of one version.

    Attributes:
        instances: all that have not ended, by secret.
        least: how many are kept warm; 0 for a version that is not the newest.
        outdated_at: since when the version is not the newest; instances from before end as soon as they are idle.
        backoff: of the starts that fail.
        duration: the mean seconds of a call.
        cold_start: the mean seconds of a start.
    """

    def __init__(self, version: Version, hooks: Hooks) -> None:
        self.version = version
        self.instances: dict[str, Instance] = {}
        self.least = 0
        self.outdated_at: float | None = None
        self.backoff = Backoff()
        self.duration: float | None = None
        self.cold_start: float | None = None
        self._hooks = hooks
        self._loop = asyncio.get_running_loop()
        self._queue: dict[Invocation, None] = {}  # the oldest first
        self._free: dict[Instance, None] = {}  # with an open poll; the one that asked last is at the end

    # -- calls that wait -------------------------------------------------------------------------------------------

    def submit(self, invocation: Invocation) -> None:
        """Hand a call to a free instance, or let it wait for one; fail it if it may not wait."""
        instance = self._next_free()
        if instance is not None:
            self._hand_over(instance, invocation)
        elif self.backoff.refuses(self._loop.time()) and not self._alive():
            self._over(invocation, None, self._cannot_start())
        elif invocation.begin is None and self._is_full():
            self._over(
                invocation, None, QueueFull(f"{len(self._queue)} calls wait for {self.version.title}; try again later")
            )
        else:
            self._queue[invocation] = None
            invocation.timer = self._loop.call_later(self.version.spec.timeout, self._waited_too_long, invocation)
            self._hooks.wake()

    def _is_full(self) -> bool:
        """Return whether no more calls may wait. Asynchronous ones do not count: their queue is in the journal."""
        most = self.version.spec.queue
        return len(self._queue) >= most and sum(each.begin is None for each in self._queue) >= most

    def forget(self, invocation: Invocation) -> None:
        """Forget a call whose caller has left, if it still waits."""
        if invocation in self._queue:
            del self._queue[invocation]
            invocation.stop_timer()
            invocation.fail(NoInstance("the caller has disconnected"))

    def fail_waiting(self, error: Callable[[], HttpError]) -> None:
        """Fail all calls that wait."""
        waiting, self._queue = list(self._queue), {}
        for invocation in waiting:
            self._over(invocation, None, error())

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def waits_since(self) -> float:
        """When the oldest call that waits came."""
        return next(iter(self._queue)).queued_at if self._queue else float("inf")

    def _waited_too_long(self, invocation: Invocation) -> None:
        self._queue.pop(invocation, None)
        seconds = self.version.spec.timeout
        self._over(invocation, None, NoInstance(f"no instance of {self.version.title} was free within {seconds:g} s"))

    # -- instances that ask ----------------------------------------------------------------------------------------

    def ask(self, instance: Instance, poll: Poll) -> None:
        """Take an instance's question for its next call; it is answered at once if a call waits."""
        now = self._loop.time()
        instance.seen_at = now
        if instance.asked_at is None:
            self._started(instance, now)
        if self.version.spec.concurrency == 1:
            self.lose_all(instance, "the instance asked for the next call without answering this one")
        instance.polls.append(poll)
        self.serve(instance)

    def serve(self, instance: Instance) -> None:
        """Hand waiting calls to an instance that asks for one."""
        while self._queue and instance.takes_calls:
            invocation = next(iter(self._queue))
            del self._queue[invocation]
            self._hand_over(instance, invocation)
        if instance.polls:
            self._free.pop(instance, None)
            self._free[instance] = None
            if instance.ending or self.outdated_at is not None:
                self._hooks.wake()

    def withdraw(self, instance: Instance, poll: Poll) -> None:
        """Forget a question whose connection has closed."""
        if poll in instance.polls:
            instance.polls.remove(poll)
        if not instance.polls:
            self._free.pop(instance, None)
        instance.seen_at = self._loop.time()
        self._hooks.wake()

    def hand_back(self, instance: Instance, invocation: Invocation) -> None:
        """Let a call wait again, before all others, whose connection had closed before it was written to."""
        if instance.calls.pop(invocation.call.id, None) is None:
            return
        invocation.stop_timer()
        invocation.handed_at = None
        instance.served -= 1
        self._queue = {invocation: None, **self._queue}
        invocation.timer = self._loop.call_later(self.version.spec.timeout, self._waited_too_long, invocation)
        other = self._next_free()
        if other is not None:
            self.serve(other)
        self._hooks.wake()

    def refuse(self, instance: Instance, invocation: Invocation, error: HttpError) -> None:
        """Fail a call that could not begin; the instance did not get it."""
        if instance.calls.pop(invocation.call.id, None) is not None:
            invocation.stop_timer()
            instance.served -= 1
            invocation.fail(error)

    def resume(self, instance: Instance, invocation: Invocation, deadline: float) -> None:
        """Take up a call that an earlier process has handed over, until its deadline (seconds since 1970)."""
        invocation.handed_at = self._loop.time()
        instance.calls[invocation.call.id] = invocation
        self._set_deadline(instance, invocation, deadline)

    def start_clock(self, instance: Instance, invocation: Invocation) -> bool:
        """Let the timeout of a call begin; return False if the instance has lost it already."""
        if instance.calls.get(invocation.call.id) is not invocation:
            return False
        self._set_deadline(instance, invocation, time.time() + self.version.spec.timeout)
        return True

    def _set_deadline(self, instance: Instance, invocation: Invocation, deadline: float) -> None:
        invocation.deadline = deadline
        invocation.timer = self._loop.call_later(
            max(0.0, deadline - time.time()), self._timed_out, instance, invocation
        )

    def _next_free(self) -> Instance | None:
        """Return the instance that asked last, so that the others become idle long enough to end."""
        return next((each for each in reversed(self._free) if each.takes_calls), None)

    def _hand_over(self, instance: Instance, invocation: Invocation) -> None:
        poll = instance.polls.pop(0)
        if not instance.polls:
            self._free.pop(instance, None)
        invocation.stop_timer()
        invocation.handed_at = self._loop.time()
        first = not (instance.served or instance.adopted)
        invocation.cold = first and invocation.queued_at < (instance.asked_at or 0.0)
        instance.served += 1
        instance.calls[invocation.call.id] = invocation
        if invocation.begin is None:
            self.start_clock(instance, invocation)
        poll.answer.set_result(invocation)

    def _started(self, instance: Instance, now: float) -> None:
        instance.asked_at = now
        self.backoff.reset()
        if not instance.adopted:
            self.cold_start = scaling.mean(self.cold_start, now - instance.created_at)
        self._hooks.wake()

    # -- calls that run --------------------------------------------------------------------------------------------

    def answer(self, instance: Instance, call_id: str, body: bytes, content_type: str) -> None:
        """Answer a call of this instance; nothing if it has no such call any more, or has begun a streamed answer."""
        found = instance.calls.get(call_id)
        if found is None or found.chunks is not None:
            return
        invocation = self._take(instance, call_id)
        if invocation is not None:
            self._over(invocation, instance, self._answer(instance, invocation, body, content_type))

    def begin_stream(self, instance: Instance, call_id: str, content_type: str) -> Chunks | None:
        """Begin the streamed answer of a call; None if the caller does not take one, or the call is over."""
        invocation = instance.calls.get(call_id)
        if invocation is None or not invocation.call.streams or invocation.chunks is not None:
            return None
        chunks = Chunks()
        invocation.answer(self._answer(instance, invocation, b"", content_type, chunks))
        invocation.chunks = chunks
        return chunks

    def end_stream(self, instance: Instance, call_id: str) -> None:
        """End the streamed answer of a call."""
        invocation = self._take(instance, call_id)
        if invocation is not None and invocation.chunks is not None:
            invocation.chunks.end()
            self._over(invocation, instance, None)

    def fail(self, instance: Instance, call_id: str, error: HttpError) -> None:
        """Fail a call of this instance; nothing if it has no such call any more."""
        invocation = self._take(instance, call_id)
        if invocation is not None:
            self._over(invocation, instance, error)

    def lose(self, instance: Instance, call_id: str) -> bool:
        """Mark a call as lost, whose connection has closed; return False if it is over already.

        ``fail_lost`` fails it, once the end of the instance is known.
        """
        invocation = self._take(instance, call_id)
        if invocation is not None:
            instance.lost.append(invocation)
        return invocation is not None

    def fail_lost(self, instance: Instance, why: str, exit_code: int | None = None, lines: Sequence[str] = ()) -> None:
        """Fail the calls that an instance has lost."""
        lost, instance.lost = instance.lost, []
        for invocation in lost:
            self._over(invocation, instance, InstanceDied(why, exit_code, lines))

    def lose_all(self, instance: Instance, why: str, exit_code: int | None = None, lines: Sequence[str] = ()) -> None:
        """Fail all calls that an instance has or has lost."""
        for call_id in list(instance.calls):
            self.lose(instance, call_id)
        self.fail_lost(instance, why, exit_code, lines)

    def _take(self, instance: Instance, call_id: str) -> Invocation | None:
        invocation = instance.calls.pop(call_id, None)
        if invocation is not None:
            invocation.stop_timer()
            instance.seen_at = self._loop.time()
            self.serve(instance)  # one that asks more often than it takes calls
        return invocation

    def _timed_out(self, instance: Instance, invocation: Invocation) -> None:
        instance.calls.pop(invocation.call.id, None)
        seconds, unread = self.version.spec.timeout, invocation.chunks is not None and invocation.chunks.is_full
        self._over(
            invocation, instance, CallTimedOut(f"{self.version.title} took longer than its timeout of {seconds:g} s")
        )
        if unread:  # its reader took too long, not the instance, which is killed if it does not ask soon
            instance.seen_at = self._loop.time()
            self.serve(instance)
            self._hooks.wake()
            return
        self.lose_all(instance, "the instance was killed, because another of its calls took too long")
        self._hooks.kill(instance, "timeout")

    def _answer(
        self, instance: Instance, invocation: Invocation, body: bytes, content_type: str, chunks: Chunks | None = None
    ) -> Answer:
        taken = self._loop.time() - (invocation.handed_at or 0.0)
        run_id = instance.run_id or ""
        if len(content_type) > MAX_CONTENT_TYPE:
            content_type = ""
        return Answer(body, content_type, run_id, self.version.number, taken * 1000, invocation.cold, chunks)

    def _over(self, invocation: Invocation, instance: Instance | None, end: Answer | HttpError | None) -> None:
        """End a call with its answer, or with why there is none; None: its stream has ended."""
        run_id = instance.run_id if instance else None
        ended = invocation.conclude(self.version, end, run_id, self._loop.time())
        if ended.duration is not None and (ended.outcome == "ok" or isinstance(end, FunctionFailed)):
            self.duration = scaling.mean(self.duration, ended.duration)
        self._hooks.report(ended)

    # -- starts and ends of instances ------------------------------------------------------------------------------

    def load(self) -> Load:
        """Return what there is to do, for the decision about starts."""
        states = [each.state for each in self._alive()]
        waited = self._loop.time() - self.waits_since
        return Load(self.waiting, states.count("starting"), len(states), self.duration, self.cold_start, waited)

    def scale(self) -> Scale:
        spec = self.version.spec
        idle = spec.idle if self.outdated_at is None else min(spec.idle, scaling.IDLE_OUTDATED)
        return Scale(self.least, spec.max_instances, spec.concurrency, idle)

    def idle(self) -> list[Instance]:
        """Return the idle instances, the longest-idle first."""
        there = [each for each in self.instances.values() if each.state == "idle" and each.polls]
        return sorted(there, key=lambda each: each.seen_at)

    def start_failed(self, trouble: Trouble) -> None:
        """Note a start that failed: the next one waits, and calls that nothing else can serve fail."""
        self.backoff.failed(trouble, self._loop.time())
        if self.backoff.tells_callers and not self._alive():
            self.fail_waiting(self._cannot_start)
        self._loop.call_at(self.backoff.retry_at, self._hooks.wake)

    def allowed_again(self) -> None:
        """Start without a pause where the last start was refused by a policy that has changed."""
        if self.backoff.trouble is not None and self.backoff.trouble.reason == "policy":
            self.backoff.reset()

    def remove(self, instance: Instance) -> None:
        """Forget an instance that has ended."""
        self.instances.pop(instance.secret, None)
        self._free.pop(instance, None)

    def close_polls(self, instance: Instance) -> None:
        """Tell an instance to end: its open questions are answered with no call."""
        self._free.pop(instance, None)
        for poll in instance.polls:
            if not poll.answer.done():
                poll.answer.set_result(None)
        instance.polls.clear()

    def _alive(self) -> list[Instance]:
        return [each for each in self.instances.values() if not each.ending]

    def _cannot_start(self) -> CannotStart:
        return self.backoff.error(self.version, self._loop.time())

    def __iter__(self) -> Iterator[Instance]:
        return iter(list(self.instances.values()))
