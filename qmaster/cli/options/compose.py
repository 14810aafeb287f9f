"""The options of ``run`` and ``deploy`` for fields that are shaped as in Compose, named as Docker's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

from ...errors import ConfigError
from ...models.requests import MAX_STDIN
from .values import DURATION, SIZE

OPTIONS = (
    click.option("--mode", type=click.Choice(["replicated", "global"]), help="Some replicas, or one on each node."),
    click.option("--init/--no-init", default=None, help="Whether a small init process is its first."),
    click.option("--stop-signal", metavar="SIGNAL", help="The signal that asks it to end."),
    click.option(
        "--stop-grace-period", type=DURATION, metavar="SECONDS", help="How long it may take to end before SIGKILL."
    ),
    click.option("--hostname", "-h", metavar="NAME", help="Its host name."),
    click.option("--add-host", "extra_hosts", multiple=True, metavar="NAME:ADDRESS", help="A host in its /etc/hosts."),
    click.option("--dns", multiple=True, metavar="ADDRESS", help="A DNS server."),
    click.option("--read-only/--no-read-only", default=None, help="Whether its file system is read-only."),
    click.option("--tmpfs", multiple=True, metavar="PATH[:OPTIONS]", help="A folder in memory, such as /tmp:size=64m."),
    click.option("--shm-size", type=SIZE, metavar="MIB", help="The size of /dev/shm."),
    click.option("--ulimit", "ulimits", multiple=True, metavar="NAME=SOFT[:HARD]", help="A ulimit; -1: none."),
    click.option("--volume", "-v", "volumes", multiple=True, metavar="NAME:PATH[:ro]", help="A volume, or a folder."),
    click.option("--config", "configs", multiple=True, metavar="NAME", help="A swarm config, at /NAME."),
    click.option(
        "--generic-resource", "generic_resources", multiple=True, metavar="KIND=N", help="What it reserves of its node."
    ),
    click.option("--gpus", metavar="N|all", help="GPUs of a container."),
    click.option("--interactive", "-i", "stdin", is_flag=True, help="Give it this standard input, a container only."),
)


def read(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the values that a request has in place of the texts of options.

    Raises:
        ConfigError: an option is wrong.
    """
    readers: dict[str, Callable[[Any], Any]] = {
        "ulimits": lambda given: dict(map(_ulimit, given)),
        "generic_resources": lambda given: {kind: _number(kind, number) for kind, number in _pairs(given)},
        "gpus": lambda given: given if given == "all" else _integer("--gpus", given),
    }
    return {field: readers[field](value) if field in readers else value for field, value in fields.items()}


def standard_input() -> str:
    """Return the standard input, which is to be a container's.

    Raises:
        ConfigError: it is too long, or not UTF-8.
    """
    data = sys.stdin.buffer.read(MAX_STDIN + 1)
    if len(data) > MAX_STDIN:
        raise ConfigError(f"--interactive: a container's standard input has at most {MAX_STDIN} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError("--interactive: the standard input is not UTF-8") from None


def _pairs(given: Iterable[str]) -> list[tuple[str, str]]:
    parts = [text.partition("=") for text in given]
    for kind, equals, _ in parts:
        if not equals:
            raise ConfigError(f"--generic-resource: expected KIND=N; got {kind!r}")
    return [(kind, number) for kind, _, number in parts]


def _number(kind: str, text: str) -> int:
    return _integer(f"--generic-resource: {kind}", text)


def _ulimit(text: str) -> tuple[str, Any]:
    name, _, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    first = _integer(f"--ulimit: {name}", soft)
    return name, {"soft": first, "hard": _integer(f"--ulimit: {name}", hard)} if colon else first


def _integer(what: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{what}: expected a whole number; got {text!r}") from None
