"""A child: accepts calls into a journal, without HTTP; and SQLite by itself, with a synced commit for each."""

import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from bench.child import obey
from qmaster.engine.configs import Configs
from qmaster.events.journal import Journal
from qmaster.functions.asynchronous.invoker import AsyncInvoker, Order
from qmaster.functions.asynchronous.store import InvocationStore
from qmaster.functions.dispatcher import Dispatcher
from qmaster.functions.versions.store import VersionStore
from qmaster.models.functions import MAX_QUEUE, FunctionSpec, Version

PAYLOAD = b'{"do": "echo", "number": 42}'
ROOM = 1 << 30
PLAIN = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "CREATE TABLE calls (id TEXT PRIMARY KEY, call BLOB)",
)


class Accepting:
    """The verbs."""

    async def accept(self, callers: int, times: int, folder: str = "", function: str = "f") -> Any:
        """Accept so many calls of so many callers at once, in a new journal or in the one of a folder; calls/s."""
        with tempfile.TemporaryDirectory() as fresh:
            journal = Journal(Path(folder or fresh), 100_000, 30, 4096)
            await journal.open()
            invoker = AsyncInvoker(
                cast(Dispatcher, None), VersionStore(cast(Configs, None)), InvocationStore(journal), ROOM
            )
            version = Version(
                id="v", function=function, number=1, spec=FunctionSpec(image="i", queue=MAX_QUEUE), image="i",
                owner="root", published_at="2026-01-01T00:00:00Z",
            )  # fmt: skip

            async def call(times: int) -> None:
                for _ in range(times):
                    await invoker.accept(version, Order(invoker.new_id(), function, None, "root", PAYLOAD))

            began = time.perf_counter()
            await asyncio.gather(*(call(times // callers) for _ in range(callers)))
            took = time.perf_counter() - began
            await journal.close()
            return times / took

    def commit(self, times: int) -> Any:
        """Commit so many rows, each by itself; commits/s."""
        with tempfile.TemporaryDirectory() as folder:
            db = sqlite3.connect(f"{folder}/calls.db", isolation_level=None)
            for line in PLAIN:
                db.execute(line)
            began = time.perf_counter()
            for number in range(times):
                db.execute("INSERT INTO calls VALUES (?, ?)", (str(number), PAYLOAD))
            took = time.perf_counter() - began
            db.close()
            return times / took


async def main() -> None:
    await obey(Accepting())


if __name__ == "__main__":
    asyncio.run(main())
