"""The options of ``run`` that are fields of a run, named as docker's where docker has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ...server.config import NEVER
from .compose import OPTIONS
from .values import DURATION, FILE, SIZE, Duration, Word

FIELDS = (
    click.option(
        "--type",
        type=click.Choice(["service", "container"]),
        help="A service on any node, or a container on the server's engine.",
    ),
    click.option("--name", help="Up to 63 letters, digits, - and _."),
    click.option(
        "--env",
        "-e",
        multiple=True,
        metavar="NAME[=VALUE]",
        help="An environment variable; without VALUE, the value it has here.",
    ),
    click.option(
        "--env-file",
        "env_files",
        multiple=True,
        metavar=FILE,
        help="A file with a NAME=VALUE on each line; --env wins.",
    ),
    click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", help="A label."),
    click.option("--workdir", "-w", metavar="PATH", help="The working directory."),
    click.option("--user", "-u", metavar="USER[:GROUP]", help="The user it runs as."),
    click.option("--entrypoint", metavar="COMMAND", help="Replaces the image's ENTRYPOINT."),
    click.option("--memory", "-m", type=SIZE, metavar="MIB", help="The memory limit and reservation."),
    click.option("--cpus", type=float, metavar="N", help="The processor limit, and for services the reservation."),
    click.option("--replicas", type=int, metavar="N", help="How many run at once."),
    click.option("--restart", type=Word(["none", "on-failure", "any"]), help="When it is restarted."),
    click.option("--max-attempts", type=int, metavar="N", help="How many restarts at most."),
    click.option("--restart-delay", type=DURATION, metavar="SECONDS", help="How long a restart waits."),
    click.option(
        "--restart-window",
        type=DURATION,
        metavar="SECONDS",
        help="Count only the restarts of this long towards the most.",
    ),
    click.option(
        "--constraint",
        "constraints",
        multiple=True,
        metavar="RULE",
        help="A placement constraint, such as node.role==worker.",
    ),
    click.option("--network", "networks", multiple=True, metavar="NAME", help="A swarm network to join."),
    click.option("--secret", "secrets", multiple=True, metavar="NAME", help="A swarm secret, in /run/secrets/."),
    click.option(
        "--port",
        "-p",
        "ports",
        multiple=True,
        metavar="8080:80[/udp]",
        help="Publish a port on every node; /tcp, /udp or /sctp.",
    ),
    click.option("--timeout", type=DURATION, metavar="SECONDS", help="End it after running that long."),
    click.option("--ttl", type=Duration(NEVER), metavar="SECONDS|never", help="Remove it that long after its end."),
    click.option("--callback", metavar="URL", help="A URL that is told of its end."),
    click.option("--pids-limit", type=int, metavar="N", help="Processes at most; 0: no limit."),
    click.option(
        "--cap-drop",
        multiple=True,
        metavar="NAME",
        help="A Linux capability to drop, or ALL; replaces the default three.",
    ),
    click.option(
        "--no-new-privileges/--new-privileges", default=None, help="Whether set-user-ID programs can gain privileges."
    ),
    click.option("--healthcheck/--no-healthcheck", default=None, help="The image's HEALTHCHECK, on or off."),
    click.option("--pull", "pull_policy", type=Word(["always", "missing", "never"]), help="When the image is pulled."),
    *OPTIONS,
)


def with_fields(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(FIELDS):
        function = option(function)
    return function
