"""Which addresses a callback may be sent to. Pure.

``ipaddress`` of Python 3.11 does not see the IPv4 address in most of the IPv6 addresses that carry one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Reach = Literal["global", "local", "never"]

_ORDER: tuple[Reach, ...] = ("global", "local", "never")
# Link-local, multicast and reserved addresses, and those of metadata services: of most clouds (link-local), Alibaba,
# Oracle and Azure.
_NEVER_V4 = (
    *("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    *("100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32"),
)
_LOCAL_V4 = (
    *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
)
# Metadata services of AWS and Google, Teredo (its addresses are not checked), and addresses for discarding.
_NEVER_V6 = (
    "::/128",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
    "2001::/32",
    "100::/64",
)
_LOCAL_V6 = ("::1/128", "fc00::/7", "2001:db8::/32", "64:ff9b:1::/48")
_GLOBAL_V6 = ("2000::/3", "64:ff9b::/96")
# IPv6 networks whose addresses carry an IPv4 address, with its place: how many bits follow it. IPv4-compatible,
# -mapped and -translated, NAT64 (RFC 6052, RFC 8215), 6to4.
_CARRIERS = {
    **dict.fromkeys(("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48"), 0),
    "2002::/16": 80,
}
_PLAIN = ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96")  # such an address is only another spelling
_ISATAP = (0x00005EFE, 0x02005EFE)  # bits 64 to 95 of an address


def _networks(texts: Iterable[str]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


NEVER, LOCAL, GLOBAL_V6 = _networks(_NEVER_V4 + _NEVER_V6), _networks(_LOCAL_V4 + _LOCAL_V6), _networks(_GLOBAL_V6)
CARRIERS = {ipaddress.IPv6Network(text): bits for text, bits in _CARRIERS.items()}
PLAIN = _networks(_PLAIN)


def reach(address: Address) -> Reach:
    """Return whether an address is on the internet (``global``), private or of this machine (``local``), or refused.

    Link-local addresses, and those of clouds' metadata services, are refused (``never``) in each spelling.
    """
    inner = _carried(address)
    kinds = [] if inner and any(address in network for network in PLAIN) else [_own(address)]
    return max([*kinds, _own(inner)] if inner else kinds, key=_ORDER.index)


def _own(address: Address) -> Reach:
    if any(address in network for network in NEVER):
        return "never"
    if any(address in network for network in LOCAL):
        return "local"
    if address.version == 6 and not any(address in network for network in GLOBAL_V6):
        return "never"
    return "global"


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address carries, or None."""
    if address.version == 4 or int(address) <= 1:
        return None
    for network, bits in CARRIERS.items():
        if address in network:
            return ipaddress.IPv4Address(int(address) >> bits & 0xFFFFFFFF)
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
