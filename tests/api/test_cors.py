"""What pages of other origins may call and read: with `--allow-origin` what their token may, else nothing."""

import re

import pytest
from in_process import Ask, InProcess, app, ask, home
from tornado.httpclient import HTTPResponse
from tornado.httputil import HTTPHeaders

from docs import routes
from qmaster.api import cors
from qmaster.models.requests import MAX_BODY

__all__ = ["app", "ask", "home"]  # the fixtures

pytestmark = pytest.mark.gen_test(timeout=30)

LISTED, OTHERS = "https://page.example", ("https://page.example.evil.example", "http://page.example", "null", "x")
RUN = {"image": "busybox"}
CALLS = [  # who, method, path, body and status: an answer of each sort
    ("root", "GET", "/status", None, 200),
    ("root", "POST", "/run", RUN, 200),
    ("root", "GET", "/openapi.json", None, 200),
    ("root", "GET", "/", None, 200),
    ("root", "GET", "/livez", None, 200),
    ("root", "POST", "/run", {"image": "busybox", "comand": "x"}, 400),
    ("nobody", "GET", "/status", None, 401),
    ("alice", "GET", "/nodes", None, 403),
    ("root", "GET", "/status/nothing", None, 404),
    ("root", "GET", "/nothing", None, 404),
    ("root", "PUT", "/run", RUN, 405),
    ("root", "POST", "/run", b"x" * (MAX_BODY + 1), 413),
    ("nobody", "POST", "/functions/resize/invoke", RUN, 401),
    ("nobody", "POST", "/2015-03-31/functions/resize/invocations", RUN, 401),
]


@pytest.fixture
def options() -> dict[str, str]:
    return {"allow_origin": f"{LISTED}, http://localhost:8000"}


def preflight(path: str, origin: str = LISTED, method: str = "POST") -> tuple[str, str, None, dict[str, str]]:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,content-type"}
    return "OPTIONS", path, None, {"Origin": origin, **asked}


def told(answer: HTTPResponse) -> dict[str, str]:
    """The fields of CORS."""
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


async def test_a_listed_page_may_read_every_answer(ask: Ask) -> None:
    """Errors too, which say what is wrong; never with cookies; and no cache gives it to another origin."""
    for who, method, path, body, status in CALLS:
        answer = await ask(who, method, path, body, {"Origin": LISTED})
        assert answer.code == status, (method, path)
        assert told(answer) == {"Access-Control-Allow-Origin": LISTED, "Access-Control-Expose-Headers": cors.READ}
        assert "Origin" in answer.headers.get_list("Vary")


@pytest.mark.parametrize("origin", [None, *OTHERS])
async def test_another_page_is_told_nothing(ask: Ask, origin: str | None) -> None:
    """The answer is that of a client without an origin; and says that it depends on it."""
    for who, method, path, body, status in CALLS:
        answer = await ask(who, method, path, body, {} if origin is None else {"Origin": origin})
        assert (answer.code, told(answer)) == (status, {}), (method, path)
        assert "Origin" in answer.headers.get_list("Vary")


async def test_every_route_answers_a_preflight(ask: Ask) -> None:
    """A browser sends no token with it; the paths that are none answer too, so that the 404 can be read."""
    paths = {re.sub(r"\(\[\^/\]\+\)", "resize", pattern) for _, pattern in routes()}
    assert len(paths) > 20
    for path in sorted(paths | {"/nothing"}):
        for method in ("GET", "DELETE"):
            answer = await ask("nobody", *preflight(path, method=method))
            assert (answer.code, answer.body) == (204, b""), path
            fields = {
                "Access-Control-Allow-Origin": LISTED,
                "Access-Control-Expose-Headers": cors.READ,
                **cors.PREFLIGHT,
            }
            assert told(answer) == fields, path
            assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize("origin", OTHERS)
@pytest.mark.parametrize("path", ["/run", "/events", "/functions/resize/invoke", "/"])
async def test_the_preflight_of_another_page_is_refused(ask: Ask, path: str, origin: str) -> None:
    """The log says why."""
    answer = await ask("root", *preflight(path, origin))
    assert (answer.code, told(answer)) == (403, {})
    assert b"--allow-origin" in answer.body


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({}, None),
        ({"Origin": LISTED}, None),
        ({"Access-Control-Request-Method": "GET"}, None),
        ({"Origin": LISTED, "Access-Control-Request-Method": "GET"}, b"x"),  # no browser sends a body with it
    ],
)
async def test_another_request_for_options_is_none(ask: Ask, fields: dict[str, str], body: bytes | None) -> None:
    """405 as for any other method, 404 at a path that is none."""
    assert (await ask("root", "OPTIONS", "/run", body, fields)).code == 405
    assert (await ask("root", "OPTIONS", "/nothing", body, fields)).code == 404
    assert "OPTIONS" not in (await ask("root", "OPTIONS", "/run", body, fields)).headers["Allow"]


async def test_a_preflight_leads_past_no_check(ask: Ask, home: InProcess) -> None:
    """The call itself wants its token as ever, whatever the page."""
    assert (await ask("nobody", *preflight("/run"))).code == 204
    assert (await ask("nobody", "POST", "/run", RUN, {"Origin": LISTED})).code == 401
    assert home.engine.created() == []


@pytest.mark.parametrize("options", [{"allow_origin": LISTED, "allow_host": "qm.example.com"}])
async def test_a_preflight_comes_under_a_name_that_is_served(ask: Ask, home: InProcess) -> None:
    """Otherwise a page in a rebinding attack could ask."""
    method, path, body, fields = preflight("/run")
    assert (await ask("nobody", method, path, body, {**fields, "Host": "evil.example"})).code == 403
    assert (await ask("nobody", method, path, body, {**fields, "Host": "qm.example.com"})).code == 204


@pytest.mark.parametrize("options", [{}])
async def test_without_the_option_there_is_no_cors(ask: Ask, home: InProcess) -> None:
    """No field of it, also for an origin that is empty."""
    for origin in (LISTED, ""):
        answer = await ask("root", "GET", "/status", None, {"Origin": origin})
        assert (answer.code, told(answer), answer.headers.get("Vary")) == (200, {}, None)
    assert (await ask("root", *preflight("/run"))).code == 403


async def test_a_function_url_has_its_own_rules(ask: Ask, home: InProcess) -> None:
    """Its preflights and its fields of CORS are the function's; so an error before it has none."""
    answer = await ask("nobody", "GET", "/fn/resize/", None, {"Origin": LISTED})
    assert (answer.code, told(answer), answer.headers.get("Vary")) == (401, {}, None)
    assert (await ask("nobody", *preflight("/fn/resize/"))).code == 401


def test_only_origins_are_compared() -> None:
    """Not what several fields make together, and not a part of one."""
    headers = HTTPHeaders()
    headers.add("Origin", LISTED)
    headers.add("Origin", "https://evil.example")
    assert not cors.may_read(headers, {LISTED})
    assert cors.may_read(HTTPHeaders({"Origin": "HTTPS://Page.Example"}), {LISTED})
    assert not cors.may_read(HTTPHeaders(), {LISTED})
