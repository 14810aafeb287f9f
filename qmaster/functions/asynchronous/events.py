"""Tells the event stream which asynchronous invocations have ended, also those that ended just before a crash."""

from __future__ import annotations

import asyncio
import time

import structlog

from ...errors import JournalUnwritable
from ...models.invocations import InvocationView
from ...runs.reconciler.publisher import Publisher
from .store import InvocationStore

AT_ONCE = 200  # invocations read from the journal at once
RETRY_EVERY = 1.0  # seconds

log = structlog.get_logger(__name__)


class InvocationEvents:
    """Publishes ends, in one order with all other events. Belongs to the event loop.

    Args:
        store: knows which ends are not in the stream.
        publisher: publishes them.
    """

    def __init__(self, store: InvocationStore, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher
        self._wake = asyncio.Event()
        self._since = time.time()

    def ended(self, view: InvocationView, status: str) -> None:
        """Publish an end soon. A cancelled invocation has no event."""
        if status != "cancelled":
            self._publisher.cache.ended.show(view)
            self._wake.set()

    async def run(self) -> None:
        """Publish ends until cancelled; the first are those that an earlier process did not publish."""
        told_earlier = False
        while True:
            try:
                self._wake.clear()
                told_earlier = told_earlier or await self._tell_earlier()
                while self._publisher.cache.ended.waiting:
                    await self._publisher.commit()
            except JournalUnwritable:
                await asyncio.sleep(RETRY_EVERY)
                continue
            except Exception:  # the top of the task
                log.exception("invocations_not_announced")
                await asyncio.sleep(RETRY_EVERY)
            await self._wake.wait()

    async def _tell_earlier(self) -> bool:
        while rows := await self._store.untold(self._since, AT_ONCE):
            for row in rows:
                self._publisher.cache.ended.show(row.view())
            await self._publisher.commit()
        return True
