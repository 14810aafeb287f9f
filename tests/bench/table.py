"""Pure: the rows as a table for people, and as JSON."""

import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

from bench.figures import DASH, Row, shown

HEAD = ("figure", "quartermaster", "reference", "", "value", "reach", "")


def cells(row: Row) -> tuple[str, ...]:
    reference = str(row.reference) if row.reference else DASH
    met = "" if row.met else "not reached"
    return (row.figure, str(row.ours), reference, row.beside, shown(row.value, row.reach.unit), str(row.reach), met)


def table(rows: Sequence[Row]) -> str:
    """In Markdown, its columns aligned."""
    lines = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    ruler = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], ruler, *padded[1:]])


def document(rows: Sequence[Row], engine: str, seconds: float, quick: bool) -> str:
    """All samples, and what they were taken on."""
    machine: dict[str, Any] = {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "engine": engine,
    }
    whole = {"machine": machine, "seconds": round(seconds, 1), "quick": quick, "rows": [row.as_json() for row in rows]}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
