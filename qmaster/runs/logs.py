"""Logs of runs: from the engine while it has them, then from the journal. Belongs to the event loop.

Each task is read once, the oldest first. If the log is followed, the log of the whole run is then followed until the
run has ended (Docker's follow of a service never ends, moby#36626). Last, each task is read once more: Docker 20.10's
follow drops a last line without a newline, and a burst's last lines arrive up to 0.26 s after the end. ``Marks`` finds
the new messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec
import structlog

from ..engine.errors import EngineTimeout
from ..engine.logs import UNREACHED, Kind, LogReaders, LogRequest, Message, OpenLog
from ..engine.services import Swarm
from ..errors import EngineUnavailable, JournalUnwritable, NodeUnreachable, NotFound
from ..events.journal import Journal
from ..models import results
from ..models.responses import Node, Service
from ..models.results import Stream, TaskOutput
from .reconciler.cache import RunCache
from .views.run_view import has_ended
from .views.task_status import WAITING

Source = Literal["stdout", "stderr", "qmaster"]
Batches = AsyncIterator[list["Piece"]]
Open = Callable[[LogRequest], OpenLog]

SILENCE = 8.0  # seconds; a node that was cut off is silent until Swarm marks it as down
TICK = 0.1  # seconds between two checks of the run
NODES_EVERY = 1.0  # seconds between two checks of the nodes, which cost more
REOPEN_AFTER = 0.5  # seconds
DISORDER = 0.1  # seconds that the times of one task's streams may be out of order
SKEW = 30.0  # seconds that the nodes' clocks may differ
BOTH: tuple[Stream, ...] = ("stdout", "stderr")

log = structlog.get_logger(__name__)


class Piece(NamedTuple):
    """A line with its newline, or part of a line without; the source ``qmaster`` marks our own notes.

    ``time`` is RFC 3339 with nanoseconds, "" if there is none; ``node`` is a name, ``task`` an id. ``instance`` is the
    name of a function's instance, in the log of a function.
    """

    time: str
    source: Source
    data: bytes
    node: str | None = None
    task: str | None = None
    instance: str | None = None


def note(text: str, node: str | None = None, task: str | None = None) -> Piece:
    """Return a note of quartermaster's own."""
    return Piece("", "qmaster", f"{text}\n".encode(), node, task)


class LogQuery(NamedTuple):
    """The options of a read of a log; ``tail`` counts messages of each task, None: all."""

    follow: bool = False
    tail: int | None = None
    streams: tuple[Stream, ...] = BOTH


class LogReader:
    """Reads the output of runs."""

    def __init__(self, swarm: Swarm, readers: LogReaders, journal: Journal, cache: RunCache) -> None:
        self.swarm = swarm
        self.readers = readers
        self.journal = journal
        self.cache = cache

    async def flow(self, view: Service, query: LogQuery) -> Batches:
        """Yield a run's output in batches; an empty batch means that the engine has answered.

        A caller that does not read to the end closes the iterator.

        Raises:
            TooManyReaders: too many logs are being read; raised first.
            HttpError: the engine does not answer.
        """
        if view.status == "removed":
            for batch in await LogStream(self, view, query, _nothing_to_open).kept():
                yield batch
            return
        with self.readers.slot() as open_log:
            async for batch in LogStream(self, view, query, open_log).batches():
                yield batch


class LogStream:
    """One read of one run's output."""

    def __init__(self, reader: LogReader, view: Service, query: LogQuery, open_log: Open) -> None:
        self._reader = reader
        self._first_view = view
        self._query = query
        self._open = open_log
        self._marks = Marks()
        self._unfinished: set[tuple[str, str]] = set()  # origins and streams whose last message was part of a line
        self._nodes: dict[str, Node] = {}  # by id, as of the last check
        self._down: set[str] = set()  # ids of nodes that a note has reported

    async def batches(self) -> Batches:
        """Yield the output so far; if followed, also the output until the run has ended."""
        complete = self._over  # before the first read: a run that ends meanwhile may have written more than it shows
        async for batch in self._read_tasks(self._query.tail):
            yield batch
        yield []
        if self._query.follow and not complete:
            async for batch in self._follow():
                yield batch
            async for batch in self._read_tasks(None):
                yield batch

    async def kept(self) -> list[list[Piece]]:
        """Return the output of a removed run from the journal."""
        outputs = await self._outputs()
        if outputs:
            return [self._pieces_of(output) for output in outputs]
        missing = "the end of its output may be missing" if self._marks else "its output was not kept"
        return [[note(f"the run was removed; {missing}")]]

    @property
    def _view(self) -> Service:
        found = self._reader.cache.find(self._first_view.id)
        return found or msgspec.structs.replace(self._first_view, status="removed")

    @property
    def _over(self) -> bool:
        view = self._view
        return has_ended(view) or view.status == "removed"

    # -- task by task ----------------------------------------------------------------------------------------------

    async def _read_tasks(self, tail: int | None) -> Batches:
        targets = await self._targets()
        if targets is None:
            view = self._view
            if view.status == "removed" or view.tasks or self._marks:
                for batch in await self.kept():
                    yield batch
            targets = []
        if self._first_view.type == "service":  # for a container, only its log shows that the engine answers
            yield []
        for target in targets:
            async for batch in self._read_or_explain(target, tail):
                yield batch

    async def _targets(self) -> list[_Target] | None:
        """List the tasks that may have output, the oldest first; None if the service has no tasks."""
        if self._first_view.type == "container":
            return [_Target(self._first_view.id)]
        tasks = await self._reader.swarm.tasks(self._first_view.id)
        self._look_at_nodes()
        targets = []
        for raw in sorted(tasks, key=lambda raw: raw.get("CreatedAt") or ""):
            node_id = raw.get("NodeID")
            if node_id and raw["Status"]["State"] not in WAITING:
                node = self._nodes.get(node_id)
                host, down = (node.hostname, node.state == "down") if node else (node_id, False)
                targets.append(_Target(raw["ID"], raw["ID"], host, down))
        return targets if tasks else None

    async def _read_or_explain(self, target: _Target, tail: int | None) -> Batches:
        """Read a task from the engine, or from the journal if its log is gone or its node cannot be reached."""
        try:
            if target.down:
                raise NodeUnreachable("it is down")
            async for batch in self._read(target, tail):
                yield batch
            return
        except NotFound:
            why = "its log is gone"
        except (NodeUnreachable, EngineTimeout) as error:
            if target.task is None:
                raise
            silent = isinstance(error, EngineTimeout)
            why = f"node {target.node} cannot be reached: {'it does not answer' if silent else error}"
        outputs = []
        with contextlib.suppress(JournalUnwritable):
            outputs = [output for output in await self._outputs() if output.task == target.task]
        yield self._pieces_of(outputs[0]) if outputs else [note(why, target.node, target.task)]

    async def _read(self, target: _Target, tail: int | None) -> Batches:
        """Yield the new messages of one task's log, without following it.

        Docker counts both streams before it leaves one out, so the tail of one stream is counted here. For a tail of 0,
        one message is read and not sent; every message after it is new.
        """
        skip, asked = 0, tail
        if tail is not None and len(self._query.streams) == 1:
            skip, asked = max(0, await self._count(target) - tail), None
        since = self._marks.earliest(target.id)
        request = target.request(self._query.streams, None if asked is None else max(1, asked), _less(since, DISORDER))
        self._marks.rewind()
        with self._open(request) as reading:
            while batch := await reading.take():
                _require_reached(batch)
                pieces = self._new(batch, target)
                if tail != 0:
                    yield pieces[skip:]
                skip = max(0, skip - len(pieces))
        if tail is not None:
            self._marks.close(target.id)

    async def _count(self, target: _Target) -> int:
        count = 0
        with self._open(target.request(self._query.streams)) as reading:
            while batch := await reading.take():
                _require_reached(batch)
                count += sum(message.source in self._query.streams for message in batch)
        return count

    # -- live ------------------------------------------------------------------------------------------------------

    async def _follow(self) -> Batches:
        """Follow the whole run until it has ended; reopen the log after the engine was away."""
        view = self._first_view
        while not self._over:
            since = _less(self._marks.earliest(), SKEW)
            self._marks.rewind()
            try:
                with self._open(LogRequest(view.type, view.id, self._query.streams, True, since=since)) as reading:
                    async for batch in self._live(reading):
                        yield batch
            except NotFound:
                return
            except EngineUnavailable as error:
                log.info("followed_log_lost", run=view.id, reason=str(error))
                await asyncio.sleep(REOPEN_AFTER)

    async def _live(self, reading: OpenLog) -> Batches:
        looked = -math.inf
        while not self._over:
            batch: list[Message] | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    batch = await reading.take()
            pieces = self._new(batch or ())
            if time.monotonic() - looked > NODES_EVERY:
                looked = time.monotonic()
                self._look_at_nodes()
                pieces += self._newly_down()
            if pieces:
                yield pieces
            if batch == []:  # the container has ended, or the engine ended the log; the cache will show which
                await asyncio.sleep(TICK)
                return

    def _newly_down(self) -> list[Piece]:
        """Return a note for each node that went down, as it sends no output."""
        down = {node.id: node.hostname for node in self._nodes.values() if node.state == "down"}
        tasks = self._view.tasks
        ours = {task.node_id for task in tasks if task.node_id and task.state == "running"} & down.keys()
        fresh = sorted(down[node_id] for node_id in ours - self._down)
        # A node that is back sends its log again; the others continue, perhaps within a long line.
        self._marks.rewind({task.id for task in tasks if task.node_id in ours ^ self._down})
        self._down = ours
        return [note(f"node {name} cannot be reached: its output is missing until it is back") for name in fresh]

    def _look_at_nodes(self) -> None:
        self._nodes = {node.id: node for node in self._reader.cache.node_views(with_reserved=False)}

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _new(self, batch: Iterable[Message], target: _Target | None = None) -> list[Piece]:
        """Return those messages that were not sent before, as pieces."""
        pieces = []
        for message in batch:
            if message.source == "engine":
                continue
            task = target.task if target else message.task
            origin = task or self._first_view.id
            if self._marks.is_new(origin, message.source, message.time):
                change = self._unfinished.discard if message.data.endswith(b"\n") else self._unfinished.add
                change((origin, message.source))
                known = self._nodes.get(message.node or "")
                node = target.node if target else known.hostname if known else message.node
                pieces.append(Piece(message.time, message.source, message.data, node, task))
        return pieces

    async def _outputs(self) -> list[TaskOutput]:
        stored = await self._reader.journal.outcome(self._first_view.id)
        if stored is None:
            return []
        outcome = results.decode(stored)
        return [*outcome.earlier, *outcome.tasks]

    def _pieces_of(self, kept: TaskOutput) -> list[Piece]:
        """Return the new part of a task's kept output, with a note if something before it was never sent or kept."""
        self._marks.rewind()
        key = kept.task or self._first_view.id
        lines = [line for line in kept.output.lines if line.stream in self._query.streams]
        first: dict[str, str] = {line.stream: line.time for line in reversed(lines)}
        unfinished = [stream for origin, stream in self._unfinished if origin == key]
        cut_within = any(self._marks.last(key, stream) == first.get(stream) for stream in unfinished)
        new = [line for line in lines if self._marks.is_new(key, line.stream, line.time)]
        pieces = [Piece(line.time, line.stream, line.data, kept.node, kept.task) for line in new]
        if kept.output.truncated and cut_within:
            # Within a long line, whose parts share a time: how many of them were not kept is not known.
            return [note("the end of its output may be missing", kept.node, kept.task), *pieces]
        if len(new) < len(lines):
            return pieces
        tail = self._query.tail
        if tail is not None and tail < len(pieces):
            return pieces[len(pieces) - tail :]
        cut = [note("only the end of its output was kept", kept.node, kept.task)] if kept.output.truncated else []
        return cut + pieces


class _Target(NamedTuple):
    """A task, or a plain container, whose ``task`` is None."""

    id: str
    task: str | None = None
    node: str | None = None
    down: bool = False

    def request(self, streams: tuple[Stream, ...], tail: int | None = None, since: str | None = None) -> LogRequest:
        kind: Kind = "task" if self.task else "container"
        return LogRequest(kind, self.id, streams, tail=tail, since=since, silence=SILENCE)


class Marks:
    """How far each stream of each origin (a task or a container) was sent, so that no message is sent twice.

    A message has no number, only a time (RFC 3339, as Docker writes it) that the parts of a long line share. So the
    messages of the last time are counted.
    """

    def __init__(self) -> None:
        self._marks: dict[tuple[str, str], tuple[str, int]] = {}
        self._again: dict[tuple[str, str], int] = {}  # messages of the last time, still to be skipped

    def __bool__(self) -> bool:
        return bool(self._marks)

    def is_new(self, origin: str, stream: str, time: str) -> bool:
        """Return whether a message is new, and count it as sent."""
        key = (origin, stream)
        last, count = self._marks.get(key, ("", 0))
        if time < last:  # a node that is back after being cut off sends its log again
            self._again[key] = count
            return False
        if time > last:
            self._again.pop(key, None)
            self._marks[key] = (time, 1)
            return True
        left = self._again.get(key, 0)
        if left:
            self._again[key] = left - 1
            return False
        self._marks[key] = (last, count + 1)
        return True

    def last(self, origin: str, stream: str) -> str | None:
        """Return the time of the last message of a stream that was sent, None if there is none."""
        return self._marks.get((origin, stream), (None, 0))[0]

    def rewind(self, origins: Collection[str] | None = None) -> None:
        """Expect messages of these origins, or of all, that were sent before, as a log is read again."""
        for key, (_, count) in self._marks.items():
            if origins is None or key[0] in origins:
                self._again[key] = count

    def close(self, origin: str) -> None:
        """Skip all messages of an origin before its last mark, on both streams."""
        times = [time for (of, _), (time, _) in self._marks.items() if of == origin]
        for stream in BOTH if times else ():
            self._marks.setdefault((origin, stream), (max(times), 0))

    def earliest(self, origin: str | None = None) -> float | None:
        """Return the earliest mark of an origin, or of all, in seconds since 1970; None if there is none."""
        times = [time for (of, _), (time, _) in self._marks.items() if time and origin in (None, of)]
        return _seconds(min(times)) if times else None


def _seconds(time: str) -> float:
    whole, _, rest = time.partition(".")
    zone = rest.lstrip("0123456789") or "Z"
    return datetime.fromisoformat(f"{whole}.{rest[:6].ljust(6, '0')}{zone}").timestamp()


def _less(at: float | None, seconds: float) -> str | None:
    return None if at is None else f"{at - seconds:.6f}"


def _require_reached(batch: Iterable[Message]) -> None:
    """Raise if Docker says that a node is unreachable; that a task was never on a node is no error."""
    for message in batch:
        if message.source == "engine" and UNREACHED.search(message.data.decode(errors="replace")):
            raise NodeUnreachable("Swarm is not connected to it")


def _nothing_to_open(request: LogRequest) -> OpenLog:
    raise NotFound("the run was removed")
