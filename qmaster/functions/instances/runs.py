"""The runs of functions, under the present policy of their publishers. Belongs to the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...auth import policy
from ...auth.authenticator import Identity
from ...engine.labels import RUNTIME
from ...engine.services import Swarm
from ...errors import CannotStart, EngineAway
from ...models.credentials import Credentials
from ...models.functions import Version
from ...models.responses import Service
from ...runs.outputs import OutputReader
from ...runs.reaper import Reaper
from ...runs.reconciler.reconciler import Reconciler
from ...runs.service import RunService
from ...runs.starter import RunStarter


class Runners(NamedTuple):
    """The parts that start, end and watch runs, and read their output."""

    starter: RunStarter
    service: RunService
    reaper: Reaper
    reconciler: Reconciler
    outputs: OutputReader


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


class FunctionRuns:
    """The runs of functions; those of instances and of jobs are started differently, and end alike.

    Args:
        runners: start and end runs.
        swarm: the services.
        publishers: whose policy and credentials count.
        runtime: returns the address and port of the runtime API; None while they are not known.
    """

    def __init__(
        self, runners: Runners, swarm: Swarm, publishers: Publishers, runtime: Callable[[], tuple[str, int] | None]
    ) -> None:
        self._runners = runners
        self._swarm = swarm
        self._publishers = publishers
        self._runtime = runtime

    def find(self, run_id: str) -> Service | None:
        """Return a run as it was last seen."""
        return self._runners.reconciler.cache.find(run_id)

    def kill(self, run_id: str) -> None:
        """End the tasks of a run now."""
        self._runners.reaper.time_out(run_id)

    def remove(self, run_id: str) -> None:
        """Remove a run, once its output is kept."""
        self._runners.reaper.remove(run_id)

    async def _own(self) -> list[dict[str, Any]]:
        """Return the services that this quartermaster, or an earlier process of it, created for functions.

        Raises:
            HttpError: the engine did not answer, or the address is not known.
        """
        host, port = self._address()
        return await self._swarm.labelled(f"{RUNTIME}={host}:{port}")

    def _address(self) -> tuple[str, int]:
        runtime = self._runtime()
        if runtime is None:
            raise EngineAway("the address of this node in the swarm is not known yet; try again, or set --advertise")
        return runtime
