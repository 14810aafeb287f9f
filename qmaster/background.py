"""Tasks in the background: kept until they are done, and cancelled together. Belongs to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class BackgroundTasks:
    """The tasks of one part.

    Args:
        failed: the log event of a task that raised: its work handles the errors that it expects.
    """

    def __init__(self, failed: str) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], **about: object) -> asyncio.Task[None]:
        """Run a coroutine, and return its task; ``about`` are the keys of the log line if it raises."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # asyncio itself keeps no task
        task.add_done_callback(lambda done: self._done(done, about))
        return task

    async def close(self) -> None:
        """Cancel what is not done, and wait for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None], about: dict[str, object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(self._failed, **about, exc_info=error)
