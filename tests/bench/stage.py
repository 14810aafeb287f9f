"""A child: quartermaster's stream from the reconciler on, with the swarm's listings made up.

The handlers, the hub, the journal on disk and the sockets are the product's own.
"""

import asyncio
import logging
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any, cast

import structlog
from fakes import service, task
from testbed.server import ADDRESS
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from bench.child import obey
from bench.frames import frame
from qmaster.api.routes import AppState, make_app
from qmaster.auth.authenticator import Authenticator
from qmaster.events.broker import Broker, News, Tags
from qmaster.events.journal import Journal
from qmaster.events.stream import EventStream
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.publisher import Publisher
from qmaster.runs.reconciler.reconciler import Reconciler
from qmaster.server import log

Json = dict[str, Any]

TOKEN = "token-of-the-stage"
TAGS = Tags("service", "s1", frozenset(), "root")
STATES = ("pending", "running", "complete")


class Stage:
    """The verbs."""

    def __init__(self, folder: Path) -> None:
        self._broker = Broker()
        self._journal = Journal(folder, 100_000, 30)
        nobody = cast(Any, None)
        self._publisher = Publisher(RunCache(), self._journal, self._broker.publish)
        self._reconciler = Reconciler(nobody, nobody, self._journal, self._publisher)
        self._event_stream = EventStream(
            self._journal,
            self._broker,
            lambda: self._publisher.position,
            lambda wants: ([], []),
            lambda: None,
        )
        self._numbers = count(1)

    async def listen(self) -> Any:
        await self._journal.open()
        await self._reconciler.load()
        nobody = cast(Any, None)
        parts = AppState(
            Authenticator(TOKEN),
            nobody,
            nobody,
            nobody,
            self._event_stream,
            self._broker,
            nobody,
            trouble=lambda: None,
            scrape=nobody,
        )
        server = HTTPServer(make_app(parts))
        (listener,) = bind_sockets(0, ADDRESS)
        server.add_sockets([listener])
        return {"port": listener.getsockname()[1], "token": TOKEN}

    async def publish(self, frames: int, size: int, pause: float) -> None:
        """So many frames, with a pause after each; without one, all in one turn of the loop."""
        news = [News(frame(number, size), TAGS, next(self._numbers)) for number in range(frames)]
        for some in [[one] for one in news] if pause else [news]:
            self._broker.publish(some)
            await asyncio.sleep(pause)

    async def live(self, services: int, times: int) -> int:
        """Let so many services go through their lives together, so many times: a commit a state; how many events."""
        before = self._publisher.position.last
        for _ in range(times):
            names = [f"s{next(self._numbers)}" for _ in range(services)]
            for state in STATES:
                for name in names:
                    self._publisher.cache.list_service(service(name, name), [_task(name, state)], time.monotonic())
                await self._publisher.commit()
        return self._publisher.position.last - before

    def cpu(self) -> float:
        return time.process_time()


def _task(of: str, state: str) -> Json:
    return task(state, ServiceID=of, ID=f"t-{of}")


async def main() -> None:
    log.configure("json")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as folder:
        await obey(Stage(Path(folder)))


if __name__ == "__main__":
    asyncio.run(main())
