"""Pure: an answer of HTTP/1.1 taken off a connection (RFC 9112). Where it ends is certain, or it is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from .chunked import Chunked

MAX_HEAD = 64 * 1024  # bytes
MAX_ANSWER = 1024 * 1024  # bytes, with its head and its coding
END = b"\r\n\r\n"
FIRST = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LENGTH = re.compile(r"[0-9]{1,15}")
BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Answer(NamedTuple):
    """``headers`` by their names in small letters; ``is_last``: nothing more can be read on this connection."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_last: bool


class Incoming:
    """Takes one answer in pieces, cut anywhere."""

    def __init__(self) -> None:
        self._size = 0
        self._rest = bytearray()
        self._head: _Head | None = None
        self._body = bytearray()

    def event_stream(self, data: bytes) -> Answer | None:
        """The answer, once it is whole.

        Raises:
            ValueError: it is none, or too large.
        """
        self._size += len(data)
        if self._size > MAX_ANSWER:
            raise ValueError("the answer is too large")
        self._rest += data
        while self._head is None:
            end = self._rest.find(END)
            if (len(self._rest) if end < 0 else end) > MAX_HEAD:
                raise ValueError("the answer's head is too long")
            if end < 0:
                return None
            head = _Head(bytes(self._rest[:end]).decode("latin-1"))
            del self._rest[: end + len(END)]
            if not head.is_interim:
                self._head = head
        return self._whole(self._head)

    def end(self) -> Answer:
        """What it is, as the connection has ended.

        Raises:
            EOFError: it was cut off.
        """
        if self._head is None or self._head.length is not None or self._head.coding is not None:
            raise EOFError("the answer was cut off")
        return Answer(self._head.status, self._head.headers, bytes(self._rest), is_last=True)

    def _whole(self, head: _Head) -> Answer | None:
        """What has come behind its end was not asked for, so the next answer would not be the one to the next call."""
        if head.coding is not None:
            self._body += head.coding.event_stream(bytes(self._rest))
            self._rest.clear()
            if not head.coding.done:
                return None
            return Answer(head.status, head.headers, bytes(self._body), head.is_last or bool(head.coding.rest))
        if head.length is None or len(self._rest) < head.length:
            return None
        body, left = bytes(self._rest[: head.length]), len(self._rest) > head.length
        return Answer(head.status, head.headers, body, head.is_last or left)


class _Head:
    """``coding`` takes the body where it is chunked, else ``length`` is its; without both it is the connection's."""

    def __init__(self, text: str) -> None:
        first, *lines = text.split("\r\n")
        match = FIRST.fullmatch(first)
        if match is None:
            raise ValueError("the answer has no status")
        self.status = int(match[2])
        self.headers = _fields(lines)
        coding, length = self.headers.get("transfer-encoding"), self.headers.get("content-length")
        self.coding, self.length = _frame(self.status, coding, length)
        options = [option.strip() for option in self.headers.get("connection", "").lower().split(",")]
        # With both a coding and a length somebody on the way may have read it otherwise.
        self.is_last = match[1] == "0" or "close" in options or (coding is not None and length is not None)

    @property
    def is_interim(self) -> bool:
        """Whether the answer is yet to come."""
        return self.status < HTTPStatus.OK


def _fields(lines: list[str]) -> dict[str, str]:
    """One that is there twice has both values, as in a list."""
    found: dict[str, str] = {}
    for line in lines:
        written, colon, value = line.partition(":")
        if not colon or not NAME.fullmatch(written) or "\r" in value or "\n" in value:
            raise ValueError("a line of the answer's head is no header")
        name, value = written.lower(), value.strip(" \t")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _frame(status: int, coding: str | None, length: str | None) -> tuple[Chunked | None, int | None]:
    if status == HTTPStatus.SWITCHING_PROTOCOLS:
        raise ValueError("the answer is the last of HTTP")
    if status in BODILESS:
        return None, 0
    if coding is not None:
        if coding.lower() != "chunked":
            raise ValueError("the answer's coding is none that is known")
        return Chunked(), None
    if length is None:
        return None, None
    if not LENGTH.fullmatch(length) or int(length) > MAX_ANSWER:
        raise ValueError("the answer's length is none, or too large")
    return None, int(length)
