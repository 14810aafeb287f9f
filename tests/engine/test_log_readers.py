"""logs: a log that is read no faster than somebody takes it, and closed at once. (The engine is a fake.)"""

import asyncio
import struct
from pathlib import Path

import pytest
from fakes import until
from raw_engine import Say, engine_and_client, reply, silence

from qmaster.engine.calls import Calls
from qmaster.engine.logs import MAX_READERS, LogReaders, LogRequest, Logs
from qmaster.errors import EngineAway, EngineRefused, HttpError, NotFound, TooManyReaders

pytestmark = pytest.mark.gen_test(timeout=10)

PIECE = 4096
TIME = b"2026-11-24T19:10:31.732562160Z "
FRAME = struct.pack(">BxxxL", 1, len(TIME) + PIECE) + TIME + b"x" * PIECE
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def endless(sent: list[int]) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(chunk(FRAME))
            await writer.drain()
            sent.append(1)

    return say


async def test_nothing_is_read_ahead_of_who_takes(tmp_path: Path) -> None:
    """But for a bounded rest; closed, it is not read any more."""
    sent: list[int] = []
    async with engine_and_client(tmp_path, endless(sent)) as (engine, client):
        with LogReaders(client).slot() as open_log, open_log(LogRequest("task", "t1")) as log:
            await asyncio.sleep(0.3)
            held = len(sent)
            assert held * PIECE < 2_000_000
            await asyncio.sleep(0.1)
            assert len(sent) == held
            taken = 0
            while taken < 2 * held:
                messages = await log.take()
                assert {len(message.data) for message in messages} == {PIECE}
                taken += len(messages)
            assert len(sent) > held
        await until(lambda: not engine.open)


async def test_a_silent_log_is_closed_at_once(tmp_path: Path) -> None:
    """Though the engine has not begun to answer; a take that was cancelled loses nothing."""
    async with engine_and_client(tmp_path, silence) as (engine, client):
        with LogReaders(client).slot() as open_log:
            log = open_log(LogRequest("container", "c1", follow=True))
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await log.take()
            assert len(engine.calls) == 1
        await until(lambda: not engine.open)


async def test_a_log_is_asked_for_as_it_was_wanted(tmp_path: Path) -> None:
    """And has ended when nothing is given."""
    request = LogRequest("service", "s1", ("stdout",), follow=True, tail=3, since="1.5")
    async with engine_and_client(tmp_path, HEAD + chunk(FRAME[:100]) + chunk(FRAME[100:]) + b"0\r\n\r\n") as (
        engine,
        client,
    ):
        with LogReaders(client).slot() as open_log, open_log(request) as log:
            assert [len(message.data) for message in await log.take()] == [PIECE]
            assert [await log.take(), await log.take()] == [[], []]
        assert engine.calls[0].line == (
            "GET /v1.41/services/s1/logs?timestamps=1&tail=3&stdout=1&follow=1&since=1.5&details=1 HTTP/1.1"
        )


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply({"message": "no such task"}, 404), NotFound),
        (HEAD, EngineAway),
        (HEAD + chunk(b"\0\1\1\1no frame") + b"0\r\n\r\n", EngineRefused),
    ],
)
async def test_an_error_is_one_of_ours(tmp_path: Path, answer: bytes, error: type[Exception]) -> None:
    """It is gone, it was cut off, or it is no log."""
    async with engine_and_client(tmp_path, answer) as (engine, client):
        engine.then_ends = {answer}
        with LogReaders(client).slot() as open_log, pytest.raises(error):
            await open_log(LogRequest("task", "t1")).take()


@pytest.mark.parametrize("rest", [b"", chunk(b"\0\1\1\1no frame")], ids=["broken off", "damaged"])
async def test_a_capture_of_a_log_that_breaks_off_has_what_arrived(tmp_path: Path, rest: bytes) -> None:
    """If it is asked for in part; else it is an error, and can be tried again."""
    answer = HEAD + chunk(FRAME) + rest
    async with engine_and_client(tmp_path, answer) as (engine, client):
        engine.then_ends = {answer}
        logs = Logs(Calls(client, "logs", 1))
        with pytest.raises(HttpError):
            await logs.capture("task", "t1", 100)
        output = await logs.capture("task", "t1", 100, partial=True)
    assert ([line.data for line in output.lines], output.truncated) == ([b"x" * 100], True)


async def test_a_log_driver_that_keeps_nothing_says_nothing(tmp_path: Path) -> None:
    """501 is no error of the run's."""
    async with engine_and_client(tmp_path, reply({"message": "not readable"}, 501)) as (_, client):
        with LogReaders(client).slot() as open_log, open_log(LogRequest("container", "c1")) as log:
            assert await log.take() == []


async def test_readers_are_bounded(tmp_path: Path) -> None:
    """One more is refused, and a slot that was given back is free."""
    async with engine_and_client(tmp_path) as (_, client):
        readers = LogReaders(client)
        slots = [readers.slot() for _ in range(MAX_READERS)]
        for slot in slots:
            slot.__enter__()
        with pytest.raises(TooManyReaders), readers.slot():
            pass
        slots[0].__exit__(None, None, None)
        with readers.slot():
            pass
