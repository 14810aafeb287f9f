"""Starts, finds, reads and ends the runs of jobs. Belongs to the event loop."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from ...auth.authenticator import Identity
from ...engine.labels import END, TTL
from ...engine.spec import Job
from ...errors import NotFound
from ...models.functions import Version
from ...models.responses import ROOT, Service
from ..instances.runs import FunctionRuns


class JobRuns(FunctionRuns):
    """The runs of jobs."""

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
        return await self._runners.starter.start_job(request, by, made, self._publishers.credentials(version.image, by))

    async def waiting(self) -> list[Service]:
        """Return the runs of synchronous calls that this quartermaster created, and that have not begun.

        Raises:
            HttpError: the engine did not answer.
        """
        views = [self.find(raw["ID"]) for raw in await self._own() if _is_of_caller(raw)]
        return [view for view in views if view is not None and view.status in ("pending", "preparing")]

    async def look_up(self, name: str) -> Service | None:
        """Return the run with this name, also one that was removed; None if there was none.

        Raises:
            HttpError: nobody knows now.
        """
        with contextlib.suppress(NotFound):
            return await self._runners.service.status(name, Identity(ROOT))
        return None

    async def refresh(self, run_id: str) -> Service | None:
        """Ask the engine for a run.

        Raises:
            HttpError: the engine did not answer.
        """
        return await self._runners.reconciler.refresh(run_id)

    async def stdout(self, view: Service, limit: int) -> bytes:
        """Return what a job wrote to standard output; see ``OutputReader.stdout``."""
        return await self._runners.outputs.stdout(view, limit)


def _is_of_caller(raw: dict[str, Any]) -> bool:
    """Return whether a service is a job that is not needed after a restart: it has a ttl of 0 and no secret."""
    labels = raw["Spec"].get("Labels") or {}
    hosts = raw["Spec"]["TaskTemplate"]["ContainerSpec"].get("Hosts")
    return labels.get(TTL) == "0s" and END not in labels and not hosts
