"""Listings of runs, the newest first, in pages; on request with the removed ones.

A part of a page is built when the previous one was taken, so no listing is in memory whole. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, cast

import msgspec

from ..events.journal import Journal
from ..events.rows import Key, RemovedQuery
from ..models.images import Pattern, Reference
from ..models.responses import Service, outcome
from .reconciler.cache import RunCache

MAX_REMOVED = 10_000  # removed runs in a listing without a limit
PART = 64 * 1024  # bytes of a part; its last run may exceed this
TO_THE_SECOND = len("2026-01-01T00:00:00")

LATEST: Key = ("\U0010ffff", "")  # sorts after every time


class ListQuery(NamedTuple):
    """The filters of a listing. A run matches any of the values of a filter, and all labels; empty matches all.

    Attributes:
        statuses: the statuses.
        names: the names; ``*`` in one matches any text.
        labels: ``str.partition("=")`` of the labels; without ``=``, any value of the key matches.
        limit: the most runs to list; None: all that are not removed, and ``MAX_REMOVED``.
        removed: whether to list the removed runs, and the instances of functions, too.
        function: the name of a function, to match only its instances; they match without ``removed`` too. "": no
            instances.
        owners: the names of tokens; "": what quartermaster did not start.
        reasons: the reasons.
        outcomes: how they have ended.
        images: the images, whatever the digest of a tag.
        since: the first time of creation, as ``moment`` returns it.
        until: the time of creation from which on none matches; the same.
        page: the key of the run that the listing begins behind.
    """

    statuses: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str, str], ...] = ()
    limit: int | None = None
    removed: bool = False
    function: str | None = None
    owners: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()
    images: tuple[Pattern, ...] = ()
    since: str = ""
    until: str = ""
    page: Key | None = None

    def keeps(self, view: Service) -> bool:
        """Return whether a run matches all filters."""
        return (
            self._keeps_function(view)
            and (not self.statuses or view.status in self.statuses)
            and (not self.names or view.name in self.names or self._keeps_name(view.name))
            and (not self.owners or (view.owner or "") in self.owners)
            and (not self.reasons or view.reason in self.reasons)
            and (not self.outcomes or outcome(view) in self.outcomes)
            and all(key in view.labels and (not eq or view.labels[key] == value) for key, eq, value in self.labels)
            and (not (self.since or self.until) or self._keeps_time(view.created_at))
            and (not self.images or self._keeps_image(view.image))
        )

    @property
    def before(self) -> Key:
        """The key that all runs of the listing are before; further ones may not match."""
        end = (f"{self.until[:TO_THE_SECOND]}~", "") if self.until else LATEST  # after all times of that second
        return min(end, self.page or LATEST)

    def _keeps_function(self, view: Service) -> bool:
        if self.function is not None:
            return self.function == ("" if view.function is None else view.function.name)
        return self.removed or view.function is None

    def _keeps_name(self, name: str) -> bool:
        return any("*" in pattern and fnmatchcase(name, pattern) for pattern in self.names)

    def _keeps_time(self, created: str | None) -> bool:
        at = moment(created or "")
        return created is not None and self.since <= at and (not self.until or at < self.until)

    def _keeps_image(self, image: str) -> bool:
        try:
            reference = Reference.parse(image)
        except ValueError:  # of a service that another client created from an image ID
            return False
        return any(pattern.names(reference) for pattern in self.images)


class Listed(NamedTuple):
    """Runs of a listing; ``next`` is the key of the last one if there are more."""

    views: list[Service]
    next: Key | None = None


class Part(NamedTuple):
    """Runs of a listing, as JSON; the last part has the key of the last run as ``next`` if there are more."""

    rows: list[bytes]
    next: Key | None = None


class Listing:
    """Makes listings from the cache and the journal."""

    def __init__(self, journal: Journal, cache: RunCache) -> None:
        self._journal = journal
        self._cache = cache
        # The listings of one token read one page at a time, so that they do not block those of others.
        self._reading: defaultdict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def revision(self) -> int:
        """How often the runs have changed: ``there`` returns the same until it grows."""
        return self._cache.revision

    def there(self, owner: str | None, wanted: ListQuery) -> Listed:
        """Return the runs that are not removed, of one owner or of all."""
        views = sorted(filter(wanted.keeps, self._of(owner)), key=_key, reverse=True)
        if wanted.page is not None:
            views = [view for view in views if _key(view) < wanted.page]
        if wanted.limit is None or len(views) <= wanted.limit:
            return Listed(views)
        return Listed(views[: wanted.limit], _key(views[wanted.limit - 1]))

    async def parts(self, owner: str | None, wanted: ListQuery) -> AsyncIterator[Part]:
        """Yield the runs as JSON in parts of about ``PART`` bytes.

        A run keeps its place in the order when it is removed meanwhile, so that none is listed twice.

        Raises:
            JournalUnwritable: the journal cannot be read.
        """
        left = MAX_REMOVED + len(self._cache.services()) if wanted.limit is None else wanted.limit
        last: Key | None = None
        async with contextlib.aclosing(cast(Any, self._all(owner, wanted))) as parts:
            async for rows in parts:
                shown = rows[:left]
                left, last = left - len(shown), shown[-1][0] if shown else last
                more = len(shown) < len(rows)
                yield Part([row for _, row in shown], last if more else None)
                if more:
                    return

    async def _all(self, owner: str | None, wanted: ListQuery) -> AsyncIterator[list[tuple[Key, bytes]]]:
        if not wanted.removed or (wanted.statuses and "removed" not in wanted.statuses):
            keys = [_key(view) for view in self.there(owner, wanted._replace(limit=None)).views]
            async for part in self._parts(keys[::-1], {}, owner, wanted):
                yield part
            return
        before: Key | None = wanted.before
        # The cache first: a run removed while the journal is read is then in both, and is listed once.
        live = sorted(key for key in map(_key, self._of(owner)) if key < wanted.before)
        while before is not None:
            async with self._reading[owner]:
                page = await self._journal.removed(_removed(owner, wanted, before), _show(wanted))
            at = 0 if page.next is None else bisect_left(live, page.next)
            beside, live = live[at:], live[:at]
            removed = dict(page.rows)
            for key in removed.keys() & set(beside):
                del removed[key]  # it is shown as it is in the cache
            async for part in self._parts(sorted([*beside, *removed]), removed, owner, wanted):
                yield part
            before = page.next

    async def _parts(
        self, keys: list[Key], removed: dict[Key, bytes], owner: str | None, wanted: ListQuery
    ) -> AsyncIterator[list[tuple[Key, bytes]]]:
        """Yield the runs of some keys from the last to the first, each as it is when its part is built."""
        part, size = [], 0
        for key in reversed(keys):
            shown = removed.get(key) or await self._shown(key[1], owner, wanted)
            if shown is not None:
                part.append((key, shown))
                size += len(shown)
            if size >= PART:
                yield part
                part, size = [], 0
        yield part

    async def _shown(self, run_id: str, owner: str | None, wanted: ListQuery) -> bytes | None:
        view = self._cache.find(run_id, owner)
        if view is not None and view.id == run_id:
            return msgspec.json.encode(view) if wanted.keeps(view) else None
        stored = await self._journal.record(run_id, owner) if wanted.removed else None
        return stored and _show(wanted)(stored)  # it was removed a moment ago

    def _of(self, owner: str | None) -> Iterator[Service]:
        return (view for view in self._cache.services() if owner in (None, view.owner))


def moment(time: str) -> str:
    """Return a time that the engine reports (RFC 3339 in UTC), so that it sorts."""
    whole, _, rest = time.removesuffix("Z").partition(".")
    return f"{whole}.{rest:0<9}"


def _key(view: Service) -> Key:
    return view.created_at or "", view.id


def _removed(owner: str | None, wanted: ListQuery, before: Key) -> RemovedQuery:
    """Return the journal's query for a page; it may find more than what matches."""
    owners = {owner} if owner is not None else wanted.owners
    image = wanted.images[0].literal if len(wanted.images) == 1 else ""
    return RemovedQuery(
        before=before,
        since=wanted.since[:TO_THE_SECOND],
        owner=next(iter(owners)) if len(owners) == 1 else None,
        names=sorted(wanted.names),
        reasons=sorted(wanted.reasons),
        outcomes=sorted(wanted.outcomes),
        function=wanted.function,
        image=image,
    )


def _show(wanted: ListQuery) -> Callable[[bytes], bytes | None]:
    """Return a function for the journal's thread: a stored run → its JSON, or None if it does not match."""

    def show(stored: bytes) -> bytes | None:
        view = msgspec.json.decode(stored, type=Service)
        return msgspec.json.encode(view) if wanted.keeps(view) else None

    return show
