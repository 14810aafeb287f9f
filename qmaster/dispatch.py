"""The three verbs: run, stop and status, carried out on the engine. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import structlog

from . import lifecycle, spec
from .credentials import Credentials
from .errors import Conflict, NotAManager, NotFound
from .models import RunRequest, Service

Json = dict[str, Any]

MAX_REMEMBERED = 10_000
_PLAUSIBLE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")

log = structlog.get_logger(__name__)


class Swarm(Protocol):
    """What dispatch needs of the swarm."""

    async def pin(self, image: str, credentials: Credentials | None) -> str: ...
    async def network_ids(self, names: list[str]) -> list[str]: ...
    async def secret_ids(self, names: list[str]) -> list[str]: ...
    async def create(self, spec: Json, credentials: Credentials | None) -> str: ...
    async def service(self, name_or_id: str) -> Json | None: ...
    async def services(self) -> list[Json]: ...
    async def tasks(self, service_id: str | None = None) -> list[Json]: ...
    async def nodes(self) -> list[Json]: ...
    async def remove(self, service_id: str) -> None: ...


class Containers(Protocol):
    """What dispatch needs of this engine's containers."""

    async def create(self, config: Json, name: str, credentials: Credentials | None) -> str: ...
    async def container(self, name_or_id: str) -> Json | None: ...
    async def containers(self) -> list[Json]: ...
    async def remove(self, container_id: str) -> None: ...


class Dispatch:
    """Runs, stops and shows services and containers.

    Args:
        swarm: the swarm's services.
        containers: this engine's containers.
        memory: MiB for a run that names none.
        own_container: the id of the container that this process runs in, or None.
    """

    def __init__(self, swarm: Swarm, containers: Containers, memory: int, own_container: str | None) -> None:
        self._swarm = swarm
        self._containers = containers
        self._memory = memory
        self._own_container = own_container
        self._removed: OrderedDict[str, Service] = OrderedDict()

    async def run(self, request: RunRequest, owner: str) -> str:
        """Start a service or a container and return its id.

        Raises:
            HttpError: nothing was started, or its outcome is open and it is looked for by its name.
        """
        mark = spec.stamp(request, owner)
        start = self._run_container if request.type == "container" else self._run_service
        try:
            run_id = await start(request, mark)
        except Conflict:
            raise Conflict(f"the name {mark.name!r} is taken: choose another, or stop what has it") from None
        log.info("run", run=run_id, name=mark.name, type=request.type, image=request.image, owner=owner)
        return run_id

    async def stop(self, name_or_id: str) -> str:
        """Stop and remove a service or a container of ours, and return its id; one that is removed is success too.

        Raises:
            NotFound: nobody knows it.
            Conflict: it is quartermaster itself.
        """
        view = await self._find(name_or_id)
        if view.status == "removed":
            return view.id
        if view.id in await self._own_ids():
            raise Conflict("this is quartermaster itself: it does not stop itself")
        remove = self._swarm.remove if view.type == "service" else self._containers.remove
        await remove(view.id)
        self._remember(view)
        log.info("stop", run=view.id, name=view.name, type=view.type)
        return view.id

    async def status(self, name_or_id: str) -> Service:
        """One service or container, also when it was removed.

        Raises:
            NotFound: nobody knows it.
        """
        return await self._find(name_or_id)

    async def listing(self, removed: bool = False) -> list[Service]:
        """All services of the swarm and the containers that quartermaster started here, the newest first."""
        containers, services = await asyncio.gather(self._containers.containers(), self._list_services())
        views = [*services, *map(lifecycle.container, containers)]
        if removed:
            there = {view.id for view in views}
            views += [view for view in self._removed.values() if view.id not in there]
        return sorted(views, key=lambda view: view.created_at or "", reverse=True)

    async def _run_container(self, request: RunRequest, mark: spec.Stamp) -> str:
        config = spec.container(request, mark, self._memory)
        return await self._containers.create(config, mark.name, request.credentials())

    async def _run_service(self, request: RunRequest, mark: spec.Stamp) -> str:
        credentials = request.credentials()
        image = await self._swarm.pin(request.image, credentials)
        objects = spec.Objects(
            await self._swarm.network_ids(request.networks), await self._swarm.secret_ids(request.secrets)
        )
        body = spec.service(request, mark, image, self._memory, objects)
        return await self._swarm.create(body, credentials)

    async def _find(self, name_or_id: str) -> Service:
        if not _PLAUSIBLE.fullmatch(name_or_id):
            raise NotFound("no service or container has this id or name")
        no_manager: NotAManager | None = None
        try:
            raw = await self._swarm.service(name_or_id)
        except NotAManager as error:  # containers need no swarm
            raw, no_manager = None, error
        if raw is not None:
            return await self._service_view(raw)
        found = await self._containers.container(name_or_id)
        if found is not None and (_is_ours(found) or found["Id"] == self._own_container):
            return lifecycle.container(found)
        remembered = self._recall(name_or_id)
        if remembered is not None:
            return remembered
        if no_manager is not None:
            raise no_manager
        raise NotFound(f"no service or container has the id or name {name_or_id!r}")

    async def _service_view(self, raw: Json) -> Service:
        tasks, nodes = await asyncio.gather(self._swarm.tasks(raw["ID"]), self._swarm.nodes())
        return lifecycle.service(raw, tasks, _by_id(nodes), datetime.now(UTC))

    async def _list_services(self) -> list[Service]:
        try:
            services, tasks, nodes = await asyncio.gather(
                self._swarm.services(), self._swarm.tasks(), self._swarm.nodes()
            )
        except NotAManager:
            return []
        of_service: dict[str, list[Json]] = {}
        for task in tasks:
            of_service.setdefault(task["ServiceID"], []).append(task)
        by_id, now = _by_id(nodes), datetime.now(UTC)
        return [lifecycle.service(raw, of_service.get(raw["ID"], []), by_id, now) for raw in services]

    async def _own_ids(self) -> set[str]:
        """The container that this process runs in, and the service that it is a task of."""
        if self._own_container is None:
            return set()
        raw = await self._containers.container(self._own_container)
        labels: Mapping[str, str] = (raw["Config"].get("Labels") or {}) if raw else {}
        return {self._own_container, labels.get("com.docker.swarm.service.id", self._own_container)}

    def _remember(self, view: Service) -> None:
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._removed[view.id] = msgspec.structs.replace(view, status="removed", reason="stopped", removed_at=at)
        while len(self._removed) > MAX_REMEMBERED:
            self._removed.popitem(last=False)

    def _recall(self, name_or_id: str) -> Service | None:
        by_id = self._removed.get(name_or_id)
        if by_id is not None:
            return by_id
        return next((view for view in reversed(self._removed.values()) if view.name == name_or_id), None)


def _is_ours(container: Json) -> bool:
    return (container["Config"].get("Labels") or {}).get(lifecycle.MANAGED) == "true"


def _by_id(nodes: list[Json]) -> dict[str, Json]:
    return {node["ID"]: node for node in nodes}
