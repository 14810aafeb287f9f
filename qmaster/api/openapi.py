"""Pure: the API as an OpenAPI 3.1 document, made from the messages that decode and answer the requests.

What a subscriber of ``/events`` reads is in docs/events.md, frame by frame: OpenAPI has no words for it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

import msgspec

from .. import __version__
from ..auth.tokens import Scope
from ..errors import EngineUnavailable, TooManyConnections, Unauthorized, problem
from ..models.requests import MAX_BODY, MAX_WAIT, RunRequest, StopRequest
from ..models.responses import Node, Service, Status
from ..models.results import Stream

Json = dict[str, Any]

PROBLEM = "application/problem+json"
# Go's and Rust's regular expressions have no lookahead; and what it keeps out in Python, ECMA's "$" does not let in.
_PYTHON_END = r"(?!\n)"

FIELDS: Mapping[str, str] = {
    "image": "Any image reference.",
    "command": "Replaces the image's CMD, not its ENTRYPOINT; a string is split as a shell splits words.",
    "type": "`service`: on any node of the swarm; `container`: on this engine, which needs no swarm.",
    "auth": "Credentials of a private registry: base64 of Docker's JSON document.",
    "name": "Left out, it is made of the image's and a random word.",
    "labels": "Keys with `io.qmaster.` or `com.docker.` in front are taken.",
    "env": "Environment variables; no answer shows them.",
    "workdir": "An absolute path.",
    "user": "`user` or `user:group`, names or numbers.",
    "entrypoint": "Replaces the image's ENTRYPOINT; empty: it is switched off, and command is the program.",
    "memory": "MiB, the limit and the reservation.",
    "cpus": "Cores, the limit, and for services the reservation.",
    "replicas": "How many at once; services only.",
    "restart": "`none`: it runs once.",
    "max_attempts": "How often it is restarted; for a container with `on-failure` only.",
    "constraints": "Which nodes, for instance `node.role==worker`; services only.",
    "networks": "Names of swarm networks to join; services only.",
    "secrets": "Names of swarm secrets, found in `/run/secrets/`; services only.",
    "ports": "`8080:80`, `8080:80/udp` or `…/sctp`: published on every node, then the container's; services only.",
    "wait": "Seconds, or `true` (60): answer when it has ended, with the result.",
    "timeout": "Seconds; end it when it has run that long, counted from the start of its container.",
    "ttl": "Seconds; remove it that long after its end, 0: at once; never: it stays until it is stopped.",
    "pids_limit": "Processes and threads at most, 1,024 if left out; 0: any number.",
    "cap_drop": "Linux capabilities to drop, or `ALL`; replaces `NET_RAW`, `MKNOD` and `AUDIT_WRITE`.",
    "no_new_privileges": "Whether set-user-id programs gain no privileges; services need Docker 25 or newer.",
    "healthcheck": "Whether the image's HEALTHCHECK is on; left out: not where `restart` is `none`.",
    "pull_policy": "Whether the registry is asked for the image; left out: `always` for no tag or `latest`, else "
    "`missing`.",
}
ERRORS: Mapping[int, str] = {
    400: "The request is wrong, or the engine cannot start what it asks for; names the field.",
    401: "No token, or a wrong one.",
    403: "The token may not: the error names the rule. Or `--allow-host` or `--allow-origin` lets no such page in.",
    404: "No service or container has this id or name, or it is another token's.",
    409: "The name or a published port is taken, or quartermaster would stop itself or give up a port of its own.",
    413: f"The body is over {MAX_BODY // 1024} KiB.",
    422: "This `Idempotency-Key` came with another request before.",
    429: "Too many runs in a minute; too many open streams, waits, logs or unread answers; or too many wrong tokens.",
    500: "quartermaster failed; its log has the reason under the request's id.",
    502: "The registry or the engine refused.",
    503: "The engine is away, or is not a swarm manager.",
    507: "The journal cannot be written or read; the log says why.",
}
ALWAYS = (400, 413, 500)
GUARDED = (401, 403, 429)  # of all that wants a token
_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: Unauthorized.headers,
    429: TooManyConnections.headers,
    503: EngineUnavailable.headers,
}

ID = "owyw29mvaobgdhdt9u5lfd4zb"
CURSOR = "5f3a9c1e:1042"
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
    "name": "busybox-p7wfndcrssyxj35j",
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
    "restarts": 0,
    "last_exit": None,
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


@functools.cache
def encoded() -> bytes:
    """The document as it is served."""
    return msgspec.json.encode(document()) + b"\n"


def document() -> Json:
    """The description of the whole API."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "quartermaster",
            "version": __version__,
            "summary": "Runs functions and jobs on Docker and Docker Swarm over HTTP, with a token.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [
            {"name": "runs", "description": "Services and containers."},
            {"name": "swarm", "description": "What there is, and what changes."},
            {"name": "page", "description": "The status page."},
            {"name": "operation", "description": "For those who operate quartermaster."},
        ],
        "paths": {path: {"parameters": [_ref("parameters", "RequestId")], **item} for path, item in _paths().items()},
        "components": {
            "schemas": _schemas(),
            "parameters": _shared_parameters(),
            "headers": {"RequestId": {"description": "The request's id, also in the log.", "schema": _string()}},
            "responses": {f"Error{status}": _error(status, text) for status, text in ERRORS.items()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A body may hold it as `token` instead. Never in a URL. The root token may all; "
                    "beside each call stands the scope that another token needs for it, or `root` where none does.",
                }
            },
        },
    }


# -- the calls ---------------------------------------------------------------------------------------------------------


def _paths() -> dict[str, Json]:
    return {
        "/": _both(_page()),
        "/static/{file}": _both(_page_file()),
        "/run": {"post": _run("run", "Start a service or a container")},
        "/start": {"post": _run("start", "The same as /run")},
        "/stop": {"post": _stop()},
        "/status": _both(_listing()),
        "/status/{id}": _both(_status()),
        "/logs/{id}": {"get": _logs()},
        "/nodes": _both(_nodes()),
        "/events": {"get": _events()},
        "/livez": _both(_probe("livez", "Whether the process answers", "alive")),
        "/readyz": _both(_probe("readyz", "Whether all is well, else why not", "ready", 503)),
        "/metrics": _both(_metrics()),
        "/openapi.json": _both(_itself()),
    }


def _both(get: Json) -> Json:
    """GET, and HEAD that is answered alike, without the body."""
    head = {**get, "operationId": f"{get['operationId']}Head", "summary": f"{get['summary']}: the headers alone"}
    return {"get": get, "head": head}


def _run(name: str, summary: str) -> Json:
    ended = _answer("It was started; with `wait`: it has ended.", {"anyOf": [_schema("Started"), _schema("Run")]})
    content = ended["content"]["application/json"]
    content["examples"] = {
        "started": {"value": {"success": True, "id": ID}},
        "ended": {"value": {"success": True, **SERVICE}},
    }
    going_on = _answer("It has not ended within `wait`, and goes on.", _schema("Run"), {"success": True, **SERVICE})
    for answer in (ended, going_on):
        answer["headers"]["Idempotency-Replayed"] = {
            "description": "There where the answer is that of an earlier call with this key.",
            "schema": {"const": "true"},
        }
    body = {name: {"value": value} for name, value in RUNS.items()}
    return _operation(
        name,
        "runs",
        summary,
        {200: ended, 202: going_on},
        "run",
        (409, 422, 502, 503, 507),
        parameters=[_ref("parameters", "IdempotencyKey")],
        requestBody=_body("RunRequest", body),
    )


def _stop() -> Json:
    return _operation(
        "stop",
        "runs",
        "Stop and remove a service or a container",
        {200: _answer("The engine has accepted it.", _schema("Started"), {"success": True, "id": ID})},
        "stop",
        (404, 409, 502, 503, 507),
        requestBody=_body("StopRequest", {"name": {"value": {"id": "nap"}}, "id": {"value": {"id": ID}}}),
    )


def _listing() -> Json:
    some = {"type": "array", "items": _string()}
    parameters = [
        _query("status", {"type": "array", "items": {"enum": list(get_args(Status))}}, "With one of these statuses."),
        _query("label", some, "`key=value`, or `key` alone: with all of them.", ["team=blue"]),
        _query("name", some, "With exactly one of these names.", ["nap"]),
        _query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000}, "So many at most.", 10),
        _query("all", _flag(), "`1`: also what was removed.", "1"),
    ]
    example = {"success": True, "cursor": CURSOR, "services": [SERVICE]}
    schema = _object(success=_success(), cursor=_string(), services={"type": "array", "items": _schema("Service")})
    answer = _answer("The newest first.", schema, example)
    return _operation(
        "list", "runs", "List services and containers", {200: answer}, "read", (507,), parameters=parameters
    )


def _status() -> Json:
    wait = {"anyOf": [{"const": "true"}, {"type": "number", "minimum": 0, "maximum": MAX_WAIT}]}
    return _operation(
        "status",
        "runs",
        "Show one, also when it was removed",
        {200: _answer("What it has come to.", _schema("Run"), {"success": True, **SERVICE})},
        "read",
        (404, 502, 503),
        parameters=[
            _ref("parameters", "Id"),
            _query("wait", wait, "Seconds, to the microsecond, or `true` (60): until it has ended."),
        ],
    )


def _logs() -> Json:
    tail = {"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 0, "maximum": 999_999_999}]}
    streams = {"type": "array", "items": {"enum": list(get_args(Stream))}}
    text = _answer("Its output; a log that ends without its last chunk was cut off.", {})
    text["content"] = {kind: {"schema": _string()} for kind in ("text/plain", "application/x-ndjson")}
    return _operation(
        "logs",
        "runs",
        "Read its output, also as it comes, and when it is gone",
        {200: text},
        "read",
        (404, 502, 503, 507),
        parameters=[
            _ref("parameters", "Id"),
            _query("follow", _flag(), "`1`: go on as it is written, until all its tasks have ended."),
            _query("tail", tail, "The last so many lines of each task.", 100),
            _query("timestamps", _flag(), "`1`: each line begins with its time; plain text only.", "1"),
            _query("stream", streams, "Both without it.", ["stderr"]),
        ],
        description="As plain text, or with `Accept: application/x-ndjson` as JSON objects, one a line: `time`, "
        "`stream`, `node`, `task`, `line`, and `partial` where it goes on in the next.",
    )


def _nodes() -> Json:
    schema = _object(success=_success(), cursor=_string(), nodes={"type": "array", "items": _schema("Node")})
    answer = _answer("The nodes.", schema, {"success": True, "cursor": CURSOR, "nodes": [NODE]})
    return _operation("nodes", "swarm", "List the nodes, with what is reserved on each", {200: answer}, "root")


def _events() -> Json:
    parameters = [
        _query("since", _string(), "A cursor: what came after it, instead of a snapshot.", CURSOR),
        _query("topic", _string(), "Some of `service,task,node`.", "service,node"),
        _query("service", _string(), "Only the service or container with this id."),
        _query("label", {"type": "array", "items": _string()}, "`key=value`: with all of them.", ["team=blue"]),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "description": "As `since`; what an SSE client sends when it comes back.",
            "schema": _string(),
        },
    ]
    headers = {"X-Request-ID": _ref("headers", "RequestId")}
    stream = {"description": "Server-Sent Events.", "headers": headers, "content": {"text/event-stream": {}}}
    upgraded = {"description": "A websocket of protocol `qmaster.v1`, where an upgrade to one is asked for."}
    return _operation(
        "events",
        "swarm",
        "Stream every change, as Server-Sent Events or over a websocket",
        {101: upgraded, 200: stream},
        "read",
        parameters=parameters,
        description="docs/events.md has the frames and close codes. A browser's websocket sends its token in a first "
        'frame, `{"type": "auth", "token": "…"}`.',
    )


def _page() -> Json:
    html = _answer("HTML; it asks for the token itself.", {})
    html["content"] = {"text/html": {"schema": _string()}}
    return _operation("page", "page", "The status page", {200: html}, None, (403, 404))


def _page_file() -> Json:
    file = _answer("A script, a style sheet or a picture.", {})
    file["content"] = {
        kind: {"schema": _string()} for kind in ("text/css", "text/html", "text/javascript", "image/svg+xml")
    }
    return _operation(
        "pageFile",
        "page",
        "What the status page is made of",
        {200: file},
        None,
        (403, 404),
        parameters=[
            {
                "name": "file",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
                "example": "style.css",
            }
        ],
    )


def _probe(name: str, summary: str, word: str, *errors: int) -> Json:
    schema = _object(success=_success(), status={"const": word})
    answer = _answer("It is.", schema, {"success": True, "status": word})
    return _operation(name, "operation", summary, {200: answer}, None, errors)


def _metrics() -> Json:
    text = _answer("In Prometheus' text format, or OpenMetrics', as `Accept` asks for.", {})
    kinds = ("text/plain", "application/openmetrics-text")
    text["content"] = {kind: {"schema": _string()} for kind in kinds}
    return _operation("metrics", "operation", "The metrics", {200: text}, "root")


def _itself() -> Json:
    answer = _answer("OpenAPI 3.1.", {"type": "object"})
    return _operation("openapi", "operation", "This document", {200: answer}, None, (403,))


def _operation(
    name: str,
    tag: str,
    summary: str,
    answers: Mapping[int, Json],
    needs: Scope | Literal["root"] | None,
    errors: Collection[int] = (),
    **more: Any,
) -> Json:
    """
    Args:
        needs: the scope that its token has; ``root``: the root token alone; None: it is open.
    """
    # OpenAPI 3.1: the names beside a scheme are the roles that the call takes.
    guard: list[Json] = [] if needs is None else [{"bearer": [needs]}]
    if guard and "requestBody" in more:
        guard.append({})  # the token may be in it
    if guard:
        errors = {*errors, *GUARDED}
    responses = {str(status): answer for status, answer in answers.items()}
    responses |= {str(status): _ref("responses", f"Error{status}") for status in sorted({*errors, *ALWAYS})}
    return {"operationId": name, "tags": [tag], "summary": summary, **more, "security": guard, "responses": responses}


# -- the messages ------------------------------------------------------------------------------------------------------


def _schemas() -> dict[str, Json]:
    messages = [RunRequest, StopRequest, Service, Node]
    _, made = msgspec.json.schema_components(messages, ref_template="#/components/schemas/{name}")
    schemas = {name: _told(schema) for name, schema in made.items()}
    for name in ("RunRequest", "StopRequest"):
        schemas[name]["properties"]["token"] = {
            "type": ["string", "null"],
            "default": None,
            "description": "Instead of the header `Authorization`.",
        }
    for name, text in FIELDS.items():
        schemas["RunRequest"]["properties"][name]["description"] = text
    for name in schemas.keys() - {"RunRequest", "StopRequest"}:
        schemas[name]["required"] = list(schemas[name]["properties"])  # an answer has all of them
    service = schemas["Service"]["properties"]
    return {
        **dict(sorted(schemas.items())),
        "Started": _warned(_object(success=_success(), id=_string())),
        "Run": {
            **_warned(_object(success=_success(), **service)),
            "description": "A service, as `Service`, with `success`.",
        },
        "Problem": _problem(),
    }


def _warned(schema: Json) -> Json:
    """With ``warnings``, which an answer has only where there are any."""
    text = "What the run asked for, or has by default, and does not get; only where there is something to tell."
    warnings = {"type": "array", "items": _string(), "minItems": 1, "description": text}
    return {**schema, "properties": {**schema["properties"], "warnings": warnings}}


def _told(value: Any) -> Any:
    """A schema of msgspec's without what only Python understands."""
    if isinstance(value, dict):
        return {key: _told(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_told(each) for each in value]
    return value.replace(_PYTHON_END, "").replace("``", "`") if isinstance(value, str) else value


def _problem() -> Json:
    fields: Json = {key: _string() for key in problem(400, "", "")}
    code = {"type": "integer", "minimum": 400, "maximum": 599}
    fields |= {"success": {"const": False}, "code": code, "status": code, "type": {"const": "about:blank"}}
    return {**_object(**fields), "description": "The one shape of errors: ours, and RFC 9457's."}


def _error(status: int, text: str) -> Json:
    headers = {
        name: {"schema": {"type": "integer"} if value.isdigit() else _string(), "example": value}
        for name, value in _HEADERS.get(status, {}).items()
    }
    return {
        "description": text,
        "headers": {"X-Request-ID": _ref("headers", "RequestId"), **headers},
        "content": {
            PROBLEM: {
                "schema": {"$ref": "#/components/schemas/Problem", "properties": {"status": {"const": status}}},
                "example": problem(status, "what is wrong and what to do", "97e9c8a214d443c8a24e8ae444634329"),
            }
        },
    }


def _shared_parameters() -> dict[str, Json]:
    return {
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
            "description": "Up to 128 letters, digits and `._:-`, for the answer and the log; else one is made.",
            "schema": _string(),
        },
        "IdempotencyKey": {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Makes a retry safe: the same key with the same body is the same run. No `name` beside it.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            "example": "order-4711",
        },
    }


# -- words of OpenAPI ----------------------------------------------------------------------------------------------


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schema(name: str) -> Json:
    return _ref("schemas", name)


def _string() -> Json:
    return {"type": "string"}


def _flag() -> Json:
    return {"enum": ["1", "true", "0", "false"]}


def _success() -> Json:
    return {"const": True}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answer(text: str, schema: Json, example: Any = None) -> Json:
    content: Json = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {
        "description": text,
        "headers": {"X-Request-ID": _ref("headers", "RequestId")},
        "content": {"application/json": content},
    }


def _body(name: str, examples: Json) -> Json:
    return {"required": True, "content": {"application/json": {"schema": _schema(name), "examples": examples}}}


def _query(name: str, schema: Json, text: str, example: Any = None) -> Json:
    parameter: Json = {"name": name, "in": "query", "description": text, "schema": schema}
    if schema.get("type") == "array":
        parameter |= {"style": "form", "explode": True}
    if example is not None:
        parameter["example"] = example
    return parameter
