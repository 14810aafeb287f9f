"""Pure: the frames of ``qmaster.v1`` as bytes, for a websocket and for Server-Sent Events, each encoded once."""

from __future__ import annotations

import re
import struct
from functools import cached_property
from typing import Literal

import msgspec
from msgspec import Struct

from ..models.responses import Node, Service, Time
from .cloudevents import CloudEvent

PROTOCOL: Literal["qmaster.v1"] = "qmaster.v1"
HEARTBEAT_EVERY = 15  # seconds

_CURSOR = re.compile(r"([0-9a-f]{8}):([0-9]{1,18})")
_TEXT_FRAME = 0x81  # FIN and opcode 1 (RFC 6455, 5.2); a server's frames are not masked


class HelloFrame(Struct, frozen=True, tag_field="type", tag="hello"):
    """The first frame; ``cursor`` is where the stream stands, ``heartbeat`` the seconds between two heartbeats."""

    protocol: Literal["qmaster.v1"]
    version: str
    cursor: str
    heartbeat: int


class SnapshotFrame(Struct, frozen=True, tag_field="type", tag="snapshot"):
    """What there is, where nothing is resumed."""

    cursor: str
    services: list[Service]
    nodes: list[Node]


class GapFrame(Struct, frozen=True, tag_field="type", tag="gap", rename={"since": "from"}):
    """Some events were missed: a snapshot follows."""

    reason: str
    since: str
    to: str


class EventFrame(Struct, frozen=True, tag_field="type", tag="event"):
    """A change."""

    cursor: str
    event: CloudEvent


class HeartbeatFrame(Struct, frozen=True, tag_field="type", tag="heartbeat", omit_defaults=True):
    """Nothing happened; ``stale_since`` is there while the engine or the journal is away."""

    cursor: str
    time: Time
    stale_since: Time | None = None


class ErrorFrame(Struct, frozen=True, tag_field="type", tag="error"):
    """Why the stream ends; ``code`` is the websocket's close code."""

    code: int
    detail: str


Message = HelloFrame | SnapshotFrame | GapFrame | EventFrame | HeartbeatFrame | ErrorFrame


class Frame:
    """One message to clients; ``websocket`` and ``sse`` are what goes on the wire.

    Args:
        kind: the frame's ``type``; also the SSE event's name, but for events, which have their own.
        payload: the JSON document of the frame.
        cursor: what the reader resumes from after it; "" where it moves nothing.
        data: what SSE carries instead of the payload: the CloudEvent alone.
        name: the SSE event's name.
    """

    def __init__(self, payload: bytes, name: str, cursor: str = "", data: bytes | None = None) -> None:
        self.payload = payload
        self._name = name
        self._cursor = cursor
        self._data = payload if data is None else data

    @cached_property
    def websocket(self) -> bytes:
        size = len(self.payload)
        if size < 126:
            head = struct.pack("!BB", _TEXT_FRAME, size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", _TEXT_FRAME, 126, size)
        else:
            head = struct.pack("!BBQ", _TEXT_FRAME, 127, size)
        return head + self.payload

    @cached_property
    def sse(self) -> bytes:
        identity = f"id: {self._cursor}\n" if self._cursor else ""
        return f"{identity}event: {self._name}\ndata: ".encode() + self._data + b"\n\n"


def event(cursor: str, kind: str, cloud_event: bytes) -> Frame:
    """An event's frame, around its CloudEvent as it stands in the journal."""
    payload = b'{"type":"event","cursor":"' + cursor.encode() + b'","event":' + cloud_event + b"}"
    return Frame(payload, kind, cursor, cloud_event)


def hello(version: str, cursor: str) -> Frame:
    """Return the first frame of a stream."""
    return _plain("hello", HelloFrame(PROTOCOL, version, cursor, HEARTBEAT_EVERY))


def snapshot(cursor: str, services: list[Service], nodes: list[Node]) -> Frame:
    """Return a frame with all services and nodes."""
    return _plain("snapshot", SnapshotFrame(cursor, services, nodes), cursor)


def gap(reason: str, since: str, to: str) -> Frame:
    """Return a frame that says which cursors cannot be resumed."""
    return _plain("gap", GapFrame(reason, since, to))


def heartbeat(cursor: str, time: str, stale_since: str | None) -> Frame:
    """Return a frame that shows the stream is alive."""
    return _plain("heartbeat", HeartbeatFrame(cursor, time, stale_since), cursor)


def error(code: int, detail: str) -> Frame:
    """Return the frame before a close."""
    return _plain("error", ErrorFrame(code, detail))


def parse_cursor(text: str) -> tuple[str, int] | None:
    """A cursor's epoch and sequence, or None where it is not a cursor."""
    found = _CURSOR.fullmatch(text)
    return (found[1], int(found[2])) if found else None


def _plain(name: str, message: Message, cursor: str = "") -> Frame:
    return Frame(msgspec.json.encode(message), name, cursor)
