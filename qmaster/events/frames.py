"""Pure: the frames of ``qmaster.v1`` as bytes, for websockets and Server-Sent Events. Each is encoded once."""

from __future__ import annotations

import re
import struct
from functools import cached_property
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ..models.functions import FunctionVersion
from ..models.responses import Node, Service, Time
from .cloudevents import CloudEvent

PROTOCOL: Literal["qmaster.v1"] = "qmaster.v1"
HEARTBEAT_EVERY = 15  # seconds

_CURSOR = re.compile(r"([0-9a-f]{8})(?:\.([1-9a-z][0-9a-z]{0,9}))?:([0-9]{1,18})")  # those of 0.3 have no time
_TEXT_FRAME = 0x81  # FIN and opcode 1 (RFC 6455, 5.2); a server's frames are not masked


class HelloFrame(Struct, frozen=True, tag_field="type", tag="hello"):
    """The first frame; ``cursor`` is that of the last event, ``heartbeat`` the seconds between two heartbeats."""

    protocol: Literal["qmaster.v1"]
    version: str
    cursor: str
    heartbeat: int


class SnapshotFrame(Struct, frozen=True, tag_field="type", tag="snapshot"):
    """All services and nodes that the filter matches, sent when no cursor is resumed.

    It has the functions too if the filter names their topic.
    """

    cursor: str
    services: list[Service]
    nodes: list[Node]
    functions: list[FunctionVersion] | UnsetType = UNSET


class GapFrame(Struct, frozen=True, tag_field="type", tag="gap", rename={"since": "from"}):
    """Some events were missed; a snapshot follows.

    ``resumed``: the cursor is another quartermaster's, and the events of this one since its time follow instead.
    """

    reason: str
    since: str
    to: str
    resumed: bool | UnsetType = UNSET


class EventFrame(Struct, frozen=True, tag_field="type", tag="event"):
    """A change."""

    cursor: str
    event: CloudEvent


class HeartbeatFrame(Struct, frozen=True, tag_field="type", tag="heartbeat", omit_defaults=True):
    """A sign of life; ``stale_since`` is set while the engine or the journal is away."""

    cursor: str
    time: Time
    stale_since: Time | None = None


class ErrorFrame(Struct, frozen=True, tag_field="type", tag="error"):
    """The reason for the close that follows; ``code`` is the websocket's close code."""

    code: int
    detail: str


Message = HelloFrame | SnapshotFrame | GapFrame | EventFrame | HeartbeatFrame | ErrorFrame


class Frame:
    """One message to clients; ``websocket`` and ``sse`` are its bytes on the wire.

    Args:
        payload: the JSON document of the frame.
        name: the SSE event's name.
        cursor: the cursor to resume from after this frame; "" if it has none.
        data: the data of the SSE event, if not the payload: the CloudEvent alone.
    """

    def __init__(self, payload: bytes, name: str, cursor: str = "", data: bytes | None = None) -> None:
        self.payload = payload
        self._name = name
        self._cursor = cursor
        self._data = payload if data is None else data

    @cached_property
    def websocket(self) -> bytes:
        """The frame as a websocket's text message, not masked (RFC 6455, 5.2)."""
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
        """The frame as a Server-Sent Event."""
        identity = f"id: {self._cursor}\n" if self._cursor else ""
        return f"{identity}event: {self._name}\ndata: ".encode() + self._data + b"\n\n"


def event(cursor: str, kind: str, cloud_event: bytes) -> Frame:
    """Return the frame of an event from its CloudEvent as the journal has it."""
    payload = b'{"type":"event","cursor":"' + cursor.encode() + b'","event":' + cloud_event + b"}"
    return Frame(payload, kind, cursor, cloud_event)


def hello(version: str, cursor: str) -> Frame:
    """Return the first frame of a stream."""
    return _plain("hello", HelloFrame(PROTOCOL, version, cursor, HEARTBEAT_EVERY))


def snapshot(
    cursor: str, services: list[Service], nodes: list[Node], functions: list[FunctionVersion] | None = None
) -> Frame:
    """Return a frame with all services and nodes, and with the functions unless they are None."""
    told = UNSET if functions is None else functions
    return _plain("snapshot", SnapshotFrame(cursor, services, nodes, told), cursor)


def gap(reason: str, since: str, to: str, resumed: bool = False) -> Frame:
    """Return a frame that says which events are missing."""
    return _plain("gap", GapFrame(reason, since, to, resumed or UNSET))


def heartbeat(cursor: str, time: str, stale_since: str | None) -> Frame:
    """Return a heartbeat."""
    return _plain("heartbeat", HeartbeatFrame(cursor, time, stale_since), cursor)


def error(code: int, detail: str) -> Frame:
    """Return the frame that precedes a close."""
    return _plain("error", ErrorFrame(code, detail))


def parse_cursor(text: str) -> tuple[str, int, str] | None:
    """Return the epoch, sequence and time (or "") of a cursor, or None if it is malformed."""
    found = _CURSOR.fullmatch(text)
    return (found[1], int(found[3]), found[2] or "") if found else None


def _plain(name: str, message: Message, cursor: str = "") -> Frame:
    return Frame(msgspec.json.encode(message), name, cursor)
