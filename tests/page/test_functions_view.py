"""The functions: a list with their numbers, and of each a page from which it is called, rolled back and deleted."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from conftest import Browse, StartServer
from page_cases import IMAGE, PAYLOAD, VIEWS, Json, Judge
from playwright.sync_api import Page, expect
from testbed import Bed, Swarm
from testbed.crowd import TOKEN, Crowd, stamp
from view_cases import function, gone, invocation, page_of, stats, status

NONE = "\N{EN DASH}"
COUNT: Json = {"runtime": "job", "image": IMAGE, "memory": 16, "command": ["sh", "-c", 'echo "$QMASTER_INPUT" | wc -w']}


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    with Crowd(3, 0) as crowd:
        shows(crowd, function())
        yield crowd


def shows(crowd: Crowd, *functions: Json) -> None:
    """Let these be all functions, each with two versions and an instance."""
    crowd.answers["GET /functions"] = {"success": True, "cursor": "c:1", "functions": list(functions)}
    crowd.answers["GET /status"] = status(gone(1, name="an-instance"))
    crowd.answers["GET /invocations"] = page_of(invocation())
    for one in functions:
        path = f"GET /functions/{one['name']}"
        crowd.answers[path] = {"success": True, **one}
        crowd.answers[path + "/versions"] = {"success": True, "versions": [one, function(version=2)]}


def opened(browse: Browse, crowd: Crowd, address: str = "functions", **options: Any) -> Page:
    page = browse(crowd.url, **options).log_in(TOKEN)
    page.goto(f"{crowd.url}/#/{address}")
    return page


def table(page: Page, title: str) -> Any:
    return page.get_by_role("table", name=title, exact=True).locator("tbody tr")


def cells(page: Page, title: str, row: int = 0) -> list[str]:
    return list(table(page, title).nth(row).locator("td").all_inner_texts())


def test_the_list_has_the_numbers_of_each(browse: Browse, crowd: Crowd) -> None:
    """Calls in the last whole minute, the latest p50 and p95, the errors of the hour, and the next tick."""
    later, sooner = "2030-01-02T00:00:00Z", "2030-01-01T12:34:56Z"
    ticks = [{"cron": "@daily", "next": later}, {"cron": "@hourly", "next": sooner}, {"cron": "@weekly", "next": None}]
    quiet = function("quiet", 1, instances={"starting": 0, "idle": 0, "busy": 0})
    shows(crowd, function(schedules=ticks), quiet)
    resize = {"calls": [9, 12, 4], "errors": [1, 0, 2], "p50": [0.5, 0.0123, None], "p95": [None, 1.234, None]}
    crowd.answers["GET /stats"] = stats(resize=resize)
    page = opened(browse, crowd)
    expect(table(page, "Functions")).to_have_count(2)
    shown = cells(page, "Functions")
    assert shown[1:8] == ["3", "lambda", "3 busy, 2 idle, 1 starting", "12 ", "12 ms", "1.2 s", "3"]
    assert re.search("2030", shown[8])
    expect(table(page, "Functions").get_by_role("img")).to_have_attribute("aria-label", re.compile("at most 12"))
    expect(table(page, "Functions").first.locator("time")).to_have_attribute("datetime", sooner)
    signs = table(page, "Functions").first.locator(".dots > *")
    assert [sign.get_attribute("data-is") for sign in signs.all()] == [*["running"] * 3, *["idle"] * 2, "preparing"]
    assert cells(page, "Functions", 1)[3:9] == ["none", *[NONE] * 5]


def test_a_server_without_numbers_has_the_rest(browse: Browse, crowd: Crowd) -> None:
    """Where nothing is known of a function, a dash stands."""
    page = opened(browse, crowd)
    expect(table(page, "Functions")).to_have_count(1)
    assert cells(page, "Functions")[4:8] == [NONE] * 4


def test_a_function_is_published(browse: Browse, crowd: Crowd) -> None:
    """The form stands open where there is none; what is wrong is said in it, and what was published opens."""
    shows(crowd)
    page = opened(browse, crowd)
    expect(page.get_by_text("Functions: none")).to_be_visible()
    view = page.locator("#functions")
    view.get_by_label("Name").fill("resize")
    view.get_by_label("Image").fill("user/resize:1")
    view.get_by_label("The rest").fill("memory: 16")
    view.get_by_role("button", name="Publish").click()
    expect(view.get_by_role("alert").last).to_contain_text("The rest is no JSON")
    view.get_by_label("The rest").fill('{"memory": 16}')
    view.get_by_role("button", name="Publish").click()
    expect(view.get_by_role("alert").last).to_have_text("quartermaster answered 404")
    crowd.answers["PUT /functions/resize"] = {"success": True}
    shows(crowd, function())
    view.get_by_role("button", name="Publish").click()
    expect(page).to_have_url(f"{crowd.url}/#/functions/resize")
    sent = [msgspec.json.decode(body) for call, _, body in crowd.asked if call == "PUT /functions/resize"]
    assert sent == [{"image": "user/resize:1", "memory": 16}] * 2


def test_a_server_without_functions_says_so(browse: Browse, crowd: Crowd) -> None:
    """In its own words."""
    del crowd.answers["GET /functions"]
    page = opened(browse, crowd)
    expect(page.locator("#functions").get_by_role("alert")).to_have_text("quartermaster answered 404")


def test_a_row_keeps_the_focus_when_it_moves(browse: Browse, crowd: Crowd) -> None:
    """As another comes before it."""
    shows(crowd, function("later"))
    page = opened(browse, crowd)
    page.get_by_role("link", name="later").focus()
    shows(crowd, function("earlier"), function("later"))
    expect(table(page, "Functions")).to_have_count(2)
    expect(page.get_by_role("link", name="later")).to_be_focused()


def test_a_page_of_each(browse: Browse, crowd: Crowd) -> None:
    """Facts, spec, errors, schedules, versions, instances and calls; what this token may not read is left out."""
    error = {"time": stamp(60), "reason": "function_error", "message": "ValueError: no image"}
    tick = {"cron": "30 2 * * *", "time_zone": "Europe/Berlin", "last": None, "next": stamp(-60), "suspend": False}
    paused = {**tick, "cron": "@daily", "suspend": True}
    shows(crowd, function(last_errors=[error], schedules=[tick, paused]))
    page = opened(browse, crowd)
    page.get_by_role("link", name="resize").click()
    expect(page).to_have_url(f"{crowd.url}/#/functions/resize")
    expect(page.get_by_role("heading", name="resize")).to_be_visible()
    expect(page.locator("#functions dl")).to_contain_text("3 busy, 2 idle, 1 starting")
    assert cells(page, "Last errors")[1:] == ["function_error", "ValueError: no image"]
    assert cells(page, "Schedules")[:3] == ["30 2 * * *", "Europe/Berlin", NONE]
    assert cells(page, "Schedules", 1)[3] == "suspended"
    assert cells(page, "Versions")[4] == "in use"
    expect(table(page, "Instances").get_by_role("link", name="an-instance")).to_be_visible()
    expect(table(page, "Asynchronous calls")).to_have_count(1)
    page.get_by_text("Spec", exact=True).click()
    expect(page.get_by_label("Spec")).to_contain_text('"timeout": 30')
    del crowd.answers["GET /invocations"]
    page.reload()
    expect(table(page, "Versions")).to_have_count(2)
    expect(table(page, "Asynchronous calls")).to_have_count(0)


def test_a_rollback_asks_first(browse: Browse, crowd: Crowd) -> None:
    """Kept, nothing is sent; confirmed, the version goes to the server, and its refusal stands in the question."""
    page = opened(browse, crowd, "functions/resize")
    back = page.get_by_role("button", name="Roll back…")
    back.click()
    expect(page.locator("#confirm-title")).to_have_text("Roll back resize?")
    page.get_by_role("button", name="Keep it").click()
    back.click()
    page.get_by_role("button", name="Roll back", exact=True).click()
    expect(page.locator("#confirm-error")).to_have_text("quartermaster answered 404")
    crowd.answers["POST /functions/resize/rollback"] = {"success": True}
    page.get_by_role("button", name="Roll back", exact=True).click()
    expect(page.locator("#confirm")).to_be_hidden()
    sent = [body for call, _, body in crowd.asked if call == "POST /functions/resize/rollback"]
    assert sent == ['{"version": 2}'] * 2


def test_a_call_is_shown_with_its_answer(browse: Browse, crowd: Crowd) -> None:
    """JSON is indented; the body is sent as it was typed, by Ctrl+Enter; the same call with curl stands beside it."""
    crowd.answers["POST /functions/resize/invoke"] = {"width": [1, 2]}
    page = opened(browse, crowd, "functions/resize")
    body = page.get_by_role("textbox", name="Body")
    body.fill('{"it\'s": 1}')
    curl = page.locator("#functions").get_by_label("The same call with curl")
    expect(curl).to_contain_text(f"{crowd.url}/functions/resize/invoke -d '{{\"it'\\''s\": 1}}'")
    body.press("Control+Enter")
    expect(page.get_by_label("Answer")).to_have_text('{\n  "width": [\n    1,\n    2\n  ]\n}')
    assert [sent for call, _, sent in crowd.asked if call.endswith("/invoke")] == ['{"it\'s": 1}']
    expect(body).to_have_value('{"it\'s": 1}')
    expect(body).to_be_focused()
    del crowd.answers["POST /functions/resize/invoke"]
    page.get_by_role("button", name="Invoke").click()
    expect(page.locator(".trial [data-is=failed]")).to_be_visible()
    expect(page.locator(".trial")).to_contain_text("quartermaster answered 404")


def test_a_page_in_sight_keeps_up(browse: Browse, crowd: Crowd) -> None:
    """It is read again without a click, and what is typed and chosen stays."""
    page = opened(browse, crowd, "functions/resize")
    page.get_by_role("textbox", name="Body").fill("typed")
    page.get_by_text("Spec", exact=True).click()
    shows(crowd, function(version=9, queued=77))
    expect(page.locator("#functions dl")).to_contain_text("77 queued")
    expect(page.get_by_role("textbox", name="Body")).to_have_value("typed")
    expect(page.get_by_label("Spec")).to_be_visible()


@pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS)
def test_it_is_accessible_and_fits(browse: Browse, crowd: Crowd, options: Json) -> None:
    """The list and a page, in each theme and on a phone; what others wrote is text."""
    error = {"time": stamp(60), "reason": "function_error", "message": PAYLOAD + "x" * 300}
    shows(crowd, function(image="r.example.com/" + "i" * 200, last_errors=[error]))
    page = opened(browse, crowd, **options)
    expect(table(page, "Functions")).to_have_count(1)
    assert Judge(page).serious() == []
    page.goto(f"{crowd.url}/#/functions/resize")
    expect(table(page, "Last errors")).to_contain_text(PAYLOAD)
    assert Judge(page).serious() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_function_is_called_rolled_back_and_deleted(
    start_server: StartServer, bed: Bed, swarm: Swarm, browse: Browse
) -> None:
    """On the real server, with a job: at once and asynchronously, until it is gone."""
    server = start_server(swarm.manager.host, *bed.runtime())
    for memory in (16, 17):
        reply = server.call("PUT", "/functions/count", {**COUNT, "memory": memory})
        assert reply.status == 201, reply.text
    page = browse(server.url).log_in(server.token)
    page.get_by_role("link", name="Functions").click()
    page.get_by_role("link", name="count").click()
    body = page.get_by_role("textbox", name="Body")
    body.fill("how many words")
    body.press("Control+Enter")
    expect(page.get_by_label("Answer")).to_have_text("3\n")
    expect(page.locator(".trial")).to_contain_text(re.compile("succeeded.*(cold|warm), version 2, instance"))
    page.get_by_label("asynchronous").check()
    body.fill("these are four words")
    page.get_by_role("button", name="Invoke").click()
    page.locator(".trial").get_by_role("link").click()
    expect(page.locator("#invocations [data-is=complete]")).to_be_visible()
    expect(page.locator("#invocations").get_by_label("Output")).to_have_text("4")
    page.go_back()
    page.get_by_role("button", name="Roll back…").click()
    page.get_by_role("button", name="Roll back", exact=True).click()
    expect(page.locator("#functions .tag")).to_have_text("version 3")
    assert server.call("GET", "/functions/count")["spec"]["memory"] == 16
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page).to_have_url(f"{server.url}/#/functions")
    expect(page.get_by_text("Functions: none")).to_be_visible()
