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
        self._ended = False
        self._idle = threading.Semaphore(0)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def do(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """What ``work`` returns, or raises, in a thread; it is not begun where nobody waits for it any more.

        Raises:
            RuntimeError: it has ended, or the machine gives it no thread at all.
        """
        if self._ended:
            raise RuntimeError(f"the threads of {self._name} have ended")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self._idle.acquire(blocking=False) and self._begun < self._most:
            self._begin()
        self._jobs.put((future, work))
        return future

    def end(self) -> None:
        """Begin nothing more; each thread ends with what it does."""
        self._ended = True
        while True:
            try:
                left = self._jobs.get_nowait()
            except queue.Empty:
                break
            if left is not None:
                left[0].cancel()
        for _ in range(self._begun):
            self._jobs.put(None)

    def _begin(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}_{self._begun}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the machine gives no more
            if not self._begun:
                raise
        else:
            self._begun += 1

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            _do(*job)
            del job  # it would be kept until there is more to do
            self._idle.release()


def _do(future: asyncio.Future[T], work: Callable[[], T]) -> None:
    if future.cancelled():
        return
    failure: BaseException | None = None
    try:
        answer = work()
    except BaseException as error:  # the top of a thread: whoever waits gets it
        failure = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error  # which no future takes

    def settle() -> None:
        if future.done():  # nobody waits for it any more
            return
        if failure is None:
            future.set_result(answer)
        else:
            future.set_exception(failure)

    with contextlib.suppress(RuntimeError):  # the loop has ended
        future.get_loop().call_soon_threadsafe(settle)
