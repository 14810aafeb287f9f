"""Pure: what of HTTP/1.1 is refused although Tornado lets it pass.

Two servers that read one message differently can be made to see different requests in it (request smuggling). So what
a proxy in front of quartermaster might read otherwise is not read at all (RFC 9112, 2.2, 6.1 and 6.3).
"""

from __future__ import annotations

from collections.abc import Mapping

from tornado.httputil import HTTPHeaders, HTTPInputError

MAX_LINES = 100  # of a head; each is parsed, and 16 KiB could hold four thousand
HEAD_END = rb"\r\n\r\n"


def check_head(head: bytes) -> None:
    """The bytes of a request's head, before they are parsed.

    Raises:
        HTTPInputError: a line ends otherwise than with CR and LF, or there are too many.
    """
    lines = head.count(b"\r\n")
    if not head.count(b"\r") == head.count(b"\n") == lines:
        raise HTTPInputError("a line of the head does not end with CR LF")
    if lines > MAX_LINES:
        raise HTTPInputError("the head has too many lines")


def flaw(version: str, headers: HTTPHeaders) -> str | None:
    """Why it is not certain where a request's body ends; None where it is.

    Args:
        version: as in ``HTTP/1.1``.
    """
    lengths, codings = headers.get_list("Content-Length"), headers.get_list("Transfer-Encoding")
    if len(lengths) > 1 or any("," in length for length in lengths):
        return "the header Content-Length is there twice"
    if codings and lengths:
        return "the headers Content-Length and Transfer-Encoding are both there"
    if codings and version == "HTTP/1.0":
        return "the header Transfer-Encoding is not one of HTTP/1.0"
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        return "the header Transfer-Encoding is not 'chunked'"
    return None


def is_encoded(headers: Mapping[str, str]) -> bool:
    """Whether the body is compressed: nothing here inflates what somebody sends."""
    return "Content-Encoding" in headers and headers["Content-Encoding"].lower() not in ("", "identity")
