"""Logs of functions: the output of the instances that a function has or had. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import msgspec

from ...auth.authenticator import Identity
from ...errors import HttpError, NotFound, TooManyConnections
from ...models.responses import Service
from ...runs.listing import Listing, ListQuery
from ...runs.logs import Batches, LogQuery, LogReader, Piece, note
from ...runs.views.run_view import has_ended
from ..versions.service import FunctionService

MAX_REMOVED = 10  # instances that are in the journal alone
MAX_PAGES = 32  # of the journal, that are searched for them
TICK = 0.5  # seconds between two looks for new instances
BUFFERED = 16  # batches of all instances together that wait for the reader

Take = Callable[[], Callable[[], None]]  # takes a slot for a followed instance, and returns what releases it


class FunctionLogs:
    """Reads the output of functions."""

    def __init__(self, functions: FunctionService, listing: Listing, reader: LogReader) -> None:
        self.functions = functions
        self.reader = reader
        self._listing = listing

    def open(self, name: str, query: LogQuery, by: Identity, take: Take) -> FunctionLog:
        """Return the log of a function.

        Args:
            name: of the function.
            query: the options of the read, for each instance.
            by: the caller.
            take: takes a slot for each instance that is followed; raises TooManyConnections.

        Raises:
            NotFound: the token sees no such function.
        """
        self.functions.get(name, by)
        return FunctionLog(self, Wanted(name, query, by), take)

    def known(self, name: str) -> list[Service]:
        """Return the instances that are in the swarm, the oldest first."""
        views = self.reader.cache.services()
        return sorted((view for view in views if _is_of(view, name)), key=_created)

    async def removed(self, name: str) -> list[Service]:
        """Return the last instances that are in the journal alone, the oldest first."""
        found: list[Service] = []
        parts = self._listing.parts(None, ListQuery(removed=True, function=name))
        async with contextlib.aclosing(cast(Any, parts)):
            searched = 0
            async for part in parts:
                views = (msgspec.json.decode(each, type=Service) for each in part.rows)
                found += [view for view in views if view.status == "removed"]
                searched += 1
                if len(found) >= MAX_REMOVED or searched >= MAX_PAGES:
                    break
        return sorted(found[:MAX_REMOVED], key=_created)


class Wanted(NamedTuple):
    """Whose output is read, how, and for whom."""

    name: str
    query: LogQuery
    by: Identity


class FunctionLog:
    """One read of a function's output: an iterator over batches.

    Attributes:
        several: whether there is output of more than one instance, so that each line needs its name.
    """

    def __init__(self, logs: FunctionLogs, wanted: Wanted, take: Take) -> None:
        self.several = False
        self._logs = logs
        self._name, self._query, self._by = wanted
        self._take = take
        self._seen: set[str] = set()  # ids of instances
        self._batches: asyncio.Queue[list[Piece]] = asyncio.Queue(BUFFERED)
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._said = False  # that not all are followed

    async def batches(self) -> Batches:
        """Yield the output so far, instance by instance; if followed, also what comes, until there is no function."""
        known = self._logs.known(self._name)
        here = {view.id for view in known}
        views = [view for view in await self._logs.removed(self._name) if view.id not in here] + known
        self.several = len(views) > 1
        yield []
        for view in views:
            if self._query.follow and not _is_over(view):
                continue
            self._seen.add(view.id)
            async for batch in self._read(view, self._query._replace(follow=False)):
                yield batch
        if self._query.follow:
            async for batch in self._follow():
                yield batch

    async def _read(self, view: Service, query: LogQuery) -> Batches:
        """Yield the output of one instance; where it cannot be read, why."""
        flow = self._logs.reader.flow(view, query)
        async with contextlib.aclosing(cast(Any, flow)):
            try:
                async for batch in flow:
                    yield [piece._replace(instance=view.name) for piece in batch]
            except HttpError as error:
                yield [note(f"the output of {view.name} cannot be read: {error}")]

    async def _follow(self) -> Batches:
        try:
            while self._is_there() or self._followed:
                self._follow_new()
                batch = await self._next()
                if batch is not None:
                    yield batch  # outside of the time limit, which would end the reader's wait
        finally:
            for task in self._followed.values():
                task.cancel()
            await asyncio.gather(*self._followed.values(), return_exceptions=True)
        while not self._batches.empty():
            yield self._batches.get_nowait()

    async def _next(self) -> list[Piece] | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK):
                return await self._batches.get()
        return None

    def _is_there(self) -> bool:
        try:
            self._logs.functions.get(self._name, self._by)
        except NotFound:
            return False
        except HttpError:  # nobody knows, for the moment
            return True
        return True

    def _follow_new(self) -> None:
        for view in self._logs.known(self._name):
            if view.id in self._seen:
                continue
            try:
                release = self._take()
            except TooManyConnections:
                self._say_once("not all instances are followed: too many logs of this token are open")
                return
            self._seen.add(view.id)
            self.several = len(self._seen) > 1
            task = asyncio.create_task(self._pump(view, release))
            self._followed[view.id] = task
            task.add_done_callback(partial(self._forget, view.id))

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._followed.pop(run_id, None)

    async def _pump(self, view: Service, release: Callable[[], None]) -> None:
        """Pass the output of one instance on, at the reader's pace."""
        try:
            async for batch in self._read(view, self._query):
                if batch:
                    await self._batches.put(batch)
        finally:
            release()

    def _say_once(self, text: str) -> None:
        if not self._said and not self._batches.full():
            self._said = True
            self._batches.put_nowait([note(text)])


def _is_of(view: Service, name: str) -> bool:
    return view.function is not None and view.function.name == name


def _is_over(view: Service) -> bool:
    return has_ended(view) or view.status == "removed"


def _created(view: Service) -> tuple[str, str]:
    return view.created_at or "", view.id
