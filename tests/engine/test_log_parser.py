"""logs: Docker's log stream as messages, however it is cut into pieces."""

import itertools
import struct
from collections.abc import Iterable

import pytest
from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.engine.logs import MAX_FRAME, PART, Message, Parser, Tail
from qmaster.models.results import Line, Stream

FIRST, SECOND = "2026-11-24T19:10:31.732562160Z", "2026-11-24T19:10:31.732562161Z"
DETAILS = "com.docker.swarm.node.id=n1,com.docker.swarm.service.id=s1,com.docker.swarm.task.id=t1"
NUMBERS = {"stdout": 1, "stderr": 2, "engine": 3}


def frame(source: str, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", NUMBERS[source], len(payload)) + payload


def said(source: str, data: bytes, time: str = FIRST, details: str = "") -> bytes:
    """A message as Docker sends it."""
    words = [time, details] if details else [time]
    return frame(source, b"".join(word.encode() + b" " for word in words) + data)


def parse(pieces: Iterable[bytes], details: bool = False) -> list[Message]:
    parser = Parser(details)
    return [message for piece in pieces for message in parser.feed(piece)] + list(parser.end())


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@pytest.mark.parametrize(
    "data", [b"a line\n", b"no newline", b"\n", b"", b"\xff\x00\x01binary", b"\x1b[31mred\x1b[0m\n"]
)
@pytest.mark.parametrize("source", ["stdout", "stderr"])
def test_a_frame_is_a_message(source: str, data: bytes) -> None:
    """Its bytes are what the job wrote, with the time that Docker tells of it."""
    assert parse([said(source, data)]) == [Message(FIRST, source, data)]  # type: ignore[arg-type]


def test_details_tell_node_and_task() -> None:
    """They come after the time; other labels among them mean nothing."""
    own = "a%2Cb=c%3Dd," + DETAILS
    messages = parse([said("stdout", b"x=y z\n", details=DETAILS) + said("stderr", b"\n", details=own)], details=True)
    assert messages == [Message(FIRST, "stdout", b"x=y z\n", "n1", "t1"), Message(FIRST, "stderr", b"\n", "n1", "t1")]


def test_what_the_engine_says_is_not_the_job_s() -> None:
    """Its words come in frames of their own, and on a TTY as a line without a time."""
    words = b"Error grabbing logs: rpc error: warning: incomplete log stream\n"
    assert parse([frame("engine", words)]) == [Message("", "engine", words)]
    assert parse([f"{FIRST} one\n".encode() + words]) == [
        Message(FIRST, "stdout", b"one\n"),
        Message("", "engine", words),
    ]


def test_a_job_may_print_what_looks_like_a_log() -> None:
    """Headers and times in what it writes are left as they are."""
    data = said("stderr", b"fake\n") + b"\n"
    assert parse([said("stdout", data)]) == [Message(FIRST, "stdout", data)]


def test_a_tty_has_no_frames() -> None:
    """Each of its lines begins with its time; the last may have no newline."""
    assert parse([f"{FIRST} one\r\n{SECOND} tw".encode()]) == [
        Message(FIRST, "stdout", b"one\r\n"),
        Message(SECOND, "stdout", b"tw"),
    ]


def test_a_tty_s_long_line_comes_in_parts() -> None:
    """Docker begins each part with the time, in the middle of the line."""
    long = b"x" * PART
    stamp = FIRST.encode() + b" "
    parts = [long, long, b"rest\r\n"]
    assert parse([b"".join(stamp + part for part in parts)]) == [Message(FIRST, "stdout", part) for part in parts]


def test_a_tty_s_line_without_end_does_not_grow_memory() -> None:
    """Bytes that have neither a newline nor a time in them are passed on, and none is lost."""
    parser = Parser()
    data = b"y" * 10_000
    got = list(parser.feed(f"{FIRST} ".encode()))
    for _ in range(100):
        got += parser.feed(data)
        assert len(parser._rest) <= 5 * PART
    got += parser.end()
    assert b"".join(message.data for message in got) == data * 100
    assert {message.time for message in got} == {FIRST}


@pytest.mark.parametrize(
    "data",
    [b"\x01\x01\x00\x00\x00\x00\x00\x01x", struct.pack(">BxxxL", 1, MAX_FRAME + 1), said("stdout", b"a") + b"HTTP/1.1"],
)
def test_what_is_no_log_is_an_error(data: bytes) -> None:
    """It is not taken for what a job said, and its lengths are not believed."""
    with pytest.raises(ValueError, match="not a log"):
        parse([data])


MESSAGES = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40)), max_size=12)
CUTS = st.lists(st.integers(0, 1000), max_size=20)


@steady
@given(MESSAGES, CUTS, st.booleans())
def test_frames_may_be_cut_anywhere(messages: list[tuple[str, bytes]], cuts: list[int], details: bool) -> None:
    """The messages are the same, whatever pieces the stream comes in."""
    data = b"".join(said(source, said_, details=DETAILS if details else "") for source, said_ in messages)
    expected = [(source, said_) for source, said_ in messages]
    got = parse(cut(data, cuts), details)
    assert [(message.source, message.data) for message in got] == expected
    assert all((message.node, message.task) == (("n1", "t1") if details else (None, None)) for message in got)


@steady
@given(st.lists(st.integers(0, 2 * PART), min_size=1, max_size=5), CUTS)
def test_a_tty_may_be_cut_anywhere(sizes: list[int], cuts: list[int]) -> None:
    """As Docker would: a line over 16 KiB is parts of 16 KiB."""
    parts = []
    for size in sizes:
        line = b"z" * size + b"\n"
        parts += [line[at : at + PART] for at in range(0, len(line), PART)]
    data = b"".join(FIRST.encode() + b" " + part for part in parts)
    assert [message.data for message in parse(cut(data, [at * 97 for at in cuts]))] == parts


# The end of a log


def lines(*what: tuple[Stream, bytes]) -> list[Line]:
    return [Line(FIRST, stream, data) for stream, data in what]


def tail_of(limit: int, given_: Iterable[Line]) -> Tail:
    tail = Tail(limit)
    for line in given_:
        tail.add(line)
    return tail


def test_the_tail_keeps_the_end_of_each_stream() -> None:
    """In the order in which it came; the first line that is kept may be a part."""
    given_ = lines(("stderr", b"first\n"), ("stdout", b"123456\n"), ("stdout", b"abc\n"), ("stderr", b"e\n"))
    tail = tail_of(6, given_)
    assert tail.lines("stdout", "stderr") == lines(
        ("stderr", b"rst\n"), ("stdout", b"6\n"), ("stdout", b"abc\n"), ("stderr", b"e\n")
    )
    assert tail.full("stdout")
    assert tail.full("stderr")


def test_a_tail_that_just_fits_is_not_full() -> None:
    """Nothing of it is missing, as far as was seen."""
    tail = tail_of(6, lines(("stdout", b"123456")))
    assert not tail.full("stdout")
    assert not tail.full("stderr")
    assert tail.lines("stdout", "stderr") == lines(("stdout", b"123456"))


@steady
@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=9)), max_size=30), st.integers(0, 40)
)
def test_the_tail_is_the_end_and_bounded(messages: list[tuple[Stream, bytes]], limit: int) -> None:
    """Of each stream exactly its last bytes; no more is held than they and one message."""
    tail = tail_of(limit, lines(*messages))
    for stream in ("stdout", "stderr"):
        whole = b"".join(data for source, data in messages if source == stream)
        got = b"".join(line.data for line in tail.lines(stream))
        assert got == whole[len(whole) - min(limit, len(whole)) :]
        assert tail.full(stream) == (len(whole) > limit)
        assert sum(len(line.data) for _, line in tail._kept[stream]) <= limit + 9
