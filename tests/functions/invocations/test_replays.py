"""invocations.replays: calls that are sent again run once."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import until
from tornado.ioloop import IOLoop

from qmaster import errors
from qmaster.events.journal import Journal
from qmaster.functions.invocations import replays
from qmaster.functions.invocations.invocation import Answer
from qmaster.functions.invocations.replays import KeyedCalls, Left, RetryMemory, key_of

pytestmark = pytest.mark.gen_test

MIB = 1024 * 1024


def answer(body: bytes = b"42") -> Answer:
    return Answer(body, "application/json", "s1", 3, 1.5, True)


class Function:
    """Counts its calls; ``gate`` holds each up."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.left: list[Left] = []
        self.body = b"42"

    async def __call__(self, left: Left) -> Answer:
        self.calls += 1
        self.left.append(left)
        if self.gate:
            waiting = asyncio.ensure_future(self.gate.wait())
            left.add_done_callback(lambda _: waiting.cancel())
            try:
                await waiting
            except asyncio.CancelledError:
                raise errors.NoInstance("the caller has disconnected") from None
        if self.error:
            raise self.error
        return answer(self.body)


@pytest.fixture
def function() -> Function:
    return Function()


def here() -> Left:
    return asyncio.get_running_loop().create_future()


@pytest.fixture
def journal(tmp_path: Path, io_loop: IOLoop) -> Iterator[Journal]:
    journal = Journal(tmp_path, 1000, 30)
    io_loop.run_sync(journal.open)
    yield journal
    with contextlib.suppress(RuntimeError):  # a test has closed it
        io_loop.run_sync(journal.close)


Once = Callable[[Left], Coroutine[Any, Any, Answer]]


@pytest.fixture(params=["memory", "journal"])
def once(request: pytest.FixtureRequest, function: Function) -> Once:
    """`once(left)`: the same call, in memory and in the journal."""
    memory = RetryMemory()
    keyed = KeyedCalls(request.getfixturevalue("journal"))

    async def once(left: Left) -> Answer:
        if request.param == "memory":
            return await memory.once("alice", "k", function, left)
        return (await keyed.once("alice", "k", "digest", function, left))[0]

    return once


async def test_a_second_call_gets_the_first_ones_answer(once: Once, function: Function) -> None:
    """Also when it comes long after."""
    assert [await once(here()) for _ in range(3)] == [answer()] * 3
    assert function.calls == 1


async def test_a_second_call_waits_for_the_first(once: Once, function: Function) -> None:
    """Both get its answer."""
    function.gate = asyncio.Event()
    waiting = [asyncio.create_task(once(here())) for _ in range(3)]
    await until(lambda: function.calls)
    function.gate.set()
    assert [await each for each in waiting] == [answer()] * 3
    assert function.calls == 1


async def test_a_call_is_forgotten_when_all_have_left(once: Once, function: Function) -> None:
    """Not as long as one of them waits; the next call is made anew."""
    function.gate = asyncio.Event()
    one, two = here(), here()
    first = asyncio.create_task(once(one))
    await until(lambda: function.calls)
    second = asyncio.create_task(once(two))
    await asyncio.sleep(0)
    one.set_result(None)
    await asyncio.sleep(0.02)
    assert not function.left[0].done()
    two.set_result(None)
    third = asyncio.create_task(once(here()))
    for each in (first, second):
        with pytest.raises(errors.NoInstance):
            await each
    await until(lambda: function.calls == 2)
    function.gate.set()
    assert await third == answer()


REFUSED = [errors.QueueFull("full"), errors.NoInstance("none"), errors.CannotStart("no", "image_not_found")]
FAILED = [
    errors.FunctionFailed("ValueError", "no", ["line"], b"{}"),
    errors.InstanceDied("died", 137, ["bye"]),
    errors.CallTimedOut("slow"),
]


@pytest.mark.parametrize("error", REFUSED, ids=lambda error: error.reason)
async def test_what_was_not_handed_over_may_be_called_again(
    once: Once, function: Function, error: errors.CallFailed
) -> None:
    """A 429 or a 503 is not remembered."""
    function.error = error
    with pytest.raises(type(error)):
        await once(here())
    function.error = None
    assert await once(here()) == answer()


@pytest.mark.parametrize("error", FAILED, ids=lambda error: error.reason)
async def test_a_failure_is_an_answer_too(once: Once, function: Function, error: errors.CallFailed) -> None:
    """The function may have had effects: it is not called again, and the failure is the same."""
    function.error = error
    with pytest.raises(type(error)):
        await once(here())
    function.error = None
    with pytest.raises(errors.CallFailed) as raised:
        await once(here())
    assert (raised.value.status, raised.value.members, str(raised.value)) == (error.status, error.members, str(error))
    assert function.calls == 1


async def test_keys_are_of_an_owner_and_a_function(journal: Journal, function: Function) -> None:
    """Parts cannot be taken for others."""
    assert len({key_of(parts) for parts in (("a", "b", "c"), ("a", "bc"), ("ab", "c"), ("a", "c", "b"))}) == 4
    keyed = KeyedCalls(journal)
    for key in ("one", "two"):
        assert (await keyed.once("alice", key, "digest", function, here()))[1] is False
    assert (await keyed.once("alice", "two", "digest", function, here()))[1] is True
    assert function.calls == 2


async def test_a_key_with_another_body_is_refused(journal: Journal, function: Function) -> None:
    """While the first runs, and after it."""
    keyed = KeyedCalls(journal)
    function.gate = asyncio.Event()
    first = asyncio.create_task(keyed.once("alice", "k", "digest", function, here()))
    await until(lambda: function.calls)
    with pytest.raises(errors.KeyReused):
        await keyed.once("alice", "k", "other", function, here())
    function.gate.set()
    await first
    with pytest.raises(errors.KeyReused):
        await keyed.once("alice", "k", "other", function, here())
    assert function.calls == 1


async def test_a_key_outlives_the_process(tmp_path: Path, journal: Journal, function: Function) -> None:
    """An answer is given again; a call that was begun and never ended is never made again."""
    keyed = KeyedCalls(journal)
    await keyed.once("alice", "answered", "digest", function, here())
    function.error = RuntimeError("the process ends")
    with pytest.raises(RuntimeError):
        await keyed.once("alice", "open", "digest", function, here())
    function.error = None
    await journal.close()
    again = Journal(tmp_path, 1000, 30)
    await again.open()
    keyed = KeyedCalls(again)
    assert await keyed.once("alice", "answered", "digest", function, here()) == (answer(), True)
    with pytest.raises(errors.Conflict, match="its outcome is unknown"):
        await keyed.once("alice", "open", "digest", function, here())
    assert function.calls == 2
    await again.close()


async def test_a_key_is_committed_before_its_call(journal: Journal, function: Function) -> None:
    """Where it cannot be, nothing is called."""

    async def look(left: Left) -> Answer:
        assert await journal.kept_answer("k") == ("digest", None)
        return answer()

    keyed = KeyedCalls(journal)
    await keyed.once("alice", "k", "digest", look, here())
    await journal.close()
    with pytest.raises(errors.JournalUnwritable):
        await keyed.once("alice", "k2", "digest", function, here())
    assert function.calls == 0


async def test_keys_are_forgotten_in_time(
    journal: Journal, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a day, also those of calls that never ended."""
    keyed = KeyedCalls(journal)
    await keyed.once("alice", "k", "digest", function, here())
    monkeypatch.setattr("qmaster.events.journal.time.time", lambda: 9e9)
    assert (await keyed.once("alice", "k", "other", function, here()))[1] is False


async def test_answers_give_way_when_the_journal_is_full(tmp_path: Path, function: Function) -> None:
    """The oldest of whoever keeps most go first; those of calls in flight stay."""
    journal = Journal(tmp_path / "small", 1000, 30, keep_size=16)
    await journal.open()
    keyed = KeyedCalls(journal)
    await journal.begin_call("open", "alice", "digest")
    function.body = b"x" * MIB
    for number in range(20):
        await keyed.once("alice", str(number), "digest", function, here())
    await keyed.once("bob", "b", "digest", function, here())
    await until(lambda: journal._pruning is None)
    assert await journal.kept_answer("0") is None
    for key in ("19", "b", "open"):
        assert await journal.kept_answer(key) is not None, key
    await journal.close()


# --- in memory --------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_memory_is_for_five_minutes(function: Function) -> None:
    """Then the call is another one."""
    clock = Clock()
    memory = RetryMemory(clock)
    await memory.once("alice", "k", function, here())
    clock.now = replays.REMEMBERED_FOR - 1
    await memory.once("alice", "k", function, here())
    clock.now = replays.REMEMBERED_FOR + 1
    await memory.once("alice", "k", function, here())
    assert function.calls == 2


async def test_memory_is_bounded_and_shared(function: Function) -> None:
    """64 MiB: the oldest answers of whoever has most go first."""
    memory = RetryMemory()
    await memory.once("bob", "b", function, here())
    function.body = b"x" * 6 * MIB
    for number in range(20):
        await memory.once("alice", str(number), function, here())
    assert sum(memory._bytes.values()) <= replays.MAX_REMEMBERED
    calls = function.calls
    await memory.once("bob", "b", function, here())
    await memory.once("alice", "19", function, here())
    assert function.calls == calls
    await memory.once("alice", "0", function, here())
    assert function.calls == calls + 1


async def test_memory_counts_what_a_function_says_of_its_error() -> None:
    """All of it: it is kept."""
    memory = RetryMemory()

    async def fail(left: object) -> Answer:
        raise errors.FunctionFailed("E", "no", [], bytes(MIB))

    with pytest.raises(errors.FunctionFailed):
        await memory.once("alice", "k", fail, here())
    assert memory._bytes["alice"] > MIB


async def test_memory_of_streams_is_of_their_having_been(function: Function) -> None:
    """They cannot be sent again; one that was not handed over may be made again."""
    clock = Clock()
    memory = RetryMemory(clock)
    memory.claim("alice", "k")
    with pytest.raises(errors.Conflict):
        memory.claim("alice", "k")
    memory.claim("bob", "k")
    memory.forget("alice", "k")
    memory.forget("alice", "k")
    memory.claim("alice", "k")
    clock.now = replays.REMEMBERED_FOR + 1
    memory.claim("alice", "k")
    assert set(memory._bytes) == {"alice"}
