"""Ids of asynchronous invocations: UUIDs of version 8 that end in the address of the quartermaster that has them."""

from __future__ import annotations

import functools
import ipaddress
import secrets
import time
import uuid

_PLACE = (1 << 48) - 1  # the last bits: an IPv4 address and a port


class IdSource:
    """Makes ids that grow with time.

    The newest entries of the journal's index of them are then on one page, and not each on another one.
    """

    def __init__(self) -> None:
        self._last = 0

    def new(self, address: tuple[str, int] | None) -> str:
        """Return a new id; ``address``: where the quartermaster listens, None if it is not known."""
        self._last = max(self._last + 1, time.time_ns() >> 16)  # 66 us, also while the clock goes back: each is another
        when, bits = f"{self._last:012x}", secrets.randbits(26)
        return f"{when[:8]}-{when[8:]}-8{bits >> 14:03x}-{0x8000 | bits & 0x3FFF:04x}-{_place(address):012x}"


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
