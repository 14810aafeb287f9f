"""unsent: what waits for its readers is bounded for each token."""

import asyncio

import pytest

from qmaster.errors import TooManyUnread
from qmaster.events.unsent import Unsent

pytestmark = pytest.mark.gen_test


async def test_each_token_has_a_bound_of_its_own() -> None:
    """What is over it is refused, and another's is not; what has left counts no more."""
    unsent = Unsent(most=100)
    first, _ = unsent.hold("alice", 60), unsent.hold("alice", 40)
    with pytest.raises(TooManyUnread, match="100 bytes"):
        unsent.require("alice", 1)
    unsent.require("bob", 100)
    with first:
        pass
    unsent.require("alice", 60)
    assert unsent.of("alice") == 40


async def test_one_answer_alone_is_never_refused() -> None:
    """However large it is."""
    Unsent(most=100).require("alice", 1000)


async def test_who_waits_for_room_goes_on_in_turn() -> None:
    """One after the other as there is room; another token does not wait."""
    unsent, order = Unsent(most=100), []

    async def wait(owner: str, name: str) -> None:
        await unsent.wait_for_room(owner)
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
