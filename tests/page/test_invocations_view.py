"""Asynchronous calls: the list, and of each a page with its attempts, its end and its callbacks."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from conftest import Browse, StartServer
from page_cases import IMAGE, PAYLOAD, VIEWS, Json, Judge
from playwright.sync_api import Page, expect
from testbed import Bed, Swarm, eventually
from testbed.crowd import TOKEN, Crowd, stamp
from view_cases import invocation, page_of

FAIL: Json = {"runtime": "job", "image": IMAGE, "memory": 16, "command": ["false"], "retries": 0}


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /invocations"] = page_of()
        yield crowd


def shows(crowd: Crowd, *calls: Json, next_page: str | None = None) -> str:
    """Let these be all calls; return the address of the first."""
    crowd.answers["GET /invocations"] = page_of(*calls, next_page=next_page)
    for call in calls:
        crowd.answers[f"GET /invocations/{call['id']}"] = {"success": True, **call}
    return f"invocations/{calls[0]['id']}"


def opened(browse: Browse, crowd: Crowd, address: str = "invocations", **options: Any) -> Page:
    page = browse(crowd.url, **options).log_in(TOKEN)
    page.goto(f"{crowd.url}/#/{address}")
    return page


def rows(page: Page, title: str = "Invocations") -> Any:
    return page.get_by_role("table", name=title, exact=True).locator("tbody tr")


def asked(crowd: Crowd) -> list[Json]:
    return [parse_qs(query) for call, query, _ in crowd.asked if call == "GET /invocations"]


def test_the_list_has_each_call(browse: Browse, crowd: Crowd) -> None:
    """Function, status, attempts, when and how long; one leads to its page, and Back to the list."""
    tick = invocation(2, "queued", scheduled_at=stamp(120), started_at=None)
    shows(crowd, invocation(1), tick)
    page = opened(browse, crowd)
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first).to_contain_text(re.compile(r"resize v3\s*succeeded.*2\.5 s.*root", re.DOTALL))
    expect(rows(page).nth(1)).to_contain_text("by schedule")
    expect(rows(page).nth(1).locator("[data-is]")).to_have_attribute("data-is", "pending")
    rows(page).first.get_by_role("link").first.click()
    expect(page.get_by_role("heading", name="Call of resize")).to_be_visible()
    page.go_back()
    expect(rows(page)).to_have_count(2)


def test_it_is_filtered_and_paged(browse: Browse, crowd: Crowd) -> None:
    """By the API, with the filters in the address."""
    shows(crowd, invocation(1), next_page="behind-1")
    page = opened(browse, crowd, "invocations?function=resize")
    page.get_by_role("button", name="Load more").click()
    eventually(lambda: len(asked(crowd)) == 2, 10, "more are asked for")
    page.locator("#invocations").get_by_label("Status").select_option("dead")
    expect(page).to_have_url(f"{crowd.url}/#/invocations?function=resize&status=dead")
    eventually(lambda: len(asked(crowd)) == 3, 10, "the dead are asked for")
    every = {"limit": ["50"], "function": ["resize"]}
    assert asked(crowd) == [every, {**every, "page": ["behind-1"]}, {**every, "status": ["dead"]}]


def test_a_page_has_attempts_error_and_callbacks(browse: Browse, crowd: Crowd) -> None:
    """Each attempt with its error and a link to its instance; each callback with what became of it."""
    error = {"type": "ValueError", "message": "no image", "stack": ["line one", "line two"]}
    attempt = {"started_at": stamp(9), "ended_at": stamp(7.5), "instance": "abcdefghijklmnopqrstuvwxy", "error": error}
    callback = {"url": "https://hooks.example.com/x", "delivered_at": None, "attempts": 2, "last_error": "answered 503"}
    page = opened(
        browse, crowd, shows(crowd, invocation(1, "dead", error=error, attempts=[attempt], callbacks=[callback]))
    )
    expect(page.get_by_label("Error")).to_have_text("ValueError: no image\nline one\nline two")
    expect(rows(page, "Attempts")).to_contain_text("1.5 s")
    expect(rows(page, "Attempts")).to_contain_text("ValueError: no image")
    link = rows(page, "Attempts").get_by_role("link")
    expect(link).to_have_attribute("href", "#/runs/abcdefghijklmnopqrstuvwxy")
    for told in ("https://hooks.example.com/x", "answered 503"):
        expect(rows(page, "Callbacks")).to_contain_text(told)
    expect(page.locator("#invocations form")).to_be_hidden()


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ({"output": {"a": 1}}, '{\n  "a": 1\n}'),
        ({"output": "text"}, "text"),
        ({"output": None}, "null"),
        ({"output_base64": "AAECAw=="}, "AAECAw=="),
    ],
)
def test_a_page_has_the_output(browse: Browse, crowd: Crowd, output: Json, shown: str) -> None:
    """A JSON value indented, text as it is, and other bytes in base64."""
    page = opened(browse, crowd, shows(crowd, invocation(1, **output)))
    expect(page.locator("#invocations").get_by_label("Output")).to_have_text(shown)


@pytest.mark.parametrize(
    ("status", "button", "yes", "call"),
    [
        ("queued", "Cancel…", "Cancel it", "DELETE /invocations/{}"),
        ("dead", "Redrive…", "Redrive it", "POST /invocations/{}/redrive"),
    ],
)
def test_a_change_asks_first(browse: Browse, crowd: Crowd, status: str, button: str, yes: str, call: str) -> None:
    """What waits can be cancelled, what is dead redriven; the page then shows the new status by itself."""
    address = shows(crowd, invocation(1, status))
    call = call.format(address.removeprefix("invocations/"))
    crowd.answers[call] = {"success": True}
    page = opened(browse, crowd, address)
    page.get_by_role("button", name=button).click()
    assert call not in [each for each, _, _ in crowd.asked]
    shows(crowd, invocation(1, "running"))
    page.get_by_role("button", name=yes).click()
    expect(page.locator("#invocations [data-is=running]")).to_be_visible()
    assert [each for each, _, _ in crowd.asked].count(call) == 1
    shows(crowd, invocation(1, "succeeded"))
    expect(page.locator("#invocations [data-is=complete]")).to_be_visible()
    expect(page.get_by_role("button", name=button)).to_have_count(0)


@pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS)
def test_it_is_accessible_and_fits(browse: Browse, crowd: Crowd, options: Json) -> None:
    """The list and a page, in each theme and on a phone; what a function wrote is text."""
    error = {"type": "Error", "message": PAYLOAD + "x" * 300, "stack": []}
    attempt = {"started_at": stamp(9), "ended_at": stamp(7.5), "instance": None, "error": error}
    address = shows(crowd, invocation(1, "dead", error=error, attempts=[attempt]), invocation(2))
    page = opened(browse, crowd, **options)
    expect(rows(page)).to_have_count(2)
    assert Judge(page).serious() == []
    page.goto(f"{crowd.url}/#/{address}")
    expect(rows(page, "Attempts")).to_contain_text(PAYLOAD)
    assert Judge(page).serious() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_dead_call_is_redriven(start_server: StartServer, bed: Bed, swarm: Swarm, browse: Browse) -> None:
    """On the real server: it is found among the dead, with its attempt, and has two after the redrive."""
    server = start_server(swarm.manager.host, *bed.runtime())
    eventually(lambda: server.call("PUT", "/functions/wrong", FAIL).status == 201, 30, "it is published")
    reply = server.call("POST", "/functions/wrong/invoke", headers={"Prefer": "respond-async"})
    assert server.call("GET", f"/invocations/{reply['id']}?wait=60")["status"] == "dead"
    page = browse(server.url).log_in(server.token)
    page.goto(f"{server.url}/#/invocations?status=dead&function=wrong")
    rows(page).get_by_role("link").first.click()
    expect(rows(page, "Attempts")).to_have_count(1)
    expect(page.get_by_label("Error", exact=True)).to_contain_text("exit")
    page.get_by_role("button", name="Redrive…").click()
    page.get_by_role("button", name="Redrive it").click()
    expect(rows(page, "Attempts")).to_have_count(2)
