"""The timeline: what it leaves out, what it folds, its order, its filter, and its pause."""

import itertools
from typing import Any

import msgspec
from conftest import Browse
from page_cases import IMAGE, Json, Judge, run
from playwright.sync_api import Page, expect
from testbed import Server
from testbed.crowd import EPOCH, TOKEN, Crowd, stamp

from qmaster.events import frames

_ids = itertools.count()
TIMES = "\u00d7 {}"


def tell(crowd: Crowd, number: int, word: str, at: float = 0, task: Json | None = None, **fields: Any) -> None:
    """An event of a service, that many seconds ago; with `task`, of that task."""
    service = {
        **msgspec.json.decode(msgspec.json.encode(crowd.services[number])),
        "reason": None,
        "exit_code": None,
        **fields,
    }
    kind = f"io.qmaster.{'task' if task else 'service'}.{word}"
    data = {**service, "task": {**service["tasks"][0], **task}} if task else service
    event = {"id": f"{EPOCH}:t{next(_ids)}", "type": kind, "subject": service["id"], "time": stamp(at), "data": data}
    crowd.say(frames.event(event["id"], kind, msgspec.json.encode(event)))


def lines(page: Page) -> Any:
    return page.locator("#timeline li p")


def restart(crowd: Crowd, number: int, restarts: int) -> None:
    """One attempt has failed, and the next one runs, as a listing may show both at once or one after the other."""
    last = {"exit_code": 1, "error": None, "finished_at": stamp()}
    if restarts % 2:
        tell(crowd, number, "updated", status="pending", restarts=restarts, last_exit=last)
    tell(crowd, number, "running", status="running", restarts=restarts, last_exit=last)


def test_a_service_that_restarts_has_one_line(browse: Browse) -> None:
    """With how often, and the last exit code; it opens to the times, and stays open as more come."""
    with Crowd(1, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        name = crowd.services[0].name
        expect(lines(page)).to_have_count(2)
        for number in range(1, 15):
            restart(crowd, 0, number)
        expect(lines(page)).to_have_text([f"{name} restarted, last exit 1", f"{name} running", f"{name} created"])
        folded = page.locator("#timeline summary")
        expect(folded).to_have_text(TIMES.format(14))
        expect(page.locator("#timeline details")).not_to_have_attribute("open", "")
        folded.click()
        page.mouse.move(0, 0)
        expect(page.locator("#timeline details")).to_contain_text(":")
        restart(crowd, 0, 15)
        expect(folded).to_have_text(TIMES.format(15))
        expect(page.locator("#timeline details")).to_have_attribute("open", "")


def test_a_service_that_restarted_before_says_how_often(browse: Browse) -> None:
    """As the snapshot tells it; and what comes is added."""
    with Crowd(1, 0) as crowd:
        last: Any = msgspec.convert({"exit_code": 7, "error": None, "finished_at": stamp(1)}, type=Any)
        told = msgspec.structs.replace(crowd.services[0], restarts=12, last_exit=last)
        crowd.services[0] = told
        page = browse(crowd.url).log_in(TOKEN)
        expect(lines(page).nth(2)).to_have_text(f"{told.name} restarted, last exit 7 {TIMES.format(12)}")
        restart(crowd, 0, 14)
        expect(page.locator("#timeline summary")).to_have_text(TIMES.format(14))


def test_what_is_no_restart_is_not_left_out(browse: Browse) -> None:
    """The end of a service that was restarted, why it waits, and that it runs again after its node was away."""
    with Crowd(1, 0) as crowd:
        crowd.services[0] = msgspec.structs.replace(crowd.services[0], restarts=1, started_at=None)
        page = browse(crowd.url).log_in(TOKEN)
        tell(crowd, 0, "updated", status="unknown", restarts=1)
        tell(crowd, 0, "running", status="running", restarts=1)
        tell(crowd, 0, "updated", status="pending", restarts=2, reason="unschedulable")
        tell(crowd, 0, "failed", status="failed", restarts=3, reason="exit", exit_code=3)
        words = page.locator("#timeline b")
        expect(words).to_have_text(["failed", "restarted", "pending", "running", "unknown", "created"])
        expect(lines(page).nth(2)).to_contain_text("unschedulable")


def test_tasks_are_shown_on_demand(browse: Browse) -> None:
    """The address has it, a reload keeps it, and a flood of tasks takes no room from services."""
    with Crowd(1, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        name = crowd.services[0].name
        expect(lines(page)).to_have_count(2)
        for slot in range(250):
            tell(crowd, 0, "running", task={"id": f"t{slot}", "slot": slot, "state": "running"})
        expect(page.locator("#rate")).to_have_text("252")
        expect(lines(page)).to_have_text([f"{name} running", f"{name} created"])
        page.locator("#changes-tasks").click()
        expect(page).to_have_url(f"{crowd.url}/#/?tasks=1")
        expect(page.locator("#timeline li").last).to_have_text("162 more")
        expect(lines(page).first).to_have_text(f"{name} task 249 running on host-0")
        page.reload()
        expect(page.locator("#changes-tasks")).to_have_attribute("aria-pressed", "true")
        page.locator("#changes-tasks").click()
        expect(page).to_have_url(f"{crowd.url}/#/")


def test_lines_out_of_sight_are_not_there(browse: Browse) -> None:
    """They come as the list is scrolled to them, to the oldest; at the top, the first ones alone are drawn again."""
    with Crowd(150, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        timeline = page.locator("#timeline")
        expect(lines(page)).to_have_count(40)
        for count in (80, 120, 160, 200):
            timeline.locator("li").last.scroll_into_view_if_needed()
            expect(lines(page)).to_have_count(count)
        expect(timeline).not_to_contain_text("more")
        timeline.evaluate("(list) => list.scrollTo(0, 0)")
        expect(lines(page)).to_have_count(40)


def test_it_is_in_the_order_of_time(browse: Browse) -> None:
    """What is told late has its place; of one moment, what was told last is the first."""
    with Crowd(4, 0) as crowd:
        for number in crowd.services:
            times = {"created_at": stamp(99), "started_at": None, "finished_at": None}
            crowd.services[number] = msgspec.structs.replace(crowd.services[number], status="pending", **times)
        page = browse(crowd.url).log_in(TOKEN)
        expect(lines(page)).to_have_count(4)
        for number, ago in ((0, 10), (1, 30), (2, 20), (3, 0)):
            tell(crowd, number, "running", at=ago, status="running")
        tell(crowd, 0, "stopping", at=200, status="stopping")
        names = [crowd.services[number].name for number in (3, 0, 2, 1)]
        expect(lines(page).filter(has_text="running")).to_have_text([f"{name} running" for name in names])
        expect(lines(page).nth(3)).to_have_text(f"{names[3]} running")
        expect(lines(page).last).to_have_text(f"{names[1]} stopping")


def test_words_filter_it(browse: Browse) -> None:
    """All of them, in whatever case; the address has them. It says so where nothing has them."""
    with Crowd(8, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        name = crowd.services[2].name
        expect(lines(page).filter(has_text="created")).to_have_count(8)
        page.get_by_label("Filter changes").fill(f"{name.upper()} CREATED")
        expect(lines(page)).to_have_text([f"{name} created"])
        page.reload()
        expect(lines(page)).to_have_text([f"{name} created"])
        page.get_by_label("Filter changes").fill("zebra")
        expect(page.locator("#timeline")).to_have_text("No change has these words.")
        page.get_by_label("Filter changes").fill("")
        expect(lines(page).filter(has_text="created")).to_have_count(8)
        expect(page).to_have_url(f"{crowd.url}/#/")


def test_it_can_be_paused(browse: Browse) -> None:
    """What is new, and wanted, is counted meanwhile, and there when it goes on."""
    with Crowd(2, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        expect(lines(page).filter(has_text="created")).to_have_count(2)
        shown = lines(page).count()
        page.get_by_role("button", name="Pause").click()
        for word in ("stopping", "removed"):
            tell(crowd, 0, word, status=word)
        tell(crowd, 0, "running", task={"state": "running"})
        expect(page.locator("#changes-note")).to_have_text("2 new")
        expect(lines(page)).to_have_count(shown)
        page.get_by_role("button", name="Resume").click()
        expect(lines(page)).to_have_count(shown + 2)
        expect(page.locator("#changes-note")).to_have_text("")


def test_nothing_moves_below_the_pointer(browse: Browse) -> None:
    """The list waits while the pointer is on it, and says how many are new."""
    with Crowd(2, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        expect(lines(page).filter(has_text="created")).to_have_count(2)
        shown = lines(page).count()
        page.locator("#timeline li").first.hover()
        tell(crowd, 0, "removed", status="removed")
        expect(page.locator("#changes-note")).to_have_text("1 new")
        expect(lines(page)).to_have_count(shown)
        page.mouse.move(0, 0)
        expect(lines(page)).to_have_count(shown + 1)


def test_another_who_signs_in_does_not_see_it(browse: Browse) -> None:
    """Also where it was paused."""
    with Crowd(1, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        expect(lines(page).first).to_contain_text(crowd.services[0].name)
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("button", name="Sign out").click()
        crowd.services.clear()
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Connect").click()
        expect(page.locator("#timeline")).to_have_text("Nothing has changed yet. What happens shows up here.")


def test_it_can_be_used_without_a_mouse_or_eyes(browse: Browse) -> None:
    """axe finds nothing serious, also in what is folded."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        for number in range(1, 4):
            restart(crowd, 0, number)
        expect(page.locator("#timeline summary")).to_have_text(TIMES.format(3))
        page.locator("#timeline summary").press("Enter")
        expect(page.locator("#timeline details")).to_have_attribute("open", "")
        assert Judge(page).serious() == []


def test_a_service_of_a_swarm_restarts(swarm_shared: Server, browse: Browse) -> None:
    """One line for all its restarts, however they are seen."""
    page = browse(swarm_shared.url).log_in(swarm_shared.token)
    fields: Json = {"restart": "any", "restart_delay": 1, "memory": 16}
    run(swarm_shared, image=IMAGE, command=["sh", "-c", "sleep 1; exit 3"], name="again", **fields)
    line = page.locator("#timeline li").filter(has_text="again restarted, last exit 3")
    expect(line.locator("summary")).to_have_text(TIMES.format(2))
    expect(line).to_have_count(1)
    expect(page.locator("#timeline li").filter(has_text="again running")).to_have_count(1)
