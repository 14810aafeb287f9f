"""Wiring and lifetime: start → wait → stop. The only place that builds the parts."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time

import structlog
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from . import __version__
from .app import make_app
from .auth import Authenticator
from .config import SHORT_TOKEN, Config
from .dispatch import Dispatch
from .engine import Endpoint, Engine
from .engine.identity import own_container_id
from .errors import ConfigError

MAX_HEADERS = 16 * 1024
MAX_READ = 1024 * 1024  # the handlers' own bound is lower, and answers 413
BODY_TIMEOUT = 10.0
IDLE_TIMEOUT = 75.0
STOP_WITHIN = 25.0

log = structlog.get_logger(__name__)


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: an option cannot be used: an address in use, a certificate that is none.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine = Engine(Endpoint.read(config.docker_host, os.environ))
    dispatch = Dispatch(engine.swarm, engine.containers, config.memory, own_container_id())
    busy: set[object] = set()
    app = make_app(Authenticator(config.token), dispatch, lambda: engine.health.trouble, busy)
    server = HTTPServer(
        app,
        ssl_options=_tls(config),
        max_header_size=MAX_HEADERS,
        max_body_size=MAX_READ,
        body_timeout=BODY_TIMEOUT,
        idle_connection_timeout=IDLE_TIMEOUT,
    )
    port = _listen(server, config)
    health = asyncio.create_task(engine.health.watch())
    log.info(
        "started", version=__version__, address=config.address or "*", port=port, engine=config.docker_host or "socket"
    )
    if len(config.token) < SHORT_TOKEN:
        log.warning("token_short", characters=len(config.token), advice=f"{SHORT_TOKEN} or more, for instance uuidgen")

    await stop.wait()

    log.info("stopping")
    server.stop()
    await _finish(busy)
    health.cancel()
    await server.close_all_connections()
    engine.close()
    log.info("stopped")


async def _finish(busy: set[object]) -> None:
    """Wait for the requests that are being answered."""
    until = time.monotonic() + STOP_WITHIN
    while busy and time.monotonic() < until:  # noqa: ASYNC110 - handlers only leave the set, and know of no event
        await asyncio.sleep(0.02)
    if busy:
        log.warning("stopped_with_open_requests", open=len(busy), waited_s=STOP_WITHIN)


def _listen(server: HTTPServer, config: Config) -> int:
    try:
        sockets = bind_sockets(config.port, config.address or None, reuse_port=False)
    except (OSError, UnicodeError) as error:
        where = f"{config.address or '*'}:{config.port}"
        raise ConfigError(f"--address, --port: cannot listen on {where}: {getattr(error, 'strerror', error)}") from None
    server.add_sockets(sockets)
    return int(sockets[0].getsockname()[1])


def _tls(config: Config) -> ssl.SSLContext | None:
    if not config.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except ssl.SSLError as error:
        raise ConfigError(f"--tls-cert, --tls-key: cannot be used: {error.reason}") from None
    return context
