"""The layout: packages on floors, imports point downwards only, packages on one floor do not know each other."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import qmaster

ROOT = Path(qmaster.__file__).parent

FLOORS: dict[float, set[str]] = {
    9: {"__main__"},
    8.3: {"cli.main"},
    8.2: {"cli.functions"},
    8.1: {"cli"},
    8: {"cli.options"},
    7: {"server"},
    6.3: {"api.routes"},
    6.2: {"api.openapi"},
    6.1: {"api.calls", "api.runtime"},
    6: {"api"},
    5.6: {"functions.schedules"},
    5.5: {"functions.asynchronous"},
    5.4: {"functions.dispatcher"},
    5.3: {"functions.jobs"},
    5.2: {"functions.instances"},
    5.1: {"functions.invocations", "functions.versions"},
    5: {"functions.callbacks"},
    4.2: {"runs"},
    4.1: {"runs.reconciler"},
    4: {"runs.views"},
    3: {"engine", "events", "auth"},
    2: {"models"},
    1: {"background", "limiter"},
    0: {"errors"},
}
FLOORED = set().union(*FLOORS.values())
MODULES = sorted(ROOT.rglob("*.py"))


def package(path: Path) -> str:
    """The package, or the module with a floor of its own, that a file belongs to; "" for a docstring above floors."""
    return package_of(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def package_of(parts: tuple[str, ...]) -> str:
    """The same, for the parts of a name below the top level."""
    first, second, *_ = [*parts, "__init__", "__init__"]
    inner = f"{first}.{second}"
    name = inner if inner in FLOORED or ROOT.joinpath(first, second).is_dir() else first
    return "" if name == "__init__" or (name not in FLOORED and second == "__init__") else name


def floor(name: str) -> float:
    return next(number for number, packages in FLOORS.items() if name in packages)


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The full names of all that a file imports, of modules and of what is in them."""
    return frozenset(imports(path))


def imports(path: Path) -> Iterator[str]:
    here = ["qmaster", *path.relative_to(ROOT).parts[:-1]]
    for statement in ast.walk(tree(path)):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            base = here[: len(here) - statement.level + 1] if statement.level else []
            start = ".".join([*base, *([statement.module] if statement.module else [])])
            yield from (f"{start}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.Constant) and str(statement.value).startswith("qmaster."):
            yield str(statement.value)  # the argument of `import_module`


def top_level(path: Path) -> set[str]:
    """The top-level packages that a file imports from."""
    return {one.partition(".")[0] for one in imported(path)}


def packages_of(path: Path) -> set[str]:
    """The packages, and the modules beside them, that a file imports from."""
    known = set()
    for name in imported(path):
        below = package_of(tuple(name.split(".")[1:]))
        there = ROOT.joinpath(*below.split("."))
        if name.startswith("qmaster.") and (there.is_dir() or there.with_suffix(".py").is_file()):
            known.add(below)
    return known - {package(path), ""}


def module_name(path: Path) -> str:
    return ".".join(["qmaster", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_point_down() -> None:
    """No package imports one above it, nor another on its floor."""
    upwards = [
        f"{name(path)} imports {below}"
        for path in MODULES
        if (here := package(path))
        for below in packages_of(path)
        if not floor(below) < floor(here)
    ]
    assert upwards == []


def test_every_package_has_a_floor() -> None:
    """A new package is put on a floor, in the design and here."""
    assert {package(path) for path in MODULES} - {""} <= FLOORED


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Also inside of a package."""
    modules = {module_name(path): path for path in MODULES if path.name != "__init__.py"}
    below = {
        module: {found for each in imported(path) for found in (each, each.rpartition(".")[0]) if found in modules}
        for module, path in modules.items()
    }
    while leaves := {module for module, names in below.items() if not names - {module}}:
        below = {module: names - leaves for module, names in below.items() if module not in leaves}
    assert below == {}


def test_only_the_engine_knows_docker() -> None:
    """Nor the libraries below the SDK. (`docker_image`, the parser of references, is another package.)"""
    others = [path for path in MODULES if package(path) != "engine"]
    assert [name(path) for path in others if top_level(path) & {"docker", "requests", "urllib3"}] == []


def inner_imports(path: Path) -> Iterator[str]:
    """The place of each import in a function."""
    for function in ast.walk(tree(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            found = (one for one in ast.walk(function) if isinstance(one, ast.Import | ast.ImportFrom))
            yield from (f"{name(path)}:{one.lineno}" for one in found)


def test_no_import_is_in_a_function() -> None:
    """That is how a circle is hidden."""
    assert [place for path in MODULES for place in inner_imports(path)] == []


def messages(path: Path) -> Iterator[str]:
    """The plain strings that are given to a class, as to an error, or to the log."""
    for call in ast.walk(tree(path)):
        if isinstance(call, ast.Call) and re.match(r"log\.|[A-Z]", ast.unparse(call.func)):
            given = (*call.args, *(keyword.value for keyword in call.keywords))
            yield from (str(each.value) for each in given if isinstance(each, ast.Constant))


def test_no_message_has_a_placeholder_left_in_it() -> None:
    """An error or a log line without the f in front of its text would show the code's own words."""
    placeholder = re.compile(r"\{[a-z_][\w.()\[\]]*\}")
    assert [(name(path), text) for path in MODULES for text in messages(path) if placeholder.search(text)] == []


def test_a_module_says_what_it_is_for() -> None:
    """In the first line of its docstring."""
    silent = [path for path in MODULES if not (ast.get_docstring(tree(path)) or "").partition("\n")[0]]
    assert [name(path) for path in silent] == []
