"""pages: what is served of the status page and how, and what its files never hold."""

import gzip
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.web import Application

from qmaster.api import pages
from qmaster.api.base import NotFoundHandler
from qmaster.auth.authenticator import Authenticator

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "static"
FILES = sorted(path.name for path in STATIC.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
HTML = (STATIC / "index.html").read_text(encoding="utf-8")
BUDGET = 110_000  # bytes, all files together, as a browser gets them
SOURCE = 185_000  # bytes, all files together, as they are on disk
# What a client accepts, and the coding that it gets.
ACCEPTED = {
    "gzip": "gzip",
    "GZIP": "gzip",
    "deflate, gzip;q=1.0, *;q=0.5": "gzip",
    "br;q=1, gzip ; Q=0.001": "gzip",
    "gzip;q=0.5, identity;q=0.5": "gzip",
    "gzip;q=0.1, identity;q=0": "gzip",
    "gzip, *;q=0": "gzip",
    "*": "gzip",
    "*;q=0.1": "gzip",
    "identity;q=0, *": "gzip",
    "": None,
    "br": None,
    "gzip;q=0": None,
    "gzip;q=0.000": None,
    "*, gzip;q=0": None,
    "*;q=0": None,
    "identity": None,
    "identity;q=0": None,  # there is nothing else to send
    "identity, gzip;q=0.5": None,
    "gzip;q=0.2, *;q=0.5": None,
    "x-gzipped": None,
    "gzip;q=nan": None,
    "gzip;q=2": None,
    "gzip;q=": None,
}
# What makes markup or code out of text, and what would leave the tab.
FORBIDDEN = (
    r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|DOMParser|srcdoc|document\.write|\beval\b|"
    r"\bFunction\(|setAttribute\('style|\bstyle=|indexedDB|document\.cookie|sendBeacon|EventSource|"
    r"javascript:|\bon[a-z]+=\"|setInterval\(.*(fetch|api)"
)


def text(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


@pytest.fixture
def app() -> Application:
    everyone: dict[str, Any] = {"auth": Authenticator("a-token"), "busy": set()}
    page = {**everyone, "files": pages.read(pages.folder())}
    routes: list[Any] = [(r"/", pages.PageHandler, page), (r"/static/([^/]+)", pages.PageHandler, page)]
    return Application(routes, default_handler_class=NotFoundHandler, default_handler_args=everyone)


async def get(http_client: AsyncHTTPClient, url: str, **options: Any) -> HTTPResponse:
    return await http_client.fetch(url, raise_error=False, **options)


# How it is served


@pytest.mark.gen_test
async def test_each_file_is_served_to_anyone(http_client: AsyncHTTPClient, base_url: str) -> None:
    """As it is on disk, with its type, without a token."""
    for name in FILES:
        answer = await get(http_client, f"{base_url}/static/{name}")
        assert (answer.code, answer.body) == (200, (STATIC / name).read_bytes()), name
        assert answer.headers["Content-Type"] == pages.TYPES[Path(name).suffix]
    assert (await get(http_client, base_url + "/")).body.decode() == HTML


@pytest.mark.gen_test
async def test_a_browser_gets_it_packed(http_client: AsyncHTTPClient, base_url: str) -> None:
    """As gzip, which is told to caches; each form has an Etag of its own, and is not sent again to who has it."""
    url, headers = f"{base_url}/static/app.js", {"Accept-Encoding": "br, gzip"}
    packed = await get(http_client, url, headers=headers, decompress_response=False)
    plain = await get(http_client, url, decompress_response=False)
    assert gzip.decompress(packed.body) == plain.body == (STATIC / "app.js").read_bytes()
    assert (packed.headers["Content-Encoding"], packed.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert ("Content-Encoding" in plain.headers, plain.headers["Vary"]) == (False, "Accept-Encoding")
    assert packed.headers["Etag"] != plain.headers["Etag"]
    again = {**headers, "If-None-Match": packed.headers["Etag"]}
    assert (await get(http_client, url, headers=again, decompress_response=False)).code == 304


@pytest.mark.gen_test
async def test_it_is_packed_for_who_takes_it_so(http_client: AsyncHTTPClient, base_url: str) -> None:
    """By the weights of the codings: 0 refuses one, `*` is each that is not named, `identity` is none."""
    for accepted, coding in ACCEPTED.items():
        headers = {"Accept-Encoding": accepted}
        answer = await get(http_client, f"{base_url}/static/app.js", headers=headers, decompress_response=False)
        assert (answer.code, answer.headers.get("Content-Encoding")) == (200, coding), accepted
        assert answer.body.startswith(b"\x1f\x8b") == (coding == "gzip"), accepted


@pytest.mark.gen_test
async def test_every_answer_is_guarded(http_client: AsyncHTTPClient, base_url: str) -> None:
    """Nothing inline, nothing from elsewhere, no frame around it, no markup from a script; on errors too."""
    for path in ("/", "/static/app.js", "/static/style.css", "/static/nothing.js"):
        headers = (await get(http_client, base_url + path)).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy.pop("require-trusted-types-for") == "'script'"
        closed = ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types")
        own = ("style-src", "img-src", "connect-src")
        scripts = {"script-src": base_url.removeprefix("http://") + "/static/"}  # not from /fn/, which functions fill
        assert policy == {**dict.fromkeys(closed, "'none'"), **dict.fromkeys(own, "'self'"), **scripts}
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.gen_test
@pytest.mark.parametrize("host", ["[::1]:9090", "a;b", "a b", "a_b", "a/b", ""])
async def test_a_policy_is_not_made_of_any_host(http_client: AsyncHTTPClient, base_url: str, host: str) -> None:
    """A policy cannot name an IPv6 address; with what is no host name nothing is added to it."""
    answer = await get(http_client, base_url + "/", headers={"Host": host})
    policy = answer.headers.get("Content-Security-Policy", "")
    assert "script-src 'self';" in policy or answer.code == 400


@pytest.mark.gen_test
async def test_what_a_browser_has_is_not_sent_again(http_client: AsyncHTTPClient, base_url: str) -> None:
    """It asks each time, and is told 304 until the file has changed."""
    first = await get(http_client, base_url + "/static/app.js")
    assert first.headers["Cache-Control"] == "no-cache"
    assert first.headers["Last-Modified"].endswith("GMT")
    again = await get(http_client, base_url + "/static/app.js", headers={"If-None-Match": first.headers["Etag"]})
    assert (again.code, again.body) == (304, b"")
    other = await get(http_client, base_url + "/static/app.js", headers={"If-None-Match": '"of-another-version"'})
    assert other.code == 200


@pytest.mark.gen_test
async def test_nothing_else_is_served(http_client: AsyncHTTPClient, base_url: str) -> None:
    """404, in the one error shape; no path reaches the disk."""
    for name in ("nothing.js", "..%2fpyproject.toml", "%2e%2e%2fREADME.md", "%00", "index.html%2f..", "app.js%00", "."):
        answer = await get(http_client, f"{base_url}/static/{name}")
        assert answer.code == 404, name
        assert json.loads(answer.body)["code"] == 404
    assert (await get(http_client, base_url + "/", method="POST", body="")).code == 405


def test_an_installation_without_the_page_serves_the_rest(tmp_path: Path) -> None:
    """What is not there is no reason not to start."""
    assert pages.read(tmp_path / "static") == {}


def test_the_page_is_found_and_packed() -> None:
    """Beside the package in a checkout; a wheel takes it into the package, a source archive as it is."""
    assert pages.folder() == STATIC
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {"static": "qmaster/static"}
    assert "/static" in build["sdist"]["include"]


# What is in it


def test_the_page_is_small() -> None:
    """All of it together, as it is sent to a browser."""
    files = pages.read(STATIC).values()
    assert sum(len(file.packed) for file in files) <= BUDGET
    assert sum(len(file.body) for file in files) <= SOURCE


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_outside(name: str) -> None:
    """No address is in any file but the name of SVG's namespace."""
    assert re.findall(r"(?:https?:|wss?:)?//[a-z][\w.-]+\.[a-z]{2,}\S*", text(name)) in (
        [],
        ["http://www.w3.org/2000/svg',"],
        ['http://www.w3.org/2000/svg"'],
    )


@pytest.mark.parametrize("name", FILES)
def test_text_stays_text(name: str) -> None:
    """No call makes markup or code of a string, and what outlives the tab goes through one module."""
    assert not re.search(FORBIDDEN, text(name))
    assert not re.search("localStorage|sessionStorage", text(name)) or name == "preferences.js"


def test_nothing_is_inline() -> None:
    """Scripts and stylesheets are files; no handler or style in the markup."""
    assert set(re.findall(r"<script[^>]*>(.*?)</script>", HTML, re.DOTALL)) == {""}
    assert "<style" not in HTML


def test_every_reference_is_to_a_file() -> None:
    """Of the markup and of the modules."""
    named = re.findall(r'(?:src|href)="(static/[^"]+)"', HTML)
    imported = [f"static/{name}" for script in SCRIPTS for name in re.findall(r"from '\./([\w.]+)'", text(script))]
    assert set(named + imported) | {"static/index.html"} == {f"static/{name}" for name in FILES}


def test_every_element_that_is_looked_up_is_there() -> None:
    """An id that a module names is in the markup, and each id once."""
    ids = re.findall(r'\bid="([\w-]+)"', HTML)
    assert len(ids) == len(set(ids))
    looked_up = {name for script in SCRIPTS for name in re.findall(r"\$\('([\w-]+)'\)", text(script))}
    assert looked_up <= set(ids)


def test_only_two_modules_talk_to_anyone() -> None:
    """The stream and the calls; so nothing else can poll."""
    assert [name for name in SCRIPTS if re.search(r"\bfetch\(", text(name))] == ["api.js"]
    assert [name for name in SCRIPTS if re.search(r"WebSocket\(", text(name))] == ["stream.js"]


def functions() -> Iterator[tuple[str, int]]:
    for script in SCRIPTS:
        for match in re.finditer(
            r"^(?:export )?(?:async )?function (\w+).*?^}", text(script), re.DOTALL | re.MULTILINE
        ):
            yield f"{script}: {match[1]}", match[0].count("\n") + 1


def test_functions_are_short() -> None:
    """At most forty lines, as everywhere else."""
    assert [name for name, lines in functions() if lines > 40] == []
