"""outputs: what a run wrote to standard output, whole or not at all."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from fakes import task
from function_cases import job_over

from qmaster.engine.logs import LogReaders, LogRequest, Message, OpenLog
from qmaster.errors import EngineAway, HttpError, NodeUnreachable, PayloadTooLarge
from qmaster.events.journal import Journal
from qmaster.models import results
from qmaster.models.responses import Service
from qmaster.models.results import Line, Outcome, Output, TaskOutput
from qmaster.runs.outputs import OutputReader
from qmaster.runs.views import task_status

pytestmark = pytest.mark.gen_test

NOW = "2026-01-01T00:00:00.000000000Z"


class Kept(Journal):
    """A journal with one result."""

    def __init__(self, *lines: Line, truncated: bool = False, there: bool = True) -> None:
        outcome = Outcome([TaskOutput("t1", 1, "host", 0, Output(list(lines), truncated))])
        self.stored = results.encode(outcome) if there else None

    async def outcome(self, run_id: str) -> bytes | None:
        return self.stored


class Log(LogReaders):
    """A log of these messages, one a batch; an error breaks it off."""

    def __init__(self, *messages: Message | HttpError) -> None:
        self.messages = list(messages)
        self.asked: list[LogRequest] = []
        self.taken = 0

    @contextlib.contextmanager
    def slot(self) -> Iterator[Callable[[LogRequest], OpenLog]]:
        def open_log(request: LogRequest) -> OpenLog:
            self.asked.append(request)
            return Opened(self.messages)

        yield open_log


class Opened(OpenLog):
    def __init__(self, messages: list[Message | HttpError]) -> None:
        self._messages = messages

    def close(self) -> None:
        pass

    async def take(self) -> list[Message]:
        if not self._messages:
            return []
        message = self._messages.pop(0)
        if isinstance(message, HttpError):
            raise message
        return [message]


def over(stdout: str = "", truncated: bool = False, **fields: Any) -> Service:
    tasks = [task_status.task(task("complete", code=0), {})]
    view = job_over("job-1", tasks=tasks, **fields)
    assert view.result is not None
    return msgspec.structs.replace(
        view, result=msgspec.structs.replace(view.result, stdout=stdout, truncated=truncated)
    )


def wrote(text: str) -> Line:
    return Line(NOW, "stdout", text.encode())


def said(text: str) -> Message:
    return Message(NOW, "stdout", text.encode())


async def test_a_short_output_is_in_the_view() -> None:
    """Nobody is asked."""
    reader = OutputReader(Log(), Kept(there=False))
    assert await reader.stdout(over("ä\n"), 10) == "ä\n".encode()


async def test_a_longer_one_is_in_the_journal() -> None:
    """Without what was written to standard error."""
    kept = Kept(wrote("a\n"), Line(NOW, "stderr", b"no\n"), wrote("b\n"))
    log = Log()
    assert await OutputReader(log, kept).stdout(over(truncated=True), 4) == b"a\nb\n"
    assert log.asked == []
    with pytest.raises(PayloadTooLarge, match="over 3 bytes"):
        await OutputReader(log, kept).stdout(over(truncated=True), 3)


async def test_one_that_is_not_kept_whole_is_read_from_the_engine() -> None:
    """As far as the limit."""
    log = Log(said("a"), said("b"))
    reader = OutputReader(log, Kept(wrote("b"), truncated=True))
    assert await reader.stdout(over(truncated=True), 2) == b"ab"
    assert [(request.kind, request.streams, request.tail) for request in log.asked] == [("task", ("stdout",), None)]
    log.messages = [said("a"), said("b"), said("c"), said("d")]
    with pytest.raises(PayloadTooLarge, match="over 2 bytes"):
        await reader.stdout(over(truncated=True), 2)
    assert log.messages == [said("d")]


async def test_one_whose_rest_is_gone_is_an_error() -> None:
    """A part is no answer."""
    for kept in (Kept(wrote("b"), truncated=True), Kept(there=False)):
        with pytest.raises(PayloadTooLarge, match="was removed"):
            await OutputReader(Log(said("ab")), kept).stdout(over(truncated=True, status="removed"), 9)


async def test_a_log_that_breaks_off_is_an_error() -> None:
    """Also where its node cannot be reached, which the engine says in the log."""
    unreached = Message("", "engine", b"error from daemon in stream: node n1 is not available")
    for last, error in ((EngineAway("gone"), EngineAway), (unreached, NodeUnreachable)):
        reader = OutputReader(Log(said("a"), last), Kept(truncated=True))
        with pytest.raises(error):
            await reader.stdout(over(truncated=True), 9)
