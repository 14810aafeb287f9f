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
from typing import Any

import msgspec
import structlog

FIRST = ("timestamp", "level", "event")
REDACTED = "[redacted]"
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
    return json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret)


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
    render: list[Any] = (
        # The plain traceback: the structured one would show locals, and a local may be a secret.
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_ordered)]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    redact, lock = Redactor(secrets), threading.Lock()
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
    for noisy in ("urllib3", "docker", "paramiko", "asyncio", "tornado.general"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    structlog.configure(
        processors=[_line] if log_format == "json" else [*shared, *render],
        logger_factory=lambda *names: _Lines(redact, lock, *names),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )


def _line(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
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
    return _json(line)


def _now() -> str:
    microseconds = time.time_ns() // 1000
    return f"{_second(microseconds // 1_000_000)}.{microseconds % 1_000_000:06}Z"


@functools.lru_cache(maxsize=1)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _json(event: MutableMapping[str, Any], default: Any = repr) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=default).decode()
    except (TypeError, ValueError):  # half of a surrogate pair, for instance
        return json.dumps(event, default=default)


def _ordered(event: dict[str, Any], default: Any) -> str:
    return _json(dict.fromkeys(FIRST) | event, default)  # they are in every event, and what is read first comes first
