"""The engine: the only package that talks to Docker. Returns Docker's answers unchanged; raises our own errors."""

from __future__ import annotations

from .calls import CALLS, CAPTURES, PULLS, REGISTRY, SPARE, STOPS, Calls
from .client import Client, Count
from .configs import Configs
from .containers import Containers
from .endpoint import Endpoint
from .health import Health
from .images import Images, Registry
from .logs import LogReaders, Logs
from .services import Swarm
from .watcher import EventStream

__all__ = ["Endpoint", "Engine"]


class Engine:
    """The engine at one address: its health, its swarm with configs, and its containers. It connects at the first call.

    Args:
        count: called after each call with its kind, outcome and seconds (see ``Client``).
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
        self.configs = Configs(calls)
        self.containers = Containers(calls, stops, registry, Images(pulls))
        self.logs = Logs(captures)
        self.readers = LogReaders(client)

    def events(self) -> EventStream:
        """Open Docker's event stream. It blocks and may raise anything, so call it in a thread of its own."""
        return EventStream(self._client.address, self._client.tls)

    def give_up(self) -> None:
        """Stop waiting: all pending calls fail, their outcome unknown."""
        self._client.give_up()
        for calls in self._calls:
            calls.give_up()

    async def close(self) -> None:
        """Refuse new calls and close all connections."""
        self.give_up()
        await self.containers.close()
        await self._client.close()
