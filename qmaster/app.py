"""The Tornado application, made from its parts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from tornado import web

from .auth import Authenticator
from .dispatch import Dispatch
from .errors import HttpError
from .feed import Feed
from .handlers import base, events, logs, nodes, ops, services
from .held import Held
from .hub import Hub
from .spring import Spring


@dataclass(frozen=True)
class Parts:
    """What the handlers are made from.

    ``trouble`` tells why quartermaster is not ready, or None; ``origins`` are those of other pages that may read the
    stream, ``hosts`` the names that it answers under (none: any); ``busy`` holds the requests that are being answered,
    ``sockets`` the open event streams, ``logs`` the logs that are being sent; ``held`` counts what stays open.
    """

    auth: Authenticator
    dispatch: Dispatch
    feed: Feed
    hub: Hub
    spring: Spring
    trouble: Callable[[], HttpError | None]
    origins: Collection[str] = ()
    hosts: Collection[str] = ()
    busy: set[object] = field(default_factory=set)
    sockets: events.Sockets = field(default_factory=events.Sockets)
    logs: logs.OpenLogs = field(default_factory=logs.OpenLogs)
    held: Held = field(default_factory=Held)


def make_app(parts: Parts) -> web.Application:
    """Put the routes together."""
    everyone = {"auth": parts.auth, "busy": parts.busy}
    placed = {**everyone, "cursor": lambda: parts.feed.cursor}
    verbs = {**placed, "dispatch": parts.dispatch, "held": parts.held}
    stream = {**everyone, "feed": parts.feed, "hub": parts.hub, "sockets": parts.sockets, "origins": parts.origins}
    stream["held"] = parts.held
    speech = {**everyone, "spring": parts.spring, "logs": parts.logs, "held": parts.held}
    return web.Application(
        [
            (r"/run", services.RunHandler, verbs),
            (r"/start", services.RunHandler, verbs),
            (r"/stop", services.StopHandler, verbs),
            (r"/status", services.StatusListHandler, verbs),
            (r"/status/([^/]+)", services.StatusHandler, verbs),
            (r"/logs/([^/]+)", logs.LogsHandler, speech),
            (r"/nodes", nodes.NodesHandler, {**placed, "nodes": lambda: parts.dispatch.nodes()}),
            (r"/events", events.EventsHandler, stream),
            (r"/livez", ops.LiveHandler, everyone),
            (r"/readyz", ops.ReadyHandler, {**everyone, "trouble": parts.trouble}),
        ],
        default_handler_class=base.NotFoundHandler,
        default_handler_args=everyone,
        log_function=base.log_request,
        websocket_max_message_size=events.MAX_INBOUND,
        hosts=parts.hosts,
    )
