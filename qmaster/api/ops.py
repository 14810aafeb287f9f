"""Operations: ``/livez``, ``/readyz`` and ``/openapi.json`` without a token; ``/metrics`` and ``/nodes`` for root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..auth.authenticator import Authenticator
from ..errors import HttpError
from ..models.responses import Node
from .base import BaseHandler


class LiveHandler(BaseHandler):
    """``GET /livez``: whether the process answers."""

    ANY_HOST = True  # a probe uses the address as its host name
    IS_PROBE = True

    async def get(self) -> None:
        await self.answer({"success": True, "status": "alive"})

    head = get


class ReadyHandler(BaseHandler):
    """``GET /readyz``: whether runs can be started."""

    ANY_HOST = True
    IS_PROBE = True

    def initialize(self, auth: Authenticator, busy: set[object], trouble: Callable[[], HttpError | None]) -> None:
        super().initialize(auth, busy)
        self._trouble = trouble

    async def get(self) -> None:
        trouble = self._trouble()
        if trouble is not None:
            raise trouble
        await self.answer({"success": True, "status": "ready"})

    head = get


class OpenApiHandler(BaseHandler):
    """``GET /openapi.json``."""

    def initialize(self, auth: Authenticator, busy: set[object], description: bytes) -> None:
        super().initialize(auth, busy)
        self._description = description

    async def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        await self.send(self._description)

    head = get


class MetricsHandler(BaseHandler):
    """``GET /metrics``: for the root token, because it covers all owners."""

    def initialize(
        self, auth: Authenticator, busy: set[object], scrape: Callable[[str], Awaitable[tuple[bytes, str]]]
    ) -> None:
        super().initialize(auth, busy)
        self._scrape = scrape

    async def get(self) -> None:
        self.identify(self.document(), "root")
        self.parameters()
        text, media_type = await self._scrape(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", media_type)
        await self.send(text)

    head = get


class NodesHandler(BaseHandler):
    """``GET /nodes``."""

    def initialize(
        self, auth: Authenticator, busy: set[object], nodes: Callable[[], list[Node]], cursor: Callable[[], str]
    ) -> None:
        super().initialize(auth, busy)
        self._nodes = nodes
        self._cursor = cursor

    async def get(self) -> None:
        self.identify(self.document(), "root")
        self.parameters()
        await self.answer({"success": True, "cursor": self._cursor(), "nodes": self._nodes()})

    head = get
