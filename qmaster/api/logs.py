"""Logs: ``GET /logs/{id}`` and ``GET /functions/{name}/logs``, as plain text or as NDJSON."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast, get_args

import msgspec
import structlog
from tornado.iostream import StreamClosedError

from ..auth.authenticator import Authenticator, Identity
from ..errors import BadRequest, HttpError, NotFound
from ..functions.instances.logs import FunctionLog, FunctionLogs
from ..models.results import Stream
from ..runs.logs import LogQuery, LogReader, Piece, Source, note
from ..runs.service import RunService
from .base import BaseHandler
from .limits import ConnectionLimiter, Slot, set_reader_timeout
from .queries import flag

PARAMETERS = ("follow", "tail", "timestamps", "stream")
NDJSON = "application/x-ndjson"
MAX_DIGITS = 9
MAX_LINE = 1024 * 1024  # bytes; a longer line is sent in parts
PREFIX = b"[qmaster] "
STOP_WITHIN = 2.0  # seconds to send the last line to followers

_Key = tuple[str | None, Source]

log = structlog.get_logger(__name__)


class OpenLogs:
    """All open logs."""

    def __init__(self) -> None:
        self.open: set[LogHandler] = set()

    async def close(self) -> None:
        """End all logs at the stop; each says so in its last line, and ends without its last chunk."""
        tasks = [task for handler in list(self.open) for task in handler.stop()]
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_WITHIN)

    def recheck(self) -> None:
        """End the logs of tokens that may no longer read; called when the tokens have changed."""
        for handler in list(self.open):
            handler.recheck()


class LogHandler(BaseHandler):
    """A handler that sends a log."""

    def set_up(self, logs: OpenLogs, connections: ConnectionLimiter) -> None:
        """Set what each log needs; called by ``initialize``."""
        self._connections = connections
        self._identity: Identity | None = None
        self._why = "quartermaster is stopping"
        self._logs = logs
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._gone = False
        self._begun_sending = False
        self.log_fields: dict[str, str] = {}

    async def serve(self, flow: AsyncIterator[list[Piece]], writer: Writer, identity: Identity) -> None:
        """Send a log, unless its client has disconnected.

        Raises:
            TooManyConnections: too many logs are open.
        """
        if self._gone:
            return
        with self.take(identity):
            self._task = asyncio.create_task(self._send(flow, writer, identity))
            await self._task

    def take(self, identity: Identity) -> Slot:
        """Take a slot for a log of this token."""
        return self._connections.take("log", identity.name, identity.grant is not None)

    def stop(self) -> list[asyncio.Task[None]]:
        """End the log, and return the tasks to wait for."""
        if self._task is None:
            return []
        self._stopping = True
        self._task.cancel()
        return [self._task]

    def recheck(self) -> None:
        """End the log if its token is no longer valid, or may no longer read."""
        if self._identity is not None and not self._stopping:
            try:
                self.reauthorize(self._identity, "read")
            except HttpError as error:
                self.log_refusal(int(error.status), str(error))
                self._why = str(error)
                self.stop()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._gone = True
        if self._task is not None and not self._stopping:
            self._task.cancel()

    def read_query(self) -> tuple[LogQuery, Writer]:
        """Return the query, and the writer of the answer.

        Raises:
            BadRequest: a parameter is wrong.
        """
        query = self.parameters(*PARAMETERS)
        follow, timestamps = (flag(name, query.get(name)) for name in ("follow", "timestamps"))
        streams = query.get("stream", list(get_args(Stream)))
        if not set(streams) <= set(get_args(Stream)):
            raise BadRequest(f"stream: expected one of {', '.join(get_args(Stream))}")
        wanted = LogQuery(follow, _tail(query.get("tail")), tuple(cast(Stream, name) for name in sorted(set(streams))))
        accepted = self.request.headers.get("Accept", "").lower().split(",")
        ndjson = NDJSON in (one.partition(";")[0].strip() for one in accepted)
        return wanted, Ndjson() if ndjson else Plain(timestamps)

    async def _send(self, flow: AsyncIterator[list[Piece]], writer: Writer, identity: Identity) -> None:
        """Send the log at the client's pace; no more is read until it has taken what was sent."""
        self._logs.open.add(self)
        self.set_header("Content-Type", writer.media_type)
        self.set_header("X-Accel-Buffering", "no")
        set_reader_timeout(self.client_stream, 0)  # a connected client may read as slowly as it likes
        self.client_stream.set_nodelay(True)  # no line waits for the acknowledgement of the one before it
        try:
            self.reauthorize(identity, "read")  # the tokens may have changed since the call began
            async with contextlib.aclosing(cast(Any, flow)):
                async for batch in flow:
                    await self._pass_on(writer, batch)
            self.write(writer.end())
        except StreamClosedError:
            pass
        except asyncio.CancelledError:
            if self._stopping:  # else the client has disconnected
                await self._break_off(writer, f"{self._why}: the log is cut off here")
        except HttpError as error:
            if not self._begun_sending:
                raise
            await self._break_off(writer, f"the log is cut off here: {self.words_of(error)}")
        finally:
            self._logs.open.discard(self)

    async def _pass_on(self, writer: Writer, batch: list[Piece]) -> None:
        self._busy.discard(self)  # a shutdown does not wait for it
        self.look(writer)
        self.write(writer.write(batch))
        self._begun_sending = True
        await self.flush()

    def look(self, writer: Writer) -> None:
        """Tell the writer what it must know of the next batch."""

    async def _break_off(self, writer: Writer, why: str) -> None:
        """Write why, and close without the last chunk, so that no client takes the log for complete.

        A client that does not read what is buffered within ``STOP_WITHIN`` gets only the missing chunk.
        """
        self.failure = why
        with contextlib.suppress(StreamClosedError, TimeoutError):
            self.write(writer.end() + writer.write([note(why)]))
            async with asyncio.timeout(STOP_WITHIN):  # a client that does not read is not waited for
                await self.flush()
        self.client_stream.close()


class LogsHandler(LogHandler):
    """``GET /logs/{id}``."""

    def initialize(
        self,
        auth: Authenticator,
        busy: set[object],
        logs: OpenLogs,
        connections: ConnectionLimiter,
        run_service: RunService,
        log_reader: LogReader,
    ) -> None:
        super().initialize(auth, busy)
        self.set_up(logs, connections)
        self._run_service = run_service
        self._log_reader = log_reader

    async def get(self, name_or_id: str) -> None:
        self._identity = identity = self.identify(self.document(), "read")
        wanted, writer = self.read_query()
        view = await self._run_service.status(name_or_id, identity)
        self.log_fields["run"] = view.id
        await self.serve(self._log_reader.flow(view, wanted), writer, identity)


class FunctionLogsHandler(LogHandler):
    """``GET /functions/{name}/logs``."""

    def initialize(
        self,
        auth: Authenticator,
        busy: set[object],
        logs: OpenLogs,
        connections: ConnectionLimiter,
        function_logs: FunctionLogs | None,
    ) -> None:
        super().initialize(auth, busy)
        self.set_up(logs, connections)
        self._function_logs = function_logs
        self._output: FunctionLog | None = None

    async def get(self, name: str) -> None:
        self._identity = identity = self.identify(self.document(), "read")
        wanted, writer = self.read_query()
        if self._function_logs is None:
            raise NotFound("this quartermaster serves no functions; see --runtime-port")
        self.log_fields["function"] = name
        self._output = self._function_logs.open(name, wanted, identity, lambda: self.take(identity).release)
        await self.serve(self._output.batches(), writer, identity)

    def look(self, writer: Writer) -> None:
        if self._output is not None and isinstance(writer, Plain):
            writer.names_instances = self._output.several


def _tail(values: list[str] | None) -> int | None:
    if values in (None, ["all"]):
        return None
    text = values[0] if values and len(values) == 1 else ""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise BadRequest("tail: expected a whole number, or all")
    return int(text)


class Plain:
    """Writes the bytes as the job wrote them; output of another task, and our own messages, begin on a new line.

    Args:
        timestamps: whether each line begins with its time; then output of another stream begins a new line too.
    """

    media_type = "text/plain; charset=utf-8"

    def __init__(self, timestamps: bool) -> None:
        self._timestamps = timestamps
        self.names_instances = False  # whether a line of an instance begins with its name
        self._unfinished: _Key | None = None  # whose last line has no newline yet

    def write(self, pieces: Iterable[Piece]) -> bytes:
        """Return these pieces as bytes."""
        return b"".join(part for piece in pieces if piece.data for part in self._take(piece))

    def end(self) -> bytes:
        """Return what is left at the end of the log: nothing."""
        return b""

    def _take(self, piece: Piece) -> Iterable[bytes]:
        begins = not self._continues(piece)
        if begins and self._unfinished is not None:
            yield b"\n"
        if piece.source == "qmaster":
            yield PREFIX
        elif begins:
            if self.names_instances and piece.instance:
                yield piece.instance.encode() + b" "
            if self._timestamps:
                yield piece.time.encode() + b" "
        yield piece.data
        self._unfinished = None if piece.data.endswith(b"\n") else (piece.task, piece.source)

    def _continues(self, piece: Piece) -> bool:
        """Return whether a piece continues the unfinished line."""
        if self._unfinished is None or piece.source == "qmaster":
            return False
        task, source = self._unfinished
        return piece.task == task and (piece.source == source or not self._timestamps)


class _Line(msgspec.Struct, omit_defaults=True):
    time: str | None
    stream: Source
    node: str | None
    task: str | None
    line: str
    partial: bool = False
    base64: bytes | None = None  # the bytes, if they are not UTF-8
    instance: str | None = None  # the name, in the log of a function


class Ndjson:
    """Writes a JSON object for each line; its parts are joined, up to ``MAX_LINE``."""

    media_type = "application/x-ndjson"

    def __init__(self) -> None:
        self._parts: dict[_Key, tuple[Piece, list[bytes], int]] = {}

    def write(self, pieces: Iterable[Piece]) -> bytes:
        """Return the lines that these pieces complete as JSON."""
        return b"".join(line for piece in pieces for line in self._take(piece))

    def end(self) -> bytes:
        """Return the unfinished lines at the end of the log as JSON, each ``partial``."""
        rest, self._parts = list(self._parts.values()), {}
        return b"".join(_encode(first, b"".join(parts), partial=True) for first, parts, size in rest if size)

    def _take(self, piece: Piece) -> Iterable[bytes]:
        key = (piece.task, piece.source)
        first, parts, size = self._parts.pop(key, (piece, [], 0))
        parts.append(piece.data)
        size += len(piece.data)
        if not piece.data.endswith(b"\n") and size < MAX_LINE:
            self._parts[key] = (first, parts, size)
            return
        data = b"".join(parts)
        while len(data.removesuffix(b"\n")) > MAX_LINE or (len(data) >= MAX_LINE and not data.endswith(b"\n")):
            at = _cut(data)
            yield _encode(first, data[:at], partial=True)
            data = data[at:]
        if data.endswith(b"\n"):
            yield _encode(first, data[:-1])
        else:
            self._parts[key] = (first, [data], len(data))


Writer = Plain | Ndjson


def _cut(data: bytes) -> int:
    """Return where to cut a line: never inside a character."""
    at = min(MAX_LINE, len(data))
    for back in range(4):
        if at - back < len(data) and data[at - back] & 0xC0 != 0x80:
            return at - back
    return at


def _encode(piece: Piece, data: bytes, partial: bool = False) -> bytes:
    data = data.removesuffix(b"\n")
    text = data.decode(errors="replace")
    exact = None if text.encode() == data else data
    line = _Line(piece.time or None, piece.source, piece.node, piece.task, text, partial, exact, piece.instance)
    return msgspec.json.encode(line) + b"\n"
