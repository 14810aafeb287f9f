"""``GET /stats``: the numbers of each minute of the last day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from ..auth import policy
from ..auth.authenticator import Authenticator
from ..functions.invocations.stats import CallStats
from ..models.stats import FunctionNumbers, Stats
from ..runs.minutes import DAY
from ..runs.stats import RunStats
from . import queries
from .base import BaseHandler

MOST_FUNCTIONS = 100  # of a day: 4 MB of JSON
AT_ONCE = 20  # functions


class StatsHandler(BaseHandler):
    """``GET /stats``: of all for the root token, of its own runs and its functions for another."""

    def initialize(
        self, auth: Authenticator, busy: set[object], run_stats: RunStats, call_stats: CallStats | None
    ) -> None:
        super().initialize(auth, busy)
        self._run_stats = run_stats
        self._call_stats = call_stats

    async def get(self) -> None:
        identity = self.identify(self.document(), "read")
        query = self.parameters("minutes", "function")
        minutes = queries.whole("minutes", query.get("minutes"), DAY) or DAY
        function = queries.named_function(query)
        first = self._run_stats.now() - minutes + 1

        def sees(name: str) -> bool:
            return function in (None, name) and policy.sees_function(identity.grant, name)

        functions = {} if self._call_stats is None else await _numbers(self._call_stats, first, minutes, sees)
        await self.answer(
            Stats(
                start=datetime.fromtimestamp(first * 60, UTC).isoformat().replace("+00:00", "Z"),
                runs=self._run_stats.runs(identity.sees, first, minutes),
                nodes=self._run_stats.nodes(first, minutes) if identity.grant is None else {},
                functions=functions,
            )
        )

    head = get


async def _numbers(
    calls: CallStats, first: int, minutes: int, sees: Callable[[str], bool]
) -> dict[str, FunctionNumbers]:
    """Return the numbers of the functions that were called most, a few in each turn of the loop."""
    functions = {}
    for place, name in enumerate(calls.most_called(first, minutes, sees, MOST_FUNCTIONS), 1):
        functions[name] = calls.numbers(name, first, minutes)
        if place % AT_ONCE == 0:
            await asyncio.sleep(0)
    return functions
