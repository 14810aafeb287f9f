"""The receivers of callbacks: the prefixes of ``--callbacks``, their keys, and the signatures of Standard Webhooks.

See https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md. No I/O but the key file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from ...auth.watched import WatchedFile, has_mode
from ...errors import ConfigError, Forbidden
from ...models.credentials import BOM
from ...models.urls import Url, address_of, read_url
from .addresses import reach

OPTION, KEY_OPTION = "--callbacks", "--webhook-key-file"
KEY_PREFIX = "whsec_"
KEY_BYTES = (24, 64)  # the least and the most
MAX_PREFIXES = 256

Keys = Mapping[str, tuple[bytes, ...]]  # by prefix; those under "" are for each prefix without its own

log = structlog.get_logger(__name__)


class Prefix(NamedTuple):
    """A prefix of ``--callbacks``; ``text`` is its one spelling."""

    text: str
    url: Url

    def covers(self, url: Url) -> bool:
        """Return whether a URL is below the prefix: same scheme, host and port, and the first segments of its path."""
        mine, segments = self.url, self.url.segments
        return (mine.scheme, mine.host, mine.port) == (url.scheme, url.host, url.port) and (
            url.segments[: len(segments)] == segments
        )


class Receivers:
    """Where callbacks may go, and the keys that sign them. Belongs to the event loop.

    Args:
        prefixes: the values of ``--callbacks``.
        key_file: the file of ``--webhook-key-file``; "": none.

    Raises:
        ConfigError: a prefix is wrong, or there are prefixes without a key file.
    """

    def __init__(self, prefixes: Iterable[str] = (), key_file: str = "") -> None:
        self.prefixes = read_prefixes(prefixes)
        if self.prefixes and not key_file:
            raise ConfigError(f"{OPTION} needs {KEY_OPTION}, as each callback is signed")
        self._keys: Keys = {}
        self._path = Path(key_file)
        self._file = WatchedFile(self._path, KEY_OPTION, self._take, _refused) if key_file else None

    def load(self) -> None:
        """Read the keys for the first time.

        Raises:
            ConfigError: they cannot be read, or a prefix has none; the message shows no key.
        """
        if self._file is not None:
            self._file.load()

    async def run(self) -> None:
        """Read the keys again whenever their file changes."""
        if self._file is not None:
            await self._file.run()

    def prefix_of(self, text: str) -> Prefix | None:
        """Return the longest prefix that covers a URL; None if no prefix does."""
        try:
            url = read_url(text)
        except ValueError:
            return None
        found = [prefix for prefix in self.prefixes if prefix.covers(url)]
        return max(found, key=lambda prefix: len(prefix.url.segments), default=None)

    def check(self, field: str, url: str | None) -> None:
        """Check that callbacks may go to a URL; None is no URL.

        Raises:
            Forbidden: no prefix covers it.
        """
        if url is None or self.prefix_of(url) is not None:
            return
        if not self.prefixes:
            raise Forbidden(f"{field}: this server sends no callbacks; its option {OPTION} names where they may go")
        raise Forbidden(f"{field}: no prefix of the server's option {OPTION} covers this URL")

    def signature(self, prefix: Prefix, webhook_id: str, timestamp: int, body: bytes) -> str:
        """Return the value of ``webhook-signature``: one signature for each key of the prefix."""
        return sign(self._keys.get(prefix.text) or self._keys[""], webhook_id, timestamp, body)

    def _take(self, content: bytes) -> None:
        keys = read_keys(content)
        for prefix in self.prefixes:
            if prefix.text not in keys and "" not in keys:
                raise ConfigError(f"no key for {prefix.text}: add a line '{prefix.text} {KEY_PREFIX}…'")
        self._keys = keys
        shared = [prefix.text for prefix in self.prefixes if prefix.text not in keys]
        log.info("webhook_keys_loaded", prefixes=[prefix.text for prefix in self.prefixes])
        if len(shared) > 1:
            advice = "each of these receivers can forge callbacks to the others; give each prefix a key"
            log.warning("webhook_key_shared", prefixes=shared, advice=advice)
        mode = has_mode(self._path, stat.S_IRWXG | stat.S_IRWXO)
        if mode:
            log.warning("webhook_key_file_open_to_others", mode=mode, advice=f"chmod 600 {self._path}")


def read_prefixes(texts: Iterable[str]) -> tuple[Prefix, ...]:
    """Read the values of ``--callbacks``; each prefix is there once.

    Raises:
        ConfigError: one of them is no prefix, or names an address that is never connected to.
    """
    prefixes = {prefix.text: prefix for prefix in map(_prefix, texts)}
    if len(prefixes) > MAX_PREFIXES:
        raise ConfigError(f"{OPTION}: expected at most {MAX_PREFIXES} prefixes; got {len(prefixes)}")
    return tuple(prefixes.values())


def read_keys(content: bytes) -> Keys:
    """Read a key file: lines ``PREFIX whsec_…``, or ``whsec_…`` alone for all other prefixes.

    Several lines for one prefix are its old and new keys: a callback is signed with each. Blank lines, and lines that
    begin with ``#``, are left out.

    Raises:
        ConfigError: a line is wrong; the message has its number, and shows nothing of a key.
    """
    try:
        lines = content.removeprefix(BOM).decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError("it is not UTF-8 text") from None
    keys: dict[str, tuple[bytes, ...]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            name, key = _key_line(words)
        except ValueError as error:
            raise ConfigError(f"line {number}: {error}") from None
        keys[name] = (*keys.get(name, ()), key)
    if not keys:
        raise ConfigError(f"it has no key; expected a line '{KEY_PREFIX}…', or lines 'PREFIX {KEY_PREFIX}…'")
    return keys


def sign(keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """Return the signatures of a callback with each key, separated by spaces."""
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join(f"v1,{base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()}" for key in keys)


def _prefix(text: str) -> Prefix:
    try:
        url = read_url(text)
        if url.query:
            raise ValueError("expected a prefix without a query (?)")
        address = address_of(url.host)
        if address is not None and reach(address) == "never":
            raise ValueError("callbacks never go to link-local addresses and metadata services")
    except ValueError as error:
        raise ConfigError(f"{OPTION}: {text!r}: {error}") from None
    return Prefix(url.text, url)


def _key_line(words: Sequence[str]) -> tuple[str, bytes]:
    """Return the prefix of a line, "" where it has none, and its key.

    Raises:
        ValueError: the line is wrong.
    """
    *before, key = words
    if len(before) > 1 or not key.startswith(KEY_PREFIX):
        raise ValueError(f"expected '{KEY_PREFIX}…' or 'PREFIX {KEY_PREFIX}…'")
    name = ""
    if before:
        try:
            name = _prefix(before[0]).text
        except ConfigError:  # it may be a key, so it is not shown
            raise ValueError(f"expected a prefix of {OPTION} before the key") from None
    return name, _key(key.removeprefix(KEY_PREFIX))


def _key(text: str) -> bytes:
    least, most = KEY_BYTES
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"the key is not base64 after {KEY_PREFIX}") from None
    if not least <= len(key) <= most:
        raise ValueError(f"expected a key of {least} to {most} bytes; got {len(key)}")
    return key


def _refused(error: ConfigError) -> None:
    log.warning("webhook_key_file_wrong", error=str(error), advice="the keys read before stay valid")
