"""A thread that does one piece of work after another, and hands each result back to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Worker:
    """One thread, for work that would block the event loop; the methods belong to the loop.

    A ThreadPoolExecutor with one thread does the same, and takes 30 to 60 us more for each piece of work.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._is_closed = False

    def submit(self, work: Callable[[], T], then: Callable[[T], object]) -> None:
        """Do ``work`` in the thread, after all that was given to it before, and call ``then`` with what it returns.

        Args:
            work: runs in the thread; must not raise.
            then: runs on the event loop.

        Raises:
            RuntimeError: the worker is closed.
        """
        if self._is_closed:
            raise RuntimeError("the worker is closed")
        if self._thread.ident is None:
            self._thread.start()
        self._work.put(partial(_do, work, asyncio.get_running_loop(), then))

    async def call(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns in the thread, or raise what it raises.

        It is not begun if its caller was cancelled before: who disconnects again and again must not fill the queue.

        Raises:
            RuntimeError: the worker is closed.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def attempt() -> Callable[[], object]:
            if done.cancelled():
                return done.cancelled
            try:
                return partial(done.set_result, work())
            except Exception as error:
                return partial(done.set_exception, error)

        def settle(outcome: Callable[[], object]) -> None:
            if not done.done():  # its caller may have been cancelled
                outcome()

        self.submit(attempt, settle)
        return await done

    def close(self) -> None:
        """Take no more work. The thread ends once it has done what it was given."""
        self._is_closed = True
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:  # the top of the thread
                log.exception("work_failed", thread=self._thread.name)


def _do(work: Callable[[], T], loop: asyncio.AbstractEventLoop, then: Callable[[T], object]) -> None:
    result = work()
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(then, result)
