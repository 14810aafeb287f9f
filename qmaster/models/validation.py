"""Pure: what msgspec has against a document, in the words of JSON, with examples in place of patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .synonyms import meant

LONGEST = 64  # characters of what is said back
NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
    "datetime": "a date and time",
    "date": "a date",
    "time": "a time",
}
COUNTED = {"str": "character", "array": "item"}
BOUNDS = {">=": "at least", "<=": "at most"}
# Told where something else than a number is sent: "64m" and "30s" come with the habits of other tools.
UNITS = {"memory": "MiB", "cpus": "cores", "timeout": "seconds", "ttl": "seconds", "wait": "seconds"}
_EXPECTED = re.compile(r"Expected `(?P<kinds>[^`]+)`(?: (?P<rest>.*?))?(?:, got `(?P<got>\w+)`)?", re.DOTALL)
_BOUND = re.compile(r"(?P<length>of length )?(?P<sign>[<>]=) (?P<number>[0-9.]+)")


def quote(text: str, limit: int = LONGEST) -> str:
    """A name that the caller sent, short and printable enough to say back."""
    shown = text if len(text) <= limit else text[:limit] + "…"
    return "'" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown) + "'"


def explain(
    message: str,
    document: Mapping[str, Any],
    to: type,
    patterns: Mapping[str, str],
    instead: Callable[[str], str | None] = lambda word: None,
) -> str:
    """msgspec's ``Expected `int`, got `str` - at `$.memory``` as ``memory: expected an integer (MiB), got a string``.

    Args:
        document: what it is said of.
        to: the struct that it was held against.
        patterns: each pattern of ``to`` → what to write instead.
        instead: what to use in place of another tool's word; None where it is nobody's.
    """
    unknown = re.match(r"Object contains unknown field `(.*)`", message, re.DOTALL)
    if unknown:
        return f"unknown field {quote(unknown[1])}{_meant(unknown[1], to, instead(unknown[1]))}"
    missing = re.match(r"Object missing required field `(.*)`", message)
    if missing:
        return f"{missing[1]}: is required"
    text, path = _placed(message)
    field = re.split(r"[.\[]", path, maxsplit=1)[0]
    if text.startswith("Invalid enum value"):
        hint = get_type_hints(to)[field]
        number = "a number, or " if float in get_args(hint) else ""
        text = f"expected {number}one of {', '.join(_choices(hint))}"
    else:
        text = _expected(text, patterns)
    if path in UNITS and (", got " in text or ", or one of " in text):
        text = re.sub("a number|an integer", rf"\g<0> ({UNITS[path]})", text, count=1)
    return f"{_place(path, field, document)}: {text}" if path else text


def _placed(message: str) -> tuple[str, str]:
    """What is wrong, and the path of it, "" where none is said; what the caller sent may stand before it."""
    text, at, path = message.rpartition(" - at `")
    if not at or not path.endswith("`"):
        return message, ""
    return text, path[:-1].removeprefix("key in ").removeprefix("$").removeprefix(".")


def _meant(field: str, to: Any, answer: str | None) -> str:
    if answer is not None:
        return f": {answer}"
    known: tuple[str, ...] = to.__struct_fields__
    near = meant(field, known)
    return f": did you mean {near}?" if near else f"; known: {', '.join(known)}"


def _choices(hint: Any) -> Iterator[str]:
    """The values of a literal, also where it is inside of another type."""
    for inner in get_args(hint):
        if get_origin(hint) is Literal:
            yield str(inner)
        else:
            yield from _choices(inner)


def _place(path: str, field: str, document: Mapping[str, Any]) -> str:
    """msgspec leaves out which of an object's values is wrong; in every object of a request they are strings."""
    values = document.get(field)
    if path == f"{field}[...]" and isinstance(values, dict):
        return next((f"{field}[{quote(key)}]" for key, value in values.items() if not isinstance(value, str)), field)
    return path


def _expected(text: str, patterns: Mapping[str, str]) -> str:
    found = _EXPECTED.fullmatch(text)
    if not found:
        return text
    kinds = [kind for kind in found["kinds"].split(" | ") if kind != "null"] or ["null"]
    rest = found["rest"] or ""
    if rest.startswith("matching regex "):
        by_shown = {repr(pattern): words for pattern, words in patterns.items()}
        return f"expected {by_shown[rest.removeprefix('matching regex ')]}"
    got = f", got {_name(found['got'])}" if found["got"] else ""
    return f"expected {' or '.join(map(_name, kinds))}{_bounded(kinds[0], rest)}{got}"


def _name(kind: str) -> str:
    return NAMES.get(kind, kind)


def _bounded(kind: str, rest: str) -> str:
    """``>= 6`` as ``of at least 6``; of a length it says what is counted."""
    found = _BOUND.fullmatch(rest)
    if not found:
        return f" {rest}" if rest else ""
    number = found["number"].removesuffix(".0")
    counted = COUNTED[kind] + ("" if number == "1" else "s") if found["length"] else ""
    return f" of {BOUNDS[found['sign']]} {number} {counted}".rstrip()
