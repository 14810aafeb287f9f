"""Pure: the ports that no run may publish, as Swarm's ingress would route their traffic to the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..errors import Conflict

Json = dict[str, Any]
Port = tuple[int, str]  # the number, and tcp, udp or sctp

SWARM: Mapping[Port, str] = dict.fromkeys(
    ((2377, "tcp"), (7946, "tcp"), (7946, "udp"), (4789, "udp")), "a port of Swarm itself"
)
OWN = "a port of quartermaster itself"
_DEFAULTS = {"tcp": 2375, "ssh": 22}


def of_engine(docker_host: str) -> dict[Port, str]:
    """Return the TCP port of the engine or of ssh to it; empty for a local socket."""
    parts = urlsplit(docker_host)
    try:
        port = parts.port or _DEFAULTS.get(parts.scheme)
    except ValueError:
        port = None
    return {(port, "tcp"): "the port of the Docker engine"} if port and parts.scheme in _DEFAULTS else {}


def of_container(raw: Json) -> Iterator[Port]:
    """Yield the published ports of a container, as Docker inspects it."""
    bound = [(raw.get("HostConfig") or {}).get("PortBindings"), (raw.get("NetworkSettings") or {}).get("Ports")]
    for ports in filter(None, bound):
        for inner, places in ports.items():
            yield from ((int(one["HostPort"]), inner.partition("/")[2]) for one in places or () if one.get("HostPort"))


def of_service(raw: Json) -> Iterator[Port]:
    """Yield the published ports of a service, as Docker inspects it."""
    for place in (raw.get("Endpoint") or {}, (raw.get("Spec") or {}).get("EndpointSpec") or {}):
        for port in place.get("Ports") or ():
            if port.get("PublishedPort"):
                yield port["PublishedPort"], port.get("Protocol") or "tcp"


def check(ports: Iterable[str], reserved: Mapping[Port, str]) -> None:
    """Refuse ports that are reserved.

    Args:
        ports: in the form of a request: ``8080:80``, ``8080:80/udp``.
        reserved: the reserved ports, with what each is.

    Raises:
        Conflict: one of them is reserved.
    """
    for text in ports:
        numbers, _, protocol = text.partition("/")
        port = (int(numbers.partition(":")[0]), protocol or "tcp")
        if port in reserved:
            raise Conflict(
                f"ports: {port[0]}/{port[1]} is {reserved[port]}, and its callers would reach the run: choose another"
            )
