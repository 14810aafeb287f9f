"""The list of faults in docs/operations.md names real tests, and enough of them."""

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROW = re.compile(r"\| (?P<fault>[^|]+) \| (?P<happens>[^|]+) \| `(?P<file>test_\w+\.py)::(?P<test>test_\w+)` \|")
LEAST = 35
# What a test has to ask for to meet the real thing, see conftest.
REAL = {
    "bed",
    "engine",
    "plain_engine",
    "tls_engine",
    "swarm",
    "server",
    "swarm_server",
    "start_server",
    "stream",
    "shared",
    "swarm_shared",
    "functions_server",
    "any_of",
    "victim",
}


def table_lines() -> list[str]:
    lines = (
        (TESTS.parent / "docs" / "operations.md").read_text(encoding="utf-8").partition("\n## Faults\n")[2].splitlines()
    )
    return [line for line in lines if line.startswith("|") and not re.match(r"\|(-+\||\s*fault )", line)]


def rows() -> list[dict[str, str]]:
    return [found.groupdict() for line in table_lines() if (found := ROW.fullmatch(line))]


def test_each_line_names_a_fault_what_happens_and_a_test() -> None:
    """None is malformed."""
    assert [line for line in table_lines() if not ROW.fullmatch(line)] == []


def test_there_are_enough_and_all_are_different() -> None:
    """No fault is there twice; a test may show two of them."""
    assert len(rows()) >= LEAST
    assert len({(row["file"], row["test"]) for row in rows()}) >= LEAST
    faults = [row["fault"] for row in rows()]
    assert [each for each in faults if faults.count(each) > 1] == []


@functools.cache
def functions(file: str) -> list[ast.FunctionDef]:
    """Those at the top level of the files of this name; there is one in each folder."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.rglob(file)]
    return [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["fault"])
def test_the_test_exists_and_meets_the_real_thing(row: dict[str, str]) -> None:
    """It says what it expects, and asks for an engine, a swarm or a server."""
    found = [node for node in functions(row["file"]) if node.name == row["test"]]
    assert len(found) == 1, f"{row['file']} has no {row['test']}"
    assert {argument.arg for argument in found[0].args.args} & REAL
    assert ast.get_docstring(found[0])
