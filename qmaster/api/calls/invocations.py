"""Asynchronous calls: ``GET /invocations``, ``GET`` and ``DELETE /invocations/{id}``, and redrives of dead ones."""

from __future__ import annotations

import asyncio

import msgspec

from ...auth.authenticator import Authenticator, Identity
from ...errors import BadRequest, NotFound
from ...functions.asynchronous.invoker import AsyncInvoker
from ...models.invocations import STATUSES, InvocationView
from ...models.validation import quote
from ..base import BaseHandler
from ..limits import ConnectionLimiter, Slot
from ..queries import limit, named_function, wait_seconds
from .raw import NO_FUNCTIONS

FILTERS = ("function", "status", "limit", "page")
MAX_LIMIT, LIMIT = 1000, 100
MAX_PAGE = 256  # characters of a cursor


class InvocationsHandler(BaseHandler):
    """Base of the handlers of invocations."""

    def initialize(
        self,
        auth: Authenticator,
        busy: set[object],
        asynchronous: AsyncInvoker | None,
        connections: ConnectionLimiter,
    ) -> None:
        super().initialize(auth, busy)
        self._asynchronous = asynchronous
        self._connections = connections
        self.log_fields: dict[str, str] = {}
        self._left: asyncio.Future[None] | None = None

    @property
    def asynchronous(self) -> AsyncInvoker:
        """The asynchronous calls.

        Raises:
            NotFound: this quartermaster serves no functions.
        """
        if self._asynchronous is None:
            raise NotFound(NO_FUNCTIONS)
        return self._asynchronous

    async def answer_view(self, view: InvocationView) -> None:
        self.log_fields |= {"invocation": view.id, "function": view.function}
        self.set_header("Content-Type", "application/json")
        await self.send(b'{"success":true,' + msgspec.json.encode(view)[1:] + b"\n")

    def identify_change(self) -> Identity:
        """Return who asks for a change, whose body has nothing but the token.

        Raises:
            BadRequest: it has more.
        """
        document = self.document()
        identity = self.identify(document, "invoke")
        if document:
            raise BadRequest(f"unknown field {quote(next(iter(document)))}; only token is known")
        return identity

    def hold(self, identity: Identity) -> Slot:
        """Take a slot for a call that waits.

        Raises:
            TooManyConnections: too many calls wait already.
        """
        return self._connections.take("wait", identity.name, identity.grant is not None)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._left is not None and not self._left.done():
            self._left.set_result(None)


class InvocationListHandler(InvocationsHandler):
    """``GET /invocations``."""

    async def get(self) -> None:
        identity = self.identify(self.document(), "invoke")
        query = self.parameters(*FILTERS)
        views, page = await self.asynchronous.listing(
            identity,
            named_function(query),
            _status(query.get("status")),
            limit(query.get("limit"), MAX_LIMIT) or LIMIT,
            _page(query.get("page")),
        )
        await self.answer({"success": True, "invocations": views, "next_page": page})

    head = get


class InvocationHandler(InvocationsHandler):
    """``GET`` and ``DELETE /invocations/{id}``."""

    async def get(self, invocation_id: str) -> None:
        identity = self.identify(self.document(), "invoke")
        seconds = wait_seconds(self.parameters("wait").get("wait"))
        if seconds is None:
            await self.answer_view(await self.asynchronous.get(invocation_id, identity))
            return
        with self.hold(identity):
            self._left = asyncio.get_running_loop().create_future()
            view = await self.asynchronous.when_over(invocation_id, seconds, self._left, identity)
        self.reauthorize(identity, "invoke")
        await self.answer_view(view)

    head = get

    async def delete(self, invocation_id: str) -> None:
        identity = self.identify_change()
        self.parameters()
        await self.answer_view(await self.asynchronous.cancel(invocation_id, identity))


class RedriveHandler(InvocationsHandler):
    """``POST /invocations/{id}/redrive``."""

    async def post(self, invocation_id: str) -> None:
        identity = self.identify_change()
        self.parameters()
        await self.answer_view(await self.asynchronous.redrive(invocation_id, identity))


class RedriveAllHandler(InvocationsHandler):
    """``POST /functions/{name}/redrive``."""

    async def post(self, name: str) -> None:
        identity = self.identify_change()
        page = _page(self.parameters("page").get("page"))
        redriven, following = await self.asynchronous.redrive_all(name, page, identity)
        self.log_fields |= {"function": name}
        await self.answer({"success": True, "redriven": redriven, "next_page": following})


def _status(values: list[str] | None) -> str | None:
    if values is None:
        return None
    if len(values) != 1 or values[0] not in STATUSES:
        raise BadRequest(f"status: expected one of {', '.join(STATUSES)}")
    return values[0]


def _page(values: list[str] | None) -> str | None:
    if values is None:
        return None
    if len(values) != 1 or not 0 < len(values[0]) <= MAX_PAGE:
        raise BadRequest("page: expected the next_page of a listing")
    return values[0]
