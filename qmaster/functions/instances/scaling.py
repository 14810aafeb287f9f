"""When instances start and end: pure functions of a function's spec, its load and the time.

A call that waits needs an instance, but not one of its own: while one starts, those that run serve several short calls.
(Starting while fewer start than wait made 10 instances for 24 calls of 5 ms; starting while there are fewer than wait
kept three calls waiting for 40 s behind five long ones. Both were simulated.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

LIFETIME = 6 * 3600.0  # seconds after which an instance is replaced
MARGIN = 60.0  # seconds that an instance may live beyond its lifetime and its last call, whoever started it
SILENT = 10.0  # seconds that an instance may have neither a call nor a question for one
# Seconds that a start keeps others from beginning at most: an image may be pulled for minutes, and an init may hang.
IN_FLIGHT = 3.0
# Seconds that a call waits before an instance beside others is started for it. One that has answered asks again within
# a few ms: without the pause, one client that calls again and again had three instances.
BRIEFLY = 0.02
IDLE_OUTDATED = 10.0  # seconds that an instance of a version that is not the newest stays idle at most
WEIGHT = 0.2  # of the newest value in a mean


class Scale(NamedTuple):
    """What a function's spec says of its instances; ``least`` is 0 for a version that is not the newest."""

    least: int
    most: int
    concurrency: int
    idle: float


class Load(NamedTuple):
    """What a version has to do now.

    Attributes:
        waiting: calls that wait for an instance.
        starting: instances that have not asked for a call yet.
        alive: all instances that are not ending, those that start included.
        duration: the mean seconds of a call; None: unknown.
        cold_start: the mean seconds from an instance's creation to its first question for a call; None: unknown.
        waited: the seconds that the oldest call has waited.
    """

    waiting: int
    starting: int
    alive: int
    duration: float | None = None
    cold_start: float | None = None
    waited: float = math.inf


def calls_need_one(load: Load, scale: Scale) -> bool:
    """Return whether one more instance should start for the calls that wait."""
    if not load.waiting or load.alive >= scale.most:
        return False
    if not load.alive:
        return True
    if load.duration is not None and load.waited < BRIEFLY and load.starting < load.alive:
        return False
    needed = math.ceil(load.waiting / scale.concurrency)
    if load.duration is not None and load.cold_start:
        # While an instance starts, one that runs serves as many calls as fit into that time.
        needed = min(needed, math.ceil(load.waiting * load.duration / (load.cold_start * scale.concurrency)))
    return load.starting < needed


def too_few(load: Load, scale: Scale) -> bool:
    """Return whether one more instance should start to be kept warm."""
    return load.alive < min(scale.least, scale.most)


def surplus(idle_since: Sequence[float], alive: int, scale: Scale, now: float) -> int:
    """Return how many idle instances should end: the first ones of ``idle_since``, which is sorted."""
    overdue = sum(now - since >= scale.idle for since in idle_since)
    return max(0, min(overdue, alive - scale.least))


def starts_left(ready_nodes: int, begun: Iterable[float], now: float) -> int:
    """Return how many starts may begin: one for each ready node is in flight at once.

    Args:
        ready_nodes: the nodes that take tasks.
        begun: when the starts that have not succeeded or failed yet began.
        now: the time.
    """
    return max(1, ready_nodes) - sum(now - each < IN_FLIGHT for each in begun)


def mean(before: float | None, value: float) -> float:
    """Return a moving mean with one more value."""
    return value if before is None else before + WEIGHT * (value - before)


def longest_idle(candidates: Iterable[tuple[float, int]]) -> int | None:
    """Return the place of the instance that ends where a start finds no room; None if no one may.

    Args:
        candidates: for each idle instance since when it is idle, and by how many its version is above its least.
    """
    ends = [(since, place) for place, (since, above) in enumerate(candidates) if above > 0]
    return min(ends)[1] if ends else None


def label_lifetime(timeout: float) -> float:
    """Return the seconds after which any quartermaster ends an instance; its own retires it at ``LIFETIME``."""
    return LIFETIME + timeout + MARGIN
