"""The Tornado application, made from its parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from tornado import web

from .auth import Authenticator
from .dispatch import Dispatch
from .errors import HttpError
from .feed import Feed
from .handlers import base, events, nodes, ops, pages, services
from .hub import Hub


@dataclass(frozen=True)
class Parts:
    """What the handlers are made from.

    ``trouble`` tells why quartermaster is not ready, or None; ``origins`` are those of other pages that may read the
    stream; ``page`` has the status page's files; ``busy`` holds the requests that are being answered, ``sockets`` the
    open event streams.
    """

    auth: Authenticator
    dispatch: Dispatch
    feed: Feed
    hub: Hub
    trouble: Callable[[], HttpError | None]
    origins: Collection[str] = ()
    page: Mapping[str, pages.File] = field(default_factory=lambda: pages.read(pages.folder()))
    busy: set[object] = field(default_factory=set)
    sockets: events.Sockets = field(default_factory=events.Sockets)


def make_app(parts: Parts) -> web.Application:
    """Put the routes together."""
    everyone = {"auth": parts.auth, "busy": parts.busy}
    placed = {**everyone, "cursor": lambda: parts.feed.cursor}
    verbs = {**placed, "dispatch": parts.dispatch}
    page = {**everyone, "files": parts.page}
    stream = {**everyone, "feed": parts.feed, "hub": parts.hub, "sockets": parts.sockets, "origins": parts.origins}
    return web.Application(
        [
            (r"/", pages.PageHandler, page),
            (r"/static/([^/]+)", pages.PageHandler, page),
            (r"/run", services.RunHandler, verbs),
            (r"/start", services.RunHandler, verbs),
            (r"/stop", services.StopHandler, verbs),
            (r"/status", services.StatusListHandler, verbs),
            (r"/status/([^/]+)", services.StatusHandler, verbs),
            (r"/nodes", nodes.NodesHandler, {**placed, "nodes": lambda: parts.dispatch.nodes()}),
            (r"/events", events.EventsHandler, stream),
            (r"/livez", ops.LiveHandler, everyone),
            (r"/readyz", ops.ReadyHandler, {**everyone, "trouble": parts.trouble}),
        ],
        default_handler_class=base.NotFoundHandler,
        default_handler_args=everyone,
        log_function=base.log_request,
        websocket_max_message_size=events.MAX_INBOUND,
    )
