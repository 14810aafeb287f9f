"""What the client's commands share: the options of every command, their exit codes, and how they print."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import click

from ..errors import ConfigError
from ..server.config import given_token
from . import descriptors, tables, terminal
from .client import Client, ClientError
from .options.inputs import is_utf8
from .options.values import FILE
from .run import OUTPUT_CLOSED, OWN_FAILURE, SIGNALLED
from .terminal import OutputError, Screen

URL = "http://localhost:9090"
FAILED, WRONG_USE = 1, 2
INTERRUPTED = SIGNALLED + signal.SIGINT

Command = Callable[..., Coroutine[Any, Any, int]]


class Connection:
    """The options of every command: the server, its token, and the form of the output."""

    def __init__(self, url: str, token_file: str | None, as_json: bool, screen_: Screen) -> None:
        environ = {**os.environ, **({"TOKEN_FILE": token_file, "TOKEN": ""} if token_file else {})}
        token = given_token(environ)
        if token is None:
            raise ConfigError("no token: set TOKEN, or TOKEN_FILE to a file with the server's token")
        self.client = Client(url, token)
        self.as_json = as_json
        self.screen = screen_


class ClientCommand(click.Command):
    """A command whose arguments are UTF-8, because they go into JSON; the name of a file may be any bytes."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        context = super().make_context(*args, **kwargs)
        for parameter in self.params:
            value = context.params.get(parameter.name or "")
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and parameter.metavar != FILE and not is_utf8(text):
                    raise click.BadParameter(f"{text!r} is not UTF-8", context, parameter)
        return context


class OfJob(ClientCommand):
    """A command that exits as a job did; its usage errors end with ``OWN_FAILURE``, because a job can end with 2."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            error.exit_code = OWN_FAILURE  # type: ignore[misc]
            raise


def client_command(
    name: str, failure: tuple[int, int] = (FAILED, WRONG_USE), **settings: Any
) -> Callable[[Command], Any]:
    """Make a click command from a coroutine, with the options of every command.

    Args:
        name: the name of the command.
        failure: the exit codes if the server refuses or is away, and for a usage error.
        settings: further arguments of ``click.command``.
    """

    def decorate(function: Command) -> Any:
        @functools.wraps(function)
        def call(url: str, token_file: str | None, as_json: bool, **options: Any) -> None:
            sys.exit(_run(function, failure, url, token_file, as_json, options))

        common = (
            click.option("--url", envvar="QMASTER_URL", default=URL, help=f"The server [QMASTER_URL, default: {URL}]."),
            click.option("--token-file", metavar=FILE, help="A file that holds the token [TOKEN_FILE, or TOKEN]."),
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        )
        wrapped: Any = call
        for option in reversed(common):
            wrapped = option(wrapped)
        decorator: Any = click.command(name, **{"cls": ClientCommand, **settings})
        return decorator(wrapped)

    return decorate


def _run(
    function: Command,
    failure: tuple[int, int],
    url: str,
    token_file: str | None,
    as_json: bool,
    options: dict[str, Any],
) -> int:
    """Run a command, and return its exit code; an error is one line on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has every character
    view = Screen(lively=True)
    try:
        return asyncio.run(function(Connection(url, token_file, as_json, view), **options))
    except ConfigError as error:
        view.say(str(error))
        return failure[1]
    except (ClientError, OutputError) as error:
        view.say(str(error))
        return failure[0]
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        descriptors.write_no_more()
        return OUTPUT_CLOSED
    except OSError as error:  # from a print; all others are handled where they occur
        view.say(f"the output cannot be written: {error.strerror}")
        descriptors.write_no_more()
        return failure[0]


def show(text: str) -> None:
    """Print a line on standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show_json(document: Any) -> None:
    """Print a JSON document on one line."""
    show(json.dumps(document, ensure_ascii=not _is_utf8(), separators=(",", ":")))


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower() in ("utf-8", "utf8")


def show_table(header: tuple[str, ...], rows: list[list[str]]) -> None:
    """Print a table, cut to the width of a terminal."""
    for line in table_lines(header, rows):
        show(line)


def table_lines(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table, cut to the width of a terminal, and in colours if it has them."""
    paint = tables.painted if terminal.colours(os.environ) else tables.plain
    return tables.table(header, rows, terminal.width(), paint)


def details(one: dict[str, Any]) -> list[str]:
    """Return the lines of a run's details, with its tasks."""
    tasks = table_lines(tables.TASKS, tables.tasks(one["tasks"], datetime.now(UTC))) if one["tasks"] else []
    return [*tables.details(one), *([""] if tasks else []), *tasks]
