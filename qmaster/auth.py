"""Who is asking: a token → the name it belongs to. Compared as digests in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

from .errors import BadRequest, Unauthorized

ROOT = "root"


@dataclass(frozen=True)
class Identity:
    """Whose token it is; ``name`` is the owner of what it starts."""

    name: str


class Authenticator:
    """Knows the digests of the tokens, never the tokens.

    Args:
        token: the root token.
        refused: told of each call that is refused: ``missing`` or ``unknown`` is its token.
    """

    def __init__(self, token: str, refused: Callable[[str], None] = lambda reason: None) -> None:
        self._root = _digest(token.encode())
        self._refused = refused

    def identify(self, header: str | None, body_token: object) -> Identity:
        """Find out who sent a request.

        Args:
            header: the value of ``Authorization``, as Tornado decodes it (Latin-1), or None.
            body_token: the body's ``token``, None where it has none.

        Raises:
            BadRequest: the body's token is not a string, or the two differ.
            Unauthorized: there is none, or nobody holds it.
        """
        if body_token is not None and not isinstance(body_token, str):
            raise BadRequest("token: expected a string")
        tokens = {
            t for t in (_bearer(header), body_token.encode() if body_token is not None else None) if t is not None
        }
        if len(tokens) > 1:
            raise BadRequest("token: the header and the body hold different ones; send one")
        if not tokens:
            self._refused("missing")
            raise Unauthorized("no token: send 'Authorization: Bearer …', or \"token\" in a JSON body")
        if not hmac.compare_digest(_digest(tokens.pop()), self._root):
            self._refused("unknown")
            raise Unauthorized("nobody holds this token")
        return Identity(ROOT)


def _bearer(header: str | None) -> bytes | None:
    scheme, _, token = (header or "").strip().partition(" ")
    return token.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
