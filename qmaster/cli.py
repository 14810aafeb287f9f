"""The command line: ``python -m qmaster`` serves."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from . import __version__, config, healthcheck, log, server
from .errors import ConfigError

USAGE_ERROR = 2


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(config.OPTIONS):
        default = f" [default: {option.default}]" if option.default else ""
        command = click.option(option.flag, option.name, default=None, help=f"{option.help} [{option.env}]{default}")(
            command
        )
    return command


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="quartermaster")
@click.pass_context
@_with_options
def main(context: click.Context, **flags: Any) -> None:
    """Run functions and jobs on Docker and Docker Swarm over HTTP, with a token.

    Without a command it serves. Each option is a flag or an environment variable; the flag wins.
    """
    if context.invoked_subcommand is None:
        _serve(flags)


def _serve(flags: Mapping[str, str | None]) -> None:
    try:
        settings = config.load(flags, os.environ)
        log.configure(settings.log_format, [settings.token])
        asyncio.run(server.serve(settings))
        _leave()
    except ConfigError as error:
        click.echo(f"qmaster: {error}", err=True)
        sys.exit(USAGE_ERROR)


def _leave() -> None:
    """End without a wait for the threads: nothing is open any more, but a silent engine would hold one for 25 s."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@main.command("healthcheck")
@click.pass_context
def check_health(context: click.Context) -> None:
    """Ask the server with these options, on this machine, whether it is alive: the exit code is 0 or 1.

    The options stand before the command, or in the environment: `python -m qmaster --port 9091 healthcheck`.
    """
    sys.exit(healthcheck.check(context.parent.params if context.parent else {}))
