"""Pure: a figure beside its reference: interleaved rounds, medians, spread, and whether the reach is reached."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Taken = tuple[list[float], list[float]]

TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"
FAR_OFF = 3.0  # times the reach: what fails the tests


@dataclass(frozen=True)
class Reach:
    """What is to be reached: at most so much, or at least. ``unit`` is that of the value; `TIMES` is a ratio's."""

    bound: float
    unit: str = TIMES
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def far_off(self, value: float) -> bool:
        return value < self.bound / FAR_OFF if self.at_least else value > self.bound * FAR_OFF

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {shown(self.bound, self.unit)}"


@dataclass(frozen=True)
class Samples:
    """One number a round."""

    values: tuple[float, ...]
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        spread = f" ({number(low)}{DASH}{number(high)})" if low != high else ""
        return shown(self.median, self.unit) + spread


@dataclass(frozen=True)
class Row:
    """A line of the table. ``value`` is what the reach bounds: the ratio to the reference, or the figure itself."""

    figure: str
    ours: Samples
    reach: Reach
    value: float
    reference: Samples | None = None
    beside: str = ""

    @property
    def met(self) -> bool:
        return self.reach.met(self.value)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def alone(figure: str, values: Sequence[float], reach: Reach) -> Row:
    """A figure that has no reference: its median is the value."""
    ours = Samples(tuple(values), reach.unit)
    return Row(figure, ours, reach, ours.median)


def beside(figure: str, taken: Taken, unit: str, reach: Reach, name: str) -> Row:
    """A figure and its reference, as `interleave` takes them: the value is the median of the rounds' ratios.

    So a machine whose speed drifts over the rounds moves both.
    """
    ours, reference = taken
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, reference, strict=True))
    return Row(figure, Samples(tuple(ours), unit), reach, ratio, Samples(tuple(reference), unit), name)


def interleave(rounds: int, ours: Callable[[], float], reference: Callable[[], float]) -> Taken:
    """Take both once a round, the other one first in every second round."""
    taken: Taken = ([], [])
    for at in range(rounds):
        for which, measure in sorted(enumerate((ours, reference)), reverse=at % 2 == 1, key=lambda one: one[0]):
            taken[which].append(measure())
    return taken


def number(value: float) -> str:
    """Three digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def shown(value: float, unit: str) -> str:
    return f"{f'{value:.2f}' if unit == TIMES else number(value)} {unit}"
