"""CORS: what pages of the origins in ``--allow-origin`` are told (Fetch Standard, 3.3). Pure.

Nothing is said of credentials, so a browser sends neither cookies nor stored logins: a page needs a token as
any client does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tornado.httputil import HTTPHeaders

MAX_AGE = 600  # seconds that a browser remembers a preflight
# Of all routes, so that a page can read why a method is refused.
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
SENT = (
    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, X-Request-ID, X-Amz-Client-Context, "
    "X-Amz-Content-Sha256, X-Amz-Date, X-Amz-Invocation-Type, X-Amz-Log-Type, X-Amz-Security-Token, X-Amz-User-Agent, "
    "X-Amzn-Trace-Id, Amz-Sdk-Invocation-Id, Amz-Sdk-Request"
)
READ = (
    "Allow, ETag, Idempotency-Replayed, Location, Preference-Applied, Qmaster-Cold, Qmaster-Duration-Ms, "
    "Qmaster-Instance, Qmaster-Version, Retry-After, WWW-Authenticate, X-Amz-Executed-Version, X-Amz-Function-Error, "
    "X-Amzn-ErrorType, X-Amzn-RequestId, X-Request-ID"
)
PREFLIGHT: Mapping[str, str] = {
    "Access-Control-Allow-Methods": METHODS,
    "Access-Control-Allow-Headers": SENT,
    "Access-Control-Max-Age": str(MAX_AGE),
}


def is_preflight(method: str | None, headers: HTTPHeaders) -> bool:
    """Return whether a browser asks for a page whether it may make a call; such a request has no body."""
    has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers and not has_body


def may_read(headers: HTTPHeaders, origins: Collection[str]) -> bool:
    """Return whether the page that a request comes from may read the answer."""
    return headers.get("Origin", "").lower() in origins


def of_answer(headers: HTTPHeaders, origins: Collection[str]) -> dict[str, str]:
    """Return the header fields of an answer.

    Args:
        headers: those of the request.
        origins: the origins that may read answers, in lower case.
    """
    if not origins:
        return {}
    fields = {"Vary": "Origin"}  # a cache in between must not give the answer for one origin to another
    if may_read(headers, origins):
        fields |= {"Access-Control-Allow-Origin": headers["Origin"], "Access-Control-Expose-Headers": READ}
    return fields
