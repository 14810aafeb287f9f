"""What an engine itself tells of the services and containers that are made on it."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from testbed.engine import Engine


class Made:
    """``told`` has a name and an id for each that was made, in their order; a container of a task is none."""

    def __init__(self, engine: Engine) -> None:
        self._client: Any = engine.client(timeout=600)
        self.told: list[tuple[str, str]] = []

    @property
    def ids(self) -> list[str]:
        return [made_id for _, made_id in self.told]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        events = self._client.events(decode=True, filters={"type": ["service", "container"], "event": ["create"]})
        thread = threading.Thread(target=self._read, args=(events,))
        thread.start()
        try:
            yield
        finally:
            events.close()
            thread.join(10)

    def _read(self, events: Any) -> None:
        with contextlib.suppress(Exception):  # it ends by being closed
            for event in events:
                actor = event["Actor"]
                if "com.docker.swarm.task" not in actor["Attributes"]:
                    self.told.append((actor["Attributes"]["name"], actor["ID"]))
