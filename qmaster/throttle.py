"""How often an address may send wrong tokens. Right ones are no matter of its. The event loop owns it."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

BURST = 20  # a person who pastes the wrong token, or a program that is told its new one late
REGAINED_IN = 3.0  # seconds for one more; who is told to come back, is told this (errors.TooManyWrongTokens)
MAX_ADDRESSES = 10_000


class Throttle:
    """Forgets the addresses that it has not heard of for the longest time, where there are too many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address → attempts left, and as of when

    def fail(self, address: str) -> bool:
        """A wrong token came from there; whether that was one too many."""
        source, now = _source(address), self._clock()
        left, since = self._left.pop(source, (float(BURST), now))
        left = min(BURST, left + (now - since) / REGAINED_IN)
        over = left < 1
        self._left[source] = (left if over else left - 1, now)
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
        return over


def _source(address: str) -> str:
    """Who has an IPv6 address has its whole /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))
