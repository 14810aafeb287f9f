"""Swarm's configs: immutable data with labels that can change, read and written by name or id."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import EngineRefused
from .calls import CHANGE, Calls, decode, segment

Json = dict[str, Any]


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A config of the swarm; ``index`` is its version for an update."""

    id: str
    name: str
    labels: Mapping[str, str]
    data: bytes
    index: int


class _Spec(msgspec.Struct, rename="pascal"):
    name: str
    labels: dict[str, str] | None = None
    data: str = ""


class _Version(msgspec.Struct, rename="pascal"):
    index: int = 0


class _Listed(msgspec.Struct, rename={"id": "ID", "spec": "Spec", "version": "Version"}):
    id: str
    spec: _Spec
    version: _Version


class Configs:
    """The configs of the swarm. Methods raise ``HttpError``; belongs to the event loop."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def create(self, name: str, labels: Mapping[str, str], data: bytes) -> str:
        """Create a config and return its id.

        Raises:
            Conflict: the name is taken.
        """

        async def find() -> str | None:
            found = await self.config(name)
            return found.id if found is not None and (found.labels, found.data) == (dict(labels), data) else None

        body = {"Name": name, "Labels": dict(labels), "Data": base64.b64encode(data).decode()}
        return await self._calls.create("/configs/create", body, find)

    async def config(self, name_or_id: str) -> Config | None:
        """Return the config with exactly this id or name, or None."""
        path = segment(name_or_id)
        raw = await self._calls.inspect(f"/configs/{path}") if path else None
        if raw is None:
            return None
        found = _config(_converted(raw))
        return found if name_or_id in (found.id, found.name) else None  # Docker also accepts a prefix of an id

    async def labelled(self, label: str) -> list[msgspec.Raw]:
        """Return the configs with a label, ``key`` or ``key=value``, each for ``id_of`` and ``read``.

        They are not decoded here: a swarm may have thousands, and 10,000 take Docker seconds on a busy machine.
        """
        params = {"filters": json.dumps({"label": [label]})}
        answer = await self._calls.call(lambda: self._calls.client.send("GET", "/configs", params), CHANGE, "list")
        return decode(answer, list[msgspec.Raw])

    async def relabel(self, config: Config, labels: Mapping[str, str]) -> None:
        """Replace the labels of a config that nobody has changed since it was read: a compare-and-swap.

        Raises:
            EngineRefused: somebody has; or this call was carried out, and its answer was lost.
        """
        body = {"Name": config.name, "Labels": dict(labels), "Data": base64.b64encode(config.data).decode()}
        await self._calls.change("POST", f"/configs/{config.id}/update", body, version=str(config.index))

    async def remove(self, config_id: str) -> None:
        """Remove a config; if it does not exist, that is success."""
        await self._calls.remove("DELETE", f"/configs/{config_id}")


def id_of(listed: msgspec.Raw) -> str:
    """Return the id of a listed config without decoding its data."""
    return decode(listed, _Identified).id


def read(listed: msgspec.Raw) -> Config:
    """Decode a listed config."""
    return _config(decode(listed, _Listed))


class _Identified(msgspec.Struct, rename={"id": "ID"}):
    id: str


def _converted(raw: Json) -> _Listed:
    try:
        return msgspec.convert(raw, _Listed)
    except msgspec.ValidationError as error:
        raise EngineRefused(f"the Docker engine answered with an invalid config: {error}") from error


def _config(listed: _Listed) -> Config:
    try:
        data = base64.b64decode(listed.spec.data)
    except binascii.Error:
        data = b""
    return Config(
        id=listed.id, name=listed.spec.name, labels=listed.spec.labels or {}, data=data, index=listed.version.index
    )
