"""The calls for asynchronous invocations in ``/openapi.json``: the paths as data, and their schemas. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...functions.asynchronous.invoker import REDRIVEN_AT_ONCE
from ...models.invocations import STATUSES, InvocationView
from ..calls.invocations import LIMIT, MAX_LIMIT
from .parts import INVOKE, STRING, answer, guarded, query, ref, wait_query

Json = dict[str, Any]

MESSAGES = (InvocationView,)
ID = "8c5f6b1e-7f3a-8a52-b0c4-0a0000052383"
INSTANCE = "k3xw0pj5m8dq2n7vtz41ycbeh"
LISTED: Json = {
    "id": ID,
    "function": "resize",
    "version": 3,
    "status": "succeeded",
    "owner": "root",
    "created_at": "2026-11-22T20:29:03.085076Z",
    "started_at": "2026-11-22T20:29:03.101245Z",
    "ended_at": "2026-11-22T20:30:04.388668Z",
    "scheduled_at": None,
    "attempts": [
        {
            "started_at": "2026-11-22T20:29:03.101245Z",
            "ended_at": "2026-11-22T20:29:03.222712Z",
            "instance": INSTANCE,
            "error": {"type": "ValueError", "message": "no such picture", "stack": ['  File "app.py", line 3']},
        },
        {
            "started_at": "2026-11-22T20:30:04.101245Z",
            "ended_at": "2026-11-22T20:30:04.388668Z",
            "instance": INSTANCE,
            "error": None,
        },
    ],
    "error": None,
    "callbacks": [],
}
SHOWN: Json = {"success": True, **LISTED, "output": {"width": 100}}
QUEUED: Json = {"success": True, **LISTED, "status": "queued", "started_at": None, "ended_at": None, "attempts": []}

PATHS: Mapping[str, Json] = {
    "/invocations": {
        "get": {
            "operationId": "invocations",
            "tags": ["functions"],
            "summary": "List asynchronous calls, without their outputs",
            "description": "Those of the token; all, for the root token.",
            "security": INVOKE,
            "parameters": [
                query("function", STRING, "Only those of this function.", example="resize"),
                query("status", {"type": "string", "enum": list(STATUSES)}, "Only with this status.", example="dead"),
                query(
                    "limit",
                    {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
                    f"The most to list, {LIMIT} by default.",
                    example=10,
                ),
                query("page", {"type": "string", "minLength": 1}, "`next_page` of the listing before."),
            ],
            "responses": {
                "200": answer(
                    "The newest first.",
                    "InvocationsAnswer",
                    {"success": True, "invocations": [LISTED], "next_page": None},
                ),
                **guarded(404, 507),
            },
        }
    },
    "/invocations/{id}": {
        "parameters": [ref("parameters/Invocation")],
        "get": {
            "operationId": "invocation",
            "tags": ["functions"],
            "summary": "Show an asynchronous call, with its output or error",
            "security": INVOKE,
            "parameters": [wait_query("Seconds, or `true` (60): answer when the call is over.")],
            "responses": {"200": answer("The call.", "InvocationAnswer", SHOWN), **guarded(404, 507)},
        },
        "delete": {
            "operationId": "cancel",
            "tags": ["functions"],
            "summary": "Cancel an asynchronous call that waits",
            "security": INVOKE,
            "responses": {
                "200": answer("It will not be made.", "InvocationAnswer", {**QUEUED, "status": "cancelled"}),
                **guarded(404, 409, 507),
            },
        },
    },
    "/invocations/{id}/redrive": {
        "parameters": [ref("parameters/Invocation")],
        "post": {
            "operationId": "redrive",
            "tags": ["functions"],
            "summary": "Try a dead asynchronous call again",
            "security": INVOKE,
            "responses": {
                "200": answer("It is queued again.", "InvocationAnswer", QUEUED),
                **guarded(404, 409, 503, 507),
            },
        },
    },
    "/functions/{name}/redrive": {
        "parameters": [ref("parameters/Name")],
        "post": {
            "operationId": "redriveAll",
            "tags": ["functions"],
            "summary": "Try the dead asynchronous calls of a function again",
            "description": "Those of the token; all, for the root token. The oldest first, at most "
            f"{REDRIVEN_AT_ONCE}; go on with `next_page`.",
            "security": INVOKE,
            "parameters": [query("page", {"type": "string", "minLength": 1}, "`next_page` of the answer before.")],
            "responses": {
                "200": answer(
                    "So many are queued again.",
                    "RedrivenAnswer",
                    {"success": True, "redriven": REDRIVEN_AT_ONCE, "next_page": "81402"},
                ),
                **guarded(404, 503, 507),
            },
        },
    },
}
PARAMETERS: Mapping[str, Json] = {
    "Invocation": {
        "name": "id",
        "in": "path",
        "required": True,
        "description": "Of an asynchronous call.",
        "schema": {"type": "string", "minLength": 1},
        "example": ID,
    },
}


def add_schemas(schemas: dict[str, Json]) -> None:
    """Complete the schemas of invocations, and add those of the answers."""
    for name in ("InvocationView", "Attempt", "InvocationError", "CallbackView"):
        schemas[name]["required"] = [key for key in schemas[name]["properties"] if not key.startswith("output")]
    view = schemas["InvocationView"]
    view["properties"]["output"] = {"description": "The JSON value of the output, or its text. Not in lists."}
    view["properties"]["output_base64"] = {**STRING, "description": "The output, where it is no text. Not in lists."}
    success = {"type": "boolean", "const": True}
    schemas["InvocationAnswer"] = {
        "type": "object",
        "properties": {"success": success, **view["properties"]},
        "required": ["success", *view["required"]],
    }
    page = {"type": ["string", "null"], "description": "For `page`; null: there are no more."}
    listed = {"type": "array", "items": ref("schemas/InvocationView")}
    schemas["InvocationsAnswer"] = _object(success=success, invocations=listed, next_page=page)
    schemas["RedrivenAnswer"] = _object(success=success, redriven={"type": "integer", "minimum": 0}, next_page=page)
    schemas["AcceptedCall"] = _object(success=success, id=STRING, status={"type": "string", "enum": list(STATUSES)})


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}
