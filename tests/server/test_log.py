"""log: one line an event, on stderr, and no secret in any of them."""

import asyncio
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from server_cases import TOKEN, Caller, serving

from qmaster.api.routes import AppState, make_app
from qmaster.auth.authenticator import EACH_BURST, Authenticator, LineLimit
from qmaster.errors import NotFound
from qmaster.models.credentials import REDACTED
from qmaster.server import log

SECRET = "the 'secret' of ключ"


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """Logging is the process's: leave it as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configured = structlog.get_config()
    noisy = {name: logging.getLogger(name).level for name in ("urllib3", "docker", "asyncio")}
    yield
    structlog.configure(**configured)
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


def test_a_line_has_its_context_and_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """The context, what is bound, and the keys of the call, which win; its logger is the last."""
    log.configure("json")
    structlog.contextvars.bind_contextvars(request="r-1")
    structlog.get_logger("a").bind(of="all").warning("one of %s", "two", z=1, request="r-2", b=None)
    (line,) = lines(capsys)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert list(line)[-1] == "logger"
    del line["timestamp"]
    assert line == {
        "level": "warning",
        "event": "one of two",
        "request": "r-2",
        "of": "all",
        "z": 1,
        "b": None,
        "logger": "a",
    }


@pytest.mark.parametrize("level", ["info", "warning", "error", "critical", "exception"])
def test_a_line_has_its_level(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is less is not written; an exception is an error."""
    log.configure("json")
    getattr(structlog.get_logger("a"), level)("one")
    structlog.get_logger("a").debug("two")
    assert [line["level"] for line in lines(capsys)] == ["error" if level == "exception" else level]


def _raised() -> ValueError:
    try:
        raise ValueError("of that")
    except ValueError as error:
        return error


@pytest.mark.parametrize("given", [lambda error: error, lambda error: (type(error), error, error.__traceback__)])
def test_an_error_is_in_its_line(given: Callable[[ValueError], object], capsys: pytest.CaptureFixture[str]) -> None:
    """With its traceback, under one name."""
    log.configure("json")
    structlog.get_logger("a").error("failed", exc_info=given(_raised()), of="all")
    (line,) = lines(capsys)
    assert list(line)[-1] == "exception"
    assert line["of"] == "all"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith('in _raised\n    raise ValueError("of that")\nValueError: of that')


def test_an_error_that_is_being_handled_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """And where there is none the line is as any other."""
    log.configure("json")
    logger = structlog.get_logger("a")
    try:
        raise ValueError("of that")
    except ValueError:
        logger.exception("one")
        logger.error("two", exc_info=True)
        logger.error("three")
    logger.error("four", exc_info=None)
    assert ["exception" in line for line in lines(capsys)] == [True, True, False, False]


def test_what_is_no_text_is_written_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of a surrogate pair, as a file's name may have."""
    log.configure("json")
    structlog.get_logger("a").info("named \udc80", path="ü \ud83d", **{"key \udfff": 1})
    logging.getLogger("b").warning("named %s", "\udc80")
    first, second = lines(capsys)
    assert (first["event"], first["path"], first["key \udfff"]) == ("named \udc80", "ü \ud83d", 1)
    assert list(first)[:3] == ["timestamp", "level", "event"]
    assert second["event"] == "named \udc80"


def test_a_terminal_that_knows_few_letters_ends_no_line(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it shows is UTF-8, and what that has no form for is written out."""
    log.configure("console")
    few = TextIOWrapper(sys.stderr.buffer, "ascii", "strict")
    monkeypatch.setattr(sys, "stderr", few)
    structlog.get_logger("a").info("named ü \udc80")
    few.detach()
    assert b"named \xc3\xbc \\udc80" in capsysbinary.readouterr().err


def test_what_json_has_no_word_for_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """As Python shows it; beside text that no encoder takes too."""
    log.configure("json")
    for text in ("", "\udc80"):
        structlog.get_logger("a").info("one", what=ValueError("x"), of=[1, {"a": slice(2)}], text=text)
    logging.getLogger("b").warning("two %s", ValueError("x"))
    *ours, theirs = lines(capsys)
    assert [(line["what"], line["of"]) for line in ours] == [
        ("ValueError('x')", [1, {"a": "slice(None, 2, None)"}])
    ] * 2
    assert theirs["event"] == "two x"


class Talker:
    """A dispatch that says what it does, and begins something that goes on."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("talker")
        self._asked = asyncio.Event()
        self.begun = [asyncio.create_task(self._go_on("nobody"))]

    async def status(self, name: str, by: object) -> Any:
        self.begun.append(asyncio.create_task(self._go_on(name)))
        for _ in range(3):
            self._asked.set()
            self._log.info("answers", of=name)
            await asyncio.sleep(0)
        raise NotFound(name)

    async def _go_on(self, name: str) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._log.info("goes_on", of=name)


def ask(name: str) -> bytes:
    fields = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\nX-Request-ID: {name}\r\n"
    return f"GET /status/{name} HTTP/1.1\r\n{fields}\r\n".encode()


@pytest.mark.gen_test
async def test_no_line_carries_the_id_of_another_request(capsys: pytest.CaptureFixture[str]) -> None:
    """Of several at once, on connections that are kept, one by one and in a row; nor does what goes on behind them."""
    log.configure("json")
    structlog.configure(cache_logger_on_first_use=False)  # else the loggers of the handlers would keep this
    talker = Talker()
    parts: dict[str, Any] = dict.fromkeys(("starter", "listing", "event_stream", "broker", "log_reader", "scrape"))
    application = make_app(AppState(Authenticator(TOKEN), trouble=lambda: None, **{**parts, "run_service": talker}))

    async def talk(caller: Caller, name: str) -> None:
        for number in range(5):
            caller.say(ask(f"{name}-{number}"))
            await caller.reader.readuntil(b"}\n")
        caller.say(b"".join(ask(f"{name}-{number}") for number in range(5, 10)))
        for _ in range(5):
            await caller.reader.readuntil(b"}\n")

    structlog.contextvars.bind_contextvars(request="of who began to listen")
    async with serving(application) as made:
        names = ["a", "b", "c"]
        callers = [await made.call() for _ in names]
        await asyncio.gather(*(talk(caller, name) for caller, name in zip(callers, names, strict=True)))
        for task in talker.begun:
            task.cancel()
        await asyncio.gather(*talker.begun, return_exceptions=True)
    said = lines(capsys)
    asked = {f"{name}-{number}" for name in names for number in range(10)}
    for event, of in (("answers", asked), ("goes_on", {*asked, "nobody"})):
        told = [(line["of"], line.get("request", "nobody")) for line in said if line["event"] == event]
        assert {name for name, _ in told} == of
        assert [name for name, request in told if name != request] == []
    answered = [(line["path"], line["request"], line["remote"]) for line in said if line["event"] == "request"]
    assert sorted(answered) == [(f"/status/{name}", name, "127.0.0.1") for name in sorted(asked)]


@pytest.mark.gen_test
async def test_a_request_that_brings_no_id_has_one_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """The one that it is told, and no two are alike."""
    log.configure("json")
    structlog.configure(cache_logger_on_first_use=False)
    parts: dict[str, Any] = dict.fromkeys(
        ("starter", "run_service", "listing", "event_stream", "broker", "log_reader", "scrape")
    )
    async with serving(make_app(AppState(Authenticator(TOKEN), trouble=lambda: None, **parts))) as made:
        caller = await made.call()
        told = []
        for _ in range(20):
            caller.say(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
            told += re.findall(r"X-Request-Id: ([0-9a-f]{32})\r\n", (await caller.reader.readuntil(b"}\n")).decode())
    assert len(set(told)) == 20
    assert [line["request"] for line in lines(capsys)] == told


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
    assert [line["key"] for line in lines(capsys)] == [REDACTED]


def test_the_longer_secret_goes_first() -> None:
    """Where one secret holds another, nothing of the longer one stays."""
    assert log.Redactor(["abc", "abcdef"])("x abcdef y") == f"x {REDACTED} y"


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


# What a terminal acts on, or shows nothing of: C0, DEL, C1, marks of direction, line and paragraph ends, a tag, half a
# surrogate pair.
HARMFUL = "/\x1b]0;x\x07\r\n\x7f\x9b31m\u202e\u2066\u200b\u2028\u2029\U000e0001\udc80"


def _in_key() -> None:
    structlog.get_logger("a").info("event", **{HARMFUL: HARMFUL})


def _nested() -> None:
    structlog.get_logger("a").info("event", document={HARMFUL: [HARMFUL, (HARMFUL,)]})


def _object() -> None:
    structlog.get_logger("a").info("event", error=SimpleNamespace(of=HARMFUL), shown=_Raw())


class _Raw:
    def __repr__(self) -> str:
        return HARMFUL


def _as_event() -> None:
    structlog.get_logger("a").warning(HARMFUL)


def _is_bound() -> None:
    structlog.contextvars.bind_contextvars(request=HARMFUL)
    structlog.get_logger("a").info("event")


def _of_the_library() -> None:
    logging.getLogger("b").warning("it is %s", HARMFUL)


def _in_a_traceback() -> None:
    try:
        raise ValueError(HARMFUL)
    except ValueError:
        structlog.get_logger("a").exception("failed")


def _in_a_traceback_of_the_library() -> None:
    try:
        raise ValueError(HARMFUL)
    except ValueError:
        logging.getLogger("b").exception("failed %s", HARMFUL, stack_info=True)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_character_acts_on_a_terminal(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by itself: what is harmless beside it changes nothing."""
    log.configure(log_format)
    for character in HARMFUL:
        structlog.get_logger("a").info("event", path=character)
    said = capsys.readouterr().err
    assert said.count("\n") == len(HARMFUL)
    assert [c for c in said if not c.isprintable() and c != "\n"] == []


class Full:
    """A stream on a disk that is full; or one that is closed."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> None:
        raise self._error

    flush = isatty


@pytest.mark.parametrize("error", [OSError("full"), BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_log_that_cannot_be_written_ends_nothing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither who logs by structlog nor who logs by the standard library is told."""
    monkeypatch.setattr(sys, "stderr", Full(error))
    log.configure("json")
    structlog.get_logger("a").info("one")
    logging.getLogger("b").warning("two")


def test_lines_of_several_threads_are_whole(capfd: pytest.CaptureFixture[str]) -> None:
    """Those of structlog and of the standard library."""
    log.configure("json")

    def talk(number: int) -> None:
        for _ in range(200):
            structlog.get_logger("a").info("ours", of="x" * 200, number=number)
            logging.getLogger("b").warning("theirs %s", "y" * 200)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [json.loads(line)["event"][:6] for line in capfd.readouterr().err.splitlines()]
    assert sorted(events) == ["ours"] * 800 + ["theirs"] * 800


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "way",
    [
        *(_in_key, _nested, _object, _as_event, _is_bound, _of_the_library),
        *(_in_a_traceback, _in_a_traceback_of_the_library),
    ],
)
def test_no_string_acts_on_a_terminal(way: Any, log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever sent it and however it gets into the log: each line is made of printable characters."""
    log.configure(log_format)
    way()
    written = capsys.readouterr().err
    assert written.strip()
    assert [c for line in written.split("\n") for c in line if not c.isprintable()] == []
    assert r"\u202e" in written


def test_no_traceback_forges_a_line_of_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    """An error's words may hold line breaks: what stands behind the first line is indented."""
    log.configure("console")
    try:
        raise ValueError("that\n2026-01-01T00:00:00.000000Z [info     ] forged")
    except ValueError:
        structlog.get_logger("a").exception("failed")
    first, *others = capsys.readouterr().err.splitlines()
    assert "failed" in first
    assert "forged" in others[-1]
    assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_line_is_short_whatever_a_caller_sends(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Strings have 256 characters, words on an error 1,024, tracebacks 16,384, of which the end is left."""
    log.configure(log_format)
    logger = structlog.get_logger("a")
    logger.info("request", path="/" + "x" * 15_000, method="G" * 9_000, deep={"k" * 999: ["y" * 999] * 9999})
    logging.getLogger("b").warning("z" * 9000)
    try:
        raise ValueError("w" * 64_000 + " the end")
    except ValueError:
        logger.exception("failed", reason="r" * 9_000)
    written = capsys.readouterr().err.replace("\\u2026", "…")
    longest = {letter: max(map(len, re.findall(f"[{letter}…]+", written))) for letter in "xGykzr"}
    assert longest == {"x": 255, "G": 256, "y": 256, "k": 256, "z": 1024, "r": 1024}
    assert re.search("w{1000}.*w the end", written)
    assert written.count("w") < 16_400
    assert written.count("y") < 260_000


def test_a_secret_that_is_cut_is_found_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of one would be no match."""
    log.configure("json", [SECRET])
    for before in range(100, 140):
        structlog.get_logger("a").info("request", path="x" * before + SECRET + "y" * 300)
    for line in lines(capsys):
        assert "ключ" not in line["path"]
        assert "the '" not in line["path"]


@pytest.mark.gen_test
async def test_who_shows_no_token_fills_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    """200 calls with 15 KB of path each: some lines, none of them long, and the count of the others."""
    log.configure("json")
    structlog.configure(cache_logger_on_first_use=False)
    parts: dict[str, Any] = dict.fromkeys(
        ("starter", "run_service", "listing", "event_stream", "broker", "log_reader", "scrape")
    )
    limit = LineLimit(lambda: 0.0)
    made_parts = AppState(Authenticator(TOKEN), trouble=lambda: None, lines=limit, **parts)
    async with serving(make_app(made_parts)) as made:
        caller = await made.call()
        for _ in range(200):
            caller.say(b"GET /status/%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"%1b" * 2500))
            assert b" 401 " in await caller.reader.readuntil(b"}\n")
        limit.report()
    said = capsys.readouterr().err
    assert len(said) < 200_000  # a control is six characters of JSON
    events = [json.loads(line) for line in said.splitlines()]
    assert {len(line["path"]) for line in events[:-1]} == {256}
    assert events[-1]["event"] == "log_lines_left_out"
    assert events[-1]["count"] == 200 - EACH_BURST == sum(events[-1]["events"].values())
