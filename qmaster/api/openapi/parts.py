"""What the calls of ``/openapi.json`` share: references, answers, errors, parameters and scopes. Pure."""

from __future__ import annotations

from typing import Any, get_args

from ...models.requests import MAX_WAIT
from ...models.results import Stream
from ...models.units import DURATION, UNITS

Json = dict[str, Any]


def ref(place: str) -> Json:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{place}"}


def content(description: str, kinds: Json, **headers: Json) -> Json:
    """Return an answer in one or more media types."""
    return {
        "description": description,
        "headers": {"X-Request-ID": ref("headers/RequestId"), **headers},
        "content": kinds,
    }


def answer(description: str, schema: str, example: Any = None, **headers: Json) -> Json:
    """Return an answer in JSON."""
    shown = {} if example is None else {"example": example}
    return content(description, {"application/json": {"schema": ref(f"schemas/{schema}"), **shown}}, **headers)


def text(*kinds: str) -> Json:
    """Return the content of an answer in these media types."""
    return {kind: {"schema": STRING} for kind in kinds}


def errors(*statuses: int) -> Json:
    """Return the errors of any call, and these."""
    return {str(status): ref(f"responses/Error{status}") for status in sorted({400, 413, 500, *statuses})}


def guarded(*statuses: int) -> Json:
    """Return the errors of a call that needs a token."""
    return errors(401, 403, 429, *statuses)


def query(name: str, schema: Json, description: str, **more: Any) -> Json:
    """Return a parameter of the query."""
    return {"name": name, "in": "query", "description": description, "schema": schema, **more}


def wait_query(description: str) -> Json:
    """Return the parameter ``wait``."""
    seconds = {"type": "number", "minimum": 0, "maximum": MAX_WAIT}
    return query("wait", {"anyOf": [{"type": "string", "const": "true"}, seconds, DURATIONS]}, description)


def with_units(properties: Json) -> Json:
    """Return the fields of a request with the strings that durations and sizes may be."""
    return {name: _or_text(each, UNITS[name].pattern) if name in UNITS else each for name, each in properties.items()}


def _or_text(schema: Json, pattern: str) -> Json:
    kinds = {name: value for name, value in schema.items() if name not in ("anyOf", "description")}
    described = {"description": schema["description"]} if "description" in schema else {}
    if not pattern or not (schema.get("anyOf") or kinds["type"] in ("integer", "number")):
        return schema
    return {"anyOf": [*schema.get("anyOf", [kinds]), {"type": "string", "pattern": f"^{pattern}$"}], **described}


STRING: Json = {"type": "string"}
DURATIONS: Json = {"type": "string", "pattern": f"^{DURATION}$"}
STRINGS: Json = {"type": "array", "items": STRING}
MOMENT: Json = {"anyOf": [{**STRING, "format": "date-time"}, {**STRING, "format": "date"}]}
FLAG: Json = {"type": "string", "enum": ["1", "true", "0", "false"]}
# OpenAPI 3.1: the names beside a scheme are the roles that the call needs. `{}`: the token may be in the body.
RUN: list[Json] = [{"bearer": ["run"]}, {}]
STOP: list[Json] = [{"bearer": ["stop"]}, {}]
READ: list[Json] = [{"bearer": ["read"]}]
INVOKE: list[Json] = [{"bearer": ["invoke"]}]
ROOT: list[Json] = [{"bearer": ["root"]}]
OPEN: list[Json] = []
LOG_QUERIES: list[Json] = [
    query("follow", FLAG, "`1`: send new output until all tasks have ended."),
    query(
        "tail",
        {
            "anyOf": [
                {"type": "string", "const": "all"},
                {"type": "integer", "minimum": 0, "maximum": 999_999_999},
            ]
        },
        "Only so many last lines of each task.",
        example=100,
    ),
    query("timestamps", FLAG, "`1`: begin each line with its time. Plain text only.", example="1"),
    query(
        "stream",
        {"type": "array", "items": {"type": "string", "enum": list(get_args(Stream))}},
        "By default both.",
        example=["stderr"],
    ),
]
REPLAYED: Json = {
    "description": "Set if the answer is that of an earlier call with this key.",
    "schema": {"type": "string", "const": "true"},
}
CREATED: dict[str, Json] = {
    "Location": {"description": "Where the run is shown.", "schema": STRING},
    "Idempotency-Replayed": REPLAYED,
}
