"""What ruff does not see: a library's privates in our subclasses, and how many Protocols there are."""

import ast
import functools
import importlib
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator

import pytest

import qmaster

MOST_PROTOCOLS = 5
PUBLIC = {"_asdict", "_fields", "_make", "_replace"}  # of a NamedTuple, documented with an underscore


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__")) and name not in PUBLIC


def is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "qmaster"


@functools.cache
def classes() -> list[type]:
    """All classes of the project."""
    names = [module.name for module in pkgutil.walk_packages(qmaster.__path__, "qmaster.")]
    modules = [importlib.import_module(name) for name in names if name != "qmaster.__main__"]
    found = {each for module in modules for each in vars(module).values() if inspect.isclass(each) and is_ours(each)}
    return sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__))


@functools.cache
def source(cls: type) -> ast.Module:
    """The class as a tree; an empty one where it is not written in Python."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return ast.Module(body=[], type_ignores=[])


def written(cls: type) -> Iterator[str]:
    """What its body defines, and what its methods set or read through ``self``; not what a decorator adds."""
    for node in ast.walk(source(cls)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
    for statement in ast.walk(source(cls)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


@functools.cache
def privates(cls: type) -> frozenset[str]:
    """Its private attributes and methods; of a library's class also those that are not written in its body."""
    return frozenset(name for name in (*written(cls), *([] if is_ours(cls) else vars(cls))) if is_private(name))


def of_libraries(cls: type) -> list[type]:
    """Those of its bases that are a library's, written in Python."""
    return [base for base in cls.__mro__ if not is_ours(base) and base.__module__ != "builtins" and source(base).body]


SUBCLASSES = [cls for cls in classes() if of_libraries(cls)]


@pytest.mark.parametrize("cls", SUBCLASSES, ids=lambda cls: f"{cls.__module__}.{cls.__qualname__}")
def test_no_private_of_a_library_is_used_in_a_subclass(cls: type) -> None:
    """None is set, overridden or read through ``self``: the next release may have changed it."""
    ours = frozenset[str]().union(*(privates(each) for each in cls.__mro__ if is_ours(each)))
    used = {f"{base.__qualname__}.{name}" for base in of_libraries(cls) for name in ours & privates(base)}
    assert used == set()


def test_the_comparison_finds_them() -> None:
    """Of each kind: overridden, set, and read."""
    from tornado.web import RequestHandler

    class Handler(RequestHandler):
        def _handle_request_exception(self, e: BaseException) -> None:
            self._headers_written = False
            str(self._headers)

    assert privates(Handler) <= privates(RequestHandler) | {"_handle_request_exception"}
    assert {"_handle_request_exception", "_headers_written", "_headers"} <= privates(Handler) & privates(RequestHandler)
    assert {"RequestHandler", "Group"} <= {base.__name__ for cls in SUBCLASSES for base in of_libraries(cls)}


def test_a_protocol_is_rare() -> None:
    """A part takes the real class of the part that it needs, or a callable."""
    protocols = [cls for cls in classes() if getattr(cls, "_is_protocol", False)]
    assert len(protocols) <= MOST_PROTOCOLS, [cls.__qualname__ for cls in protocols]
