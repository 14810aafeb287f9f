"""Nodes: ``GET /nodes``."""

from __future__ import annotations

from collections.abc import Callable

from ..auth.authenticator import Authenticator
from ..models.responses import Node
from .base import BaseHandler


class NodesHandler(BaseHandler):
    def initialize(
        self, auth: Authenticator, busy: set[object], nodes: Callable[[], list[Node]], cursor: Callable[[], str]
    ) -> None:
        super().initialize(auth, busy)
        self._nodes = nodes
        self._cursor = cursor

    def get(self) -> None:
        self.identify(self.document(), "root")
        self.parameters()
        self.answer({"success": True, "cursor": self._cursor(), "nodes": self._nodes()})

    head = get
