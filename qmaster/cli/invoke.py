"""The command ``invoke``: call a function with bytes, and print its output as it comes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import click

from ..errors import ConfigError
from . import answers
from .base import FAILED, Connection, client_command
from .client import Refused
from .descriptors import ERR, OUT
from .terminal import clean

STDIN = "-"
OF_FILE = "@"


@client_command("invoke")
@click.argument("name")
@click.argument("stdin", required=False, type=click.Choice([STDIN]), metavar="[-]")
@click.option("--data", metavar="TEXT|@FILE", help="The input: a text, or the bytes of a file.")
@click.option("--idempotency-key", metavar="KEY", help="Makes a retry safe: the same key is one call.")
async def invoke(to: Connection, name: str, stdin: str | None, data: str | None, idempotency_key: str | None) -> int:
    """Call the function NAME, and print its output as it comes.

    The input is that of --data, or with - that of standard input, else {}. The exit code is 1 if the function fails.
    """
    if stdin and data is not None:
        raise ConfigError("--data and - are two inputs: give one")
    payload = sys.stdin.buffer.read() if stdin else _read(data)
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    path = f"{answers.FUNCTIONS}/{quote(name, safe='')}/invoke"
    try:
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


async def _tell(to: Connection, error: Refused) -> None:
    """Write why the call failed, with what is known of it: the function's stack, or its instance's last lines."""
    if to.as_json:
        await to.screen.write(ERR, json.dumps(error.document).encode() + b"\n")
        return
    to.screen.say(str(error))
    more = error.document.get("stack") or error.document.get("last_lines")
    for line in more if isinstance(more, list) else ():
        await to.screen.write(ERR, "".join(f"  {clean_line(each)}\n" for each in _lines(line)).encode())


def _lines(entry: object) -> Iterable[str]:
    """Return an entry of a stack as lines; some runtimes make one of several."""
    return (entry if isinstance(entry, str) else json.dumps(entry)).splitlines()


def clean_line(text: str) -> str:
    """Return a line without control characters, with its indentation."""
    return text[: len(text) - len(text.lstrip(" "))] + clean(text)
