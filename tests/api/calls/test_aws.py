"""aws: Lambda's invoke calls, made by boto3 as it comes and by hand."""

import asyncio
import base64
import json
import random
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError
from call_cases import (
    Ask,
    FakeDispatcher,
    Served,
    answer,
    app,
    ask,
    bearer,
    calls_app,
    dispatcher,
    document,
    served,
    streamed,
)
from fakes import until
from tornado.httpclient import HTTPResponse

from qmaster import errors
from qmaster.api.calls import eventstream
from qmaster.functions.invocations.invocation import MAX_PAYLOAD, Answer, Call, Chunks

__all__ = ["app", "ask", "calls_app", "dispatcher", "served"]

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("http_server")]

TOKEN = "a-token-for-tests"
INVOKE = "/2015-03-31/functions/hello/invocations"
STREAM = "/2021-11-15/functions/hello/response-streaming-invocations"
Lambda = Callable[..., Any]


@pytest.fixture(scope="module")
def session() -> Any:
    """One for all, as it reads megabytes of models."""
    return boto3.session.Session(region_name="eu-central-1")


@pytest.fixture
def clients(session: Any, base_url: str) -> Iterator[Lambda]:
    """`clients("alice")`: boto3's client of Lambda with this token."""
    made: list[Any] = []

    def make(token: str = TOKEN, **config: Any) -> Any:
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "aws_session_token": token}
        made.append(session.client("lambda", endpoint_url=base_url, config=Config(**config), **keys))
        return made[-1]

    yield make
    for client in made:
        client.close()


async def invoke(client: Any, **call: Any) -> Any:
    """What boto3 makes of the answer, with the payload read."""

    def ask() -> Any:
        made = client.invoke(**{"FunctionName": "hello", **call})
        return {**made, "Payload": made["Payload"].read()}

    return await asyncio.to_thread(ask)


async def test_boto3_calls_a_function(clients: Lambda, dispatcher: FakeDispatcher) -> None:
    """Payload in, payload out; the token is the session's."""
    dispatcher.answers = lambda call: answer(b'{"sum": 3}')
    got = await invoke(clients("alice"), Payload=b'{"a": 1}', LogType="Tail")
    assert (got["StatusCode"], got["Payload"], got["ExecutedVersion"]) == (200, b'{"sum": 3}', "3")
    assert "FunctionError" not in got
    assert (dispatcher.last.payload, dispatcher.last.owner, dispatcher.last.streams) == (b'{"a": 1}', "alice", False)
    assert got["ResponseMetadata"]["RequestId"] == dispatcher.last.id


async def test_the_environment_is_all_that_boto3_needs(
    base_url: str, dispatcher: FakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program goes unchanged."""
    environment = {
        "AWS_ENDPOINT_URL_LAMBDA": base_url,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_SESSION_TOKEN": "alice",
        "AWS_DEFAULT_REGION": "local",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("lambda")
    assert (await invoke(client))["Payload"] == b"42"
    assert dispatcher.last.owner == "alice"
    client.close()


async def test_an_empty_payload_is_an_empty_object(clients: Lambda, dispatcher: FakeDispatcher) -> None:
    """As Lambda has it."""
    assert (await invoke(clients()))["StatusCode"] == 200
    assert dispatcher.last.payload == b"{}"


NAMES = [
    ("hello", {}),
    ("hello:3", {}),
    ("hello:$LATEST", {}),
    ("123456789012:function:hello", {}),
    ("arn:aws:lambda:eu-central-1:123456789012:function:hello", {}),
    ("arn:aws:lambda:eu-central-1:123456789012:function:hello:3", {}),
    ("hello", {"Qualifier": "3"}),
    ("hello", {"Qualifier": "$LATEST"}),
    ("hello:3", {"Qualifier": "3"}),
]


@pytest.mark.parametrize(("name", "more"), NAMES)
async def test_a_function_has_all_its_names(
    clients: Lambda, dispatcher: FakeDispatcher, name: str, more: dict[str, str]
) -> None:
    """Short ones and ARNs, with a version or without; boto3 encodes their colons."""
    assert (await invoke(clients(), FunctionName=name, **more))["StatusCode"] == 200
    assert dispatcher.calls[0][0].function == "hello"


HANDED_OVER = [
    (
        errors.FunctionFailed("ValueError", "no", ["line"], b'{"errorType": "ValueError", "x": 1}'),
        {"errorType": "ValueError", "x": 1},
    ),
    (
        errors.FunctionFailed("E", "no", ["line"], b"not json"),
        {"errorType": "E", "errorMessage": "no", "stackTrace": ["line"]},
    ),
    (errors.FunctionFailed("E", "no", [], b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"), {"errorType": "E"}),
    (errors.InstanceDied("exited with 1", 1), {"errorType": "Runtime.ExitError"}),
    (errors.CallTimedOut("too slow"), {"errorType": "Sandbox.Timedout"}),
]


@pytest.mark.parametrize(("error", "said"), HANDED_OVER)
async def test_a_call_that_was_handed_over_is_200(
    clients: Lambda, dispatcher: FakeDispatcher, error: errors.HttpError, said: dict[str, object]
) -> None:
    """So that no SDK sends it again; the payload says what was wrong."""
    dispatcher.fails(error)
    got = await invoke(clients())
    assert (got["StatusCode"], got["FunctionError"]) == (200, "Unhandled")
    assert said.items() <= json.loads(got["Payload"]).items()
    assert len(dispatcher.calls) == 1


REFUSED = [
    (errors.QueueFull("full"), "TooManyRequestsException", 429),
    (errors.NoInstance("none"), "TooManyRequestsException", 503),
    (errors.NotFound("gone"), "ResourceNotFoundException", 404),
    (errors.CannotStart("no image", "image_not_found"), "ServiceException", 502),
    (errors.EngineAway("away"), "ServiceException", 503),
    (RuntimeError("a defect"), "ServiceException", 500),
]


@pytest.mark.parametrize(("error", "kind", "status"), REFUSED)
async def test_boto3_knows_the_other_errors(
    clients: Lambda, dispatcher: FakeDispatcher, error: Exception, kind: str, status: int
) -> None:
    """By their names, as its own exceptions."""
    dispatcher.fails(error)
    client = clients(retries={"max_attempts": 0})
    with pytest.raises(getattr(client.exceptions, kind)) as raised:
        await invoke(client)
    response = raised.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert response["Error"]["Code"] == kind
    assert response["Error"]["Message"]
    assert response["Type"] == ("User" if status < 500 else "Service")
    assert ("Reason" in response) == (kind == "TooManyRequestsException")


@pytest.mark.parametrize(
    ("token", "call", "kind"),
    [
        ("alice", {"FunctionName": "none"}, "ResourceNotFoundException"),
        ("eve", {}, "ResourceNotFoundException"),
        ("alice", {"FunctionName": "hello:7"}, "ResourceNotFoundException"),
        ("alice", {"Qualifier": "7"}, "ResourceNotFoundException"),
        ("alice", {"FunctionName": "hello:3", "Qualifier": "2"}, "InvalidParameterValueException"),
        ("reader", {}, "AccessDeniedException"),
        ("nobody", {}, "UnrecognizedClientException"),
        ("alice", {"InvocationType": "Later"}, "InvalidParameterValueException"),
        ("alice", {"ClientContext": "no"}, "InvalidRequestContentException"),
        ("alice", {"ClientContext": base64.b64encode(b"[1]").decode()}, "InvalidRequestContentException"),
        ("alice", {"Payload": b"x" * (MAX_PAYLOAD + 1)}, "RequestTooLargeException"),
    ],
)
async def test_boto3_knows_what_is_refused(
    clients: Lambda, dispatcher: FakeDispatcher, token: str, call: dict[str, Any], kind: str
) -> None:
    """By its name; the function is not called."""
    with pytest.raises(ClientError) as raised:
        await invoke(clients(token), **call)
    assert raised.value.response["Error"]["Code"] == kind
    assert dispatcher.calls == []


async def test_a_dry_run_calls_nothing(clients: Lambda, dispatcher: FakeDispatcher) -> None:
    """204 where it could be called, the errors of a call where not."""
    assert (await invoke(clients("alice"), InvocationType="DryRun"))["StatusCode"] == 204
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        await invoke(clients("eve"), InvocationType="DryRun")
    assert dispatcher.calls == []


async def test_the_client_context_is_one_line_of_ascii(clients: Lambda, dispatcher: FakeDispatcher) -> None:
    """It becomes a header, so nothing in it may end one."""
    context = base64.b64encode(json.dumps({"custom": {"a": "ü\r\nX: y"}}, indent=1, ensure_ascii=False).encode())
    await invoke(clients(), ClientContext=context.decode())
    assert dispatcher.last.client_context == r'{"custom": {"a": "\u00fc\r\nX: y"}}'


@pytest.mark.slow
async def test_a_late_answer_is_that_of_the_first_call(clients: Lambda, dispatcher: FakeDispatcher) -> None:
    """boto3 gives up waiting and sends the call again under the same id: the function is called once."""
    dispatcher.gate = asyncio.Event()
    client = clients(read_timeout=1, retries={"max_attempts": 5, "mode": "standard"})
    waiting = asyncio.create_task(invoke(client))
    await until(lambda: len(dispatcher.left) == 1)
    await asyncio.sleep(2.5)
    dispatcher.gate.set()
    assert (await waiting)["Payload"] == b"42"
    assert len(dispatcher.calls) == 1


SDK_ID = {"amz-sdk-invocation-id": "one"}


async def test_an_answer_is_remembered_by_the_sdks_id(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """Of the same call by the same token; another body, function, token or id is another call."""
    dispatcher.answers = lambda call: answer(str(len(dispatcher.calls)).encode())
    assert [(await ask(INVOKE, b"1", {**bearer(), **SDK_ID})).body for _ in range(2)] == [b"1", b"1"]
    assert (await ask(INVOKE, b"2", {**bearer(), **SDK_ID})).body == b"2"
    assert (await ask(INVOKE, b"1", {**bearer("alice"), **SDK_ID})).body == b"3"
    assert (await ask(INVOKE.replace("hello", "door"), b"1", {**bearer(), **SDK_ID})).body == b"4"
    assert (await ask(INVOKE, b"1", {**bearer(), "amz-sdk-invocation-id": "two"})).body == b"5"
    assert (await ask(INVOKE, b"1")).body == b"6"


@pytest.mark.parametrize(("error", "calls"), [(errors.QueueFull("full"), 2), (errors.InstanceDied("died"), 1)])
async def test_only_what_was_handed_over_is_remembered(
    ask: Ask, dispatcher: FakeDispatcher, error: Exception, calls: int
) -> None:
    """After a 429 or a 503 the call may be made again."""
    dispatcher.fails(error)
    first, second = [await ask(INVOKE, b"1", {**bearer(), **SDK_ID}) for _ in range(2)]
    assert (first.code, first.headers.get("X-Amz-Function-Error")) == (
        second.code,
        second.headers.get("X-Amz-Function-Error"),
    )
    assert len(dispatcher.calls) == calls


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Amz-Security-Token": TOKEN}, 200),
        ({"X-Amz-Security-Token": TOKEN, "Authorization": "AWS4-HMAC-SHA256 Credential=any"}, 200),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": "Bearer nobody", "X-Amz-Security-Token": TOKEN}, 401),
        ({"Authorization": "AWS4-HMAC-SHA256 Credential=any"}, 401),
        ({}, 401),
    ],
)
async def test_the_token_is_a_header(ask: Ask, headers: dict[str, str], status: int) -> None:
    """The session's, or a bearer token; the signature is not looked at."""
    assert (await ask(INVOKE, b"1", headers)).code == status


async def test_the_sessions_token_holds_on_these_routes_only(ask: Ask) -> None:
    """Nowhere else."""
    assert (await ask("/functions/hello/invoke", b"1", {"X-Amz-Security-Token": TOKEN})).code == 401


@pytest.mark.parametrize("name", ["a%3Ab%3Ac", "%3A", "%FF"])
async def test_a_wrong_name_is_refused(ask: Ask, name: str) -> None:
    """In Lambda's form of errors."""
    got = await ask(INVOKE.replace("hello", name))
    assert (got.code, "x-amzn-ErrorType" in got.headers) == (400, True)


async def test_another_method_is_405(ask: Ask) -> None:
    """Also in Lambda's form."""
    got = await ask(INVOKE, None, method="GET")
    assert (got.code, got.headers["Allow"], document(got)["Type"]) == (405, "POST", "User")


# --- streamed answers -------------------------------------------------------------------------------------------------


def parts_of(got: HTTPResponse) -> list[tuple[str, bytes]]:
    """The events of an answer, by botocore's own parser, which checks lengths and checksums."""
    buffer = EventStreamBuffer()
    buffer.add_data(got.body)
    return [(event.headers[":event-type"], event.payload) for event in buffer]


async def test_boto3_reads_a_streamed_answer(clients: Lambda, dispatcher: FakeDispatcher) -> None:
    """Each part as it comes, then the end."""
    chunks = Chunks()
    dispatcher.answers = lambda call: answer(b"", "text/plain", chunks=chunks)
    waiting = asyncio.create_task(asyncio.to_thread(clients().invoke_with_response_stream, FunctionName="hello"))
    await until(lambda: dispatcher.calls)
    assert dispatcher.last.streams
    await chunks.put(b"one")
    got = await waiting
    assert (got["StatusCode"], got["ExecutedVersion"]) == (200, "3")
    assert got["ResponseStreamContentType"] == eventstream.MEDIA_TYPE
    events = iter(got["EventStream"])
    assert await asyncio.to_thread(next, events) == {"PayloadChunk": {"Payload": b"one"}}
    await chunks.put(b"two")
    assert await asyncio.to_thread(next, events) == {"PayloadChunk": {"Payload": b"two"}}
    chunks.end()
    assert await asyncio.to_thread(next, events) == {"InvokeComplete": {}}
    assert await asyncio.to_thread(next, events, None) is None


async def test_a_whole_answer_is_streamed_too(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """In parts; a large one is whole."""
    dispatcher.answers = lambda call: answer(b"x" * 150_000)
    events = parts_of(await ask(STREAM))
    assert [kind for kind, _ in events] == ["PayloadChunk"] * 3 + ["InvokeComplete"]
    assert b"".join(payload for _, payload in events[:-1]) == b"x" * 150_000


def broken(call: Call) -> Answer:
    return streamed(b"half", error=errors.InstanceDied("it died"))


@pytest.mark.parametrize(
    ("fails", "parts", "code"),
    [
        (broken, [b"half"], "Runtime.ExitError"),
        (errors.FunctionFailed("ValueError", "no"), [], "ValueError"),
        (errors.CallTimedOut("slow"), [], "Sandbox.Timedout"),
    ],
)
async def test_a_stream_that_fails_says_so_at_its_end(
    ask: Ask, dispatcher: FakeDispatcher, fails: Any, parts: list[bytes], code: str
) -> None:
    """200, as it was handed over."""
    if isinstance(fails, Exception):
        dispatcher.fails(fails)
    else:
        dispatcher.answers = fails
    got = await ask(STREAM)
    *sent, (kind, last) = parts_of(got)
    assert (got.code, [payload for _, payload in sent], kind) == (200, parts, "InvokeComplete")
    assert json.loads(last)["ErrorCode"] == code
    assert json.loads(last)["ErrorDetails"]


async def test_what_was_not_handed_over_is_an_error(clients: Lambda, dispatcher: FakeDispatcher) -> None:
    """With the names that boto3 knows, also on this route."""
    dispatcher.fails(errors.QueueFull("full"))
    client = clients(retries={"max_attempts": 0})
    with pytest.raises(client.exceptions.TooManyRequestsException):
        await asyncio.to_thread(client.invoke_with_response_stream, FunctionName="hello")


async def test_a_streamed_call_is_made_once_too(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """A second one under the same id is told so, as no stream can be sent again; one that was refused may be."""
    dispatcher.fails(errors.QueueFull("full"))
    headers = {**bearer(), **SDK_ID}
    assert (await ask(STREAM, b"1", headers)).code == 429
    dispatcher.answers = lambda call: answer()
    assert (await ask(STREAM, b"1", headers)).code == 200
    again = await ask(STREAM, b"1", headers)
    assert (again.code, again.headers["x-amzn-ErrorType"]) == (409, "ResourceConflictException")
    assert len(dispatcher.calls) == 2


@pytest.mark.parametrize("size", [0, 1, 255, 65_536, 6 * 1024 * 1024])
@pytest.mark.parametrize("headers", [{}, {"a": ""}, {"n" * 255: "v" * 30_000, ":b": "ü"}])
def test_botocore_reads_every_message(headers: dict[str, str], size: int) -> None:
    """Its parser checks each length and checksum."""
    payload = random.Random(size).randbytes(size)
    buffer = EventStreamBuffer()
    buffer.add_data(eventstream.message(headers, payload))
    (read,) = list(buffer)
    assert (read.headers, read.payload) == (headers, payload)


async def test_requests_are_counted_by_route(ask: Ask, served: Served) -> None:
    """Not by name."""
    await ask(INVOKE.replace("hello", quote("hello:3")))
    await ask(STREAM)
    assert [route for route, _, _ in served.counted] == [
        "/2015-03-31/functions/{id}/invocations",
        "/2021-11-15/functions/{id}/response-streaming-invocations",
    ]
