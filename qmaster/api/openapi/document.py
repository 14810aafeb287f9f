"""The API as an OpenAPI 3.1 document, of its paths, schemas and errors. Pure.

It is for client generators: each call is one operation (``HEAD`` and ``/start`` are none), and each answer one schema.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import msgspec

from ... import __version__
from ...errors import EngineUnavailable, TooManyConnections, Unauthorized, problem
from ...models.requests import MAX_BODY
from . import calls, functions, invocations, paths, schemas
from .parts import STRING, content, ref

Json = dict[str, Any]

PROBLEM = "application/problem+json"
ERRORS: Mapping[int, str] = {
    400: "The request is invalid, or the engine cannot start the run. The error names the field.",
    401: "The token is missing or invalid.",
    403: "The token does not allow it: the error names the rule. Or `--allow-host` or `--allow-origin` forbids it.",
    404: "No service, container or function has this id or name, or it belongs to another token.",
    409: "The name or a published port is taken, or the call would stop quartermaster itself or take one of its ports; "
    "or quartermaster ended during the call with this `Idempotency-Key`.",
    413: f"The body is over {MAX_BODY // 1024} KiB; of a call of a function, over 6 MiB.",
    422: "This `Idempotency-Key` was used with another request.",
    429: "Too many runs in a minute; too many open streams, waits, logs or unread answers; too many invalid tokens; "
    "or too many calls wait for a function.",
    500: "quartermaster failed. Its log has the reason, under the request's id.",
    502: "The registry or the engine refused; or a function failed, `reason` says how.",
    503: "The engine is away, or is not a swarm manager; or no instance of a function is free.",
    504: "A call took longer than its function's timeout.",
    507: "The journal cannot be written or read. The log has the reason.",
}
_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: Unauthorized.headers,
    429: TooManyConnections.headers,
    503: EngineUnavailable.headers,
}


@functools.cache
def encoded() -> bytes:
    """Return the document as it is served."""
    return msgspec.json.encode(document()) + b"\n"


def _with_request_id(item: Json) -> Json:
    return {**item, "parameters": [ref("parameters/RequestId"), *item.get("parameters", ())]}


def document() -> Json:
    """Return the description of the whole API."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "quartermaster",
            "version": __version__,
            "summary": "Runs functions and jobs on Docker and Docker Swarm over HTTP, with a token.",
            "description": "`HEAD` works like `GET`, without the body, except for `/events` and `/logs/{id}`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [
            {"name": "runs", "description": "Services and containers."},
            {"name": "functions", "description": "Named images that are called again and again."},
            {"name": "swarm", "description": "Nodes and events."},
            {"name": "page", "description": "The status page."},
            {"name": "operation", "description": "Probes, metrics and this document."},
        ],
        "paths": {path: _with_request_id(item) for path, item in _paths().items()},
        "components": {
            "schemas": schemas.components(),
            "parameters": {
                **paths.PARAMETERS,
                **functions.PARAMETERS,
                **calls.PARAMETERS,
                **invocations.PARAMETERS,
            },
            "headers": {"RequestId": {"description": "The request's id, also in the log.", "schema": STRING}},
            "responses": {
                **{f"Error{status}": _error(status, text) for status, text in ERRORS.items()},
                **calls.RESPONSES,
            },
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A body may have it as `token`; never a URL. The root token has full access. "
                    "Each call names the scope that another token needs, or `root` if none is enough.",
                }
            },
        },
    }


def _paths() -> dict[str, Json]:
    return {**paths.PATHS, **functions.PATHS, **calls.PATHS, **invocations.PATHS}


def _error(status: int, text: str) -> Json:
    headers = {
        name: {"schema": {"type": "integer"} if value.isdigit() else STRING, "example": value}
        for name, value in _HEADERS.get(status, {}).items()
    }
    schema = {"$ref": "#/components/schemas/Problem", "properties": {"status": {"const": status}}}
    example = problem(status, "what is wrong and what to do", "97e9c8a214d443c8a24e8ae444634329")
    return content(text, {PROBLEM: {"schema": schema, "example": example}}, **headers)
