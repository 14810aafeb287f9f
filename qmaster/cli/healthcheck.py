"""A look at a running server from its own machine, for those who restart it when it is stuck."""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

from ..errors import ConfigError
from ..server import config

TIMEOUT = 4.0  # seconds


def check(flags: Mapping[str, str | None] | None = None) -> int:
    """Ask the server with these options, and those of the environment, whether it is alive; the exit code, 0 or 1."""
    try:
        wrong = trouble(config.door(flags or {}, os.environ))
    except ConfigError as error:
        wrong = str(error)
    (sys.stderr if wrong else sys.stdout).write(f"qmaster: {wrong}\n" if wrong else "alive\n")
    return 1 if wrong else 0


def trouble(door: config.Door) -> str | None:
    """Ask ``/livez``; None when the server is alive, else what is wrong.

    Not ``/readyz``: a restart does not bring an engine back, and costs all who read the stream their connection.
    """
    connection = _connect(door)
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
        return None if status == http.HTTPStatus.OK else f"/livez answers {status}"
    except (OSError, http.client.HTTPException) as error:
        return f"nothing answers at {door.host}:{door.port}: {_reason(error)}"
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    """In words: an ``OSError`` has its number in front of them."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _connect(door: config.Door) -> http.client.HTTPConnection:
    if not door.tls:
        return http.client.HTTPConnection(door.host, door.port, timeout=TIMEOUT)
    # Nothing secret is sent, and a certificate that has expired or is another's is not mended by a restart.
    context = ssl._create_unverified_context()  # noqa: S323
    return http.client.HTTPSConnection(door.host, door.port, timeout=TIMEOUT, context=context)
