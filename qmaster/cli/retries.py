"""Retries of calls and streams while the server is away. Event loop only."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .client import Away, ClientError, Refused

T = TypeVar("T")
TRY_AGAIN = frozenset({429, 503})
# Seconds of the retries.
QUIET_FOR = 2.0  # a restarted server is back by then
GIVE_UP_AFTER = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


def may_pass(error: ClientError) -> bool:
    """Return whether the same call may succeed later."""
    return isinstance(error, Away) or (isinstance(error, Refused) and error.status in TRY_AGAIN)


class RetryPolicy:
    """Retries while the server is away; a command has one for all of its calls.

    Args:
        say: shows the user a message.
        clock: seconds.
        pause: waits for a number of seconds.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._say = say
        self._clock = clock
        self._wait = pause
        self._away_since: float | None = None
        self._pause = FIRST_PAUSE
        self._said = False
        self._connected = False

    def succeeded(self) -> None:
        """Note that the server has answered."""
        if self._said:
            self._say("the server is back")
        self._connected, self._away_since, self._pause, self._said = True, None, FIRST_PAUSE, False

    async def failed(self, error: ClientError, said: bool = False) -> None:
        """Wait before the next attempt.

        Args:
            error: why the last one failed.
            said: whether the user has been told.

        Raises:
            ClientError: the same error, if a retry is no use, or the server has been away for ``GIVE_UP_AFTER``.
        """
        now = self._clock()
        self._away_since = self._away_since or now
        if not (self._connected and may_pass(error)) or now - self._away_since > GIVE_UP_AFTER:
            raise error
        if not (self._said or said) and now - self._away_since > QUIET_FOR:
            self._say(f"{error}; trying again")
            said = True
        self._said = self._said or said
        await self._wait(self._pause * random.uniform(0.5, 1))  # noqa: S311 - only spreads the calls
        self._pause = min(LONGEST_PAUSE, self._pause * 2)

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Call a function until it succeeds, and return what it returned."""
        while True:
            try:
                answer = await function()
            except ClientError as error:
                await self.failed(error)
            else:
                self.succeeded()
                return answer
