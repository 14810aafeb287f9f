"""threads: work that blocks, and its way back to the loop."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from fakes import until

from qmaster.threads import Threads

pytestmark = pytest.mark.gen_test

NAME = "threads-test"


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Two at most."""
    made = Threads(2, NAME)
    yield made
    made.end()


def fail(error: BaseException) -> Any:
    raise error


async def test_work_is_done_in_a_thread_and_told_to_the_loop(threads: Threads) -> None:
    """What it returns, or raises."""
    assert await threads.do(lambda: threading.current_thread().name) == f"{NAME}_0"
    with pytest.raises(KeyError) as caught:
        await threads.do(lambda: fail(KeyError("x")))
    assert caught.value.args == ("x",)
    assert await threads.do(lambda: threading.get_ident()) != threading.get_ident()


async def test_an_error_that_no_future_takes_is_told_all_the_same(threads: Threads) -> None:
    """Or who waits would wait for ever."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(threads.do(lambda: next(iter(()))), 3)
    assert await threads.do(lambda: 1) == 1


async def test_they_are_begun_as_they_are_needed(threads: Threads) -> None:
    """Up to their number; what is more waits. They hold up no process that ends."""
    for _ in range(5):
        await threads.do(lambda: None)
        await asyncio.sleep(0.005)
    assert len(ours()) == 1
    go, done = threading.Event(), Mock()
    waiting = [threads.do(lambda: go.wait(4)) for _ in range(2)]
    waiting += [threads.do(partial(done, number)) for number in range(5)]
    assert len(ours()) == 2
    assert all(thread.daemon for thread in ours())
    await asyncio.sleep(0.005)
    done.assert_not_called()
    go.set()
    await asyncio.gather(*waiting)
    assert sorted(call.args[0] for call in done.call_args_list) == [0, 1, 2, 3, 4]
    assert len(ours()) == 2


async def test_work_that_nobody_waits_for_is_not_begun() -> None:
    """It may change something, and whoever asked was told that it did not."""
    threads, go, work = Threads(1, NAME), threading.Event(), Mock()
    first, second = threads.do(lambda: go.wait(4)), threads.do(work)
    second.cancel()
    go.set()
    await first
    assert await threads.do(lambda: "next") == "next"
    work.assert_not_called()
    threads.end()


@pytest.mark.parametrize("fails", [False, True])
async def test_what_becomes_of_work_that_nobody_waits_for_any_more_is_dropped(threads: Threads, fails: bool) -> None:
    """Quietly."""
    unhandled = Mock()
    asyncio.get_running_loop().set_exception_handler(unhandled)
    begun, go = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        go.wait(4)
        return fail(OSError("late")) if fails else "late"

    future = threads.do(work)
    await until(begun.is_set)
    future.cancel()
    go.set()
    threads.end()
    await until(lambda: not ours())
    await asyncio.sleep(0)
    assert future.cancelled()
    del future
    gc.collect()
    unhandled.assert_not_called()


async def test_what_was_done_is_not_kept(threads: Threads) -> None:
    """Until there is more to do."""

    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)
    await threads.do(partial(bool, large))
    del large
    await until(lambda: gone() is None)


async def test_they_end_with_what_they_do() -> None:
    """What was not begun is cancelled, and nothing more is taken: nobody would ever do it."""
    threads, work = Threads(2, NAME), Mock()
    begun, go = threading.Barrier(3, timeout=4), threading.Event()
    flying = [threads.do(lambda: begun.wait() >= 0 and go.wait(4)) for _ in range(2)]
    begun.wait()
    waiting = threads.do(work)
    threads.end()
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="ended"):
        threads.do(work)
    go.set()
    assert list(await asyncio.gather(*flying)) == [True, True]
    await until(lambda: not ours())
    work.assert_not_called()


async def test_without_a_thread_work_is_refused_and_not_done_later(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine may give none; where it has given one, that one does it."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: fail(RuntimeError("can't start new thread")))
        work = Mock()
        with pytest.raises(RuntimeError, match="can't start"):
            threads.do(work)
    assert await threads.do(lambda: 1) == 1
    go = threading.Event()
    first = threads.do(lambda: go.wait(4))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda self: fail(RuntimeError("can't start new thread")))
        second = threads.do(lambda: 2)
    go.set()
    assert await asyncio.wait_for(second, 4) == 2
    await first
    work.assert_not_called()


def test_a_loop_that_has_ended_is_told_nothing() -> None:
    """And another one may go on with the same thread."""
    threads = Threads(1, NAME)
    begun, go = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go.wait(4)

    async def leave() -> None:
        threads.do(slow)
        await until(begun.is_set)

    async def go_on() -> Any:
        return await asyncio.wait_for(threads.do(lambda: "on"), 3)

    asyncio.run(leave())
    go.set()
    assert asyncio.run(go_on()) == "on"
    threads.end()
