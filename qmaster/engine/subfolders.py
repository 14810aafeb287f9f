"""Host folders below those of ``--bind-mounts``: how Docker mounts them, which engines can, and their errors. Pure.

A job that may write to a folder can turn a folder in it into a link at any time. Only Docker can look and mount in one
step: a volume whose device is the folder of the option, mounted with ``Subpath`` (moby's ``safepath``), follows links
within that volume and refuses those that lead out of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..errors import BadRequest
from ..models.compose import RESERVED_VOLUME
from ..models.paths import holder
from ..models.requests import RunFields
from ..models.validation import quote

Json = dict[str, Any]

API = (1, 45)  # the first whose containers take ``Subpath``
ENGINE = (26, 1)  # the first whose tasks do (moby#47711): 26.0 takes the field and mounts the whole volume
# ``rslave``, as Docker unmounts a volume with all that is mounted in it: else that also unmounts what the host has
# mounted in the folder meanwhile. ``rbind`` shows what the host has mounted there before.
OPTIONS = "rbind,rslave"
_NUMBERS = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")
# In Docker's errors about such a mount. One answer for a path that does not exist and for one that leads out: the
# difference would tell which files of the host exist.
_VOLUME = re.compile(rf"/{RESERVED_VOLUME}[0-9a-f]{{32}}/_data(?:/(?P<path>[^:\"]+))?")
_SUBPATH = re.compile(r", subpath: (?P<path>.+)", re.DOTALL)


def of(request: RunFields, bind_mounts: Collection[str]) -> list[str]:
    """Return the host folders that a request mounts and that are not those of ``--bind-mounts`` themselves."""
    return [each.source for each in request.mounts() if each.kind == "bind" and each.source not in bind_mounts]


def volume(path: str, bind_mounts: Collection[str]) -> Json:
    """Return what Docker's mount of a host folder has beside target and access.

    Args:
        path: of the folder.
        bind_mounts: the folders of the option, one of which holds it.

    Raises:
        ValueError: none holds it; policy refuses that before.
    """
    base = holder(path, bind_mounts)
    if base is None:
        raise ValueError(f"no folder of --bind-mounts holds {path}")
    options = {
        "NoCopy": True,
        "Subpath": path.removeprefix(base).lstrip("/"),
        "DriverConfig": {"Name": "local", "Options": {"type": "none", "o": OPTIONS, "device": base}},
    }
    return {"Type": "volume", "Source": volume_name(base), "VolumeOptions": options}


def volume_name(folder: str) -> str:
    """Return the name of the volume that is a host folder. It tells the options: Docker does not compare them."""
    return RESERVED_VOLUME + hashlib.sha256(f"{OPTIONS}:{folder}".encode()).hexdigest()[:32]


def check_api(folders: Collection[str], version: str) -> None:
    """Require an engine whose containers can mount folders below those of ``--bind-mounts``.

    Raises:
        BadRequest: its API is older.
    """
    if _numbers(version) < API:
        raise _too_old(folders, f"a container needs Docker 26.0 (API 1.45) or newer; this engine has API {version}")


def check_nodes(folders: Collection[str], nodes: Iterable[Mapping[str, Any]]) -> None:
    """Require nodes whose tasks can mount folders below those of ``--bind-mounts``.

    Raises:
        BadRequest: an engine is older, or does not tell its version.
    """
    versions = [((node.get("Description") or {}).get("Engine") or {}).get("EngineVersion") for node in nodes]
    older = sum(_numbers(version or "") < ENGINE for version in versions)
    if older or not versions:
        raise _too_old(
            folders,
            f"a service needs Docker 26.1 or newer on every node; nodes with an older one: {older} of {len(versions)}",
        )


def explained(error: str | None) -> str | None:
    """Return an engine's error, in our words if it is about such a mount; None for none or an empty one."""
    found = _VOLUME.search(error or "")
    if not error or found is None:
        return error or None
    named = _SUBPATH.search(error) or found
    what = quote(named["path"]) if named["path"] else "the host folder"
    return f"volumes: {what} is not in a folder of --bind-mounts on this node, or is a link that leads out of it"


def _too_old(folders: Collection[str], why: str) -> BadRequest:
    path = quote(next(iter(folders)))
    return BadRequest(f"volumes: {path} is below a folder of --bind-mounts. For that {why}; or mount the whole folder")


def _numbers(version: str) -> tuple[int, int]:
    found = _NUMBERS.match(version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
