"""Ctrl-C, and SIGTERM, as things to wait for: once, and once more."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """``number`` is the first that came, 0 before."""

    def __init__(self) -> None:
        self.number = 0
        self.once = asyncio.Event()
        self.twice = asyncio.Event()

    @contextmanager
    def listening(self) -> Iterator[Signals]:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.take, number)
        try:
            yield self
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def take(self, number: int) -> None:
        if self.number:
            self.twice.set()
        self.number = self.number or number
        self.once.set()


async def before(task: asyncio.Task[Any], event: asyncio.Event) -> bool:
    """Wait for one of the two; whether the task is done."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return task.done()
