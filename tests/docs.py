"""Reads the documents: their tables, their prose, their calls."""

import inspect
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from documents import TEXT
from tornado import web
from tornado.routing import PathMatches

from qmaster import errors
from qmaster.api import routes as app
from qmaster.api.base import BaseHandler
from qmaster.api.calls.function_urls import FunctionUrlHandler

ROOT = Path(__file__).resolve().parents[1]

Row = dict[str, str]


# Reading Markdown


def lines_with_fence() -> Iterator[tuple[str, str | None]]:
    """Each line of the documents with the language of the code block that it is in, None outside of one."""
    fence: str | None = None
    for line in TEXT.splitlines():
        mark = re.match(r"\s*```(\w*)", line)
        if mark:
            fence = mark[1] if fence is None else None
        else:
            yield line, fence


def section(title: str) -> list[str]:
    """The prose under a heading, up to the next heading."""
    found: list[str] = []
    current = ""
    for line, fence in lines_with_fence():
        if fence is None and line.startswith("#"):
            current = line.lstrip("# ")
        elif fence is None and current == title:
            found.append(line)
    assert found, f"the documents have no section {title!r}"
    return found


def tables(title: str) -> list[list[Row]]:
    """The tables of a section: a list of rows each, by column."""
    found: list[list[Row]] = []
    header: list[str] = []
    for line in section(title):
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not header:
            header = cells
            found.append([])
        elif set(line) - set("|- "):
            found[-1].append(dict(zip(header, cells, strict=True)))
    return found


def table(title: str, having: str = "") -> list[Row]:
    """The section's first table, or its first with that column."""
    return next(rows for rows in tables(title) if having in ("", *rows[0]))


def code(cell: str) -> list[str]:
    """What a cell shows as code."""
    return re.findall(r"`([^`]+)`", cell)


# Reading the code


def routes() -> list[tuple[str, str]]:
    """Method and pattern of each route, but for function URLs, whose requests are the functions'."""
    make: Any = app.make_app
    application: web.Application = make(*(Mock() for _ in inspect.signature(make).parameters))
    return [
        (method, rule.matcher.regex.pattern.removesuffix("$"))
        for rule in application.wildcard_router.rules
        if isinstance(rule.matcher, PathMatches) and not issubclass(rule.target, FunctionUrlHandler)
        for method in BaseHandler.SUPPORTED_METHODS
        if takes(rule.target, method.lower())
    ]


def takes(handler: type, method: str) -> bool:
    return getattr(handler, method) not in (getattr(BaseHandler, method), getattr(web.RequestHandler, method))


def as_pattern(path: str) -> str:
    return re.sub(r"\{\w+\}", "([^/]+)", path)


def statuses(error: type[errors.HttpError]) -> set[HTTPStatus]:
    return {error.status}.union(*map(statuses, error.__subclasses__()))
