"""Swarm's services and tasks, and the nodes, networks and secrets that they use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypedDict

import msgspec

from ..errors import BadRequest, EngineRefused, NotFound
from ..models.credentials import Credentials
from ..models.images import Reference
from ..models.requests import LABEL_PREFIX, PullPolicy
from . import subfolders
from .calls import Calls, decode, segment
from .images import Registry, image_path
from .labels import RUN, STOPPED
from .spec import ending_spec, marked_spec

Json = dict[str, Any]

UPDATE_TRIES = 5
LIST_TRIES = 5
OUT_OF_SEQUENCE = "desc = update out of sequence"  # the end of the message; before it is only the engine's text


# The fields of Docker's listings that are used: the rest, most of a listing, is not decoded. Small values are ``Any``,
# so that a listing is not refused because of one of them.


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
    StopGracePeriod: Any


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
    """A listing whose items are decoded on access: all decoded at once would take more memory than the cache.

    Args:
        body: Docker's answer.
        decoder: decodes the used fields of an item.

    Raises:
        EngineRefused: the body is not a list.
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
        except msgspec.ValidationError:  # another type than in all known engines: the reader may not need it
            return msgspec.json.decode(item)


TASK = msgspec.json.Decoder(_Task)
SERVICE = msgspec.json.Decoder(_Service)


class Swarm:
    """Services, tasks and nodes of the swarm. Methods raise ``HttpError``; belongs to the event loop."""

    def __init__(self, calls: Calls, registry: Registry) -> None:
        self._calls = calls
        self._registry = registry

    async def pin(self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]) -> str:
        """Pin an image as ``Registry.pin`` does; with ``never``, to the digest of the local image.

        A node that has the image of a digest does not ask the registry; without a digest it does.
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
        """Return the service with exactly this id or name, or None."""
        found = await self._inspect(name_or_id)
        # Docker also accepts a prefix of an id.
        names = (found.get("ID"), (found.get("Spec") or {}).get("Name")) if found else ()
        return found if name_or_id in names else None

    async def services(self, *ids: str) -> Sequence[Json]:
        """Return the services with these ids, or all, with the fields of ``_Service``."""
        filters = {"id": sorted(ids)} if ids else {}
        return Listing(await self._calls.listing("/services", filters), SERVICE)

    async def tasks(self, *service_ids: str) -> Sequence[Json]:
        """Return the tasks of the services with these ids, or all; a service that does not exist has none.

        Raises:
            NotFound: services were removed during each try.
        """
        for _ in range(LIST_TRIES):
            try:
                return await self._list_tasks({"service": sorted(service_ids)} if service_ids else {})
            except NotFound:  # one missing service makes the whole call a 404
                there = await self.services(*service_ids)
                service_ids = tuple(raw["ID"] for raw in there if raw["ID"] in service_ids)
                if not service_ids:
                    return []
        raise NotFound("the services are being removed; try again")

    async def wanted_tasks(self) -> Sequence[Json]:
        """Return the tasks that Swarm wants to run, so none that has ended."""
        return await self._list_tasks({"desired-state": ["running"]})

    async def _list_tasks(self, filters: dict[str, list[str]]) -> Sequence[Json]:
        return Listing(await self._calls.listing("/tasks", filters), TASK)

    async def _inspect(self, name_or_id: str) -> Json | None:
        name = segment(name_or_id)
        return await self._calls.inspect(f"/services/{name}") if name else None

    async def end(self, service_id: str, label: str, why: str) -> bool:
        """End a service's tasks but keep them, with their exit codes and logs; return False if it does not exist.

        One update sets a constraint that no node meets, for all tasks at once, and no restart: Swarm has no kill, and
        removing the service or scaling it to 0 would delete the exit codes. A service that is already being ended for
        this reason, or is being stopped, is not updated.

        Args:
            service_id: of the service.
            label: the label that marks it as being ended.
            why: the value of the label, ``stopped`` or ``timeout``.
        """
        return await self._change_spec(service_id, ending_spec, label, why)

    async def mark(self, service_id: str, label: str, why: str) -> bool:
        """Set a label of a service, which restarts nothing; return False if the service does not exist."""
        return await self._change_spec(service_id, marked_spec, label, why)

    async def _change_spec(
        self, service_id: str, change: Callable[[Mapping[str, Any], str, str], Json], label: str, why: str
    ) -> bool:
        for _ in range(UPDATE_TRIES):
            raw = await self._inspect(service_id)
            if raw is None:
                return False
            if (raw["Spec"].get("Labels") or {}).get(label) in (why, STOPPED):
                return True
            try:
                await self._update(service_id, raw["Version"]["Index"], change(raw["Spec"], label, why))
                return True
            except NotFound:
                return False
            except EngineRefused as error:
                if not str(error).endswith(OUT_OF_SEQUENCE):  # another client has updated it meanwhile
                    raise
        raise EngineRefused("other clients keep updating the service; try again")

    async def labelled(self, label: str) -> list[Json]:
        """Return the services with a label, ``key`` or ``key=value``, as Docker has them."""
        return decode(await self._calls.listing("/services", {"label": [label]}), list[Json])

    async def check_subfolders(self, folders: Collection[str]) -> None:
        """Require that every node can mount host folders below those of ``--bind-mounts``.

        An older engine mounts the whole folder of the option. So the nodes are listed anew.

        Args:
            folders: what is to be mounted; nothing is asked if there are none.

        Raises:
            BadRequest: an engine is too old.
        """
        if folders:
            subfolders.check_nodes(folders, await self.nodes())

    async def nodes(self) -> Sequence[Json]:
        """Return the nodes of the swarm, as Docker lists them."""
        return decode(await self._calls.listing("/nodes"), list[Json])

    async def remove(self, service_id: str) -> None:
        """Remove a service; if it does not exist, that is success."""
        await self._calls.remove("DELETE", f"/services/{service_id}")

    async def network_ids(self, names: list[str]) -> list[str]:
        """Return the ids of the swarm's networks with these names.

        Raises:
            BadRequest: a network does not exist, or a service cannot join it.
        """
        return [await self._network_id(name) for name in names]

    async def secret_ids(self, names: list[str]) -> list[str]:
        """Return the ids of the swarm's secrets with these names.

        Raises:
            BadRequest: a secret does not exist.
        """
        return [await self._secret_id(name) for name in names]

    async def config_ids(self, names: list[str]) -> list[str]:
        """Return the ids of the swarm's configs with these names.

        Raises:
            BadRequest: a config does not exist, or is quartermaster's own.
        """
        return [await self._config_id(name) for name in names]

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
        """Return the id of a network by its name only: an id could be that of the host's network."""
        # The filter also matches parts of names.
        for network in decode(await self._calls.listing("/networks", {"name": [name]}), list[Json]):
            if network["Name"] == name and network["Scope"] == "swarm" and not network.get("Ingress"):
                return str(network["Id"])
        raise BadRequest(f"networks: the swarm has no network {name!r} that a service can join")

    async def _config_id(self, name: str) -> str:
        for config in decode(await self._calls.listing("/configs", {"name": [name]}), list[Json]):
            if config["Spec"]["Name"] == name:
                if any(key.startswith(LABEL_PREFIX) for key in config["Spec"].get("Labels") or {}):
                    raise BadRequest(f"configs: {name!r} is quartermaster's own, which holds the spec of a function")
                return str(config["ID"])
        raise BadRequest(f"configs: the swarm has no config {name!r}")

    async def _secret_id(self, name: str) -> str:
        for secret in decode(await self._calls.listing("/secrets", {"name": [name]}), list[Json]):
            if secret["Spec"]["Name"] == name:
                return str(secret["ID"])
        raise BadRequest(f"secrets: the swarm has no secret {name!r}")
