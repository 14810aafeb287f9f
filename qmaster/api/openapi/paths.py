"""The calls of runs, the swarm, the page and the operation in ``/openapi.json``: the paths as data. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ...models.responses import Outcome
from .examples import CURSOR, ID, NODE, RUNS, SERVICE, STATS, VIEW
from .parts import (
    CREATED,
    FLAG,
    LOG_QUERIES,
    MOMENT,
    OPEN,
    READ,
    ROOT,
    RUN,
    STOP,
    STRING,
    STRINGS,
    answer,
    content,
    errors,
    guarded,
    query,
    ref,
    text,
    wait_query,
)

Json = dict[str, Any]

MINUTES: Json = {"type": "integer", "minimum": 1, "maximum": 1440}

PATHS: Mapping[str, Json] = {
    "/": {
        "get": {
            "operationId": "page",
            "tags": ["page"],
            "summary": "The status page",
            "security": OPEN,
            "responses": {
                "200": content("HTML. The page asks for the token.", text("text/html")),
                **errors(403, 404),
            },
        }
    },
    "/static/{file}": {
        "get": {
            "operationId": "pageFile",
            "tags": ["page"],
            "summary": "A file of the status page",
            "security": OPEN,
            "parameters": [
                {
                    "name": "file",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1},
                    "example": "style.css",
                }
            ],
            "responses": {
                "200": content(
                    "A script, a style sheet or a picture.",
                    text("text/css", "text/html", "text/javascript", "image/svg+xml"),
                ),
                **errors(403, 404),
            },
        }
    },
    "/run": {
        "post": {
            "operationId": "run",
            "tags": ["runs"],
            "summary": "Start a service or a container",
            "description": "`POST /start` does the same.",
            "security": RUN,
            "parameters": [
                ref("parameters/IdempotencyKey"),
                query("dry_run", FLAG, "`1`: only check the request; the answer is a `DryRun`.", example="0"),
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": ref("schemas/RunRequest"),
                        "examples": {name: {"value": value} for name, value in RUNS.items()},
                    }
                },
            },
            "responses": {
                "200": content(
                    "The run was started; with `wait`, it has ended.",
                    {
                        "application/json": {
                            "schema": ref("schemas/RunAnswer"),
                            "examples": {
                                "started": {"value": {"success": True, "id": ID}},
                                "ended": {"value": VIEW},
                            },
                        }
                    },
                    **CREATED,
                ),
                "202": answer("The run has not ended within `wait`, and goes on.", "RunAnswer", VIEW, **CREATED),
                **guarded(409, 422, 502, 503, 507),
            },
        }
    },
    "/stop": {
        "post": {
            "operationId": "stop",
            "tags": ["runs"],
            "summary": "Stop and remove a service or a container",
            "security": STOP,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": ref("schemas/StopRequest"),
                        "examples": {"name": {"value": {"id": "nap"}}, "id": {"value": {"id": ID}}},
                    }
                },
            },
            "responses": {
                "200": answer("The engine has accepted the stop.", "StopAnswer", {"success": True, "id": ID}),
                **guarded(404, 409, 502, 503, 507),
            },
        }
    },
    "/status": {
        "get": {
            "operationId": "list",
            "tags": ["runs"],
            "summary": "List services and containers",
            "security": READ,
            "parameters": [
                query("status", {"type": "array", "items": ref("schemas/Status")}, "Only these statuses."),
                query(
                    "label",
                    STRINGS,
                    "`key=value`, or `key`: only with all of these.",
                    example=["team=blue"],
                ),
                query("name", STRINGS, "Only these exact names; `*` stands for any text.", example=["nap"]),
                query("owner", STRINGS, "Only the runs of these tokens; empty: what quartermaster did not start."),
                query("reason", {"type": "array", "items": ref("schemas/Reason")}, "Only these reasons."),
                query(
                    "outcome",
                    {"type": "array", "items": {"type": "string", "enum": list(get_args(Outcome))}},
                    "Only what has ended like this, also if it was removed since.",
                ),
                query(
                    "image",
                    STRINGS,
                    "Only these images: any tag if none is given, any digest of a tag; `*` as in a token's `images`.",
                    example=["busybox"],
                ),
                query("function", STRING, "Only the instances of this function; empty: none.", example="resize"),
                query("since", MOMENT, "Only what was created then or later.", example="2026-11-22T20:29:03Z"),
                query("until", MOMENT, "Only what was created before.", example="2026-11-23"),
                query(
                    "limit",
                    {"type": "integer", "minimum": 1, "maximum": 10_000},
                    "The most to list.",
                    example=10,
                ),
                query("page", STRING, "The `next_page` of an answer: go on behind its last run."),
                query("all", FLAG, "`1`: include removed runs, and the instances of functions.", example="1"),
            ],
            "responses": {
                "200": answer(
                    "The newest first.",
                    "ListAnswer",
                    {"success": True, "cursor": CURSOR, "services": [SERVICE], "next_page": None},
                ),
                **guarded(507),
            },
        }
    },
    "/status/{id}": {
        "get": {
            "operationId": "status",
            "tags": ["runs"],
            "summary": "Show one, also after it was removed",
            "security": READ,
            "parameters": [
                ref("parameters/Id"),
                wait_query("Seconds, a duration such as `1m30s`, or `true` (60): answer when the run has ended."),
            ],
            "responses": {
                "200": answer("The service or container.", "StatusAnswer", VIEW),
                **guarded(404, 502, 503),
            },
        },
        "delete": {
            "operationId": "remove",
            "tags": ["runs"],
            "summary": "Stop and remove a service or a container, as `POST /stop` does",
            "security": STOP[:1],
            "parameters": [ref("parameters/Id")],
            "responses": {
                "200": answer("The engine has accepted the stop.", "StopAnswer", {"success": True, "id": ID}),
                **guarded(404, 409, 502, 503, 507),
            },
        },
    },
    "/logs/{id}": {
        "get": {
            "operationId": "logs",
            "tags": ["runs"],
            "summary": "Read the output of a run, live or after it was removed",
            "description": "Plain text, or with `Accept: application/x-ndjson` one JSON object per line: `time`, "
            "`stream`, `node`, `task`, `line`, and `partial` if the line goes on in the next object.",
            "security": READ,
            "parameters": [
                ref("parameters/Id"),
                *LOG_QUERIES,
            ],
            "responses": {
                "200": content(
                    "The output. A response that ends without its last chunk was cut off.",
                    text("text/plain", "application/x-ndjson"),
                ),
                **guarded(404, 502, 503, 507),
            },
        }
    },
    "/nodes": {
        "get": {
            "operationId": "nodes",
            "tags": ["swarm"],
            "summary": "List the nodes, with what is reserved on each",
            "security": ROOT,
            "responses": {
                "200": answer("The nodes.", "NodesAnswer", {"success": True, "cursor": CURSOR, "nodes": [NODE]}),
                **guarded(),
            },
        }
    },
    "/stats": {
        "get": {
            "operationId": "stats",
            "tags": ["operation"],
            "summary": "Numbers of each minute of the last day: runs, nodes and calls",
            "description": "The root token gets all; another its own runs, its functions and no nodes.",
            "security": READ,
            "parameters": [
                query("minutes", MINUTES, "How many of the last minutes. By default all of a day.", example=60),
                query("function", STRING, "Only this function.", example="resize"),
            ],
            "responses": {
                "200": answer("Lists of one number a minute, the oldest first.", "Stats", STATS),
                **guarded(),
            },
        }
    },
    "/events": {
        "get": {
            "operationId": "events",
            "tags": ["swarm"],
            "summary": "Stream every change, as Server-Sent Events or over a websocket",
            "description": "Each websocket message is a `Frame`. A Server-Sent Event has in `data:` the frame, or of "
            "an event frame only its `CloudEvent`. Browsers send the token as the first websocket message, "
            '`{"type": "auth", "token": "…"}`. docs/events.md has the order of frames and the close codes.',
            "security": READ,
            "parameters": [
                query("since", STRING, "A cursor: send what came after it instead of a snapshot.", example=CURSOR),
                query(
                    "topic", STRING, "One or more of `service,task,node,function,invocation`.", example="service,node"
                ),
                query("service", STRING, "Only the service or container with this id."),
                query("label", STRINGS, "`key=value`: only with all of these labels.", example=["team=blue"]),
                query(
                    "function",
                    STRING,
                    "Only this function, its instances and its asynchronous invocations.",
                    example="resize",
                ),
                query("all", FLAG, "`1`: include the instances of functions.", example="1"),
                {
                    "name": "Last-Event-ID",
                    "in": "header",
                    "description": "As `since`; an SSE client sends it when it reconnects.",
                    "schema": STRING,
                },
            ],
            "responses": {
                "101": {"description": "A websocket of protocol `qmaster.v1`, if the request asks for an upgrade."},
                "200": content("Server-Sent Events.", text("text/event-stream")),
                **guarded(),
            },
        }
    },
    "/livez": {
        "get": {
            "operationId": "livez",
            "tags": ["operation"],
            "summary": "Whether the process answers",
            "security": OPEN,
            "responses": {
                "200": answer("It answers.", "Alive", {"success": True, "status": "alive"}),
                **errors(),
            },
        }
    },
    "/readyz": {
        "get": {
            "operationId": "readyz",
            "tags": ["operation"],
            "summary": "Whether runs can be started, else why not",
            "security": OPEN,
            "responses": {
                "200": answer("They can.", "Ready", {"success": True, "status": "ready"}),
                **errors(503),
            },
        }
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "tags": ["operation"],
            "summary": "The metrics",
            "security": ROOT,
            "responses": {
                "200": content(
                    "Prometheus' text format, or OpenMetrics, by `Accept`.",
                    text("text/plain", "application/openmetrics-text"),
                ),
                **guarded(),
            },
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "openapi",
            "tags": ["operation"],
            "summary": "This document",
            "security": OPEN,
            "responses": {
                "200": content("OpenAPI 3.1.", {"application/json": {"schema": {"type": "object"}}}),
                **errors(403),
            },
        }
    },
}
PARAMETERS: Mapping[str, Json] = {
    "Id": {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "The full id, or the exact name.",
        "schema": {"type": "string", "minLength": 1},
        "example": "nap",
    },
    "RequestId": {
        "name": "X-Request-ID",
        "in": "header",
        "description": "Up to 128 letters, digits and `._:-`, for the answer and the log. By default one is made.",
        "schema": STRING,
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes a retry safe: the same key with the same body is the same run. Excludes `name`.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "order-4711",
    },
}
