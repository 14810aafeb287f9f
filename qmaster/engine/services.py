"""Swarm's services, their tasks, and the nodes, networks and secrets that they name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import BadRequest, EngineRefused, NotFound
from ..models.credentials import Credentials
from ..models.images import Reference
from ..models.requests import PullPolicy
from . import listed
from .calls import Calls
from .client import Client
from .labels import RUN, STOPPED
from .registry import Registry
from .spec import ending_spec

Json = dict[str, Any]

UPDATE_TRIES = 5
OUT_OF_SEQUENCE = "desc = update out of sequence"  # at the end: before it are only words of the engine


class Swarm:
    """What the swarm has. Methods raise ``HttpError`` s; belongs to the event loop."""

    def __init__(self, calls: Calls, registry: Registry) -> None:
        self._calls = calls
        self._registry = registry

    async def pin(self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]) -> str:
        """See ``Registry.pin``; an image that is never to be pulled is pinned to what this engine has of it.

        A node that has an image of a digest asks no registry, which it does for one without.
        """
        if pull == "never":
            return await self._pin_to_local(image)
        return await self._registry.pin(image, credentials, pull, warnings)

    async def create(self, spec: Json, credentials: Credentials | None) -> str:
        """Create a service and return its id.

        Raises:
            Conflict: the name is taken.
        """
        headers = {} if credentials is None else {"X-Registry-Auth": credentials.header()}

        async def find() -> str | None:
            raw = await self.service(spec["Name"])
            made = raw is not None and (raw["Spec"].get("Labels") or {}).get(RUN) == spec["Labels"][RUN]
            return str(raw["ID"]) if raw and made else None

        return await self._calls.post("/services/create", spec, headers, find)

    async def service(self, name_or_id: str) -> Json | None:
        """The service of exactly this id or name; None where there is none."""
        found = await self._calls.inspect(lambda client: client.inspect_service(name_or_id))
        # Docker takes a prefix of an id for it as well.
        names = (found.get("ID"), (found.get("Spec") or {}).get("Name")) if found else ()
        return found if name_or_id in names else None

    async def services(self) -> Sequence[Json]:
        """All services, as far as ``listed`` knows them."""
        return await self._calls.listing(lambda client: client.list_parts("/services", {}, listed.SERVICE))

    async def tasks(self, service_id: str | None = None) -> Sequence[Json]:
        """The tasks of one service, by its id, or of all; of a service that is gone there are none."""
        filters = {"service": service_id} if service_id else {}
        try:
            return await self._list_tasks(filters)
        except NotFound:
            return []

    async def wanted_tasks(self) -> Sequence[Json]:
        """The tasks that Swarm wants to run: those that ended are not among them."""
        return await self._list_tasks({"desired-state": "running"})

    async def _list_tasks(self, filters: dict[str, str]) -> Sequence[Json]:
        return await self._calls.listing(lambda client: client.list_parts("/tasks", filters, listed.TASK))

    async def end(self, service_id: str, label: str, why: str) -> bool:
        """Tell Swarm to end a service's tasks and keep them, with their exit codes and logs; False where it is gone.

        One update asks for a node that there is not, for all tasks at once, and for no restart: Swarm has no kill,
        and removing or scaling to 0 would take the exit codes away. A service that is being ended for this already, or
        is being stopped, is left alone.

        Args:
            label: the label that says that it is being ended.
            why: its value, ``stopped`` or ``timeout``.
        """
        for _ in range(UPDATE_TRIES):
            raw = await self._calls.inspect(lambda client: client.inspect_service(service_id))
            if raw is None:
                return False
            if (raw["Spec"].get("Labels") or {}).get(label) in (why, STOPPED):
                return True
            try:
                await self._update(service_id, raw["Version"]["Index"], ending_spec(raw["Spec"], label, why))
                return True
            except NotFound:
                return False
            except EngineRefused as error:
                if not str(error).endswith(OUT_OF_SEQUENCE):  # somebody else has updated it in between
                    raise
        raise EngineRefused("the service is being updated by somebody else all the time; try again")

    async def nodes(self) -> Sequence[Json]:
        return await self._calls.listing(lambda client: client.nodes())

    async def remove(self, service_id: str) -> None:
        """Remove it; that it is gone already is success."""
        await self._calls.remove(lambda client: client.remove_service(service_id))

    async def network_ids(self, names: list[str]) -> list[str]:
        """The ids of the swarm's networks of these names.

        Raises:
            BadRequest: there is no such network that a service may join.
        """
        return [await self._network_id(name) for name in names]

    async def secret_ids(self, names: list[str]) -> list[str]:
        """The ids of the swarm's secrets of these names.

        Raises:
            BadRequest: there is no such secret.
        """
        return [await self._secret_id(name) for name in names]

    async def _pin_to_local(self, image: str) -> str:
        reference = Reference.parse(image)
        if reference.digest:
            return image
        there = await self._calls.inspect(lambda client: client.inspect_image(image)) or {}
        for each in map(Reference.parse, there.get("RepoDigests") or ()):
            if each.name == reference.name:
                return f"{image}@{each.digest}"
        return image

    async def _update(self, service_id: str, version: int, spec: Json) -> None:
        path = f"/services/{service_id}/update"
        await self._calls.change(lambda client: client.submit(path, spec, {}, {"version": str(version)}))

    async def _network_id(self, name: str) -> str:
        """Names only: an id could stand for the host's network."""

        for network in await self._calls.listing(lambda client: client.networks(names=[name])):
            # The filter matches a part of the name as well.
            if network["Name"] == name and network["Scope"] == "swarm" and not network.get("Ingress"):
                return str(network["Id"])
        raise BadRequest(f"networks: the swarm has no network {name!r} that a service can join")

    async def _secret_id(self, name: str) -> str:
        def named(client: Client) -> Sequence[Json]:
            return list(client.secrets(filters={"name": name}))

        for secret in await self._calls.listing(named):
            if secret["Spec"]["Name"] == name:
                return str(secret["ID"])
        raise BadRequest(f"secrets: the swarm has no secret {name!r}")
