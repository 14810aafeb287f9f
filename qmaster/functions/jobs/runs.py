"""Starts, finds, reads and ends the runs of jobs. Belongs to the event loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from ...auth.authenticator import Identity
from ...engine.spec import Job
from ...errors import NotFound
from ...models.functions import Version
from ...models.responses import ROOT, Service
from ...runs.outputs import OutputReader
from ...runs.reaper import Reaper
from ...runs.reconciler import Reconciler
from ...runs.service import RunService
from ..instances.launcher import Publishers


class JobRuns:
    """The runs of jobs.

    Args:
        runs: starts and finds runs.
        reaper: ends them.
        reconciler: knows them.
        outputs: reads what they wrote.
        publishers: whose policy and credentials count.
        runtime: returns the address and port of the runtime API; None while they are not known.
    """

    def __init__(
        self,
        runs: RunService,
        reaper: Reaper,
        reconciler: Reconciler,
        outputs: OutputReader,
        publishers: Publishers,
        runtime: Callable[[], tuple[str, int] | None],
    ) -> None:
        self._runs = runs
        self._reaper = reaper
        self._reconciler = reconciler
        self._outputs = outputs
        self._publishers = publishers
        self._runtime = runtime

    async def start(self, version: Version, name: str, invocation: str, text: str, kept: bool) -> str:
        """Start a job under its publisher's present policy, and return the id of its run.

        Args:
            version: what is called.
            name: of the service.
            invocation: the id of the call.
            text: the input.
            kept: whether its end is needed after a restart of quartermaster.

        Raises:
            HttpError: it was not started.
        """
        by = self._publishers.of(version)
        request = msgspec.structs.replace(version.spec.request(), timeout=version.spec.timeout)
        host, port = self._runtime() or ("", 0)
        made = Job(
            name=name,
            invocation=invocation,
            text=text,
            function=version.function,
            number=version.number,
            version=version.id,
            image=version.image,
            runtime=f"{host}:{port}" if host else "",
            kept=kept,
        )
        return await self._runs.start_job(request, by, made, self._publishers.credentials(version.image, by))

    def find(self, run_id: str) -> Service | None:
        """Return a run as it was last seen."""
        return self._reconciler.find(run_id)

    async def look_up(self, name: str) -> Service | None:
        """Return the run with this name, also one that was removed; None if there was none.

        Raises:
            HttpError: nobody knows now.
        """
        with contextlib.suppress(NotFound):
            return await self._runs.status(name, Identity(ROOT))
        return None

    async def refresh(self, run_id: str) -> Service | None:
        """Ask the engine for a run.

        Raises:
            HttpError: the engine did not answer.
        """
        return await self._reconciler.refresh(run_id)

    async def stdout(self, view: Service, limit: int) -> bytes:
        """Return what a job wrote to standard output; see ``OutputReader.stdout``."""
        return await self._outputs.stdout(view, limit)

    def kill(self, run_id: str) -> None:
        """End a job's task now."""
        self._reaper.time_out(run_id)

    def remove(self, run_id: str) -> None:
        """Remove a job's run, once its output is kept."""
        self._reaper.remove(run_id)
