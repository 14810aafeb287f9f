"""Registry credentials: decoded from a request, checked, and encoded for Docker. They are never stored or shown."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec

BOM = b"\xef\xbb\xbf"  # the byte order mark that some editors write before UTF-8
SHORTEST = 4  # characters of a secret: a shorter one would match parts of words
_STANDARD = str.maketrans("-_", "+/")
REDACTED = "[redacted]"
AUTH = "auth"  # the field of a run
FIELDS = '{"username", "password", "auth", "email"} or {"identitytoken"}'


class _Shape(msgspec.Struct, forbid_unknown_fields=True):
    """Docker's AuthConfig; ``auth`` is base64 of ``username:password`` if those two are left out."""

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""


@dataclass(frozen=True)
class Credentials:
    """A user name and a password, or an identity token; ``repr`` shows none of them. ``source`` is where they are."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    email: str = field(default="", repr=False)
    identitytoken: str = field(default="", repr=False)
    source: str = field(default=AUTH, repr=False)

    @classmethod
    def decode(cls, text: str) -> Credentials:
        """Read base64 (standard or URL alphabet, padded or not) of Docker's AuthConfig.

        Raises:
            ValueError: it is malformed; the message begins with ``auth:`` and shows nothing of the credentials.
        """
        try:
            document = msgspec.json.decode(_from_base64(text).removeprefix(BOM))
        except (binascii.Error, msgspec.MsgspecError, ValueError, RecursionError):
            raise ValueError(f"auth: expected base64 of {FIELDS}") from None
        return cls.of(document)

    @classmethod
    def of(cls, document: object, source: str = AUTH) -> Credentials:
        """Read Docker's AuthConfig.

        Args:
            document: the decoded JSON.
            source: the field or option that it is from.

        Raises:
            ValueError: it is malformed; the message begins with ``auth:`` and shows nothing of the credentials.
        """
        try:
            shape = msgspec.convert(document, _Shape)
            username, password = shape.username, shape.password
            if shape.auth and not username and not password:
                username, _, password = _from_base64(shape.auth).decode().partition(":")
        except (binascii.Error, msgspec.MsgspecError, ValueError):
            raise ValueError(f"auth: expected {'base64 of ' if source == AUTH else ''}{FIELDS}") from None
        if not shape.identitytoken and not (username and password):
            raise ValueError("auth: expected a username and a password, or an identitytoken")
        return cls(username, password, shape.email, shape.identitytoken, source)

    def header(self) -> str:
        """Return the value of Docker's ``X-Registry-Auth``: base64 of JSON in the URL alphabet."""
        if self.identitytoken:
            document = {"identitytoken": self.identitytoken}
        else:
            document = {"username": self.username, "password": self.password, "email": self.email}
        return base64.urlsafe_b64encode(msgspec.json.encode(document)).decode()


def hide(text: str, header: str) -> str:
    """Return an engine's or registry's message without the credentials of the call, which some of them repeat.

    Args:
        text: the message.
        header: the ``X-Registry-Auth`` that was sent; "" if there was none.
    """
    for secret in _forms(header) if header else ():
        text = text.replace(secret, REDACTED)
    return text


def _forms(header: str) -> list[str]:
    """Return the forms of the credentials to hide: as sent to Docker, alone, and as sent to a registry."""
    forms = {header, header.translate(_STANDARD), header.rstrip("="), header.translate(_STANDARD).rstrip("=")}
    try:
        sent = msgspec.json.decode(_from_base64(header), type=_Shape)
    except (binascii.Error, msgspec.MsgspecError, ValueError):
        return sorted(forms, key=len, reverse=True)
    login = base64.b64encode(f"{sent.username}:{sent.password}".encode()).decode()
    secrets = {secret for secret in (sent.password, sent.identitytoken) if len(secret) >= SHORTEST}
    written = {json.dumps(secret)[1:-1] for secret in secrets} | {quote(secret, safe="") for secret in secrets}
    return sorted(forms | {login, login.rstrip("=")} | secrets | written, key=len, reverse=True)


def _from_base64(text: str) -> bytes:
    compact = "".join(text.split()).rstrip("=")
    return base64.b64decode(compact.translate(_STANDARD) + "=" * (-len(compact) % 4), validate=True)
