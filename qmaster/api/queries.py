"""Parameters of a query: flags, names, numbers and seconds, checked. Pure."""

from __future__ import annotations

import re

from ..errors import BadRequest
from ..models import requests, units
from ..models.functions import NAME

ON = ("1", "true")
FLAGS = (*ON, "0", "false")
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?")


def flag(name: str, values: list[str] | None) -> bool:
    """Return the value of a boolean query parameter; the default is off.

    Raises:
        BadRequest: it is not one of ``FLAGS``, or it is given twice.
    """
    if values is None:
        return False
    if len(values) != 1 or values[0] not in FLAGS:
        raise BadRequest(f"{name}: expected {', '.join(FLAGS[:-1])} or {FLAGS[-1]}")
    return values[0] in ON


def named_function(query: dict[str, list[str]]) -> str | None:
    """Return the query parameter ``function``; None if it is not given.

    Raises:
        BadRequest: it is no name of a function, or it is given twice.
    """
    values = query.get("function")
    if values is None:
        return None
    if len(values) != 1 or not NAME.fullmatch(values[0]):
        raise BadRequest("function: expected the name of one function")
    return values[0]


def limit(values: list[str] | None, most: int) -> int | None:
    """Return the query parameter ``limit``; see ``whole``."""
    return whole("limit", values, most)


def whole(name: str, values: list[str] | None, most: int) -> int | None:
    """Return a query parameter that is a number; None if it is not given.

    Raises:
        BadRequest: it is no whole number from 1 to ``most``, or it is given twice.
    """
    if values is None:
        return None
    text = values[0]
    if len(values) > 1 or not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise BadRequest(f"{name}: expected a whole number from 1 to {most}")
    return int(text)


def wait_seconds(values: list[str] | None) -> float | None:
    """Return the seconds of the query parameter ``wait``; ``true`` means the same as in a body, None: do not wait.

    Raises:
        BadRequest: it is neither seconds, a duration nor ``true``, or it is given twice.
    """
    if values is None:
        return None
    if values == ["true"]:
        return requests.WAIT
    if len(values) == 1:
        seconds = float(values[0]) if _SECONDS.fullmatch(values[0]) else units.seconds(values[0])
        if seconds is not None and seconds <= requests.MAX_WAIT:
            return seconds
    raise BadRequest(f"wait: expected seconds, at most {requests.MAX_WAIT}, a duration such as 1m30s, or true")
