"""invocations.urls: a request as an event of payload format 2.0, and an answer as HTTP."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mangum import Mangum

from qmaster.errors import InvalidResponse, PayloadTooLarge
from qmaster.functions.invocations import urls
from qmaster.functions.invocations.invocation import MAX_PAYLOAD
from qmaster.functions.invocations.urls import NULS, SANDBOX, STREAMED, UrlRequest

Json = dict[str, Any]

REQUEST = UrlRequest(
    id="id-1",
    method="GET",
    path="/",
    query="",
    headers=[("Host", "example.org:9090"), ("User-Agent", "curl/8")],
    body=b"",
    address="192.0.2.7",
    scheme="https",
    prefix="/fn/page",
    at=1_796_083_200.25,
)


def event(secret: tuple[str, ...] = (), **over: Any) -> Json:
    document: Json = json.loads(urls.event(REQUEST._replace(**over), secret))
    return document


def headers(*given: tuple[str, str], secret: tuple[str, ...] = ()) -> Json:
    """The event's headers, without those that each has."""
    made: Json = event(secret, headers=list(given))["headers"]
    return {name: value for name, value in made.items() if not name.startswith("x-forwarded-")}


# --- the request ------------------------------------------------------------------------------------------------------


def test_a_request_is_an_event_of_payload_format_2() -> None:
    """All fields that Lambda's function URLs have and that a function may ask for."""
    assert event(method="GET", path="/a%20b/c", query="x=1&y=2&x=3&z=") == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/a%20b/c",
        "rawQueryString": "x=1&y=2&x=3&z=",
        "headers": {
            "host": "example.org:9090",
            "user-agent": "curl/8",
            "x-forwarded-for": "192.0.2.7",
            "x-forwarded-proto": "https",
            "x-forwarded-prefix": "/fn/page",
        },
        "queryStringParameters": {"x": "1,3", "y": "2", "z": ""},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "example",
            "domainName": "example.org",
            "domainPrefix": "example",
            "http": {
                "method": "GET",
                "path": "/a%20b/c",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.7",
                "userAgent": "curl/8",
            },
            "requestId": "id-1",
            "routeKey": "$default",
            "stage": "$default",
            "time": "01/Dec/2026:00:00:00 +0000",
            "timeEpoch": 1_796_083_200_250,
        },
        "isBase64Encoded": False,
    }


TEXT, FORM = "text/plain", "application/x-www-form-urlencoded"
PNG = b"\x89PNG\r\n\x1a\n\x00\xff"


@pytest.mark.parametrize(
    ("body", "content_type", "is_text"),
    [
        (b"hi", None, True),
        ("grüß".encode(), TEXT, True),
        ("grüß".encode("latin-1"), "text/plain; charset=latin-1", False),
        (b'{"a": 1}', "application/json", True),
        (b"{}", "application/problem+json; charset=utf-8", True),
        (b"<a/>", "image/svg+xml", False),
        (b"<a/>", "application/atom+xml", True),
        (b"a=1", FORM, True),
        (b"plain", "application/octet-stream", False),
        (PNG, "image/png", False),
        (PNG, None, False),
        (b"--x\r\n", "multipart/form-data; boundary=x", False),
    ],
)
def test_a_body_that_is_no_text_is_base64(body: bytes, content_type: str | None, is_text: bool) -> None:
    """As its type and its bytes tell; it is whole in both forms."""
    made = event(method="POST", headers=[("Content-Type", content_type)] if content_type else [], body=body)
    assert made["isBase64Encoded"] is not is_text
    assert (made["body"].encode() if is_text else base64.b64decode(made["body"])) == body


def test_a_compressed_body_is_base64() -> None:
    """Also if its bytes happen to be text."""
    made = event(headers=[("Content-Type", TEXT), ("Content-Encoding", "gzip")], body=b"text")
    assert made["isBase64Encoded"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([("X-A", "1"), ("x-a", "2"), ("X-B", "3")], {"x-a": "1,2", "x-b": "3"}),
        ([("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "5"), ("Te", "trailers")], {}),
        ([("Transfer-Encoding", "chunked"), ("Trailer", "X"), ("Upgrade", "h2c"), ("Proxy-Authorization", "x")], {}),
        ([("Qmaster-Instance", "forged"), ("X-Forwarded-Prefix", "/evil"), ("Forwarded", "for=1")], {}),
        (
            [("Authorization", "Bearer app"), ("Content-Length", "2")],
            {"authorization": "Bearer app", "content-length": "2"},
        ),
    ],
)
def test_headers_are_joined_and_those_of_the_way_left_out(given: urls.Headers, told: Json) -> None:
    """In lower case; hop-by-hop headers, what a client says of its own way, and quartermaster's are no part of it."""
    assert headers(*given) == told


def test_secret_headers_are_left_out() -> None:
    """Those that carry a token."""
    assert headers(("AUTHORIZATION", "Bearer x"), ("X-A", "1"), secret=("authorization",)) == {"x-a": "1"}


def test_cookies_are_listed_and_no_header() -> None:
    """Those of all headers, in order."""
    made = event(headers=[("Cookie", "a=1; b=2"), ("Cookie", "c=3")])
    assert (made["cookies"], "cookie" in made["headers"]) == (["a=1", "b=2", "c=3"], False)


def test_where_a_client_comes_from_is_told_by_the_server() -> None:
    """Not by the client."""
    made = event(headers=[("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-Proto", "ftp")], prefix="")
    assert made["headers"] == {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"}


def test_six_mebibytes_are_of_the_event() -> None:
    """Base64 makes a binary body a third larger."""
    binary = [("Content-Type", "image/png")]
    assert event(body=b"x" * (MAX_PAYLOAD // 4 * 3 - 3000), headers=binary)["isBase64Encoded"]
    with pytest.raises(PayloadTooLarge, match="as an event"):
        event(body=b"x" * (MAX_PAYLOAD // 4 * 3), headers=binary)


# --- the answer -------------------------------------------------------------------------------------------------------


def answered(document: object, prefix: str = "", content_type: str = "application/json") -> urls.UrlResponse:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return urls.response(body, content_type, prefix)


OK: Json = {"statusCode": 200}
DEEP = b'{"statusCode": 200, "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"


@pytest.mark.parametrize(
    ("document", "status", "told", "body"),
    [
        ({"statusCode": 201, "body": "hi"}, 201, [("Content-Type", "application/json")], b"hi"),
        ({"statusCode": "404"}, 404, [("Content-Type", "application/json")], b""),
        (
            {**OK, "headers": {"content-type": "text/html", "X-N": 1, "X-B": True, "X-No": None}, "body": "ü"},
            200,
            [("content-type", "text/html"), ("X-N", "1"), ("X-B", "true")],
            "ü".encode(),
        ),
        (
            {**OK, "headers": {"Content-Type": "image/png"}, "body": "iVBO", "isBase64Encoded": True},
            200,
            [("Content-Type", "image/png")],
            b"\x89PN",
        ),
        ({"message": "hi"}, 200, [("Content-Type", "application/json")], b'{"message": "hi"}'),
        (b'"hi"', 200, [("Content-Type", "application/json")], b'"hi"'),
        (b"", 200, [("Content-Type", "application/json")], b""),
        ([OK], 200, [("Content-Type", "application/json")], b'[{"statusCode": 200}]'),
        ({"a": OK}, 200, [("Content-Type", "application/json")], b'{"a": {"statusCode": 200}}'),
        (
            {"a": OK, "headers": []},
            200,
            [("Content-Type", "application/json")],
            b'{"a": {"statusCode": 200}, "headers": []}',
        ),
        (b'{"statusCode": 200', 200, [("Content-Type", "application/json")], b'{"statusCode": 200'),
        pytest.param(DEEP, 200, [("Content-Type", "application/json")], DEEP, id="deep"),
        ({**OK, "multiValueHeaders": {"a": ["b"]}, "new": 1}, 200, [("Content-Type", "application/json")], b""),
    ],
)
def test_an_answer_describes_a_response_or_is_one(
    document: object, status: int, told: urls.Headers, body: bytes
) -> None:
    """With `statusCode` it describes one; anything else is the body."""
    assert answered(document) == urls.UrlResponse(status, told, body)


def test_a_bare_value_keeps_its_type() -> None:
    """Where it is not JSON."""
    assert answered(b"hi", content_type="text/plain") == urls.UrlResponse(200, [("Content-Type", "text/plain")], b"hi")


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"statusCode": 99}, "statusCode: expected a number from 200 to 599; got '99'"),
        ({"statusCode": 101}, "statusCode"),
        ({"statusCode": 600}, "statusCode"),
        ({"statusCode": -200}, "statusCode"),
        ({"statusCode": "2e2"}, "statusCode"),
        ({"statusCode": 200.5}, "describes no HTTP response"),
        ({"statusCode": None}, "describes no HTTP response"),
        ({**OK, "body": {"a": 1}}, r"\$.body"),
        ({**OK, "headers": ["a"]}, r"\$.headers"),
        ({**OK, "headers": {"a": ["b"]}}, r"\$.headers"),
        ({**OK, "cookies": "a=b"}, r"\$.cookies"),
        ({**OK, "headers": {"X-A": "1\r\nSet-Cookie: a=b"}}, "the value of X-A has a control character"),
        ({**OK, "headers": {"X-A": "1\nx"}}, "control character"),
        ({**OK, "headers": {"X-A": "1\0"}}, "control character"),
        ({**OK, "headers": {"X A": "1"}}, "is not a name of a header"),
        ({**OK, "headers": {"X\r\nA": "1"}}, "is not a name of a header"),
        ({**OK, "headers": {"": "1"}}, "is not a name of a header"),
        ({**OK, "headers": {"Xü": "1"}}, "is not a name of a header"),
        ({**OK, "cookies": ["a=b\r\nX: y"]}, "control character"),
        ({**OK, "body": "no!", "isBase64Encoded": True}, "it is not base64"),
        ({**OK, "body": "ü", "isBase64Encoded": True}, "it is not base64"),
    ],
)
def test_an_answer_that_describes_none_is_a_clear_error(document: object, says: str) -> None:
    """Nothing of it is sent."""
    with pytest.raises(InvalidResponse, match=says):
        answered(document)


def test_a_prelude_that_is_nested_too_deeply_is_a_clear_error() -> None:
    """As any other that describes no response."""
    with pytest.raises(InvalidResponse, match="describes no HTTP response"):
        urls.begin(DEEP, b"", "/fn/page")


@pytest.mark.parametrize("prefix", ["", "/fn/page"])
def test_some_headers_of_an_answer_are_not_the_functions(prefix: str) -> None:
    """Those of the connection, the length, and quartermaster's own."""
    given = {"Connection": "x-hop", "X-Hop": "1", "Transfer-Encoding": "chunked", "Content-Length": "7", "Upgrade": "x"}
    given |= {"X-Request-ID": "forged", "Qmaster-Version": "9", "Content-Type": "text/plain", "X-Own": "1"}
    told = answered({**OK, "headers": given}, prefix).headers
    assert {name for name, _ in told} - {"Content-Security-Policy"} == {"Content-Type", "X-Own"}


OF_ORIGIN = ["Strict-Transport-Security", "Clear-Site-Data", "Service-Worker-Allowed", "Alt-Svc", "NEL", "Report-To"]


def test_below_a_path_nothing_concerns_the_whole_origin() -> None:
    """On a host name of the function's own it may."""
    document = {**OK, "headers": dict.fromkeys(OF_ORIGIN, "x")}
    assert [name for name, _ in answered(document, "/fn/page").headers] == ["Content-Type", "Content-Security-Policy"]
    assert [name for name, _ in answered(document).headers] == [*OF_ORIGIN, "Content-Type"]


@pytest.mark.parametrize(
    "document", [{**OK, "headers": {"Content-Security-Policy": "default-src *"}}, b"<script></script>", [1]]
)
def test_below_a_path_all_is_in_a_sandbox(document: object) -> None:
    """Whatever the function says; a policy of its own holds beside it. On a host name of its own there is none."""
    told = [value for name, value in answered(document, "/fn/page").headers if name == "Content-Security-Policy"]
    assert told[-1] == SANDBOX
    assert "allow-same-origin" not in SANDBOX
    assert SANDBOX not in str(answered(document).headers)


@pytest.mark.parametrize(
    ("cookie", "below_path", "on_host"),
    [
        ("a=b", "a=b; Path=/fn/page", "a=b"),
        ("a=b; Path=/", "a=b; Path=/fn/page", "a=b; Path=/"),
        ("a=b; path=/app; HttpOnly", "a=b; HttpOnly; Path=/fn/page/app", "a=b; HttpOnly; Path=/app"),
        ("a=b; Path=/fn/page/app", "a=b; Path=/fn/page/app", "a=b; Path=/fn/page/app"),
        ("a=b; Path=/fn/page", "a=b; Path=/fn/page", "a=b; Path=/fn/page"),
        ("a=b; Path=/fn/page2", "a=b; Path=/fn/page/fn/page2", "a=b; Path=/fn/page2"),
        ("a=b; Path=relative", "a=b; Path=/fn/page", "a=b; Path=relative"),
        ("a=b; Path=/fn/page/x; Path=/", "a=b; Path=/fn/page", "a=b; Path=/"),
        ("a=b; Domain=example.org; Secure", "a=b; Secure; Path=/fn/page", "a=b; Secure"),
        ("a=b; DOMAIN = .org;; PATH = /", "a=b; Path=/fn/page", "a=b; Path=/"),
    ],
)
def test_a_cookie_is_the_functions_alone(cookie: str, below_path: str, on_host: str) -> None:
    """Below its path, and never of a whole domain; also as a header."""
    for document in ({**OK, "cookies": [cookie]}, {**OK, "headers": {"set-cookie": cookie}}):
        assert ("Set-Cookie", below_path) in answered(document, "/fn/page").headers
        assert ("Set-Cookie", on_host) in answered(document).headers


def test_other_characters_of_a_header_are_utf8() -> None:
    """Header lines are Latin-1."""
    assert ("X-A", "ü€".encode().decode("latin-1")) in answered({**OK, "headers": {"X-A": "ü€"}}).headers


def prelude(document: object, body: bytes = b"") -> bytes:
    return json.dumps(document).encode() + NULS + body


def test_a_streamed_answer_begins_with_its_prelude() -> None:
    """JSON and eight NULs; what follows is the body."""
    data = prelude({"statusCode": 202, "headers": {"X-A": "1"}, "cookies": ["a=b"]}, b"hi\0")
    assert urls.split_prelude(data[:20]) is None
    found = urls.split_prelude(data)
    assert found is not None
    told = [("X-A", "1"), ("Set-Cookie", "a=b"), ("Content-Type", "application/octet-stream")]
    assert urls.begin(*found, "") == urls.UrlResponse(202, told, b"hi\0")
    assert answered(data, content_type=STREAMED) == urls.UrlResponse(202, told, b"hi\0")


@pytest.mark.parametrize("data", [b'{"statusCode": 200}', b"", prelude([1]), prelude({"statusCode": 1}), NULS + b"x"])
def test_a_wrong_prelude_is_a_clear_error(data: bytes) -> None:
    """Or one that never ends."""
    with pytest.raises(InvalidResponse):
        answered(data, content_type=STREAMED)
    with pytest.raises(InvalidResponse, match="prelude"):
        urls.split_prelude(b"x" * 70_000)


# --- an application behind Mangum -------------------------------------------------------------------------------------

Send = Callable[[Json], Awaitable[None]]
Receive = Callable[[], Awaitable[Json]]


async def echo(scope: Json, receive: Receive, send: Send) -> None:
    """An ASGI application that answers with what it was asked; `/png` with a picture."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    told = {name.decode(): value.decode() for name, value in scope["headers"]}
    said = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "body": base64.b64encode(body).decode(),
        "cookie": told.get("cookie"),
        "client": scope["client"][0],
        "scheme": scope["scheme"],
    }
    picture = scope["path"] == "/png"
    kind = b"image/png" if picture else b"application/json"
    replies = [(b"content-type", kind), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2; Path=/")]
    await send({"type": "http.response.start", "status": 203, "headers": replies})
    await send({"type": "http.response.body", "body": PNG if picture else json.dumps(said).encode()})


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"path": "/a", "query": "x=1&x=2"}, {"method": "GET", "path": "/a", "query": "x=1&x=2"}),
        ({"method": "POST", "headers": [("Content-Type", FORM)], "body": b"a=1"}, {"method": "POST", "body": "YT0x"}),
        ({"method": "PUT", "headers": [("Content-Type", "image/png")], "body": PNG}, {"body": "iVBORw0KGgoA/w=="}),
        ({"headers": [("Cookie", "a=1; b=2")]}, {"cookie": "a=1; b=2"}),
        ({}, {"client": "192.0.2.7", "scheme": "https", "body": ""}),
    ],
)
def test_an_application_behind_mangum_sees_the_request(over: Json, said: Json) -> None:
    """Mangum is what turns these events into requests of an ASGI application, and its responses into answers."""
    response = answered(through_mangum(**over), "/fn/page")
    assert response.status == 203
    assert said.items() <= json.loads(response.body).items()
    cookies = [value for name, value in response.headers if name == "Set-Cookie"]
    assert cookies == ["a=1; Path=/fn/page", "b=2; Path=/fn/page"]


def test_a_picture_of_an_application_behind_mangum_is_whole() -> None:
    """It is base64 on its way."""
    response = answered(through_mangum(path="/png"))
    assert (response.body, dict(response.headers)["content-type"]) == (PNG, "image/png")


def through_mangum(**over: Any) -> object:
    asgi: Any = echo
    loop = asyncio.new_event_loop()  # Mangum looks for one
    asyncio.set_event_loop(loop)
    try:
        context: Any = None
        return Mangum(asgi, lifespan="off")(event(**over), context)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
