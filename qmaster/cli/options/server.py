"""The server's options as options of a command."""

from __future__ import annotations

from collections.abc import Callable

import click

from ...server import config


def with_options(*options: config.Option) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds these options, each with its variable and default, to a click command."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            default = f" [default: {option.default}]" if option.default else ""
            text = f"{option.help} [{option.env}]{default}"
            command = click.option(option.flag, option.name, default=None, help=text)(command)
        return command

    return decorate
