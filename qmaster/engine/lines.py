"""Calls that the loop makes itself, on the engine's unix socket: with no thread between, and without the SDK.

For what every run asks: a thread and the SDK take some three times as long for it (docs/internals.md, "Speed").
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import msgspec

from ..errors import HttpError
from .answers import Answer, Incoming
from .errors import refused, translate

VERSION = re.compile(r"[0-9]+\.[0-9]+")


class Lines:
    """Connections to the engine that are kept, each for one call at a time. Belongs to the event loop.

    Args:
        socket: the engine's.
        most: how many calls are made at once.
    """

    def __init__(self, socket: Path, most: int) -> None:
        self._socket = socket
        self._room = asyncio.Semaphore(most)
        self._idle: list[_Line] = []
        self._closed = False

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        turn: Callable[[], None] = lambda: None,
    ) -> Any:
        """POST a JSON body, once, and decode the answer. The caller bounds its time.

        Args:
            turn: called when its turn has come; where it raises, nothing is sent.

        Raises:
            HttpError: what the engine answered, or that it did not.
        """
        try:
            answer = await self._exchange(path, msgspec.json.encode(body), headers, turn)
            if not 200 <= answer.status < 300:
                raise refused(answer.status, answer.body, headers, path)
            return msgspec.json.decode(answer.body)
        except HttpError:
            raise
        except Exception as error:  # as at the top of a thread of the pool
            raise translate(error) from error

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _exchange(self, path: str, body: bytes, headers: Mapping[str, str], turn: Callable[[], None]) -> Answer:
        async with self._room:
            turn()
            line = self._kept() or await _Line.dial(self._socket)
            try:
                answer = await line.post(path, body, headers)
            except BaseException:  # cancelled too: an answer that comes yet is nobody's
                line.close()
                raise
            if answer.is_last or self._closed:
                line.close()
            else:
                self._idle.append(line)
            return answer

    def _kept(self) -> _Line | None:
        """One on which the next thing that the engine says will be the answer."""
        while self._idle:
            line = self._idle.pop()
            if line.is_quiet:
                return line
            line.close()
        return None


class _Line(asyncio.Protocol):
    """One connection, on which the engine's newest version of its API is spoken, as the SDK does."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._prefix = ""
        self._poll = select.poll()
        self._incoming = Incoming()
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def dial(cls, socket: Path) -> _Line:
        line = await cls._connected(socket)
        try:
            said = await line._ask("GET", "/_ping", b"", {})
            if said.status != HTTPStatus.OK:
                raise refused(said.status, said.body, {}, "/_ping")
            version = said.headers.get("api-version", "")
            if not VERSION.fullmatch(version):
                raise ValueError("the engine tells no version of its API")
            if said.is_last:
                line.close()
                line = await cls._connected(socket)
        except BaseException:
            line.close()
            raise
        line._prefix = f"/v{version}"
        return line

    @classmethod
    async def _connected(cls, socket: Path) -> _Line:
        return (await asyncio.get_running_loop().create_unix_connection(cls, str(socket)))[1]

    @property
    def is_quiet(self) -> bool:
        """Whether the engine has neither hung up nor said anything since its answer; the loop may not know yet."""
        return not (self._transport.is_closing() or self._poll.poll(0))

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        return await self._ask("POST", self._prefix + path, body, {"Content-Type": "application/json", **headers})

    def close(self) -> None:
        """At once: what was not sent yet is not sent any more."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._poll.register(transport.get_extra_info("socket"), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():  # nobody has asked
            self.close()
            return
        try:
            answer = self._incoming.event_stream(data)
        except ValueError as error:
            self._answer.set_exception(error)
        else:
            if answer is not None:
                self._answer.set_result(answer)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        """It is over: also the answer, where that is as long as the connection."""
        if self._answer is None or self._answer.done():
            return
        if error is not None:
            self._answer.set_exception(error)
            return
        try:
            self._answer.set_result(self._incoming.end())
        except EOFError as cut:
            self._answer.set_exception(cut)

    async def _ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        if self._transport.is_closing():  # nothing would tell of it any more
            raise EOFError("the engine has hung up")
        fields = {"Host": "docker", "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self._incoming = Incoming()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write("\r\n".join(lines).encode("latin-1") + body)
        return await self._answer
