"""Runs: ``POST /run``, ``POST /stop``, ``GET /status``, and ``GET`` and ``DELETE /status/{id}``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from http import HTTPStatus
from typing import Any, cast

import msgspec
import structlog

from ..auth.authenticator import Authenticator, Identity
from ..errors import HttpError
from ..events.rows import Key
from ..models import requests
from ..models.requests import RunRequest, StopRequest
from ..models.responses import Accepted, Service
from ..runs.listing import Listed, Listing, ListQuery, Part
from ..runs.results import is_over
from ..runs.service import RunService
from ..runs.starter import RunStarter
from .base import SLICE, BaseHandler
from .filters import FILTERS, page_cursor, read_filters
from .limits import ConnectionLimiter
from .queries import flag, wait_seconds

MAX_WHOLE = 1024 * 1024  # bytes of a listing that is sent as one body
ENCODED_AT_ONCE = 32  # runs
HELD = 2 * SLICE  # bytes that a chunked listing counts as unread

log = structlog.get_logger(__name__)


class EncodedListing:
    """Cache of the last listing's body: it is valid while nothing changes. All its readers share these bytes."""

    def __init__(self) -> None:
        self._key: tuple[object, str] | None = None
        self._body: bytes | None = None

    def of(self, key: object, cursor: str, listed: Callable[[], Listed]) -> bytes | None:
        """Return the body of a listing; None if its runs are over ``MAX_WHOLE`` bytes.

        Args:
            key: the query and the revision of the runs; equal ones have the same runs.
            cursor: the cursor in the body.
            listed: returns the runs.
        """
        if (key, cursor) != self._key:
            self._body = _encoded(cursor, listed())
            self._key = key, cursor
        return self._body


def _encoded(cursor: str, listed: Listed) -> bytes | None:
    parts, size, views = [], 0, listed.views
    for start in range(0, len(views), ENCODED_AT_ONCE):
        parts.append(msgspec.json.encode(views[start : start + ENCODED_AT_ONCE])[1:-1])
        size += len(parts[-1])
        if size > MAX_WHOLE:
            return None
    return _head(cursor) + b",".join(parts) + _tail(listed.next)


def _head(cursor: str) -> bytes:
    return b'{"success":true,"cursor":' + msgspec.json.encode(cursor) + b',"services":['


def _tail(key: Key | None) -> bytes:
    page = None if key is None else page_cursor(key)
    return b'],"next_page":' + msgspec.json.encode(page) + b"}\n"


class ServicesHandler(BaseHandler):
    """Base of the handlers of runs."""

    def _set_up_runs(
        self, auth: Authenticator, busy: set[object], run_service: RunService, connections: ConnectionLimiter
    ) -> None:
        super().initialize(auth, busy)
        self._connections = connections
        self.run_service = run_service
        self.log_fields: dict[str, str] = {}
        self._left: asyncio.Future[None] | None = None

    initialize: Callable[..., None] = _set_up_runs

    async def _answer_id(self, run_id: str, warnings: Sequence[str] = ()) -> None:
        self.log_fields["run"] = run_id
        await self.answer(Accepted(success=True, id=run_id, warnings=list(warnings)))

    async def _answer_run(self, run: Service, status: HTTPStatus = HTTPStatus.OK, warnings: Sequence[str] = ()) -> None:
        self.log_fields["run"] = run.id
        told: dict[str, object] = {"warnings": warnings} if warnings else {}
        if run.callback is not None:
            told["callbacks"] = await self.run_service.callbacks(run)
        await self.answer({"success": True, **told, **msgspec.structs.asdict(run)}, status)

    async def _when_over(self, run_id: str, seconds: float, identity: Identity) -> Service:
        self._left = asyncio.get_running_loop().create_future()
        return await self.run_service.when_over(run_id, seconds, self._left, identity)

    def _hold(self, seconds: float | None, identity: Identity) -> contextlib.AbstractContextManager[object]:
        """Take a slot for a call that waits; nothing if it does not wait.

        Raises:
            TooManyConnections: too many calls wait already.
        """
        if seconds is None:
            return contextlib.nullcontext()
        return self._connections.take("wait", identity.name, identity.grant is not None)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._left is not None and not self._left.done():
            self._left.set_result(None)


class RunHandler(ServicesHandler):
    """``POST /run``."""

    def initialize(self, starter: RunStarter, **parts: Any) -> None:
        super().initialize(**parts)
        self._starter = starter

    async def post(self) -> None:
        document = self.document()
        identity = self.identify(document, "run")
        is_dry = flag("dry_run", self.parameters("dry_run").get("dry_run"))
        key = requests.read_key(self.request.headers.get_list("Idempotency-Key"), identity.name, document)
        request = await self.checked(lambda: requests.convert(document, RunRequest))
        if is_dry:
            await self._answer_dry_run(request, identity)
            return
        seconds = requests.wait_seconds(request.wait)
        with self._hold(seconds, identity):  # before the run is started
            started = await self._starter.run(request, identity, key)
            warnings = [self.of_engine(each) for each in started.warnings]
            self.set_header("Location", f"/status/{started.id}")
            if started.replayed:
                self.set_header("Idempotency-Replayed", "true")
            if seconds is None:
                await self._answer_id(started.id, warnings)
                return
            view = await self._when_over(started.id, seconds, identity)
        self.reauthorize(identity, "run")
        await self._answer_run(view, HTTPStatus.OK if is_over(view) else HTTPStatus.ACCEPTED, warnings)

    async def _answer_dry_run(self, request: RunRequest, identity: Identity) -> None:
        checked = await self._starter.dry_run(request, identity)
        warnings = [self.of_engine(each) for each in checked.warnings]
        await self.answer(msgspec.structs.replace(checked, warnings=warnings))


class StopHandler(ServicesHandler):
    """``POST /stop``."""

    async def post(self) -> None:
        document = self.document()
        identity = self.identify(document, "stop")
        self.parameters()
        request = requests.convert(document, StopRequest)
        await self._answer_id(await self.run_service.stop(request.id, identity))


class StatusHandler(ServicesHandler):
    """``GET /status/{id}``; ``DELETE`` does what ``POST /stop`` does."""

    async def get(self, name_or_id: str) -> None:
        identity = self.identify(self.document(), "read")
        seconds = wait_seconds(self.parameters("wait").get("wait"))
        if seconds is None:
            await self._answer_run(await self.run_service.status(name_or_id, identity))
            return
        with self._hold(seconds, identity):
            view = await self._when_over(name_or_id, seconds, identity)
        self.reauthorize(identity, "read")
        await self._answer_run(view)

    head = get

    async def delete(self, name_or_id: str) -> None:
        identity = self.identify(self.document(), "stop")
        self.parameters()
        await self._answer_id(await self.run_service.stop(name_or_id, identity))


class StatusListHandler(BaseHandler):
    """``GET /status``."""

    def initialize(
        self,
        auth: Authenticator,
        busy: set[object],
        listing: Listing,
        cursor: Callable[[], str],
        encoded: EncodedListing,
    ) -> None:
        super().initialize(auth, busy)
        self._listing = listing
        self._cursor = cursor
        self._encoded = encoded

    async def get(self) -> None:
        identity = self.identify(self.document(), "read")
        wanted = read_filters(self.parameters(*FILTERS))
        cursor = self._cursor()
        self.set_header("Content-Type", "application/json")
        whole = None if wanted.removed else self._whole(identity, wanted, cursor)
        if whole is not None:
            await self.send(whole)
            return
        with self.large_answer(HELD):
            await self._stream(cursor, self._listing.parts(identity.sees, wanted))

    head = get

    def _whole(self, identity: Identity, wanted: ListQuery, cursor: str) -> bytes | None:
        key = self._listing.revision, identity.sees, wanted
        return self._encoded.of(key, cursor, lambda: self._listing.there(identity.sees, wanted))

    async def _stream(self, cursor: str, parts: AsyncIterator[Part]) -> None:
        """Send a listing part by part; each is read once the client has taken the one before it."""
        self.write(_head(cursor))
        separator, buffered, begun, following = b"", 0, False, None
        try:
            async with contextlib.aclosing(cast(Any, parts)):
                async for part in parts:
                    rows, following = b",".join(part.rows), part.next
                    if rows:
                        self.write(separator + rows)
                        separator, buffered = b",", buffered + len(rows)
                    if buffered < SLICE:
                        continue
                    await self.pass_on()
                    buffered, begun = 0, True
                    if self.request.method == "HEAD":
                        return
        except HttpError as error:
            if not begun:
                raise
            log.warning("listing_cut_off", request=self.request_id, reason=str(error))
            self.client_stream.close()  # so that no client takes it for complete
            return
        self.write(_tail(following))
