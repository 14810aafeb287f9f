"""Tells the event stream which functions were published and removed, also by other quartermasters and by hand."""

from __future__ import annotations

import asyncio

import structlog

from ...errors import JournalUnwritable
from ...runs.reconciler.publisher import Publisher
from .store import VersionStore

AT_ONCE = 200  # functions in one transaction of the journal
RETRY_EVERY = 1.0  # seconds

log = structlog.get_logger(__name__)


class Announcer:
    """Compares the versions with what was published before. Belongs to the event loop.

    Args:
        store: the versions; notify ``versions_changed`` of each change.
        publisher: publishes events, in one order with all others.
    """

    def __init__(self, store: VersionStore, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher
        self._changed: set[str] = set()
        self._wake = asyncio.Event()

    def versions_changed(self, name: str) -> None:
        """Schedule a look at a function."""
        self._changed.add(name)
        self._wake.set()

    async def run(self) -> None:
        """Publish the changes until cancelled; the first are those since the last process."""
        await self._store.listed.wait()
        await self._restored()
        views = self._publisher.cache.functions
        self._changed |= {*views.names(), *self._store.names()}
        while True:
            self._wake.clear()
            try:
                await self._publish()
            except JournalUnwritable:  # the changes stay unpublished, and this or another commit tries again
                await asyncio.sleep(RETRY_EVERY)
                continue
            except Exception:  # the top of the task
                log.exception("functions_not_announced")
                await asyncio.sleep(RETRY_EVERY)
            await self._wake.wait()

    async def _restored(self) -> None:
        """Wait until the reconciler has read the journal."""
        while not self._publisher.cache.restored:  # noqa: ASYNC110 - once, at the start
            await asyncio.sleep(RETRY_EVERY)

    async def _publish(self) -> None:
        while self._changed or self._publisher.cache.functions.dirty:
            names = sorted(self._changed)
            self._changed = set(names[AT_ONCE:])
            for name in names[:AT_ONCE]:
                self._show(name)
            await self._publisher.commit()

    def _show(self, name: str) -> None:
        version = self._store.latest(name)
        if version is not None or not self._store.numbers(name):  # else it needs a newer quartermaster
            self._publisher.cache.functions.show(name, version)
