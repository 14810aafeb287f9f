"""Function URLs: an HTTP request as Lambda's event of payload format 2.0, and a function's answer as HTTP. Pure.

A function below ``/fn/NAME`` shares its origin with the status page and with other functions. So its pages run in a
sandbox, its cookies stay below its path, and headers that would concern the whole origin are left out. On a host name
of its own (``--function-domain``) it may do as it likes there.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from ...errors import InvalidResponse, PayloadTooLarge
from ...models.validation import quote
from .invocation import MAX_PAYLOAD

STREAMED = "application/vnd.awslambda.http-integration-response"  # the media type of an answer with a prelude
NULS = bytes(8)  # between the prelude and the body
MAX_PRELUDE = 64 * 1024  # bytes
JSON = "application/json"
BYTES = "application/octet-stream"  # the type of a streamed answer that names none, as Lambda's
# Without allow-same-origin: a page of a function is of no origin, so it reads nothing of the status page.
SANDBOX = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)
# What quartermaster says of a client; what a client says of itself does not count.
_FORWARDED = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto"})
_OWN = "qmaster-"
_OURS = frozenset({"content-length", "x-request-id"})
# What a browser applies to all that comes from the origin.
_OF_ORIGIN = frozenset(
    {
        "alt-svc",
        "clear-site-data",
        "nel",
        "public-key-pins",
        "report-to",
        "service-worker-allowed",
        "set-cookie2",
        "strict-transport-security",
    }
)
_TEXTUAL = re.compile(
    r"(text/.*|application/(.*\+)?(json|xml)|application/(javascript|graphql|x-www-form-urlencoded|x-ndjson|yaml))"
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

Headers = list[tuple[str, str]]


class UrlRequest(NamedTuple):
    """A request to a function URL.

    Attributes:
        id: of the invocation.
        method: such as ``GET``.
        path: as it was sent, without ``prefix``; at least ``/``.
        query: as it was sent, without ``?``.
        headers: all of them, in order.
        body: the bytes.
        address: the client's.
        scheme: ``http`` or ``https``.
        prefix: ``/fn/NAME``, or "" on a host name of the function's own.
        at: when it came, in seconds since 1970.
    """

    id: str
    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    address: str
    scheme: str
    prefix: str
    at: float


class UrlResponse(NamedTuple):
    """An answer of a function URL; of a streamed one, ``body`` is what came with its prelude."""

    status: int
    headers: Headers
    body: bytes


class _Answer(msgspec.Struct, rename="camel"):
    """What a function answers to describe a response."""

    status_code: int | str = 200
    headers: dict[str, str | int | float | bool | None] | None = None
    cookies: list[str] | None = None
    body: str | None = None
    is_base64_encoded: bool = False


class _Probe(msgspec.Struct, rename="camel"):
    status_code: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


# -- the request -------------------------------------------------------------------------------------------------------


def event(request: UrlRequest, secret: Collection[str] = ()) -> bytes:
    """Return a request as the JSON of payload format 2.0.

    Args:
        request: the request.
        secret: names of headers, in lower case, that the function does not get.

    Raises:
        PayloadTooLarge: the event is over ``MAX_PAYLOAD`` bytes.
    """
    headers = _request_headers(request, secret)
    cookies = [one.strip() for one in headers.pop("cookie", "").split(";") if one.strip()]
    host = headers.get("host", "")
    text = _text(request.body, headers)
    document: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.path,
        "rawQueryString": request.query,
        **({"cookies": cookies} if cookies else {}),
        "headers": headers,
        **({"queryStringParameters": _parameters(request.query)} if request.query else {}),
        "requestContext": {
            "accountId": "anonymous",
            "apiId": host.partition(".")[0].partition(":")[0],
            "domainName": host.rpartition(":")[0] if re.search(r":[0-9]*$", host) else host,
            "domainPrefix": host.partition(".")[0].partition(":")[0],
            "http": {
                "method": request.method,
                "path": request.path,
                "protocol": "HTTP/1.1",
                "sourceIp": request.address,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request.id,
            "routeKey": "$default",
            "stage": "$default",
            "time": _clf(request.at),
            "timeEpoch": int(request.at * 1000),
        },
        **({"body": base64.b64encode(request.body).decode() if text is None else text} if request.body else {}),
        "isBase64Encoded": bool(request.body) and text is None,
    }
    encoded = msgspec.json.encode(document)
    if len(encoded) > MAX_PAYLOAD:
        raise PayloadTooLarge(f"the request is over {MAX_PAYLOAD} bytes as an event; binary bodies grow by a third")
    return encoded


def _request_headers(request: UrlRequest, secret: Collection[str]) -> dict[str, str]:
    named = [(name.lower(), value) for name, value in request.headers]
    dropped = _HOP_BY_HOP | _FORWARDED | _named_by_connection(named) | set(secret)
    joined: dict[str, str] = {}
    for name, value in named:
        if name not in dropped and not name.startswith(_OWN):
            joined[name] = f"{joined[name]}{'; ' if name == 'cookie' else ','}{value}" if name in joined else value
    joined["x-forwarded-for"] = request.address
    joined["x-forwarded-proto"] = request.scheme
    if request.prefix:
        joined["x-forwarded-prefix"] = request.prefix
    return joined


def _named_by_connection(headers: Iterable[tuple[str, str]]) -> set[str]:
    return {one.strip().lower() for name, value in headers if name == "connection" for one in value.split(",")}


def _parameters(query: str) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, errors="replace"):
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _text(body: bytes, headers: dict[str, str]) -> str | None:
    """Return the body as text; None if it is none, as far as its headers and its bytes tell."""
    kind = headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
    if headers.get("content-encoding", "identity").lower() != "identity" or not _TEXTUAL.fullmatch(kind):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _clf(at: float) -> str:
    """Return a time as web servers log it, in English whatever the locale."""
    time = datetime.fromtimestamp(at, UTC)
    return f"{time:%d}/{_MONTHS[time.month - 1]}/{time:%Y:%H:%M:%S} +0000"


# -- the answer --------------------------------------------------------------------------------------------------------


def response(body: bytes, content_type: str, prefix: str) -> UrlResponse:
    """Return a function's whole answer as HTTP: one with ``statusCode`` describes it, another one is the body.

    Args:
        body: what the function answered.
        content_type: of the answer.
        prefix: as in ``UrlRequest``.

    Raises:
        InvalidResponse: it describes no HTTP response.
    """
    if has_prelude(content_type):
        found = split_prelude(body)
        if found is None:
            raise InvalidResponse("the function's streamed answer ended within its prelude")
        return begin(*found, prefix)
    if not _describes(body):
        return UrlResponse(200, _safe([("Content-Type", content_type or JSON)], prefix), body)
    described = _read(body)
    return UrlResponse(_status(described.status_code), _response_headers(described, prefix), _body(described))


def has_prelude(content_type: str) -> bool:
    """Return whether an answer of this type begins with a prelude."""
    return content_type.partition(";")[0].strip().lower() == STREAMED


def split_prelude(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the prelude of a streamed answer and what follows it; None if there is more to come.

    Raises:
        InvalidResponse: it is over ``MAX_PRELUDE`` bytes.
    """
    prelude, found, rest = data.partition(NULS)
    if len(prelude) > MAX_PRELUDE:
        raise InvalidResponse(f"the prelude of the function's streamed answer is over {MAX_PRELUDE} bytes")
    return (prelude, rest) if found else None


def begin(prelude: bytes, rest: bytes, prefix: str) -> UrlResponse:
    """Return the beginning of a streamed answer.

    Raises:
        InvalidResponse: the prelude describes no HTTP response.
    """
    described = _read(prelude)
    return UrlResponse(_status(described.status_code), _response_headers(described, prefix, BYTES), rest)


def _describes(body: bytes) -> bool:
    if b'"statusCode"' not in body or not body.lstrip().startswith(b"{"):
        return False  # as most bare values are told, without decoding megabytes
    try:
        return msgspec.json.decode(body, type=_Probe).status_code is not msgspec.UNSET
    except (msgspec.MsgspecError, RecursionError):
        return False


def _read(body: bytes) -> _Answer:
    try:
        return msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidResponse(f"the function's answer describes no HTTP response: {error}") from None


def _status(given: int | str) -> int:
    number = int(given) if str(given).isascii() and str(given).isdigit() and len(str(given)) == 3 else 0
    if not 200 <= number <= 599:
        raise InvalidResponse(f"statusCode: expected a number from 200 to 599; got {quote(str(given))}")
    return number


def _response_headers(described: _Answer, prefix: str, default: str = JSON) -> Headers:
    given = [(name, _word(value)) for name, value in (described.headers or {}).items() if value is not None]
    given += [("Set-Cookie", cookie) for cookie in described.cookies or ()]
    if not any(name.lower() == "content-type" for name, _ in given):
        given.append(("Content-Type", default))
    return _safe(given, prefix)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _safe(given: Headers, prefix: str) -> Headers:
    """Return the headers that may be sent.

    Raises:
        InvalidResponse: one cannot be.
    """
    dropped = _HOP_BY_HOP | _OURS | _named_by_connection((name.lower(), value) for name, value in given)
    if prefix:
        dropped |= _OF_ORIGIN
    headers: Headers = []
    for name, value in given:
        if not _TOKEN.fullmatch(name):
            raise InvalidResponse(f"headers: {quote(name)} is not a name of a header")
        if _CONTROL.search(value):
            raise InvalidResponse(f"headers: the value of {name} has a control character")
        if name.lower() == "set-cookie":
            headers.append(("Set-Cookie", _own_cookie(value, prefix)))
        elif name.lower() not in dropped and not name.lower().startswith(_OWN):
            headers.append((name, value))
    if prefix:
        headers.append(("Content-Security-Policy", SANDBOX))
    # Header lines are Latin-1; other characters are sent as UTF-8, as most frameworks do.
    return [(name, value.encode().decode("latin-1") if not value.isascii() else value) for name, value in headers]


def _own_cookie(cookie: str, prefix: str) -> str:
    """Return a cookie for the host and path of the function alone."""
    first, *attributes = (part.strip() for part in cookie.split(";"))
    kept, path = [first], ""
    for attribute in attributes:
        name, _, value = attribute.partition("=")
        if name.strip().lower() == "path":
            path = value.strip()
        elif attribute and name.strip().lower() != "domain":
            kept.append(attribute)
    if prefix and not (path == prefix or path.startswith(f"{prefix}/")):
        path = prefix + (path if path.startswith("/") and path != "/" else "")
    return "; ".join([*kept, f"Path={path}"] if path else kept)


def _body(described: _Answer) -> bytes:
    body = described.body or ""
    if not described.is_base64_encoded:
        return body.encode(errors="surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidResponse("body: isBase64Encoded is true, but it is not base64") from None
