"""Containers of this engine, among them the one that this process runs in."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from ..errors import BadRequest, Conflict, HttpError, NotFound, RegistryRefused
from ..models.credentials import Credentials
from ..models.images import Reference
from ..models.requests import LABEL_PREFIX, PullPolicy
from . import ports, subfolders
from .calls import CHANGE, LISTING, Calls, decode, segment
from .images import Images, Registry, image_path
from .labels import MANAGED, RUN
from .services import Swarm

Json = dict[str, Any]

STOP_GRACE = 10  # seconds between SIGTERM and SIGKILL, Docker's own default
BEING_REMOVED = "is already in progress"  # the end of dockerd's message about a second removal
MANY_IMAGES = 1000  # entries of the cache of nonces

# The engine mounts three files of the container's own folder into every container, on any cgroup version.
_MOUNT = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")

log = structlog.get_logger(__name__)


class Containers:
    """Plain containers of this engine. Methods raise ``HttpError``; belongs to the event loop."""

    def __init__(self, calls: Calls, stops: Calls, registry: Registry, images: Images) -> None:
        self._calls = calls
        self._stops = stops
        self._registry = registry
        self._images = images
        self._writing: set[asyncio.Task[None]] = set()
        self._nonces: dict[str, str | None] = {}  # by image id: the content of an id never changes

    async def prepare(self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]) -> None:
        """Check the credentials; if ``pull`` is ``always``, pull the image that the registry has now.

        Args:
            image: the reference.
            credentials: for the registry, or None.
            pull: the pull policy.
            warnings: receives a warning if the local image is used, as the registry did not answer.

        Raises:
            RegistryRefused: the credentials are wrong, or the image could not be pulled with them.
        """
        if credentials is None and pull != "always":
            return
        pinned = Reference.parse(await self._registry.pin(image, credentials, pull, warnings))
        if pull != "always" or pinned.digest is None or Reference.parse(image).digest:
            return
        for _ in range(2):  # a pull that had begun before may bring an older image
            there = await self._calls.inspect(image_path(image))
            if there is not None and any(each.endswith(f"@{pinned.digest}") for each in there["RepoDigests"] or ()):
                return
            try:
                await self._images.pull(image, credentials)
            except RegistryRefused as error:
                if there is None or credentials is not None:
                    raise
                warnings.append(f"pull_policy: the local image is used: {error}")
                return

    async def check_subfolders(self, folders: Collection[str]) -> None:
        """Require that this engine can mount host folders below those of ``--bind-mounts``.

        Args:
            folders: what is to be mounted; nothing is asked if there are none.

        Raises:
            BadRequest: the engine is too old.
        """
        if folders:
            calls = self._calls
            subfolders.check_api(folders, await calls.call(calls.client.api_version, LISTING, "inspect"))

    async def check_image(
        self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]
    ) -> str:
        """Check the credentials and the image, as far as that is possible without a pull.

        Args:
            image: the reference.
            credentials: for the registry, or None.
            pull: the pull policy.
            warnings: receives a warning if neither the engine nor the registry has the image.

        Returns:
            The reference, with its digest if the registry was asked and told it.

        Raises:
            BadRequest: the image is missing and ``pull`` is ``never``.
            RegistryRefused: the credentials are wrong.
        """
        there = await self._calls.inspect(image_path(image)) is not None
        if pull == "never" and not there:
            raise _missing(image)
        if there and credentials is None and pull != "always":
            return image
        pinned = await self._registry.pin(image, credentials, pull, warnings)
        if not there and pinned == image and Reference.parse(image).digest is None:
            warnings.append(f"image: {image} is not on this engine, and the registry has not told that it has it")
        return pinned

    async def create(
        self, config: Json, name: str, credentials: Credentials | None, pull: PullPolicy, stdin: str | None = None
    ) -> str:
        """Create and start a container and return its id; pull its image if it is missing.

        Args:
            config: the body of Docker's call.
            name: its name.
            credentials: for the registry, or None.
            pull: the pull policy.
            stdin: its standard input, which is then closed; None: it has none.

        Raises:
            BadRequest: the image is missing and ``pull`` is ``never``.
            RegistryRefused: the image could not be pulled.
            Conflict: the name is taken.
        """
        try:
            container_id = await self._create(config, name)
        except NotFound:
            if pull == "never":
                raise _missing(config["Image"]) from None
            await self._images.pull(config["Image"], credentials)
            container_id = await self._create(config, name)
        if stdin is None:
            await self.start(container_id)
        else:
            await self._start_with(container_id, stdin)
        return container_id

    async def close(self) -> None:
        """Stop writing to containers."""
        for task in list(self._writing):
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def start(self, container_id: str) -> None:
        """Start a created container; remove it if it cannot start.

        Raises:
            BadRequest: its command or working directory does not exist.
        """
        try:
            await self._calls.change("POST", f"/containers/{container_id}/start")
        except HttpError as error:
            await self.remove(container_id)
            said = subfolders.explained(str(error))
            if said and said != str(error):
                log.warning("host_folder_not_mounted", container=container_id, reason=str(error))
                raise BadRequest(said) from error
            if isinstance(error, NotFound):  # Docker means its command or working directory
                raise BadRequest(f"the container could not start: {error}") from error
            raise

    async def _start_with(self, container_id: str, stdin: str) -> None:
        """Start a created container whose standard input is written while it runs; remove it if it cannot start."""
        client, path = self._calls.client, f"/containers/{container_id}/attach/ws"
        try:
            socket = await self._calls.call(
                lambda: client.connect(path, {"stream": "1", "stdin": "1"}), CHANGE, "attach"
            )
        except HttpError:
            await self.remove(container_id)
            raise
        try:
            await self.start(container_id)
        except BaseException:
            await socket.close()
            raise
        task = asyncio.create_task(self._write(socket, stdin.encode(), container_id))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self, socket: aiohttp.ClientWebSocketResponse, data: bytes, container_id: str) -> None:
        """Write a container's standard input and close it; the container need not read it."""
        try:
            await socket.send_bytes(data)
        except (aiohttp.ClientError, ConnectionError) as error:
            log.warning("stdin_not_written", run=container_id, reason=str(error))
        finally:
            await socket.close()

    async def container(self, name_or_id: str) -> Json | None:
        """Return the container with exactly this id or name, also one that quartermaster did not start, or None."""
        name = segment(name_or_id)
        found = await self._calls.inspect(f"/containers/{name}/json") if name else None
        # Docker also accepts a prefix of an id.
        names = (found.get("Id"), found.get("Name", "").removeprefix("/")) if found else ()
        return await self._without_image_labels(found) if found and name_or_id in names else None

    async def containers(self) -> Sequence[Json]:
        """Return the containers that quartermaster started, as Docker lists them."""
        said = await self._calls.listing("/containers/json", {"label": [f"{MANAGED}=true"]}, all="1")
        return decode(said, list[Json])

    async def stop(self, container_id: str) -> None:
        """Send its stop signal, then SIGKILL after its grace period; if it has ended, that is success."""
        raw = await self.container(container_id)
        if raw is None or not raw["State"]["Running"]:
            return
        within = (raw["Config"].get("StopTimeout") or STOP_GRACE) + CHANGE
        with contextlib.suppress(NotFound):
            await self._stops.call(lambda: self._calls.client.send("POST", f"/containers/{container_id}/stop"), within)

    async def remove(self, container_id: str) -> None:
        """Kill and remove it; if it does not exist, or is being removed already, that is success."""
        try:
            await self._calls.remove("DELETE", f"/containers/{container_id}", force="1", v="1")
        except Conflict as error:
            if not str(error).endswith(BEING_REMOVED):
                raise

    async def _without_image_labels(self, raw: Json) -> Json:
        """Return the container without ``io.qmaster.*`` labels that come from its image.

        Docker does not tell them apart. A container that quartermaster started has a nonce that its image lacks.
        """
        labels = raw["Config"].get("Labels") or {}
        if MANAGED not in labels or (RUN in labels and labels[RUN] != await self._nonce_of_image(raw["Image"])):
            return raw
        own = {key: value for key, value in labels.items() if not key.startswith(LABEL_PREFIX)}
        return {**raw, "Config": {**raw["Config"], "Labels": own}}

    async def _nonce_of_image(self, image_id: str) -> str | None:
        """Return an image's value of the nonce label, None if it has none or does not exist."""
        if image_id not in self._nonces:
            image = await self._calls.inspect(image_path(image_id))
            if image is None:
                return None
            if len(self._nonces) >= MANY_IMAGES:
                self._nonces.clear()
            self._nonces[image_id] = ((image.get("Config") or {}).get("Labels") or {}).get(RUN)
        return self._nonces[image_id]

    async def _create(self, config: Json, name: str) -> str:
        async def find() -> str | None:
            raw = await self.container(name)
            made = raw is not None and (raw["Config"].get("Labels") or {}).get(RUN) == config["Labels"][RUN]
            return str(raw["Id"]) if raw and made else None

        return await self._calls.create("/containers/create", config, find, name=name)


class OwnContainer:
    """The container that this process runs in, if any, and the service of that container.

    Args:
        containers: the containers.
        swarm: the services.
        container_id: of the container; None: the process runs in none.
    """

    def __init__(self, containers: Containers, swarm: Swarm, container_id: str | None = None) -> None:
        self.id = container_id
        self._containers = containers
        self._swarm = swarm

    async def names(self) -> set[str]:
        """Return the id and name of the container, and the id of the service."""
        raw = await self._container()
        if raw is None:
            return {self.id} if self.id else set()
        return {raw["Id"], raw["Name"].removeprefix("/"), _service_of(raw) or raw["Id"]}

    async def published_ports(self) -> set[ports.Port]:
        """Return the published ports of the container and the service."""
        raw = await self._container()
        if raw is None:
            return set()
        service_id = _service_of(raw)
        service = await self._swarm.service(service_id) if service_id else None
        return {*ports.of_container(raw), *(ports.of_service(service) if service else ())}

    async def _container(self) -> Json | None:
        return None if self.id is None else await self._containers.container(self.id)


def _missing(image: str) -> BadRequest:
    return BadRequest(f"image: {image} is not on this engine; pull it first, or leave pull_policy out")


def _service_of(raw: Json) -> str | None:
    """Return the id of the service of a container, None if it is no task."""
    labels: Mapping[str, str] = raw["Config"].get("Labels") or {}
    return labels.get("com.docker.swarm.service.id")


def own_container_id(mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Return the id of the container that this process runs in, or None."""
    try:
        found = _MOUNT.search(mountinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None
