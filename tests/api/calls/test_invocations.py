"""invocations: asynchronous calls over HTTP: accepted, shown, waited for, listed, cancelled and redriven."""

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import contract
import pytest
from api_cases import connection
from botocore.config import Config
from botocore.exceptions import ClientError
from call_cases import (
    Ask,
    FakeDispatcher,
    Served,
    app,
    ask,
    bearer,
    calls_app,
    dispatcher,
    document,
    invoker,
    served,
)
from fakes import until
from invocation_cases import FakeInvoker, invocation
from tornado.httpclient import HTTPResponse

from qmaster import errors
from qmaster.api import limits
from qmaster.api.calls import invocations
from qmaster.functions.asynchronous.invoker import MAX_PAYLOAD

__all__ = ["app", "ask", "calls_app", "dispatcher", "invoker", "served"]

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("http_server")]

INVOKE = "/functions/hello/invoke"
AWS = "/2015-03-31/functions/hello/invocations"
LATER = {**bearer("alice"), "Prefer": "respond-async"}
EVENT = {"X-Amz-Security-Token": "alice", "X-Amz-Invocation-Type": "Event"}


async def accepted(ask: Ask, body: bytes = b"{}", **headers: str) -> str:
    """The id of a call that is made later, of alice's."""
    got = await ask(INVOKE, body, {**LATER, **{name.replace("_", "-"): value for name, value in headers.items()}})
    assert got.code == 202, got.body
    return str(document(got)["id"])


# --- accepted ---------------------------------------------------------------------------------------------------------


async def test_a_call_is_accepted(ask: Ask, invoker: FakeInvoker, dispatcher: FakeDispatcher) -> None:
    """202 with its id and where it is shown; nothing is called now."""
    got = await ask(INVOKE, b"\x00\xff", {**LATER, "X-Amzn-Trace-Id": "Root=1"})
    (order,) = invoker.orders
    assert (got.code, document(got)) == (202, {"success": True, "id": order.id, "status": "queued"})
    told = {name: got.headers[name] for name in ("Location", "Preference-Applied", "Content-Type")}
    assert told == {
        "Location": f"/invocations/{order.id}",
        "Preference-Applied": "respond-async",
        "Content-Type": "application/json",
    }
    assert (order.function, order.qualifier, order.owner, order.payload) == ("hello", None, "alice", b"\x00\xff")
    assert (order.trace_id, order.key, uuid.UUID(order.id)) == ("Root=1", None, uuid.UUID(order.id))
    assert dispatcher.calls == []


@pytest.mark.parametrize(
    ("prefer", "code"),
    [
        ("respond-async", 202),
        ("Respond-Async", 202),
        ("wait=10, respond-async", 202),
        ("respond-async; foo=1", 202),
        ("return=minimal", 200),
        ("respond-asynchronously", 200),
        ("", 200),
    ],
)
async def test_the_preference_is_read_as_the_rfc_says(ask: Ask, prefer: str, code: int) -> None:
    """One among others, with parameters; what is unknown is ignored."""
    assert (await ask(INVOKE, headers={**bearer(), "Prefer": prefer})).code == code


async def test_an_empty_body_is_an_empty_object(ask: Ask, invoker: FakeInvoker) -> None:
    """As of a call that is made at once."""
    await accepted(ask, b"")
    assert invoker.orders[0].payload == b"{}"


@pytest.mark.parametrize("headers", [LATER, EVENT])
async def test_a_body_has_at_most_a_mebibyte(ask: Ask, invoker: FakeInvoker, headers: dict[str, str]) -> None:
    """413 for one byte more; a call that is made at once may have it."""
    path = INVOKE if headers is LATER else AWS
    assert (await ask(path, b"x" * MAX_PAYLOAD, headers)).code == 202
    assert (await ask(path, b"x" * (MAX_PAYLOAD + 1), headers)).code == 413
    assert len(invoker.orders) == 1
    assert (await ask(INVOKE, b"x" * (MAX_PAYLOAD + 1))).code == 200


async def test_too_large_a_body_is_refused_before_it_is_sent(http_port: int, invoker: FakeInvoker) -> None:
    """To a client that asks."""
    lines = [f"{name}: {value}" for name, value in LATER.items()]
    lines += ["Expect: 100-continue", f"Content-Length: {MAX_PAYLOAD + 1}"]
    async with connection(http_port) as raw:
        raw.send("\r\n".join([f"POST {INVOKE} HTTP/1.1", "Host: x", *lines, "", ""]))
        assert (await raw.answer())[0] == 413
    assert invoker.orders == []


async def test_a_key_is_accepted_once(ask: Ask, invoker: FakeInvoker) -> None:
    """The second gets the first's id; of another function or token it is another key, with another body a 422."""
    key = {"Idempotency-Key": "order-4711"}
    first = await ask(INVOKE, b"1", {**LATER, **key})
    again = await ask(INVOKE, b"1", {**LATER, **key})
    for each in (first, again):
        contract.check_answer("/functions/{name}/invoke", "post", each.code, each.headers, each.body)
    assert document(first) == document(again)
    assert [each.headers.get("Idempotency-Replayed") for each in (first, again)] == [None, "true"]
    assert again.headers["Location"] == first.headers["Location"]
    assert (await ask(INVOKE, b"2", {**LATER, **key})).code == 422
    for path, headers in (("/functions/page/invoke", LATER), (INVOKE, {**LATER, **bearer()})):
        other = await ask(path, b"1", {**headers, **key})
        assert "Idempotency-Replayed" not in other.headers
        assert document(other)["id"] != document(first)["id"]
    assert all("order-4711" not in (order.key or "") for order in invoker.orders)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.QueueFull("full", 2.5), 429),
        (errors.JournalUnwritable("full"), 507),
        (errors.NotFound("it was removed"), 404),
    ],
)
async def test_what_is_not_accepted_is_told(ask: Ask, invoker: FakeInvoker, error: errors.HttpError, code: int) -> None:
    """With the time of a retry, where that may help."""
    invoker.error = error
    got = await ask(INVOKE, b"1", LATER)
    assert (got.code, document(got)["code"]) == (code, code)
    assert got.headers.get("Retry-After") == ("3" if code == 429 else None)


@pytest.mark.parametrize(
    ("headers", "path", "code"),
    [
        ({"Prefer": "respond-async"}, INVOKE, 401),
        ({**LATER, **bearer("reader")}, INVOKE, 403),
        ({**LATER, **bearer("eve")}, INVOKE, 404),
        (LATER, "/functions/none/invoke", 404),
        ({**LATER, "Idempotency-Key": "a b"}, INVOKE, 400),
    ],
)
async def test_what_is_refused_is_not_accepted(
    ask: Ask, invoker: FakeInvoker, headers: dict[str, str], path: str, code: int
) -> None:
    """As a call that is made at once."""
    assert (await ask(path, b"1", headers)).code == code
    assert invoker.orders == []


# --- as AWS' SDKs call ------------------------------------------------------------------------------------------------


@pytest.fixture
def boto(base_url: str) -> Iterator[Any]:
    client = boto3.session.Session().client(
        "lambda",
        endpoint_url=base_url,
        region_name="local",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        aws_session_token="alice",
        config=Config(retries={"max_attempts": 1}),
    )
    yield client
    client.close()


async def test_boto3_sends_an_event(boto: Any, invoker: FakeInvoker, dispatcher: FakeDispatcher) -> None:
    """202 and no payload; the id of the request is the invocation's."""
    context = "eyJhIjogMX0="
    call = {"FunctionName": "hello:3", "InvocationType": "Event", "Payload": b"[1]", "ClientContext": context}
    got = await asyncio.to_thread(lambda: boto.invoke(**call))
    (order,) = invoker.orders
    assert (got["StatusCode"], got["Payload"].read()) == (202, b"")
    assert got["ResponseMetadata"]["RequestId"] == order.id
    assert (order.payload, order.qualifier, order.client_context) == (b"[1]", 3, '{"a": 1}')
    assert dispatcher.calls == []


@pytest.mark.parametrize("name", ["hello", "hello:$LATEST"])
async def test_without_a_version_it_is_the_newest(boto: Any, invoker: FakeInvoker, name: str) -> None:
    """Of each attempt."""
    await asyncio.to_thread(lambda: boto.invoke(FunctionName=name, InvocationType="Event"))
    assert invoker.orders[0].qualifier is None


async def test_an_sdks_retry_is_accepted_once(ask: Ask, invoker: FakeInvoker) -> None:
    """By the id that it sends with each try; another payload is another call."""
    sent = {**EVENT, "amz-sdk-invocation-id": "7"}
    replies = [await ask(AWS, body, sent) for body in (b"1", b"1", b"2")]
    assert [each.code for each in replies] == [202] * 3
    assert len({each.headers["x-amzn-RequestId"] for each in replies}) == len(invoker.there) == 2


async def test_boto3_knows_a_full_queue(boto: Any, invoker: FakeInvoker) -> None:
    """By its exception."""
    invoker.error = errors.QueueFull("full", 1)
    with pytest.raises(ClientError) as raised:
        await asyncio.to_thread(lambda: boto.invoke(FunctionName="hello", InvocationType="Event"))
    assert raised.value.response["Error"]["Code"] == "TooManyRequestsException"


async def test_a_stream_is_not_made_later(ask: Ask, invoker: FakeInvoker) -> None:
    """Nobody would read it."""
    got = await ask("/2021-11-15/functions/hello/response-streaming-invocations", b"1", EVENT)
    assert (got.code, "RequestResponse or DryRun" in document(got)["message"]) == (400, True)
    assert invoker.orders == []


# --- shown, and waited for --------------------------------------------------------------------------------------------


async def show(ask: Ask, path: str, by: str = "alice", method: str = "GET") -> HTTPResponse:
    return await ask(path, None, bearer(by), method)


async def test_an_invocation_is_shown(ask: Ask, invoker: FakeInvoker) -> None:
    """To its owner and the root token; to others there is none."""
    one = await accepted(ask)
    invoker.end(one, status="succeeded", output={"a": 1})
    for token in ("alice", "a-token-for-tests"):
        got = await show(ask, f"/invocations/{one}", token)
        told = document(got)
        assert (got.code, told["success"], told["id"], told["status"]) == (200, True, one, "succeeded")
        assert told["output"] == {"a": 1}
        contract.check_answer("/invocations/{id}", "get", got.code, got.headers, got.body)
    assert (await show(ask, f"/invocations/{one}", "eve")).code == 404
    assert (await show(ask, f"/invocations/{one}", "reader")).code == 403
    missing = await show(ask, "/invocations/none")
    assert (missing.code, "10.0.0.5" in document(missing)["error"]) == (404, True)


@pytest.mark.parametrize(("wait", "seconds"), [("0", 0), ("2.5", 2.5), ("true", 60), ("86400", 86400)])
async def test_the_end_is_waited_for(ask: Ask, invoker: FakeInvoker, wait: str, seconds: float) -> None:
    """So many seconds."""
    one = await accepted(ask)
    assert (await show(ask, f"/invocations/{one}?wait={wait}")).code == 200
    assert invoker.asked == [("when_over", one, seconds)]


@pytest.mark.parametrize("query", ["wait=-1", "wait=x", "wait=", "wait=86401", "wait=1&wait=2", "x=1", "token=x"])
async def test_a_wrong_query_is_refused(ask: Ask, invoker: FakeInvoker, query: str) -> None:
    """400; nothing is asked."""
    one = await accepted(ask)
    assert (await show(ask, f"/invocations/{one}?{query}")).code == 400
    assert invoker.asked == []


async def test_a_caller_that_leaves_waits_no_more(
    ask: Ask, http_port: int, invoker: FakeInvoker, served: Served
) -> None:
    """Its slot is free again."""
    one = await accepted(ask)
    invoker.gate = asyncio.Event()
    async with connection(http_port) as raw:
        raw.send(f"GET /invocations/{one}?wait=60 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n\r\n")
        await until(lambda: invoker.left is not None)
    left = invoker.left
    assert left is not None
    await asyncio.wait_for(left, 10)
    invoker.gate.set()
    await until(lambda: not served.busy)


async def test_waits_are_limited(ask: Ask, invoker: FakeInvoker, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the slots that a token's waits for runs share."""
    monkeypatch.setitem(limits.MOST, "wait", 4)
    one = await accepted(ask)
    invoker.gate = asyncio.Event()
    first = asyncio.ensure_future(show(ask, f"/invocations/{one}?wait=60"))
    await until(lambda: len(invoker.asked) == 1)
    refused = await show(ask, f"/invocations/{one}?wait=60")
    assert (refused.code, "calls that wait" in document(refused)["error"]) == (429, True)
    assert (await show(ask, f"/invocations/{one}")).code == 200
    invoker.gate.set()
    assert (await first).code == 200


# --- listed -----------------------------------------------------------------------------------------------------------


async def test_invocations_are_listed_page_by_page(ask: Ask, invoker: FakeInvoker) -> None:
    """The newest first; `next_page` is the next `page`, null at the end."""
    invoker.there = {f"i{number}": invocation(f"i{number}") for number in range(5)}
    found, page = [], ""
    while True:
        told = document(await show(ask, f"/invocations?limit=2{page}"))
        found.append([each["id"] for each in told["invocations"]])
        if told["next_page"] is None:
            break
        page = f"&page={told['next_page']}"
    assert found == [["i4", "i3"], ["i2", "i1"], ["i0"]]


async def test_the_filters_are_passed_on(ask: Ask, invoker: FakeInvoker) -> None:
    """All of them; without a limit it is a hundred."""
    assert (await show(ask, "/invocations")).code == 200
    assert (await show(ask, "/invocations?function=hello&status=dead&limit=7&page=3")).code == 200
    assert invoker.asked == [
        ("listing", "alice", None, None, invocations.LIMIT, None),
        ("listing", "alice", "hello", "dead", 7, "3"),
    ]


@pytest.mark.parametrize(
    "query",
    [
        *("status=x", "status=dead&status=queued", "limit=0", f"limit={invocations.MAX_LIMIT + 1}", "limit=1e3"),
        *("function=A", "function=a&function=b", "page=", "page=1&page=2", "page=" + "9" * 300, "all=1", "x"),
    ],
)
async def test_a_wrong_filter_is_refused(ask: Ask, invoker: FakeInvoker, query: str) -> None:
    """400; nothing is asked."""
    assert (await show(ask, f"/invocations?{query}")).code == 400
    assert invoker.asked == []


# --- cancelled, redriven ----------------------------------------------------------------------------------------------


async def test_one_that_waits_is_cancelled(ask: Ask, invoker: FakeInvoker) -> None:
    """The answer is the invocation; one that runs is a 409."""
    one, other = await accepted(ask), await accepted(ask)
    got = await show(ask, f"/invocations/{one}", method="DELETE")
    assert (got.code, document(got)["status"]) == (200, "cancelled")
    invoker.end(other, status="running")
    assert (await show(ask, f"/invocations/{other}", method="DELETE")).code == 409
    assert invoker.there[other].status == "running"


async def test_a_dead_one_is_redriven(ask: Ask, invoker: FakeInvoker) -> None:
    """It is queued again; one that is not dead is a 409."""
    one = await accepted(ask)
    assert (await show(ask, f"/invocations/{one}/redrive", method="POST")).code == 409
    invoker.end(one, status="dead")
    got = await show(ask, f"/invocations/{one}/redrive", method="POST")
    assert (got.code, document(got)["status"]) == (200, "queued")


async def test_all_dead_ones_of_a_function_are_redriven(ask: Ask, invoker: FakeInvoker) -> None:
    """Step by step; the answer says how many, and where the next step begins."""
    for _ in range(3):
        invoker.end(await accepted(ask), status="dead")
    told = []
    for query in ("", "?page=2"):
        got = await show(ask, f"/functions/hello/redrive{query}", method="POST")
        contract.check_answer("/functions/{name}/redrive", "POST", got.code, got.headers, got.body)
        told.append(document(got))
    assert told == [
        {"success": True, "redriven": 2, "next_page": "2"},
        {"success": True, "redriven": 1, "next_page": None},
    ]
    assert invoker.asked == [("redrive_all", "alice", "hello", None), ("redrive_all", "alice", "hello", "2")]
    for target, body, token, code in (
        ("/functions/hello/redrive", b'{"ids": []}', "alice", 400),
        ("/functions/hello/redrive?function=hello", None, "alice", 400),
        ("/functions/hello/redrive?page=", None, "alice", 400),
        ("/functions/hello/redrive", None, "reader", 403),
    ):
        assert (await ask(target, body, bearer(token), "POST")).code == code
    assert len(invoker.asked) == 2


@pytest.mark.parametrize(("method", "path"), [("DELETE", ""), ("POST", "/redrive")])
async def test_a_change_takes_a_token_and_nothing_else(ask: Ask, invoker: FakeInvoker, method: str, path: str) -> None:
    """In the body too, as of other changes; a field or a parameter is a 400, a scope that is missing a 403."""
    one = await accepted(ask)
    before = invoker.end(one, status="dead" if path else "queued")
    target = f"/invocations/{one}{path}"
    wrong = json.dumps({"token": "alice", "force": True}).encode()
    assert (await ask(target, wrong, {}, method)).code == 400
    assert (await ask(f"{target}?force=1", None, bearer("alice"), method)).code == 400
    assert (await ask(target, None, bearer("reader"), method)).code == 403
    assert (await ask(target, None, bearer("eve"), method)).code == 404
    assert invoker.there[one] == before
    assert (await ask(target, b'{"token": "alice"}', {}, method)).code == 200


async def test_without_functions_there_are_none(served: Served, ask: Ask, app: Any) -> None:
    """404 with the option that is missing."""
    for rule in app.wildcard_router.rules:
        if "asynchronous" in rule.target_kwargs:
            rule.target_kwargs["asynchronous"] = None
    got = await show(ask, "/invocations")
    assert (got.code, "--runtime-port" in document(got)["error"]) == (404, True)
