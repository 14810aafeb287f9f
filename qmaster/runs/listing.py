"""Listings of runs, the newest first, in pages; on request with the removed ones.

A page is built when the previous one was taken, so no listing is in memory whole. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

import msgspec

from ..events.journal import Journal
from ..events.rows import Key
from ..models.responses import Service
from .reconciler import Reconciler

MAX_REMOVED = 10_000  # removed runs in a listing
PAGE = 64 * 1024  # bytes of a page; its last run may exceed this

LATEST: Key = ("\U0010ffff", "")  # sorts after every time


class ListQuery(NamedTuple):
    """The filters of a listing. A run matches any of the statuses and names, and all labels; empty matches all.

    ``labels`` are ``str.partition("=")`` of the requested labels; without ``=``, any value of the key matches.
    ``function`` is the name of a function, to match only its instances; without it, instances match only with
    ``removed``.
    """

    statuses: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str, str], ...] = ()
    limit: int | None = None
    removed: bool = False
    function: str | None = None

    def keeps(self, view: Service) -> bool:
        """Return whether a run matches all filters."""
        return (
            self._keeps_function(view)
            and (not self.statuses or view.status in self.statuses)
            and (not self.names or view.name in self.names)
            and all(key in view.labels and (not eq or view.labels[key] == value) for key, eq, value in self.labels)
        )

    def _keeps_function(self, view: Service) -> bool:
        if self.function is not None:
            return view.function is not None and view.function.name == self.function
        return self.removed or view.function is None


class Listing:
    """Makes listings from the cache and the journal."""

    def __init__(self, journal: Journal, reconciler: Reconciler) -> None:
        self._journal = journal
        self._reconciler = reconciler
        # The listings of one token read one page at a time, so that they do not block those of others.
        self._reading: defaultdict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)

    def there(self, owner: str | None, wanted: ListQuery) -> list[Service]:
        """Return the runs that are not removed, of one owner or of all."""
        return sorted(filter(wanted.keeps, self._of(owner)), key=_key, reverse=True)[: wanted.limit]

    async def pages(self, owner: str | None, wanted: ListQuery) -> AsyncIterator[list[bytes]]:
        """Yield the runs as JSON in pages of about ``PAGE`` bytes.

        A run keeps its place in the order when it is removed meanwhile, so that none is listed twice.

        Raises:
            JournalUnwritable: the journal cannot be read.
        """
        left = MAX_REMOVED + len(self._reconciler.services()) if wanted.limit is None else wanted.limit
        async for page in self._all(owner, wanted):
            part, left = page[:left], left - len(page)
            yield part
            if left <= 0:
                return

    async def _all(self, owner: str | None, wanted: ListQuery) -> AsyncIterator[list[bytes]]:
        if not wanted.removed or (wanted.statuses and "removed" not in wanted.statuses):
            keys = [_key(view) for view in self.there(owner, wanted)]
            async for part in self._parts(keys, {}, owner, wanted):
                yield part
            return
        before: Key | None = LATEST
        while before is not None:
            # The cache first: a run removed while the journal is read is then in both, and is listed once.
            live = {key for key in map(_key, self._of(owner)) if key < before}
            async with self._reading[owner]:
                page = await self._journal.removed(before, owner, _show(wanted))
            beside = {key for key in live if page.next is None or key >= page.next}
            removed = {key: shown for key, shown in page.rows if key not in beside}
            async for part in self._parts([*beside, *removed], removed, owner, wanted):
                yield part
            before = page.next

    async def _parts(
        self, keys: list[Key], removed: dict[Key, bytes], owner: str | None, wanted: ListQuery
    ) -> AsyncIterator[list[bytes]]:
        """Yield the runs in order, each as it is when its part is built."""
        part, size = [], 0
        for key in sorted(keys, reverse=True):
            shown = removed.get(key) or await self._shown(key[1], owner, wanted)
            if shown is not None:
                part.append(shown)
                size += len(shown)
            if size >= PAGE:
                yield part
                part, size = [], 0
        yield part

    async def _shown(self, run_id: str, owner: str | None, wanted: ListQuery) -> bytes | None:
        view = self._reconciler.find(run_id, owner)
        if view is not None and view.id == run_id:
            return msgspec.json.encode(view) if wanted.keeps(view) else None
        stored = await self._journal.record(run_id, owner) if wanted.removed else None
        return stored and _show(wanted)(stored)  # it was removed a moment ago

    def _of(self, owner: str | None) -> Iterator[Service]:
        return (view for view in self._reconciler.services() if owner in (None, view.owner))


def _key(view: Service) -> Key:
    return view.created_at or "", view.id


def _show(wanted: ListQuery) -> Callable[[bytes], bytes | None]:
    """Return a function for the journal's thread: a stored run → its JSON, or None if it does not match."""

    def show(stored: bytes) -> bytes | None:
        view = msgspec.json.decode(stored, type=Service)
        return msgspec.json.encode(view) if wanted.keeps(view) else None

    return show
