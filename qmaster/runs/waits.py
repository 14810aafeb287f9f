"""Callers who wait for the end of a run. The event loop owns it."""

from __future__ import annotations

import asyncio

from ..models.responses import Service


def is_over(view: Service) -> bool:
    """Whether nothing more is to come of it: it has ended, and what it said was read, or it is gone.

    What quartermaster did not start is not read.
    """
    if view.status in ("complete", "failed"):
        return view.result is not None or view.owner is None
    return view.status == "removed"


class Waits:
    """Wakes who waits for a run that is over; ``notice`` is told of each change."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def notice(self, view: Service) -> None:
        if is_over(view):
            for future in self._waiting.pop(view.id, ()):
                _wake(future)

    async def until_over(self, view: Service, seconds: float, left: asyncio.Future[None]) -> None:
        """Return when the run is over, the time has passed, nobody waits any more, or quartermaster stops.

        Args:
            view: the run as it is now.
            seconds: how long at most.
            left: done when the caller has gone.
        """
        if is_over(view) or self._closed:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(view.id, set()).add(future)
        try:
            await asyncio.wait({future, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._forget(view.id, future)

    def close(self) -> None:
        """Nobody waits any longer."""
        self._closed = True
        for futures in list(self._waiting.values()):
            for future in list(futures):
                _wake(future)

    def _forget(self, run_id: str, future: asyncio.Future[None]) -> None:
        futures = self._waiting.get(run_id)
        if futures is not None:
            futures.discard(future)
            if not futures:
                del self._waiting[run_id]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
