"""Clearing an engine between tests."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import docker

from testbed.engine import Engine
from testbed.wait import eventually

SWARMS_OWN = ("ingress", "docker_gwbridge")
Left = Iterable[dict[str, Any]]


def tidy(manager: Engine, nodes: Sequence[Engine]) -> None:
    """Remove the services, containers, secrets, configs and networks that a test left in a swarm."""
    client: Any = manager.client()
    _remove(client.services(), client.remove_service)
    # Containers by force: the swarm itself would give each its grace period.
    clients = [client, *(node.client() for node in nodes if node is not manager)]
    eventually(lambda: not sum(_remove_containers(each) for each in clients), 30, "all containers are gone", every=0.05)
    eventually(lambda: not client.tasks(), 30, "all tasks are gone", every=0.05)
    _remove(client.secrets(), client.remove_secret)
    _remove(client.configs(), client.remove_config)
    _remove(client.networks(filters={"type": "custom"}), client.remove_network)


def tidy_plain(engine: Engine) -> None:
    """Remove the containers that a test left on an engine outside a swarm."""
    client = engine.client()
    eventually(lambda: not _remove_containers(client), 30, "all containers are gone", every=0.05)


def _remove_containers(client: docker.APIClient) -> int:
    found = client.containers(all=True)
    for container in found:
        # It may be that the swarm removes it at the same moment; the next look tells.
        with contextlib.suppress(docker.errors.APIError):
            client.remove_container(container["Id"], force=True, v=True)
    return len(found)


def _remove(found: Left, remove: Callable[[str], object]) -> None:
    for thing in found:
        if thing.get("Name") not in SWARMS_OWN:
            with contextlib.suppress(docker.errors.NotFound):
                remove(thing.get("ID") or thing["Id"])
