"""Starts and ends the runs of instances. Belongs to the event loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ...engine.labels import END, FUNCTION_VERSION, IDLE, UPDATED
from ...engine.spec import RUNTIME_DOMAIN, Instance
from ...errors import CannotStart, Forbidden
from ...models.functions import Version
from . import scaling
from .endings import Ending, Trouble
from .runs import FunctionRuns


class Found(NamedTuple):
    """A running instance of an earlier process."""

    run_id: str
    version_id: str
    secret: str


class Launcher(FunctionRuns):
    """Starts and ends instances as runs."""

    async def start(self, version: Version, secret: str) -> str:
        """Start an instance of a version under its publisher's present policy; return the id of its run.

        Raises:
            HttpError: it was not started.
        """
        host, port = self._address()
        by = self._publishers.of(version)
        spec = version.spec
        lifetime = scaling.label_lifetime(spec.timeout)
        request = msgspec.structs.replace(spec.request(), timeout=lifetime)
        made = Instance(
            function=version.function,
            number=version.number,
            version=version.id,
            image=version.image,
            concurrency=spec.concurrency,
            secret=secret,
            host=host,
            port=port,
        )
        return await self._runners.starter.start_instance(
            request, by, made, self._publishers.credentials(version.image, by)
        )

    def forbids(self, version: Version) -> Trouble | None:
        """Return why the publisher of a version may not run it now, or None."""
        try:
            self._runners.starter.check(version.spec.request(), self._publishers.of(version))
        except (CannotStart, Forbidden) as error:
            return Trouble("policy", str(error))
        return None

    async def mark(self, run_id: str, why: Ending) -> None:
        """Write on an instance's service that it was told to end.

        Raises:
            HttpError: it was not written.
        """
        await self._swarm.mark(run_id, END, UPDATED if why == "update" else IDLE)
        self.look(run_id)

    def look(self, run_id: str) -> None:
        """Have an instance looked at soon."""
        self._runners.reconciler.look(run_id)

    async def running(self) -> list[Found]:
        """Return the instances that this quartermaster, or an earlier process of it, started and that may still run.

        Raises:
            HttpError: the engine did not answer.
        """
        listed = map(_found, await self._own())
        return [found for found in listed if found is not None]


def _found(raw: dict[str, Any]) -> Found | None:
    """Return what a service says of an instance; None if it is being ended."""
    labels = raw["Spec"].get("Labels") or {}
    hosts = raw["Spec"]["TaskTemplate"]["ContainerSpec"].get("Hosts") or []
    names = [name for entry in hosts for name in entry.split()[1:] if name.endswith(f".{RUNTIME_DOMAIN}")]
    if END in labels or not names:
        return None
    return Found(raw["ID"], labels.get(FUNCTION_VERSION, ""), names[0].removesuffix(f".{RUNTIME_DOMAIN}"))
