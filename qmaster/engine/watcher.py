"""The background thread on Docker's event stream: it drains, hands over hints, and touches nothing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import structlog

MAX_AGE = 60.0  # seconds; after that the stream is opened anew: one that hangs says nothing
FIRST_PAUSE, LAST_PAUSE = 0.2, 5.0
MAX_REASON = 300  # characters

log = structlog.get_logger(__name__)


class Change(NamedTuple):
    """Something may have changed: a ``service``, ``container`` or ``node`` of this id; ``relist``: anything.

    ``time`` is the engine's own, in seconds since 1970; ``gone`` says that it was removed.
    """

    kind: str
    id: str = ""
    time: float = 0.0
    gone: bool = False


class Events(Protocol):
    """An open event stream; ``close`` may be called from another thread and ends the iteration."""

    def __iter__(self) -> Iterator[Change]: ...
    def close(self) -> None: ...


class Watcher:
    """Keeps an event stream open.

    Args:
        open_events: opens a stream; called in the thread, may block and may raise.
        emit: takes a hint; called in the thread, must not block.
        explain: what ended a stream, in words.
    """

    def __init__(
        self,
        open_events: Callable[[], Events],
        emit: Callable[[Change], None],
        explain: Callable[[Exception], str] = str,
    ) -> None:
        self._open_events = open_events
        self._emit = emit
        self._explain = explain
        self._told = ""  # why the stream was lost, as the log has it; "" where there is one
        self._stopped = threading.Event()
        self._events: Events | None = None
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
        reason = self._explain(error)[:MAX_REASON]
        if reason != self._told:
            log.info("events_lost", reason=reason)
        self._told = reason

    def _drain(self) -> None:
        events = self._open_events()
        with self._lock:
            self._events = events
        try:
            # Only now can nothing be missed that the relist does not see.
            self._hand_over(Change("relist"))
            if self._stopped.is_set():  # while it was being opened: then nobody else closes it
                return
            until = time.monotonic() + MAX_AGE
            for hint in events:
                self._hand_over(hint)
                if time.monotonic() > until or self._stopped.is_set():
                    return
        finally:
            with self._lock:
                self._events = None
            events.close()

    def _hand_over(self, hint: Change) -> None:
        if not self._stopped.is_set():
            self._emit(hint)
