"""invocations.invocation: a streamed answer goes through at its reader's pace, and ends as its writer says."""

import asyncio

import pytest

from qmaster.errors import InstanceDied
from qmaster.functions.invocations.invocation import HELD, Chunks


@pytest.mark.gen_test
async def test_parts_come_in_order_and_end() -> None:
    """The reader gets each part once, then the end."""
    chunks = Chunks()
    await chunks.put(b"one")
    await chunks.put(b"two")
    chunks.end()
    assert [part async for part in chunks] == [b"one", b"two"]


@pytest.mark.gen_test
async def test_the_writer_waits_for_a_slow_reader() -> None:
    """At most ``HELD`` bytes wait; the rest comes once the reader has taken some."""
    chunks = Chunks()
    await chunks.put(bytes(HELD))
    writing = asyncio.create_task(chunks.put(b"more"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not writing.done()
    assert len(await anext(chunks)) == HELD
    await writing
    assert await anext(chunks) == b"more"


@pytest.mark.gen_test
async def test_an_error_comes_after_the_parts_before_it() -> None:
    """What was sent before the instance died is not lost."""
    chunks = Chunks()
    await chunks.put(b"half")
    chunks.end(InstanceDied("gone"))
    assert await anext(chunks) == b"half"
    with pytest.raises(InstanceDied):
        await anext(chunks)


@pytest.mark.gen_test
async def test_a_reader_that_leaves_frees_the_writer() -> None:
    """The function goes on without its caller: what it still sends is dropped."""
    chunks = Chunks()
    await chunks.put(bytes(HELD))
    writing = asyncio.create_task(chunks.put(b"more"))
    await asyncio.sleep(0)
    await chunks.aclose()
    await writing
    await chunks.put(bytes(HELD * 2))
