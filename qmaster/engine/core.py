"""The engine put together: its health, the swarm, and its own containers."""

from __future__ import annotations

from .calls import Calls
from .containers import Containers
from .endpoint import Endpoint
from .errors import translate
from .events import EventStream, Make
from .health import Health
from .images import Images
from .lines import Lines
from .logs import Logs
from .pool import Count, Pool
from .reader import Readers
from .registry import Registry
from .services import Swarm

# Calls at once. One owner has half of them at most (see ``limiter``).
CALLS = 16
SPARE = 4  # for what nobody asked for
REGISTRY = PULLS = CAPTURES = 8


class Engine:
    """The engine at one address; nothing connects before the first call.

    Args:
        count: told of each call: its kind, its outcome, its seconds.
    """

    def __init__(self, endpoint: Endpoint, count: Count = lambda kind, outcome, seconds: None) -> None:
        self._connect = endpoint.connect
        self.health = Health(endpoint.connect, count)

        def pool(name: str, slots: int, lines: Lines | None = None, spare: int = 0) -> Pool:
            away, suspect = lambda: self.health.away, self.health.suspect
            return Pool(endpoint.connect, slots, name, away, suspect, count, lines, spare)

        lines = None if endpoint.socket is None else Lines(endpoint.socket, CALLS + SPARE)
        calls = Calls(pool("engine", CALLS, lines, SPARE))
        # A registry that is away is not an engine that is: its silence is no suspicion.
        ask = Pool(endpoint.connect, REGISTRY, "engine-registry", lambda: self.health.away, count=count)
        pulls = pool("engine-pull", PULLS)
        captures = pool("engine-logs", CAPTURES)
        registry = Registry(ask)
        self.swarm = Swarm(calls, registry)
        self.containers = Containers(calls, registry, Images(pulls))
        self.logs = Logs(captures)
        self.readers = Readers(endpoint.connect)
        self._pools = (calls, ask, pulls, captures)

    def events(self, make: Make) -> EventStream:
        """Open Docker's event stream; blocks, and may raise anything: for a thread of its own.

        Args:
            make: makes a hint of kind, id, time (seconds since 1970) and whether it is gone.
        """
        return EventStream(self._connect(), make)

    @staticmethod
    def explain(error: Exception) -> str:
        """What such a stream ended with, in the words of our errors."""
        return str(translate(error))

    def give_up(self) -> None:
        """Wait for no answer any longer: each call fails with that its outcome is open."""
        for pool in self._pools:
            pool.give_up()

    def close(self) -> None:
        """Take no more calls."""
        for pool in (*self._pools, self.health):
            pool.close()
