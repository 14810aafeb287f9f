"""Start the run of an ``Idempotency-Key`` once, however often it is asked for. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from ..errors import Conflict, KeyReused
from ..events.journal import Journal
from ..models.requests import Key, Started
from ..models.responses import Service
from .reconciler import Reconciler
from .status import came_to_nothing

Known = tuple[Service, str]  # a run, and the digest of the request that it was started with
LOOK_AGAIN = (0.0, 0.03, 0.1, 0.3, 1.0)  # seconds; Docker takes a container's name some time before it shows it


class IdempotencyStore:
    """Runs by their keys: in flight, in the cache, in the journal. The swarm's names decide between two at once."""

    def __init__(self, journal: Journal, reconciler: Reconciler) -> None:
        self._journal = journal
        self._reconciler = reconciler
        self._flying: dict[str, tuple[Key, asyncio.Task[Started]]] = {}

    async def once(self, key: Key, start: Callable[[], Awaitable[Started]]) -> Started:
        """Start a run, or return what an earlier call under its key has started; wait for one in flight.

        Raises:
            KeyReused: that was another request.
            HttpError: of ``start``, for all who wait for it.
        """
        flying = self._flying.get(key.name)
        if flying is not None:
            _require_same(key, flying[0].body)
            return (await asyncio.shield(flying[1]))._replace(replayed=True)
        task = asyncio.create_task(self._first(key, start))
        self._flying[key.name] = key, task
        task.add_done_callback(lambda _: self._flying.pop(key.name, None))
        return await asyncio.shield(task)

    async def _first(self, key: Key, start: Callable[[], Awaitable[Started]]) -> Started:
        known = await self._known(key)
        if known is not None:
            return _replay(key, *known)
        try:
            return await start()
        except Conflict:
            # Another quartermaster was first, or an earlier call whose answer was lost.
            for pause in LOOK_AGAIN:
                await asyncio.sleep(pause)
                await self._reconciler.look_up(key.name)
                known = await self._known(key)
                if known is not None:
                    return _replay(key, *known)
            raise

    async def _known(self, key: Key) -> Known | None:
        """Return the run of a key; one that came to nothing was answered with an error, so it is tried again."""
        known = self._reconciler.keyed(key.name)
        if known is not None and known[0].type == "container" and known[0].started_at is None:
            await self._reconciler.look_at_container(known[0].id)  # it may be gone already
            known = self._reconciler.keyed(key.name)
        if known is None:
            kept = await self._journal.keyed(key.name)
            known = (msgspec.json.decode(kept[0], type=Service), kept[1]) if kept else None
        return None if known is None or came_to_nothing(known[0]) else known


def _replay(key: Key, run: Service, body: str) -> Started:
    if not body:
        raise Conflict(f"the name {key.name!r} of this Idempotency-Key is taken by something else: use another key")
    _require_same(key, body)
    return Started(run.id, True)


def _require_same(key: Key, body: str) -> None:
    if key.body != body:
        raise KeyReused("this Idempotency-Key came with another request before: use a new key for a new request")
