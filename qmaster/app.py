"""The Tornado application, made from its parts."""

from __future__ import annotations

from collections.abc import Callable

from tornado import web

from .auth import Authenticator
from .dispatch import Dispatch
from .errors import HttpError
from .handlers import base, ops, services


def make_app(
    auth: Authenticator, dispatch: Dispatch, trouble: Callable[[], HttpError | None], busy: set[object]
) -> web.Application:
    """Put the routes together.

    Args:
        auth: who is asking.
        dispatch: run, stop and status.
        trouble: why quartermaster is not ready, or None.
        busy: holds the requests that are being answered.
    """
    everyone = {"auth": auth, "busy": busy}
    verbs = {**everyone, "dispatch": dispatch}
    return web.Application(
        [
            (r"/run", services.RunHandler, verbs),
            (r"/start", services.RunHandler, verbs),
            (r"/stop", services.StopHandler, verbs),
            (r"/status", services.StatusListHandler, verbs),
            (r"/status/([^/]+)", services.StatusHandler, verbs),
            (r"/livez", ops.LiveHandler, everyone),
            (r"/readyz", ops.ReadyHandler, {**everyone, "trouble": trouble}),
        ],
        default_handler_class=base.NotFoundHandler,
        default_handler_args=everyone,
        log_function=base.log_request,
    )
