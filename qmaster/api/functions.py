"""Functions: ``PUT``, ``GET`` and ``DELETE /functions/{name}``, their list, their versions, and the rollback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

import msgspec

from ..auth.authenticator import Authenticator
from ..errors import BadRequest, NotFound
from ..functions.versions.service import FunctionService, Published
from ..models import functions, requests
from ..models.functions import RollbackRequest
from ..models.validation import quote
from .base import BaseHandler

ENCODED_AT_ONCE = 50  # functions


class FunctionsHandler(BaseHandler):
    """Base of the handlers of functions."""

    def initialize(
        self, auth: Authenticator, busy: set[object], functions: FunctionService | None, cursor: Callable[[], str]
    ) -> None:
        super().initialize(auth, busy)
        self._functions = functions
        self._cursor = cursor

    @property
    def functions(self) -> FunctionService:
        """The functions of the swarm.

        Raises:
            NotFound: this quartermaster serves none.
        """
        if self._functions is None:
            raise NotFound("this quartermaster serves no functions; see --runtime-port")
        return self._functions

    async def answer_published(self, published: Published) -> None:
        """Answer 201 with the function if there is a new version, else 200."""
        warnings = [self.of_engine(each) for each in published.warnings]
        told = {"warnings": warnings} if warnings else {}
        status = HTTPStatus.CREATED if published.changed else HTTPStatus.OK
        await self.answer({"success": True, **told, **msgspec.structs.asdict(published.function)}, status)


class FunctionListHandler(FunctionsHandler):
    """``GET /functions``."""

    async def get(self) -> None:
        identity = self.identify(self.document(), "read")
        self.parameters()
        cursor, shown = self._cursor(), []
        for place, function in enumerate(self.functions.listing(identity), 1):
            shown.append(msgspec.Raw(msgspec.json.encode(function)))
            if place % ENCODED_AT_ONCE == 0:
                await asyncio.sleep(0)
        await self.answer({"success": True, "cursor": cursor, "functions": shown})

    head = get


class FunctionHandler(FunctionsHandler):
    """``GET``, ``PUT`` and ``DELETE /functions/{name}``."""

    async def get(self, name: str) -> None:
        identity = self.identify(self.document(), "read")
        self.parameters()
        await self.answer({"success": True, **msgspec.structs.asdict(self.functions.get(name, identity))})

    head = get

    async def put(self, name: str) -> None:
        document = self.document()
        identity = self.identify(document, "run")
        self.parameters()
        spec = await self.checked(lambda: functions.read_spec(document))
        await self.answer_published(await self.functions.publish(name, spec, identity))

    async def delete(self, name: str) -> None:
        document = self.document()
        identity = self.identify(document, "stop")
        self.parameters()
        if document:
            raise BadRequest(f"unknown field {quote(next(iter(document)))}; only token is known")
        await self.functions.delete(name, identity)
        await self.answer({"success": True, "name": name})


class VersionsHandler(FunctionsHandler):
    """``GET /functions/{name}/versions``."""

    async def get(self, name: str) -> None:
        identity = self.identify(self.document(), "read")
        self.parameters()
        await self.answer({"success": True, "versions": self.functions.versions(name, identity)})

    head = get


class RollbackHandler(FunctionsHandler):
    """``POST /functions/{name}/rollback``."""

    async def post(self, name: str) -> None:
        document = self.document()
        identity = self.identify(document, "run")
        self.parameters()
        wanted = requests.convert(document, RollbackRequest)
        await self.answer_published(await self.functions.rollback(name, wanted.version, identity))
