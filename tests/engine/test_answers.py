"""answers: an answer of HTTP/1.1 taken off a connection, or refused."""

import pytest
from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.engine.answers import MAX_ANSWER, MAX_HEAD, Answer, Incoming

BODY = b'{"ID": "s1"}'
LENGTH = b"HTTP/1.1 201 Created\r\nApi-Version:1.41\r\nContent-Length: 12 \r\n\r\n" + BODY
CHUNKED = b'HTTP/1.1 201 Created\r\ntransfer-encoding: Chunked\r\n\r\n5\r\n{"ID"\r\n7;x=y\r\n: "s1"}\r\n0\r\n\r\n'
TRAILED = CHUNKED[:-2] + b"Docker-Said: enough\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + LENGTH
EMPTY = b"HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n"
BODILESS = b"HTTP/1.1 204 No Content\r\n\r\n"
ENDLESS = b"HTTP/1.1 201 Created\r\n\r\n" + BODY

WHOLE = {
    "length": (LENGTH, BODY),
    "chunked": (CHUNKED, BODY),
    "trailed": (TRAILED, BODY),
    "interim": (INTERIM, BODY),
    "empty": (EMPTY, b""),
    "bodiless": (BODILESS, b""),
}


def fed(said: bytes, size: int = 10**9) -> Answer | None:
    """What comes of it in pieces of a size."""
    incoming, answer = Incoming(), None
    for at in range(0, len(said), size):
        assert answer is None, "it was whole before"
        answer = incoming.event_stream(said[at : at + size])
    return answer


def headed(*lines: str, body: bytes = BODY) -> bytes:
    return "\r\n".join(["HTTP/1.1 201 Created", *lines, "", ""]).encode() + body


@pytest.mark.parametrize(("said", "body"), WHOLE.values(), ids=WHOLE)
def test_an_answer_may_be_cut_anywhere(said: bytes, body: bytes) -> None:
    """It is whole with its last byte, and not before."""
    for size in range(1, len(said) + 1):
        answer = fed(said, size)
        assert answer is not None
        assert (answer.status // 100, answer.body, answer.is_last) == (2, body, False)


@pytest.mark.parametrize("said", [said for said, _ in WHOLE.values()], ids=WHOLE)
def test_an_answer_that_is_cut_off_is_none(said: bytes) -> None:
    """Wherever that is."""
    for size in range(len(said)):
        incoming = Incoming()
        assert incoming.event_stream(said[:size]) is None
        with pytest.raises(EOFError):
            incoming.end()


def test_without_a_length_the_end_is_the_connections() -> None:
    """So nothing more comes on it."""
    incoming = Incoming()
    assert [incoming.event_stream(bytes([byte])) for byte in ENDLESS] == [None] * len(ENDLESS)
    assert incoming.end() == Answer(201, {}, BODY, is_last=True)


def test_a_header_is_known_by_its_name_in_small_letters() -> None:
    """Without the blanks around its value; one that is there twice has both."""
    answer = fed(headed("API-Version: \t1.41 ", "X:", "Via: a", "via: b", "Content-Length: 12"))
    assert answer is not None
    assert answer.headers == {"api-version": "1.41", "x": "", "via": "a, b", "content-length": "12"}


@pytest.mark.parametrize(
    "said",
    [
        LENGTH.replace(b"1.1", b"1.0"),
        headed("Content-Length: 12", "Connection: close"),
        headed("Content-Length: 12", "Connection: keep-alive, Close"),
        CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 12\r\n\r\n", 1),
        LENGTH + b"\r\n",
        LENGTH + LENGTH,
        CHUNKED + b"H",
        TRAILED + b"\r\n",
        EMPTY + b"x",
        BODILESS + b"x",
    ],
)
def test_an_answer_may_be_the_last(said: bytes) -> None:
    """Where the engine says so, or what comes behind it would be taken for the next one's beginning."""
    answer = fed(said)
    assert answer is not None
    assert answer.is_last


@pytest.mark.parametrize(
    "said",
    [
        b"\r\n" + LENGTH,
        b"<html>\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2010 Created\r\n\r\n",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"HTTP/2 201 Created\r\n\r\n",
        b"http/1.1 201 Created\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        headed("no colon"),
        headed("Content-Length : 12"),
        headed(" Content-Length: 12"),
        headed(": 12"),
        headed("X: a\nContent-Length: 12"),
        headed("X: a\rContent-Length: 12"),
        headed("Content-Length:"),
        headed("Content-Length: twelve"),
        headed("Content-Length: -1"),
        headed("Content-Length: +12"),
        headed("Content-Length: 1_2"),
        headed("Content-Length: 12, 12"),
        headed("Content-Length: 12", "Content-Length: 13"),
        headed(f"Content-Length: {MAX_ANSWER + 1}"),
        headed("Content-Length: " + "9" * 5000),
        headed("Transfer-Encoding: gzip, chunked"),
        headed("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        headed("Transfer-Encoding: identity", "Content-Length: 12"),
        headed("Transfer-Encoding: chunked", body=b"x\r\n"),
        headed("Transfer-Encoding: chunked", body=b"-5\r\nabcde\r\n"),
        headed("Transfer-Encoding: chunked", body=b"3\r\nabcd\r\n"),
        headed("X: " + "x" * MAX_HEAD),
        b"x" * (MAX_HEAD + 5),
        headed(body=b"x" * MAX_ANSWER),
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_ANSWER // 25 + 1),
        headed("Transfer-Encoding: chunked", body=(b"1000\r\n" + b"x" * 0x1000 + b"\r\n") * 257),
    ],
    ids=lambda said: said[:60],
)
def test_what_is_no_answer_is_refused(said: bytes) -> None:
    """Also what two could read in two ways, and what has no end."""
    with pytest.raises(ValueError):  # noqa: PT011 - its words are for the log
        fed(said, 4096)


@steady
@given(st.binary(max_size=60), st.integers(1, 60))
def test_nonsense_is_an_error_or_waited_for(nonsense: bytes, size: int) -> None:
    """Never anything else, whatever comes."""
    for said in (nonsense, b"HTTP/1.1 201 Created\r\n" + nonsense, CHUNKED[:60] + nonsense):
        incoming = Incoming()
        try:
            for at in range(0, len(said), size):
                if incoming.event_stream(said[at : at + size]):
                    break
            else:
                incoming.end()
        except (ValueError, EOFError):
            pass
