"""For those who operate it: ``GET /livez`` and ``GET /readyz``; both open."""

from __future__ import annotations

from collections.abc import Callable

from ..auth import Authenticator
from ..errors import HttpError
from .base import BaseHandler


class LiveHandler(BaseHandler):
    ANY_HOST = True  # a probe asks by address

    def get(self) -> None:
        self.answer({"success": True, "status": "alive"})


class ReadyHandler(BaseHandler):
    ANY_HOST = True

    def initialize(self, auth: Authenticator, busy: set[object], trouble: Callable[[], HttpError | None]) -> None:
        super().initialize(auth, busy)
        self._trouble = trouble

    def get(self) -> None:
        trouble = self._trouble()
        if trouble is not None:
            raise trouble
        self.answer({"success": True, "status": "ready"})
