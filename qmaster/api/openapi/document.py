"""The API as an OpenAPI 3.1 document: the paths as data, the schemas from the types of requests and answers. Pure.

It is for client generators: each call is one operation (``HEAD`` and ``/start`` are none), and each answer one schema.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from ... import __version__
from ...errors import EngineUnavailable, TooManyConnections, Unauthorized, problem
from ...events import cloudevents, frames
from ...models.requests import MAX_BODY, NOT_SHOWN, RunRequest, StopRequest
from ...models.responses import Accepted, CallbackView, Node, Outcome, Reason, Service, Status
from ...models.stats import Stats
from . import calls as openapi_calls
from . import functions as openapi_functions
from . import invocations as openapi_invocations
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
    with_units,
)

Json = dict[str, Any]

PROBLEM = "application/problem+json"
# Go's and Rust's regular expressions have no lookahead. ECMA's "$" needs none: it does not match before a last newline.
_PYTHON_END = r"(?!\n)"

FIELDS: Mapping[str, str] = {
    "image": "Any image reference.",
    "command": "Replaces the image's CMD, not its ENTRYPOINT. A string is split as a shell splits words.",
    "type": "`service`: on any node of the swarm. `container`: on this engine, without a swarm.",
    "auth": "Credentials of a private registry: base64 of Docker's JSON document.",
    "name": "By default the image's name and six letters, such as `busybox-kvtwrq`.",
    "labels": "The prefixes `io.qmaster.` and `com.docker.` are reserved.",
    "env": "Environment variables. No answer shows their values.",
    "workdir": "An absolute path.",
    "user": "`user` or `user:group`, as names or numbers.",
    "entrypoint": "Replaces the image's ENTRYPOINT. If empty, there is none, and the command is the program.",
    "memory": "MiB, or a size such as `512m`: the limit and the reservation.",
    "cpus": "Cores: the limit, and for services the reservation.",
    "replicas": "How many run at once. Services only.",
    "restart": "When a task that ended is restarted; `none` runs it once.",
    "max_attempts": "How often it is restarted. For a container only with `on-failure`.",
    "restart_delay": "Seconds between the end of an attempt and the next, by default Swarm's 5. Services only.",
    "restart_window": "Seconds: `max_attempts` counts the restarts of this long alone. 0: all of them. Services only.",
    "constraints": "The nodes it may run on, for example `node.role==worker`. Services only.",
    "networks": "Names of swarm networks to join. Services only.",
    "secrets": "Names of swarm secrets, mounted in `/run/secrets/`. Services only.",
    "ports": "`8080:80`, `8080:80/udp` or `8080:80/sctp`: the port on every node, then the container's. Services only.",
    "wait": "Seconds, or `true` (60): answer when the run has ended, with its result.",
    "timeout": "Seconds: end the run when it has run that long, counted from the start of its container.",
    "ttl": "Seconds from its end until it is removed; 0: at once. `never`: it stays until it is stopped.",
    "callback": "A URL that gets the event of the run's end, signed. The server's `--callbacks` names where it may be.",
    "mode": "`replicated`, or `global`: one on each node. Services only.",
    "init": "Whether a small init process is the first; by default as the engine has it.",
    "stop_signal": "The signal that asks it to end, such as `SIGINT`.",
    "stop_grace_period": "Seconds that it may take to end before SIGKILL, by default 10.",
    "hostname": "Its host name.",
    "extra_hosts": "`NAME:ADDRESS`, or an object of them, added to `/etc/hosts`.",
    "dns": "Addresses of DNS servers.",
    "read_only": "Whether its file system is read-only, but for its mounts.",
    "tmpfs": "Folders in memory: `/path` or `/path:size=64m,mode=1777`.",
    "shm_size": "MiB of `/dev/shm`.",
    "ulimits": "A name such as `nofile` with a number, or with `soft` and `hard`; -1: no limit.",
    "volumes": "`NAME:/path` or `/folder:/path`, with `:ro`; or Compose's long form. `--bind-mounts` has the folders.",
    "configs": "Names of swarm configs, mounted at `/NAME`. Services only.",
    "generic_resources": 'What it reserves of what nodes announce, such as `{"gpu": 2}`. Services only.',
    "gpus": "How many GPUs it gets, or `all`. Containers only.",
    "stdin": "Its standard input. Containers only.",
    "pids_limit": "The most processes and threads, by default 1,024; 0: no limit.",
    "cap_drop": "Linux capabilities to drop, or `ALL`. By default `NET_RAW`, `MKNOD` and `AUDIT_WRITE`.",
    "no_new_privileges": "Whether set-user-id programs gain no privileges. Services need Docker 25 or newer.",
    "healthcheck": "Whether the image's HEALTHCHECK is used. By default it is, unless `restart` is `none`.",
    "pull_policy": "When to ask the registry for it. By default `always` for no tag or `latest`, else `missing`.",
}
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

ID = "owyw29mvaobgdhdt9u5lfd4zb"
CURSOR = "5f3a9c1e.m2kq8x3d:1042"
RUNS: Mapping[str, Json] = {
    "service": {"image": "busybox", "command": "sleep 600", "name": "nap"},
    "function": {"image": "busybox", "command": "echo 42", "wait": True, "timeout": 30, "ttl": 600},
    "container": {"image": "busybox", "command": ["sh", "-c", "date"], "type": "container", "memory": 64},
    "everything": {
        "image": "busybox",
        "command": ["sh", "-c", "echo $GREETING; sleep 5"],
        "env": {"GREETING": "hello"},
        "labels": {"team": "blue"},
        "memory": 64,
        "cpus": 0.5,
        "replicas": 2,
        "restart": "on-failure",
        "max_attempts": 3,
        "constraints": ["node.role==manager"],
        "ports": ["8080:80"],
    },
}
SERVICE: Json = {
    "id": ID,
    "type": "service",
    "name": "busybox-kvtwrq",
    "image": "busybox:latest",
    "command": ["echo", "42"],
    "labels": {},
    "owner": "root",
    "status": "complete",
    "reason": "exit",
    "error": None,
    "exit_code": 0,
    "replicas": {"desired": 1, "running": 0, "complete": 1, "failed": 0},
    "created_at": "2026-11-22T20:29:03.085076548Z",
    "started_at": None,
    "finished_at": "2026-11-22T20:29:03.388668165Z",
    "removed_at": None,
    "memory": 250,
    "cpus": None,
    "timeout": 30.0,
    "ttl": 600.0,
    "callback": None,
    "restarts": 0,
    "last_exit": None,
    "attempts": [],
    "function": None,
    "spec": {"image": "busybox", "command": "echo 42", "timeout": 30.0, "ttl": 600.0},
    "tasks": [
        {
            "id": "sc11dpc1n5l24cej6mbkapkbc",
            "slot": 1,
            "node_id": "12ak1fe7r97il26rxmi85h0br",
            "node": "lab",
            "state": "complete",
            "message": "finished",
            "error": None,
            "exit_code": 0,
            "container_id": "322013969e2cf77449136694920c13e032ca53ba8d041d2ac2f4493709b1c614",
            "updated_at": "2026-11-22T20:29:03.388668165Z",
        }
    ],
    "result": {"exit_code": 0, "stdout": "42\n", "stderr": "", "truncated": False, "tasks": []},
}
NODE: Json = {
    "id": "12ak1fe7r97il26rxmi85h0br",
    "hostname": "lab",
    "role": "manager",
    "state": "ready",
    "availability": "active",
    "address": "192.0.2.1",
    "engine": "26.1.5",
    "memory": 7964,
    "cpus": 4.0,
    "reserved": {"memory": 250, "cpus": 0.0},
    "leader": True,
}

STATS: Json = {
    "success": True,
    "interval": 60,
    "start": "2026-11-22T20:29:00Z",
    "runs": {
        "started": [2, 0],
        "complete": [1, 1],
        "failed": [0, 0],
        "stopped": [0, 0],
        "duration_p50": [0.31, 4.2],
        "duration_p95": [0.31, 4.2],
        "queued_p50": [0.28, None],
        "queued_p95": [0.42, None],
    },
    "nodes": {"lab": {"memory_reserved": [250, 500]}},
    "functions": {"resize": {"calls": [12, 0], "errors": [1, 0], "p50": [0.021, None], "p95": [0.064, None]}},
}
MINUTES: Json = {"type": "integer", "minimum": 1, "maximum": 1440}

VIEW: Json = {"success": True, **SERVICE}

# -- the calls ---------------------------------------------------------------------------------------------------------

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
            "schemas": _schemas(),
            "parameters": {
                **PARAMETERS,
                **openapi_functions.PARAMETERS,
                **openapi_calls.PARAMETERS,
                **openapi_invocations.PARAMETERS,
            },
            "headers": {"RequestId": {"description": "The request's id, also in the log.", "schema": STRING}},
            "responses": {
                **{f"Error{status}": _error(status, text) for status, text in ERRORS.items()},
                **openapi_calls.RESPONSES,
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
    return {**PATHS, **openapi_functions.PATHS, **openapi_calls.PATHS, **openapi_invocations.PATHS}


# -- the messages ------------------------------------------------------------------------------------------------------


def _schemas() -> dict[str, Json]:
    messages = [
        RunRequest,
        StopRequest,
        *openapi_functions.MESSAGES,
        *openapi_invocations.MESSAGES,
        Accepted,
        Service,
        CallbackView,
        Node,
        Stats,
        cloudevents.CloudEvent,
        *get_args(frames.Message),
    ]
    _, made = msgspec.json.schema_components(messages, ref_template="#/components/schemas/{name}")
    schemas: dict[str, Json] = {name: _plain(schema) for name, schema in made.items()}
    for name in ("RunRequest", "StopRequest", "FunctionSpec", "RollbackRequest"):
        schemas[name]["properties"]["token"] = {
            "type": ["string", "null"],
            "description": "Instead of the header `Authorization`.",
        }
    for name, words in FIELDS.items():
        default = made["RunRequest"]["properties"][name].get("default")
        schemas["RunRequest"]["properties"][name]["description"] = words + _default(default)
    openapi_functions.add_schemas(schemas, FIELDS)
    openapi_invocations.add_schemas(schemas)
    for name in ("RunRequest", "FunctionSpec", "Schedule"):
        schemas[name]["properties"] = with_units(schemas[name]["properties"])
    schemas["Service"]["properties"]["status"] = ref("schemas/Status")
    schemas["Service"]["properties"]["reason"] = {"anyOf": [ref("schemas/Reason"), {"type": "null"}]}
    schemas["RunSpec"] = _spec(schemas["RunRequest"])
    schemas["Service"]["properties"]["spec"] = {"anyOf": [ref("schemas/RunSpec"), {"type": "null"}]}
    schemas["Service"]["required"] = list(schemas["Service"]["properties"])  # an answer has all of them
    schemas["Stats"]["properties"]["success"] = {"type": "boolean", "const": True}
    schemas["Stats"]["required"] = list(schemas["Stats"]["properties"])
    of_runs = _answers(schemas["Service"], schemas.pop("Accepted"))
    of_functions = {**openapi_functions.answers(schemas), **openapi_calls.SCHEMAS}
    return dict(sorted({**schemas, **of_runs, **of_functions, **_events(schemas)}.items()))


def _spec(request: Json) -> Json:
    """Return the schema of the fields that a run was started with, of which the environment has no values."""
    names = {**STRINGS, "description": "The names of the environment variables."}
    fields = {**request["properties"], "env": names}
    shown = {name: schema for name, schema in fields.items() if name not in {*NOT_SHOWN, "token"}}
    about = "The fields that a run was started with, without those that were left out."
    return {"type": "object", "properties": shown, "required": ["image"], "description": about}


def _answers(service: Json, accepted: Json) -> dict[str, Json]:
    success = {"type": "boolean", "const": True}
    warnings = {
        **accepted["properties"]["warnings"],
        "minItems": 1,
        "description": "Settings of the run that are not in force. Only if there are any.",
    }
    view = {"success": success, **service["properties"]}
    callbacks = {
        **_array("CallbackView"),
        "description": "What became of its callback, at the quartermaster that sends it. Only if it has a `callback`.",
    }
    next_page = {"type": ["string", "null"], "description": "The `page` that goes on; null: there are no more."}
    started = {
        "type": "object",
        "properties": {**view, "warnings": warnings, "callbacks": callbacks},
        "required": accepted["required"],
    }
    return {
        "RunAnswer": {
            **started,
            "dependentRequired": {name: service["required"] for name in service["required"] if name != "id"},
            "description": "With `wait` all fields of `Service`; else `success` and `id`.",
        },
        "StatusAnswer": {
            "type": "object",
            "properties": {**view, "callbacks": callbacks},
            "required": list(view),
            "description": "A `Service` with `success`.",
        },
        "DryRun": {
            **_object(success=success, dry_run=success, image=STRING, spec=ref("schemas/RunSpec"), warnings=STRINGS),
            "description": "What would be run, with the image's digest if the registry was asked; nothing was started.",
        },
        "StopAnswer": _object(success=success, id=accepted["properties"]["id"]),
        "ListAnswer": _object(success=success, cursor=STRING, services=_array("Service"), next_page=next_page),
        "NodesAnswer": _object(success=success, cursor=STRING, nodes=_array("Node")),
        "Alive": _object(success=success, status={"type": "string", "const": "alive"}),
        "Ready": _object(success=success, status={"type": "string", "const": "ready"}),
        "Status": {"type": "string", "enum": list(get_args(Status))},
        "Reason": {"type": "string", "enum": list(get_args(Reason))},
        "Problem": _problem(),
    }


def _events(schemas: Mapping[str, Json]) -> dict[str, Json]:
    """Return the schemas of events. The data of a task's event is its service's, with the task that changed."""
    service = schemas["Service"]["properties"]
    moved = {name: value for name, value in service.items() if name not in cloudevents.ASIDE}
    kinds = ("ServiceEvent", "NodeEvent", "TaskEvent", "FunctionEvent", "InvocationEvent")
    names = [f"{cloudevents.PREFIX}service.{word}" for word in cloudevents.SERVICE_EVENTS]
    nodes = [f"{cloudevents.PREFIX}node.{word}" for word in cloudevents.NODE_EVENTS]
    functions = [f"{cloudevents.PREFIX}function.{word}" for word in cloudevents.FUNCTION_EVENTS]
    invocations = [f"{cloudevents.PREFIX}invocation.{word}" for word in cloudevents.INVOCATION_EVENTS]
    states = {"type": "string", "pattern": r"^io\.qmaster\.task\.[a-z]+$"}
    event = schemas["CloudEvent"]
    return {
        "MovedTask": _object(**moved, task=ref("schemas/Task")),
        "ServiceEvent": _event(event, {"type": "string", "enum": names}, "Service"),
        "TaskEvent": _event(event, states, "MovedTask"),
        "NodeEvent": _event(event, {"type": "string", "enum": nodes}, "Node"),
        "FunctionEvent": _event(event, {"type": "string", "enum": functions}, "FunctionVersion"),
        "InvocationEvent": _event(event, {"type": "string", "enum": invocations}, "InvocationView"),
        "CloudEvent": {"anyOf": [ref(f"schemas/{kind}") for kind in kinds], "description": "A CloudEvent 1.0."},
        "Frame": {
            "oneOf": [ref(f"schemas/{kind.__name__}") for kind in get_args(frames.Message)],
            "description": "A message of `/events`.",
        },
    }


def _event(event: Json, kind: Json, data: str) -> Json:
    own = {"type": kind, "data": ref(f"schemas/{data}")}
    return {**event, "properties": {**event["properties"], **own}}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(name: str) -> Json:
    return {"type": "array", "items": ref(f"schemas/{name}")}


def _default(default: Any) -> str:
    if not default:
        return ""
    return f" Default: `{default if isinstance(default, str) else msgspec.json.encode(default).decode()}`."


def _plain(value: Any) -> Any:
    """Return one of msgspec's schemas without what only Python understands.

    Titles go, which repeat the schemas' names; and defaults: many generators make a field with one required.
    """
    if isinstance(value, dict):
        plain = {key: _plain(each) for key, each in value.items() if key not in ("default", "title")}
        if "enum" in plain:
            words = plain.pop("enum")
            plain = {"type": "string", **plain, **({"enum": words} if len(words) > 1 else {"const": words[0]})}
        return plain
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.replace(_PYTHON_END, "").replace("``", "`") if isinstance(value, str) else value


def _problem() -> Json:
    fields: Json = dict.fromkeys(problem(400, "", ""), STRING)
    code = {"type": "integer", "minimum": 400, "maximum": 599}
    fields |= {"success": {"type": "boolean", "const": False}, "code": code, "status": code}
    fields["type"] = {"type": "string", "const": "about:blank"}
    return {**_object(**fields), "description": "Every error, by RFC 9457 and with `success`, `error` and `code`."}


def _error(status: int, text: str) -> Json:
    headers = {
        name: {"schema": {"type": "integer"} if value.isdigit() else STRING, "example": value}
        for name, value in _HEADERS.get(status, {}).items()
    }
    schema = {"$ref": "#/components/schemas/Problem", "properties": {"status": {"const": status}}}
    example = problem(status, "what is wrong and what to do", "97e9c8a214d443c8a24e8ae444634329")
    return content(text, {PROBLEM: {"schema": schema, "example": example}}, **headers)
