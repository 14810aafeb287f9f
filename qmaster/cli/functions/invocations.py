"""The client's commands for asynchronous calls: ``invocations``, ``redrive`` and ``cancel``; how an end is shown."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import quote

import click

from ...errors import ConfigError
from .. import answers, tables
from ..base import FAILED, Connection, client_command, show, show_json, show_table
from ..client import ANSWER_WITHIN, LOOK_AGAIN, ClientError, Json, Query
from ..descriptors import ERR, OUT
from ..options.values import DURATION
from ..retries import RetryPolicy
from ..terminal import clean

PAGE = 1000  # what the server lists at most
LISTED = 100  # if there is no --limit
OVER = frozenset({"succeeded", "dead", "cancelled"})


@client_command("invocations")
@click.argument("id", required=False)
@click.option("--function", metavar="NAME", help="Only of this function.")
@click.option(
    "--status",
    metavar="STATUS",
    help="Only those that are queued, running, succeeded, dead or cancelled; one of these.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help=f"How many at most. [{LISTED}]")
@click.option("--quiet", "-q", is_flag=True, help="Print the ids only.")
@click.option("--wait", type=DURATION, metavar="SECONDS", help="Wait for the end of ID that long.")
async def invocations(
    to: Connection,
    id: str | None,  # noqa: A002 - what click calls it in its usage
    limit: int | None,
    quiet: bool,
    wait: float | None,
    **filters: str | None,
) -> int:
    """List asynchronous calls, the newest first, or show ID with its attempts and its output."""
    query = [(name, value) for name, value in filters.items() if value is not None]
    if id is None:
        if wait is not None:
            raise ConfigError("invocations: --wait needs an ID")
        return await _list(to, query, LISTED if limit is None else limit, quiet)
    if query or limit is not None:
        raise ConfigError("invocations: filters cannot be combined with an ID")
    one = await (to.client.call("GET", path_of(id)) if wait is None else when_over(to, id, wait))
    if quiet:
        show(one["id"])
    elif to.as_json:
        show_json(one)
    else:
        for line in tables.invocation(one):
            show(line)
        if one["attempts"]:
            show("")
            show_table(tables.ATTEMPTS, tables.attempts(one["attempts"]))
    return 0


async def _list(to: Connection, query: Query, limit: int, quiet: bool) -> int:
    """List so many calls, page by page."""
    found: list[Json] = []
    page: str | None = ""
    while page is not None and len(found) < limit:
        more = [("limit", str(min(limit - len(found), PAGE))), *([("page", page)] if page else [])]
        answer = await to.client.call("GET", answers.INVOCATIONS, query=[*query, *more])
        found += answer["invocations"]
        page = answer["next_page"]
    if quiet:
        for one in found:
            show(one["id"])
    elif to.as_json:
        show_json({"success": True, "invocations": found, "next_page": page})
    else:
        show_table(tables.INVOCATIONS, tables.invocations(found, datetime.now(UTC)))
    return 0


@client_command("redrive")
@click.argument("ids", nargs=-1, metavar="ID…")
@click.option("--all", "function", metavar="NAME", help="All dead calls of this function, the oldest first.")
async def redrive(to: Connection, ids: tuple[str, ...], function: str | None) -> int:
    """Try dead asynchronous calls again; print each ID once it is queued, or with --all how many are."""
    if bool(ids) == (function is not None):
        raise ConfigError("redrive: expected IDs, or --all NAME")
    return await (_change(to, "POST", "/redrive", ids) if function is None else _redrive_all(to, function))


async def _redrive_all(to: Connection, function: str) -> int:
    """Redrive step by step; from the second on, try again for some minutes if the queue is full or the server away."""
    retry_policy = RetryPolicy(to.screen.say)
    page: str | None = ""
    count = 0
    while page is not None:
        step = partial(to.client.call, "POST", redrive_path(function), query=[("page", page)] if page else [])
        try:
            answer = await retry_policy.call(step)
        except ClientError as error:
            if not count:
                raise
            to.screen.say(f"{count} calls are queued again, the others are not: {error}")
            return FAILED
        count, page = count + answer["redriven"], answer["next_page"]
    show_json({"success": True, "redriven": count}) if to.as_json else show(str(count))
    return 0


@client_command("cancel")
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
async def cancel(to: Connection, ids: tuple[str, ...]) -> int:
    """Cancel asynchronous calls that wait; print each ID once it is cancelled."""
    return await _change(to, "DELETE", "", ids)


async def _change(to: Connection, method: str, suffix: str, ids: Sequence[str]) -> int:
    code = 0
    for one in ids:
        try:
            answer = await to.client.call(method, path_of(one) + suffix)
        except ClientError as error:
            to.screen.say(f"{one}: {error}")
            code = FAILED
        else:
            show_json(answer) if to.as_json else show(answer["id"])
    return code


# --- the end of one ---------------------------------------------------------------------------------------------------


def redrive_path(function: str) -> str:
    """Return the path that redrives the dead calls of a function."""
    return f"{answers.FUNCTIONS}/{quote(function, safe='')}/redrive"


def path_of(invocation_id: str) -> str:
    """Return the path of an asynchronous call."""
    return f"{answers.INVOCATIONS}/{quote(invocation_id, safe='')}"


async def when_over(to: Connection, invocation_id: str, seconds: float) -> Json:
    """Return an asynchronous call once it is over, or after so many seconds; the server may restart meanwhile."""
    until = time.monotonic() + seconds
    retry_policy = RetryPolicy(to.screen.say)
    retry_policy.succeeded()

    async def ask() -> Json:
        left = max(0.0, until - time.monotonic())
        query = [("wait", f"{left:.3f}")]
        return await to.client.call("GET", path_of(invocation_id), query=query, within=left + ANSWER_WITHIN)

    one = await retry_policy.call(ask)
    while one["status"] not in OVER and time.monotonic() < until:  # a server that stops answers early
        await asyncio.sleep(LOOK_AGAIN)
        one = await retry_policy.call(ask)
    return one


async def print_end(to: Connection, one: Json) -> int:
    """Print the output of an asynchronous call, or why there is none; return the exit code."""
    code = 0 if one["status"] == "succeeded" else FAILED
    if to.as_json:
        show_json(one)
    elif code == 0:
        await to.screen.write(OUT, output(one))
    elif one["error"] is not None:
        to.screen.say(f"the function failed: {one['error']['type']}: {one['error']['message']}")
        await print_lines(to, one["error"].get("stack"))
    elif one["status"] in OVER:
        to.screen.say(f"the call {one['id']} was {one['status']}")
    else:
        to.screen.say(f"the call {one['id']} is still {one['status']}; see qmaster invocations {one['id']}")
    return code


def output(one: Json) -> bytes:
    """Return the output of an asynchronous call: its text, its bytes, or its JSON value on one line."""
    if "output_base64" in one:
        return base64.b64decode(one["output_base64"])
    value = one.get("output")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return (text if text.endswith("\n") else text + "\n").encode(errors="replace")


async def print_lines(to: Connection, lines: Any) -> None:
    """Write a stack, or the last lines of an instance, to standard error."""
    for line in lines if isinstance(lines, list) else ():
        await to.screen.write(ERR, "".join(f"  {clean_line(each)}\n" for each in _lines(line)).encode())


def _lines(entry: object) -> list[str]:
    """Return an entry of a stack as lines; some runtimes make one of several."""
    return (entry if isinstance(entry, str) else json.dumps(entry)).splitlines()


def clean_line(text: str) -> str:
    """Return a line without control characters, with its indentation."""
    return text[: len(text) - len(text.lstrip(" "))] + clean(text)
