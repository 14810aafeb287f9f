"""The view of numbers: charts of `GET /stats`, their values by pointer and keyboard, and how often it asks."""

import re
from typing import Any

import pytest
from conftest import Browse
from page_cases import IMAGE, VIEWS, Json, Judge, run
from playwright.sync_api import Page, expect
from testbed import Server
from testbed.browser import Visit
from testbed.crowd import TOKEN, Crowd

START = "2026-12-01T12:00:00Z"


def stats(minutes: int = 60, nodes: int = 2, **runs: Any) -> Json:
    """An answer of that many minutes, without runs but those given: a list's last numbers."""
    names = ("started", "complete", "failed", "stopped")
    nulls = ("duration_p50", "duration_p95", "queued_p50", "queued_p95")
    told = {**dict.fromkeys(names, ()), **dict.fromkeys(nulls, ()), **runs}
    return {
        "success": True,
        "interval": 60,
        "start": START,
        "runs": {
            name: [0 if name in names else None] * (minutes - len(last)) + list(last) for name, last in told.items()
        },
        "nodes": {f"host-{n}": {"memory_reserved": [None] + [512 * n] * (minutes - 1)} for n in range(nodes)},
        "functions": {},
    }


BUSY = stats(
    complete=(3, 0, 5), failed=(1, 0, 0), stopped=(0, 2, 0), duration_p50=(4.2, None, 0.31), duration_p95=(90, None, 9)
)


def opened(browse: Browse, crowd: Crowd, **options: Any) -> Page:
    page = browse(crowd.url, **options).log_in(TOKEN)
    page.get_by_role("link", name="Numbers").click()
    return page


def chart(page: Page, title: str) -> Any:
    return page.locator(".chart").filter(has=page.get_by_role("heading", name=title, exact=True))


def asked(crowd: Crowd) -> list[str]:
    """The queries of all questions for numbers."""
    return [query for call, query, _ in crowd.asked if call == "GET /stats"]


def test_the_charts_show_what_the_server_has_counted(browse: Browse) -> None:
    """Sums beside the colours, the highest value above; one bar for each number that is not 0."""
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /stats"] = BUSY
        page = opened(browse, crowd)
        ended = chart(page, "Runs that ended")
        expect(ended.locator(".legend .status")).to_have_text(["1 failed", "2 stopped", "8 complete"])
        expect(ended.locator("div > span")).to_have_text("5")
        bars = {is_: len(re.findall("M", d)) for is_, d in drawn(ended).items()}
        assert bars == {"failed": 1, "stopping": 1, "complete": 2}
        ran = chart(page, "How long they ran")
        expect(ran.locator("div > span")).to_have_text("1 min")
        expect(chart(page, "How long they waited").locator("div > span")).to_have_text("nothing in this time")
        expect(chart(page, "host-1").locator(".legend .status")).to_have_text("512 MiB reserved")
        assert asked(crowd) == ["minutes=60"]


def drawn(figure: Any) -> dict[str, str]:
    """What each list of a chart is drawn as, by its state."""
    paths = figure.locator("path[data-is]").all()
    return {path.get_attribute("data-is"): path.get_attribute("d") for path in paths}


def test_a_stack_is_as_high_as_its_sum(browse: Browse) -> None:
    """The failed lie on top of the complete: 3 and 1 of 5."""
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /stats"] = BUSY
        page = opened(browse, crowd)
        ended = chart(page, "Runs that ended")
        expect(ended.locator(".legend .status").first).to_have_text("1 failed")
        paths = drawn(ended)
        below = re.match(r"M57.1 ([\d.]+)v([-\d.]+)", paths["complete"])
        above = re.match(r"M57.1 ([\d.]+)v([-\d.]+)", paths["failed"])
        assert below
        assert above
        assert [float(below[1]), float(below[2])] == [pytest.approx(1), pytest.approx(-0.6)]
        assert [float(above[1]), float(above[2])] == [pytest.approx(0.4), pytest.approx(-0.2)]


def test_the_pointer_tells_the_values(browse: Browse) -> None:
    """Of the minute below it; without it the sums are back."""
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /stats"] = BUSY
        page = opened(browse, crowd, timezone_id="UTC")
        ended = chart(page, "Runs that ended")
        expect(ended.locator(".legend .status").first).to_have_text("1 failed")
        box = ended.locator("svg").bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] * 57.5 / 60, box["y"] + 40)
        expect(ended.locator(".legend .status")).to_have_text(["failed 1", "stopped 0", "complete 3"])
        expect(ended.locator(".legend > span").last).to_have_text("12:57")
        expect(ended.locator("path.cursor")).to_have_attribute("d", "M57.5 0V1")
        page.mouse.move(0, 0)
        expect(ended.locator(".legend .status")).to_have_text(["1 failed", "2 stopped", "8 complete"])
        expect(ended.locator("path.cursor")).to_have_attribute("d", "")


def test_the_keys_tell_the_values(browse: Browse) -> None:
    """Arrows move the cursor, Home and End to the ends; a screen reader hears each minute."""
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /stats"] = BUSY
        page = opened(browse, crowd, timezone_id="UTC")
        slider = page.get_by_role("slider", name="How long they ran")
        expect(slider).to_have_attribute("aria-valuetext", "12:59, p50 0.31 s, p95 9 s")
        slider.focus()
        ran = chart(page, "How long they ran")
        expect(ran.locator(".legend .status")).to_have_text(["p50 0.31 s", "p95 9 s"])
        page.keyboard.press("ArrowLeft")
        expect(slider).to_have_attribute("aria-valuetext", "12:58, p50 \u2013, p95 \u2013")
        page.keyboard.press("ArrowLeft")
        expect(ran.locator(".legend .status")).to_have_text(["p50 4.2 s", "p95 1 min"])
        page.keyboard.press("Home")
        expect(ran.locator("path.cursor")).to_have_attribute("d", "M0.5 0V1")


def test_the_time_is_in_the_address(browse: Browse) -> None:
    """A day has points of 15 minutes: of runs the sum, of the rest the highest. A reload keeps it."""
    with Crowd(3, 0) as crowd:
        day = stats(1440, complete=[2] * 20, duration_p95=[1.0, None, 7.0])
        crowd.answers["GET /stats"] = day
        page = opened(browse, crowd)
        expect(page.locator("#numbers-note")).to_have_text("Each point is a minute.")
        page.get_by_role("button", name="Day").click()
        expect(page).to_have_url(f"{crowd.url}/#/numbers?hours=24")
        expect(page.locator("#numbers-note")).to_contain_text("15 minutes")
        expect(chart(page, "Runs that ended").locator("div > span")).to_have_text("30")
        expect(chart(page, "How long they ran").locator("div > span")).to_have_text("7 s")
        expect(page.get_by_role("slider", name="Runs that ended")).to_have_attribute("max", "95")
        page.reload()
        expect(page.get_by_role("button", name="Day")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#numbers-note")).to_contain_text("15 minutes")
        assert asked(crowd) == ["minutes=60", "minutes=1440", "minutes=1440"]


def test_it_asks_once_a_minute_while_it_is_shown(browse: Browse) -> None:
    """And not in another view."""
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /stats"] = stats()
        visit = browse(crowd.url)
        visit.page.clock.install()
        visit.page.reload()
        page = visit.log_in(TOKEN)
        page.get_by_role("link", name="Numbers").click()
        expect(page.locator("#numbers-note")).to_have_text("Each point is a minute.")
        page.clock.run_for(30_000)
        assert len(questions(visit)) == 1
        crowd.answers["GET /stats"] = stats(complete=[7])
        page.clock.run_for(36_000)
        expect(chart(page, "Runs that ended").locator(".status").last).to_have_text("7 complete")
        assert len(questions(visit)) == 2
        page.locator("#views").get_by_role("link", name="Live").click()
        page.clock.run_for(130_000)
        assert len(questions(visit)) == 2


def questions(visit: Visit) -> list[str]:
    """All that the page has sent to ask for numbers."""
    visit.page.evaluate("0")  # what it has sent by now is told
    return [url for url in visit.requests if "/stats" in url]


def test_nothing_is_there_yet(browse: Browse) -> None:
    """It says so; a token that sees no nodes has no place for them."""
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /stats"] = stats(nodes=0)
        page = opened(browse, crowd)
        for title in ("Runs that ended", "How long they ran", "How long they waited"):
            expect(chart(page, title).locator("div > span")).to_have_text("nothing in this time")
        expect(page.locator("#node-memory")).to_be_hidden()


def test_a_node_that_is_gone_goes(browse: Browse) -> None:
    """With the answer that has it no more; its name is text."""
    name = "<img src=x onerror=alert(1)>"
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /stats"] = {**stats(), "nodes": {name: {"memory_reserved": [1] * 60}}}
        page = opened(browse, crowd)
        expect(chart(page, name)).to_have_count(1)
        crowd.answers["GET /stats"] = stats(360)
        page.get_by_role("button", name="6 hours").click()
        expect(chart(page, "host-0")).to_have_count(1)
        expect(chart(page, name)).to_have_count(0)
        assert page.locator("#numbers img").count() == 0


@pytest.mark.parametrize("view", VIEWS)
def test_it_can_be_used_without_a_mouse_or_eyes(browse: Browse, view: str) -> None:
    """axe finds nothing serious, and nothing is wider than the screen."""
    with Crowd(3, 0) as crowd:
        crowd.answers["GET /stats"] = BUSY
        page = opened(browse, crowd, **VIEWS[view])
        expect(chart(page, "host-1")).to_be_visible()
        assert Judge(page).serious() == []
        page.set_viewport_size({"width": 360, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_numbers_of_a_swarm(swarm_shared: Server, browse: Browse) -> None:
    """A run that has ended is counted, and each node has a chart."""
    for command in ("true", "false"):
        run(swarm_shared, image=IMAGE, command=command, memory=16, wait=30)
    page = browse(swarm_shared.url).log_in(swarm_shared.token)
    page.get_by_role("link", name="Numbers").click()
    expect(chart(page, "Runs that ended").locator(".status")).to_have_text(["1 failed", "0 stopped", "1 complete"])
    expect(page.locator("#node-charts .chart")).to_have_count(3)


def test_another_who_signs_in_sees_nothing_of_it(browse: Browse) -> None:
    """It is asked at once, not after a minute; until then no chart is shown."""
    with Crowd(1, 0) as crowd:
        crowd.answers["GET /stats"] = BUSY
        page = opened(browse, crowd)
        expect(chart(page, "Runs that ended")).to_contain_text("8 complete")
        page.get_by_role("button", name="Sign out").click()
        assert page.locator("#charts, #node-memory").evaluate_all("all => all.every(({ hidden }) => hidden)")
        crowd.answers["GET /stats"] = stats(complete=(1,), nodes=0)
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Connect").click()
        expect(chart(page, "Runs that ended")).to_contain_text("1 complete")
