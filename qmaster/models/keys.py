"""Pure: an ``Idempotency-Key`` as the name that its run has, and a request's body as a digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import BadRequest

NAME_PREFIX = "qm-"
NOT_DIGESTED = frozenset({"token", "auth", "wait"})
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Key(NamedTuple):
    """``name`` is the run's, a hash of (token's name, key); ``body`` the digest of what was asked under it."""

    name: str
    body: str


class Started(NamedTuple):
    """A run's id; ``replayed``: the answer is that of an earlier call; ``warnings``: what it asked for in vain."""

    id: str
    replayed: bool = False
    warnings: tuple[str, ...] = ()


def read(values: Sequence[str], owner: str, document: Mapping[str, Any]) -> Key | None:
    """The key of a request; None where it has none.

    Args:
        values: those of the header ``Idempotency-Key``.
        owner: the name of the token: everyone has keys of their own.
        document: the decoded body.

    Raises:
        BadRequest: there are two keys, it is not one, or the body has a name beside it.
    """
    if not values:
        return None
    if len(values) > 1:
        raise BadRequest("the header Idempotency-Key is there twice")
    if not _KEY.fullmatch(values[0]):
        raise BadRequest("Idempotency-Key: expected 1 to 255 printable ASCII characters without spaces")
    if document.get("name") is not None:
        raise BadRequest("name: a run under an Idempotency-Key is named by it; leave one of the two out")
    hashed = hashlib.sha256(f"{owner}\0{values[0]}".encode()).hexdigest()
    return Key(NAME_PREFIX + hashed[:40], digest(document))


def digest(document: Mapping[str, Any]) -> str:
    """Of a decoded body without ``token``, ``auth`` and ``wait``: the order of its keys does not matter."""
    asked = {name: value for name, value in document.items() if name not in NOT_DIGESTED}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
