"""Lambda's two invoke calls, as AWS' SDKs and the ``aws`` command make them.

The token is in ``X-Amz-Security-Token``, which SDKs set from ``AWS_SESSION_TOKEN``; the signature is not looked at. A
call that was handed over is always answered with 200, since SDKs send a call again on 502 and 504.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from ...auth.authenticator import Authenticator
from ...errors import (
    BadRequest,
    CallFailed,
    CallTimedOut,
    FunctionFailed,
    HttpError,
    InstanceDied,
    NoInstance,
    QueueFull,
)
from ...functions.asynchronous.invoker import MAX_PAYLOAD as MAX_LATER
from ...functions.invocations.invocation import MAX_PAYLOAD, Answer, Call
from ...functions.invocations.replays import HANDED_OVER, key_of
from ...models.functions import read_qualifier
from ..base import SLICE
from . import eventstream
from .raw import EMPTY, HELD, CallHandler, Calls

JSON = "application/json"
# ARNs, whole and partial; a version may follow.
_NAME = re.compile(r"(?:arn:[^:]*:lambda:[^:]*:[^:]*:function:|[0-9]{12}:function:)?([^:]+)(?::([^:]+))?")
INVOCATION_TYPES = ("RequestResponse", "DryRun", "Event")
LATER = INVOCATION_TYPES[2]
MAX_CLIENT_CONTEXT = 3583  # bytes of base64, as Lambda's
ERROR_TYPES: Mapping[int, str] = {
    400: "InvalidParameterValueException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    409: "ResourceConflictException",
    413: "RequestTooLargeException",
    429: "TooManyRequestsException",
}
OTHER_ERROR, INVALID_CONTENT = "ServiceException", "InvalidRequestContentException"
OF_THE_FUNCTION, OF_THE_CALLER = "ReservedFunctionConcurrentInvocationLimitExceeded", "CallerRateLimitExceeded"


class InvalidContent(BadRequest):
    """A header of the request cannot be decoded."""


class AwsHandler(CallHandler):
    """A handler of Lambda's API: its token, its names of functions, and its form of errors."""

    TYPES: tuple[str, ...] = INVOCATION_TYPES[:2]

    def initialize(self, auth: Authenticator, busy: set[object], calls: Calls) -> None:
        super().initialize(auth, busy, calls)
        self.client_context: str | None = None
        self.qualifier: int | None = None
        self.kind = INVOCATION_TYPES[0]

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("x-amzn-RequestId", self.request_id)

    def authorization(self) -> str | None:
        """Return the header ``Authorization`` if it has a token, else one made of ``X-Amz-Security-Token``."""
        given, sent = super().authorization(), self.request.headers.get_list("X-Amz-Security-Token")
        if len(sent) > 1:
            raise BadRequest(f"expected one header X-Amz-Security-Token; got {len(sent)}")
        if given and given.lower().startswith("bearer "):
            return given
        return f"Bearer {sent[0]}" if sent else None

    def admit(self) -> None:
        identity = self.identify({}, "invoke")
        name, qualifier = _target(self.path_args[0], self.parameters("Qualifier").get("Qualifier"))
        self.version = self.find(name, qualifier, identity)
        self.qualifier = read_qualifier(name, qualifier)
        self.kind = self._invocation_type()
        self.client_context = _client_context(self.request.headers.get("X-Amz-Client-Context", ""))
        self.take_room(identity.name, identity.grant is not None, MAX_LATER if self.kind == LATER else MAX_PAYLOAD)

    def _invocation_type(self) -> str:
        """Return how the function is to be called.

        Raises:
            BadRequest: it is unknown, or not supported.
        """
        given = self.request.headers.get("X-Amz-Invocation-Type", INVOCATION_TYPES[0])
        if given not in self.TYPES:
            raise BadRequest(f"X-Amz-Invocation-Type: expected {', '.join(self.TYPES[:-1])} or {self.TYPES[-1]}")
        return given

    def made_call(self, streams: bool) -> Call:
        payload = self.payload() or EMPTY
        trace_id = self.request.headers.get("X-Amzn-Trace-Id")
        return Call(self.request_id, payload, self.by or "", self.client_context, trace_id, streams)

    def retry_key(self, call: Call) -> str | None:
        """Return what tells a call that was sent again from another one; None if the SDK does not say."""
        sent = self.request.headers.get("amz-sdk-invocation-id")
        if not sent:
            return None
        return key_of((sent, self.version.id, type(self).__name__, hashlib.sha256(call.payload).hexdigest()))

    async def dry_run(self) -> None:
        self.payload()
        self.set_status(int(HTTPStatus.NO_CONTENT))
        self.clear_header("Content-Type")
        self.finish()

    def render_error(self, status: int, detail: str, error: HttpError | None) -> bytes:
        """Return an error as Lambda's API tells it."""
        kind = _type_of(status, error)
        self.set_header("x-amzn-ErrorType", kind)
        self.set_header("Content-Type", JSON)
        document = {"Type": "User" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "Service", "message": detail}
        if kind == ERROR_TYPES[429]:
            document["Reason"] = OF_THE_FUNCTION if isinstance(error, CallFailed) else OF_THE_CALLER
        return msgspec.json.encode(document)


class InvokeHandler(AwsHandler):
    """``POST /2015-03-31/functions/{name}/invocations``."""

    TYPES = INVOCATION_TYPES

    async def post(self, name: str) -> None:
        if self.kind == "DryRun":
            await self.dry_run()
            return
        call = self.made_call(streams=False)
        if self.kind == LATER:
            await self._accept(call)
            return
        self.set_header("X-Amz-Executed-Version", self.version.number)
        try:
            answer = await self._once(call)
        except HANDED_OVER as error:
            self.set_header("X-Amz-Function-Error", "Unhandled")
            self.set_header("Content-Type", JSON)
            await self.send_whole(failure(error, self.request_id, self.version.spec.timeout))
            return
        await self.send_answer(answer)

    async def _accept(self, call: Call) -> None:
        """Take a call of the type ``Event``: 202 without a body; the id of the request is the invocation's."""
        sent, digest = self.request.headers.get("amz-sdk-invocation-id"), hashlib.sha256(call.payload).hexdigest()
        key = key_of((call.owner, self.version.function, sent, digest)) if sent else None
        accepted = await self.accept(call, self.qualifier, key)
        self.set_header("x-amzn-RequestId", accepted.id)
        self.set_status(int(HTTPStatus.ACCEPTED))
        self.clear_header("Content-Type")
        self.finish()

    async def _once(self, call: Call) -> Answer:
        key = self.retry_key(call)
        if key is None:
            return await self.invoke(call)
        return await self.ask(
            lambda left: self.calls.retries.once(call.owner, key, lambda all_left: self.dispatch(call, all_left), left)
        )


class StreamHandler(AwsHandler):
    """``POST /2021-11-15/functions/{name}/response-streaming-invocations``: the answer as an event stream."""

    async def post(self, name: str) -> None:
        if self.kind == "DryRun":
            await self.dry_run()
            return
        call = self.made_call(streams=True)
        key = self.retry_key(call)
        if key is not None:
            self.calls.retries.claim(call.owner, key)
        try:
            answer: Answer | None = await self.invoke(call)
            failed: CallFailed | None = None
        except HANDED_OVER as error:
            answer, failed = None, error
        except HttpError:
            if key is not None:
                self.calls.retries.forget(call.owner, key)
            raise
        self.set_header("X-Amz-Executed-Version", self.version.number)
        self.set_header("Content-Type", eventstream.MEDIA_TYPE)
        self.set_header("X-Accel-Buffering", "no")
        with self.unread(HELD):
            if answer is not None:
                failed = await self._send_parts(answer)
            self.write(self._complete(failed))
            await self.pass_on()

    async def _send_parts(self, answer: Answer) -> CallFailed | None:
        """Send the answer at the client's pace; return the error that ended it."""
        if answer.chunks is None:
            for start in range(0, len(answer.body), SLICE):
                await self._send_part(answer.body[start : start + SLICE])
            return None
        try:
            async for chunk in answer.chunks:
                await self._send_part(chunk)
        except CallFailed as error:
            return error
        finally:
            await answer.chunks.aclose()
        return None

    async def _send_part(self, part: bytes) -> None:
        self.write(eventstream.event("PayloadChunk", "application/octet-stream", part))
        await self.pass_on()

    def _complete(self, error: CallFailed | None) -> bytes:
        told = {}
        if error is not None:
            document = msgspec.json.decode(failure(error, self.request_id, self.version.spec.timeout))
            told = {"ErrorCode": document.get("errorType", ""), "ErrorDetails": document.get("errorMessage", "")}
        return eventstream.event("InvokeComplete", JSON, msgspec.json.encode(told))


def failure(error: CallFailed, request_id: str, timeout: float) -> bytes:
    """Return why a call failed, as Lambda tells it: the function's own document, or one like Lambda's."""
    if isinstance(error, FunctionFailed) and _is_object(error.document):
        return error.document
    if isinstance(error, FunctionFailed):
        told: dict[str, Any] = {
            "errorType": error.error_type,
            "errorMessage": error.error_message,
            "stackTrace": error.stack,
        }
    elif isinstance(error, CallTimedOut):
        told = _unhandled("Sandbox.Timedout", request_id, f"Task timed out after {timeout:.2f} seconds")
    elif isinstance(error, InstanceDied):
        told = _unhandled("Runtime.ExitError", request_id, str(error))
    else:
        told = _unhandled("Unhandled", request_id, str(error))
    return msgspec.json.encode(told)


def _unhandled(kind: str, request_id: str, message: str) -> dict[str, str]:
    return {"errorType": kind, "errorMessage": f"RequestId: {request_id} Error: {message}"}


def _is_object(document: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(document), dict)
    except (msgspec.MsgspecError, RecursionError):
        return False


def _type_of(status: int, error: HttpError | None) -> str:
    if isinstance(error, InvalidContent):
        return INVALID_CONTENT
    if isinstance(error, NoInstance | QueueFull):
        return ERROR_TYPES[429]
    return ERROR_TYPES.get(status, OTHER_ERROR)


def _target(name: str, qualifiers: list[str] | None) -> tuple[str, str | None]:
    """Return the name and the qualifier of a function.

    Raises:
        BadRequest: it is no name, or two qualifiers differ.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise BadRequest("FunctionName: expected NAME, NAME:VERSION or an ARN")
    given = {each for each in (found[2], *(qualifiers or ())) if each}
    if len(given) > 1:
        raise BadRequest("Qualifier: it differs from the one in the function's name; give one")
    return found[1], next(iter(given), None)


def _client_context(encoded: str) -> str | None:
    """Return the client context as JSON in ASCII on one line, as it becomes a header.

    Raises:
        InvalidContent: it is not base64 of a JSON object.
    """
    if not encoded:
        return None
    try:
        document = json.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or len(encoded) > MAX_CLIENT_CONTEXT:
        raise InvalidContent(
            f"X-Amz-Client-Context: expected base64 of a JSON object, at most {MAX_CLIENT_CONTEXT} bytes"
        )
    return json.dumps(document)
