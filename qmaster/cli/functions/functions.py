"""The client's commands for functions: ``deploy``, ``functions``, ``rollback`` and ``undeploy``."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click
import msgspec

from ...errors import ConfigError
from ...models.requests import RunFields
from .. import answers, tables
from ..base import FAILED, Connection, client_command, show, show_json, show_table
from ..client import ClientError, Json
from ..commands import run
from ..options.values import DURATION
from ..run import fields_of


def _schedule(text: str) -> Json:
    """Return a schedule, given its cron expression or its fields.

    Raises:
        ConfigError: the fields are no JSON object.
    """
    if not text.lstrip().startswith("{"):
        return {"cron": text}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise ConfigError(f"--schedule: {error}") from None


# The options that a run and a function share.
_NAMES = {*RunFields.__struct_fields__, "env_files"}
SHARED = [each for each in run.params if isinstance(each, click.Option) and each.name in _NAMES]
OWN = (
    click.option("--runtime", type=click.Choice(["lambda", "job"]), help="How instances get their calls. [lambda]"),
    click.option("--min-instances", type=int, metavar="N", help="Instances that each server keeps warm."),
    click.option("--max-instances", type=int, metavar="N", help="Instances of each server at most."),
    click.option("--concurrency", type=int, metavar="N", help="Calls that an instance takes at once."),
    click.option("--idle", type=DURATION, metavar="SECONDS", help="End an instance after that long without a call."),
    click.option("--timeout", type=DURATION, metavar="SECONDS", help="The time limit of a call."),
    click.option(
        "--init-timeout",
        type=DURATION,
        metavar="SECONDS",
        help="The time limit of an instance until its first call.",
    ),
    click.option("--queue", type=int, metavar="N", help="Calls that may wait for an instance."),
    click.option("--retries", type=int, metavar="N", help="Attempts of an asynchronous call after the first one."),
    click.option("--max-age", type=DURATION, metavar="SECONDS", help="Give an asynchronous call up after that long."),
    click.option(
        "--retry-delay",
        type=DURATION,
        metavar="SECONDS",
        help="Time before the second attempt; doubled for each further one.",
    ),
    click.option("--on-success", metavar="URL", help="A URL that is told of asynchronous calls that succeeded."),
    click.option("--on-failure", metavar="URL", help="A URL that is told of asynchronous calls that are dead."),
    click.option(
        "--schedule",
        "schedules",
        multiple=True,
        metavar="CRON",
        help="Call it when this is due, in UTC; or the schedule's fields as a JSON object.",
    ),
    click.option(
        "--function-url",
        "url_of_function",
        type=click.Choice(["none", "token", "public"]),
        help="A function URL: for callers with a token, or for everyone.",
    ),
)


def _with_own(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OWN):
        function = option(function)
    return function


@client_command("deploy", params=list(SHARED), context_settings={"allow_interspersed_args": False})
@click.argument("name")
@click.argument("image")
@click.argument("command", nargs=-1)
@_with_own
async def deploy(
    to: Connection, name: str, image: str, command: tuple[str, ...], url_of_function: str | None, **fields: Any
) -> int:
    """Publish IMAGE, or COMMAND in it, as the function NAME: its first version, or the next.

    The same again changes nothing. A private image needs the server's --registry-auth-file.
    """
    fields["schedules"] = [_schedule(each) for each in fields["schedules"]]
    body = fields_of(image, command, fields, os.environ)
    body |= {} if url_of_function is None else {"url": url_of_function}
    return _show_published(to, await to.client.call("PUT", _path(name), body))


@client_command("functions")
@click.argument("name", required=False)
async def functions(to: Connection, name: str | None) -> int:
    """List the functions, by name, or show NAME with its versions."""
    if name is None:
        answer = await to.client.call("GET", "/functions")
        if to.as_json:
            show_json(answer)
        else:
            show_table(tables.FUNCTIONS, tables.functions(answer["functions"], datetime.now(UTC)))
        return 0
    one = await to.client.call("GET", _path(name))
    if to.as_json:
        show_json(one)
        return 0
    versions = await to.client.call("GET", f"{_path(name)}/versions")
    for line in tables.function(one):
        show(line)
    show("")
    show_table(tables.VERSIONS, tables.versions(versions["versions"], datetime.now(UTC)))
    return 0


@client_command("schedules")
async def schedules(to: Connection) -> int:
    """List the schedules of the functions: when each was due last, and when it is due next, in UTC."""
    listed = (await to.client.call("GET", answers.FUNCTIONS))["functions"]
    if to.as_json:
        for one in listed:
            for each in one.get("schedules", ()):
                show_json({"function": one["name"], **each})
    else:
        show_table(tables.SCHEDULES, tables.schedules(listed))
    return 0


@client_command("rollback")
@click.argument("name")
@click.argument("version", type=int)
async def rollback(to: Connection, name: str, version: int) -> int:
    """Publish VERSION of the function NAME again, with its image, as the newest."""
    return _show_published(to, await to.client.call("POST", f"{_path(name)}/rollback", {"version": version}))


@client_command("undeploy")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
async def undeploy(to: Connection, names: tuple[str, ...]) -> int:
    """Delete functions with all their versions; print each NAME once it takes no more calls."""
    code = 0
    for name in names:
        try:
            answer = await to.client.call("DELETE", _path(name))
        except ClientError as error:
            to.screen.say(f"{name}: {error}")
            code = FAILED
        else:
            show_json(answer) if to.as_json else show(name)
    return code


def _path(name: str) -> str:
    return f"{answers.FUNCTIONS}/{quote(name, safe='')}"


def _show_published(to: Connection, answer: Json) -> int:
    for warning in answer.get("warnings", ()):
        to.screen.say(f"warning: {warning}")
    show_json(answer) if to.as_json else show(f"{answer['name']} version {answer['version']}")
    return 0
