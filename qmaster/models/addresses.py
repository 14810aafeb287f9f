"""Pure: which addresses count as one caller, wherever something is counted by address."""

from __future__ import annotations

import ipaddress


def source(address: str) -> str:
    """The address itself; of IPv6 its /64, as whoever has one address there has all of them."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))
