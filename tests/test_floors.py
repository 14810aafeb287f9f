"""The house: imports point downwards only, and rooms on one floor do not know each other (DESIGN 2)."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import qmaster

ROOT = Path(qmaster.__file__).parent

# A room is a module, or a package: what is in a package may know its own. handlers/base is below the other handlers.
FLOORS: dict[float, set[str]] = {
    7: {"__main__", "cli"},
    6.5: {"client", "newtoken"},
    6: {"server", "healthcheck"},
    5: {"app"},
    4.5: {"handlers"},
    4: {"handlers.base"},
    2.5: {"listing"},
    3: {"dispatch", "reconciler", "keeper", "feed", "keyed", "recorder", "scrape", "spring", "sweeper"},
    2: {
        "engine",
        "watcher",
        "journal",
        "hub",
        "auth",
        "policy",
        "tally",
        "waits",
        "held",
        "unsent",
        "keyring",
        "entrance",
        "linelimit",
    },
    1.9: {"store", "rates", "throttle"},
    1.8: {"stream"},
    1.5: {"view"},
    1.2: {"openapi", "attempts", "ends"},
    1: {"spec", "tokens"},
    0.9: {"lifecycle"},
    0.8: {"facts", "modes", "frames", "hardening", "marks", "masking", "output", "results"},
    0.5: {"models"},
    0.4: {"patterns"},
    0: {
        "addresses",
        "config",
        "errors",
        "log",
        "metrics",
        "reference",
        "credentials",
        "standard",
        "strict",
        "target",
        "threads",
        "synonyms",
        "retention",
    },
    0.2: {"limiter", "keys", "ports", "wording", "privileges", "tls"},
}
ALLOWED = {
    ("__main__", "cli"),  # the door to it
    ("config", "errors"),
}
MODULES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    """The room that a file belongs to: ``engine`` for all of ``engine/``; "" for the package itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("handlers", "base"):
        return "handlers.base"
    return "" if parts == ("__init__",) else parts[0]


def floor(name: str) -> float:
    return next(number for number, rooms in FLOORS.items() if name in rooms)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """The full names of all that a file imports, of modules and of what is in them."""
    package = ["qmaster", *path.relative_to(ROOT).parts[:-1]]
    for statement in ast.walk(tree(path)):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            base = package[: len(package) - statement.level + 1] if statement.level else []
            start = ".".join([*base, *([statement.module] if statement.module else [])])
            yield from (f"{start}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.Constant) and str(statement.value).startswith("qmaster."):
            yield str(statement.value)  # what `import_module` is told


def rooms_of(path: Path) -> set[str]:
    """The rooms that a file knows."""
    known = set()
    for name in imported(path):
        parts = name.split(".")[1:]
        if not name.startswith("qmaster.") or not ((ROOT / parts[0]).is_dir() or (ROOT / f"{parts[0]}.py").is_file()):
            continue
        known.add("handlers.base" if parts[:2] == ["handlers", "base"] else parts[0])
    return known - {room(path)}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_down(path: Path) -> None:
    """No room knows one above it, nor another on its floor."""
    here = room(path)
    for below in rooms_of(path) if here else ():
        assert floor(below) < floor(here) or (here, below) in ALLOWED, f"{here} imports {below}"


def test_every_room_has_a_floor() -> None:
    """A new room is put on one, in the design and here."""
    assert {room(path) for path in MODULES} - {""} <= set().union(*FLOORS.values())


def test_the_base_of_the_handlers_knows_none_of_them() -> None:
    """Handlers stand over base, and beside each other."""
    for path in (ROOT / "handlers").glob("*.py"):
        beside = {one.split(".")[2] for one in imported(path) if one.startswith("qmaster.handlers.")}
        assert beside <= ({"base"} if path.stem != "base" else set()), name(path)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_the_engine_knows_docker(path: Path) -> None:
    """Nor the libraries below the SDK. (`docker_image`, the parser of references, is another package.)"""
    if room(path) != "engine":
        assert not {one.split(".")[0] for one in imported(path)} & {"docker", "requests", "urllib3"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_import_is_in_a_function(path: Path) -> None:
    """That is how a ring is hidden."""
    for function in ast.walk(tree(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            assert not [one for one in ast.walk(function) if isinstance(one, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_room_says_what_it_is_for(path: Path) -> None:
    """In the first line of its docstring, as a sentence."""
    first = (ast.get_docstring(tree(path)) or "").partition("\n")[0]
    assert first
