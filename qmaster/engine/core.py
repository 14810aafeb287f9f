"""The engine put together: its health, the swarm, and its own containers."""

from __future__ import annotations

from .calls import Calls
from .containers import Containers
from .endpoint import Endpoint
from .health import Health
from .images import Images
from .pool import Pool
from .registry import Registry
from .swarm import Swarm

THREADS = 8
SLOW_THREADS = 4


class Engine:
    """The engine at one address; nothing connects before the first call."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.health = Health(endpoint.connect)

        def pool(name: str, threads: int) -> Pool:
            return Pool(endpoint.connect, threads, name, lambda: self.health.away, self.health.suspect)

        calls = Calls(pool("engine", THREADS))
        # A registry that is away is not an engine that is: its silence is no suspicion.
        ask = Pool(endpoint.connect, SLOW_THREADS, "engine-registry", lambda: self.health.away)
        pulls = pool("engine-pull", SLOW_THREADS)
        registry = Registry(ask)
        self.swarm = Swarm(calls, registry)
        self.containers = Containers(calls, registry, Images(pulls))
        self._pools = (calls, ask, pulls, self.health)

    def close(self) -> None:
        """Take no more calls."""
        for pool in self._pools:
            pool.close()
