"""The stream of events as a command reads it: Server-Sent Events, resumed from the last cursor where they break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from .client import Api, Query
from .errors import ClientError, Lost
from .retry import RetryPolicy

SILENT_FOR = 50.0  # seconds: three heartbeats


class Frame(NamedTuple):
    """``kind`` is ``snapshot``, ``gap``, …, or a CloudEvent's type; ``data`` the frame, or the CloudEvent."""

    cursor: str
    kind: str
    data: dict[str, Any]


class SseParser:
    """Bytes to frames (HTML Standard, 9.2.6), as far as quartermaster writes them."""

    def __init__(self) -> None:
        self._rest = b""

    def event_stream(self, piece: bytes) -> list[Frame]:
        *blocks, self._rest = (self._rest + piece).split(b"\n\n")
        return [_frame(block) for block in blocks if block.strip()]


def _frame(block: bytes) -> Frame:
    fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if ": " in line)
    return Frame(fields.get("id", ""), fields.get("event", ""), json.loads(fields.get("data", "{}")))


async def follow(api: Api, query: Query, since: str, retry_policy: RetryPolicy) -> AsyncIterator[Frame]:
    """All frames, for ever; after a break from where it was.

    Args:
        query: the filters.
        since: the cursor to begin after; "": a snapshot comes first.

    Raises:
        ClientError: the server refuses it, or is away for too long.
    """
    cursor = since
    while True:
        try:
            asked = [*query, *([("since", cursor)] if cursor else [])]
            async for frame in _once(api, asked):
                retry_policy.met()
                cursor = frame.cursor or cursor
                yield frame
            raise Lost(f"{api.url} ended the stream")
        except ClientError as error:
            await retry_policy.bear(error)


async def _once(api: Api, query: Query) -> AsyncIterator[Frame]:
    parser = SseParser()
    async with api.open("GET", "/events", query=query, headers={"Accept": "text/event-stream"}) as response:
        await response.check()
        pieces = response.pieces()
        while True:
            try:
                async with asyncio.timeout(SILENT_FOR):
                    piece = await anext(pieces, None)
            except TimeoutError:
                raise Lost(f"{api.url} has been silent for {SILENT_FOR:g} s") from None
            if piece is None:
                return
            for frame in parser.event_stream(piece):
                yield frame
