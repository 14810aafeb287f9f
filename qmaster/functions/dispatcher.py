"""Calls of functions: from a caller to an instance, and the answer back. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from ..errors import HttpError, NoInstance
from ..models.functions import FunctionStats, InstanceCounts, Version
from ..models.responses import Service
from .instances.autoscaler import Autoscaler
from .instances.instance import Instance, Poll
from .instances.lifecycle import Lifecycle
from .instances.pool import Pool
from .invocations.invocation import Answer, Call, Chunks, Invocation
from .jobs.jobs import Jobs


class Dispatcher:
    """Hands calls to the instances that ask for them.

    Args:
        lifecycle: has the instances.
        autoscaler: starts and ends them.
        jobs: makes the calls of functions whose runtime is ``job``.
    """

    def __init__(self, lifecycle: Lifecycle, autoscaler: Autoscaler, jobs: Jobs) -> None:
        self._life = lifecycle
        self._scaler = autoscaler
        self._jobs = jobs

    # -- callers ---------------------------------------------------------------------------------------------------

    async def invoke(self, version: Version, call: Call, left: asyncio.Future[None] | None = None) -> Answer:
        """Call a version of a function, and return its answer.

        Args:
            version: what is called.
            call: what is asked.
            left: done when the caller has disconnected. A call that waits is then forgotten; one that runs goes on.

        Raises:
            CallFailed: there is no answer; the error says why.
            NotFound: the function was removed while the call waited.
        """
        return await self.attempt(version, Invocation(call, asyncio.get_running_loop().time()), left)

    async def attempt(
        self, version: Version, invocation: Invocation, left: asyncio.Future[None] | None = None
    ) -> Answer:
        """Make a call, and return its answer; arguments and errors are those of ``invoke``."""
        if self._scaler.stopping:
            raise NoInstance("quartermaster is stopping")
        submit: Callable[[Invocation], None]
        forget: Callable[[Invocation], None]
        if version.spec.runtime == "job":
            submit, forget = partial(self._jobs.submit, version), partial(self._jobs.forget, version)
        else:
            pool = self._scaler.pool(version)
            submit, forget = pool.submit, pool.forget
        if left is not None:
            left.add_done_callback(lambda _: forget(invocation))
        submit(invocation)
        try:
            return await invocation.answered
        finally:
            forget(invocation)

    def resume(self, version: Version, invocation: Invocation, run_id: str, deadline: float) -> bool:
        """Take up a call that an earlier process has handed over; ``invocation.answered`` is its outcome.

        Args:
            version: what was called.
            invocation: the call.
            run_id: of the instance.
            deadline: until when it may answer, in seconds since 1970.

        Returns:
            False if the instance is gone.
        """
        if version.spec.runtime == "job":
            return self._jobs.resume(version, invocation, run_id)
        instance = self._life.of_run(run_id)
        if instance is None or instance.version.id != version.id:
            return False
        self._pool(instance).resume(instance, invocation, deadline)
        return True

    def stats(self, name: str) -> FunctionStats:
        """Return what is going on for a function."""
        jobs = self._jobs.stats_of(name)
        pools = list(self._scaler.pools_of(name))
        return _together(self._stats(name, pools), jobs) if jobs else self._stats(name, pools)

    def all_stats(self) -> dict[str, FunctionStats]:
        """Return what is going on for the functions that were called, or are kept warm."""
        pools: dict[str, list[Pool]] = {}
        for pool in self._life.pools.values():
            pools.setdefault(pool.version.function, []).append(pool)
        stats = {name: self._stats(name, some) for name, some in pools.items()}
        for name, jobs in self._jobs.all_stats().items():
            stats[name] = _together(stats[name], jobs) if name in stats else jobs
        return stats

    def _stats(self, name: str, pools: list[Pool]) -> FunctionStats:
        states = [instance.state for pool in pools for instance in pool]
        return FunctionStats(
            instances=InstanceCounts(
                starting=states.count("starting"), idle=states.count("idle"), busy=states.count("busy")
            ),
            queued=sum(pool.waiting for pool in pools),
            last_errors=list(self._life.errors.get(name, ())),
        )

    @property
    def busy(self) -> int:
        """How many calls instances have in their hands, and how many jobs run whose caller waits."""
        calls = sum(len(instance.calls) for pool in self._life.pools.values() for instance in pool)
        return calls + self._jobs.busy

    def stop(self) -> None:
        """Hand over no more calls: those that wait fail, and those that run finish."""
        self._scaler.stopping = True
        for pool in self._life.pools.values():
            pool.fail_waiting(lambda: NoInstance("quartermaster is stopping"))
        self._jobs.stop()

    # -- listeners -------------------------------------------------------------------------------------------------

    def notice(self, view: Service) -> None:
        """Hear of a changed run."""
        self._life.notice(view)
        self._jobs.notice(view)

    def versions_changed(self, name: str) -> None:
        """Hear of a function's new, or removed, versions."""
        self._scaler.versions_changed(name)
        self._jobs.versions_changed(name)

    # -- instances -------------------------------------------------------------------------------------------------

    def instance(self, secret: str) -> Instance | None:
        """Return the instance with this secret."""
        return self._life.by_secret.get(secret)

    def ask(self, instance: Instance, user_agent: str) -> Poll:
        """Take an instance's question for its next call."""
        poll = Poll(user_agent)
        self._pool(instance).ask(instance, poll)
        return poll

    def withdraw(self, instance: Instance, poll: Poll) -> None:
        """Forget a question whose connection has closed; the instance has probably ended."""
        self._pool(instance).withdraw(instance, poll)
        self._life.look(instance)

    def hand_back(self, instance: Instance, invocation: Invocation) -> None:
        """Let a call wait again whose connection had closed before it was written to."""
        self._pool(instance).hand_back(instance, invocation)

    def refuse(self, instance: Instance, invocation: Invocation, error: HttpError) -> None:
        """Fail a call that could not begin."""
        self._pool(instance).refuse(instance, invocation, error)

    def start_clock(self, instance: Instance, invocation: Invocation) -> bool:
        """Let the timeout of a call begin that is written now; return False if the instance has lost it already."""
        return self._pool(instance).start_clock(instance, invocation)

    def answer(self, instance: Instance, call_id: str, body: bytes, content_type: str) -> None:
        """Take the answer to a call; ignore it if this instance has no such call."""
        self._pool(instance).answer(instance, call_id, body, content_type)

    def begin_stream(self, instance: Instance, call_id: str, content_type: str) -> Chunks | None:
        """Take the beginning of a streamed answer; None if it is to be collected, or nobody waits for it."""
        return self._pool(instance).begin_stream(instance, call_id, content_type)

    def end_stream(self, instance: Instance, call_id: str) -> None:
        """Take the end of a streamed answer."""
        self._pool(instance).end_stream(instance, call_id)

    def fail(self, instance: Instance, call_id: str, error: HttpError) -> None:
        """Take the error of a call; ignore it if this instance has no such call."""
        self._pool(instance).fail(instance, call_id, error)

    def init_failed(self, instance: Instance, error_type: str, message: str) -> None:
        """Hear that an instance cannot start."""
        self._life.init_failed(instance, error_type, message)

    def connection_lost(self, instance: Instance, call_id: str) -> None:
        """Hear that the connection of a call has closed, and that its client would have kept it."""
        self._life.connection_lost(instance, call_id)

    def _pool(self, instance: Instance) -> Pool:
        return self._life.pool(instance.version)


def _together(some: FunctionStats, more: FunctionStats) -> FunctionStats:
    """Return the stats of a function whose versions have different runtimes."""
    return FunctionStats(
        instances=InstanceCounts(
            starting=some.instances.starting + more.instances.starting,
            idle=some.instances.idle,
            busy=some.instances.busy + more.instances.busy,
        ),
        queued=some.queued + more.queued,
        last_errors=[*more.last_errors, *some.last_errors],
    )
