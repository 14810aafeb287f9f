"""unsent: what waits for its readers is bounded for each token, and who reads nothing is cut."""

import asyncio
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from qmaster.api.stream import Watched
from qmaster.errors import TooManyUnread
from qmaster.events.unsent import Unsent

pytestmark = pytest.mark.gen_test


class Stream:
    """A connection; `sent` grows as its reader reads."""

    def __init__(self) -> None:
        self.sent = 0
        self.is_closed = False

    def closed(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def writing(self) -> bool:
        return True

    @property
    def watched(self) -> Watched:
        return cast(Watched, cast(Any, self))


def flight() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def test_each_token_has_a_bound_of_its_own() -> None:
    """What is over it is refused, and another's is not; what has left counts no more."""
    unsent = Unsent(most=100)
    first, second = flight(), flight()
    unsent.watch("alice", 60, Stream().watched, first)
    unsent.watch("alice", 40, Stream().watched, second)
    with pytest.raises(TooManyUnread, match="100 bytes"):
        unsent.require("alice", 1)
    unsent.require("bob", 100)
    first.set_result(None)
    await asyncio.sleep(0)
    unsent.require("alice", 60)
    assert unsent.of("alice") == 40


async def test_one_answer_alone_is_never_refused() -> None:
    """However large it is."""
    Unsent(most=100).require("alice", 1000)


async def test_what_left_at_once_is_not_counted() -> None:
    """A reader that keeps up costs nothing."""
    unsent, sent = Unsent(), flight()
    sent.set_result(None)
    unsent.watch("alice", 60, Stream().watched, sent)
    assert unsent.of("alice") == 0


async def test_who_waits_for_room_goes_on_in_turn() -> None:
    """One after the other as there is room; another token does not wait."""
    unsent, order = Unsent(most=100), []

    async def wait(owner: str, name: str) -> None:
        await unsent.turn(owner)
        order.append(name)
        unsent.hold(owner, 100)

    lease = unsent.hold("alice", 100)
    tasks = [asyncio.create_task(wait("alice", "first")), asyncio.create_task(wait("alice", "second"))]
    await asyncio.wait_for(wait("bob", "bob"), 1)
    assert order == ["bob"]
    lease.release()
    await asyncio.wait_for(tasks[0], 1)
    await asyncio.sleep(0.01)
    assert (order, tasks[1].done()) == (["bob", "first"], False)
    tasks[1].cancel()


async def test_who_makes_no_progress_is_cut() -> None:
    """And gives its bytes back; who reads on, however slowly, is not cut."""
    unsent = Unsent(patience=0.05)
    stuck, slow = Stream(), Stream()
    for stream in (stuck, slow):
        unsent.watch("alice", 60, stream.watched, flight())
    with capture_logs() as logs:
        for _ in range(10):
            slow.sent += 1
            unsent.check()
            await asyncio.sleep(0.01)
        slow.sent += 1
        unsent.check()
    assert (stuck.is_closed, slow.is_closed) == (True, False)
    assert [(line["event"], line["by"]) for line in logs] == [("slow_reader_cut", "alice")]
    assert unsent.of("alice") == 60


async def test_a_connection_that_ends_gives_its_bytes_back() -> None:
    """Also where nobody tells what became of the answer."""
    unsent, gone = Unsent(), Stream()
    unsent.watch("alice", 60, gone.watched, flight())
    gone.close()
    unsent.check()
    assert unsent.of("alice") == 0


async def test_an_answer_in_pieces_counts_until_its_end() -> None:
    """And its reader is cut as any other."""
    unsent, stream = Unsent(patience=0), Stream()
    with unsent.watching("alice", 60, stream.watched):
        assert unsent.of("alice") == 60
        await asyncio.sleep(0.01)
        unsent.check()
        assert stream.is_closed
    assert unsent.of("alice") == 0
