"""Logging: events as JSON lines, or as text on a terminal, on stderr; every line without secrets."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, MutableMapping
from itertools import islice
from typing import Any

import structlog

from ..models.credentials import REDACTED

FIRST = ("timestamp", "level", "event")
MOST_CHARACTERS = 256  # of a string in a line, except the keys below
MOST = {"exception": 16_384, **dict.fromkeys(("event", "reason", "error", "advice", "file"), 1024)}
MOST_ITEMS = 1000  # of a list in a line
_SHORT = (int, float, bool, type(None))
_COLUMNS = (*FIRST, "logger")  # of the console
_QUOTED = frozenset(" =\"'")
MADE = re.compile(r"qm_[A-Za-z0-9_-]{43}")  # a token that `qmaster token` made: only its digest is known


class Redactor:
    """Replaces each secret in a rendered line. It is the last step, so no line can have one.

    Only digests of the tokens file's tokens are known; those that ``qmaster token`` made are recognised by their form.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # As it is, and as JSON and the console show it.
        forms = {form for s in secrets if s for form in (s, *(written[1:-1] for written in _written(s)))}
        self._secrets = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return MADE.sub(REDACTED, text)


def _written(secret: str) -> tuple[str, ...]:
    return json.dumps(secret), repr(secret), f"'{_escaped(secret)}'"


def _escaped(text: str) -> str:
    r"""Escape what a terminal could act on or hide, as ``\x1b``: controls, direction marks, line breaks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Bounds:
    """Cuts long values: a caller chooses the length of a name or a path."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in event.items():
            if value.__class__ not in _SHORT:
                event[key] = self._bounded(value, MOST.get(key, MOST_CHARACTERS))
        return event

    def _bounded(self, value: object, most: int) -> object:
        if isinstance(value, dict):
            return {str(key)[:most]: self._bounded(each, most) for key, each in islice(value.items(), MOST_ITEMS)}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._bounded(each, most) for each in islice(value, MOST_ITEMS)]
        if isinstance(value, int | float | None):
            return value
        text = value if isinstance(value, str) else repr(value)
        if len(text) <= most:
            return text
        text = self._redact(text)  # before the cut: half of a secret would not be found
        kept = most // 2
        return text if len(text) <= most else f"{text[: most - kept - 1]}…{text[-kept:]}"


class _Shown:
    """A value as the console shows it: by its ``repr``, quoted unless it is one plain word."""

    def __init__(self, value: object) -> None:
        plain = isinstance(value, str) and value.isprintable() and not _QUOTED.intersection(value)
        self._text = str(value) if plain else repr(value)  # repr escapes what _escaped does

    def __repr__(self) -> str:
        return _escaped(self._text)


def _harmless(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape an event for the console, which writes strings as they are; a traceback is indented, to forge no line."""
    safe: dict[str, Any] = {}
    for key, value in event.items():
        if key == "exception":
            safe[key] = "\n".join(f"    {_escaped(line)}" for line in str(value).split("\n"))
        elif key in _COLUMNS:
            safe[key] = _escaped(str(value))
        else:
            safe[_escaped(key)] = _Shown(value)
    return safe


def _ordered(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the keys of ``FIRST`` in front."""
    return {**dict.fromkeys(FIRST), **event}


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def __init__(self, redact: Redactor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


def configure(log_format: str, secrets: Iterable[str] = ()) -> None:
    """Set up structlog and the standard library's logging to write one line per event to stderr.

    Args:
        log_format: ``json`` or ``console``.
        secrets: strings that no line may show.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    redact = Redactor(secrets)
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    render: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        # The plain traceback: the structured one shows locals, and a local may be a secret.
        structlog.processors.format_exc_info,
        _Bounds(redact),
        *([_ordered, structlog.processors.JSONRenderer()] if log_format == "json" else [_harmless, console]),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(redact, foreign_pre_chain=shared, processors=render))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.raiseExceptions = False  # standard error may be closed
    # Tornado logs input that it cannot parse, and that may hold a token.
    for noisy in ("urllib3", "docker", "asyncio", "tornado.general"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
