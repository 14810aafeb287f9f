"""What commands read: the variables of ``--env`` and of files, and standard input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ConfigError

BOM = "\ufeff"  # the byte order mark that some editors write


def is_utf8(text: str) -> bool:
    """Return whether an argument was UTF-8; Python turns other bytes into surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def environment(given: Sequence[str], files: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ``--env`` and of the files of ``--env-file``; the later one wins, and ``--env`` most.

    Args:
        given: ``NAME=value``, or ``NAME`` with the value of the command's own environment.
        files: the files.
        environ: the command's own environment.

    Raises:
        ConfigError: a variable is not set here, or is not UTF-8; or a file cannot be read.
    """
    found: dict[str, str] = {}
    for file in files:
        found |= _variables_of(file, environ)
    for text in given:
        name, equals, value = text.partition("=")
        if not equals and name not in environ:
            raise ConfigError(f"--env: {name} is not set in this environment; use {name}=value")
        found[name] = value if equals else environ[name]
        if not is_utf8(found[name]):
            raise ConfigError(f"--env: the value of {name} is not UTF-8")
    return found


def _variables_of(file: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a file, read as docker reads it.

    Values are taken as they are, quotes included. Lines that are empty or begin with # are skipped. A name alone has
    the value of the command's own environment, if it is set there.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.lstrip().partition("=")
        if not name or any(character.isspace() for character in name):
            raise ConfigError(f"--env-file: {file}: line {number}: expected NAME=value; got the name {name!r}")
        if equals or name in environ:
            found[name] = value if equals else environ[name]
        if name in found and not is_utf8(found[name]):
            raise ConfigError(f"--env-file: {file}: line {number}: the value of {name} is not UTF-8")
    return found


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").removeprefix(BOM)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"--env-file: cannot read {file}: {why}") from None
