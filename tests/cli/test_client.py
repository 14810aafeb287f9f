"""The command line's pure parts: what was shown already, frames, tables, requests, and patience."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from fake_server import line, service
from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.cli import commands, retries, tables
from qmaster.cli.client import ClientError, Lost, Refused, Unreachable
from qmaster.cli.retries import RetryPolicy
from qmaster.cli.streams import Line, Shown, SseParser, parse
from qmaster.models.requests import RunRequest

NOW = datetime(2026, 11, 22, 20, 30, 3, tzinfo=UTC)

# --- output -----------------------------------------------------------------------------------------------------------


def test_a_line_is_what_the_job_wrote() -> None:
    """With its newline, where it has one; exact, where the text is not."""
    assert parse(json.dumps(line(1, "a\u20ac")).encode()).data == "a\u20ac\n".encode()
    assert parse(json.dumps(line(1, "a", partial=True)).encode()).data == b"a"
    assert parse(json.dumps(line(1, "\ufffd", base64="/w==")).encode()).data == b"\xff\n"
    remark = parse(b'{"time":null,"stream":"qmaster","node":null,"task":null,"line":"why"}')
    assert remark[:4] == ("", "qmaster", "", b"why\n")


def message(at: int, data: bytes, task: str = "t", stream: str = "stdout") -> Line:
    return Line(f"2026-11-22T20:29:03.{at:09d}Z", stream, task, data, b"")


# The log of a task's stream: times that do not fall, with what was written at each.
STREAM = st.lists(st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=3)), max_size=8).map(
    lambda steps: [(sum(step for step, _ in steps[: at + 1]), data) for at, (_, data) in enumerate(steps)]
)


@pytest.mark.slow
@given(st.lists(STREAM, min_size=1, max_size=3), st.lists(st.integers(0, 30), max_size=4), st.randoms())
@steady
def test_nothing_is_lost_or_shown_twice_over_breaks(
    streams: list[list[tuple[int, bytes]]], breaks: list[int], random: Any
) -> None:
    """However often a log is told from its beginning, in whichever parts, and with its tasks in whichever order."""
    seen, shown = Shown(), [b""] * len(streams)
    for stop in [*breaks, 1_000_000]:
        seen.begin_again()
        told = list(_told(streams, random))[:stop]
        for task, at, data in told:
            shown[task] += seen.new(message(at, data, str(task)))
    assert shown == [b"".join(data for _, data in stream) for stream in streams]


def _told(streams: list[list[tuple[int, bytes]]], random: Any) -> Any:
    """One telling: what has one time may come in one piece or in two; the streams are mixed."""
    parts = []
    for stream in streams:
        cut = []
        for at, data in stream:
            split = random.randint(0, len(data))
            cut += [(at, piece) for piece in (data[:split], data[split:]) if piece]
        parts.append(cut)
    left = [task for task, cut in enumerate(parts) for _ in cut]
    random.shuffle(left)
    for task in left:
        yield task, *parts[task].pop(0)


def test_what_a_tail_left_out_does_not_come_back() -> None:
    """Of a stream that had nothing in the tail, only what is newer is new."""
    seen = Shown()
    first = message(5, b"b\n")
    seen.from_here(first)
    assert seen.new(first)
    seen.begin_again()
    assert seen.new(message(4, b"old\n", stream="stderr")) == b""
    assert seen.new(message(6, b"new\n", stream="stderr")) == b"new\n"


def test_a_tail_of_several_tasks_is_shown_whole() -> None:
    """They come one after the other, so the first line is not the oldest."""
    seen = Shown()
    shown = []
    for one in (message(5, b"a\n", "t1"), message(3, b"b\n", "t2")):
        seen.from_here(one)
        shown.append(seen.new(one))
    assert shown == [b"a\n", b"b\n"]


# --- events -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), max_size=20))
@steady
def test_frames_come_out_however_the_stream_is_cut(sizes: list[int]) -> None:
    """Also in the middle of a character."""
    stream = 'event: hello\ndata: {"a":1}\n\nid: x:1\nevent: io.qmaster.node.up\ndata: {"b":"€: ü"}\n\n'.encode()
    parser, frames = SseParser(), []
    for size in [*sizes, len(stream)]:
        frames += parser.feed(stream[:size])
        stream = stream[size:]
    assert frames == [("", "hello", {"a": 1}), ("x:1", "io.qmaster.node.up", {"b": "€: ü"})]


# --- tables -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.text(max_size=30), min_size=3, max_size=3), max_size=5), st.integers(36, 120))
@steady
def test_a_table_is_no_wider_than_the_terminal(rows: list[list[str]], columns: int) -> None:
    """And each row is one line, whatever is in it."""
    lines = tables.table(("A", "B", "C"), rows, columns)
    assert len(lines) == len(rows) + 1
    assert max(map(len, lines)) <= columns
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("created", "age"),
    [
        ("2026-11-22T20:30:03.999999999Z", "0s"),
        ("2026-11-22T20:29:04Z", "59s"),
        ("2026-11-22T18:31:00.5Z", "1h"),
        ("2026-11-01T00:00:00Z", "21d"),
        (None, ""),
    ],
)
def test_an_age_is_in_its_greatest_unit(created: str | None, age: str) -> None:
    """And never negative: clocks differ."""
    assert tables.age(created, NOW) == age


@pytest.mark.parametrize(
    ("view", "says"),
    [
        (service(status="pending", tasks=[]), "waiting for a node"),
        (service(status="pending", error="no room"), "waiting for a node: no room"),
        (service(status="preparing"), "preparing on worker-1"),
        (service(replicas={"desired": 3, "running": 2, "complete": 0, "failed": 0}), "running 2 of 3 on worker-1"),
        (service(status="stopping"), "stopping"),
        (service(type="container", tasks=[]), "running"),
    ],
)
def test_progress_says_what_it_waits_for(view: dict[str, Any], says: str) -> None:
    """With the node, where there is one."""
    assert tables.progress(view) == says


def test_every_field_of_a_run_is_an_option() -> None:
    """But `wait`, as `run` follows, and the token."""
    not_fields = {"url", "token_file", "as_json", "idempotency_key", "detach", "dry_run", "env_files"}
    options = {param.name for param in commands.run.params} - not_fields
    fields = {"auth" if name == "auth_file" else name for name in options}
    assert fields | {"wait"} == set(RunRequest.__struct_fields__)


# --- patience ---------------------------------------------------------------------------------------------------------


class Waiting:
    """A patience whose time only the test moves; ``said`` is what the user was told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.said: list[str] = []
        self.retry_policy = RetryPolicy(self.said.append, lambda: self.now, self._pause)

    async def _pause(self, seconds: float) -> None:
        assert 0 < seconds <= retries.LONGEST_PAUSE

    def bear(self, error: ClientError, after: float = 0, *, said: bool = False) -> None:
        self.now += after
        asyncio.run(self.retry_policy.failed(error, said))


def test_a_server_that_never_answered_is_not_waited_for() -> None:
    """It is more likely that the address is wrong."""
    with pytest.raises(Unreachable):
        Waiting().bear(Unreachable("x"))


def test_a_refusal_is_not_waited_for_unless_it_passes() -> None:
    """429 and 503 do; 404 does not."""
    waiting = Waiting()
    waiting.retry_policy.succeeded()
    for status in (429, 503):
        waiting.bear(Refused("x", status))
    with pytest.raises(Refused):
        waiting.bear(Refused("x", 404))


def test_an_absence_is_told_after_a_while_and_given_up_in_the_end() -> None:
    """Once; and its end, if it was told."""
    waiting = Waiting()
    waiting.retry_policy.succeeded()
    waiting.bear(Lost("it broke"))
    waiting.retry_policy.succeeded()
    assert waiting.said == []
    waiting.bear(Lost("it broke"))
    for _ in range(3):
        waiting.bear(Lost("it broke"), after=retries.QUIET_FOR + 1)
    assert waiting.said == ["it broke; trying again"]
    waiting.retry_policy.succeeded()
    assert waiting.said == ["it broke; trying again", "the server is back"]
    waiting.bear(Lost("it broke"))
    with pytest.raises(Lost):
        waiting.bear(Lost("it broke"), after=retries.GIVE_UP_AFTER + 1)


def test_what_the_server_told_is_not_told_again() -> None:
    """But that it is back is."""
    waiting = Waiting()
    waiting.retry_policy.succeeded()
    waiting.bear(Lost("it broke"), said=True)
    waiting.bear(Lost("it broke"), after=retries.QUIET_FOR + 1)
    waiting.retry_policy.succeeded()
    assert waiting.said == ["the server is back"]
