"""chunked: HTTP's chunked coding taken off."""

import pytest
from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.engine.chunked import Chunked


@steady
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 50), st.sampled_from([b"", b";a=b"]))
def test_a_body_may_be_cut_anywhere(chunks: list[bytes], size: int, extension: bytes) -> None:
    """What comes out is what was put in, and that it is done is known with its last chunk."""
    coded = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks) + b"0\r\n\r\n"
    coding = Chunked()
    got = b""
    for at in range(0, len(coded), size):
        assert not coding.done or coded[at:].strip() == b""
        got += coding.event_stream(coded[at : at + size])
    assert (got, coding.done) == (b"".join(chunks), True)


def test_a_body_that_is_cut_off_is_not_done() -> None:
    """Though a chunk has just ended."""
    coding = Chunked()
    assert coding.event_stream(b"3\r\nabc\r\n") == b"abc"
    assert not coding.done


@pytest.mark.parametrize("trailers", [b"", b"Expires: never\r\nX: y\r\n"])
def test_the_end_is_behind_the_trailers(trailers: bytes) -> None:
    """What is left on the connection would be taken for the beginning of the next answer."""
    coding = Chunked()
    assert coding.event_stream(b"3\r\nabc\r\n0\r\n" + trailers + b"\r") == b"abc"
    assert not coding.done
    assert coding.event_stream(b"\nHTTP") == b""
    assert (coding.done, coding.rest) == (True, b"HTTP")


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"\r\n",
        b"-3\r\n",
        b"+3\r\n",
        b"0x3\r\n",
        b"1_0\r\n",
        b"3\r\nabcd\r\n",
        b"1" * 300,
        b"1" * 99 + b"\r\n",
    ],
)
def test_what_is_not_coded_so_is_an_error(data: bytes) -> None:
    """A size that is none, one that is wrong, and one without end."""
    with pytest.raises(ValueError):  # noqa: PT011 - its words are for nobody
        Chunked().event_stream(data)
