"""Real engines for the tests: an engine, a swarm, a registry, faults, and the product as a process. See `bed.Bed`."""

from testbed.bed import Bed
from testbed.engine import Engine, sdk
from testbed.proxy import Proxy
from testbed.registry import Registry
from testbed.server import Client, Reply, Server, started
from testbed.ssh import Ssh
from testbed.swarm import Swarm
from testbed.tls import TlsEngine
from testbed.wait import eventually

__all__ = [
    "Bed",
    "Client",
    "Engine",
    "Proxy",
    "Registry",
    "Reply",
    "Server",
    "Ssh",
    "Swarm",
    "TlsEngine",
    "eventually",
    "sdk",
    "started",
]
