"""Calls that the loop makes itself, on the engine's unix socket: with no thread between, and without the SDK.

For what every run asks: a thread and the SDK take some three times as long for it (README, "Speed").
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .chunked import Chunked
from .failures import refused, translate

END = b"\r\n\r\n"
MAX_ANSWER = 1024 * 1024  # bytes
READ = 64 * 1024  # bytes at once


class Answer(NamedTuple):
    """``headers`` by their names in small letters; ``is_last``: the engine says nothing more on this connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_last: bool


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

    async def post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """POST a JSON body, once, and decode the answer. The caller bounds its time.

        Raises:
            HttpError: what the engine answered, or that it did not.
        """
        try:
            answer = await self._exchange(path, msgspec.json.encode(body), headers)
            if not 200 <= answer.status < 300:
                raise refused(answer.status, answer.body, headers)
            return msgspec.json.decode(answer.body)
        except Exception as error:  # as at the top of a thread of the pool
            raise translate(error) from error

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        async with self._room:
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
        """One on which the engine has not hung up."""
        while self._idle:
            line = self._idle.pop()
            if line.is_open:
                return line
            line.close()
        return None


class _Line:
    """One connection, on which the engine's newest version of its API is spoken, as the SDK does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._prefix = ""

    @classmethod
    async def dial(cls, socket: Path) -> _Line:
        line = cls(*await asyncio.open_unix_connection(socket, limit=READ))
        try:
            line._send("GET", "/_ping", b"", {})
            said = await line._answer()
            if said.status != HTTPStatus.OK:
                raise refused(said.status, said.body, {})
            line._prefix = f"/v{said.headers['api-version']}"
        except BaseException:
            line.close()
            raise
        return line

    @property
    def is_open(self) -> bool:
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        self._send("POST", self._prefix + path, body, {"Content-Type": "application/json", **headers})
        await self._writer.drain()
        return await self._answer()

    def close(self) -> None:
        self._writer.close()

    def _send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        fields = {"Host": "docker", "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self._writer.write("\r\n".join(lines).encode("latin-1") + body)

    async def _answer(self) -> Answer:
        head = (await self._reader.readuntil(END)).decode("latin-1")
        first, *lines = head[: -len(END)].split("\r\n")
        version, code, *_ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        told = "content-length" in headers or "transfer-encoding" in headers
        is_last = version != "HTTP/1.1" or not told or headers.get("connection", "").lower() == "close"
        return Answer(int(code), headers, await self._body(headers), is_last)

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return await self._pieces(Chunked())
        length = headers.get("content-length")
        if length is None:
            return await self._pieces(None)
        if not (length.isascii() and length.isdigit()) or int(length) > MAX_ANSWER:
            raise ValueError("the answer's length is none, or too large")
        return await self._reader.readexactly(int(length))

    async def _pieces(self, coding: Chunked | None) -> bytes:
        """To the last chunk, or where there are none to the connection's end."""
        body = bytearray()
        while not (coding and coding.done):
            data = await self._reader.read(READ)
            if not data:
                if coding:
                    raise EOFError("the answer was cut off")
                break
            body += coding.feed(data) if coding else data
            if len(body) > MAX_ANSWER:
                raise ValueError("the answer is too large")
        return bytes(body)
