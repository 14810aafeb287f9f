"""What is read of the parts when the metrics are asked for. Belongs to the event loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from itertools import product
from typing import Protocol, get_args

from ..errors import HttpError, JournalUnwritable
from ..events.journal import JournalSize
from ..models.requests import Kind
from ..models.responses import Node, Service, Status
from .metrics import Metrics, Now

NODE_STATES = ("ready", "down", "unknown", "disconnected")  # Swarm's (NodeStatus in swarmkit's api/types.proto)


class Journal(Protocol):
    """What a scrape needs of the journal."""

    @property
    def trouble(self) -> str | None: ...
    async def size(self) -> JournalSize: ...


class Reconciler(Protocol):
    """What a scrape needs of the reconciler."""

    def services(self) -> list[Service]: ...
    def nodes(self) -> list[Node]: ...


@dataclass(frozen=True)
class Scrape:
    """Reads, and has the text made.

    ``frames_sent``, ``slow_consumers_cut`` and ``reconnects`` (by reason) are counted where they happen, and read here.
    """

    metrics: Metrics
    journal: Journal
    reconciler: Reconciler
    trouble: Callable[[], HttpError | None]
    subscribers: Callable[[], int]
    frames_sent: Callable[[], int]
    slow_consumers_cut: Callable[[], int]
    waits: Sized
    logs: Callable[[], int]
    reconnects: Callable[[], Mapping[str, int]]

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        """The text, and its media type."""
        try:
            size = await self.journal.size()
        except JournalUnwritable:
            size = None
        return self.metrics.exposition(self._now(size), accept)

    def _now(self, size: JournalSize | None) -> Now:
        return Now(
            ready=self.trouble() is None,
            services=self._services(),
            nodes=self._nodes(),
            subscribers=self.subscribers(),
            frames_sent=self.frames_sent(),
            slow_consumers_cut=self.slow_consumers_cut(),
            waits=len(self.waits),
            logs=self.logs(),
            reconnects=self.reconnects(),
            journal_writable=self.journal.trouble is None,
            journal=size,
        )

    def _services(self) -> Mapping[tuple[str, str], int]:
        """With those of which there are none, so that no series comes and goes."""
        there = Counter((view.type, view.status) for view in self.reconciler.services())
        return {(kind, status): there[(kind, status)] for kind, status in product(get_args(Kind), get_args(Status))}

    def _nodes(self) -> Mapping[str, int]:
        return {**dict.fromkeys(NODE_STATES, 0), **Counter(node.state for node in self.reconciler.nodes())}
