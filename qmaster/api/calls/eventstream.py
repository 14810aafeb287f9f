"""Messages of ``application/vnd.amazon.eventstream``, the framing of AWS' streamed answers. Pure."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

MEDIA_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7  # the type of a header's value
_WORD = struct.Struct("!I")
_HEADER = struct.Struct("!BH")


def event(kind: str, content_type: str, payload: bytes) -> bytes:
    """Return an event as a message.

    Args:
        kind: the event's type, such as ``PayloadChunk``.
        content_type: of the payload.
        payload: at most 16 MiB, as clients require.
    """
    headers = {":message-type": "event", ":event-type": kind, ":content-type": content_type}
    return message(headers, payload)


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return a message: its lengths and their checksum, its headers, its payload, and the checksum of all."""
    encoded = b"".join(_header(name.encode(), value.encode()) for name, value in headers.items())
    lengths = struct.pack("!II", 16 + len(encoded) + len(payload), len(encoded))
    summed = lengths + _WORD.pack(zlib.crc32(lengths)) + encoded + payload
    return summed + _WORD.pack(zlib.crc32(summed))


def _header(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + _HEADER.pack(_STRING, len(value)) + value
