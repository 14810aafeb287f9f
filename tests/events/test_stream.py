"""stream: hello, snapshot, gap, replay, and then the live stream without a hole or a repetition."""

import asyncio
import re
import time
from datetime import UTC, datetime

import msgspec
import pytest
from stream_cases import EPOCH, Journal, Pipe, Stream

from qmaster.errors import JournalUnwritable
from qmaster.events.broker import ALL_INSTANCES, Filter, Subscriber
from qmaster.events.cloudevents import cursor_time
from qmaster.events.rows import StoredEvent
from qmaster.events.stream import Since
from qmaster.events.unsent import Unsent

pytestmark = pytest.mark.gen_test


async def test_without_a_cursor_there_is_a_snapshot() -> None:
    """hello, snapshot, and from then on what is live."""
    stream = Stream(Journal(7))
    await stream.event_stream.bring_up(stream.subscriber, None)
    stream.publish()
    assert stream.kinds() == ["hello", "snapshot", "event"]
    assert stream.broker.sent == 3
    assert stream.pipe.frames[0]["cursor"] == stream.pipe.frames[1]["cursor"] == f"{EPOCH}:7"
    assert stream.ids() == [8]


async def test_with_a_cursor_there_is_what_was_missed() -> None:
    """Page by page, and then what is live."""
    stream = Stream(Journal(500))
    await stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, 3))
    stream.publish()
    assert stream.ids() == list(range(4, 502))
    assert "snapshot" not in stream.kinds()


async def test_what_comes_during_the_replay_comes_once() -> None:
    """No hole and no repetition between the journal and the live stream."""
    stream = Stream(Journal(450))
    replay = asyncio.create_task(stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, 0)))
    for _ in range(50):
        stream.publish()
        await asyncio.sleep(0)
    await replay
    stream.publish()
    assert stream.ids() == list(range(1, 502))


@pytest.mark.parametrize(
    ("since", "reason"),
    [
        (Since(EPOCH, 98), "cursor_expired"),
        (Since(EPOCH, 0), "cursor_expired"),
        (Since("99999999", 120), "epoch_changed"),
        (Since(EPOCH, 201), "epoch_changed"),
    ],
)
async def test_what_cannot_be_resumed_is_a_gap(since: Since, reason: str) -> None:
    """That says why, from where and to where, and a snapshot."""
    stream = Stream(Journal(200, oldest=100))
    await stream.event_stream.bring_up(stream.subscriber, since)
    assert stream.kinds() == ["hello", "gap", "snapshot"]
    gap = {"type": "gap", "reason": reason, "from": f"{since.epoch}:{since.sequence}", "to": f"{EPOCH}:200"}
    assert stream.pipe.frames[1] == gap


@pytest.mark.parametrize(("moment", "first"), [(150, 140), (111, 101), (210, 200), (500, None)])
async def test_another_quartermasters_cursor_continues_from_its_time(moment: int, first: int | None) -> None:
    """After a gap that says so, with all events since ten seconds before it, in place of a snapshot."""
    stream = Stream(Journal(200, oldest=100))
    since = Since("99999999", 7, cursor_time(moment))
    await stream.event_stream.bring_up(stream.subscriber, since)
    stream.publish()
    assert "snapshot" not in stream.kinds()
    names = {"from": f"99999999.{since.time}:7", "to": f"{EPOCH}:200"}
    assert stream.pipe.frames[1] == {"type": "gap", "reason": "epoch_changed", **names, "resumed": True}
    assert stream.ids() == list(range(first or 201, 202))


@pytest.mark.parametrize("seconds", [109, 0.001, time.time() + 3600])
async def test_a_time_that_the_journal_does_not_reach_is_a_gap(seconds: float) -> None:
    """With a snapshot: the time is before its first event, or the clocks differ by more than seconds."""
    stream = Stream(Journal(200, oldest=100))
    await stream.event_stream.bring_up(stream.subscriber, Since("99999999", 7, cursor_time(seconds)))
    assert stream.kinds() == ["hello", "gap", "snapshot"]
    assert "resumed" not in stream.pipe.frames[1]


async def test_a_token_whose_events_were_deleted_since_has_a_snapshot() -> None:
    """Though those of others are kept."""
    stream = Stream(Journal(200))
    stream.journal.kept_from = lambda owner: 151 if owner == "alice" else 1  # type: ignore[method-assign]
    since = Since("99999999", 7, cursor_time(150))
    for owner, kinds in (("alice", ["hello", "gap", "snapshot"]), ("bob", ["hello", "gap"])):
        pipe = Pipe()
        subscriber = Subscriber(pipe, "sse", Filter(owner=owner, service="none"), lambda: None)
        await stream.event_stream.bring_up(subscriber, since)
        assert [frame["type"] for frame in pipe.frames] == kinds


async def test_an_unread_journal_continues_nobody() -> None:
    """Else who comes would have a cursor of no epoch."""
    stream = Stream(Journal(0))
    stream.read = False
    with pytest.raises(JournalUnwritable):
        await stream.event_stream.bring_up(stream.subscriber, Since("99999999", 7, cursor_time(time.time())))


async def test_a_replayed_event_has_the_cursor_that_it_was_told_with() -> None:
    """Whether that has a time or not."""

    class Timed(Journal):
        async def events(self, after: int, limit: int, owner: str | None) -> list[StoredEvent] | None:
            page = await super().events(after, limit, owner)
            old, new = f"{EPOCH}:2".encode(), f"{EPOCH}.abc:2".encode()
            return page and [one._replace(json=one.json.replace(old, new)) for one in page]

    stream = Stream(Timed(2))
    stream.subscriber.wire = "websocket"
    sent: list[bytes] = []
    stream.pipe.write = sent.append  # type: ignore[method-assign,assignment]
    await stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, 0))
    assert [re.findall(rb'"cursor":"([^"]*)","event":{"id":"([^"]*)"', frame) for frame in sent[1:]] == [
        [(cursor, cursor)] for cursor in (f"{EPOCH}:1".encode(), f"{EPOCH}.abc:2".encode())
    ]


@pytest.mark.parametrize("sequence", [99, 200])
async def test_the_oldest_and_the_newest_can_be_resumed(sequence: int) -> None:
    """The last that is kept no longer, and the last of all."""
    stream = Stream(Journal(200, oldest=100))
    await stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, sequence))
    assert stream.ids() == list(range(sequence + 1, 201))
    assert len(stream.broker) == 1


@pytest.mark.parametrize("wants", [Filter(service="s2"), Filter(labels=frozenset({"of=s2"}))])
async def test_a_filter_narrows_the_replay(wants: Filter) -> None:
    """As it does the live stream."""
    stream = Stream(Journal(10), wants)
    await stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, 0))
    for _ in range(4):
        stream.publish()
    assert stream.ids() == [2, 4, 6, 8, 10, 12, 14]


class Instances(Journal):
    """Every third event is an instance's; each has a label that looks like one's."""

    async def events(self, after: int, limit: int, owner: str | None) -> list[StoredEvent] | None:
        page = await super().events(after, limit, owner)
        return page and [self._of_function(event) for event in page]

    def _of_function(self, event: StoredEvent) -> StoredEvent:
        document = msgspec.json.decode(event.json)
        function = {"name": "hello", "version": 1} if event.seq % 3 == 0 else None
        document["data"] |= {"function": function, "labels": {"of": event.subject, "x": '"function":{"name":"hello"}'}}
        return event._replace(json=msgspec.json.encode(document))


@pytest.mark.parametrize(
    ("wants", "ids"),
    [
        (Filter(), [1, 2, 4, 5, 7]),
        (Filter(function="hello"), [3, 6]),
        (Filter(function="other"), []),
        (Filter(function=ALL_INSTANCES), [1, 2, 3, 4, 5, 6, 7]),
        (Filter(service="s1"), [1, 3, 5, 7]),
        (Filter(labels=frozenset({"of=s2"})), [2, 4]),
    ],
)
async def test_a_replay_leaves_out_instances(wants: Filter, ids: list[int]) -> None:
    """But those that were asked for."""
    stream = Stream(Instances(7), wants)
    await stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, 0))
    assert stream.ids() == ids


class Invocations(Journal):
    """Every third event is the end of an asynchronous invocation."""

    async def events(self, after: int, limit: int, owner: str | None) -> list[StoredEvent] | None:
        page = await super().events(after, limit, owner)
        return page and [self._of_invocation(event) if event.seq % 3 == 0 else event for event in page]

    def _of_invocation(self, event: StoredEvent) -> StoredEvent:
        document = msgspec.json.decode(event.json) | {"data": {"function": "hello"}}
        return event._replace(json=msgspec.json.encode(document), type="io.qmaster.invocation.completed")


@pytest.mark.parametrize(
    ("wants", "ids"),
    [
        (Filter(), [1, 2, 4, 5, 7]),
        (Filter(topics=frozenset({"invocation"})), [3, 6]),
        (Filter(topics=frozenset({"invocation"}), labels=frozenset({"of=s1"})), []),
        (Filter(function="hello"), [3, 6]),
        (Filter(function="other"), []),
        (Filter(function=ALL_INSTANCES), [1, 2, 4, 5, 7]),
    ],
)
async def test_a_replay_leaves_out_invocations(wants: Filter, ids: list[int]) -> None:
    """But those that were asked for."""
    stream = Stream(Invocations(7), wants)
    await stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, 0))
    assert stream.ids() == ids


async def test_a_heartbeat_says_where_the_stream_stands() -> None:
    """And since when it may be behind."""
    stream = Stream(Journal(3), Filter(service="nothing"))
    await stream.event_stream.bring_up(stream.subscriber, None)
    stream.publish()
    stream.event_stream.beat()
    stream.stale = "then"
    stream.event_stream.beat()
    times = [frame.pop("time") for frame in stream.pipe.frames[2:]]
    assert all(datetime.fromisoformat(each).tzinfo is UTC for each in times)
    beat = {"type": "heartbeat", "cursor": f"{EPOCH}:4"}
    assert stream.pipe.frames[2:] == [beat, {**beat, "stale_since": "then"}]


async def test_a_snapshot_needs_the_journal_read() -> None:
    """Else what it has would be missing for good."""
    stream = Stream(Journal(3))
    stream.read = False
    with pytest.raises(JournalUnwritable):
        await stream.event_stream.bring_up(stream.subscriber, None)
    assert len(stream.broker) == 0


async def test_a_snapshot_is_made_once_for_many() -> None:
    """Who comes at the same place of the stream, with the same filter, gets the same."""
    stream = Stream(Journal(3))
    for wants in (Filter(), Filter(), Filter(service="s1"), Filter(service="s1")):
        subscriber = Subscriber(stream.pipe, "sse", wants, lambda: None)
        await stream.event_stream.bring_up(subscriber, None)
    assert stream.made == 2
    stream.publish()
    await stream.event_stream.bring_up(stream.subscriber, None)
    assert stream.made == 3


async def test_a_reader_that_pruning_overtakes_is_told() -> None:
    """A gap and a snapshot in the middle of its replay, instead of a hole."""
    stream = Stream(Journal(1000))

    async def late(after: int, limit: int, owner: str | None) -> list[StoredEvent] | None:
        if after >= 200:
            stream.journal.position = stream.journal.position._replace(oldest=900)
        return await Journal.events(stream.journal, after, limit, owner)

    stream.journal.events = late  # type: ignore[method-assign]
    await stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, 0))
    assert stream.ids() == list(range(1, 201))
    assert stream.kinds()[201:] == ["gap", "snapshot"]
    assert stream.pipe.frames[201]["reason"] == "cursor_expired"
    assert len(stream.broker) == 1


async def test_a_journal_that_cannot_be_read_is_said() -> None:
    """The caller is told, and the reader does not join with a hole."""
    stream = Stream(Journal(3))
    stream.journal.broken = True
    with pytest.raises(JournalUnwritable):
        await stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, 0))
    assert len(stream.broker) == 0


async def test_who_is_gone_is_not_brought_up() -> None:
    """Nothing is read for nobody."""
    stream = Stream(Journal(1000))
    stream.subscriber.gone = True
    await stream.event_stream.bring_up(stream.subscriber, Since(EPOCH, 0))
    assert (stream.pipe.frames, len(stream.broker)) == ([], 0)


async def test_unread_snapshots_hold_up_their_own_token_alone() -> None:
    """Another's comes at once; the token's own next one when there is room again."""
    stream, taken = Stream(Journal(3)), asyncio.get_running_loop().create_future()
    stuck, mine, others = Pipe(), Pipe(), Pipe()
    stream.event_stream.unsent = Unsent(most=1)
    write = stuck.write

    def hold_up(data: bytes) -> asyncio.Future[None] | None:
        return taken if b"snapshot" in data else write(data)

    stuck.write = hold_up  # type: ignore[method-assign]
    wants = [(stuck, "s1", "alice"), (mine, "s2", "alice"), (others, "s1", "bob")]
    tasks = []
    for pipe, service, owner in wants:
        subscriber = Subscriber(pipe, "sse", Filter(service=service, owner=owner), lambda: None)
        tasks.append(asyncio.create_task(stream.event_stream.bring_up(subscriber, None)))
        await asyncio.sleep(0.01)
    assert [len(pipe.frames) for pipe in (mine, others)] == [1, 2]
    taken.set_result(None)
    await asyncio.wait_for(asyncio.gather(*tasks), 2)
    assert [frame["type"] for frame in mine.frames] == ["hello", "snapshot"]
