"""Start the run of an ``Idempotency-Key`` once, however often the request is sent. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from ..errors import Conflict, KeyReused, PortTaken
from ..events.journal import Journal
from ..models.requests import Key, Started
from ..models.responses import Service
from .reconciler.reconciler import Reconciler
from .views.run_view import came_to_nothing

Known = tuple[Service, str]  # a run, and the digest of the request that it was started with
LOOK_AGAIN = (0.0, 0.03, 0.1, 0.3, 1.0)  # seconds; Docker reserves a container's name before it shows the container


class IdempotencyStore:
    """Runs by key: in flight, in the cache or in the journal. Of two at once, Swarm's unique names refuse one."""

    def __init__(self, journal: Journal, reconciler: Reconciler) -> None:
        self._journal = journal
        self._reconciler = reconciler
        self._flying: dict[str, tuple[Key, asyncio.Task[Started]]] = {}

    async def once(self, key: Key, start: Callable[[], Awaitable[Started]]) -> Started:
        """Start a run, or return the run of an earlier call with the key; wait for a call in flight.

        Raises:
            KeyReused: the earlier call had another body.
            HttpError: raised by ``start``, for all calls that wait for it.
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
        except Conflict as error:
            # Another quartermaster was faster, or the answer to an earlier call was lost. Swarm checks ports before
            # names, and what has the port is there already, so one look shows whether it is this key's run.
            for pause in LOOK_AGAIN[:1] if isinstance(error, PortTaken) else LOOK_AGAIN:
                await asyncio.sleep(pause)
                await self._reconciler.look_up(key.name)
                known = await self._known(key)
                if known is not None:
                    return _replay(key, *known)
            raise

    async def _known(self, key: Key) -> Known | None:
        """Return the run of a key, but not one that never started: its caller got an error and may try again."""
        known = self._reconciler.cache.keyed(key.name)
        if known is not None and known[0].type == "container" and known[0].started_at is None:
            await self._reconciler.look_at_container(known[0].id)  # it may have been removed
            known = self._reconciler.cache.keyed(key.name)
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
        raise KeyReused("this Idempotency-Key was used with another request: use a new key for a new request")
