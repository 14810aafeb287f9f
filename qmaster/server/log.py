"""Logging: events as JSON lines, or as text on a terminal, on stderr; every line without secrets."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, MutableMapping
from itertools import islice
from typing import Any, TextIO

import msgspec
import structlog

from ..models.credentials import REDACTED

FIRST = ("timestamp", "level", "event")
MOST_CHARACTERS = 256  # of a string in a line, except the keys below
MOST = {"exception": 16_384, **dict.fromkeys(("event", "reason", "error", "advice", "file"), 1024)}
MOST_ITEMS = 1000  # of a list in a line
_SHORT = (int, float, bool, type(None))
_COLUMNS = (*FIRST, "logger")  # of the console
DELETE = b"\x7f"
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
            kind = value.__class__
            if kind not in _SHORT and not (kind is str and len(value) <= MOST_CHARACTERS):
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


def _as_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    """Encode an event. ``msgspec`` is faster, but does not escape what a terminal could act on, as ``json`` does."""
    try:
        line = msgspec.json.encode(event)
    except (TypeError, ValueError, OverflowError):  # such as half a surrogate pair
        return json.dumps(event, separators=(",", ":"))
    return line.decode() if line.isascii() and DELETE not in line else json.dumps(event, separators=(",", ":"))


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def __init__(self, redact: Redactor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class _Stream:
    """Standard error, for any thread: one line at a time. If it cannot be written, lines are lost, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        with self._lock:
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # full, broken or closed
                pass

    def flush(self) -> None:
        """Do nothing, as ``write`` has done it."""


class _Logger:
    """The end of structlog's chain: writes a rendered line."""

    def __init__(self, name: str, stream: _Stream) -> None:
        self.name = name
        self._stream = stream

    def info(self, line: str) -> None:
        self._stream.write(line + "\n")

    debug = warning = error = critical = info


def configure(log_format: str, secrets: Iterable[str] = ()) -> None:
    """Set up structlog and the standard library's logging to write one line per event to stderr.

    Args:
        log_format: ``json`` or ``console``.
        secrets: strings that no line may show.
    """
    redact, stream = Redactor(secrets), _Stream(sys.stderr)
    made: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    render: list[Any] = [
        # The plain traceback: the structured one shows locals, and a local may be a secret.
        structlog.processors.format_exc_info,
        _Bounds(redact),
        *([_ordered, _as_json] if log_format == "json" else [_harmless, console]),
    ]

    def redacted(logger: Any, method: str, line: Any) -> str:
        return redact(line)

    structlog.configure(
        processors=[*made, *render, redacted],
        logger_factory=lambda name="": _Logger(name, stream),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    _configure_standard(stream, redact, made, render)


def _configure_standard(stream: _Stream, redact: Redactor, made: list[Any], render: list[Any]) -> None:
    """Set up the standard library's logging. Our own lines do not pass it, as that doubles what a line costs."""
    handler = logging.StreamHandler(stream)
    render = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render]
    handler.setFormatter(_Formatter(redact, foreign_pre_chain=made, processors=render))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.raiseExceptions = False  # standard error may be closed
    # Tornado logs input that it cannot parse, and that may hold a token.
    for noisy in ("urllib3", "docker", "asyncio", "tornado.general"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
