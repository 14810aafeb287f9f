"""Logging: structlog's events as JSON lines (or for a terminal) on stderr, with secrets taken out of every line."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Iterable, MutableMapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
import structlog

from ..models.credentials import REDACTED

FIRST = ("timestamp", "level", "event")
MOST_CHARACTERS = 256  # of a string in a line, but for those below
MOST = {"exception": 16_384, **dict.fromkeys(("event", "reason", "error", "advice", "file"), 1024)}
MOST_ITEMS = 1000  # of a list in a line
_SHORT = (int, float, bool, type(None))
_COLUMNS = (*FIRST, "logger")  # of the console
_QUOTED = frozenset(" =\"'")
MADE = re.compile(r"qm_[A-Za-z0-9_-]{43}")  # a token that the command ``token`` has made: only its digest is known


class Redactor:
    """Replaces each secret in a rendered line: the last step, so that no path to the log can carry one.

    Of the tokens file's tokens only digests are known; those that the command ``token`` made are known by their form.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # As it is, and as JSON and the console write it.
        forms = {form for s in secrets if s for form in (s, *(written[1:-1] for written in _written(s)))}
        self._secrets = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return MADE.sub(REDACTED, text)


def _written(secret: str) -> tuple[str, ...]:
    escaped = _json_escaped(json.dumps(secret, ensure_ascii=False))
    return json.dumps(secret), escaped, repr(secret), f"'{_escaped(secret)}'"


def _escaped(text: str) -> str:
    r"""What a terminal could act on, or shows nothing of, as ``\x1b``: controls, marks of direction, line breaks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _json_escaped(line: str) -> str:
    """The same JSON without them: encoders leave those beyond ASCII as they are."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


class _Bounds:
    """Cuts what is longer than a line needs: most of what a caller may make long is a name or a path."""

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
        text = self._redact(text)  # first: half of a secret would not be found
        kept = most // 2
        return text if len(text) <= most else f"{text[: most - kept - 1]}…{text[-kept:]}"


class _Shown:
    """A value of the console, which shows what is no string by its ``repr``: quoted where it is not one plain word."""

    def __init__(self, value: object) -> None:
        plain = isinstance(value, str) and value.isprintable() and not _QUOTED.intersection(value)
        self._text = str(value) if plain else repr(value)  # repr escapes what _escaped does

    def __repr__(self) -> str:
        return _escaped(self._text)


def _harmless(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For the console, which shows strings as they are. A traceback is indented, so that it forges no line."""
    safe: dict[str, Any] = {}
    for key, value in event.items():
        if key == "exception":
            safe[key] = "\n".join(f"    {_escaped(line)}" for line in str(value).split("\n"))
        elif key in _COLUMNS:
            safe[key] = _escaped(str(value))
        else:
            safe[_escaped(key)] = _Shown(value)
    return safe


class _Lines:
    """The logger under structlog's: it writes what is rendered already, as the standard library would take long to."""

    def __init__(self, redact: Redactor, lock: threading.Lock, name: str) -> None:
        self.name = name
        self._redact = redact
        self._lock = lock

    def _write(self, line: str) -> None:
        text = self._redact(line) + "\n"
        with self._lock, contextlib.suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            sys.stderr.buffer.write(text.encode("utf-8", "backslashreplace"))
            sys.stderr.buffer.flush()

    debug = info = warning = error = critical = exception = _write


class _Formatter(structlog.stdlib.ProcessorFormatter):
    def __init__(self, redact: Redactor, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


def configure(log_format: str, secrets: Iterable[str] = ()) -> None:
    """Set up structlog and the standard library's logging to write one line an event to stderr.

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
    redact, lock = Redactor(secrets), threading.Lock()
    bounds = _Bounds(redact)
    plain = structlog.dev.plain_traceback
    render: list[Any] = [
        # The plain traceback: the structured one would show locals, and a local may be a secret.
        structlog.processors.format_exc_info,
        bounds,
        *(
            [structlog.processors.JSONRenderer(serializer=_ordered)]
            if log_format == "json"
            else [_harmless, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
        ),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter(
            redact,
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    # Tornado shows what it could not read, and that may hold a token.
    for noisy in ("urllib3", "docker", "asyncio", "tornado.general"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    structlog.configure(
        processors=[_line, bounds, _rendered] if log_format == "json" else [*shared, *render],
        logger_factory=lambda *names: _Lines(redact, lock, *names),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )


def _line(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """All of the steps for the standard library's lines in one: there is a line for each request."""
    line: MutableMapping[str, Any] = {
        "timestamp": _now(),
        "level": method,
        "event": event.pop("event"),
        **structlog.contextvars.get_contextvars(),
        "logger": logger.name,
        **event,
    }
    if "exc_info" in line:
        line = structlog.processors.format_exc_info(logger, method, line)
    return line


def _rendered(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    return _json(event)


def _now() -> str:
    microseconds = time.time_ns() // 1000
    return f"{_second(microseconds // 1_000_000)}.{microseconds % 1_000_000:06}Z"


@functools.lru_cache(maxsize=1)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _json(event: MutableMapping[str, Any], default: Any = repr) -> str:
    try:
        return _json_escaped(msgspec.json.encode(event, enc_hook=default).decode())
    except (TypeError, ValueError):  # half of a surrogate pair, for instance
        return json.dumps(event, default=default)


def _ordered(event: dict[str, Any], default: Any) -> str:
    return _json(dict.fromkeys(FIRST) | event, default)  # they are in every event, and what is read first comes first
