"""reader: a thread reads no faster than the loop takes, and ends at once when it is closed. (The client is a fake.)"""

import asyncio
import itertools
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qmaster.engine.logs import LogRequest
from qmaster.engine.reader import HELD, MAX_READERS, Readers
from qmaster.errors import EngineAway, TooManyReaders

PIECE = 4096
TIME = b"2026-11-24T19:10:31.732562160Z "
FRAME = struct.pack(">BxxxL", 1, len(TIME) + PIECE) + TIME + b"x" * PIECE


class Engine:
    """A client whose log never ends, or ends with an error; ``sent`` counts its pieces."""

    def __init__(self, error: Exception | None = None, silent: bool = False) -> None:
        self.sent = 0
        self.error = error
        self.silent = silent
        self.sock, self._other = socket.socketpair()

    def dial(self) -> "Engine":
        return self

    def get_on(self, *args: Any) -> "Engine":
        return self

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *raised: object) -> None: ...

    def close(self) -> None:
        self.sock.close()
        self._other.close()

    def chunks(self) -> Iterator[bytes]:
        if self.silent:
            self.sock.recv(1)
        for _ in itertools.count():
            self.sent += 1
            yield FRAME
            if self.error:
                raise self.error


def reading_threads() -> int:
    return sum(thread.name == "log-reader" for thread in threading.enumerate())


async def settled(engine: Engine) -> int:
    """How many pieces were read, when no more are."""
    before = -1
    while before != engine.sent or engine.sent == 0:
        before = engine.sent
        await asyncio.sleep(0.2)
    return engine.sent


async def none_reads() -> None:
    async with asyncio.timeout(10):
        while reading_threads():  # noqa: ASYNC110 - a thread sets no event
            await asyncio.sleep(0.01)


def test_nothing_is_read_ahead_of_the_loop() -> None:
    """But for a bounded rest; as the loop goes on, so does the thread, and it ends when the log is closed."""
    engine: Any = Engine()

    async def run() -> None:
        with Readers(lambda: engine).slot() as open_log, open_log(LogRequest("task", "t1")) as reading:
            held = await settled(engine)
            assert held <= HELD // PIECE + 2
            taken = 0
            while taken < 3 * held:
                batch = await reading.take()
                assert {len(message.data) for message in batch} == {PIECE}
                taken += len(batch)
            assert await settled(engine) <= taken + HELD // PIECE + 2
        await none_reads()

    asyncio.run(run())


def test_a_silent_log_is_closed_at_once() -> None:
    """Though its thread waits for the engine's first byte; a take that was cancelled loses nothing."""
    engine: Any = Engine(silent=True)

    async def run() -> None:
        with Readers(lambda: engine).slot() as open_log:
            reading = open_log(LogRequest("container", "c1"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reading.take()
            assert reading_threads() == 1
        await none_reads()

    asyncio.run(run())


def test_an_error_comes_after_what_was_read() -> None:
    """As one of ours."""
    engine: Any = Engine(ConnectionResetError())

    async def run() -> None:
        with Readers(lambda: engine).slot() as open_log, open_log(LogRequest("service", "s1")) as reading:
            await settled(engine)
            assert len(await reading.take()) == 1
            for _ in range(2):
                with pytest.raises(EngineAway):
                    await reading.take()

    asyncio.run(run())


def test_readers_are_bounded() -> None:
    """One more is refused, and a place that was given back is free."""
    readers = Readers(lambda: pytest.fail("nothing is opened"))
    seats = [readers.slot() for _ in range(MAX_READERS)]
    for seat in seats:
        seat.__enter__()
    with pytest.raises(TooManyReaders), readers.slot():
        pass
    seats[0].__exit__(None, None, None)
    with readers.slot():
        pass
