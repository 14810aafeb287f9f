"""broker: fan-out to readers that keep up, lag, stop or leave."""

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from qmaster.events import broker, frames
from qmaster.events.broker import (
    ALL_INSTANCES,
    MAX_BEHIND_BYTES,
    MAX_BEHIND_FRAMES,
    MAX_BYTES,
    Broker,
    Filter,
    News,
    Subscriber,
    Tags,
    Wire,
)
from qmaster.events.frames import Frame

pytestmark = pytest.mark.gen_test

ANY = Tags("service", "s1", frozenset({"team=data"}), "root")


class Pipe:
    """Takes bytes; while `stuck` they do not leave until `flow`."""

    def __init__(self) -> None:
        self.stuck = False
        self.written: list[bytes] = []
        self.flying: list[asyncio.Future[None]] = []
        self.closed = False
        self.sent = 0

    def write(self, data: bytes) -> asyncio.Future[None] | None:
        if self.closed:
            raise OSError("closed")
        self.written.append(data)
        if not self.stuck:
            return None
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flying.append(future)
        return future

    async def flow(self) -> None:
        """Let all go that waits."""
        self.stuck = False
        for future in [future for future in self.flying if not future.done()]:
            future.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


class Reader:
    def __init__(self, wire: Wire = "websocket", wants: Filter = Filter()) -> None:  # noqa: B008 - a constant
        self.pipe = Pipe()
        self.cuts = 0
        self.subscriber = Subscriber(self.pipe, wire, wants, self._cut)

    def _cut(self) -> None:
        self.cuts += 1


async def _idle(everyone: Broker) -> None:
    async with asyncio.timeout(5):
        while everyone._sender is not None:  # noqa: ASYNC110 - the broker tells nobody
            await asyncio.sleep(0)


def frame(number: int, size: int = 0) -> Frame:
    return frames.event(f"0a0b0c0d:{number}", "io.qmaster.service.updated", b'{"n":"' + b"x" * size + b'"}')


async def test_who_keeps_up_gets_each_frame_at_once() -> None:
    """As it is encoded for its wire: the very same bytes for all."""
    everyone, readers = Broker(), [Reader(), Reader(), Reader("sse")]
    for reader in readers:
        everyone.join(reader.subscriber)
    sent = [frame(number) for number in range(1, 4)]
    for number, each in enumerate(sent, 1):
        everyone.publish([News(each, ANY, number)])
    assert readers[0].pipe.written == [each.websocket for each in sent]
    assert readers[2].pipe.written == [each.sse for each in sent]
    assert all(one is other for one, other in zip(readers[0].pipe.written, readers[1].pipe.written, strict=True))


async def test_what_comes_together_leaves_together() -> None:
    """In parcels of some size, in order: each reader gets what it wants of them, and nothing that it has read."""
    everyone = Broker()
    whole, other, late = Reader(), Reader(wants=Filter(service="another")), Reader()
    late.subscriber.after = 2
    for reader in (whole, other, late):
        everyone.join(reader.subscriber)
    sent = [frame(number, broker.BATCH // 4) for number in range(1, 7)]
    everyone.publish([News(each, ANY, number) for number, each in enumerate(sent, 1)])
    assert whole.pipe.written == [
        b"".join(each.websocket for each in sent[:4]),
        b"".join(each.websocket for each in sent[4:]),
    ]
    assert late.pipe.written == [b"".join(each.websocket for each in sent[2:])]
    assert (other.pipe.written, everyone.sent) == ([], 10)


async def test_many_are_served_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop does other work in between; what comes meanwhile goes out together, after all before it."""
    monkeypatch.setattr(broker, "SLICE", 0.0)
    monkeypatch.setattr(broker, "FEW", 0)
    everyone, readers = Broker(), [Reader() for _ in range(3 * broker.AT_ONCE)]
    for reader in readers:
        everyone.join(reader.subscriber)
    sent = [frame(number) for number in range(1, 5)]
    everyone.publish([News(sent[0], ANY, 1)])
    assert not any(reader.pipe.written for reader in readers)
    while not any(reader.pipe.written for reader in readers):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert sum(len(reader.pipe.written) for reader in readers) == broker.AT_ONCE
    late, gone = Reader(), readers.pop()
    late.subscriber.after = 2
    everyone.publish([News(sent[1], ANY, 2)])
    everyone.join(late.subscriber)
    everyone.leave(gone.subscriber)
    gone.subscriber.gone = True
    for number in (3, 4):
        everyone.publish([News(sent[number - 1], ANY, number)])
    await _idle(everyone)
    rest = b"".join(each.websocket for each in sent[1:])
    assert all(reader.pipe.written == [sent[0].websocket, rest] for reader in readers)
    assert late.pipe.written == [b"".join(each.websocket for each in sent[2:])]


async def test_many_with_filters_of_their_own_are_served_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token may have thousands, each of a kind of its own: the loop does other work in between all the same."""
    monkeypatch.setattr(broker, "SLICE", 0.0)
    monkeypatch.setattr(broker, "FEW", 0)
    labels = [f"n={number}" for number in range(3 * broker.AT_ONCE)]
    everyone, readers = Broker(), [Reader(wants=Filter(labels=frozenset({label}))) for label in labels]
    for reader in readers:
        everyone.join(reader.subscriber)
    everyone.publish([News(frame(1), ANY._replace(labels=frozenset(labels)), 1)])
    while not any(reader.pipe.written for reader in readers):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert sum(len(reader.pipe.written) for reader in readers) == broker.AT_ONCE
    await _idle(everyone)
    assert all(len(reader.pipe.written) == 1 for reader in readers)


async def test_who_takes_all_at_once_is_not_waited_for() -> None:
    """A pipe that answers None has sent it."""
    reader = Reader()
    for number in (1, 2):
        reader.subscriber.send(frame(number).websocket)
    assert await reader.subscriber.deliver(frame(3))
    assert reader.pipe.written == [frame(number).websocket for number in (1, 2, 3)]


async def test_frames_are_counted_for_each_reader() -> None:
    """Events that a filter lets through, and what all get."""
    everyone, readers = Broker(), [Reader(), Reader(wants=Filter(service="another"))]
    for reader in readers:
        everyone.join(reader.subscriber)
    everyone.publish([News(frame(1), ANY, 1)])
    assert everyone.sent == 1
    everyone.publish([News(frame(2), None, 2)])
    assert everyone.sent == 3


async def test_who_lags_gets_all_in_order() -> None:
    """What waits goes out as soon as it can."""
    reader = Reader()
    reader.pipe.stuck = True
    sent = [frame(number) for number in range(5)]
    for each in sent:
        reader.subscriber.send(each.websocket)
    assert reader.pipe.written == [sent[0].websocket]
    await reader.pipe.flow()
    assert reader.pipe.written == [each.websocket for each in sent]
    reader.subscriber.send(sent[0].websocket)
    assert reader.pipe.written[len(sent) :] == [sent[0].websocket]


behind = pytest.mark.parametrize(
    ("count", "size"), [(MAX_BEHIND_FRAMES + 2, 0), (12, MAX_BEHIND_BYTES // 10)], ids=["frames", "bytes"]
)


@behind
async def test_who_is_behind_for_too_long_is_cut(monkeypatch: pytest.MonkeyPatch, count: int, size: int) -> None:
    """By frames or bytes, for five seconds; what waited is let go."""
    now = [100.0]
    monkeypatch.setattr("qmaster.events.broker.time.monotonic", lambda: now[0])
    everyone, reader = Broker(), Reader()
    everyone.join(reader.subscriber)
    reader.pipe.stuck = True
    for number in range(1, count + 1):
        everyone.publish([News(frame(number, size), ANY, number)])
    now[0] += 4.9
    everyone.check()
    assert (reader.cuts, len(everyone)) == (0, 1)
    now[0] += 0.2
    everyone.check()
    assert (reader.cuts, len(everyone), reader.subscriber._waiting) == (1, 0, None)


@behind
async def test_who_catches_up_is_forgiven(monkeypatch: pytest.MonkeyPatch, count: int, size: int) -> None:
    """The five seconds begin anew."""
    now = [100.0]
    monkeypatch.setattr("qmaster.events.broker.time.monotonic", lambda: now[0])
    reader = Reader()
    for _ in range(2):
        reader.pipe.stuck = True
        for number in range(count):
            reader.subscriber.send(frame(number, size).websocket)
        now[0] += 4.0
        reader.subscriber.check()
        while reader.subscriber._waiting or reader.subscriber._in_flight:
            await reader.pipe.flow()
        reader.subscriber.check()
    assert reader.cuts == 0


async def test_who_is_far_behind_is_cut_at_once() -> None:
    """Four MiB; nothing more is kept for it."""
    reader = Reader()
    reader.pipe.stuck = True
    for number in range(4):
        assert reader.cuts == 0
        reader.subscriber.send(frame(number, MAX_BYTES // 4).websocket)
    assert (reader.cuts, reader.subscriber.gone) == (1, True)
    reader.subscriber.send(frame(4).websocket)
    assert (len(reader.pipe.written), reader.subscriber._waiting) == (1, None)


@pytest.mark.parametrize("alike", [True, False])
async def test_what_a_token_leaves_unread_is_bounded(monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    """All its subscribers together, those who are furthest behind first; what they share counts once."""
    monkeypatch.setattr(broker, "MAX_UNSENT", 1000)
    everyone = Broker()
    kinds = [Filter(owner="eve", labels=frozenset({"team=data"} if alike else {f"n={n}"})) for n in range(5)]
    readers = [Reader(wants=wants) for wants in kinds]
    other, small = Reader(wants=Filter(owner="bob")), Reader(wants=Filter(owner="eve", service="s1"))
    for reader in (*readers, other, small):
        reader.pipe.stuck = True
        everyone.join(reader.subscriber)
    for reader in (*readers, other):
        reader.subscriber.send(b"x" * 300)
    small.subscriber.send(b"x" * 50)
    everyone.check()
    assert [reader.cuts for reader in readers] == [0 if alike else 1] * 5
    assert (other.cuts, small.cuts) == (0, 0)
    assert len(everyone) == (7 if alike else 2)


async def test_who_has_left_is_forgotten() -> None:
    """A closed pipe, found when it is written to, and one that fails later."""
    everyone, closed, failing = Broker(), Reader(), Reader()
    for reader in (closed, failing):
        everyone.join(reader.subscriber)
    closed.pipe.closed, failing.pipe.stuck = True, True
    everyone.publish([News(frame(1), ANY, 1)])
    failing.pipe.flying[0].set_exception(OSError("reset"))
    await asyncio.sleep(0)
    everyone.publish([News(frames.heartbeat("0a0b0c0d:1", "now", None), None, 2)])
    assert (len(everyone), closed.cuts + failing.cuts) == (0, 0)


@pytest.mark.parametrize("few", [broker.FEW, 0])
async def test_a_mistake_of_ours_ends_one_round_alone(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes next is sent."""
    everyone, broken, other = Broker(), Reader(), Reader()
    monkeypatch.setattr(broken.pipe, "write", lambda data: 1 // 0)
    monkeypatch.setattr(broker, "FEW", few)
    everyone.join(broken.subscriber)
    with capture_logs() as logs, contextlib.suppress(ZeroDivisionError):
        everyone.publish([News(frame(1), ANY, 1)])
        await _idle(everyone)
        assert [line["event"] for line in logs] == ["publish_failed"]
    everyone.leave(broken.subscriber)
    everyone.join(other.subscriber)
    everyone.publish([News(frame(2), ANY, 2)])
    await _idle(everyone)
    assert other.pipe.written == [frame(2).websocket]


async def test_what_was_replayed_is_not_sent_again() -> None:
    """A subscriber is given what is newer than it has read."""
    everyone, reader = Broker(), Reader()
    reader.subscriber.after = 5
    everyone.join(reader.subscriber)
    for number in (4, 5, 6):
        everyone.publish([News(frame(number), ANY, number)])
    assert reader.pipe.written == [frame(6).websocket]


async def test_a_delivery_waits_for_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long, as long as it makes progress; without it is cut."""
    monkeypatch.setattr(broker, "PROGRESS_WITHIN", 0.05)
    reader = Reader()
    reader.pipe.stuck = True
    delivery = asyncio.create_task(reader.subscriber.deliver(frame(1)))
    for _ in range(6):
        await asyncio.sleep(0.03)
        reader.pipe.sent += 1
    assert not delivery.done()
    await reader.pipe.flow()
    assert await delivery
    reader.pipe.stuck = True
    assert not await reader.subscriber.deliver(frame(2))
    assert reader.cuts == 1
    assert not await reader.subscriber.deliver(frame(3))


async def test_a_large_frame_is_handed_on_whole() -> None:
    """A pong, or the close of a websocket, that came between its pieces would be read as a part of it."""
    reader = Reader()
    assert await reader.subscriber.deliver(frame(1, 3 * broker.BATCH))
    assert reader.pipe.written == [frame(1, 3 * broker.BATCH).websocket]


async def test_a_delivery_to_who_left_ends() -> None:
    """Nobody is cut who is gone."""
    reader = Reader()
    reader.pipe.closed = True
    assert not await reader.subscriber.deliver(frame(1))
    assert (reader.cuts, reader.subscriber.gone) == (0, True)


TASK = ANY._replace(topic="task")
NODE = Tags("node", "n1", frozenset(), None)


@pytest.mark.parametrize(
    ("wants", "passed"),
    [
        (Filter(), [ANY, TASK, NODE]),
        (Filter(topics=frozenset({"task"})), [TASK]),
        (Filter(topics=frozenset({"node", "service"})), [ANY, NODE]),
        (Filter(service="s1"), [ANY, TASK]),
        (Filter(service="s2"), []),
        (Filter(service="s2", topics=frozenset({"node"})), [NODE]),
        (Filter(labels=frozenset({"team=data"})), [ANY, TASK]),
        (Filter(labels=frozenset({"team=data", "x=y"})), []),
        (Filter(owner="alice"), []),
        (Filter(owner="root"), [ANY, TASK]),
    ],
)
async def test_a_filter_lets_through(wants: Filter, passed: list[Tags]) -> None:
    """By topic, service, labels and owner; nodes to who asked for them, or for nothing narrower, but to no owner."""
    assert [tags for tags in (ANY, TASK, NODE) if wants.lets_through(tags)] == passed


OF_HELLO = ANY._replace(function="hello")
HELLO, OTHER = Tags("function", "hello", frozenset(), "root"), Tags("function", "other", frozenset(), "root")


@pytest.mark.parametrize(
    ("wants", "passed"),
    [
        (Filter(), [ANY, HELLO, OTHER, NODE]),
        (Filter(function=ALL_INSTANCES), [ANY, OF_HELLO, HELLO, OTHER, NODE]),
        (Filter(function="hello"), [OF_HELLO, HELLO]),
        (Filter(function="hello", topics=frozenset({"service", "node"})), [OF_HELLO, NODE]),
        (Filter(function="other"), [OTHER]),
        (Filter(service="s1"), [ANY, OF_HELLO]),
        (Filter(labels=frozenset({"team=data"})), [ANY]),
        (Filter(labels=frozenset({"team=data"}), function=ALL_INSTANCES), [ANY, OF_HELLO]),
        (Filter(owner="alice", function=ALL_INSTANCES), []),
    ],
)
async def test_instances_are_let_through_where_they_are_asked_for(wants: Filter, passed: list[Tags]) -> None:
    """By their function, all of them, or one by its id."""
    assert [tags for tags in (ANY, OF_HELLO, HELLO, OTHER, NODE) if wants.lets_through(tags)] == passed


@pytest.mark.parametrize(("topics", "shown"), [({"task"}, True), ({"node", "task"}, True), ({"node"}, False)])
async def test_a_snapshot_shows_services_whatever_the_topics(topics: set[str], shown: bool) -> None:
    """But for nodes alone."""
    assert Filter(topics=frozenset(topics)).shows(ANY) is shown


@pytest.mark.parametrize(
    ("wants", "passes", "shows"),
    [
        (Filter(), True, True),
        (Filter(owner="alice"), True, True),
        (Filter(owner="bob"), False, False),
        (Filter(service="f"), False, False),
        (Filter(labels=frozenset({"a=b"})), False, True),
        (Filter(topics=frozenset({"function"})), True, False),
        (Filter(topics=frozenset({"function", "node"})), True, False),
        (Filter(topics=frozenset({"function", "task"}), labels=frozenset({"a=b"})), True, True),
        (Filter(topics=frozenset({"service"})), False, True),
    ],
)
async def test_functions_are_let_through_where_they_are_meant(wants: Filter, passes: bool, shows: bool) -> None:
    """Those that a token has published; a filter by run or label means none, unless it names the topic."""
    assert wants.lets_through(Tags("function", "f", frozenset(), "alice")) is passes
    assert wants.shows(Tags("service", "s", frozenset({"a=b"}), "alice")) is shows


@pytest.mark.parametrize(
    ("wants", "passes", "shows"),
    [
        (Filter(), False, True),
        (Filter(function=ALL_INSTANCES), False, True),
        (Filter(topics=frozenset({"invocation"})), True, False),
        (Filter(topics=frozenset({"invocation", "task"})), True, True),
        (Filter(topics=frozenset({"invocation"}), owner="alice"), True, False),
        (Filter(topics=frozenset({"invocation"}), owner="bob"), False, False),
        (Filter(function="hello"), True, False),
        (Filter(function="hello", owner="bob"), False, False),
        (Filter(function="other"), False, False),
        (Filter(topics=frozenset({"invocation"}), function="other"), False, False),
        (Filter(topics=frozenset({"service"}), function="hello"), False, False),
        (Filter(topics=frozenset({"invocation"}), service="i"), True, False),
        (Filter(topics=frozenset({"invocation"}), service="j"), False, False),
        (Filter(topics=frozenset({"invocation"}), labels=frozenset({"a=b"})), False, False),
    ],
)
async def test_invocations_are_let_through_where_they_are_asked_for(wants: Filter, passes: bool, shows: bool) -> None:
    """By their topic or their function, for their owner and the root token."""
    assert wants.lets_through(Tags("invocation", "i", frozenset(), "alice", "hello")) is passes
    assert wants.shows(Tags("service", "s", frozenset({"a=b"}), "alice")) is shows
