"""log: one line an event, on stderr, and no secret in any of them."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from qmaster import log

SECRET = "the 'secret' of ключ"


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """Logging is the process's: leave it as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    noisy = {name: logging.getLogger(name).level for name in ("urllib3", "docker", "paramiko", "asyncio")}
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in noisy.items():
        logging.getLogger(name).setLevel(was)


def lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_an_event_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With its keys, level, logger and time in UTC."""
    log.configure("json")
    structlog.get_logger("qmaster.test").info("started", port=9090)
    (line,) = lines(capsys)
    assert (line["event"], line["port"], line["level"], line["logger"]) == ("started", 9090, "info", "qmaster.test")
    assert line["timestamp"].endswith("Z")


def test_a_line_begins_with_what_is_read_first(capsys: pytest.CaptureFixture[str]) -> None:
    """When, how bad, and what; of the standard library's lines too."""
    log.configure("json")
    structlog.get_logger("a").info("one", port=9090)
    logging.getLogger("b").warning("two")
    assert [list(line)[:3] for line in lines(capsys)] == [["timestamp", "level", "event"]] * 2


def test_what_is_bound_once_is_in_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The request's id reaches structlog's lines and those of the standard library."""
    log.configure("json")
    structlog.contextvars.bind_contextvars(request="r-1")
    structlog.get_logger("a").info("one")
    logging.getLogger("b").warning("two %s", "words")
    assert [(line["event"], line["request"]) for line in lines(capsys)] == [("one", "r-1"), ("two words", "r-1")]


def test_a_name_in_the_log_may_hold_line_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    """What a caller sent cannot begin a line of its own."""
    log.configure("json")
    structlog.get_logger("a").info("run", name='x\n{"event": "forged"}\r\n')
    assert [line["event"] for line in lines(capsys)] == ["run"]


def _event() -> None:
    structlog.get_logger("a").info(SECRET)


def _key() -> None:
    structlog.get_logger("a").info("event", document={"deep": [SECRET]})


def _bound() -> None:
    structlog.contextvars.bind_contextvars(request=SECRET)
    structlog.get_logger("a").info("event")


def _standard() -> None:
    logging.getLogger("b").warning("it is %s", SECRET)


def _traceback() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        structlog.get_logger("a").error("failed", exc_info=True)


def _local() -> None:
    secret = SECRET
    try:
        raise ValueError(len(secret))
    except ValueError:
        structlog.get_logger("a").exception("failed")


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("way", [_event, _key, _bound, _standard, _traceback, _local])
def test_no_way_to_the_log_carries_a_secret(way: Any, log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As an event, in a key, bound, by the standard library, in an error and as a local of its frames."""
    log.configure(log_format, [SECRET])
    way()
    written = capsys.readouterr().err
    assert written.strip()
    for form in (SECRET, json.dumps(SECRET)[1:-1], "ключ"):
        assert form not in written


@pytest.mark.parametrize("secret", ['a "quoted" \\ one', "ключ", "tab\there"])
def test_a_secret_that_json_escapes_is_found(secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON writes quotes, backslashes and other alphabets in another form."""
    log.configure("json", [secret])
    structlog.get_logger("a").info("event", key=secret)
    assert [line["key"] for line in lines(capsys)] == [log.REDACTED]


def test_the_longer_secret_goes_first() -> None:
    """Where one secret holds another, nothing of the longer one stays."""
    assert log.Redactor(["abc", "abcdef"])("x abcdef y") == f"x {log.REDACTED} y"


def test_an_empty_secret_changes_nothing() -> None:
    """Else every letter would be followed by the mark."""
    assert log.Redactor([""])("as it was") == "as it was"


def test_libraries_that_say_too_much_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """The engine's client logs URLs and retries; its warnings are handled as errors of ours.

    Tornado logs what it cannot read, which may be a token.
    """
    log.configure("json")
    logging.getLogger("urllib3.connectionpool").warning("retrying")
    logging.getLogger("docker.api").info("trying paths")
    logging.getLogger("tornado.general").info("Malformed HTTP message: Invalid header value 'Bearer of a token\\0'")
    assert lines(capsys) == []
