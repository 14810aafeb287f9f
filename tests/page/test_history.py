"""The history: runs that were removed too, by the API's filters, page by page, without moving what one reads."""

import re
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from conftest import Browse
from page_cases import IMAGE, PAYLOAD, VIEWS, Json, Judge, run, say
from playwright.sync_api import Page, expect
from testbed import Server, eventually
from testbed.crowd import TOKEN, Crowd
from view_cases import gone, status


@pytest.fixture
def crowd() -> Any:
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /status"] = status()
        yield crowd


def opened(browse: Browse, crowd: Crowd, address: str = "history", **options: Any) -> Page:
    page = browse(crowd.url, **options).log_in(TOKEN)
    page.goto(f"{crowd.url}/#/{address}")
    return page


def rows(page: Page) -> Any:
    return page.locator("#history tbody tr")


def field(page: Page, label: str) -> Any:
    return page.locator("#history").get_by_label(label, exact=True)


def asked(crowd: Crowd) -> list[Json]:
    return [parse_qs(query, keep_blank_values=True) for call, query, _ in crowd.asked if call == "GET /status"]


def test_removed_runs_show_how_they_ended(browse: Browse, crowd: Crowd) -> None:
    """Outcome, reason, exit code, and how long they waited and ran; the panel opens them, though the stream has not."""
    first = gone(10, "timeout", None)
    crowd.answers["GET /status"] = status(first, gone(11, "exit", 3), gone(12, "exit", 0), gone(13, "stopped", 143))
    crowd.answers[f"GET /status/{first.id}"] = status(first)["services"][0]
    page = opened(browse, crowd)
    for row, told in enumerate(
        ("failed timeout, removed", "failed removed 3", "complete removed", "stopped removed 143")
    ):
        expect(rows(page).nth(row)).to_contain_text(re.compile(r"\s*".join(map(re.escape, told.split()))))
    expect(rows(page).first).to_contain_text("300 ms")
    expect(rows(page).first).to_contain_text("4.2 s")
    rows(page).first.get_by_role("link").click()
    expect(page).to_have_url(f"{crowd.url}/#/runs/{first.id}")
    expect(page.locator("#detail-name")).to_have_text(first.name)
    expect(rows(page)).to_have_count(4)
    page.get_by_role("button", name="Next run").click()
    expect(page).to_have_url(f"{crowd.url}/#/runs/{gone(11).id}")
    page.get_by_role("button", name="Close", exact=True).click()
    expect(page).to_have_url(f"{crowd.url}/#/history")


def test_filters_are_those_of_the_api(browse: Browse, crowd: Crowd) -> None:
    """They are in the address, and taken from it."""
    page = opened(browse, crowd, "history?status=failed&q=web&since=7d&label=a%3Db&function=resize")
    expect(field(page, "Name")).to_have_value("web")
    expect(field(page, "Outcome")).to_have_value("failed")
    expect(field(page, "Time")).to_have_value("7d")
    expect(page.get_by_text("History: none")).to_be_visible()
    wanted = {"name": ["*web*"], "outcome": ["failed"], "since": ["7d"], "label": ["a=b"], "function": ["resize"]}
    assert asked(crowd) == [{"all": ["1"], "limit": ["50"], **wanted}]
    field(page, "Outcome").select_option("running")
    field(page, "Time").select_option("")
    field(page, "Instances of").fill("")
    field(page, "Image").fill("busybox")
    field(page, "Image").press("Enter")
    expect(page).to_have_url(re.compile(r"#/history\?status=running&q=web&label=a%3Db&image=busybox$"))
    eventually(lambda: asked(crowd)[-1].get("image") == ["busybox"], 10, "it is asked for")
    assert asked(crowd)[-1]["status"] == ["running"]
    assert asked(crowd)[-1]["function"] == [""]  # no instances
    assert not asked(crowd)[-1].keys() & {"since", "outcome"}


def test_a_time_is_local_in_its_field(browse: Browse, crowd: Crowd) -> None:
    """And in UTC in the address, as the API wants it."""
    page = opened(browse, crowd, "history?since=2026-11-22T20:30:00Z", timezone_id="Asia/Kolkata")
    expect(field(page, "From")).to_have_value("2026-11-23T02:00")
    field(page, "To").fill("2026-11-24T05:30")
    field(page, "To").blur()
    eventually(lambda: asked(crowd)[-1].get("until") == ["2026-11-24T00:00:00.000Z"], 10, "it is asked for")
    assert asked(crowd)[-1]["since"] == ["2026-11-22T20:30:00Z"]


def test_more_are_loaded_by_the_page(browse: Browse, crowd: Crowd) -> None:
    """From the cursor of the answer, until there is none."""
    crowd.answers["GET /status"] = status(*map(gone, range(10, 13)), next_page="behind-12")
    page = opened(browse, crowd)
    expect(page.get_by_text("3 shown, there are more")).to_be_visible()
    crowd.answers["GET /status"] = status(*map(gone, range(13, 15)))
    page.get_by_role("button", name="Load more").click()
    expect(rows(page)).to_have_count(5)
    expect(page.get_by_text("5 shown", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Load more")).to_have_count(0)
    assert [query.get("page") for query in asked(crowd)] == [None, ["behind-12"]]


def test_new_ones_move_nothing(browse: Browse, crowd: Crowd) -> None:
    """When the stream tells of a change, new runs are counted; those that are shown change in their place."""
    crowd.answers["GET /status"] = status(gone(11, name="older"))
    page = opened(browse, crowd)
    expect(rows(page)).to_have_count(1)
    rows(page).get_by_role("link").focus()
    crowd.answers["GET /status"] = status(gone(10, name="newer"), gone(11, "oom", 137, name="older"))
    say(crowd, "io.qmaster.service.removed", msgspec.to_builtins(status(gone(10, name="newer"))["services"][0]))
    expect(page.get_by_role("button", name="Show 1 new")).to_be_visible()
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("failedoom, removed")
    assert page.evaluate("document.activeElement.textContent") == "older"
    page.get_by_role("button", name="Show 1 new").click()
    expect(rows(page).first).to_contain_text("newer")
    expect(rows(page)).to_have_count(2)


def test_nothing_is_asked_while_nothing_happens(browse: Browse, crowd: Crowd) -> None:
    """No poll: the first page is read again after a change only."""
    page = opened(browse, crowd)
    page.clock.install()
    page.reload()
    expect(page.get_by_text("History: none")).to_be_visible()
    before = len(asked(crowd))
    page.clock.run_for(30_000)
    page.get_by_role("link", name="Live", exact=True).click()
    page.get_by_role("link", name="History", exact=True).click()
    assert len(asked(crowd)) == before


def test_what_cannot_be_read_is_said(browse: Browse, crowd: Crowd) -> None:
    """In the server's own words, or that it does not answer."""
    del crowd.answers["GET /status"]
    page = opened(browse, crowd)
    expect(page.get_by_role("alert").filter(has_text="quartermaster answered 404")).to_be_visible()


@pytest.mark.parametrize("options", VIEWS.values(), ids=VIEWS)
def test_it_is_accessible_and_fits(browse: Browse, crowd: Crowd, options: Json) -> None:
    """In each theme and on a phone; names are text, however long."""
    crowd.answers["GET /status"] = status(gone(10, name=PAYLOAD), gone(11, "oom", 137, image="i" * 200))
    page = opened(browse, crowd, **options)
    expect(rows(page)).to_have_count(2)
    expect(rows(page).first).to_contain_text(PAYLOAD)
    assert Judge(page).serious() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_failures_that_were_removed_are_found(swarm_shared: Server, browse: Browse) -> None:
    """On the real server: by outcome and a part of the name, with their output in the panel."""
    ids = [
        run(swarm_shared, image=IMAGE, command=command, name=name)
        for name, command in {"past-good": "echo fine", "past-bad": "sh -c 'echo sorry; exit 3'"}.items()
    ]
    for one in ids:
        assert swarm_shared.call("GET", f"/status/{one}?wait=60")["result"] is not None
        swarm_shared.stop_service(one)
    eventually(lambda: {swarm_shared.status(one)["status"] for one in ids} == {"removed"}, 60, "they are removed")
    page = browse(swarm_shared.url).log_in(swarm_shared.token)
    page.goto(f"{swarm_shared.url}/#/history?status=failed&q=ast-b")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("past-bad")
    expect(rows(page)).to_contain_text("removed3")
    field(page, "Outcome").select_option("complete")
    field(page, "Name").fill("past")
    field(page, "Name").press("Enter")
    expect(rows(page)).to_have_count(1)
    rows(page).get_by_role("link", name="past-good").click()
    expect(page.locator("#log")).to_contain_text("fine")


def test_another_who_signs_in_sees_nothing_of_it(browse: Browse, crowd: Crowd) -> None:
    """The rows of a listing stay while it is read again, but not for another token."""
    crowd.answers["GET /status"] = status(gone(10))
    page = opened(browse, crowd)
    expect(rows(page)).to_have_count(1)
    page.get_by_role("button", name="Sign out").click()
    assert rows(page).count() == 0
    crowd.answers["GET /status"] = status(gone(11))
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Connect").click()
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text(gone(11).name)
