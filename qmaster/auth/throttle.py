"""How often an address may do what is limited, such as sending wrong tokens. The event loop owns it."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

BURST = 20  # a person who pastes the wrong token, or a program that is told its new one late
REGAINED_IN = 3.0  # seconds for one more; who is told to come back, is told this (errors.TooManyWrongTokens)
MAX_ADDRESSES = 10_000


class RateLimiter:
    """Forgets the addresses that it has not heard of for the longest time, where there are too many.

    Args:
        burst: attempts that an address has at once.
        regained_in: seconds for one more.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, burst: int = BURST, regained_in: float = REGAINED_IN
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._regained_in = regained_in
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address → attempts left, and as of when

    def fail(self, address: str) -> bool:
        """Count an attempt, such as a wrong token; whether it was one too many."""
        origin, now = source(address), self._clock()
        left, since = self._left.pop(origin, (float(self._burst), now))
        left = min(self._burst, left + (now - since) / self._regained_in)
        over = left < 1
        self._left[origin] = (left if over else left - 1, now)
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
        return over


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
