"""The live view of the status page: its table, its nodes, and several services at once."""

import re
from typing import Any

import msgspec
import pytest
from conftest import Browse
from msgspec.structs import replace
from page_cases import NAP, PHONE, Json, column, row, run, say, shows
from playwright.sync_api import Page, Route, expect
from testbed import Server
from testbed import crowd as crowds
from testbed.crowd import TOKEN, Crowd, service, stamp

from qmaster.models.responses import LastExit

LAPTOP: Json = {"viewport": {"width": 1440, "height": 900}}
IN_SIGHT = """() => [...document.querySelectorAll('#table tbody tr[data-is]')]
  .map((row) => row.getBoundingClientRect())
  .filter(({top, bottom}) => top >= 0 && bottom <= innerHeight).length"""
ROWS = "#table tbody tr[data-is]"


def names(page: Page) -> list[str]:
    """Those of the rows, in their order."""
    found: list[str] = page.locator("#table .name bdi").all_inner_texts()
    return found


def failed(crowd: Crowd, *numbers: int, ago: float = 60) -> None:
    """Let these services have failed, the first last."""
    for index, number in enumerate(numbers):
        crowd.services[number] = service(number, "failed", stamp(ago + index))


# The table


def test_a_laptop_shows_many_rows(browse: Browse, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least fourteen at 1440 by 900: below three nodes, and more below one, which is a line."""
    monkeypatch.setattr(crowds, "NODES", 3)
    with Crowd(40, 0) as crowd:
        page = browse(crowd.url, **LAPTOP).log_in(TOKEN)
        assert page.evaluate(IN_SIGHT) >= 14
        page.get_by_role("button", name="Nodes").click()
        expect(page.locator("#map")).to_be_hidden()
        assert page.evaluate(IN_SIGHT) >= 18


def test_a_row_tells_what_a_service_is(browse: Browse) -> None:
    """The command beside a name that was made of the image's; else the image. Labels, tasks, restarts."""
    with Crowd(4, 0) as crowd:
        made = replace(crowd.services[0], name="tool-x-kvtwrq", image="registry.example.com:5000/team/tool_x:1")
        made = replace(made, command=["sh", "-c", "sleep 1"], restarts=12, last_exit=LastExit(3, None, stamp()))
        crowd.services[0] = replace(made, replicas=replace(made.replicas, desired=3, running=2))
        page = browse(crowd.url, **LAPTOP).log_in(TOKEN)
        first = row(page, "tool-x-kvtwrq")
        expect(first.locator(".image")).to_have_text("tool_x:1 sh -c 'sleep 1'")
        expect(first.locator(".running")).to_have_text("2 of 3 running")
        expect(first.locator(".tags span")).to_have_text("team=blue")
        expect(first.locator(".restarts")).to_have_text("12 \u00d7, exit 3")
        expect(first.locator(".restarts")).to_have_attribute("title", "restarted 12 \u00d7, last exit 3")
        second = row(page, "transcode-00001")
        expect(second.locator(".image")).to_have_text("transcode:2.1")
        expect(second.locator(".running")).to_have_text("1 of 1 done")
        expect(second.locator(".restarts")).to_be_empty()


def test_failures_are_seen_first(browse: Browse) -> None:
    """Those that failed last are named above the list, with their number, and lead the boxes of their node."""
    with Crowd(300, 0) as crowd:
        failed(crowd, 281, 192, 293, 210)
        page = browse(crowd.url, **LAPTOP).log_in(TOKEN)
        strip = page.locator("#failures")
        expect(strip.locator("a").first).to_have_text("4 failed")
        expect(strip.locator("bdi")).to_have_text(["crawl-00281", "render-00192", "crawl-00293"])
        boxes = column(page, "host-0").locator(".box")
        assert boxes.evaluate_all("(all) => all.map(({dataset}) => dataset.is).slice(0, 3)") == ["failed"] * 2 + [
            "running"
        ]
        strip.get_by_role("link", name="4 failed").click()
        expect(page).to_have_url(f"{crowd.url}/#/?status=failed")
        expect(page.locator(ROWS)).to_have_count(4)
        strip.get_by_role("link", name="crawl-00281").click()
        expect(page.locator("#detail-name")).to_have_text("crawl-00281")


def test_the_order_has_an_address(browse: Browse) -> None:
    """A column, and the same column again for the other way round; the newest first has none."""
    with Crowd(12, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        newest = names(page)
        by_name = page.get_by_role("columnheader", name="Service").get_by_role("button")
        by_name.click()
        expect(page).to_have_url(f"{crowd.url}/#/?sort=name")
        assert names(page) == sorted(newest)
        by_name.click()
        expect(page).to_have_url(f"{crowd.url}/#/?sort=-name")
        page.reload()
        expect(page.locator(ROWS)).to_have_count(12)
        assert names(page) == sorted(newest, reverse=True)
        expect(page.locator("#table th.name")).to_have_attribute("aria-sort", "descending")
        page.get_by_role("columnheader", name="Age").get_by_role("button").click()
        expect(page).to_have_url(f"{crowd.url}/#/")
        assert names(page) == newest


@pytest.mark.parametrize("words", ["team=red", "ROOT complete", "media/index:2.2", "host-3", "work 7"])
def test_the_search_covers_all_that_a_row_is(browse: Browse, words: str) -> None:
    """Labels, the owner, the image, nodes, the command: each word somewhere in it."""
    with Crowd(12, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/?q={words.replace(' ', '+').replace('=', '%3D')}")
        wanted = []
        for one in crowd.services.values():
            tags = [f"{key}={value}" for key, value in one.labels.items()]
            told = [one.name, one.image, str(one.owner), one.status, ",".join(one.command or []), *tags]
            told += [task.node or "" for task in one.tasks]
            if all(word in "\n".join(told).lower() for word in words.replace("work 7", "work,7").lower().split()):
                wanted.append(one.name)
        expect(page.locator(ROWS)).to_have_count(len(wanted))
        assert sorted(names(page)) == sorted(wanted)


# The nodes


def test_a_node_has_an_address(browse: Browse) -> None:
    """Its name leads to what is on it; a chip tells of the filter, and takes it away."""
    with Crowd(30, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        column(page, "host-2").get_by_role("link", name="host-2").click()
        expect(page).to_have_url(f"{crowd.url}/#/nodes/host-2")
        expect(page.locator("#table td.where")).to_have_text(["host-2"] * page.locator(ROWS).count())
        page.locator('[data-filter="running"]').click()
        expect(page).to_have_url(f"{crowd.url}/#/?node=host-2&status=running")
        page.reload()
        chip = page.get_by_role("button", name="node: host-2")
        chip.click()
        expect(chip).to_be_hidden()
        expect(page).to_have_url(f"{crowd.url}/#/?status=running")


def test_a_node_on_a_phone(browse: Browse) -> None:
    """The list of what is on it is shown, and Back leads to all."""
    with Crowd(12, 0) as crowd:
        page = browse(crowd.url, **PHONE).log_in(TOKEN)
        page.locator('[data-to="nodes"]').tap()
        page.get_by_role("link", name="host-2").tap()
        expect(page.locator(ROWS)).to_have_count(2)
        page.locator(ROWS).first.tap()
        expect(page.locator("#detail-name")).to_be_visible()
        page.go_back()
        expect(page.locator("#detail")).to_be_hidden()
        page.go_back()
        expect(page.locator(ROWS)).to_have_count(12)


def test_the_nodes_fold(browse: Browse, monkeypatch: pytest.MonkeyPatch) -> None:
    """One node alone is a line at first; what one chooses is kept for the tab."""
    monkeypatch.setattr(crowds, "NODES", 1)
    with Crowd(16, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        told = page.locator("#nodes-sum")
        expect(told).to_have_text("host-0: 2.5 GiB of 64 GiB reserved, 8 running")
        expect(page.locator("#map")).to_be_hidden()
        fold = page.get_by_role("button", name="Nodes")
        expect(fold).to_have_attribute("aria-expanded", "false")
        fold.click()
        expect(page.locator("#map")).to_be_visible()
        expect(told).to_have_text("1 node, all ready")
        page.reload()
        expect(page.locator("#map .machine").first).to_be_visible()
        monkeypatch.setattr(crowds, "NODES", 3)
        page.reload()
        fold.click()
        expect(told).to_have_text("3 nodes, all ready: 2.5 GiB of 192 GiB reserved, 8 running")


# Several at once


def box(page: Page, name: str) -> Any:
    return row(page, name).get_by_role("checkbox")


def test_several_are_selected_and_stopped(browse: Browse) -> None:
    """One, a range, none; the question names them; four are sent at a time, and the result is told."""
    with Crowd(20, 0) as crowd:
        crowd.answers["POST /stop"] = {"success": True, "id": "x"}
        page = browse(crowd.url).log_in(TOKEN)
        shown = names(page)
        row(page, shown[0]).hover()
        box(page, shown[0]).check()
        expect(page.locator("#detail")).to_be_hidden()
        box(page, shown[9]).click(modifiers=["Shift"])
        bar = page.get_by_role("region", name="Selection")
        expect(bar).to_contain_text("10 selected")
        box(page, shown[4]).uncheck()
        expect(bar).to_contain_text("9 selected")
        page.evaluate(COUNT_CALLS)
        bar.get_by_role("button", name="Stop 9…").click()
        expect(page.locator("#confirm-title")).to_have_text("Stop 9 services?")
        expect(page.locator("#confirm-text")).to_contain_text(", ".join([*shown[:4], shown[5]]) + " and 4 more")
        assert crowd.asked == []
        page.locator("#confirm-yes").click()
        expect(page.locator("#notice")).to_contain_text("9 stops accepted.")
        expect(page.locator("#confirm")).to_be_hidden()
        wanted = {one.id for one in crowd.services.values() if one.name in {*shown[:4], *shown[5:10]}}
        assert {msgspec.json.decode(body)["id"] for _, _, body in crowd.asked} == wanted
        assert len(crowd.asked) == 9
        assert page.evaluate("window.most") == 4


COUNT_CALLS = """() => {
  const real = window.fetch;
  let now = 0;
  window.most = 0;
  window.fetch = async (...call) => {
    window.most = Math.max(window.most, ++now);
    await new Promise((done) => setTimeout(done, 50));
    return real(...call).finally(() => { now -= 1; });
  };
}"""


def test_a_refused_stop_is_told(browse: Browse) -> None:
    """Which ones, and why, in the question; its button tries those again."""
    with Crowd(6, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        refused = {crowd.services[number].id for number in (1, 2)}

        def answer(route: Route) -> None:
            may = (route.request.post_data_json or {})["id"] not in refused
            body = {"success": True} if may else {"error": "the token is not its owner's", "code": 403}
            route.fulfill(status=200 if may else 403, json=body)

        page.route("**/stop", answer)
        page.get_by_role("checkbox", name="Select all that match").check()
        page.get_by_role("button", name="Stop 6…").click()
        page.locator("#confirm-yes").click()
        told = page.locator("#confirm-error")
        expect(told).to_contain_text("4 stops accepted.")
        expect(told).to_contain_text("transcode-00001, index-00002: the token is not its owner's")
        refused.clear()
        page.locator("#confirm-yes").click()
        expect(page.locator("#notice")).to_contain_text("2 stops accepted.")


def test_all_that_match_are_stopped(browse: Browse) -> None:
    """With a filter on; without one there is no such button. What has ended is removed."""
    with Crowd(30, 0) as crowd:
        crowd.answers["POST /stop"] = {"success": True, "id": "x"}
        page = browse(crowd.url, **PHONE).log_in(TOKEN)
        expect(page.locator("#stop-matching")).to_be_hidden()
        page.locator("#search").fill("team=red nothing")
        expect(page.locator("#empty")).to_be_visible()
        expect(page.locator("#stop-matching")).to_be_hidden()
        page.locator("#search").fill("team=red")
        ended = [one for one in crowd.services.values() if one.labels["team"] == "red" and one.status == "complete"]
        page.locator('[data-filter="complete"]').tap()
        page.get_by_role("button", name=f"Remove all {len(ended)}…").tap()
        expect(page.locator("#confirm-title")).to_have_text(f"Remove {len(ended)} services?")
        page.locator("#confirm-yes").tap()
        expect(page.locator("#notice")).to_contain_text(f"{len(ended)} stops accepted.")
        assert sorted(msgspec.json.decode(body)["id"] for _, _, body in crowd.asked) == [one.id for one in ended]


def test_what_ends_leaves_the_selection(browse: Browse) -> None:
    """What was removed cannot be stopped, so it is no longer selected."""
    with Crowd(4, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        page.get_by_role("checkbox", name="Select all that match").check()
        expect(page.locator("#selection")).to_contain_text("4 selected")
        gone = replace(crowd.services[2], status="removed", removed_at=stamp())
        say(crowd, "io.qmaster.service.removed", msgspec.structs.asdict(gone))
        expect(page.locator("#selection")).to_contain_text("3 selected")
        shows(page, crowd.services[3].name, crowd.services[3].status)
        page.get_by_role("button", name=re.compile("^Clear")).click()
        expect(page.locator("#selection")).to_be_hidden()


def test_all_that_match_are_stopped_in_the_swarm(swarm_shared: Server, browse: Browse) -> None:
    """Those of a label; what has another one goes on."""
    for name in ("one", "two"):
        run(swarm_shared, **NAP, name=f"batch-{name}", labels={"batch": "7"})
    run(swarm_shared, **NAP, name="other", labels={"batch": "8"})
    page = browse(swarm_shared.url).log_in(swarm_shared.token)
    page.locator("#search").fill("batch=7")
    shows(page, "batch-one", "running")
    shows(page, "batch-two", "running")
    page.get_by_role("button", name="Stop all 2…").click()
    page.get_by_role("button", name="Stop 2", exact=True).click()
    expect(page.locator("#notice")).to_contain_text("2 stops accepted.")
    expect(page.locator(ROWS)).to_have_count(0)
    page.get_by_role("button", name="Show all").click()
    shows(page, "other", "running")
