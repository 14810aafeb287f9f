"""The output of a run as plain text and as NDJSON."""

import base64
import json
from typing import Any

import pytest
from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.api.logs import MAX_LINE, Ndjson, Plain
from qmaster.runs.logs import Piece, note

TIME = "2026-11-24T19:10:31.732562160Z"


def out(data: bytes, task: str | None = "t1") -> Piece:
    return Piece(TIME, "stdout", data, "host-1", task)


def objects(*pieces: Piece) -> list[dict[str, Any]]:
    writer = Ndjson()
    written = b"".join(writer.write([piece]) for piece in pieces) + writer.end()
    return [json.loads(line) for line in written.splitlines()]


@steady
@given(st.lists(st.binary(max_size=20), max_size=10))
def test_plain_text_is_the_bytes(parts: list[bytes]) -> None:
    """Whatever they are, nothing is added."""
    assert Plain(timestamps=False).write([out(part) for part in parts]) == b"".join(parts)


def err(data: bytes, task: str | None = "t1") -> Piece:
    return Piece(TIME, "stderr", data, "host-1", task)


def plain(*pieces: Piece, timestamps: bool = False) -> bytes:
    writer = Plain(timestamps)
    return b"".join(writer.write([piece]) for piece in pieces) + writer.end()


def test_each_line_begins_with_its_time() -> None:
    """But not the further parts of a line, unless another task has spoken in between."""
    stamp = TIME.encode() + b" "
    assert plain(out(b"a lo"), out(b"ng line\n"), out(b"next"), timestamps=True) == (
        stamp + b"a long line\n" + stamp + b"next"
    )
    assert plain(out(b"a lo"), out(b"other\n", "t2"), out(b"ng line\n"), timestamps=True) == (
        stamp + b"a lo\n" + stamp + b"other\n" + stamp + b"ng line\n"
    )


@pytest.mark.parametrize("second", [out(b"b", "t2"), err(b"b", "t2")], ids=["stdout", "stderr"])
@pytest.mark.parametrize("first", [out(b"a"), err(b"a")], ids=["stdout", "stderr"])
def test_two_tasks_do_not_share_a_line(first: Piece, second: Piece) -> None:
    """Where the first has no newline at its end, one is added; after the last none is."""
    assert plain(first, second) == b"a\nb"
    assert plain(first, out(b""), second) == b"a\nb"


def test_the_streams_of_one_task_share_a_line_as_on_a_terminal() -> None:
    """Nothing is added to the bytes of one task; with timestamps each stream has lines of its own."""
    assert plain(out(b"a"), err(b"b"), out(b"c\n")) == b"abc\n"
    stamp = TIME.encode() + b" "
    assert plain(out(b"a"), err(b"b\n"), timestamps=True) == stamp + b"a\n" + stamp + b"b\n"


def test_our_own_words_are_lines_of_their_own() -> None:
    """Also after a line that is not finished."""
    written = Plain(timestamps=True).write([note("first"), out(b"half"), note("second")])
    assert written == b"[qmaster] first\n" + TIME.encode() + b" half\n[qmaster] second\n"


def test_a_line_is_an_object() -> None:
    """Without its newline; parts are joined, and a last line that has none says so."""
    lines = objects(out(b"a lo"), out(b"ng line\n"), out(b"\n"), out(b"end\r"))
    of_task = {"time": TIME, "stream": "stdout", "node": "host-1", "task": "t1"}
    assert lines[:2] == [{**of_task, "line": line} for line in ("a long line", "")]
    assert lines[2:] == [{**of_task, "line": "end\r", "partial": True}]


def test_what_is_not_utf_8_comes_as_bytes_too() -> None:
    """The text is for people, the bytes are exact."""
    (line,) = objects(out(b"\xff\x00a\n"))
    assert (line["line"], base64.b64decode(line["base64"])) == ("\N{REPLACEMENT CHARACTER}\0a", b"\xff\x00a")


def test_tasks_and_streams_are_joined_apart() -> None:
    """Parts belong to the line of their own task and stream."""
    lines = [
        (line["task"], line["stream"], line["line"])
        for line in objects(out(b"a"), out(b"b\n", "t2"), err(b"e\n"), out(b"c\n"))
    ]
    assert lines == [("t2", "stdout", "b"), ("t1", "stderr", "e"), ("t1", "stdout", "ac")]


def test_our_own_words_have_a_stream_of_their_own() -> None:
    """And no time."""
    assert objects(note("why", "host-2")) == [
        {"time": None, "stream": "qmaster", "node": "host-2", "task": None, "line": "why"}
    ]


def test_what_is_not_utf8_is_replaced() -> None:
    """By U+FFFD, as JSON holds no bytes."""
    assert objects(out(b"a\xffb\x1b[0m\n"))[0]["line"] == "a\N{REPLACEMENT CHARACTER}b\x1b[0m"


def test_a_line_without_end_comes_in_parts() -> None:
    """All but the last say so; no character is cut, and memory is bounded."""
    writer = Ndjson()
    text = "xä€😀" * 300_000
    written = b""
    data = text.encode()
    for at in range(0, len(data), 16384):
        written += writer.write([out(data[at : at + 16384])])
        assert sum(size for _, _, size in writer._parts.values()) < MAX_LINE + 16384
    written += writer.write([out(b"\n")])
    lines = [json.loads(line) for line in written.splitlines()]
    assert "".join(line["line"] for line in lines) == text
    assert [line.get("partial", False) for line in lines] == [True] * (len(lines) - 1) + [False]
    assert len(lines) == len(data) // MAX_LINE + 1
    assert writer.end() == b""


def test_a_line_of_several_instances_begins_with_its_name() -> None:
    """Each line, but not its further parts; in JSON it is a key of its own, whether there are several or not."""
    one, two = out(b"a\n")._replace(instance="fn-1"), out(b"b", "t2")._replace(instance="fn-2")
    writer = Plain(timestamps=False)
    writer.names_instances = True
    assert writer.write([one, two, two._replace(data=b"c\n"), note("x")]) == b"fn-1 a\nfn-2 bc\n[qmaster] x\n"
    assert Plain(timestamps=False).write([one, two]) == b"a\nb"
    assert [line["instance"] for line in objects(one, two)] == ["fn-1", "fn-2"]
    assert "instance" not in objects(out(b"a\n"))[0]
