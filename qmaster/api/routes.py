"""The Tornado application: the route table, absolute targets, and the client's address behind a proxy."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tornado import web
from tornado.httputil import HTTPInputError, HTTPServerRequest, split_host_and_port

from ..auth.authenticator import Authenticator, LineLimit
from ..errors import HttpError
from ..events.broker import Broker
from ..events.stream import EventStream
from ..events.unsent import Unsent
from ..functions.asynchronous.invoker import AsyncInvoker
from ..functions.dispatcher import Dispatcher
from ..functions.instances.logs import FunctionLogs
from ..functions.invocations.replays import KeyedCalls
from ..functions.invocations.stats import CallStats
from ..functions.versions.service import FunctionService
from ..limiter import FairLimiter
from ..models.responses import Node
from ..runs.listing import Listing
from ..runs.logs import LogReader
from ..runs.service import RunService
from ..runs.starter import RunStarter
from ..runs.stats import RunStats
from . import base, events, functions, logs, ops, pages, runs, stats
from .calls import aws, function_urls, invocations, invoke, raw
from .limits import ConnectionLimiter
from .openapi import document as openapi

Json = dict[str, Any]
Routes = list[tuple[str, type[web.RequestHandler], Json]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?")


@dataclass(frozen=True)
class AppState:
    """Parts that the handlers use.

    Attributes:
        auth: identifies callers.
        starter: starts runs.
        run_service: finds, shows and stops runs.
        listing: lists them.
        event_stream: resumes and feeds subscribers.
        broker: publishes events.
        log_reader: reads logs.
        trouble: returns why quartermaster is not ready, or None.
        scrape: returns the text of the metrics, and its media type.
        count: called for each request, with its route, method, status and seconds.
        origins: origins of other pages that may call and read, in lower case.
        page: the status page's files.
        hosts: host names that requests may use; none: any.
        trusted_proxies: addresses whose ``X-Forwarded-For`` is trusted.
        busy: the open requests.
        sockets: the open event streams.
        logs: the open logs.
        connections: limits long-lived connections.
        lines: limits log lines about refused calls.
        unsent: limits unread bytes.
        functions: publishes and finds functions; None: this quartermaster serves none.
        dispatcher: calls them; None: as ``functions``.
        function_domain: each function's URL is also ``NAME.`` and this domain; "": none.
        keyed: makes calls with an ``Idempotency-Key`` once.
        asynchronous: makes calls whose callers do not wait; None: as ``functions``.
        run_stats: the numbers of runs and nodes for each minute.
        call_stats: those of calls; None: as ``functions``.
        nodes: returns the nodes of the swarm, with what is reserved on each.
    """

    auth: Authenticator
    starter: RunStarter
    run_service: RunService
    listing: Listing
    event_stream: EventStream
    broker: Broker
    log_reader: LogReader
    trouble: Callable[[], HttpError | None]
    scrape: Callable[[str], Awaitable[tuple[bytes, str]]]
    count: Callable[[str, str, int, float], None] = lambda route, method, status, seconds: None
    origins: Collection[str] = ()
    page: Mapping[str, pages.File] = field(default_factory=lambda: pages.read(pages.folder()))
    hosts: Collection[str] = ()
    trusted_proxies: Collection[Network] = ()
    busy: set[object] = field(default_factory=set)
    sockets: events.Sockets = field(default_factory=events.Sockets)
    logs: logs.OpenLogs = field(default_factory=logs.OpenLogs)
    connections: ConnectionLimiter = field(default_factory=ConnectionLimiter)
    lines: LineLimit = field(default_factory=LineLimit)
    unsent: Unsent = field(default_factory=Unsent)
    functions: FunctionService | None = None
    dispatcher: Dispatcher | None = None
    function_domain: str = ""
    keyed: KeyedCalls | None = None
    asynchronous: AsyncInvoker | None = None
    run_stats: RunStats = field(default_factory=RunStats)
    call_stats: CallStats | None = None
    nodes: Callable[[], list[Node]] = list


def make_app(parts: AppState) -> web.Application:
    """Make the application with its routes."""
    common = {"auth": parts.auth, "busy": parts.busy}
    calls = raw.Calls(
        parts.functions,
        parts.dispatcher,
        parts.connections,
        domain=parts.function_domain,
        keyed=parts.keyed,
        asynchronous=parts.asynchronous,
    )
    call_parts = {**common, "calls": calls}
    routes = [
        *_run_routes(parts, common),  # first the most frequent one: Tornado tries the patterns in this order
        *_page_routes(parts, common),
        *_function_routes(parts, common),
        *_call_routes(call_parts),
        *_invocation_routes(parts, common),
        *_stream_routes(parts, common),
        *_operation_routes(parts, common),
    ]
    application = Application(
        parts.trusted_proxies,
        routes,
        default_handler_class=base.NotFoundHandler,
        default_handler_args=common,
        log_function=_logger(parts, _finder([pattern for pattern, _, _ in routes])),
        websocket_max_message_size=events.MAX_INBOUND,
        hosts=parts.hosts,
        origins=parts.origins,
        lines=parts.lines,
        unsent=parts.unsent,
        checks=FairLimiter(1),
    )
    if parts.function_domain:
        hosts = rf"[^.]+\.{re.escape(str(parts.function_domain))}"
        application.add_handlers(hosts, [(r".*", function_urls.FunctionHostHandler, call_parts)])
    return application


def _run_routes(parts: AppState, common: Json) -> Routes:
    run_parts = {**common, "run_service": parts.run_service, "connections": parts.connections}
    start_parts = {**run_parts, "starter": parts.starter}
    list_parts = {
        **common,
        "listing": parts.listing,
        "cursor": lambda: parts.event_stream.cursor,
        "encoded": runs.EncodedListing(),
    }
    return [
        (r"/status/([^/]+)", runs.StatusHandler, run_parts),
        (r"/run", runs.RunHandler, start_parts),
        (r"/start", runs.RunHandler, start_parts),
        (r"/stop", runs.StopHandler, run_parts),
        (r"/status", runs.StatusListHandler, list_parts),
    ]


def _page_routes(parts: AppState, common: Json) -> Routes:
    page_parts = {**common, "files": parts.page}
    return [(r"/", pages.PageHandler, page_parts), (r"/static/([^/]+)", pages.PageHandler, page_parts)]


def _function_routes(parts: AppState, common: Json) -> Routes:
    function_parts = {**common, "cursor": lambda: parts.event_stream.cursor, "functions": parts.functions}
    function_logs = parts.functions and FunctionLogs(parts.functions, parts.listing, parts.log_reader)
    log_parts = {**common, "logs": parts.logs, "connections": parts.connections, "function_logs": function_logs}
    return [
        (r"/functions", functions.FunctionListHandler, function_parts),
        (r"/functions/([^/]+)", functions.FunctionHandler, function_parts),
        (r"/functions/([^/]+)/versions", functions.VersionsHandler, function_parts),
        (r"/functions/([^/]+)/rollback", functions.RollbackHandler, function_parts),
        (r"/functions/([^/]+)/logs", logs.FunctionLogsHandler, log_parts),
    ]


def _call_routes(call_parts: Json) -> Routes:
    return [
        (r"/functions/([^/]+)/invoke", invoke.InvokeHandler, call_parts),
        (r"/2015-03-31/functions/([^/]+)/invocations", aws.InvokeHandler, call_parts),
        (r"/2021-11-15/functions/([^/]+)/response-streaming-invocations", aws.StreamHandler, call_parts),
        (r"/fn/([^/]+)(?:/.*)?", function_urls.FunctionUrlHandler, call_parts),
    ]


def _invocation_routes(parts: AppState, common: Json) -> Routes:
    invocation_parts = {**common, "asynchronous": parts.asynchronous, "connections": parts.connections}
    return [
        (r"/invocations", invocations.InvocationListHandler, invocation_parts),
        (r"/invocations/([^/]+)", invocations.InvocationHandler, invocation_parts),
        (r"/invocations/([^/]+)/redrive", invocations.RedriveHandler, invocation_parts),
        (r"/functions/([^/]+)/redrive", invocations.RedriveAllHandler, invocation_parts),
    ]


def _stream_routes(parts: AppState, common: Json) -> Routes:
    event_parts = {
        **common,
        "event_stream": parts.event_stream,
        "sockets": parts.sockets,
        "origins": parts.origins,
        "connections": parts.connections,
    }
    log_parts = {
        **common,
        "logs": parts.logs,
        "connections": parts.connections,
        "run_service": parts.run_service,
        "log_reader": parts.log_reader,
    }
    return [(r"/events", events.EventsHandler, event_parts), (r"/logs/([^/]+)", logs.LogsHandler, log_parts)]


def _operation_routes(parts: AppState, common: Json) -> Routes:
    node_parts = {**common, "cursor": lambda: parts.event_stream.cursor, "nodes": parts.nodes}
    stats_parts = {**common, "run_stats": parts.run_stats, "call_stats": parts.call_stats}
    return [
        (r"/nodes", ops.NodesHandler, node_parts),
        (r"/stats", stats.StatsHandler, stats_parts),
        (r"/livez", ops.LiveHandler, common),
        (r"/readyz", ops.ReadyHandler, {**common, "trouble": parts.trouble}),
        (r"/metrics", ops.MetricsHandler, {**common, "scrape": parts.scrape}),
        (r"/openapi.json", ops.OpenApiHandler, {**common, "description": openapi.encoded()}),
    ]


def _logger(parts: AppState, route_of: Callable[[str], str]) -> Callable[[web.RequestHandler], None]:
    """Return the function that logs and counts each request."""

    def log_request(handler: web.RequestHandler) -> None:
        if getattr(handler, "is_logged", False):
            return
        base.log_request(handler)
        request = handler.request
        method = request.method if request.method in handler.SUPPORTED_METHODS else "other"
        route = getattr(handler, "ROUTE", None) or route_of(request.path)
        parts.count(route, str(method), handler.get_status(), request.request_time())

    return log_request


def _finder(patterns: Collection[str]) -> Callable[[str], str]:
    """Return a function from a path to its route, as the metrics name it; ``none`` for an unknown path."""
    plain = {pattern for pattern in patterns if "(" not in pattern}
    names = [(re.compile(p), re.sub(r"\([^()]*\)", "{id}", p)) for p in patterns if p not in plain]

    def route_of(path: str) -> str:
        return path if path in plain else next((name for p, name in names if p.fullmatch(path)), "none")

    return route_of


class Application(web.Application):
    """Tornado's application, with absolute targets and the client's address from a trusted proxy."""

    def __init__(self, trusted_proxies: Collection[Network], *args: Any, **settings: Any) -> None:
        self._trusted_proxies = trusted_proxies
        super().__init__(*args, **settings)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        _take_absolute_target(request)
        if self._trusted_proxies:
            _take_forwarded_protocol(request, self._trusted_proxies)
            request.remote_ip = _client_address(request, self._trusted_proxies)
        return super().find_handler(request, **kwargs)


def _take_absolute_target(request: HTTPServerRequest) -> None:
    """Read ``GET http://host/path`` as ``GET /path``; its host replaces the header Host (RFC 9112, 3.2.2).

    Raises:
        HTTPInputError: the target names no host.
    """
    found = _ABSOLUTE.fullmatch(request.uri or "")
    if found is None:
        return
    authority, rest = found.groups()
    if not _AUTHORITY.fullmatch(authority):
        raise HTTPInputError("the target names no host")
    request.uri = rest if rest.startswith("/") else f"/{rest}"
    request.path, _, request.query = request.uri.partition("?")
    request.headers["Host"] = request.host = authority
    request.host_name = split_host_and_port(authority.lower())[0]


def _take_forwarded_protocol(request: HTTPServerRequest, trusted: Collection[Network]) -> None:
    """Read ``X-Forwarded-Proto``, if a trusted proxy sent it."""
    given = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
    with contextlib.suppress(ValueError):  # a peer without an address
        if given in ("http", "https") and _is_trusted(request.remote_ip or "", trusted):
            request.protocol = given


def _is_trusted(address: str, trusted: Collection[Network]) -> bool:
    return any(ipaddress.ip_address(address) in network for network in trusted)


def _client_address(request: HTTPServerRequest, trusted: Collection[Network]) -> str:
    """Return the last address of ``X-Forwarded-For`` that is not a trusted proxy's, if a trusted proxy sent it.

    Tornado's ``xheaders`` trusts every peer, and also a client's own ``X-Real-Ip``, which proxies pass on.
    """
    address = request.remote_ip or ""
    for named in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
        try:
            if not _is_trusted(address, trusted):
                break
            address = str(ipaddress.ip_address(named.strip()))
        except ValueError:
            break
    return address
