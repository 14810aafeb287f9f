"""The answer of ``GET /stats``: numbers of each minute, the oldest first. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from .responses import Time

Counts = list[int]
Seconds = list[float | None]


class RunNumbers(Struct, frozen=True, kw_only=True):
    """Runs that started and ended in each minute, and how long they ran and waited for their start, in seconds.

    Null: no run ended, or started to run, in that minute.
    """

    started: Counts
    complete: Counts
    failed: Counts
    stopped: Counts
    duration_p50: Seconds
    duration_p95: Seconds
    queued_p50: Seconds
    queued_p95: Seconds


class NodeNumbers(Struct, frozen=True, kw_only=True):
    """MiB reserved on a node at the start of each minute; null where that was not known."""

    memory_reserved: list[int | None]


class FunctionNumbers(Struct, frozen=True, kw_only=True):
    """Calls of a function that were over in each minute, how many of them failed, and their seconds; null: no call."""

    calls: Counts
    errors: Counts
    p50: Seconds
    p95: Seconds


class Stats(Struct, frozen=True, kw_only=True):
    """Numbers of the last minutes; ``start`` is the first, ``interval`` the seconds of each."""

    success: Literal[True] = True
    interval: int = 60
    start: Time
    runs: RunNumbers
    nodes: dict[str, NodeNumbers] = msgspec.field(default_factory=dict)
    functions: dict[str, FunctionNumbers] = msgspec.field(default_factory=dict)
