"""The command ``healthcheck``: whether the server on this machine is alive."""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from typing import Any

import click

from ..errors import ConfigError
from ..server import config
from .options.server import with_options

TIMEOUT = 4.0  # seconds


@click.command("healthcheck")
@with_options(*(option for option in config.OPTIONS if option.name in config.DOOR))
def healthcheck(**flags: Any) -> None:
    """Check whether the server on this machine is alive, and exit with 0 or 1. The options are the server's."""
    try:
        wrong = health_trouble(config.door(flags, os.environ))
    except ConfigError as error:
        wrong = str(error)
    click.echo(f"qmaster: {wrong}" if wrong else "alive", err=bool(wrong))
    sys.exit(1 if wrong else 0)


def health_trouble(door: config.Door) -> str | None:
    """Call ``/livez``, and return what is wrong; None if the server is alive.

    Not ``/readyz``: a restart does not bring an engine back, and breaks every subscriber's connection.
    """
    connection = _connect(door)
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
        return None if status == http.HTTPStatus.OK else f"/livez answers {status}"
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"nothing answers at {door.host}:{door.port}: {reason}"
    finally:
        connection.close()


def _connect(door: config.Door) -> http.client.HTTPConnection:
    if not door.tls:
        return http.client.HTTPConnection(door.host, door.port, timeout=TIMEOUT)
    # Nothing secret is sent, and a restart does not fix a certificate that has expired or has another name.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(door.host, door.port, timeout=TIMEOUT, context=context)
