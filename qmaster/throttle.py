"""How often an address may send wrong tokens. Right ones are no matter of its. The event loop owns it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from .addresses import source

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
        origin, now = source(address), self._clock()
        left, since = self._left.pop(origin, (float(BURST), now))
        left = min(BURST, left + (now - since) / REGAINED_IN)
        over = left < 1
        self._left[origin] = (left if over else left - 1, now)
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
        return over
