"""How many runs each token may begin in a minute. The event loop owns it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from ..errors import TooManyRuns

MINUTE = 60.0  # seconds


class Rates:
    """The runs that each owner has begun within the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun: dict[str, deque[float]] = {}

    def begin(self, owner: str, limit: int) -> None:
        """Count a run of an owner who may begin ``limit`` in a minute.

        Raises:
            TooManyRuns: it is one too many, and is not counted.
        """
        begun, now = self._begun.setdefault(owner, deque()), self._clock()
        while begun and begun[0] <= now - MINUTE:
            begun.popleft()
        if len(begun) >= limit:
            wait = max(1, math.ceil(begun[len(begun) - limit] + MINUTE - now))
            raise TooManyRuns(
                f"max_rate: this token may begin {limit} runs a minute, and has; try again in {wait} s", wait
            )
        begun.append(now)
