"""How a command bears a server that goes away: it tries again, says so after a while, and gives up in the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .errors import ClientError, passes

T = TypeVar("T")

QUIET_FOR = 2.0  # seconds: a server that restarts is back by then
GIVE_UP_AFTER = 300.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


class RetryPolicy:
    """One for all that a command does with a server.

    Args:
        say: tells the user a sentence.
        clock: seconds.
        pause: waits for seconds.
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
        self._met = False

    def met(self) -> None:
        """The server has answered."""
        if self._said:
            self._say("the server is back")
        self._met, self._away_since, self._pause, self._said = True, None, FIRST_PAUSE, False

    async def bear(self, error: ClientError, said: bool = False) -> None:
        """Wait a little before the next attempt.

        Args:
            said: the user knows of it already.

        Raises:
            ClientError: the same, where another attempt is no use: a server that never answered, or not for long.
        """
        now = self._clock()
        self._away_since = self._away_since or now
        if not (self._met and passes(error)) or now - self._away_since > GIVE_UP_AFTER:
            raise error
        if not (self._said or said) and now - self._away_since > QUIET_FOR:
            self._say(f"{error}; trying again")
            said = True
        self._said = self._said or said
        await self._wait(self._pause * random.uniform(0.5, 1))  # noqa: S311 - only spreads the calls
        self._pause = min(LONGEST_PAUSE, self._pause * 2)

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the call answers, once it does."""
        while True:
            try:
                answer = await call()
            except ClientError as error:
                await self.bear(error)
            else:
                self.met()
                return answer
