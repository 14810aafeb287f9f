"""Swarm's services, their tasks, and the nodes, networks and secrets that they name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import msgspec

from ..errors import BadRequest, EngineRefused, NotFound
from ..models.credentials import Credentials
from ..models.images import Reference
from ..models.requests import PullPolicy
from .client import Calls, decode, segment
from .images import Registry, image_path
from .labels import RUN, STOPPED
from .spec import ending_spec

Json = dict[str, Any]

UPDATE_TRIES = 5
LIST_TRIES = 5
OUT_OF_SEQUENCE = "desc = update out of sequence"  # at the end: before it are only words of the engine


# The part of Docker's listings that is used: the rest, most of it, is not even decoded. What is told in a few words
# stays ``Any``: a listing is not refused for one of its values.


class _ContainerStatus(TypedDict, total=False):
    ContainerID: Any
    ExitCode: Any


class _TaskStatus(TypedDict, total=False):
    Timestamp: Any
    State: Any
    Message: Any
    Err: Any
    ContainerStatus: _ContainerStatus | None


class _Task(TypedDict, total=False):
    ID: Any
    ServiceID: Any
    Slot: Any
    NodeID: Any
    CreatedAt: Any
    Version: Any
    DesiredState: Any
    JobIteration: Any
    Status: _TaskStatus


class _ContainerSpec(TypedDict, total=False):
    Image: Any
    Args: Any
    Healthcheck: Any


class _Template(TypedDict, total=False):
    ContainerSpec: _ContainerSpec | None
    Resources: Any
    RestartPolicy: Any


class _Spec(TypedDict, total=False):
    Name: Any
    Labels: Any
    Mode: Any
    TaskTemplate: _Template


class _Service(TypedDict, total=False):
    ID: Any
    Version: Any
    CreatedAt: Any
    UpdatedAt: Any
    JobStatus: Any
    Spec: _Spec


class Listing(Sequence[Json]):
    """What Docker answered, decoded one by one as it is asked for: together it would take more than all that is kept.

    Args:
        body: Docker's answer.
        decoder: takes what is used of an item.

    Raises:
        EngineRefused: it is no list.
    """

    def __init__(self, body: bytes, decoder: msgspec.json.Decoder[Any]) -> None:
        self._items = decode(body, list[msgspec.Raw])
        self._decoder = decoder

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, at: Any) -> Any:
        item = self._items[at]
        try:
            return self._decoder.decode(item)
        except msgspec.ValidationError:  # a part is not what it was in all engines so far: who reads it may do without
            return msgspec.json.decode(item)


TASK = msgspec.json.Decoder(_Task)
SERVICE = msgspec.json.Decoder(_Service)


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

        return await self._calls.create("/services/create", spec, find, headers)

    async def service(self, name_or_id: str) -> Json | None:
        """The service of exactly this id or name; None where there is none."""
        found = await self._inspect(name_or_id)
        # Docker takes a prefix of an id for it as well.
        names = (found.get("ID"), (found.get("Spec") or {}).get("Name")) if found else ()
        return found if name_or_id in names else None

    async def services(self, *ids: str) -> Sequence[Json]:
        """The services of these ids, or all, as far as ``_Service`` knows them."""
        filters = {"id": sorted(ids)} if ids else {}
        return Listing(await self._calls.listing("/services", filters), SERVICE)

    async def tasks(self, *service_ids: str) -> Sequence[Json]:
        """The tasks of these services, by id, or of all; of a service that is gone there are none.

        Raises:
            NotFound: services were removed all the time.
        """
        for _ in range(LIST_TRIES):
            try:
                return await self._list_tasks({"service": sorted(service_ids)} if service_ids else {})
            except NotFound:  # one that is gone makes all of it a 404
                there = await self.services(*service_ids)
                service_ids = tuple(raw["ID"] for raw in there if raw["ID"] in service_ids)
                if not service_ids:
                    return []
        raise NotFound("services are being removed all the time; try again")

    async def wanted_tasks(self) -> Sequence[Json]:
        """The tasks that Swarm wants to run: those that ended are not among them."""
        return await self._list_tasks({"desired-state": ["running"]})

    async def _list_tasks(self, filters: dict[str, list[str]]) -> Sequence[Json]:
        return Listing(await self._calls.listing("/tasks", filters), TASK)

    async def _inspect(self, name_or_id: str) -> Json | None:
        name = segment(name_or_id)
        return await self._calls.inspect(f"/services/{name}") if name else None

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
            raw = await self._inspect(service_id)
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
        return decode(await self._calls.listing("/nodes"), list[Json])

    async def remove(self, service_id: str) -> None:
        """Remove it; that it is gone already is success."""
        await self._calls.remove("DELETE", f"/services/{service_id}")

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
        there = await self._calls.inspect(image_path(image)) or {}
        for each in map(Reference.parse, there.get("RepoDigests") or ()):
            if each.name == reference.name:
                return f"{image}@{each.digest}"
        return image

    async def _update(self, service_id: str, version: int, spec: Json) -> None:
        await self._calls.change("POST", f"/services/{service_id}/update", spec, version=str(version))

    async def _network_id(self, name: str) -> str:
        """Names only: an id could stand for the host's network."""
        # The filter matches a part of the name as well.
        for network in decode(await self._calls.listing("/networks", {"name": [name]}), list[Json]):
            if network["Name"] == name and network["Scope"] == "swarm" and not network.get("Ingress"):
                return str(network["Id"])
        raise BadRequest(f"networks: the swarm has no network {name!r} that a service can join")

    async def _secret_id(self, name: str) -> str:
        for secret in decode(await self._calls.listing("/secrets", {"name": [name]}), list[Json]):
            if secret["Spec"]["Name"] == name:
                return str(secret["ID"])
        raise BadRequest(f"secrets: the swarm has no secret {name!r}")
