"""The four kinds of call that services and containers share: list, inspect, do once, and create."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog

from ..errors import EngineRefused, EngineUnavailable, HttpError, NotFound
from ..limiter import acting_for
from .client import Client
from .errors import NO_API, EngineStopping, is_ambiguous, outcome_open
from .listed import Listing
from .pool import CHANGE, LISTING, Pool

T = TypeVar("T")
Json = dict[str, Any]

LOOK_AGAIN = (0.0, 0.3, 1.0)  # seconds; an answer cut off in the middle may come before its deed
LOOK_AWAY_EVERY = 0.5  # seconds; the engine may be restarting
LOOK_UNTIL = 25.0  # seconds from the call's beginning

log = structlog.get_logger(__name__)


class Calls:
    """Bounded calls through one pool. Belongs to the event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def give_up(self) -> None:
        self._pool.give_up()

    def close(self) -> None:
        self._pool.close()

    async def listing(self, work: Callable[[Client], Sequence[Json]]) -> Sequence[Json]:
        found = await self._pool.call(work, LISTING, again=True, kind="list")
        return found if isinstance(found, Listing) else _of_kind(list, found)

    async def inspect(self, work: Callable[[Client], Json]) -> Json | None:
        """What ``work`` finds, or None where Docker knows of no such thing."""
        try:
            return _of_kind(dict, await self._pool.call(work, LISTING, again=True, kind="inspect"))
        except NotFound:
            return None
        except HttpError as error:
            if is_ambiguous(error):
                return None
            raise

    async def change(self, work: Callable[[Client], object]) -> None:
        """A call that may be sent twice."""
        await self._pool.call(work, CHANGE, again=True, kind="change")

    async def remove(self, work: Callable[[Client], object]) -> None:
        """A call that ends something; that it is gone already is success."""
        try:
            await self.change(work)
        except NotFound:
            return

    async def create(self, work: Callable[[Client], str], find: Callable[[], Awaitable[str | None]]) -> str:
        """Create something and return its id; where the answer was lost, find out before saying anything.

        Args:
            work: the call, which is sent once.
            find: looks for what the call has made.
        """
        return await self._made(lambda: self._pool.call(work, CHANGE, kind="create"), find)

    async def post(
        self, path: str, body: Json, headers: Mapping[str, str], find: Callable[[], Awaitable[str | None]]
    ) -> str:
        """As ``create``, by POST of a JSON body that is answered with ``ID``."""

        async def post() -> str:
            made = _of_kind(dict, await self._pool.post(path, body, headers, CHANGE, "create"))
            if not isinstance(made.get("ID"), str):
                raise EngineRefused(NO_API)
            return str(made["ID"])

        return await self._made(post, find)

    async def _made(self, make: Callable[[], Awaitable[str]], find: Callable[[], Awaitable[str | None]]) -> str:
        until = time.monotonic() + LOOK_UNTIL
        try:
            return await make()
        except HttpError as error:
            if not outcome_open(error):
                raise
            log.warning("engine_outcome_open", reason=str(error))
            with acting_for(None):  # no queue of its owner's may keep what was made from being found
                found = await _look_for(find, until)
            if found is None:
                raise
            return found


def _of_kind(kind: type[T], found: T) -> T:
    if not isinstance(found, kind):  # whatever answers there speaks JSON, and is no engine
        raise EngineRefused(NO_API)
    return found


async def _look_for(find: Callable[[], Awaitable[str | None]], until: float) -> str | None:
    """What ``find`` finds, asked a few times; while the engine is away, until the caller has waited long enough."""
    pauses = list(LOOK_AGAIN)
    while pauses:
        await asyncio.sleep(pauses[0])
        try:
            found = await find()
        except EngineUnavailable as error:
            if time.monotonic() > until or isinstance(error, EngineStopping):
                raise
            pauses[0] = LOOK_AWAY_EVERY
            continue
        if found is not None:
            return found
        pauses.pop(0)
    return None
