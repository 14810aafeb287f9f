"""Finds, shows and stops runs. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

import msgspec
import structlog

from ..auth.authenticator import Identity, LineLimit
from ..engine.containers import OwnContainer
from ..errors import Conflict, JournalUnwritable, NotFound
from ..events.journal import Journal
from ..models import results
from ..models.responses import CallbackView, Service
from .callbacks import CallbackStore
from .reaper import Reaper
from .reconciler.reconciler import Reconciler
from .results import Waiters

# Seconds. To a token that sees only its own runs, a 404 comes after a multiple of this, so that its time does not show
# whether another owner has the run: the calls to the engine differ.
HIDDEN_STEP = 0.05
NOBODYS = "qm-nobodys"
_PLAUSIBLE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")

log = structlog.get_logger(__name__)


class RunService:
    """Finds, shows and stops services and containers.

    Args:
        journal: has the records of removed runs, and results.
        reconciler: has the others, and asks the engine for new ones.
        reaper: stops them.
        callbacks: what became of their callbacks.
        own: the container that this process runs in.

    Attributes:
        waiters: callers that wait for the end of a run; notify them of each change.
    """

    def __init__(
        self, journal: Journal, reconciler: Reconciler, reaper: Reaper, callbacks: CallbackStore, own: OwnContainer
    ) -> None:
        self.waiters = Waiters()
        self._journal = journal
        self._reconciler = reconciler
        self._cache = reconciler.cache
        self._reaper = reaper
        self._callbacks = callbacks
        self._own = own
        self._lines = LineLimit()

    async def stop(self, name_or_id: str, by: Identity) -> str:
        """Stop and remove a service or container and return its id; if it is removed already, that is success.

        Returns when the engine has accepted it; events report the end.

        Raises:
            NotFound: it does not exist, or belongs to another owner.
            Conflict: it is quartermaster itself.
        """
        if by.sees is None and name_or_id == self._own.id:
            raise _itself()
        try:
            view = await self._find(name_or_id, by)
        except NotFound:  # quartermaster's own container is not shown unless it started it
            if by.sees is None and name_or_id in await self._own.names():
                raise _itself() from None
            raise
        if view.status == "removed":
            return view.id
        if view.id in await self._own.names():
            raise _itself()
        await self._reaper.stop(view)
        log.info("run_stopped", run=view.id, name=view.name, type=view.type, owner=view.owner, by=by.name)
        return view.id

    async def status(self, name_or_id: str, by: Identity) -> Service:
        """Return one service or container, also a removed one, with its recorded output.

        Raises:
            NotFound: it does not exist, or belongs to another owner.
        """
        view = await self._find(name_or_id, by)
        whole = view.result is not None and not view.result.truncated
        if whole or not (view.result or view.status == "removed"):
            return view
        with contextlib.suppress(JournalUnwritable):
            outcome = await self._journal.outcome(view.id)
            if outcome is not None:
                return msgspec.structs.replace(view, result=results.result(results.decode(outcome)))
        return view

    async def when_over(self, name_or_id: str, seconds: float, left: asyncio.Future[None], by: Identity) -> Service:
        """Return the ``status`` when the run is over, the time has passed, or the caller has disconnected.

        Raises:
            NotFound: it does not exist, or belongs to another owner.
        """
        view = await self._find(name_or_id, by)
        await self.waiters.until_over(view, seconds, left)
        return await self.status(view.id, by)

    async def callbacks(self, view: Service) -> list[CallbackView]:
        """Return what became of the callback of a run; nothing if another quartermaster sends it."""
        if view.callback is None:
            return []
        with contextlib.suppress(JournalUnwritable):
            return await self._callbacks.views("run", view.id)
        return []

    async def _find(self, name_or_id: str, by: Identity) -> Service:
        """Return the run with this id or name, also a removed one or one that the cache does not have yet.

        Raises:
            NotFound: it does not exist, or belongs to another owner; neither the message nor the time shows which.
        """
        began = time.monotonic()
        try:
            return await self._look_for(name_or_id, by)
        except NotFound:
            if by.sees is not None:
                elapsed = time.monotonic() - began
                await asyncio.sleep(HIDDEN_STEP - elapsed % HIDDEN_STEP)
            raise

    async def _look_for(self, name_or_id: str, by: Identity) -> Service:
        if not _PLAUSIBLE.fullmatch(name_or_id):
            raise NotFound("no service or container has this id or name")
        there = self._cache.find(name_or_id, by.sees)
        if there is not None:
            return there
        with contextlib.suppress(JournalUnwritable):
            stored = await self._journal.record(name_or_id, by.sees)
            if stored is not None:
                return msgspec.json.decode(stored, type=Service)
        found = self._cache.find(name_or_id)
        if found is None:
            found = await self._reconciler.look_up(name_or_id)
        elif by.sees is not None:  # another owner's: ask the engine as for a name that does not exist
            await self._reconciler.look_up(NOBODYS)
        if found is not None and by.sees in (None, found.owner):
            return found
        if found is not None and self._lines.allows("refused", by.name):
            asked = {"asked": name_or_id, "run": found.id, "owner": found.owner}
            log.warning("refused", by=by.name, code=404, **asked, reason="the run belongs to another owner")
        elsewhere = "; a container is known only on its own engine" if _CONTAINER_ID.fullmatch(name_or_id) else ""
        raise NotFound(f"no service or container has the id or name {name_or_id!r}{elsewhere}")


def _itself() -> Conflict:
    return Conflict("this is quartermaster itself, which cannot stop itself")
