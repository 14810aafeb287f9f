"""Pure: a figure beside its reference: interleaved rounds, medians, spread, and whether the reach is reached."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FAR_OFF = 3.0  # times the reach: what fails the tests


@dataclass(frozen=True)
class Reach:
    """What is to be reached: at most so much, or at least. ``unit`` is that of the value; × is a ratio."""

    bound: float
    unit: str = "×"
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
        spread = f" ({number(low)}–{number(high)})" if low != high else ""
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
        return {**asdict(self), "met": self.met, "ratio": self.reference is not None}


def alone(figure: str, values: Sequence[float], reach: Reach) -> Row:
    """A figure that has no reference: its median is the value."""
    ours = Samples(tuple(values), reach.unit)
    return Row(figure, ours, reach, ours.median)


def beside(figure: str, ours: Sequence[float], reference: Sequence[float], unit: str, reach: Reach, name: str) -> Row:
    """A figure and its reference, a number each a round: the value is the median of the rounds' ratios.

    So a machine whose speed drifts over the rounds moves both.
    """
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, reference, strict=True))
    return Row(figure, Samples(tuple(ours), unit), reach, ratio, Samples(tuple(reference), unit), name)


def interleave(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Take each measure once a round, the other one first in every second round."""
    taken: list[list[float]] = [[] for _ in measures]
    for at in range(rounds):
        order = range(len(measures)) if at % 2 == 0 else reversed(range(len(measures)))
        for which in order:
            taken[which].append(measures[which]())
    return taken


def number(value: float) -> str:
    """Three digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def shown(value: float, unit: str) -> str:
    return f"{number(value) if unit != '×' else f'{value:.2f}'} {unit}"
