"""function_urls: `ANY /fn/{name}/…` and host names of functions, over functions of the test's own."""

import asyncio
import base64
import json
from ipaddress import ip_network
from typing import Any

import pytest
from api_cases import TOKEN, Raw, connection
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

from qmaster import errors
from qmaster.api.calls import bodies
from qmaster.functions.invocations.invocation import MAX_PAYLOAD, Answer, Call, Chunks
from qmaster.functions.invocations.urls import NULS, SANDBOX, STREAMED

__all__ = ["app", "ask", "calls_app", "dispatcher", "served"]

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("http_server")]

PUBLIC, DOOR = "/fn/page/", "/fn/door/"
Json = dict[str, Any]


def replies(**response: Any) -> Any:
    """A function that answers with this."""

    def reply(call: Call) -> Answer:
        return answer(json.dumps({"statusCode": 200, **response}).encode())

    return reply


def event(dispatcher: FakeDispatcher) -> Json:
    made: Json = json.loads(dispatcher.last.payload)
    return made


async def test_a_request_is_an_event_and_the_answer_http(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """The path below the function's name, as it was sent; status, headers, cookies and body of the function."""
    dispatcher.answers = replies(
        statusCode=201, headers={"content-type": "text/html", "X-A": "1"}, cookies=["a=1"], body="hi"
    )
    got = await ask(
        "/fn/page/a%20b/c?x=1&x=2", b"a=1", {"Content-Type": "application/x-www-form-urlencoded", "Cookie": "b=2"}
    )
    assert (got.code, got.body, got.headers["Content-Type"], got.headers["X-A"]) == (201, b"hi", "text/html", "1")
    assert got.headers["Set-Cookie"] == "a=1; Path=/fn/page"
    made = event(dispatcher)
    assert (made["rawPath"], made["rawQueryString"], made["body"]) == ("/a%20b/c", "x=1&x=2", "a=1")
    assert (made["cookies"], made["requestContext"]["http"]["method"]) == (["b=2"], "POST")
    assert made["headers"]["x-forwarded-prefix"] == "/fn/page"
    assert made["requestContext"]["requestId"] == dispatcher.last.id == got.headers["X-Request-ID"]
    assert (dispatcher.last.owner, dispatcher.last.streams) == ("", True)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_any_method_is_the_functions(ask: Ask, dispatcher: FakeDispatcher, method: str) -> None:
    """A HEAD has the headers of the body that it does not get."""
    dispatcher.answers = replies(body="hello")
    got = await ask(PUBLIC, None, {}, method)
    assert (got.code, event(dispatcher)["requestContext"]["http"]["method"]) == (200, method)
    assert (got.body, got.headers["Content-Length"]) == (b"" if method == "HEAD" else b"hello", "5")


@pytest.mark.parametrize(
    ("path", "raw"), [("/fn/page", "/"), ("/fn/page/", "/"), ("/fn/page//a/", "//a/"), ("/fn/page?a", "/")]
)
async def test_the_path_is_at_least_a_slash(ask: Ask, dispatcher: FakeDispatcher, path: str, raw: str) -> None:
    """Nothing of it is changed."""
    assert (await ask(path, None, {}, "GET")).code == 200
    assert event(dispatcher)["rawPath"] == raw


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (PUBLIC, {}, 200),
        (PUBLIC, bearer("eve"), 200),
        (PUBLIC, bearer("an application's own"), 200),
        (DOOR, bearer(), 200),
        (DOOR, bearer("alice"), 200),
        (DOOR, {}, 401),
        (DOOR, bearer("nobody"), 401),
        (DOOR, bearer("reader"), 403),
        (DOOR, bearer("eve"), 404),
        ("/fn/hello/", bearer(), 404),
        ("/fn/hello/", {}, 401),
        ("/fn/none/", bearer(), 404),
        ("/fn/none/", {}, 401),
    ],
)
async def test_who_may_call(
    ask: Ask, dispatcher: FakeDispatcher, path: str, headers: dict[str, str], status: int
) -> None:
    """Anybody a public one; a token with the scope `invoke` others with a URL."""
    assert (await ask(path, b"x", headers)).code == status
    assert len(dispatcher.calls) == (status == 200)


@pytest.mark.parametrize(
    ("path", "headers", "passed"),
    [
        (PUBLIC, {"Authorization": "Bearer app"}, "Bearer app"),
        (PUBLIC, {"Authorization": "Basic " + base64.b64encode(b"me:secret").decode()}, "Basic bWU6c2VjcmV0"),
        (PUBLIC, {"Authorization": f"Bearer {TOKEN}"}, None),
        (PUBLIC, {"Authorization": "Bearer alice"}, None),
        (PUBLIC, {"Authorization": "alice"}, None),
        (PUBLIC, {"Authorization": "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()}, None),
        (DOOR, {"Authorization": f"Bearer {TOKEN}"}, None),
    ],
)
async def test_no_token_reaches_a_function(
    ask: Ask, dispatcher: FakeDispatcher, path: str, headers: dict[str, str], passed: str | None
) -> None:
    """On a public one an application's own credentials pass."""
    given = {**headers, "X-Amz-Security-Token": TOKEN, "Qmaster-Version": "9"}
    assert (await ask(path, b"x", given)).code == 200
    made = event(dispatcher)["headers"]
    assert made.get("authorization") == passed
    assert not {"x-amz-security-token", "qmaster-version"} & made.keys()


async def test_a_query_is_the_functions_but_no_token_of_ours(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """`token=` is a common parameter of webhooks; URLs are logged, so ours is refused."""
    assert (await ask(f"{PUBLIC}?token=theirs", b"", {})).code == 200
    assert event(dispatcher)["queryStringParameters"] == {"token": "theirs"}
    assert (await ask(f"{PUBLIC}?key={TOKEN}", b"", {})).code == 400
    assert len(dispatcher.calls) == 1


async def test_a_query_is_no_place_to_guess_tokens(ask: Ask) -> None:
    """A thousand at once would be faster than the limit on invalid tokens; the first 50 are looked at."""
    guesses = "&".join(f"a={number}" for number in range(50))
    assert (await ask(f"{PUBLIC}?{guesses}&key={TOKEN}", b"", {})).code == 200


@pytest.mark.parametrize(("upgrade", "status"), [("websocket", 400), ("TLS/1.2", 400), ("h2c", 200)])
async def test_upgrades_are_refused(ask: Ask, upgrade: str, status: int) -> None:
    """But an offer of HTTP/2, which some clients always make."""
    assert (await ask(PUBLIC, b"", {"Connection": "Upgrade", "Upgrade": upgrade})).code == status


async def test_compressed_and_binary_bodies_pass(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """As base64, as they came."""
    body = b"\x1f\x8b\x00\xff"
    assert (await ask(PUBLIC, body, {"Content-Encoding": "gzip"})).code == 200
    made = event(dispatcher)
    assert (made["isBase64Encoded"], base64.b64decode(made["body"])) == (True, body)


# --- the answer -------------------------------------------------------------------------------------------------------


async def test_a_page_cannot_touch_the_status_page(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """It is in a sandbox; of the headers of other answers nothing else remains."""
    dispatcher.answers = replies(
        headers={"content-type": "text/html", "Clear-Site-Data": "*"}, body="<script></script>"
    )
    got = await ask(PUBLIC, None, {}, "GET")
    assert got.headers.get_list("Content-Security-Policy") == [SANDBOX]
    assert set(got.headers) - {"Connection"} == {
        *("Content-Security-Policy", "Content-Length", "Content-Type", "Date", "Server", "X-Request-Id")
    }


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_has_none(http_port: int, dispatcher: FakeDispatcher, status: int) -> None:
    """Whatever the function says; the connection goes on."""
    dispatcher.answers = replies(statusCode=status, body="no")
    async with connection(http_port) as raw:
        for _ in range(2):
            raw.send(f"GET {PUBLIC} HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await raw.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(f"HTTP/1.1 {status} ".encode())


async def test_headers_may_come_more_than_once(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """Cookies do; a redirect is the client's to follow."""
    dispatcher.answers = replies(statusCode=302, headers={"Location": "/fn/page/next"}, cookies=["a=1", "b=2"])
    got = await ask(PUBLIC, b"", {})
    assert (got.code, got.headers["Location"]) == (302, "/fn/page/next")
    assert got.headers.get_list("Set-Cookie") == ["a=1; Path=/fn/page", "b=2; Path=/fn/page"]


@pytest.mark.parametrize(
    ("response", "status", "reason"),
    [
        (replies(statusCode=99), 502, "invalid_response"),
        (replies(headers={"X": "1\r\nSet-Cookie: a=b"}), 502, "invalid_response"),
        (errors.FunctionFailed("ValueError", "secret", ["secret"], b"secret"), 502, "function_error"),
        (errors.InstanceDied("secret", 1, ["secret"]), 502, "instance_died"),
        (errors.CannotStart("secret", "image_not_found", 7), 502, "image_not_found"),
        (errors.CallTimedOut("secret"), 504, "timeout"),
        (errors.QueueFull("secret"), 429, "queue_full"),
    ],
)
async def test_a_failure_tells_a_visitor_nothing(
    ask: Ask, dispatcher: FakeDispatcher, response: Any, status: int, reason: str
) -> None:
    """But its status and reason; messages, stacks and output are the owner's."""
    if isinstance(response, Exception):
        dispatcher.fails(response)
    else:
        dispatcher.answers = response
    got = await ask(PUBLIC, b"", {})
    assert (got.code, document(got)["reason"], b"secret" in got.body) == (status, reason, False)
    assert got.headers.get("Retry-After") == getattr(response, "headers", {}).get("Retry-After")
    assert got.headers["Content-Security-Policy"].startswith("default-src 'none'")


async def test_too_large_a_request_is_413(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """6 MiB are of the event; the largest answer is whole."""
    assert (await ask(PUBLIC, b"\xff" * (MAX_PAYLOAD - 1), {})).code == 413
    assert dispatcher.calls == []
    dispatcher.answers = replies(body="x" * 5_000_000)
    assert len((await ask(PUBLIC, b"\xff" * 4_000_000, {})).body) == 5_000_000


# --- streamed answers -------------------------------------------------------------------------------------------------

HTTP = json.dumps({"statusCode": 203, "headers": {"content-type": "text/plain"}, "cookies": ["a=1"]}).encode() + NULS


async def head_of(raw: Raw) -> str:
    return (await raw.reader.readuntil(b"\r\n\r\n")).decode()


async def test_a_streamed_answer_begins_with_its_prelude(http_port: int, dispatcher: FakeDispatcher) -> None:
    """In however many parts; what follows comes as it is made."""
    chunks = Chunks()
    dispatcher.answers = lambda call: answer(b"", STREAMED, chunks=chunks)
    async with connection(http_port) as raw:
        raw.send(f"GET {PUBLIC} HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: dispatcher.calls)
        for part in (HTTP[:10], HTTP[10:-3], HTTP[-3:] + b"one"):
            await chunks.put(part)
        head = await head_of(raw)
        assert head.startswith("HTTP/1.1 203 ")
        assert "Set-Cookie: a=1; Path=/fn/page\r\n" in head
        await chunks.put(b"two")
        assert (await raw.reader.readuntil(b"two")).endswith(b"two")
        chunks.end()
        assert (await raw.reader.readuntil(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("content_type", "parts", "status", "body"),
    [
        (STREAMED, [HTTP], 203, b""),
        ("text/event-stream", [b"data: 1\n\n", b"data: 2\n\n"], 200, b"data: 1\n\ndata: 2\n\n"),
        (STREAMED, [b"{}"], 502, None),
        (STREAMED, [b"[]" + NULS], 502, None),
        (STREAMED, [b"x" * 70_000], 502, None),
    ],
)
async def test_streamed_answers_of_all_kinds(
    ask: Ask, dispatcher: FakeDispatcher, content_type: str, parts: list[bytes], status: int, body: bytes | None
) -> None:
    """Without a prelude the stream is the body; a wrong one is 502."""
    dispatcher.answers = lambda call: streamed(*parts, content_type=content_type)
    got = await ask(PUBLIC, None, {}, "GET")
    assert got.code == status
    if body is not None:
        assert got.body == body


async def test_a_stream_that_fails_is_cut_or_502(ask: Ask, http_port: int, dispatcher: FakeDispatcher) -> None:
    """502 before its first byte, cut after it."""
    dispatcher.answers = lambda call: streamed(content_type=STREAMED, error=errors.InstanceDied("died"))
    assert (await ask(PUBLIC, b"", {})).code == 502
    dispatcher.answers = lambda call: streamed(HTTP + b"half", content_type=STREAMED, error=errors.InstanceDied("died"))
    async with connection(http_port) as raw:
        raw.send(f"GET {PUBLIC} HTTP/1.1\r\nHost: x\r\n\r\n")
        everything = await raw.reader.read()
    assert b"half" in everything
    assert b"0\r\n\r\n" not in everything


@pytest.mark.parametrize("content_type", [STREAMED, "text/plain"])
async def test_a_head_of_a_stream_has_no_body(http_port: int, dispatcher: FakeDispatcher, content_type: str) -> None:
    """The connection goes on, and the function's answer is given up."""
    made: list[Chunks] = []

    def stream(call: Call) -> Answer:
        chunks = Chunks()
        chunks._parts.append(HTTP)
        made.append(chunks)
        return answer(b"", content_type, chunks=chunks)

    dispatcher.answers = stream
    async with connection(http_port) as raw:
        for _ in range(2):
            raw.send(f"HEAD {PUBLIC} HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await head_of(raw)).startswith("HTTP/1.1 20")
    assert all(chunks._over for chunks in made)


# --- host names -------------------------------------------------------------------------------------------------------


async def test_a_function_has_a_host_name_of_its_own(ask: Ask, dispatcher: FakeDispatcher, served: Served) -> None:
    """All paths are the function's, its cookies are for `/`, and there is no sandbox."""
    dispatcher.answers = replies(cookies=["a=1; Path=/; Domain=example.org"])
    for path in ("/", "/status?all=1", "/fn/door/", "/static/app.js"):
        got = await ask(path, None, {"Host": "page.fn.example.org:9090"}, "GET")
        assert (got.code, event(dispatcher)["rawPath"]) == (200, path.partition("?")[0])
        assert "x-forwarded-prefix" not in event(dispatcher)["headers"]
        assert got.headers["Set-Cookie"] == "a=1; Path=/"
        assert "Content-Security-Policy" not in got.headers
    assert {route for route, _, _ in served.counted} == {"/fn/{name}"}


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("door.fn.example.org", {}, 401),
        ("door.fn.example.org", bearer(), 200),
        ("none.fn.example.org", bearer(), 404),
        ("PAGE.FN.example.org", {}, 200),
        ("a.page.fn.example.org", bearer(), 405),
        ("fn.example.org", bearer(), 405),
        ("pagexfn.example.org", bearer(), 405),
    ],
)
async def test_a_host_name_is_one_functions(ask: Ask, host: str, headers: Json, status: int) -> None:
    """With the rules of its URL; other names are quartermaster's."""
    assert (await ask("/status", b"", {"Host": host, **headers})).code == status


class TestAllowedHosts:
    @pytest.fixture
    def served(self) -> Served:
        return Served(hosts=frozenset({"qm.example.org"}), proxies=(ip_network("127.0.0.0/8"),))  # type: ignore[arg-type]

    async def test_only_some_hosts_serve_paths(self, ask: Ask, dispatcher: FakeDispatcher) -> None:
        """Those of `--allow-host`; host names of functions always do."""
        assert (await ask(PUBLIC, b"", {"Host": "elsewhere"})).code == 403
        assert (await ask(PUBLIC, b"", {"Host": "qm.example.org"})).code == 200
        assert (await ask("/", b"", {"Host": "page.fn.example.org"})).code == 200

    async def test_a_trusted_proxy_says_where_a_client_is(self, ask: Ask, dispatcher: FakeDispatcher) -> None:
        """Its address and its scheme."""
        forwarded = {"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https", "Host": "qm.example.org"}
        await ask(PUBLIC, b"", forwarded)
        made = event(dispatcher)["headers"]
        assert (made["x-forwarded-for"], made["x-forwarded-proto"]) == ("192.0.2.9", "https")


async def test_others_do_not_say_where_a_client_is(ask: Ask, dispatcher: FakeDispatcher) -> None:
    """Without `--trusted-proxies` it is whoever connects."""
    await ask(PUBLIC, b"", {"X-Forwarded-For": "192.0.2.9", "X-Forwarded-Proto": "https"})
    made = event(dispatcher)["headers"]
    assert (made["x-forwarded-for"] in ("127.0.0.1", "::1"), made["x-forwarded-proto"]) == (True, "http")


# --- many -------------------------------------------------------------------------------------------------------------


async def test_one_address_does_not_take_all_calls(
    ask: Ask, http_port: int, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of public functions, so that others find a slot; tokens are not concerned."""
    monkeypatch.setattr(bodies, "MAX_OF_ADDRESS", 2)
    served.dispatcher.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(ask(PUBLIC, b"", {})) for _ in range(2)]
    await until(lambda: len(served.dispatcher.calls) == 2)
    refused = await ask(PUBLIC, b"", {})
    assert (refused.code, "from this address" in document(refused)["error"]) == (429, True)
    door = asyncio.ensure_future(ask(DOOR, b""))
    await until(lambda: len(served.dispatcher.calls) == 3)
    served.dispatcher.gate.set()
    assert {(await each).code for each in (*waiting, door)} == {200}
    assert (await ask(PUBLIC, b"", {})).code == 200
