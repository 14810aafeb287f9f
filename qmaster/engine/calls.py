"""Calls of Docker's API: to list, inspect, create, change and remove, with limits on their time and number.

Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import structlog

from ..errors import EngineAway, EngineRefused, EngineUnavailable, HttpError, NotFound
from ..limiter import FairLimiter, acting_for
from .client import Client
from .errors import NO_API, STOPPING, EngineStopping, broken_off, is_ambiguous, outcome_open, translate

T = TypeVar("T")
Json = dict[str, Any]

LISTING = 3.0  # seconds for pings and listings
CHANGE = 25.0  # seconds for other calls
# Concurrent calls. One owner has at most half of them (see ``limiter``).
CALLS = 16
SPARE = 4  # for internal calls
REGISTRY = PULLS = CAPTURES = 8
STOPS = 64  # each lasts as long as its container's grace period

LOOK_AGAIN = (0.0, 0.3, 1.0)  # seconds; a broken answer may arrive before the engine has done its work
LOOK_AWAY_EVERY = 0.5  # seconds; the engine may be restarting
LOOK_UNTIL = 25.0  # seconds from the start of the call

log = structlog.get_logger(__name__)


class Calls:
    """Calls of one kind, with limits on their time and number, shared fairly between owners, and counted.

    Args:
        client: sends the requests.
        kind: the kind for the metrics, unless a call names another.
        slots: the number of concurrent calls.
        spare: additional slots for calls without an owner.
        suspects: whether a call without an answer means that the engine may be away; not so if a registry is slow.
    """

    def __init__(self, client: Client, kind: str, slots: int, spare: int = 0, suspects: bool = True) -> None:
        self.client = client
        self._kind = kind
        self._limiter = FairLimiter(slots, spare)
        self._suspects = suspects

    async def call(self, send: Callable[[], Awaitable[T]], within: float, kind: str = "") -> T:
        """Wait for a slot, then make a call.

        Args:
            send: makes the request.
            within: the time limit in seconds, not counting the wait for a slot.
            kind: the kind for the metrics, if another than that of all.

        Raises:
            HttpError: the engine refused, or did not answer.
            TooManyCalls: no slot was free in time; nothing was sent.
        """
        self.client.check()
        began = time.monotonic()
        give_back = await self._limiter.take()
        try:
            self.client.check()  # the engine may have gone while this call waited
            return await self.client.bounded(send(), within, kind or self._kind, began)
        except EngineAway as error:
            if self._suspects:
                self.client.suspect(error)
            raise
        finally:
            give_back()

    async def listing(self, path: str, filters: Mapping[str, Sequence[str]] | None = None, **params: str) -> bytes:
        """GET a listing and return its JSON.

        Args:
            path: of the listing.
            filters: Docker's filters.
            params: the rest of the query.
        """
        if filters:
            params["filters"] = json.dumps(filters)
        return await self.call(lambda: self.client.send("GET", path, params), LISTING, "list")

    async def inspect(self, path: str) -> Json | None:
        """GET one object; None if it does not exist."""
        try:
            return decode(await self.call(lambda: self.client.send("GET", path), LISTING, "inspect"), Json)
        except NotFound:
            return None
        except HttpError as error:
            if is_ambiguous(error):
                return None
            raise

    async def change(self, method: str, path: str, body: object = None, **params: str) -> None:
        """Make a call that is safe to repeat; repeat it once if the connection broke."""

        async def send() -> bytes:
            try:
                return await self.client.send(method, path, params, body)
            except EngineAway as error:
                if method != "POST" or not broken_off(error):  # aiohttp repeats all methods but POST
                    raise
            return await self.client.send(method, path, params, body)

        await self.call(send, CHANGE, "change")

    async def remove(self, method: str, path: str, **params: str) -> None:
        """Make a call that removes something; if it does not exist, that is success."""
        with contextlib.suppress(NotFound):
            await self.change(method, path, **params)

    async def create(
        self,
        path: str,
        body: Json,
        find: Callable[[], Awaitable[str | None]],
        headers: Mapping[str, str] | None = None,
        **params: str,
    ) -> str:
        """Create an object once and return its id; if the answer was lost, look for the object.

        Args:
            path: of the call.
            body: the object.
            find: returns the id of the object if it exists.
            headers: additional headers.
            params: the query.

        Raises:
            HttpError: it was not created, or the outcome is open; see ``outcome_open``.
        """
        until = time.monotonic() + LOOK_UNTIL
        try:
            said = await self.call(lambda: self.client.send("POST", path, params, body, headers), CHANGE, "create")
            made = decode(said, Json)
            made_id = made.get("ID") or made.get("Id")  # a service's, a container's
            if not isinstance(made_id, str):
                raise EngineRefused(NO_API)
            return made_id
        except HttpError as error:
            if not outcome_open(error):
                raise
            log.warning("engine_outcome_open", reason=str(error))
            with acting_for(None):  # the search must not wait in its owner's queue
                found = await _look_for(find, until)
            if found is None:
                raise
            return found

    def give_up(self) -> None:
        """Fail all calls that wait for a slot."""
        self._limiter.refuse(lambda: EngineStopping(STOPPING))


def segment(name: str) -> str | None:
    """Quote a name or id for a path; return None if no object can have it, as Docker would redirect the request."""
    return None if "/" in name or name in ("", ".", "..") else quote(name, safe="")


def decode(body: bytes, kind: type[T]) -> T:
    """Decode JSON.

    Raises:
        EngineRefused: it is not JSON, or of another type, so the server is no Docker engine.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise translate(error) from error


async def _look_for(find: Callable[[], Awaitable[str | None]], until: float) -> str | None:
    """Call ``find`` a few times and return its result; while the engine is away, keep trying until ``until``."""
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
