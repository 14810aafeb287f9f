"""Pure: the fields of a run that are shaped as in Compose → their parts of a service's and of a container's body."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from ..models import compose
from ..models.compose import SHARED_MEMORY, Mount
from ..models.requests import RunRequest
from . import subfolders
from .labels import MIB

Json = dict[str, Any]


def of_service(request: RunRequest, config_ids: Sequence[str], bind_mounts: Collection[str] = ()) -> Json:
    """Return parts of a service's ``ContainerSpec``; None for what the request leaves out.

    Args:
        request: the request.
        config_ids: the ids of its configs, in the order of the request.
        bind_mounts: the host folders that runs may mount, with those below.
    """
    mounts = request.mounts()
    if request.shm_size is not None:  # Swarm has no field for it
        mounts.append(Mount("tmpfs", "", SHARED_MEMORY, size=request.shm_size))
    hosts, dns, limits = (
        compose.hosts(request.extra_hosts),
        compose.servers(request.dns),
        compose.limits(request.ulimits),
    )
    return {
        "Init": request.init,
        "StopSignal": request.stop_signal,
        "StopGracePeriod": None if request.stop_grace_period is None else round(request.stop_grace_period * 1e9),
        "Hostname": request.hostname,
        "Hosts": [f"{address} {name}" for name, address in hosts] or None,
        "DNSConfig": {"Nameservers": dns} if dns else None,
        "ReadOnly": request.read_only or None,
        "Mounts": [_mount(each, bind_mounts) for each in mounts] or None,
        "Ulimits": [{"Name": each.name, "Soft": each.soft, "Hard": each.hard} for each in limits] or None,
        "Configs": [_config(name, i) for name, i in zip(request.configs, config_ids, strict=True)] or None,
    }


def generic_resources(request: RunRequest) -> list[Json] | None:
    """Return what a service reserves on its node beside memory and processors, None for nothing."""
    return [
        {"DiscreteResourceSpec": {"Kind": kind, "Value": value}} for kind, value in request.generic_resources.items()
    ] or None


def of_container(request: RunRequest) -> Json:
    """Return parts of a container's body beside ``HostConfig``."""
    stdin = {"OpenStdin": True, "StdinOnce": True} if request.stdin is not None else {}
    grace = request.stop_grace_period
    return {
        "StopSignal": request.stop_signal,
        "StopTimeout": None if grace is None else math.ceil(grace),  # Docker has whole seconds
        "Hostname": request.hostname,
        **stdin,
    }


def of_host(request: RunRequest, bind_mounts: Collection[str] = ()) -> Json:
    """Return parts of a container's ``HostConfig``; ``bind_mounts``: as in ``of_service``."""
    limits = compose.limits(request.ulimits)
    return {
        "Init": request.init,
        "ExtraHosts": [f"{name}:{address}" for name, address in compose.hosts(request.extra_hosts)] or None,
        "Dns": compose.servers(request.dns) or None,
        "ReadonlyRootfs": request.read_only or None,
        "Mounts": [_mount(each, bind_mounts) for each in request.mounts()] or None,
        "ShmSize": None if request.shm_size is None else request.shm_size * MIB,
        "Ulimits": [{"Name": each.name, "Soft": each.soft, "Hard": each.hard} for each in limits] or None,
        "DeviceRequests": None if request.gpus is None else [_gpus(request.gpus)],
    }


def _mount(mount: Mount, bind_mounts: Collection[str]) -> Json:
    body: Json = {"Type": mount.kind, "Target": mount.target, "ReadOnly": mount.read_only}
    if mount.kind == "bind" and mount.source not in bind_mounts:
        return {**body, **subfolders.volume(mount.source, bind_mounts)}
    if mount.kind != "tmpfs":
        return {**body, "Source": mount.source}
    options = {
        "SizeBytes": None if mount.size is None else max(1, round(mount.size * MIB)),
        "Mode": mount.mode,
    }
    return {**body, "TmpfsOptions": {name: value for name, value in options.items() if value is not None}}


def _config(name: str, config_id: str) -> Json:
    """Mount a config as ``docker service create --config NAME`` does: /NAME, readable by every user."""
    file = {"Name": f"/{name}", "UID": "0", "GID": "0", "Mode": 0o444}
    return {"ConfigID": config_id, "ConfigName": name, "File": file}


def _gpus(count: int | str) -> Json:
    """Ask for GPUs as ``docker run --gpus`` does."""
    return {"Driver": "", "Count": -1 if isinstance(count, str) else count, "Capabilities": [["gpu"]]}
