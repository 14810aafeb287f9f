"""What tests of several modules share."""

from collections.abc import Callable
from typing import Any

import msgspec
from fakes import (
    Fake,
    service,
    task,
)
from swarm_cases import NODES, NOW

from qmaster.events.journal import Journal
from qmaster.events.rows import Intent, Page, RemovedQuery
from qmaster.models import results
from qmaster.models.responses import Node, Service
from qmaster.models.results import Line, Outcome, Output, TaskOutput
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.nodes import NodeViews
from qmaster.runs.reconciler.reconciler import Reconciler
from qmaster.runs.views import status as lifecycle

Json = dict[str, Any]
SEEN = lifecycle.service(service(), [task("running")], NODES, NOW)


class FakeJournal(Fake, Journal):
    """Records by id; ``intents`` that are open, by their nonce."""

    def __init__(self) -> None:
        super().__init__()
        self.id = "0a0b0c0d"
        self.stored: dict[str, Service] = {}
        self.intents: dict[str, Intent] = {}
        self.outcomes: dict[str, bytes] = {}
        self.keys: dict[str, tuple[bytes, str]] = {}

    async def intend(self, intent: Intent) -> None:
        self.noted("intend", intent)
        self.intents[intent.nonce] = intent

    async def settle(self, nonce: str) -> None:
        self.noted("settle", nonce)
        self.intents.pop(nonce, None)

    async def record(self, name_or_id: str, owner: str | None = None) -> bytes | None:
        self.noted("record", name_or_id)
        found = self.stored.get(name_or_id)
        if found and owner not in (None, found.owner):
            return None
        return msgspec.json.encode(found) if found else None

    async def outcome(self, run_id: str) -> bytes | None:
        self.noted("outcome", run_id)
        return self.outcomes.get(run_id)

    async def keyed(self, name: str) -> tuple[bytes, str] | None:
        self.noted("keyed", name)
        return self.keys.get(name)

    async def removed(self, wanted: RemovedQuery, show: Callable[[bytes], bytes | None]) -> Page:
        """Two of them a page."""
        self.noted("removed", wanted)
        theirs = {(v.created_at or "", v.id): v for v in self.stored.values() if wanted.owner in (None, v.owner)}
        keys = sorted((key for key in theirs if key < wanted.before), reverse=True)
        shown = [(key, show(msgspec.json.encode(theirs[key]))) for key in keys[:2]]
        return Page([(key, one) for key, one in shown if one is not None], keys[1] if len(keys) > 2 else None)


class FakeCache(RunCache):
    """Views of services; its own constructor is not called."""

    revision = 0

    def __init__(self, *views: Service) -> None:
        self.nodes = NodeViews()
        self.views = list(views)
        self.bodies: dict[str, str] = {}  # id → digest of the request under a key

    def find(self, name_or_id: str, owner: str | None = None) -> Service | None:
        found = (view for view in self.views if name_or_id in (view.id, view.name) and owner in (None, view.owner))
        return next(found, None)

    def services(self) -> list[Service]:
        return list(self.views)

    def keyed(self, name: str) -> tuple[Service, str] | None:
        found = self.find(name)
        return (found, self.bodies.get(found.id, "")) if found else None

    def node_views(self, with_reserved: bool = True) -> list[Node]:
        return []


class FakeReconciler(Fake, Reconciler):
    """It has the views; ``young`` are those that only the engine knows."""

    def __init__(self, *views: Service) -> None:
        super().__init__()
        self.cache: FakeCache = FakeCache(*views)
        self.young: dict[str, Service] = {}

    async def require_nodes(self) -> None:
        pass

    async def look_up(self, name_or_id: str) -> Service | None:
        self.noted("look_up", name_or_id)
        return self.young.get(name_or_id)

    async def look_at_container(self, container_id: str) -> None:
        self.noted("look_at_container", container_id)

    async def adopt_service(self, service_id: str, spec: Json, nonce: str) -> None:
        self.noted("adopt_service", service_id, nonce)

    async def adopt_container(self, container_id: str, nonce: str) -> None:
        self.noted("adopt_container", container_id, nonce)


def outcome(text: bytes) -> bytes:
    line = Line("2024-05-06T07:08:09Z", "stdout", text)
    return results.encode(Outcome([TaskOutput("t1", 1, "host-1", 0, Output([line]))]))
