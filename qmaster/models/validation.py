"""Errors of invalid requests: msgspec's errors in JSON's terms, with hints. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .units import UNITS, Unit, amount
from .words import ANSWERS, EXAMPLES, VALUES

MAX_TOKEN = 4096  # bytes
LONGEST = 64  # characters of a quoted name, and of a word that is looked up
MAX_BITS = 64  # of an integer that is shown
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
_EXPECTED = re.compile(r"Expected `(?P<kinds>[^`]+)`(?: (?P<rest>.*?))?(?:, got `(?P<got>\w+)`)?", re.DOTALL)
_BOUNDED = re.compile(r"(at (?:least|most) )([0-9.]+)")
_NUMBER = re.compile(r"\b(a number|an integer)(?: or a string)?")
_AT = re.compile(r" - at `(?:key in )?\$\.?([a-z0-9_.\[\]]*)`\Z")  # a field's place; the caller's text may be before it
_PARTS = re.compile(r"[a-z][a-z0-9_]*")
_BOUND = re.compile(r"(?P<length>of length )?(?P<sign>[<>]=) (?P<number>[0-9.]+)")
TYPO = 0.85  # the least similarity of a typing mistake to a known word; that of gpus and cpus is 0.75


def quote(text: str, limit: int = LONGEST) -> str:
    """Return a name that the caller sent, cut and made printable, in quotes."""
    shown = text if len(text) <= limit else text[:limit] + "…"
    return "'" + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown) + "'"


def explain(
    message: str,
    document: Mapping[str, Any],
    to: type,
    patterns: Mapping[str, str],
    instead: Callable[[str], str | None] = lambda word: None,
) -> str:
    """Reword ``Expected `int`, got `str` - at `$.memory``` as ``memory: expected an integer (MiB), got a string``.

    Args:
        message: msgspec's error.
        document: the invalid document.
        to: the struct that it was converted to.
        patterns: each pattern of ``to`` → its words.
        instead: returns what to use instead of another tool's word; None for an unknown word.
    """
    text, path = _placed(message)
    parts = _PARTS.findall(path)
    field = parts[0] if parts else ""
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL)
    if unknown:
        other = None if path else instead(unknown[1])
        return f"{path}{path and ': '}unknown field {quote(unknown[1])}{_meant(unknown[1], _struct(to, parts), other)}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", text)
    if missing:
        return f"{path}.{missing[1]}: is required" if path else f"{missing[1]}: is required"
    if text.startswith("Invalid enum value"):
        text = _one_of(get_type_hints(_struct(to, parts[:-1])).get(parts[-1]))
        text += value_instead(field, document.get(field))
    else:
        text = _expected(text, patterns)
    if path in document:
        text = _with_value(_with_unit(text, UNITS[path]) if path in UNITS else text, document[path])
    if field in EXAMPLES and ", got " in text:
        text += f"; {EXAMPLES[field]}"
    return f"{_place(path, field, document)}: {text}" if path else text


def squeezed(word: str) -> str:
    """Return a word as ``words.ANSWERS`` has it: ``working_dir``, ``workingDir`` and ``--working-dir`` are the same."""
    return word.lower().replace("-", "").replace("_", "")


def answer(word: str, names: Mapping[str, str]) -> str | None:
    """Return what to use instead of another tool's word, as far as there are such fields; None for other words.

    Args:
        word: the word.
        names: each field of a run, or of a function, → its name here.
    """
    found = ANSWERS.get(squeezed(word)) if len(word) <= LONGEST else None
    if found is None:
        return None
    try:
        return found.format_map(names)
    except KeyError:  # a function has fewer fields than a run
        return "not supported for a function"


def value_instead(field: str | None, value: Any) -> str:
    """Return what to use instead of another tool's value, to stand behind an error; "" for other values."""
    found = VALUES.get(field or "", {}).get(squeezed(value[:LONGEST])) if isinstance(value, str) else None
    return f"; use {found} instead of {quote(value)}" if found else ""


def meant(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that differs only in case, separators or a typing mistake; else None.

    Never a word with another meaning: ``gpus`` is not ``cpus``.
    """
    if len(word) > LONGEST:
        return None
    by_squeezed = {squeezed(each): each for each in known}
    typed = squeezed(word)
    swapped = [each for each in by_squeezed if sorted(each) == sorted(typed)]
    near = swapped or difflib.get_close_matches(typed, by_squeezed, 1, TYPO)
    return by_squeezed[near[0]] if near else None


def _placed(message: str) -> tuple[str, str]:
    """Split a message into what is wrong and the path, "" if it has none."""
    found = _AT.search(message)
    return (message[: found.start()], found[1]) if found else (message, "")


def _struct(to: type, parts: Sequence[str]) -> type:
    """Return the struct at a path of fields below ``to``."""
    for part in parts:
        inner = [each for each in _inner(get_type_hints(to).get(part)) if hasattr(each, "__struct_fields__")]
        to = inner[0] if inner else to
    return to


def _inner(hint: Any) -> Iterator[Any]:
    yield hint
    for each in () if get_origin(hint) is Literal else get_args(hint):
        yield from _inner(each)


def _meant(field: str, to: Any, answer: str | None) -> str:
    if answer is not None:
        return f": {answer}"
    known: tuple[str, ...] = to.__struct_fields__
    near = meant(field, known)
    return f": did you mean {near}?" if near else f"; known: {', '.join(known)}"


def _one_of(hint: Any) -> str:
    """Return what a field with a literal in its type expects."""
    kinds = list(_inner(hint))
    words = [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    number = "a number, or " if float in kinds else "an integer, or " if int in kinds else ""
    return f"expected {number}{'one of ' if len(words) > 1 else ''}{', '.join(words)}"


def _place(path: str, field: str, document: Mapping[str, Any]) -> str:
    """Name the invalid value of an object, which msgspec leaves out; all objects of a request have string values."""
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


def _with_unit(text: str, unit: Unit) -> str:
    """Say the unit behind the bound; without one behind the type, with what else is taken."""
    if _BOUNDED.search(text):
        return _BOUNDED.sub(lambda found: found[1] + amount(found[2], unit), text)
    other = f" or {unit.example}" if unit.example else ""
    return _NUMBER.sub(lambda found: f"{found[1]} ({unit.name}){other}", text, count=1)


def _with_value(text: str, value: Any) -> str:
    """Say the value where a number is expected; that of another field may be secret."""
    expected = text.partition(", got ")[0]
    if not _NUMBER.search(expected) or isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return text
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return text
    shown = quote(value) if isinstance(value, str) else str(value).removesuffix(".0")
    return f"{expected}, got {shown}"


def _name(kind: str) -> str:
    return NAMES.get(kind, kind)


def _bounded(kind: str, rest: str) -> str:
    """Return ``>= 6`` as ``of at least 6``; for a length, with what is counted."""
    found = _BOUND.fullmatch(rest)
    if not found:
        return f" {rest}" if rest else ""
    number = found["number"].removesuffix(".0")
    counted = COUNTED[kind] + ("" if number == "1" else "s") if found["length"] else ""
    return f" of {BOUNDS[found['sign']]} {number} {counted}".rstrip()
