"""The benchmark's quick form: each figure is taken, and none is far from its reach. ``./build.sh bench`` measures."""

import importlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bench.__main__ import GROUPS
from bench.figures import Reach, Row, alone, beside, interleave
from bench.table import document, table
from bench.world import World
from testbed import Bed, Engine, Swarm

Measured = Callable[[str], None]


@pytest.fixture(scope="module")
def world(bed: Bed, engine: Engine, swarm: Swarm) -> Iterator[World]:
    with World(bed, quick=True, engine=engine, swarm=swarm) as world:
        yield world


@pytest.mark.late
@pytest.mark.parametrize("group", GROUPS)
def test_no_figure_is_far_from_its_reach(group: str, world: World, measured: Measured) -> None:
    """Three times the reach, as a busy machine says little; the figures are in the run's summary."""
    module: Any = importlib.import_module(f"bench.{group}")
    rows: list[Row] = list(module.measure(world))
    for row in rows:
        measured(f"{row.figure}: {row.ours}, {row.beside} {row.reference}: {row.value:.2f} (reach {row.reach})")
    assert not [row.figure for row in rows if row.reach.far_off(row.value)]


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    """So a machine that was slow for a round moves both sides of it."""
    slow = iter([1.0, 10.0, 1.0])
    taken = interleave(3, lambda: 1.0, lambda: next(slow))
    row = beside("reads", taken, "ms", Reach(1.5), "a bare one")
    assert (row.value, row.met, str(row.reach)) == (1.0, True, "≤ 1.50 \N{MULTIPLICATION SIGN}")


def test_who_goes_first_changes_every_round() -> None:
    """Else the second one would always find the caches warm."""
    order: list[str] = []

    def take(name: str) -> float:
        order.append(name)
        return 1.0

    interleave(3, lambda: take("ours"), lambda: take("theirs"))
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


@pytest.mark.parametrize(
    ("reach", "value", "met", "far"),
    [
        (Reach(2), 2.0, True, False),
        (Reach(2), 6.0, False, False),
        (Reach(2), 6.1, False, True),
        (Reach(0.75, at_least=True), 0.75, True, False),
        (Reach(0.75, at_least=True), 0.25, False, False),
        (Reach(0.75, at_least=True), 0.24, False, True),
    ],
)
def test_a_figure_that_is_not_reached_is_marked(reach: Reach, value: float, met: bool, far: bool) -> None:
    """It stays in the table."""
    row = alone("start", [value], reach)
    assert (row.met, reach.far_off(value)) == (met, far)
    assert ("not reached" in table([row])) is not met


def test_all_samples_are_in_the_json() -> None:
    """And what they were taken on."""
    row = beside("reads", ([1.0, 3.0], [2.0, 2.0]), "ms", Reach(1.5), "a bare one")
    found = json.loads(document([row], "20.10", 1.0, True))
    assert found["machine"]["engine"] == "20.10"
    assert found["rows"][0]["ours"] == {"values": [1.0, 3.0], "unit": "ms"}
