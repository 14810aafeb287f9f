"""strict: what of HTTP/1.1 is refused although Tornado lets it pass."""

import pytest
from tornado.httputil import HTTPHeaders, HTTPInputError

from qmaster.api.strict import MAX_LINES, check_head, flaw, is_encoded


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_LINES - 2) + b"\r\n",
    ],
)
def test_a_head_is_lines_that_end_with_cr_lf(head: bytes) -> None:
    """As many as there may be."""
    check_head(head)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\r\n\r\n",
        b"\nGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_LINES - 1) + b"\r\n",
    ],
)
def test_another_head_is_none(head: bytes) -> None:
    """A line feed or a carriage return alone, or a line too many."""
    with pytest.raises(HTTPInputError):
        check_head(head)


def headers(*fields: tuple[str, str]) -> HTTPHeaders:
    made = HTTPHeaders()
    for name, value in fields:
        made.add(name, value)
    return made


LENGTH, CHUNKED = ("Content-Length", "5"), ("Transfer-Encoding", "chunked")


@pytest.mark.parametrize("fields", [(), (LENGTH,), (CHUNKED,), (("transfer-encoding", "Chunked"),)])
def test_where_a_body_ends_is_certain(fields: tuple[tuple[str, str], ...]) -> None:
    """There is none, it has a length, or it comes in chunks."""
    assert flaw("HTTP/1.1", headers(*fields)) is None


@pytest.mark.parametrize(
    ("version", "fields", "says"),
    [
        ("HTTP/1.1", (LENGTH, LENGTH), "Content-Length is there twice"),
        ("HTTP/1.1", (LENGTH, ("Content-Length", "6")), "Content-Length is there twice"),
        ("HTTP/1.1", (("Content-Length", "5, 5"),), "Content-Length is there twice"),
        ("HTTP/1.1", (LENGTH, CHUNKED), "both there"),
        ("HTTP/1.0", (CHUNKED,), "HTTP/1.0"),
        ("HTTP/1.1", (CHUNKED, CHUNKED), "not 'chunked'"),
        ("HTTP/1.1", (("Transfer-Encoding", "gzip, chunked"),), "not 'chunked'"),
        ("HTTP/1.1", (("Transfer-Encoding", "identity"),), "not 'chunked'"),
        ("HTTP/1.1", (("Transfer-Encoding", ""),), "not 'chunked'"),
    ],
)
def test_where_it_is_not_certain_the_request_is_refused(
    version: str, fields: tuple[tuple[str, str], ...], says: str
) -> None:
    """Whatever a proxy in front would make of it."""
    assert says in str(flaw(version, headers(*fields)))


@pytest.mark.parametrize(
    ("fields", "encoded"),
    [
        ((), False),
        ((("Content-Encoding", "identity"),), False),
        ((("Content-Encoding", "Identity"),), False),
        ((("Content-Encoding", "gzip"),), True),
        ((("content-encoding", "BR"),), True),
        ((("Content-Encoding", "gzip"), ("Content-Encoding", "identity")), True),
        ((("Content-Encoding", "\xa0identity"),), True),
    ],
)
def test_a_compressed_body_is_known(fields: tuple[tuple[str, str], ...], encoded: bool) -> None:
    """By any encoding but none."""
    assert is_encoded(headers(*fields)) is encoded
