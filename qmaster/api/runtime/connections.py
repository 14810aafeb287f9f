"""The connections of the runtime API, and their limits: those without a secret, of an instance, of a publisher.

The event loop owns them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from tornado.iostream import IOStream

from ...functions.instances.instance import Instance
from ...models.responses import ROOT

HEAD_WITHIN = 2.0  # seconds from a connection to the head of its first request
MAX_UNIDENTIFIED = 64  # connections of one address that have shown no secret
# Seconds that a connection is not counted so. A flood of 1,100 is accepted 128 at a time: without it, an instance that
# connects meanwhile is turned out before its head is read.
FRESH = 1.0
MORE_CONNECTIONS = 4  # than calls that an instance takes at once: for its errors, and its extensions
MAX_CONNECTIONS = 2048
# Of one address, beyond which a new one is served only if it has sent something after SPEAKS_WITHIN seconds. Closing it
# costs little then: a flood otherwise takes all the time of the event loop, 128 connections at a time.
MAX_SILENT, SPEAKS_WITHIN = 256, 0.05

T = TypeVar("T")


class Connection:
    """One open connection.

    Attributes:
        instance: who it belongs to; None until a request has shown a secret.
        call_id: the call that was handed over on it, if its client keeps the connection until it has answered.
        opened_at: when it was accepted, by the loop's clock.
    """

    __slots__ = ("address", "call_id", "instance", "opened_at", "stream", "timer")

    def __init__(self, stream: IOStream, address: str) -> None:
        loop = asyncio.get_running_loop()
        self.stream = stream
        self.address = address
        self.instance: Instance | None = None
        self.call_id: str | None = None
        self.opened_at = loop.time()
        self.timer = loop.call_later(HEAD_WITHIN, stream.close)


class Connections:
    """The open connections. To make room, the oldest one without a secret is closed.

    Args:
        lost: called with an instance and the call that was handed over on a connection that has closed.
        most: how many may be open.
    """

    def __init__(self, lost: Callable[[Instance, str], None], most: int = MAX_CONNECTIONS) -> None:
        self._lost = lost
        self.most = most
        self._open: dict[IOStream, Connection] = {}
        self._unidentified: dict[str, dict[Connection, None]] = {}  # by address, the oldest first
        self._by_instance: Counter[Instance] = Counter()
        self._by_publisher: Counter[str] = Counter()

    def __getitem__(self, stream: IOStream) -> Connection:
        return self._open[stream]

    def is_flooded_by(self, address: str) -> bool:
        """Return whether an address has so many connections without a secret that silent ones are not taken."""
        return len(self._unidentified.get(address, ())) >= MAX_SILENT

    def open(self, stream: IOStream, address: str) -> None:
        """Take a new connection; the oldest one without a secret is closed for it if there are too many."""
        connection = self._open[stream] = Connection(stream, address)
        if len(self._open) > self.most:
            most = max(self._unidentified.values(), key=len, default=None)
            self._evict(next(iter(most)) if most else connection)
        unidentified = self._unidentified.setdefault(address, {})
        unidentified[connection] = None
        if len(unidentified) > MAX_UNIDENTIFIED:
            asyncio.get_running_loop().call_later(FRESH, self._evict_oldest, address)

    def closed(self, stream: IOStream) -> None:
        """Forget a connection. The call that was handed over on it is lost, if its client would have kept it."""
        connection = self._open.pop(stream, None)
        if connection is None:
            return
        self._no_longer_unidentified(connection)
        if connection.instance is not None:
            _give_back(self._by_instance, connection.instance)
            _give_back(self._by_publisher, connection.instance.version.owner)
            if connection.call_id is not None:
                self._lost(connection.instance, connection.call_id)

    def identify(self, connection: Connection, instance: Instance) -> bool:
        """Note that a connection is an instance's; return False if it is another's, or the instance has too many."""
        if connection.instance is None and self._may_have_more(instance):
            self._no_longer_unidentified(connection)
            connection.instance = instance
            self._by_instance[instance] += 1
            self._by_publisher[instance.version.owner] += 1
        return connection.instance is instance

    def _may_have_more(self, instance: Instance) -> bool:
        """Return whether there is room for one more connection of an instance.

        A publisher gets more only while it has less than is free. So a single one has at most half, and the next one
        finds room.
        """
        if self._by_instance[instance] >= instance.version.spec.concurrency + MORE_CONNECTIONS:
            return False
        owner, free = instance.version.owner, self.most - self._by_publisher.total()
        return owner == ROOT or self._by_publisher[owner] < free

    def _evict_oldest(self, address: str) -> None:
        """Close the connections of an address that are too many, except fresh ones."""
        before = asyncio.get_running_loop().time() - FRESH
        unidentified = self._unidentified.get(address, {})
        while len(unidentified) > MAX_UNIDENTIFIED and (oldest := next(iter(unidentified))).opened_at <= before:
            self._evict(oldest)

    def _evict(self, connection: Connection) -> None:
        self._no_longer_unidentified(connection)
        connection.stream.close()

    def _no_longer_unidentified(self, connection: Connection) -> None:
        """Stop counting a connection as one without a secret."""
        connection.timer.cancel()
        unidentified = self._unidentified.get(connection.address, {})
        unidentified.pop(connection, None)
        if not unidentified:
            self._unidentified.pop(connection.address, None)


def _give_back(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
