"""Docker's event stream, read as hints. It loses events without a mark: nothing here is the truth."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from docker.errors import DockerException
from docker.types import CancellableStream

from .client import Client, LongAnswer
from .endpoint import CONNECT_TIMEOUT
from .labels import MANAGED

AT_HAND = 0.001  # seconds that a read may take of what has come already
GATHER = 0.005  # seconds in which events come together, so that each is not in the way of what has caused it
SILENCE = 60.0  # seconds without an event after which the stream is taken for dead

FILTERS = {
    "type": ["service", "node", "container"],
    "event": ["create", "update", "remove", "start", "restart", "pause", "unpause", "die", "oom", "destroy"],
}
SERVICE_LABEL = "com.docker.swarm.service.id"

Make = Callable[[str, str, float, bool], Any]


class EventStream:
    """One open stream, on its own client.

    Args:
        client: used for nothing else; closed with the stream.
        make: makes a hint of kind, id, time and whether it is gone.
    """

    def __init__(self, client: Client, make: Make) -> None:
        self._client = client
        self._make = make
        response = client.open_events(FILTERS, (CONNECT_TIMEOUT, SILENCE))
        self._lines: Iterator[bytes] = CancellableStream(_lines(LongAnswer(response).chunks()), response)

    def __iter__(self) -> Iterator[Any]:
        for line in self._lines:
            if line:
                yield from self._read(json.loads(line))

    def close(self) -> None:
        """End the iteration, also from another thread."""
        with contextlib.suppress(DockerException, AttributeError, OSError):  # over ssh it ends with its client
            self._lines.close()  # type: ignore[attr-defined]
        self._client.close()

    def _read(self, event: dict[str, Any]) -> Iterator[Any]:
        kind, actor = event["Type"], event["Actor"]
        at = event.get("timeNano", 0) / 1e9
        attributes = actor.get("Attributes") or {}
        if kind == "container" and SERVICE_LABEL in attributes:
            yield self._make("service", attributes[SERVICE_LABEL], at, False)
        if kind != "container" or MANAGED in attributes:  # it may be of its image that it seems to be a service's
            yield self._make(kind, actor["ID"], at, event["Action"] in ("remove", "destroy"))


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    asked = time.monotonic()
    for chunk in chunks:
        was_at_hand = time.monotonic() - asked < AT_HAND
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if not (was_at_hand and len(whole) <= 1):  # over TLS and ssh they are read one by one, also where many wait
            time.sleep(GATHER)
        asked = time.monotonic()
    yield rest
