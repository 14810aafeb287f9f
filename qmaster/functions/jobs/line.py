"""The calls of the jobs of one function: those that wait, and those that run. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections import deque

from ...models.functions import FunctionError, FunctionStats, InstanceCounts, Version
from ...models.responses import Service
from ..instances.backoff import Backoff
from ..instances.endings import ERRORS_KEPT
from ..invocations.invocation import Invocation


class Job:
    """A call from its start on.

    Attributes:
        version: what is called.
        invocation: the call.
        name: of its run.
        kept: whether its end is needed after a restart of quartermaster.
        run_id: the id of its run; None until the engine has accepted it.
        view: its run as last published.
        runs: whether its container was seen running.
        told: whether its caller knows the end, which may be before the end of the run.
        watch: gives it up if it does not start.
    """

    __slots__ = ("invocation", "kept", "name", "run_id", "runs", "told", "version", "view", "watch")

    def __init__(self, version: Version, invocation: Invocation, name: str) -> None:
        self.version = version
        self.invocation = invocation
        self.name = name
        self.kept = True
        self.run_id: str | None = None
        self.view: Service | None = None
        self.runs = False
        self.told = False
        self.watch: asyncio.Task[None] | None = None


class Line:
    """The calls of one function.

    Attributes:
        waiting: those that wait for their start, the oldest first.
        jobs: those that are started.
        backoff: of the starts that fail.
        errors: why starts failed, the newest first.
    """

    def __init__(self) -> None:
        self.waiting: dict[Invocation, Version] = {}
        self.jobs: set[Job] = set()
        self.backoff = Backoff()
        self.errors: deque[FunctionError] = deque(maxlen=ERRORS_KEPT)

    @property
    def runs_any(self) -> bool:
        return any(job.runs for job in self.jobs)

    def stats(self) -> FunctionStats:
        busy = sum(job.runs for job in self.jobs)
        counts = InstanceCounts(starting=len(self.jobs) - busy, busy=busy)
        return FunctionStats(instances=counts, queued=len(self.waiting), last_errors=list(self.errors))
