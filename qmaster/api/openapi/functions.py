"""The calls of functions in ``/openapi.json``: the paths as data, and the schemas of their messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...models.functions import MAX_NAME, Function, FunctionSpec, FunctionVersion, RollbackRequest
from ...models.invocations import InvocationView
from ...models.schedules import Schedule
from .parts import READ, RUN, STOP, STRING, STRINGS, answer, guarded, ref

Json = dict[str, Any]

MESSAGES = (FunctionSpec, RollbackRequest, FunctionVersion, Function, InvocationView)
FIELDS: Mapping[str, str] = {
    "runtime": "`lambda`: instances speak the runtime API of AWS Lambda. `job`: each call is a run of its own.",
    "min_instances": "How many instances each quartermaster keeps warm. Not for jobs.",
    "max_instances": "The most instances, or jobs at once, of each quartermaster.",
    "concurrency": "How many calls an instance takes at once. Not for jobs.",
    "idle": "Seconds without a call after which an instance above `min_instances` ends. Not for jobs.",
    "timeout": "Seconds of one call.",
    "init_timeout": "Seconds in which a running instance must ask for its first call. Not for jobs.",
    "queue": "How many calls may wait for an instance, and how many asynchronous ones may wait; with 0 none is taken.",
    "retries": "Attempts of an asynchronous call after the first one.",
    "max_age": "Seconds after which an asynchronous call is given up.",
    "retry_delay": "Seconds before the second attempt of an asynchronous call, doubled for each further one.",
    "schedules": "When the function is called by itself, and with what.",
    "on_success": "A URL that gets the event of an asynchronous call that succeeded, signed.",
    "on_failure": "A URL that gets the event of an asynchronous call that is dead, signed.",
    "url": "The function URL: `none`, `token` for callers with a token, or `public` for everyone.",
}
SCHEDULE_FIELDS: Mapping[str, str] = {
    "cron": "Five fields, as in crontab(5), or a word such as `@hourly`.",
    "time_zone": "A name of the IANA database, such as `Europe/Berlin`.",
    "input": "The body of the calls: any JSON value.",
    "concurrency": "`forbid`: no call while that of an earlier tick waits or runs.",
    "starting_deadline": "Seconds after a tick in which its call may still be made.",
    "suspend": "No calls.",
    "last": "The last tick that was called, by any quartermaster.",
    "next": "The next tick; null for one that is suspended.",
}
CURSOR = "5f3a9c1e.m2kq8x3d:1042"
DIGEST = "sha256:9b4f7d6c0a5e1f3b8c2d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b"
NIGHTLY: Json = {"cron": "30 2 * * *", "time_zone": "Europe/Berlin", "concurrency": "forbid"}
SPECS: Mapping[str, Json] = {
    "smallest": {"image": "registry.example.com/resize:1"},
    "warm": {
        "image": "registry.example.com/resize:1",
        "command": ["app.handler"],
        "env": {"QUALITY": "80"},
        "secrets": ["bucket-key"],
        "memory": 512,
        "min_instances": 1,
        "max_instances": 20,
        "timeout": 30,
        "url": "token",
    },
    "nightly": {
        "runtime": "job",
        "image": "registry.example.com/backup:1",
        "timeout": 3600,
        "max_instances": 1,
        "schedules": [NIGHTLY],
    },
}
VERSION: Json = {
    "name": "resize",
    "version": 3,
    "image": f"registry.example.com/resize:1@{DIGEST}",
    "owner": "root",
    "published_at": "2026-11-22T20:29:03.085076Z",
    "spec": FunctionSpec(
        image="registry.example.com/resize:1", env={"QUALITY": ""}, schedules=[Schedule(**NIGHTLY)]
    ).shown(),
}
TICKS: Json = {
    **NIGHTLY,
    "starting_deadline": 300.0,
    "suspend": False,
    "last": "2026-11-22T01:30:00Z",
    "next": "2026-11-23T01:30:00Z",
}
FUNCTION: Json = {
    **VERSION,
    "instances": {"starting": 0, "idle": 1, "busy": 2},
    "queued": 0,
    "last_errors": [],
    "schedules": [TICKS],
}

SHOWN: Json = {"success": True, **FUNCTION}
LISTED: Json = {"success": True, "cursor": CURSOR, "functions": [FUNCTION]}


def _body(schema: str, examples: Mapping[str, Json]) -> Json:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"required": True, "content": {"application/json": {"schema": ref(f"schemas/{schema}"), "examples": shown}}}


def _published(text: str) -> Json:
    return answer(text, "PublishAnswer", SHOWN)


NAME = [ref("parameters/Name")]
PATHS: Mapping[str, Json] = {
    "/functions": {
        "get": {
            "operationId": "functions",
            "tags": ["functions"],
            "summary": "List the functions",
            "security": READ,
            "responses": {
                "200": answer("By name.", "FunctionsAnswer", LISTED),
                **guarded(404, 503),
            },
        }
    },
    "/functions/{name}": {
        "parameters": NAME,
        "put": {
            "operationId": "publish",
            "tags": ["functions"],
            "summary": "Publish a function: its first version, or the next",
            "security": RUN,
            "requestBody": _body("FunctionSpec", SPECS),
            "responses": {
                "200": _published("The newest version has the same spec, digest and publisher: nothing has changed."),
                "201": _published("There is a new version."),
                **guarded(404, 409, 502, 503),
            },
        },
        "get": {
            "operationId": "function",
            "tags": ["functions"],
            "summary": "Show a function",
            "security": READ,
            "responses": {
                "200": answer("Its newest version, and what it does now.", "FunctionAnswer", SHOWN),
                **guarded(404, 503),
            },
        },
        "delete": {
            "operationId": "unpublish",
            "tags": ["functions"],
            "summary": "Delete a function with all its versions",
            "security": STOP[:1],
            "responses": {
                "200": answer("It takes no more calls.", "DeleteAnswer", {"success": True, "name": "resize"}),
                **guarded(404, 502, 503),
            },
        },
    },
    "/functions/{name}/versions": {
        "parameters": NAME,
        "get": {
            "operationId": "versions",
            "tags": ["functions"],
            "summary": "List the versions of a function that are kept",
            "security": READ,
            "responses": {
                "200": answer("The newest first.", "VersionsAnswer", {"success": True, "versions": [VERSION]}),
                **guarded(404, 503),
            },
        },
    },
    "/functions/{name}/rollback": {
        "parameters": NAME,
        "post": {
            "operationId": "rollback",
            "tags": ["functions"],
            "summary": "Publish a version again, as the newest",
            "security": RUN,
            "requestBody": _body("RollbackRequest", {"third": {"version": 3}}),
            "responses": {
                "200": _published("The newest version is the same: nothing has changed."),
                "201": _published("There is a new version."),
                **guarded(404, 409, 502, 503),
            },
        },
    },
}
PARAMETERS: Mapping[str, Json] = {
    "Name": {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "Of a function: `a-z`, `0-9`, `-` and `_`, with a letter or digit at both ends.",
        "schema": {"type": "string", "pattern": rf"^[a-z0-9]([a-z0-9_-]{{0,{MAX_NAME - 2}}}[a-z0-9])?$"},
        "example": "resize",
    },
}


def add_schemas(schemas: dict[str, Json], shared: Mapping[str, str]) -> None:
    """Complete the schemas of functions.

    Args:
        schemas: those of all messages.
        shared: the descriptions of the fields that a run and a function share.
    """
    spec = schemas["FunctionSpec"]["properties"]
    for name, text in {**shared, **FIELDS}.items():
        if name in spec:
            spec[name]["description"] = text
    shown = {**{name: value for name, value in spec.items() if name != "token"}, "env": {**STRINGS}}
    schemas["ShownSpec"] = {"type": "object", "properties": shown, "required": list(shown)}
    for name in ("Function", "FunctionVersion"):
        schemas[name]["properties"]["spec"] = ref("schemas/ShownSpec")
        schemas[name]["required"] = list(schemas[name]["properties"])
    for name in ("InstanceCounts", "FunctionError", "ScheduleView"):
        schemas[name]["required"] = list(schemas[name]["properties"])
    for name in ("Schedule", "ScheduleView"):
        for field, each in schemas[name]["properties"].items():
            each["description"] = SCHEDULE_FIELDS[field]


def answers(schemas: Mapping[str, Json]) -> dict[str, Json]:
    """Return the schemas of the answers."""
    success = {"type": "boolean", "const": True}
    view = {"success": success, **schemas["Function"]["properties"]}
    warnings = {**STRINGS, "minItems": 1, "description": "Only if there are any."}
    return {
        "PublishAnswer": {"type": "object", "properties": {**view, "warnings": warnings}, "required": list(view)},
        "FunctionAnswer": {"type": "object", "properties": view, "required": list(view)},
        "FunctionsAnswer": _object(success=success, cursor=STRING, functions=_array("Function")),
        "VersionsAnswer": _object(success=success, versions=_array("FunctionVersion")),
        "DeleteAnswer": _object(success=success, name=STRING),
    }


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(name: str) -> Json:
    return {"type": "array", "items": ref(f"schemas/{name}")}
