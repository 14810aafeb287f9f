"""Ids of asynchronous invocations: UUIDs of version 8 that end in the address of the quartermaster that has them."""

from __future__ import annotations

import functools
import ipaddress
import secrets
import uuid

_PLACE = (1 << 48) - 1  # the last bits: an IPv4 address and a port


def new_id(address: tuple[str, int] | None) -> str:
    """Return a new id; ``address``: where the quartermaster listens, None if it is not known."""
    bits = secrets.randbits(128) & ~(_PLACE | 0xF << 76 | 0x3 << 62)
    text = f"{bits | 0x8 << 76 | 0x2 << 62 | _place(address):032x}"  # a third of the time of ``uuid.UUID``
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def address_of(invocation_id: str) -> str | None:
    """Return the IPv4 address in an id, None if it has none."""
    try:
        made = uuid.UUID(invocation_id)
    except ValueError:
        return None
    place = made.int & _PLACE
    return str(ipaddress.IPv4Address(place >> 16)) if made.version == 8 and place else None


@functools.cache
def _place(address: tuple[str, int] | None) -> int:
    try:
        host, port = address or ("", 0)
        return int(ipaddress.IPv4Address(host)) << 16 | port
    except ValueError:  # a host name, or IPv6
        return 0
