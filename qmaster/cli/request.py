"""The body of ``POST /run`` from what the command line was told; what it may hold is the server's to judge."""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError

Json = dict[str, Any]
EMPTY: tuple[Any, ...] = (None, (), [], "")
CLEARED = ("entrypoint", "")  # switches the image's own off
BOM = "\ufeff"  # the byte order mark that some editors write first


def body(image: str, command: Sequence[str], options: Mapping[str, Any], environ: Mapping[str, str]) -> Json:
    """
    Args:
        options: by the field's name; None, an empty list or "" where it was not given, but for ``entrypoint``.
        environ: where ``--env NAME`` and credentials come from.

    Raises:
        ConfigError: an option is wrong.
    """
    given = {field: value for field, value in options.items() if value not in EMPTY or (field, value) == CLEARED}
    auth = credentials(given.pop("auth_file", None), environ)
    return {
        "image": image,
        **({"command": list(command)} if command else {}),
        **{field: list(value) if isinstance(value, tuple) else value for field, value in given.items()},
        **({"env": variables(given["env"], environ)} if "env" in given else {}),
        **({"labels": dict(_pair("--label", text) for text in given["labels"])} if "labels" in given else {}),
        **({"auth": auth} if auth else {}),
    }


def variables(given: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """``NAME=value``, or ``NAME`` alone: the value of our own environment, which no list of processes shows."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals and name not in environ:
            raise ConfigError(f"--env: {name} is not set here; say {name}=value")
        found[name] = value if equals else environ[name]
        if not is_utf8(found[name]):
            raise ConfigError(f"--env: the value of {name} is not UTF-8")
    return found


def is_utf8(text: str) -> bool:
    """Whether it came as UTF-8; of other bytes Python makes surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def credentials(file: str | None, environ: Mapping[str, str]) -> str | None:
    """What goes into ``auth``: from a file ("-": standard input) or QMASTER_AUTH, as JSON or as base64 of it."""
    if file is None:
        text = environ.get("QMASTER_AUTH", "")
    else:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--auth-file: cannot read it: {getattr(error, 'strerror', error)}") from None
        if not text.strip():
            raise ConfigError("--auth-file: it is empty")
    text = text.removeprefix(BOM).strip()
    if not is_utf8(text):
        raise ConfigError(f"{'QMASTER_AUTH' if file is None else '--auth-file'}: it is not UTF-8")
    return base64.b64encode(text.encode()).decode() if text.startswith("{") else text or None


def _pair(flag: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{flag}: expected key=value, not {text!r}")
    return key, value
