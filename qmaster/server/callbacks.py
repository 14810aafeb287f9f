"""Builds the parts that send callbacks, and runs them."""

from __future__ import annotations

import asyncio
from typing import cast

import structlog

from ..background import BackgroundTasks
from ..errors import JournalUnwritable
from ..events.journal import Journal
from ..functions.asynchronous.callbacks import InvocationBodies, InvocationCallbacks
from ..functions.asynchronous.invoker import AsyncInvoker
from ..functions.asynchronous.store import InvocationStore
from ..functions.callbacks.addresses import Reach
from ..functions.callbacks.queue import CallbackQueue
from ..functions.callbacks.runs import RunBodies, RunCallbacks
from ..functions.callbacks.sender import Resolver, Sender
from ..functions.callbacks.webhooks import Receivers
from ..functions.versions.service import FunctionService
from ..runs.callbacks import CallbackStore
from ..runs.reconciler.reconciler import Reconciler

AGAIN_EVERY = 1.0  # seconds

log = structlog.get_logger(__name__)


class Callbacks:
    """The parts that send callbacks. Belongs to the event loop.

    Attributes:
        queue: sends what is due.
        of_runs: makes the callbacks of runs due; it is told of each change of a run.
    """

    def __init__(self, receivers: Receivers, store: CallbackStore, journal: Journal, reconciler: Reconciler) -> None:
        self._receivers = receivers
        self._store = store
        self._resolver = Resolver(learned=self._learn)
        self._background = BackgroundTasks("callback_host_failed")
        sender = Sender(receivers, self._resolver)
        invocations = InvocationBodies(InvocationStore(journal), lambda: journal.id)
        self.queue = CallbackQueue(store, receivers, sender, {"run": RunBodies(journal), "invocation": invocations})
        self.of_runs = RunCallbacks(store, self.queue, journal, reconciler)

    def tell_of_functions(self, functions: FunctionService, asynchronous: AsyncInvoker) -> None:
        """Check the URLs of functions, and send the callbacks of their asynchronous calls."""
        of_invocations = InvocationCallbacks(self.queue)
        functions.receivers = self._receivers
        asynchronous.at_end = of_invocations.at_end
        asynchronous.listeners.append(of_invocations.ended)

    async def run(self) -> None:
        """Send callbacks until cancelled."""
        await self._restore()
        await asyncio.gather(self._receivers.run(), self.queue.run(), self.of_runs.run())

    async def close(self) -> None:
        """Cancel what is being sent; the next process sends it again."""
        await self.of_runs.close()
        await self.queue.close()

    async def _restore(self) -> None:
        """Read how the hosts were first reached, before anything is sent to them."""
        hosts = {prefix.url.host for prefix in self._receivers.prefixes}
        while True:
            try:
                known = await self._store.hosts(hosts)
            except JournalUnwritable:
                await asyncio.sleep(AGAIN_EVERY)
            else:
                self._resolver.known |= cast(dict[str, Reach], known)
                return

    def _learn(self, host: str, reach: Reach) -> None:
        self._background.start(self._keep(host, reach), host=host)

    async def _keep(self, host: str, reach: Reach) -> None:
        try:
            await self._store.learn(host, reach)
        except JournalUnwritable as error:  # it is known until the next start
            log.warning("callback_host_not_kept", host=host, reason=str(error))
