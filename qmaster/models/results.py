"""Results: a run's output and end, as the journal stores them and as answers show them. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from .responses import Result, TaskResult

Stream = Literal["stdout", "stderr"]

BRIEF = 4 * 1024  # bytes of each stream in events, snapshots and listings; GET /status/{id} has all that is stored
MANY_TASKS = 16  # with more tasks, each keeps less output
SMALLEST = 256  # bytes of each stream that every task may keep


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One message of Docker's log: a line with its newline, or a part of a longer line.

    ``time`` is RFC 3339 with nanoseconds, from Docker.
    """

    time: str
    stream: Stream
    data: bytes


class Output(msgspec.Struct, frozen=True, array_like=True):
    """The end of the output of one task or container, in order; ``truncated``: there was more."""

    lines: list[Line] = []
    truncated: bool = False


class TaskOutput(msgspec.Struct, frozen=True, array_like=True):
    """The end of one task; for a container, ``task``, ``slot`` and ``node`` are None."""

    task: str | None
    slot: int | None
    node: str | None
    exit_code: int | None
    output: Output


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """How a run ended: its tasks, with the one that ended first in front.

    ``earlier``: the tasks that these replaced in restarts, the oldest first; only the log has their output.
    """

    tasks: list[TaskOutput]
    earlier: list[TaskOutput] = []


def encode(outcome: Outcome) -> bytes:
    """Encode an outcome for the journal."""
    return zlib.compress(msgspec.msgpack.encode(outcome), 1)


def decode(stored: bytes) -> Outcome:
    """Decode an outcome from the journal."""
    return msgspec.msgpack.decode(zlib.decompress(stored), type=Outcome)


def share(limit: int, tasks: int) -> int:
    """Return how many bytes of each stream every task keeps, by the number of tasks."""
    return limit if tasks <= MANY_TASKS else max(SMALLEST, limit * MANY_TASKS // tasks)


def result(outcome: Outcome, limit: int | None = None) -> Result:
    """Return the result that answers show.

    Args:
        outcome: how the run ended.
        limit: the most bytes of each stream, of all tasks together; None: all that is stored.
    """
    shown = [_task_result(task, limit) for task in outcome.tasks]
    if not shown:
        return Result(exit_code=None, stdout="", stderr="", truncated=False, tasks=[])
    first = shown[0]
    several = outcome.tasks if len(shown) > 1 else []
    each = None if limit is None else limit // max(1, len(several))
    return Result(
        exit_code=first.exit_code,
        stdout=first.stdout,
        stderr=first.stderr,
        truncated=first.truncated,
        tasks=[_task_result(task, each) for task in several],
    )


def clip(lines: Sequence[Line], limit: int) -> Output:
    """Return the last lines that fit into ``limit`` bytes of each stream; the first of them may be cut."""
    left: dict[Stream, int] = {"stdout": limit, "stderr": limit}
    kept: list[Line] = []
    truncated = False
    for line in reversed(lines):
        room = left[line.stream]
        data = line.data[-room:] if room else b""
        truncated = truncated or len(data) < len(line.data)
        left[line.stream] = room - len(data)
        if data:
            kept.append(line if len(data) == len(line.data) else Line(line.time, line.stream, data))
    kept.reverse()
    return Output(kept, truncated)


def _task_result(task: TaskOutput, limit: int | None) -> TaskResult:
    output = task.output if limit is None else clip(task.output.lines, limit)
    return TaskResult(
        id=task.task,
        slot=task.slot,
        node=task.node,
        exit_code=task.exit_code,
        stdout=_text(output.lines, "stdout"),
        stderr=_text(output.lines, "stderr"),
        truncated=task.output.truncated or output.truncated,
    )


def _text(lines: Iterable[Line], stream: Stream) -> str:
    return b"".join(line.data for line in lines if line.stream == stream).decode(errors="replace")
