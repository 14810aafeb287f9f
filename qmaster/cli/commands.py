"""The client's commands: their options, and what they print."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from ..errors import ConfigError
from . import descriptors, streams, tables, watching
from .answers import DRY_RUN
from .base import FAILED, Connection, OfJob, client_command, details, show, show_json, show_table
from .client import ClientError, Json, Lost
from .options import compose as compose_options
from .options.fields import with_fields
from .options.values import FILE
from .retries import RetryPolicy
from .run import OWN_FAILURE, LineWriter, Run, Signals, body_of

FILTERS = ("status", "name", "label", "owner", "reason", "outcome", "image", "since", "until", "limit", "page", "all")
UNREAD = (
    "standard input has data, which a service cannot take: use --type container, COMMAND or --env, or write "
    "</dev/null if it is meant for something else"
)


# --- run --------------------------------------------------------------------------------------------------------------


@client_command(
    "run",
    (OWN_FAILURE, OWN_FAILURE),
    cls=OfJob,
    context_settings={"allow_interspersed_args": False},
)
@click.argument("image")
@click.argument("command", nargs=-1)
@with_fields
@click.option(
    "--auth-file", metavar=FILE, help="The registry's credentials, as JSON or base64; - reads them [QMASTER_AUTH]."
)
@click.option(
    "--idempotency-key", metavar="KEY", help="Start only one run, even if the call is repeated with this key."
)
@click.option("--detach", "-d", is_flag=True, help="Print the id, and do not wait for the end.")
@click.option("--dry-run", is_flag=True, help="Only check it, and print what would be run.")
async def run(
    to: Connection,
    image: str,
    command: tuple[str, ...],
    idempotency_key: str | None,
    detach: bool,
    dry_run: bool,
    **fields: Any,
) -> int:
    """Run IMAGE, or COMMAND in it: follow its output, and exit with its exit code.

    Ctrl-C stops the job; a second one does not wait for its end. The exit code is 124 after --timeout, 125 if the job
    has no exit code, and 130 after Ctrl-C. With --json, the output is in the document that is printed at the end.
    """
    if fields["stdin"] and fields["auth_file"] == "-":
        raise ConfigError("--interactive and --auth-file - both read standard input; put the credentials into a file")
    if fields.pop("stdin") or (fields["type"] == "container" and fields["auth_file"] != "-" and descriptors.has_data()):
        fields["stdin"] = compose_options.standard_input()
    elif fields["auth_file"] != "-" and descriptors.has_data():
        raise ConfigError(UNREAD)
    if idempotency_key is not None and not idempotency_key.isprintable():
        raise ConfigError("--idempotency-key: expected printable characters, on one line")
    body = body_of(image, command, fields, os.environ)
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}
    if dry_run:
        return _show_dry_run(to, await to.client.call("POST", DRY_RUN, body, headers=headers))
    signals = Signals()
    job = Run(to.client, to.screen, signals, as_json=to.as_json)
    if detach:
        answer = await job.start(body, headers)
        show_json(answer) if to.as_json else show(answer["id"])
        return 0
    with signals.listening():
        return await job.to_its_end(body, headers)


def _show_dry_run(to: Connection, answer: Json) -> int:
    if to.as_json:
        show_json(answer)
        return 0
    for warning in answer["warnings"]:
        to.screen.say(f"warning: {warning}")
    for line in tables.spec({**answer["spec"], "image": answer["image"]}):
        show(line)
    return 0


# --- stop, status, nodes ----------------------------------------------------------------------------------------------


@client_command("stop")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
async def stop(to: Connection, ids: tuple[str, ...]) -> int:
    """Stop and remove services and containers, by id or name; print each ID once its stop is accepted.

    rm is another name of this command.
    """
    code = 0
    for one in ids:
        try:
            answer = await to.client.call("POST", "/stop", {"id": one})
        except ClientError as error:
            to.screen.say(f"{one}: {error}")
            code = FAILED
        else:
            show_json(answer) if to.as_json else show(answer["id"])
    return code


@client_command("status")
@click.argument("id", required=False)
@click.option("--status", multiple=True, metavar="STATUS", help="Only with this status; several: any of them.")
@click.option("--name", multiple=True, help="Only with this name, where * is any text; several: any of them.")
@click.option("--label", "-l", multiple=True, metavar="KEY[=VALUE]", help="Only with this label.")
@click.option("--owner", multiple=True, metavar="TOKEN", help="Only of this token; several: any of them.")
@click.option("--reason", multiple=True, metavar="REASON", help="Only with this reason; several: any.")
@click.option("--outcome", multiple=True, metavar="OUTCOME", help="Only complete, failed or stopped; several: any.")
@click.option("--image", multiple=True, help="Only of this image, of any tag if it has none; several: any.")
@click.option("--since", metavar="TIME", help="Only what was created then or later: a time, a day, or 90m ago.")
@click.option("--until", metavar="TIME", help="Only what was created before.")
@click.option("--limit", type=int, metavar="N", help="How many at most.")
@click.option("--page", metavar="CURSOR", help="Go on behind the last one of an earlier list.")
@click.option("--all", "-a", is_flag=True, help="Also those that were removed.")
@click.option("--quiet", "-q", is_flag=True, help="Print the ids only.")
@click.option("--watch", "-w", is_flag=True, help="Show it again at each change, until Ctrl-C.")
async def status(
    to: Connection,
    id: str | None,  # noqa: A002 - what click calls it in its usage
    quiet: bool,
    watch: bool,
    **filters: Any,
) -> int:
    """List all services and containers, the newest first, or show the details of ID.

    ps and ls are other names of this command.
    """
    if watch and quiet:
        raise ConfigError("status: --watch and --quiet cannot be combined")
    if id is not None:
        if any(value not in ((), None, False) for value in filters.values()):
            raise ConfigError("status: filters cannot be combined with an ID")
        if watch:
            return await watching.watch_one(to, id)
        return _show_one(await to.client.call("GET", f"/status/{quote(id, safe='')}"), to.as_json, quiet)
    if watch:
        return await watching.watch_list(to, _query(filters))
    answer = await to.client.call("GET", "/status", query=_query(filters))
    if quiet:
        sys.stdout.writelines(one["id"] + "\n" for one in answer["services"])
        sys.stdout.flush()
    elif to.as_json:
        show_json(answer)
    else:
        show_table(tables.SERVICES, tables.services(answer["services"], datetime.now(UTC)))
    if answer.get("next_page") and not (quiet or to.as_json):
        to.screen.say(f"there are more: --page {answer['next_page']}")
    return 0


def _query(filters: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the query of a listing from its options."""
    given = {name: filters[name] for name in FILTERS}
    several = {name: value if isinstance(value, tuple) else (value,) for name, value in given.items()}
    pairs = [(name, one) for name, some in several.items() for one in some if one is not None and one is not False]
    return [(name, "1" if one is True else str(one)) for name, one in pairs]


def _show_one(one: Json, as_json: bool, quiet: bool) -> int:
    if quiet:
        show(one["id"])
    elif as_json:
        show_json(one)
    else:
        for line in details(one):
            show(line)
    return 0


@client_command("nodes")
async def nodes(to: Connection) -> int:
    """List the swarm's nodes, with what is reserved on each; * is the leader."""
    answer = await to.client.call("GET", "/nodes")
    if to.as_json:
        show_json(answer)
    else:
        show_table(tables.NODES, tables.nodes(answer["nodes"]))
    return 0


# --- logs, events -----------------------------------------------------------------------------------------------------


@client_command("logs")
@click.argument("id")
@click.option("--follow", "-f", is_flag=True, help="Follow it until it ends.")
@click.option("--tail", "-n", type=int, metavar="N", help="The last N lines.")
@click.option("--timestamps", "-t", is_flag=True, help="Show the time before each line.")
@click.option("--stream", type=click.Choice(["stdout", "stderr"]), help="Only this stream.")
async def logs(
    to: Connection,
    id: str,  # noqa: A002 - what click calls it in its usage
    follow: bool,
    tail: int | None,
    timestamps: bool,
    stream: str | None,
) -> int:
    """Show the output of ID, on standard output and standard error; with --json, a document for each line."""
    query = {**({"tail": str(tail)} if tail is not None else {}), **({"stream": stream} if stream else {})}
    writer = LineWriter(to.screen, as_json=to.as_json, timestamps=timestamps)
    async for line in streams.logs(to.client, id, query, follow, RetryPolicy(to.screen.say)):
        await writer.write(line)
    return 0


@client_command("events")
@click.option("--since", default="", metavar="CURSOR", help="Begin after the event with this cursor, not now.")
@click.option("--service", metavar="ID", help="Only of this service or container.")
@click.option(
    "--label",
    "-l",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only of services and containers with this label.",
)
@click.option(
    "--topic", "topics", multiple=True, help="Only service, task, node, function or invocation; several: any of them."
)
async def events(
    to: Connection, since: str, service: str | None, labels: tuple[str, ...], topics: tuple[str, ...]
) -> int:
    """Print a line for each change from now on, until Ctrl-C; with --json, CloudEvents, whose id is the cursor."""
    query = [("label", label) for label in labels]
    query += [("service", service)] if service else []
    query += [("topic", ",".join(topics))] if topics else []
    async for frame in streams.events(to.client, query, since, RetryPolicy(to.screen.say)):
        if frame.kind == "gap" and frame.data.get("resumed"):
            to.screen.say("another quartermaster continues; it may repeat some changes")
        elif frame.kind == "gap":
            to.screen.say(f"a gap: what happened after {frame.data['from']} is not known ({frame.data['reason']})")
        elif frame.kind.startswith("io.qmaster."):
            show_json(frame.data) if to.as_json else show(tables.event(frame.data))
    raise Lost("the stream has ended")
