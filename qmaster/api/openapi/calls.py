"""The calls that call functions in ``/openapi.json``: raw bodies, and Lambda's own routes. Pure.

Function URLs are not described: what they take and answer is the function's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...functions.asynchronous.invoker import MAX_PAYLOAD as MAX_LATER
from ...functions.invocations.invocation import MAX_PAYLOAD
from ...models.functions import LATEST
from ..calls.aws import ERROR_TYPES, INVALID_CONTENT, INVOCATION_TYPES, OF_THE_CALLER, OF_THE_FUNCTION, OTHER_ERROR
from ..calls.eventstream import MEDIA_TYPE
from ..calls.invoke import RESPOND_ASYNC
from .invocations import ID
from .parts import INVOKE, LOG_QUERIES, READ, REPLAYED, STRING, answer, content, guarded, ref, text

Json = dict[str, Any]

NUMBER: Json = {"type": "string", "pattern": "^[0-9]+$"}
BYTES: Json = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}  # or any other type
HEADERS: Mapping[str, Json] = {
    "Qmaster-Instance": {"description": "The id of the instance, as in `/logs/{id}`.", "schema": STRING},
    "Qmaster-Version": {"description": "The version that was called.", "schema": NUMBER},
    "Qmaster-Duration-Ms": {
        "description": "Milliseconds from the hand-over to the answer.",
        "schema": {"type": "string", "pattern": "^[0-9]+[.][0-9]+$"},
    },
    "Qmaster-Cold": {
        "description": "Whether an instance was started for the call.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "Idempotency-Replayed": REPLAYED,
}
VERSION = {"X-Amz-Executed-Version": {"description": "The version that was called.", "schema": STRING}}


def _body(description: str) -> Json:
    return {
        "required": False,
        "description": f"{description} At most {MAX_PAYLOAD // 1024 // 1024} MiB; none is `{{}}`.",
        "content": BYTES,
    }


def _header(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _aws_parameters(*types: str) -> list[Json]:
    words = {"DryRun": "`DryRun`: only check whether it could be called.", "Event": "`Event`: call it later."}
    said = " ".join(words[each] for each in types if each in words)
    return [*AWS_PARAMETERS, _header("X-Amz-Invocation-Type", {"type": "string", "enum": list(types)}, said)]


AWS_ERRORS: Json = {str(status): ref("responses/AwsError") for status in sorted({*ERROR_TYPES, 500, 502, 503})}
AWS_PARAMETERS: list[Json] = [
    {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "NAME, NAME:VERSION, or an ARN of it.",
        "schema": {"type": "string", "minLength": 1},
        "example": "resize",
    },
    {
        "name": "Qualifier",
        "in": "query",
        "description": f"A version's number, or `{LATEST}`.",
        "schema": STRING,
    },
    _header("X-Amz-Security-Token", STRING, "The token, which SDKs read from `AWS_SESSION_TOKEN`."),
    _header("X-Amz-Client-Context", STRING, "Base64 of a JSON object, for the function."),
    _header("amz-sdk-invocation-id", STRING, "A call that is sent again under the same id is made once."),
]
DRY_RUN: Json = {"description": "It could be called.", "headers": {"X-Request-ID": ref("headers/RequestId")}}

EVENT: Json = {
    "description": "It is called later (`Event`).",
    "headers": {
        "X-Request-ID": ref("headers/RequestId"),
        "x-amzn-RequestId": {"description": "The id of the call, for `/invocations/{id}`.", "schema": STRING},
    },
}
LATER: Mapping[str, Json] = {
    "Location": {"description": "Where the call is shown.", "schema": STRING},
    "Preference-Applied": {"schema": {"type": "string", "const": RESPOND_ASYNC}},
    "Idempotency-Replayed": REPLAYED,
}

ERROR_TYPE: Json = {
    "type": "string",
    "enum": sorted({*ERROR_TYPES.values(), INVALID_CONTENT, OTHER_ERROR}),
}

PATHS: Mapping[str, Json] = {
    "/functions/{name}/logs": {
        "parameters": [ref("parameters/Name")],
        "get": {
            "operationId": "functionLogs",
            "tags": ["functions"],
            "summary": "Read the output of a function's instances, also live",
            "description": "As of a run. If there are several instances, each line of the plain text begins with the "
            "name of its instance; in NDJSON it is the key `instance`.",
            "security": READ,
            "parameters": LOG_QUERIES,
            "responses": {
                "200": content(
                    "The output, instance by instance. A response that ends without its last chunk was cut off.",
                    text("text/plain", "application/x-ndjson"),
                ),
                **guarded(404, 502, 503, 507),
            },
        },
    },
    "/functions/{name}/invoke": {
        "parameters": [ref("parameters/Name")],
        "post": {
            "operationId": "invoke",
            "tags": ["functions"],
            "summary": "Call a function",
            "description": "The body is the input, and the answer's body the output, as they are. Every call has an "
            "`X-Request-ID` of its own.",
            "security": INVOKE,
            "parameters": [ref("parameters/CallKey"), ref("parameters/Prefer")],
            "requestBody": _body("The input."),
            "responses": {
                "200": content("The output, with the content type that the function gave it.", BYTES, **HEADERS),
                "202": answer(
                    f"The call is accepted, and made later. Its input has at most {MAX_LATER // 1024 // 1024} MiB.",
                    "AcceptedCall",
                    {"success": True, "id": ID, "status": "queued"},
                    **LATER,
                ),
                **guarded(404, 409, 422, 502, 503, 504, 507),
            },
        },
    },
    "/2015-03-31/functions/{name}/invocations": {
        "parameters": _aws_parameters(*INVOCATION_TYPES),
        "post": {
            "operationId": "awsInvoke",
            "tags": ["functions"],
            "summary": "Call a function, as AWS' SDKs do",
            "description": "A call that was handed over is always 200. SDKs make it with `AWS_ENDPOINT_URL_LAMBDA`.",
            "security": INVOKE,
            "requestBody": _body("The input."),
            "responses": {
                "200": content("The output; or, with `X-Amz-Function-Error`, why the call failed.", BYTES, **VERSION),
                "202": EVENT,
                "204": DRY_RUN,
                **AWS_ERRORS,
            },
        },
    },
    "/2021-11-15/functions/{name}/response-streaming-invocations": {
        "parameters": _aws_parameters(*INVOCATION_TYPES[:2]),
        "post": {
            "operationId": "awsInvokeStream",
            "tags": ["functions"],
            "summary": "Call a function, as AWS' SDKs do, and stream its output",
            "security": INVOKE,
            "requestBody": _body("The input."),
            "responses": {
                "200": content(
                    "Events `PayloadChunk`, and at the end `InvokeComplete`, with the error if the call failed.",
                    {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
                    **VERSION,
                ),
                "204": DRY_RUN,
                **AWS_ERRORS,
            },
        },
    },
}
PARAMETERS: Mapping[str, Json] = {
    "CallKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes a retry safe: calls of a function with the same key and body are one call.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "order-4711",
    },
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": f"`{RESPOND_ASYNC}`: accept the call, and make it later.",
        "schema": {"type": "string", "enum": [RESPOND_ASYNC]},
    },
}
SCHEMAS: Mapping[str, Json] = {
    "AwsError": {
        "type": "object",
        "properties": {
            "Type": {"type": "string", "enum": ["User", "Service"]},
            "message": STRING,
            "Reason": {"type": "string", "enum": [OF_THE_FUNCTION, OF_THE_CALLER]},
        },
        "required": ["Type", "message"],
        "description": "An error of Lambda's API. `Reason` is that of a `TooManyRequestsException`.",
    },
}
RESPONSES: Mapping[str, Json] = {
    "AwsError": content(
        "The call was not made. `x-amzn-ErrorType` says why.",
        {
            "application/json": {
                "schema": ref("schemas/AwsError"),
                "example": {"Type": "User", "message": "no function"},
            }
        },
        **{"x-amzn-ErrorType": {"description": "The exception of the SDKs.", "schema": ERROR_TYPE}},
    ),
}
