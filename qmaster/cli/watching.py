"""``wait``, and ``status --watch``: what becomes of runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

import click

from . import streams, tables, terminal
from .base import Connection, OfJob, client_command, details, show, show_json, table_lines
from .client import ClientError, Json, Query
from .descriptors import OUT
from .retries import RetryPolicy
from .run import OWN_FAILURE, before, exit_code, remark, until_over

AT_ONCE = 32  # calls that wait
PAUSE = 0.5  # seconds between two looks: many changes come together
AGES = 5.0  # seconds until a terminal's ages are drawn again
TOP = "\x1b[H\x1b[2J\x1b[3J"  # clears a terminal
QUIET = frozenset({"hello", "heartbeat"})  # frames that tell no change


# --- wait -------------------------------------------------------------------------------------------------------------


@client_command("wait", (OWN_FAILURE, OWN_FAILURE), cls=OfJob)
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
async def wait(to: Connection, ids: tuple[str, ...]) -> int:
    """Wait until services and containers have ended, and print the exit code of each, in the order of the IDs.

    The command exits with the first of them that is not 0, or with 0. As for run, 124 stands for a job that ran longer
    than its timeout, and 125 for one that has no exit code or cannot be shown. With --json, it prints the status of
    each. Ctrl-C ends the wait alone.
    """
    retry_policy, slots = RetryPolicy(to.screen.say), asyncio.Semaphore(AT_ONCE)

    async def end(one: str) -> Json | ClientError:
        async with slots:
            try:
                return await until_over(to.client, one, retry_policy, with_result=to.as_json)
            except ClientError as error:
                return error

    codes = [
        _conclude(to, one, await ending) for one, ending in [(one, asyncio.ensure_future(end(one))) for one in ids]
    ]
    return next(filter(None, codes), 0)


def _conclude(to: Connection, one: str, ended: Json | ClientError) -> int:
    """Print how a job ended, and return its exit code."""
    if isinstance(ended, ClientError):
        to.screen.say(f"{one}: {ended}")
        return OWN_FAILURE
    said, code = remark(ended, one), exit_code(ended)
    if said is not None:
        to.screen.say(said)
    show_json(ended) if to.as_json else show(str(code))
    return code


# --- status --watch ---------------------------------------------------------------------------------------------------


async def watch_list(to: Connection, query: Query) -> int:
    """Show a listing at each change, until Ctrl-C."""
    query = list(query)

    async def ask() -> list[Json]:
        return list((await to.client.call("GET", "/status", query=query))["services"])

    def draw(listed: Sequence[Json]) -> list[str]:
        return table_lines(tables.SERVICES, tables.services(listed, datetime.now(UTC)))

    labels = [(name, value) for name, value in query if name == "label" and "=" in value]
    return await _Watch(to, ask, draw).follow([("topic", "service"), *labels])


async def watch_one(to: Connection, name_or_id: str) -> int:
    """Show a service or a container at each change, until Ctrl-C."""
    first = await to.client.call("GET", f"/status/{quote(name_or_id, safe='')}")

    async def ask() -> list[Json]:
        return [await to.client.call("GET", f"/status/{first['id']}")]

    def draw(listed: Sequence[Json]) -> list[str]:
        return details(listed[0])

    return await _Watch(to, ask, draw).follow([("service", first["id"])])


class _Watch:
    """Runs that are asked for again when an event tells of a change.

    A terminal is drawn anew. Elsewhere, the runs that have changed are printed: as rows of a table, or as JSON.

    Args:
        to: the server, and the form of the output.
        ask: returns the runs.
        draw: returns the lines for a terminal.
    """

    def __init__(
        self, to: Connection, ask: Callable[[], Awaitable[list[Json]]], draw: Callable[[Sequence[Json]], list[str]]
    ) -> None:
        self._to = to
        self._ask = ask
        self._draw = draw
        self._retry_policy = RetryPolicy(to.screen.say)
        self._changed = asyncio.Event()
        self._shown: dict[str, Json] | None = None  # by id; None: nothing yet
        self._on_terminal = terminal.is_terminal(OUT) and os.environ.get("TERM") != "dumb" and not to.as_json

    async def follow(self, query: Query) -> int:
        """Show the runs until the server refuses it, or is away for too long.

        Args:
            query: the filters of the events.
        """
        telling = asyncio.create_task(self._listen(query))
        try:
            while True:
                self._show(await self._retry_policy.call(self._ask))
                if await self._is_over(telling):
                    return await telling
                await asyncio.sleep(PAUSE)
                self._changed.clear()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _listen(self, query: Query) -> int:
        async for frame in streams.events(self._to.client, query, "", self._retry_policy):
            if frame.kind not in QUIET:
                self._changed.set()
        return 0

    async def _is_over(self, telling: asyncio.Task[int]) -> bool:
        """Wait for a change, or for the time to draw again; return whether no more changes come."""
        try:
            async with asyncio.timeout(AGES if self._on_terminal else None):
                return await before(telling, self._changed)
        except TimeoutError:
            return False

    def _show(self, listed: list[Json]) -> None:
        if self._on_terminal:
            rows = max(2, terminal.height() - 1)
            show(TOP + "\n".join(self._draw(listed)[:rows]))
            return
        if self._to.as_json:
            for one in filter(self._is_new, listed):
                show_json(one)
        else:
            # In the columns of all, so that rows stand below each other.
            head, *lines = tables.table(tables.SERVICES, tables.services(listed, datetime.now(UTC)), None)
            if self._shown is None:
                show(head)
            for one, line in zip(listed, lines, strict=True):
                if self._is_new(one):
                    show(line)
        self._shown = {one["id"]: _row(one) for one in listed}

    def _is_new(self, one: Json) -> bool:
        return self._shown is None or self._shown.get(one["id"]) != _row(one)


def _row(one: Json) -> Json:
    """Return what a row of the table shows, but for the age."""
    return {name: one[name] for name in ("status", "exit_code", "replicas", "image", "command", "name")}
