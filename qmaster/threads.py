"""Threads for work that blocks, and their way back to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Job = tuple["asyncio.Future[Any]", Callable[[], Any]]


class Threads:
    """Threads that are begun as they are needed, and kept. The event loop owns it.

    Daemons, unlike those of ``ThreadPoolExecutor``: a process that ends does not wait for an engine that is silent. And
    with one step from the work to who waits for it, where ``run_in_executor`` has three futures' worth.

    Args:
        most: how many there may be.
        name: of the threads, before their number.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._begun = 0
        self._idle = threading.Semaphore(0)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def do(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """What ``work`` returns, or raises, in a thread; it is not begun where nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((future, work))
        if not self._idle.acquire(blocking=False) and self._begun < self._most:
            run = threading.Thread(target=self._run, args=(loop,), name=f"{self._name}_{self._begun}", daemon=True)
            run.start()
            self._begun += 1
        return future

    def end(self) -> None:
        """Begin nothing more; each thread ends with what it does."""
        while True:
            try:
                left = self._jobs.get_nowait()
            except queue.Empty:
                break
            if left is not None:
                left[0].cancel()
        for _ in range(self._begun):
            self._jobs.put(None)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while (job := self._jobs.get()) is not None:
            _do(loop, *job)
            del job  # it would be kept until there is more to do
            self._idle.release()


def _do(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], work: Callable[[], T]) -> None:
    if future.cancelled():
        return
    failure: BaseException | None = None
    try:
        answer = work()
    except BaseException as error:  # the top of a thread: whoever waits gets it
        failure = error

    def settle() -> None:
        if future.done():  # nobody waits for it any more
            return
        if failure is None:
            future.set_result(answer)
        else:
            future.set_exception(failure)

    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(settle)
