"""The containers of this engine, and which of them this process runs in."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import BadRequest, HttpError, NotFound, RegistryRefused
from ..models.credentials import Credentials
from ..models.images import Reference
from ..models.requests import LABEL_PREFIX, PullPolicy
from .client import CHANGE, Calls, decode, segment
from .images import Images, Registry, image_path
from .labels import MANAGED, RUN

Json = dict[str, Any]

STOP_GRACE = 10  # seconds between SIGTERM and SIGKILL, Docker's own default
MANY_IMAGES = 1000

# The engine mounts three files of the container's own folder into every container, on any cgroup version.
_MOUNT = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")


class Containers:
    """What this engine runs beside the swarm. Methods raise ``HttpError`` s; belongs to the event loop."""

    def __init__(self, calls: Calls, stops: Calls, registry: Registry, images: Images) -> None:
        self._calls = calls
        self._stops = stops
        self._registry = registry
        self._images = images
        self._nonces: dict[str, str | None] = {}  # by the id of an image, which never changes

    async def prepare(self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]) -> None:
        """Check the credentials, and have the image that the registry has now where ``pull`` is ``always``.

        Args:
            warnings: takes that the registry could not tell or give it, and what is there is used.

        Raises:
            RegistryRefused: the credentials are wrong, or the registry did not give the image with them.
        """
        if credentials is None and pull != "always":
            return
        pinned = Reference.parse(await self._registry.pin(image, credentials, pull, warnings))
        if pull != "always" or pinned.digest is None or Reference.parse(image).digest:
            return
        for _ in range(2):  # a pull that was under way already may bring what was there before
            there = await self._calls.inspect(image_path(image))
            if there is not None and any(each.endswith(f"@{pinned.digest}") for each in there["RepoDigests"] or ()):
                return
            try:
                await self._images.pull(image, credentials)
            except RegistryRefused as error:
                if there is None or credentials is not None:
                    raise
                warnings.append(f"pull_policy: what is there already is used: {error}")
                return

    async def create(self, config: Json, name: str, credentials: Credentials | None, pull: PullPolicy) -> str:
        """Create and start a container, its image pulled if it is missing and may be; return its id.

        Raises:
            BadRequest: the image is not there, and ``pull`` is ``never``.
            RegistryRefused: the image could not be had.
            Conflict: the name is taken.
        """
        try:
            container_id = await self._create(config, name)
        except NotFound:
            if pull == "never":
                raise BadRequest(
                    f"image: {config['Image']} is not on this engine; pull it first, or leave pull_policy out"
                ) from None
            await self._images.pull(config["Image"], credentials)
            container_id = await self._create(config, name)
        await self.start(container_id)
        return container_id

    async def start(self, container_id: str) -> None:
        """Start what was created; one that cannot start is removed.

        Raises:
            BadRequest: its command or working directory is not there.
        """
        try:
            await self._calls.change("POST", f"/containers/{container_id}/start")
        except HttpError as error:
            await self.remove(container_id)
            if isinstance(error, NotFound):  # of its command or working directory, not of the container
                raise BadRequest(f"the container could not start: {error}") from error
            raise

    async def container(self, name_or_id: str) -> Json | None:
        """The container of exactly this id or name, whoever started it; None where there is none."""
        name = segment(name_or_id)
        found = await self._calls.inspect(f"/containers/{name}/json") if name else None
        # Docker takes a prefix of an id for it as well.
        names = (found.get("Id"), found.get("Name", "").removeprefix("/")) if found else ()
        return await self._in_its_own_name(found) if found and name_or_id in names else None

    async def containers(self) -> Sequence[Json]:
        """Those that quartermaster started, as Docker lists them: ``Id`` and ``State`` among what it says."""
        said = await self._calls.listing("/containers/json", {"label": [f"{MANAGED}=true"]}, all="1")
        return decode(said, list[Json])

    async def stop(self, container_id: str) -> None:
        """Send its stop signal, and SIGKILL after its grace period; that it has ended already is success."""
        raw = await self.container(container_id)
        if raw is None or not raw["State"]["Running"]:
            return
        within = (raw["Config"].get("StopTimeout") or STOP_GRACE) + CHANGE
        with contextlib.suppress(NotFound):
            await self._stops.call(lambda: self._calls.client.send("POST", f"/containers/{container_id}/stop"), within)

    async def remove(self, container_id: str) -> None:
        """Remove it, at once; that it is gone already is success."""
        await self._calls.remove("DELETE", f"/containers/{container_id}", force="1", v="1")

    async def _in_its_own_name(self, raw: Json) -> Json:
        """A container as inspected, without labels of ours that it only has from its image.

        Docker does not tell them apart. What quartermaster starts has a nonce, which no image knew before.
        """
        labels = raw["Config"].get("Labels") or {}
        if MANAGED not in labels or (RUN in labels and labels[RUN] != await self._nonce_of_image(raw["Image"])):
            return raw
        own = {key: value for key, value in labels.items() if not key.startswith(LABEL_PREFIX)}
        return {**raw, "Config": {**raw["Config"], "Labels": own}}

    async def _nonce_of_image(self, image_id: str) -> str | None:
        """What an image says in the place of a run's nonce; of one that is gone nothing, until it is there again."""
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


def own_container_id(mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The id of the container that this process runs in; None outside of one."""
    try:
        found = _MOUNT.search(mountinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None
