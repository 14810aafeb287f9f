"""URLs of callbacks, read so strictly that no two programs can take one for different addresses. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import unquote

MAX_URL = 2048
MAX_HOST, MAX_LABEL = 253, 63
PORTS = {"http": 80, "https": 443}
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?", re.IGNORECASE | re.ASCII
)
_CHARACTERS = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%\[\]-]*")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last label, it makes a host an IPv4 address (WHATWG URL, 3.5)
_DECODED_AT_MOST = 8  # times that a path may be percent-encoded


class Url(NamedTuple):
    """A URL of a callback.

    Attributes:
        scheme: ``http`` or ``https``.
        host: in lower case; an IPv6 address without brackets.
        port: the number, also where the text has none.
        path: as it was written; ``/`` where there is none.
        query: with its ``?``, or "".
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    @property
    def text(self) -> str:
        """The URL as it is sent."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}{self.query}"

    @property
    def segments(self) -> list[str]:
        """The segments of the path; one slash at its end makes no difference."""
        return self.path.removesuffix("/").split("/")[1:]


def read_url(text: str) -> Url:
    """Read a URL.

    Raises:
        ValueError: it is no URL of a callback; the message says what to change.
    """
    if len(text) > MAX_URL:
        raise ValueError(f"expected at most {MAX_URL} characters; got {len(text)}")
    if "#" in text:
        raise ValueError("expected a URL without a fragment (#)")
    found = _URL.fullmatch(text)
    if found is None:
        raise ValueError("expected a URL such as https://example.com/hook")
    if "@" in found["authority"]:
        raise ValueError("expected a URL without user information (user:password@)")
    if not _CHARACTERS.fullmatch(text) or _BAD_PERCENT.search(text):
        raise ValueError("expected only characters of a URL; percent-encode others, and write host names as xn--…")
    place = _AUTHORITY.fullmatch(found["authority"])
    if place is None:
        raise ValueError("expected HOST or HOST:PORT after the scheme")
    scheme, path = found["scheme"].lower(), found["path"] or "/"
    port = PORTS[scheme] if place["port"] is None else int(place["port"])
    if not 1 <= port <= 65535:
        raise ValueError("expected a port from 1 to 65535")
    _check_path(path)
    return Url(scheme, _host(place["host"].lower()), port, path, found["query"] or "")


def check_url(field: str, text: str) -> None:
    """Check the URL of a field.

    Raises:
        ValueError: it is no URL of a callback; the message names the field.
    """
    try:
        read_url(text)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host of ``read_url`` is, or None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host(host: str) -> str:
    """Return a host in its one spelling.

    Raises:
        ValueError: it is neither a name nor an address in its usual spelling.
    """
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError("expected an IPv6 address between [ and ]") from None
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("expected an IPv4 address as four decimal numbers, such as 10.0.0.5") from None
    if len(host) > MAX_HOST or not all(1 <= len(label) <= MAX_LABEL for label in labels):
        raise ValueError("expected a host name without empty labels or a dot at its end")
    return host


def _check_path(path: str) -> None:
    """Check that a server cannot read a path as another one, however often it decodes it.

    Raises:
        ValueError: it can.
    """
    for _ in range(_DECODED_AT_MOST):
        if any(segment.partition(";")[0] in (".", "..") for segment in path.split("/")):
            raise ValueError("expected a path without the segments . and ..")
        decoded = unquote(path, errors="replace")
        if decoded == path:
            return
        if decoded.count("/") != path.count("/") or "\\" in decoded or any(not each.isprintable() for each in decoded):
            raise ValueError("expected a path without an encoded slash, backslash or control character")
        path = decoded
    raise ValueError("expected a path that is percent-encoded once")
