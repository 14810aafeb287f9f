"""The engine: the only package that talks to Docker. Returns Docker's answers as they are; raises our own errors."""

from __future__ import annotations

from .client import CALLS, CAPTURES, PULLS, REGISTRY, SPARE, STOPS, Calls, Client, Count, Endpoint
from .containers import Containers
from .health import Health
from .images import Images, Registry
from .logs import LogReaders, Logs
from .services import Swarm
from .watcher import EventStream

__all__ = ["Endpoint", "Engine"]


class Engine:
    """The engine at one address: its health, the swarm, and its own containers. Nothing connects before the first call.

    Args:
        count: told of each call: its kind, its outcome, its seconds.
    """

    def __init__(self, endpoint: Endpoint, count: Count = lambda kind, outcome, seconds: None) -> None:
        self._client = client = Client(endpoint, count)
        calls = Calls(client, "engine", CALLS, SPARE)
        stops = Calls(client, "stop", STOPS)
        questions = Calls(client, "registry", REGISTRY, suspects=False)
        pulls = Calls(client, "pull", PULLS)
        captures = Calls(client, "logs", CAPTURES)
        self._calls = (calls, stops, questions, pulls, captures)
        registry = Registry(questions)
        self.health = Health(client)
        self.swarm = Swarm(calls, registry)
        self.containers = Containers(calls, stops, registry, Images(pulls))
        self.logs = Logs(captures)
        self.readers = LogReaders(client)

    def events(self) -> EventStream:
        """Open Docker's event stream; blocks, and may raise anything: for a thread of its own."""
        return EventStream(self._client.address, self._client.tls)

    def give_up(self) -> None:
        """Wait for no answer any longer: each call fails with that its outcome is open."""
        self._client.give_up()
        for calls in self._calls:
            calls.give_up()

    async def close(self) -> None:
        """Take no more calls, and close all connections."""
        self.give_up()
        await self._client.close()
