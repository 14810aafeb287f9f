"""The filters of a listing of runs, and the cursors of its pages. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import TypeVar, get_args

from ..errors import BadRequest
from ..events.rows import Key
from ..models import units
from ..models.images import Pattern, Reference
from ..models.responses import Outcome, Reason, Status
from ..models.validation import quote
from ..runs.listing import ListQuery
from .queries import flag, limit, named_function

T = TypeVar("T")

FILTERS = (
    *("status", "label", "name", "owner", "reason", "outcome", "image", "function"),
    *("since", "until", "limit", "page", "all"),
)
MAX_LIMIT = 10_000
MAX_IMAGES = MAX_PATTERNS = 10  # each is compared with each run, in one turn of the event loop
EVERYTHING = ListQuery()
_PATTERN = re.compile(r"[\w.*-]{1,128}", re.ASCII)  # of names
_MAX_PAGE = 512  # characters of a cursor
_KEY = re.compile(r"([0-9A-Z:.+-]{0,40}) ([\w.-]{1,255})", re.ASCII)
# RFC 3339; the plus of an offset is a space where it was not escaped.
_TIME = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt](?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.(?P<part>[0-9]{1,9}))?(?P<zone>[Zz]|[ +-][0-9]{2}:[0-9]{2}))?"
)


def read_filters(query: dict[str, list[str]]) -> ListQuery:
    """Read the query of a listing.

    Raises:
        BadRequest: a filter is wrong.
    """
    if not query:
        return EVERYTHING
    labels = tuple(label.partition("=") for label in query.get("label", ()))
    if any(not key for key, _, _ in labels):
        raise BadRequest("label: expected key=value, or key")
    return ListQuery(
        statuses=_words("status", query, get_args(Status)),
        names=_names(query),
        labels=labels,
        limit=limit(query.get("limit"), MAX_LIMIT),
        removed=flag("all", query.get("all")),
        function="" if query.get("function") == [""] else named_function(query),
        owners=frozenset(query.get("owner", ())),
        reasons=_words("reason", query, get_args(Reason)),
        outcomes=_words("outcome", query, get_args(Outcome)),
        images=_images(query),
        since=_moment("since", query),
        until=_moment("until", query),
        page=_page(query),
    )


def page_cursor(key: Key) -> str:
    """Return the cursor of the page behind a run, which is opaque to clients."""
    return base64.urlsafe_b64encode(" ".join(key).encode()).decode().rstrip("=")


def _words(name: str, query: dict[str, list[str]], known: tuple[str, ...]) -> frozenset[str]:
    words = frozenset(query.get(name, ()))
    if not words <= set(known):
        raise BadRequest(f"{name}: expected one of {', '.join(known)}")
    return words


def _names(query: dict[str, list[str]]) -> frozenset[str]:
    names = frozenset(query.get("name", ()))
    patterns = [name for name in names if "*" in name]
    if not all(map(_PATTERN.fullmatch, patterns)):
        raise BadRequest("name: expected a name, or a pattern such as web-* of letters, digits, - _ . and *")
    if len(patterns) > MAX_PATTERNS:
        raise BadRequest(f"name: expected at most {MAX_PATTERNS} patterns; got {len(patterns)}")
    return names


def _images(query: dict[str, list[str]]) -> tuple[Pattern, ...]:
    texts = query.get("image", ())
    if len(texts) > MAX_IMAGES:
        raise BadRequest(f"image: expected at most {MAX_IMAGES} of them; got {len(texts)}")
    return tuple(map(_image, texts))


def _image(text: str) -> Pattern:
    """Read an image: a reference, or a pattern as in a token's ``images``."""
    try:
        if "*" in text:
            return Pattern.parse(text)
        image = Reference.parse(text)
    except ValueError as error:
        raise BadRequest(f"image: {str(error).removeprefix('image: ')}; got {quote(text)}") from None
    return Pattern(image.domain, tuple(image.path.split("/")), image.tag, image.digest)


def _moment(name: str, query: dict[str, list[str]]) -> str:
    """Read a time, or how long ago; return it in UTC with nine decimals, so that it sorts. "" if it is not given."""
    values = query.get(name)
    if values is None:
        return ""
    text = values[0] if len(values) == 1 else ""
    found, ago = _TIME.fullmatch(text), units.seconds(text)
    try:
        if ago is not None:
            return _sortable(datetime.now(UTC) - timedelta(seconds=ago))
        if found is not None:
            return _in_utc(**found.groupdict())
    except (ValueError, OverflowError):  # no such day, or none that has a year of four digits
        pass
    raise BadRequest(
        f"{name}: expected a time such as 2026-11-22T20:29:03Z, a day such as 2026-11-22, or how long ago, such as 90m"
    )


def _in_utc(date: str, time: str | None, part: str | None, zone: str | None) -> str:
    offset = "+00:00" if zone in (None, "Z", "z") else (zone or "").replace(" ", "+")
    at = datetime.fromisoformat(f"{date}T{time or '00:00:00'}{offset}").astimezone(UTC)
    return _sortable(at, part or "")


def _sortable(at: datetime, part: str = "") -> str:
    """Return a time as ``listing.moment`` does; ``part``: its fraction, else its microseconds."""
    whole = at.replace(tzinfo=None).isoformat(timespec="seconds")
    return f"{whole}.{part or f'{at.microsecond:06d}':0<9}"


def _page(query: dict[str, list[str]]) -> Key | None:
    values = query.get("page")
    if values is None:
        return None
    found = None
    if len(values) == 1 and len(values[0]) <= _MAX_PAGE:
        try:
            padded = values[0] + "=" * (-len(values[0]) % 4)
            found = _KEY.fullmatch(base64.b64decode(padded, altchars=b"-_", validate=True).decode())
        except (binascii.Error, ValueError):
            pass
    if found is None:
        raise BadRequest("page: expected the next_page of an answer")
    return found[1], found[2]
