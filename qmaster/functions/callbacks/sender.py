"""Sends callbacks: one POST each, to an address that is checked after it was looked up. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ... import __version__
from ...models.urls import address_of, read_url
from .addresses import Reach, reach
from .webhooks import Receivers

TIMEOUT = 15.0  # seconds of a try, from the lookup of the address to the head of the answer
REST_WITHIN = 1.0  # seconds that the body of an answer may take; what comes later is not waited for
MAX_REST = 16 * 1024  # bytes of it that are read
MAX_HEADERS, MAX_LINE = 64, 4096  # of an answer
# Bytes of an answer that the kernel holds, so that what comes at once keeps the event loop busy for a few milliseconds
# at most: of heads such as ``100 Continue``, 10,000 fit into the 256 KiB that asyncio reads at once, and take 90 ms.
RECEIVED = 8192

MAX_DIGITS = 9  # of the seconds of Retry-After
BUSY = (429, 503)  # statuses whose header Retry-After counts

Lookup = Callable[[str, int], Awaitable[list[str]]]

log = structlog.get_logger(__name__)


class Answered(NamedTuple):
    """The answer of a receiver: its status, and the seconds after which it wants the next try, 0 if it says none."""

    status: int
    retry_after: float = 0.0


def seconds_of(retry_after: str, now: float) -> float:
    """Return the seconds that a header ``Retry-After`` asks for (RFC 9110, section 10.2.3); 0 if it is none.

    Args:
        retry_after: seconds, or a date.
        now: seconds since 1970.
    """
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:MAX_DIGITS])
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0


async def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system knows them.

    In a thread of its own: a name server that does not answer holds up neither the threads of others, nor a stop.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str] | OSError) -> None:
        if not done.done():
            done.set_exception(found) if isinstance(found, OSError) else done.set_result(found)

    def look() -> None:
        found: list[str] | OSError
        try:
            places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(place[0]).partition("%")[0] for *_, place in places))
        except (OSError, UnicodeError) as error:
            found = error if isinstance(error, OSError) else OSError(str(error))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=look, name="lookup", daemon=True).start()
    return await done


def _open_socket(place: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket that is about to connect, with a small buffer."""
    made = socket.socket(*place[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
    return made


class AddressRefused(OSError):
    """A host has no address that callbacks may go to."""


class Resolver(AbstractResolver):
    """Looks up host names, and returns only the addresses that callbacks may go to.

    A name that first had an address on the internet never leads to a private address later: only the operator, who
    named the prefix, decides that callbacks go to a private network (DNS rebinding).

    Args:
        lookup: returns the addresses of a host; it is called once at a time for each.
        known: hosts whose first addresses are known: ``global`` or ``local``.
        learned: called with the host and its kind when a host is looked up for the first time.
    """

    def __init__(
        self,
        lookup: Lookup = look_up,
        known: Mapping[str, Reach] | None = None,
        learned: Callable[[str, Reach], None] = lambda host, kind: None,
    ) -> None:
        self.known: dict[str, Reach] = dict(known or {})
        self._lookup = lookup
        self._learned = learned
        self._flying: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host that callbacks may go to.

        Raises:
            OSError: there are none.
        """
        addresses = self._allowed(host, [ipaddress.ip_address(text) for text in await self._addresses(host, port)])
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""

    async def _addresses(self, host: str, port: int) -> list[str]:
        """Look up a host, together with all who ask for it meanwhile, as a lookup may hold a thread for minutes."""
        flying = self._flying.get((host, port))
        if flying is None:
            flying = self._flying[host, port] = asyncio.ensure_future(self._lookup(host, port))
            flying.add_done_callback(lambda done: self._landed(host, port, done))
        return await asyncio.shield(flying)

    def _landed(self, host: str, port: int, done: asyncio.Future[list[str]]) -> None:
        self._flying.pop((host, port), None)
        if not done.cancelled():
            done.exception()  # so that one whose askers have all left is not reported

    def _allowed(
        self, host: str, found: list[ipaddress.IPv4Address | ipaddress.IPv6Address]
    ) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        by_reach: dict[Reach, list[Any]] = {"global": [], "local": [], "never": []}
        for address in found:
            by_reach[reach(address)].append(address)
        if host not in self.known and (by_reach["global"] or by_reach["local"]):
            self.known[host] = "global" if by_reach["global"] else "local"
            self._learned(host, self.known[host])
        allowed = by_reach["global"] + (by_reach["local"] if self.known.get(host) == "local" else [])
        if not allowed:
            log.warning("callback_address_refused", host=host, addresses=[str(address) for address in found[:8]])
            raise AddressRefused("the host has no address that callbacks may go to")
        return allowed


class Sender:
    """Sends callbacks, without redirects, proxies, cookies or credentials.

    Args:
        receivers: where they may go, and the keys.
        resolver: checks the addresses of host names.
        timeout: seconds of a try.
    """

    def __init__(self, receivers: Receivers, resolver: Resolver, timeout: float = TIMEOUT) -> None:
        self._receivers = receivers
        self._resolver = resolver
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def send(self, webhook_id: str, url: str, body: bytes) -> Answered | str:
        """Send a callback once; return what the receiver answered, or as text why there is no answer."""
        prefix = self._receivers.prefix_of(url)
        if prefix is None:
            return "no prefix of --callbacks covers the URL"
        target = read_url(url)
        literal = address_of(target.host)  # names an address that the operator has named; see ``Receivers``
        if literal is not None and reach(literal) == "never":
            return "the host has no address that callbacks may go to"
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/cloudevents+json",
            "User-Agent": f"quartermaster/{__version__}",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": self._receivers.signature(prefix, webhook_id, timestamp, body),
        }
        try:
            return await self._post(URL(target.text, encoded=True), headers, body)
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            return self._reason(error)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: URL, headers: Mapping[str, str], body: bytes) -> Answered:
        async with (
            asyncio.timeout(self._timeout),
            self._open().post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            asked = response.headers.get("Retry-After", "") if response.status in BUSY else ""
            with contextlib.suppress(aiohttp.ClientError, OSError, EOFError, TimeoutError, ValueError):
                async with asyncio.timeout(REST_WITHIN):  # a receiver may not expect that its answer is cut off
                    await response.content.readexactly(MAX_REST)
            response.close()
            return Answered(response.status, seconds_of(asked, time.time()))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Each try has a connection of its own: one that is kept could lead to an address that is no longer right.
            connector = aiohttp.TCPConnector(
                resolver=self._resolver,
                use_dns_cache=False,
                force_close=True,
                limit=0,
                family=socket.AF_UNSPEC,
                socket_factory=_open_socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=MAX_REST,
                max_headers=MAX_HEADERS,
                max_line_size=MAX_LINE,
                max_field_size=MAX_LINE,
            )
        return self._session

    def _reason(self, error: Exception) -> str:
        """Return why there is no answer, without what the receiver sent."""
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:g} s"
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return "the certificate is not valid for the host"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            refused = isinstance(error.os_error, AddressRefused)
            return str(error.os_error) if refused else "the host name cannot be looked up"
        if isinstance(error, aiohttp.ClientConnectorSSLError):
            return "TLS failed"
        if isinstance(error, aiohttp.ClientConnectorError):
            return f"cannot connect: {os.strerror(error.os_error.errno or 0)}"
        if isinstance(error, aiohttp.ClientResponseError):
            return "the answer is not HTTP"
        return "the connection was closed before the answer"
