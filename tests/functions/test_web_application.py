"""A web application (ASGI, through Mangum) behind a function URL: in Chromium, and with curl."""

import re
from collections.abc import Iterator

import pytest
from called import Function
from testbed import Server, Swarm
from testbed.browser import Chromium
from testbed.lambdas import NODE
from testbed.process import run


@pytest.fixture(scope="module")
def site(functions_server: Server) -> Function:
    return Function(functions_server, "site", command=["web.handler"], url="public")


@pytest.fixture(scope="module")
def address(functions_server: Server, site: Function) -> str:
    return f"{functions_server.url}/fn/site/"


def curl(*args: str) -> str:
    return run("curl", "-sS", "--max-time", "60", *args)


def test_a_page_and_its_form_in_a_browser(address: str, chromium: Chromium) -> None:
    """A picture, a form that redirects, a cookie of its own path; no script of it could touch the status page."""
    context = chromium.context()
    try:
        page = context.new_page()
        answer = page.goto(address)
        assert answer
        assert answer.status == 200
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "allow-same-origin" not in answer.headers["content-security-policy"]
        assert page.text_content("h1") == "Hello, you"
        assert page.evaluate("document.querySelector('#pixel').naturalWidth") == 1
        page.fill("[name=name]", "Ada")
        page.click("button")
        assert page.text_content("h1") == "Hello, Ada"
        assert page.url == f"{address}?name=Ada"
        assert page.text_content("#seen") == "seen visit=1"
        (cookie,) = context.cookies()
        assert (cookie["name"], cookie["path"]) == ("visit", "/fn/site")
    finally:
        context.close()


def test_bytes_in_and_out(address: str) -> None:
    """A body that is no text comes as it was sent, and so does the answer."""
    made = run("curl", "-sS", "--data-binary", "@-", f"{address}bytes", stdin=bytes(range(32, 127)))
    assert made == bytes(range(32, 127))[::-1].decode()
    headers = curl("-D", "-", "-o", "/dev/null", f"{address}pixel.png")
    assert re.search(r"(?i)content-type: image/png", headers)
    assert re.search(r"(?i)content-length: 70", headers)


def test_one_with_a_token(functions_server: Server, site: Function) -> None:
    """Without one it is a 401; the token does not reach the function."""
    Function(functions_server, "closed", command=["app.raw"], url="token")
    url = f"{functions_server.url}/fn/closed/a/b?c=d"
    assert curl("-o", "/dev/null", "-w", "%{http_code}", url) == "401"
    said = curl("-w", "%{http_code}", "-H", f"Authorization: Bearer {functions_server.token}", url)
    assert said.endswith("201")
    assert '"rawPath": "/a/b"' in said
    assert '"rawQueryString": "c=d"' in said
    assert functions_server.token not in said


def test_a_function_without_a_url(functions_server: Server, site: Function) -> None:
    """Is a 404, also with the token."""
    Function(functions_server, "no-url")
    reply = functions_server.call("GET", "/fn/no-url/")
    assert reply.status == 404


@pytest.fixture
def page(functions_server: Server, node_swarm: Swarm) -> Iterator[str]:
    function = Function(functions_server, "page", image=NODE, command=["app.page"], memory=256, url="public")
    yield f"{functions_server.url}/fn/page/x"
    function.delete()


def test_a_streamed_page(page: str) -> None:
    """Its prelude has the status, the headers and the cookies."""
    said = curl("-i", page)
    head, _, body = said.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    assert re.search(r"(?im)^content-type: text/html", head)
    assert re.search(r"(?im)^set-cookie: seen=1; path=/fn/page", head)
    assert body == '<h1>streamed</h1><p id="path">/x</p>'
