"""Nodes: ``GET /nodes``."""

from __future__ import annotations

from .services import ServicesHandler


class NodesHandler(ServicesHandler):
    def get(self) -> None:
        self.identify(self.document())
        self.parameters()
        self.answer({"success": True, "cursor": self.cursor(), "nodes": self.dispatch.nodes()})
