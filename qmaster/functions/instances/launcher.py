"""Starts and ends the runs of instances. Belongs to the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from ...auth import policy
from ...auth.authenticator import Identity
from ...engine.labels import END, FUNCTION_VERSION, IDLE, RUNTIME, TTL, UPDATED
from ...engine.services import Swarm
from ...engine.spec import RUNTIME_DOMAIN, Instance
from ...errors import CannotStart, EngineAway, Forbidden
from ...models.credentials import Credentials
from ...models.functions import Version
from ...models.responses import Service
from ...runs.reaper import Reaper
from ...runs.reconciler import Reconciler
from ...runs.service import RunService
from . import scaling
from .instance import Ending, Trouble


class Found(NamedTuple):
    """A running instance of an earlier process."""

    run_id: str
    version_id: str
    secret: str


class Publishers(NamedTuple):
    """Who publishes, now.

    Attributes:
        holder: returns the holder of the token with this name, None if there is none any more.
        credentials: returns the registry credentials for an image that this holder runs.
    """

    holder: Callable[[str], Identity | None]
    credentials: Callable[[str, Identity], Credentials | None]

    def of(self, version: Version) -> Identity:
        """Return the publisher of a version.

        Raises:
            CannotStart: its token is gone.
            Forbidden: it may not publish this function any more.
        """
        by = self.holder(version.owner)
        if by is None:
            raise CannotStart(f"the token {version.owner!r}, which published it, is gone", "policy")
        policy.check_function(by.grant, version.function, version.spec.url)
        return by


class Launcher:
    """Starts and ends instances as runs.

    Args:
        runs: starts runs.
        reaper: ends them.
        reconciler: knows them.
        swarm: the services.
        publishers: whose policy and credentials count.
        runtime: returns the address and port of the runtime API; None while they are not known.
    """

    def __init__(
        self,
        runs: RunService,
        reaper: Reaper,
        reconciler: Reconciler,
        swarm: Swarm,
        publishers: Publishers,
        runtime: Callable[[], tuple[str, int] | None],
    ) -> None:
        self._runs = runs
        self._reaper = reaper
        self._reconciler = reconciler
        self._swarm = swarm
        self._publishers = publishers
        self._runtime = runtime

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
        return await self._runs.start_instance(request, by, made, self._publishers.credentials(version.image, by))

    def forbids(self, version: Version) -> Trouble | None:
        """Return why the publisher of a version may not run it now, or None."""
        try:
            self._runs.check(version.spec.request(), self._publishers.of(version))
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

    def kill(self, run_id: str) -> None:
        """End an instance's tasks now."""
        self._reaper.time_out(run_id)

    def remove(self, run_id: str) -> None:
        """Remove an instance, once its output is kept."""
        self._reaper.remove(run_id)

    def look(self, run_id: str) -> None:
        """Have an instance looked at soon."""
        self._reconciler.look(run_id)

    def find(self, run_id: str) -> Service | None:
        """Return the run of an instance as it was last seen."""
        return self._reconciler.find(run_id)

    async def running(self) -> list[Found]:
        """Return the instances that this quartermaster, or an earlier process of it, started and that may still run.

        Raises:
            HttpError: the engine did not answer.
        """
        host, port = self._address()
        listed = [_found(raw) for raw in await self._swarm.labelled(f"{RUNTIME}={host}:{port}")]
        return [found for found in listed if found is not None]

    async def waiting_jobs(self) -> list[Service]:
        """Return the runs of synchronous jobs that this quartermaster created, and that have not begun.

        Raises:
            HttpError: the engine did not answer.
        """
        host, port = self._address()
        listed = await self._swarm.labelled(f"{RUNTIME}={host}:{port}")
        views = [self.find(raw["ID"]) for raw in listed if _is_of_caller(raw)]
        return [view for view in views if view is not None and view.status in ("pending", "preparing")]

    def _address(self) -> tuple[str, int]:
        runtime = self._runtime()
        if runtime is None:
            raise EngineAway("the address of this node in the swarm is not known yet; try again, or set --advertise")
        return runtime


def _is_of_caller(raw: dict[str, Any]) -> bool:
    """Return whether a service is a job that is not needed after a restart: it has a ttl of 0 and no secret."""
    labels = raw["Spec"].get("Labels") or {}
    return (
        labels.get(TTL) == "0s" and END not in labels and not raw["Spec"]["TaskTemplate"]["ContainerSpec"].get("Hosts")
    )


def _found(raw: dict[str, Any]) -> Found | None:
    """Return what a service says of an instance; None if it is being ended."""
    labels = raw["Spec"].get("Labels") or {}
    hosts = raw["Spec"]["TaskTemplate"]["ContainerSpec"].get("Hosts") or []
    names = [name for entry in hosts for name in entry.split()[1:] if name.endswith(f".{RUNTIME_DOMAIN}")]
    if END in labels or not names:
        return None
    return Found(raw["ID"], labels.get(FUNCTION_VERSION, ""), names[0].removesuffix(f".{RUNTIME_DOMAIN}"))
