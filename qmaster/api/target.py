"""Pure: the target of a request, where it is in absolute form (RFC 9112, 3.2.2), as a proxy's client sends it."""

from __future__ import annotations

import re

_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def split(target: str) -> tuple[str, str] | None:
    """Split ``http://host:port/path?query`` into its authority and the target in origin form; None for another form.

    The authority takes the place of the Host header, which a server must then ignore.
    """
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        return None
    authority, rest = found.groups()
    return authority, rest if rest.startswith("/") else f"/{rest}"
