"""Services: ``POST /run``, ``POST /stop``, ``GET /status`` and ``GET /status/{id}``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

import msgspec

from .. import models
from ..auth import Authenticator
from ..dispatch import Dispatch
from ..errors import BadRequest
from ..models import RunRequest, Service, StopRequest
from .base import BaseHandler

MAX_LIMIT = 10_000
FILTERS = ("status", "label", "name", "limit", "all")


class ServicesHandler(BaseHandler):
    def initialize(self, auth: Authenticator, busy: set[object], dispatch: Dispatch, cursor: Callable[[], str]) -> None:
        super().initialize(auth, busy)
        self.dispatch = dispatch
        self.cursor = cursor
        self.log_fields: dict[str, str] = {}

    def _answer_id(self, run_id: str) -> None:
        self.log_fields["run"] = run_id
        self.answer({"success": True, "id": run_id})


class RunHandler(ServicesHandler):
    async def post(self) -> None:
        document = self.document()
        identity = self.identify(document)
        self.parameters()
        request = models.convert(document, RunRequest)
        self._answer_id(await self.dispatch.run(request, identity.name))


class StopHandler(ServicesHandler):
    async def post(self) -> None:
        document = self.document()
        self.identify(document)
        self.parameters()
        request = models.convert(document, StopRequest)
        self._answer_id(await self.dispatch.stop(request.id))


class StatusHandler(ServicesHandler):
    async def get(self, name_or_id: str) -> None:
        self.identify(self.document())
        self.parameters()
        view = await self.dispatch.status(name_or_id)
        self.log_fields["run"] = view.id
        self.answer({"success": True, **msgspec.structs.asdict(view)})


class StatusListHandler(ServicesHandler):
    async def get(self) -> None:
        self.identify(self.document())
        query = self.parameters(*FILTERS)
        keep, limit = _filters(query), _limit(query.get("limit"))
        views = await self.dispatch.listing(removed=_all(query.get("all")))
        services = [view for view in views if keep(view)][:limit]
        self.answer({"success": True, "cursor": self.cursor(), "services": services})


def _filters(query: dict[str, list[str]]) -> Callable[[Service], bool]:
    """What ``status``, ``name`` and ``label`` let through; several of one widen, but of ``label`` narrow."""
    statuses, names = set(query.get("status", ())), set(query.get("name", ()))
    if not statuses <= set(get_args(models.Status)):
        raise BadRequest(f"status: expected one of {', '.join(get_args(models.Status))}")
    labels = [label.partition("=") for label in query.get("label", ())]
    if any(not key for key, _, _ in labels):
        raise BadRequest("label: expected key=value, or key")

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


def _all(values: list[str] | None) -> bool:
    if values not in (None, ["0"], ["1"]):
        raise BadRequest("all: expected 1 or 0")
    return values == ["1"]
