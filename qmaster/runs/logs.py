"""Where the output of a run comes from: the engine while it is there, the journal once it is gone.

Following has three parts, so that no line is lost or repeated. First what was written so far, task by task. Then the
whole service as it writes. When the cache says that all has ended, the rest, task by task. (Docker's own follow of a
service never ends, moby#36626.) Task, stream and time identify what was sent already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from ..auth.authenticator import Identity
from ..engine.errors import EngineTimeout
from ..engine.logs import UNREACHED, Kind, LogRequest, Message
from ..errors import EngineUnavailable, JournalUnwritable, NodeUnreachable, NotFound
from ..models import results
from ..models.responses import Node, Service
from ..models.results import Line, Outcome, Stream
from .marks import Marks
from .output import Piece, note
from .status import WAITING, has_ended

Json = dict[str, Any]
Batches = AsyncIterator[list[Piece]]

SILENCE = 8.0  # seconds; a node that was cut off is silent, not refused, until Swarm takes it for down
TICK = 0.1  # seconds between two looks at the cache
REOPEN_AFTER = 0.5  # seconds
SLACK = 0.1  # seconds that the times of one task's streams may be out of order
SKEW = 30.0  # seconds that the nodes' clocks may differ
BOTH: tuple[Stream, ...] = ("stdout", "stderr")

log = structlog.get_logger(__name__)


class Swarm(Protocol):
    """What the log reader needs of the swarm."""

    async def tasks(self, service_id: str | None = None) -> Sequence[Json]: ...


class Reading(Protocol):
    """An open log; leaving the context closes it. ``take`` answers nothing when it has ended."""

    def __enter__(self) -> Reading: ...
    def __exit__(self, *raised: object) -> None: ...
    async def take(self) -> list[Message]: ...


Open = Callable[[LogRequest], Reading]


class Readers(Protocol):
    """Where logs are read."""

    def slot(self) -> AbstractContextManager[Callable[[LogRequest], Any]]: ...


class Journal(Protocol):
    """What the log reader needs of the journal."""

    async def outcome(self, run_id: str) -> bytes | None: ...


class LogQuery(NamedTuple):
    """What a caller wants of a log; ``tail`` counts messages of each task, None: all."""

    follow: bool = False
    tail: int | None = None
    streams: tuple[Stream, ...] = BOTH


class Origin(NamedTuple):
    """A task, or a plain container: then ``task`` is None."""

    id: str
    task: str | None = None
    node: str | None = None
    down: bool = False


class LogReader:
    """Belongs to the event loop.

    Args:
        status: the view of a run by its id or name; raises NotFound.
        nodes: the swarm's nodes.
    """

    def __init__(
        self,
        swarm: Swarm,
        readers: Readers,
        journal: Journal,
        status: Callable[[str, Identity], Awaitable[Service]],
        nodes: Callable[[], list[Node]],
    ) -> None:
        self.swarm = swarm
        self.readers = readers
        self.journal = journal
        self.status = status
        self.nodes = nodes

    async def find(self, name_or_id: str, by: Identity) -> Service:
        """
        Raises:
            NotFound
        """
        return await self.status(name_or_id, by)

    async def flow(self, view: Service, wanted: LogQuery, by: Identity) -> Batches:
        """What a run has said, and with ``follow`` what it says until it has ended. Close it when it is left early.

        Raises:
            TooManyReaders: before anything else.
            HttpError: the engine does not answer.
        """
        if view.status == "removed":
            async for batch in _Flow(self, view, wanted, by, _nothing_to_open).kept_only():
                yield batch
            return
        with self.readers.slot() as open_log:
            async for batch in _Flow(self, view, wanted, by, open_log).all():
                yield batch


class _Flow:
    """One reading of one run's output."""

    def __init__(self, log_reader: LogReader, view: Service, wanted: LogQuery, by: Identity, open_log: Open) -> None:
        self._log_reader = log_reader
        self._view = view
        self._wanted = wanted
        self._by = by
        self._open = open_log
        self._marks = Marks()
        self._began = time.time()
        self._names: dict[str, str] = {}  # of each task's node
        self._down: set[str] = set()
        self._outcome: Outcome | None = None
        self._asked = False

    async def all(self) -> Batches:
        """An empty batch says that the engine has answered; of a container only its log is asked for."""
        origins = await self._origins()
        if self._view.type == "service":
            yield []
        async for batch in self._each(origins, self._so_far):
            yield batch
        yield []
        if not self._wanted.follow or self._over():
            return
        await self._look()  # reading so far may have taken long
        async for batch in self._live():
            yield batch
        async for batch in self._each(await self._origins(), self._rest):
            yield batch

    async def kept_only(self) -> Batches:
        """Of what is gone."""
        outcome = await self._kept()
        for batch in [self._kept_of(kept) for kept in _all(outcome)] if outcome else [self._nothing_kept()]:
            if batch:
                yield batch

    # -- what was said so far, and the rest ------------------------------------------------------------------------

    async def _each(self, origins: list[Origin] | None, read: Callable[[Origin], Batches]) -> Batches:
        """Task by task; where the service is gone, what the journal has."""
        if origins is None:
            await self._look()
            if self._view.status == "removed" or self._view.tasks or self._marks:
                async for batch in self.kept_only():
                    yield batch
            return
        for origin in origins:
            async for batch in self._of(origin, read):
                yield batch

    async def _of(self, origin: Origin, read: Callable[[Origin], Batches]) -> Batches:
        """One task's, from the journal where the engine has it no longer or its node is not there."""
        why = None
        try:
            if origin.down:
                raise NodeUnreachable("it is down")
            async for batch in read(origin):
                yield batch
        except NotFound:
            why = "its log is gone"
        except (NodeUnreachable, EngineTimeout) as error:
            if origin.task is None:
                raise
            silent = isinstance(error, EngineTimeout)
            why = f"node {origin.node} cannot be reached: {'it does not answer' if silent else error}"
        if why is not None:
            batch = await self._instead(origin, why)
            if batch:
                yield batch

    async def _so_far(self, origin: Origin) -> Batches:
        tail, skip = self._wanted.tail, 0
        if tail is not None and len(self._wanted.streams) == 1:
            # Docker counts both streams and then leaves one out: so they are counted here.
            skip = max(0, await self._count(origin) - tail)
            tail = None
        # Of a tail of 0 one message is read, and not told: from its time on all is new.
        wish = self._wish(origin, tail=None if tail is None else max(1, tail))
        async for batch in self._read(origin, wish):
            fresh, skip = batch[skip:], max(0, skip - len(batch))
            if fresh and self._wanted.tail != 0:
                yield fresh
        if self._wanted.tail is not None:
            self._marks.close(origin.id)

    async def _count(self, origin: Origin) -> int:
        count = 0
        with self._open(self._wish(origin)) as reading:
            while batch := await reading.take():
                self._heed(origin, batch)
                count += sum(message.source in self._wanted.streams for message in batch)
        return count

    async def _rest(self, origin: Origin) -> Batches:
        first = self._marks.earliest([origin.id])
        since = None if first is None else f"{first - SLACK:.6f}"
        async for batch in self._read(origin, self._wish(origin, since=since)):
            yield batch

    def _wish(self, origin: Origin, tail: int | None = None, since: str | None = None) -> LogRequest:
        kind: Kind = "task" if origin.task else "container"
        return LogRequest(kind, origin.id, self._wanted.streams, tail=tail, since=since, silence=SILENCE)

    async def _read(self, origin: Origin, wish: LogRequest) -> Batches:
        """What is new of a log that ends."""
        self._marks.rewind()
        with self._open(wish) as reading:
            while batch := await reading.take():
                self._heed(origin, batch)
                fresh = self._fresh(batch, origin)
                if fresh:
                    yield fresh

    def _heed(self, origin: Origin, batch: Iterable[Message]) -> None:
        """Docker's own words: of a node that is away; of a task that never was on one they mean nothing."""
        for message in batch:
            if message.source == "engine" and UNREACHED.search(message.data.decode(errors="replace")):
                raise NodeUnreachable("Swarm has no way to it")

    # -- as it speaks ----------------------------------------------------------------------------------------------

    async def _live(self) -> Batches:
        """Everything new, until it has ended; an engine that was away is asked again."""
        while not self._over():
            try:
                async for batch in self._follow():
                    yield batch
            except NotFound:
                await self._look()
                return
            except EngineUnavailable as error:
                log.info("followed_log_lost", run=self._view.id, reason=str(error))
                await asyncio.sleep(REOPEN_AFTER)
            await self._look()

    async def _follow(self) -> Batches:
        self._marks.rewind()
        kind = self._view.type
        with self._open(
            LogRequest(kind, self._view.id, self._wanted.streams, follow=True, since=self._since())
        ) as reading:
            looked = 0.0
            while True:
                batch: list[Message] | None = None
                try:
                    async with asyncio.timeout(TICK):
                        batch = await reading.take()
                except TimeoutError:
                    pass
                fresh = self._fresh(batch) if batch else []
                if fresh:
                    yield fresh
                if time.monotonic() - looked > TICK:
                    looked = time.monotonic()
                    await self._look()
                    notes = self._cut_off()
                    if notes:
                        yield notes
                if self._over():
                    return
                if batch == []:  # a container's ends with it; else the engine has ended it
                    await asyncio.sleep(TICK)
                    return

    def _since(self) -> str | None:
        """A time that nothing new is older than."""
        first = self._marks.earliest()
        if first is None:
            return None
        since = first - SLACK
        if any(self._marks.earliest([task.id]) is None for task in self._view.tasks):
            since = min(since, self._began - SKEW)  # what such a task has said meanwhile
        return f"{since:.6f}"

    def _cut_off(self) -> list[Piece]:
        """Words about nodes that went down since the last look: their silence would say nothing."""
        down = {node.id: node.hostname for node in self._log_reader.nodes() if node.state == "down"}
        ours = {task.node_id for task in self._view.tasks if task.node_id in down and task.state == "running"}
        fresh = sorted(down[i] for i in ours if i is not None and i not in self._down)
        if self._down - ours or fresh:
            self._marks.rewind()  # a node that comes back begins anew
        self._down = {i for i in ours if i is not None}
        return [note(f"node {name} cannot be reached: what runs there is not heard until it is back") for name in fresh]

    # -- the view --------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        try:
            self._view = await self._log_reader.status(self._view.id, self._by)
        except NotFound:
            self._view = msgspec.structs.replace(self._view, status="removed")

    def _over(self) -> bool:
        return has_ended(self._view) or self._view.status == "removed"

    async def _origins(self) -> list[Origin] | None:
        """Its tasks that may have said something, the oldest first; None where it has none at all."""
        if self._view.type == "container":
            return [Origin(self._view.id)]
        tasks = await self._log_reader.swarm.tasks(self._view.id)
        if not tasks:
            return None
        nodes = {node.id: node for node in self._log_reader.nodes()}
        found = []
        for raw in sorted(tasks, key=lambda raw: raw.get("CreatedAt") or ""):
            node = nodes.get(raw.get("NodeID") or "")
            name = node.hostname if node else raw.get("NodeID")
            if name:
                self._names[raw["ID"]] = name
            if raw.get("NodeID") and raw["Status"]["State"] not in WAITING:
                found.append(Origin(raw["ID"], raw["ID"], name, node is not None and node.state == "down"))
        return found

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _fresh(self, batch: Iterable[Message], origin: Origin | None = None) -> list[Piece]:
        """The messages that were not told before."""
        fresh = []
        for message in batch:
            if message.source == "engine":
                continue
            task = origin.task if origin else message.task
            key = task or self._view.id
            if self._marks.fresh(key, message.source, message.time):
                node = origin.node if origin else self._node_name(task, message.node)
                fresh.append(Piece(message.time, message.source, message.data, node, task))
        return fresh

    def _node_name(self, task: str | None, node_id: str | None) -> str | None:
        if task is None:
            return None
        if task not in self._names and node_id is not None:
            names = {node.id: node.hostname for node in self._log_reader.nodes()}
            self._names[task] = names.get(node_id, node_id)
        return self._names.get(task)

    # -- what the journal has --------------------------------------------------------------------------------------

    async def _kept(self) -> Outcome | None:
        if not self._asked:
            self._asked = True
            stored = await self._log_reader.journal.outcome(self._view.id)
            self._outcome = results.decode(stored) if stored is not None else None
        return self._outcome

    def _kept_of(self, kept: results.TaskOutput) -> list[Piece]:
        """What is new of it; where there is none of what was told, something may be missing in between."""
        self._marks.rewind()
        key = kept.task or self._view.id
        lines = [line for line in kept.output.lines if line.stream in self._wanted.streams]
        fresh = [line for line in lines if self._marks.fresh(key, line.stream, line.time)]
        told = []
        if len(fresh) == len(lines):  # nothing was told before
            tail = len(lines) if self._wanted.tail is None else min(self._wanted.tail, len(lines))
            fresh = fresh[len(fresh) - tail :]
            if kept.output.truncated and tail == len(lines):
                told = [note("only the end of its output was kept", kept.node, kept.task)]
        return told + [_piece(line, kept) for line in fresh]

    def _nothing_kept(self) -> list[Piece]:
        if self._marks:
            return [note("it is gone: the end of its output may be missing")]
        return [note("it is gone, and nothing of its output was kept")]

    async def _instead(self, origin: Origin, why: str) -> list[Piece]:
        """What the journal has of a task; else why there is nothing."""
        try:
            outcome = await self._kept()
        except JournalUnwritable:
            outcome = None
        for kept in _all(outcome) if outcome else ():
            if kept.task == origin.task:
                return self._kept_of(kept)
        return [note(why, origin.node, origin.task)]


def _nothing_to_open(wish: LogRequest) -> Reading:
    raise NotFound("it is gone")


def _all(outcome: Outcome) -> list[results.TaskOutput]:
    return [*outcome.earlier, *outcome.tasks]


def _piece(line: Line, kept: results.TaskOutput) -> Piece:
    return Piece(line.time, line.stream, line.data, kept.node, kept.task)
