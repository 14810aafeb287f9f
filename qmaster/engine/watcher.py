"""The background thread that reads Docker's event stream through the SDK. It only hands changes to a callback.

Docker drops events silently, so a change is only a hint to list again.
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
from .labels import CRON_CONFIG, MANAGED

MAX_AGE = 60.0  # seconds; then the stream is reopened, as one that hangs cannot be told from a quiet one
FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0  # seconds before a retry, doubled each time
MAX_REASON = 300  # characters
CHECK_EVERY = 1.0  # seconds

FILTERS = {
    "type": ["service", "node", "container", "config"],
    "event": ["create", "update", "remove", "start", "restart", "pause", "unpause", "die", "oom", "destroy"],
}
SERVICE_LABEL = "com.docker.swarm.service.id"

log = structlog.get_logger(__name__)


class Change(NamedTuple):
    """A possible change of the ``service``, ``container``, ``node`` or ``config`` with this id; of any if ``relist``.

    ``time`` is the engine's own, in seconds since 1970; ``gone``: it was removed.
    """

    kind: str
    id: str = ""
    time: float = 0.0
    gone: bool = False


def changes(event: dict[str, Any]) -> Iterator[Change]:
    """Yield the changes that one of Docker's events may mean."""
    kind, actor = event["Type"], event["Actor"]
    at = event.get("timeNano", 0) / 1e9
    attributes = actor.get("Attributes") or {}
    if kind == "config" and attributes.get("name", "").startswith(CRON_CONFIG):
        return  # each tick changes one, and who wants to know reads it
    if kind == "container" and SERVICE_LABEL in attributes:
        yield Change("service", attributes[SERVICE_LABEL], at)
    if kind != "container" or MANAGED in attributes:  # its service label may come from its image
        yield Change(kind, actor["ID"], at, event["Action"] in ("remove", "destroy"))


class _Client(docker.APIClient):
    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        # REQUESTS_CA_BUNDLE and the like would override the ca.pem of DOCKER_CERT_PATH.
        self.trust_env = False
        return super().merge_environment_settings(*args, **kwargs)


class EventStream:
    """An open stream of Docker's events with its own client. The constructor blocks and may raise anything.

    Args:
        address: the engine's address; None: the platform's socket.
        tls: its TLS settings.
    """

    def __init__(self, address: str | None, tls: docker.tls.TLSConfig | None) -> None:
        self._client = _Client(address, version="auto", timeout=int(CONNECT), tls=tls or False)
        self._events = self._client.events(filters=FILTERS, decode=True)

    def __iter__(self) -> Iterator[Change]:
        for event in self._events:
            yield from changes(event)

    def close(self) -> None:
        """End the iteration; may be called from another thread."""
        with contextlib.suppress(AttributeError, OSError):  # it has ended already
            self._events.close()
        self._client.close()


class Watcher:
    """Keeps an event stream open in a thread.

    Args:
        open_events: opens a stream; called in the thread, may block and may raise.
        emit: receives each change; called in the thread, must not block.
    """

    def __init__(self, open_events: Callable[[], EventStream], emit: Callable[[Change], None]) -> None:
        self._open_events = open_events
        self._emit = emit
        self._logged = ""  # the last reason in the log; "" after a stream has lasted
        self._stopped = threading.Event()
        self._events: EventStream | None = None
        self._opened = 0.0
        self._lock = threading.Lock()
        self._reopened = {"age": 0, "lost": 0}  # written by the thread only
        # A daemon, so that the process need not wait for a connect that nothing can interrupt.
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Start the thread; it runs until ``stop``."""
        self._thread.start()

    @property
    def reopened(self) -> dict[str, int]:
        """How often the stream was reopened: for its ``age``, or because it was ``lost`` or failed to open."""
        return dict(self._reopened)

    def stop(self) -> None:
        """Stop emitting changes. Returns at once."""
        self._stopped.set()
        with self._lock:
            if self._events is not None:
                self._events.close()

    async def renew(self) -> None:
        """Close each stream at ``MAX_AGE``, as the SDK's read has no timeout; run on the event loop until cancelled."""
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
            except Exception as error:  # the top of a thread; the stream is reopened after any error
                self._log_once(error)
            lasted = time.monotonic() - began
            if lasted > LAST_PAUSE:
                self._logged = ""
            self._reopened["lost" if lasted < MAX_AGE else "age"] += 1
            pause = FIRST_PAUSE if lasted > LAST_PAUSE else min(pause * 2, LAST_PAUSE)
            if lasted < MAX_AGE:  # one closed for its age is reopened at once
                self._stopped.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def _log_once(self, error: Exception) -> None:
        """Log why the stream was lost, unless the last attempt failed for the same reason."""
        if self._stopped.is_set():
            return
        reason = str(error)[:MAX_REASON]
        if reason != self._logged:
            log.info("events_lost", reason=reason)
        self._logged = reason

    def _drain(self) -> None:
        events = self._open_events()
        with self._lock:
            self._events, self._opened = events, time.monotonic()
        try:
            # From now on the stream has what the relist does not see.
            self._hand_over(Change("relist"))
            if self._stopped.is_set():  # ``stop`` came while it was being opened, and did not close it
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
