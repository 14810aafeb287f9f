"""Services: ``POST /run``, ``POST /stop``, ``GET /status`` and ``GET /status/{id}``."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from itertools import islice
from typing import get_args

import msgspec

from .. import keys, models
from ..auth import Authenticator, Identity
from ..dispatch import Dispatch
from ..errors import BadRequest
from ..held import Held
from ..models import RunRequest, Service, StopRequest
from ..waits import is_over
from .base import BaseHandler, flag

MAX_LIMIT = 10_000
MAX_KEPT = 1024 * 1024  # bytes of an encoded listing
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")
SUCCESS = b'{"success":true,'  # before what a view has
FILTERS = ("status", "label", "name", "limit", "all")


class Encoded:
    """The listing that was encoded last, as JSON: while nothing changes the next one is the same."""

    def __init__(self) -> None:
        self._views: list[Service] = []
        self._json = msgspec.Raw(b"[]")

    def of(self, views: list[Service]) -> msgspec.Raw:
        if views != self._views:  # a view that has not changed is the very same one, so this takes no time
            encoded = msgspec.json.encode(views)
            if len(encoded) > MAX_KEPT:
                return msgspec.Raw(encoded)
            self._views, self._json = views, msgspec.Raw(encoded)
        return self._json


class ServicesHandler(BaseHandler):
    def initialize(
        self,
        auth: Authenticator,
        busy: set[object],
        dispatch: Dispatch,
        cursor: Callable[[], str],
        held: Held,
        encoded: Encoded,
    ) -> None:
        super().initialize(auth, busy)
        self.encoded = encoded
        self.held = held
        self.dispatch = dispatch
        self.cursor = cursor
        self.log_fields: dict[str, str] = {}
        self._left: asyncio.Future[None] | None = None

    def _answer_id(self, run_id: str, warnings: Sequence[str] = ()) -> None:
        self.log_fields["run"] = run_id
        self.answer({"success": True, "id": run_id, **({"warnings": warnings} if warnings else {})})

    def _answer_view(self, view: Service, status: HTTPStatus = HTTPStatus.OK, warnings: Sequence[str] = ()) -> None:
        self.log_fields["run"] = view.id
        self.begin_json(status)
        told = b'"warnings":' + msgspec.json.encode(warnings) + b"," if warnings else b""
        self.finish(SUCCESS + told + msgspec.json.encode(view)[1:] + b"\n")

    async def _when_over(self, run_id: str, seconds: float, identity: Identity) -> Service:
        self._left = asyncio.get_running_loop().create_future()
        return await self.dispatch.when_over(run_id, seconds, self._left, identity)

    def _hold(self, seconds: float | None, identity: Identity) -> contextlib.AbstractContextManager[object]:
        """A place among those who wait.

        Raises:
            TooManyHeld
        """
        if seconds is None:
            return contextlib.nullcontext()
        return self.held.take("wait", identity.name, identity.grant is not None)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._left is not None and not self._left.done():
            self._left.set_result(None)


class RunHandler(ServicesHandler):
    async def post(self) -> None:
        document = self.document()
        identity = self.identify(document, "run")
        self.parameters()
        key = keys.read(self.request.headers.get_list("Idempotency-Key"), identity.name, document)
        request = models.convert(document, RunRequest)
        seconds = models.wait_seconds(request.wait)
        with self._hold(seconds, identity):  # before anything is started
            started = await self.dispatch.run(request, identity, key)
            if started.replayed:
                self.set_header("Idempotency-Replayed", "true")
            if seconds is None:
                self._answer_id(started.id, started.warnings)
                return
            view = await self._when_over(started.id, seconds, identity)
        self.still(identity, "run")
        self._answer_view(view, HTTPStatus.OK if is_over(view) else HTTPStatus.ACCEPTED, started.warnings)


class StopHandler(ServicesHandler):
    async def post(self) -> None:
        document = self.document()
        identity = self.identify(document, "stop")
        self.parameters()
        request = models.convert(document, StopRequest)
        self._answer_id(await self.dispatch.stop(request.id, identity))


class StatusHandler(ServicesHandler):
    async def get(self, name_or_id: str) -> None:
        identity = self.identify(self.document(), "read")
        seconds = _wait(self.parameters("wait").get("wait"))
        if seconds is None:
            self._answer_view(await self.dispatch.status(name_or_id, identity))
            return
        with self._hold(seconds, identity):
            view = await self._when_over(name_or_id, seconds, identity)
        self.still(identity, "read")
        self._answer_view(view)

    head = get


class StatusListHandler(ServicesHandler):
    async def get(self) -> None:
        identity = self.identify(self.document(), "read")
        query = self.parameters(*FILTERS)
        keep, limit = _filters(query), _limit(query.get("limit"))
        views = await self.dispatch.listing(identity, removed=flag("all", query.get("all")))
        services = list(islice(views if keep is None else filter(keep, views), limit))
        self.answer({"success": True, "cursor": self.cursor(), "services": self.encoded.of(services)})

    head = get


def _filters(query: dict[str, list[str]]) -> Callable[[Service], bool] | None:
    """What ``status``, ``name`` and ``label`` let through, None for all; several of one widen, of ``label`` narrow."""
    statuses, names = set(query.get("status", ())), set(query.get("name", ()))
    if not statuses <= set(get_args(models.Status)):
        raise BadRequest(f"status: expected one of {', '.join(get_args(models.Status))}")
    labels = [label.partition("=") for label in query.get("label", ())]
    if any(not key for key, _, _ in labels):
        raise BadRequest("label: expected key=value, or key")
    if not (statuses or names or labels):
        return None

    def keep(view: Service) -> bool:
        return (
            (not statuses or view.status in statuses)
            and (not names or view.name in names)
            and _has_labels(view, labels)
        )

    return keep


def _has_labels(view: Service, labels: Iterable[tuple[str, str, str]]) -> bool:
    return all(key in view.labels and (not equals or view.labels[key] == value) for key, equals, value in labels)


def _limit(values: list[str] | None) -> int | None:
    if values is None:
        return None
    text = values[0]
    if len(values) > 1 or not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_LIMIT):
        raise BadRequest(f"limit: expected a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def _wait(values: list[str] | None) -> float | None:
    """``wait`` in a query: seconds, or ``true``, as in a body."""
    if values is None:
        return None
    if values == ["true"]:
        return models.WAIT
    if len(values) == 1 and _SECONDS.fullmatch(values[0]) and float(values[0]) <= models.MAX_WAIT:
        return float(values[0])
    raise BadRequest(f"wait: expected seconds, at most {models.MAX_WAIT}, or true")
