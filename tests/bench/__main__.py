"""``python -m bench [GROUP …]``: take the figures, print the table, and keep all samples in a JSON file."""

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

from testbed import Bed

from bench.figures import Row
from bench.table import document, table
from bench.world import World

GROUPS = ("rest", "runs", "calls", "reads", "stream", "thousands", "growth", "managers", "functions", "asynchronous")


def take(world: World, groups: list[str]) -> list[Row]:
    """The rows of these groups; a line for each group as it ends."""
    rows: list[Row] = []
    for name in groups:
        began = time.monotonic()
        group: Any = importlib.import_module(f"bench.{name}")
        fresh = list(group.measure(world))
        rows += fresh
        tell(f"{name}: {time.monotonic() - began:.0f} s")
        tell(table(fresh))
    return rows


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - it is a command


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("groups", nargs="*", default=list(GROUPS), metavar="GROUP", help=f"some of: {' '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="a look in place of a measurement")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where all samples go (./bench.json)")
    chosen = parser.parse_args()
    if unknown := set(chosen.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; there are: {', '.join(GROUPS)}")
    began = time.monotonic()
    with Bed() as bed, World(bed, chosen.quick) as world:
        rows = take(world, chosen.groups)
        engine = str(world.engine.client().version()["Version"])
    seconds = time.monotonic() - began
    chosen.json.write_text(document(rows, engine, seconds, chosen.quick), encoding="utf-8")
    print(table(rows))  # noqa: T201
    tell(f"{len(rows)} figures in {seconds:.0f} s; {sum(not row.met for row in rows)} not reached; {chosen.json}")


if __name__ == "__main__":
    main()
