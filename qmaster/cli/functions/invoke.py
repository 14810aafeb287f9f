"""The command ``invoke``: call a function with bytes, and print its output as it comes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ...errors import ConfigError
from .. import answers
from ..base import FAILED, Connection, client_command, show, show_json
from ..client import ClientError, Refused
from ..descriptors import ERR, OUT
from ..options.values import DURATION
from .invocations import print_end, print_lines, when_over

STDIN = "-"
OF_FILE = "@"


@client_command("invoke")
@click.argument("name")
@click.argument("stdin", required=False, type=click.Choice([STDIN]), metavar="[-]")
@click.option("--data", metavar="TEXT|@FILE", help="The input: a text, or the bytes of a file.")
@click.option("--idempotency-key", metavar="KEY", help="Makes a retry safe: the same key is one call.")
@click.option("--async", "later", is_flag=True, help="Have the call made later, and print its id.")
@click.option(
    "--wait", type=DURATION, metavar="SECONDS", help="With --async: wait for the end that long, and print the output."
)
async def invoke(
    to: Connection, name: str, stdin: str | None, data: str | None, idempotency_key: str | None, **asynchronous: Any
) -> int:
    """Call the function NAME, and print its output as it comes.

    The input is that of --data, or with - that of standard input, else {}. The exit code is 1 if the function fails.
    With --async, the server keeps the call, tries it again if it fails, and keeps its output.
    """
    if stdin and data is not None:
        raise ConfigError("--data and - are two inputs: give one")
    later, wait = asynchronous["later"], asynchronous["wait"]
    if wait is not None and not later:
        raise ConfigError("--wait is for --async: give both")
    payload = sys.stdin.buffer.read() if stdin else _read(data)
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    path = f"{answers.FUNCTIONS}/{quote(name, safe='')}/invoke"
    try:
        if later:
            return await _later(to, path, payload, headers, wait)
        async with to.client.stream("POST", path, payload, headers=headers) as response:
            async for piece in response.pieces():
                await to.screen.write(OUT, piece)
    except Refused as error:
        await _tell(to, error)
        return FAILED
    return 0


def _read(data: str | None) -> bytes:
    """Return the input.

    Raises:
        ConfigError: the file cannot be read.
    """
    if data is None or not data.startswith(OF_FILE):
        return (data or "").encode()
    path = data.removeprefix(OF_FILE)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"--data: cannot read {path}: {error.strerror}") from None


async def _later(to: Connection, path: str, payload: bytes, headers: dict[str, str], wait: float | None) -> int:
    """Have the call made later; print its id, or wait for its end and print its output."""
    answer = await to.client.call("POST", path, payload, headers={**headers, "Prefer": "respond-async"})
    if wait is None:
        show_json(answer) if to.as_json else show(answer["id"])
        return 0
    try:
        return await print_end(to, await when_over(to, answer["id"], wait))
    except ClientError:
        to.screen.say(f"the call {answer['id']} was accepted; see qmaster invocations {answer['id']}")
        raise


async def _tell(to: Connection, error: Refused) -> None:
    """Write why the call failed, with what is known of it: the function's stack, or its instance's last lines."""
    if to.as_json:
        await to.screen.write(ERR, json.dumps(error.document).encode() + b"\n")
        return
    to.screen.say(str(error))
    await print_lines(to, error.document.get("stack") or error.document.get("last_lines"))
