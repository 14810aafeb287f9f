"""The background thread on Docker's event stream, by the SDK: it hands over changes, and touches nothing.

The stream loses events without a mark: nothing here is the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import docker
import docker.tls
import structlog

from .client import CONNECT
from .labels import MANAGED

MAX_AGE = 60.0  # seconds; after that the stream is opened anew: one that hangs says nothing
FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0
MAX_REASON = 300  # characters
CHECK_EVERY = 1.0  # seconds

FILTERS = {
    "type": ["service", "node", "container"],
    "event": ["create", "update", "remove", "start", "restart", "pause", "unpause", "die", "oom", "destroy"],
}
SERVICE_LABEL = "com.docker.swarm.service.id"

log = structlog.get_logger(__name__)


class Change(NamedTuple):
    """Something may have changed: a ``service``, ``container`` or ``node`` of this id; ``relist``: anything.

    ``time`` is the engine's own, in seconds since 1970; ``gone`` says that it was removed.
    """

    kind: str
    id: str = ""
    time: float = 0.0
    gone: bool = False


def changes(event: dict[str, Any]) -> Iterator[Change]:
    """What one of Docker's events may be about."""
    kind, actor = event["Type"], event["Actor"]
    at = event.get("timeNano", 0) / 1e9
    attributes = actor.get("Attributes") or {}
    if kind == "container" and SERVICE_LABEL in attributes:
        yield Change("service", attributes[SERVICE_LABEL], at)
    if kind != "container" or MANAGED in attributes:  # it may be of its image that it seems to be a service's
        yield Change(kind, actor["ID"], at, event["Action"] in ("remove", "destroy"))


class _Client(docker.APIClient):
    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        # REQUESTS_CA_BUNDLE and its like would win over the ca.pem of DOCKER_CERT_PATH.
        self.trust_env = False
        return super().merge_environment_settings(*args, **kwargs)


class EventStream:
    """An open stream of Docker's events, on a client of its own. Opening it blocks, and may raise anything.

    Args:
        address: the engine's; None: the platform's socket.
        tls: how to reach it.
    """

    def __init__(self, address: str | None, tls: docker.tls.TLSConfig | None) -> None:
        self._client = _Client(address, version="auto", timeout=int(CONNECT), tls=tls or False)
        self._events = self._client.events(filters=FILTERS, decode=True)

    def __iter__(self) -> Iterator[Change]:
        for event in self._events:
            yield from changes(event)

    def close(self) -> None:
        """End the iteration, also from another thread."""
        with contextlib.suppress(AttributeError, OSError):  # it has ended already
            self._events.close()
        self._client.close()


class Watcher:
    """Keeps an event stream open.

    Args:
        open_events: opens a stream; called in the thread, may block and may raise.
        emit: takes a change; called in the thread, must not block.
    """

    def __init__(self, open_events: Callable[[], EventStream], emit: Callable[[Change], None]) -> None:
        self._open_events = open_events
        self._emit = emit
        self._told = ""  # why the stream was lost, as the log has it; "" where there is one
        self._stopped = threading.Event()
        self._events: EventStream | None = None
        self._opened = 0.0
        self._lock = threading.Lock()
        self._reopened = {"age": 0, "lost": 0}  # the thread alone writes
        # A daemon: it may be in a connect that nothing can interrupt, and the process does not wait for it.
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def reopened(self) -> dict[str, int]:
        """How often the stream was opened again: for its ``age``, or because it was ``lost``, or could not be had."""
        return dict(self._reopened)

    def stop(self) -> None:
        """Hand over nothing more; returns at once, whatever the engine does."""
        self._stopped.set()
        with self._lock:
            if self._events is not None:
                self._events.close()

    async def renew(self) -> None:
        """End each stream when it is old, on the event loop, until cancelled: the SDK's read has no timeout."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            with self._lock:
                if self._events is not None and time.monotonic() - self._opened > MAX_AGE:
                    self._events.close()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self._drain()
            except Exception as error:  # the top of a thread: whatever ended the stream, it is opened again
                self._tell(error)
            lasted = time.monotonic() - began
            if lasted > LAST_PAUSE:
                self._told = ""
            self._reopened["lost" if lasted < MAX_AGE else "age"] += 1
            pause = FIRST_PAUSE if lasted > LAST_PAUSE else min(pause * 2, LAST_PAUSE)
            if lasted < MAX_AGE:  # one that ended of age is opened at once
                self._stopped.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def _tell(self, error: Exception) -> None:
        """Once, until there is another reason, or the stream was there for a while."""
        if self._stopped.is_set():
            return
        reason = str(error)[:MAX_REASON]
        if reason != self._told:
            log.info("events_lost", reason=reason)
        self._told = reason

    def _drain(self) -> None:
        events = self._open_events()
        with self._lock:
            self._events, self._opened = events, time.monotonic()
        try:
            # Only now can nothing be missed that the relist does not see.
            self._hand_over(Change("relist"))
            if self._stopped.is_set():  # while it was being opened: then nobody else closes it
                return
            for change in events:
                self._hand_over(change)
        finally:
            with self._lock:
                self._events = None
            events.close()

    def _hand_over(self, change: Change) -> None:
        if not self._stopped.is_set():
            self._emit(change)
