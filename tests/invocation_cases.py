"""Stand-ins for the tests of asynchronous calls: invocations, and an invoker that keeps them in memory."""

import asyncio
import hashlib
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from qmaster.auth.authenticator import Identity
from qmaster.errors import Conflict, HttpError, KeyReused, NotFound
from qmaster.functions.asynchronous.invoker import Accepted, AsyncInvoker, Order
from qmaster.models.functions import Version
from qmaster.models.invocations import InvocationView

TIME = "2026-12-01T08:00:00.000000Z"


def invocation(invocation_id: str = "i1", **over: Any) -> InvocationView:
    given = {
        "id": invocation_id,
        "function": "resize",
        "version": 3,
        "owner": "root",
        "status": "queued",
        "created_at": TIME,
    }
    return msgspec.convert({**given, **over}, InvocationView)


class FakeInvoker(AsyncInvoker):
    """Accepts all; the test ends them. ``error`` is raised by each verb, ``gate`` holds a wait up."""

    def __init__(self) -> None:
        self.there: dict[str, InvocationView] = {}
        self.orders: list[Order] = []
        self.asked: list[tuple[Any, ...]] = []
        self.left: asyncio.Future[None] | None = None
        self.gate: asyncio.Event | None = None
        self.error: HttpError | None = None
        self.on_accept: Callable[[str], object] = lambda invocation_id: None
        self.on_wait: Callable[[str], object] = lambda invocation_id: None
        self._keys: dict[str, tuple[str, str]] = {}

    def new_id(self) -> str:
        return str(uuid.uuid4())

    async def accept(self, version: Version, order: Order, also: Callable[..., object] | None = None) -> Accepted:
        if self.error:
            raise self.error
        digest = hashlib.sha256(order.payload).hexdigest()
        known = self._keys.setdefault(order.key, (order.id, digest)) if order.key else (order.id, digest)
        if known[1] != digest:
            raise KeyReused("this Idempotency-Key was used with another body: use a new key for a new call")
        self.orders.append(order)
        view = self.there.setdefault(known[0], invocation(known[0], function=order.function, owner=order.owner))
        self.on_accept(known[0])
        return Accepted(view.id, view.status)

    def _shown(self, invocation_id: str, by: Identity) -> InvocationView:
        if self.error:
            raise self.error
        found = self.there.get(invocation_id)
        if found is None or by.name not in ("root", found.owner):
            raise NotFound("no such invocation; the quartermaster at 10.0.0.5 has it")
        return found

    async def get(self, invocation_id: str, by: Identity) -> InvocationView:
        return self._shown(invocation_id, by)

    async def when_over(
        self, invocation_id: str, seconds: float, left: asyncio.Future[None], by: Identity
    ) -> InvocationView:
        self.asked.append(("when_over", invocation_id, seconds))
        self.left = left
        self.on_wait(invocation_id)
        if self.gate:
            await self.gate.wait()
        return self._shown(invocation_id, by)

    async def listing(
        self, by: Identity, function: str | None, status: str | None, limit: int, page: str | None
    ) -> tuple[list[InvocationView], str | None]:
        self.asked.append(("listing", by.name, function, status, limit, page))
        if self.error:
            raise self.error
        start = int(page or 0)
        kept = [each for each in reversed(self.there.values()) if status in (None, each.status)]
        kept = [each for each in kept if function in (None, each.function)]
        more = str(start + limit) if len(kept) > start + limit else None
        return kept[start : start + limit], more

    async def redrive(self, invocation_id: str, by: Identity) -> InvocationView:
        return self._change(invocation_id, by, "dead", "queued")

    async def redrive_all(self, function: str, page: str | None, by: Identity) -> tuple[int, str | None]:
        """Redrives two at once."""
        self.asked.append(("redrive_all", by.name, function, page))
        if self.error:
            raise self.error
        dead = [each.id for each in self.there.values() if each.status == "dead" and each.function == function]
        for each in dead[:2]:
            self.end(each, status="queued")
        return len(dead[:2]), str(int(page or 0) + 2) if len(dead) > 2 else None

    async def cancel(self, invocation_id: str, by: Identity) -> InvocationView:
        return self._change(invocation_id, by, "queued", "cancelled")

    def _change(self, invocation_id: str, by: Identity, before: str, after: str) -> InvocationView:
        found = self._shown(invocation_id, by)
        if found.status != before:
            raise Conflict(f"the invocation is {found.status}, not {before}")
        return self.end(invocation_id, status=after)

    def end(self, invocation_id: str, **over: Any) -> InvocationView:
        """Change an invocation."""
        fields = {**msgspec.to_builtins(self.there[invocation_id]), **over}
        self.there[invocation_id] = msgspec.convert(fields, InvocationView)
        return self.there[invocation_id]
