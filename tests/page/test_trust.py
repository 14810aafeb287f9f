"""What the status page tells of itself, and what it keeps: the banner while it is away, the token, the theme."""

import re
import time
from typing import Any

import msgspec
import pytest
from conftest import Browse
from msgspec.structs import replace
from page_cases import PHONE, link, row, say
from playwright.sync_api import Page, expect
from testbed import eventually
from testbed.crowd import EPOCH, TOKEN, Crowd, stamp

from qmaster.events import frames

STORED = "Object.keys(localStorage)"


# How current it is


def seconds(page: Page) -> int:
    """Those that the banner counts down to the next try; 0 while it tries."""
    found = re.search(r"Next try in (\d+) s", page.locator("#away").inner_text())
    return int(found[1]) if found else 0


def test_a_lost_stream_is_told(browse: Browse) -> None:
    """Since when, and when it is tried again: the seconds go down to a try. The data is grey, and nothing moves."""
    with Crowd(30, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        top = page.locator("#table").bounding_box()
        page.evaluate(KEEP_COUNTS)
        crowd.cut(away=True)
        banner = page.locator("#away")
        expect(banner).to_contain_text(re.compile(r"Not live since \d\d:\d\d:\d\d\. "))
        expect(page.locator("#live")).to_have_css("filter", re.compile("grayscale"))
        assert page.locator("#table").bounding_box() == top
        eventually(lambda: page.evaluate(FROM_THREE) is not None, 30, "it counts down from three to a try", every=0.2)
        assert 2 <= page.evaluate(FROM_THREE) < 6
        crowd.cut(away=False)
        link(page, "live")
        expect(banner).to_be_hidden()
        expect(page.locator("#live")).to_have_css("filter", "none")


KEEP_COUNTS = """() => {
  const away = document.getElementById('away');
  window.counts = []; // [seconds to the next try, when they were shown]
  new MutationObserver(() => {
    const left = Number(/in (\\d+) s/.exec(away.textContent)?.[1] ?? 0);
    if (left !== window.counts.at(-1)?.[0]) window.counts.push([left, performance.now()]);
  }).observe(away, {subtree: true, childList: true, characterData: true});
}"""
# The seconds that it took from 3, over 2 and 1, to the try; null where they were not shown so far.
FROM_THREE = """() => {
  const at = window.counts.findIndex((_, i) => [3, 2, 1, 0].every((left, k) => window.counts[i + k]?.[0] === left));
  return at < 0 ? null : (window.counts[at + 3][1] - window.counts[at][1]) / 1000;
}"""


def test_it_can_be_tried_at_once(browse: Browse) -> None:
    """By the banner's button, which waits for no second."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        crowd.cut(away=True)
        expect(page.locator("#away")).to_contain_text(re.compile(r"Next try in ([5-9]|1\d) s"))
        left, began = seconds(page), time.monotonic()
        crowd.away = False
        page.get_by_role("button", name="Try now").click()
        link(page, "live")
        assert time.monotonic() - began < left - 2


def test_stale_data_is_told(browse: Browse) -> None:
    """While the engine or the journal is away: since when; there is nothing to try."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        crowd.say(frames.heartbeat(f"{EPOCH}:1", stamp(), stamp(60)))
        expect(page.locator("#away")).to_contain_text("The engine or the journal is away.")
        expect(page.get_by_role("button", name="Try now")).to_be_hidden()
        crowd.say(frames.heartbeat(f"{EPOCH}:1", stamp(), None))
        expect(page.locator("#away")).to_be_hidden()


# What it keeps


def test_a_token_is_remembered_where_that_is_asked_for(browse: Browse) -> None:
    """On this device: another tab needs none. Signing out forgets it; without the box the tab alone keeps it."""
    with Crowd(3, 0) as crowd:
        visit = browse(crowd.url)
        box = visit.page.get_by_role("checkbox", name="Remember on this device")
        expect(box).not_to_be_checked()
        box.check()
        page = visit.log_in(TOKEN)
        assert page.evaluate(STORED) == ["quartermaster.token"]
        other = visit.context.new_page()
        other.goto(crowd.url)
        link(other, "live")
        page.get_by_role("button", name="Sign out").click()
        assert page.evaluate(STORED) == []
        other.evaluate("sessionStorage.clear()")
        other.reload()
        expect(other.get_by_label("Token")).to_be_visible()
        expect(box).not_to_be_checked()
        visit.log_in(TOKEN)
        assert page.evaluate(STORED) == []


BLOCKED = """for (const name of ['localStorage', 'sessionStorage']) {
  Object.defineProperty(window, name, { get() { throw new DOMException('blocked', 'SecurityError'); } });
}"""


def test_a_browser_that_keeps_nothing(browse: Browse) -> None:
    """Where it blocks its storage, the page works, and keeps for as long as it is open."""
    with Crowd(3, 0) as crowd:
        visit = browse(crowd.url)
        visit.context.add_init_script(BLOCKED)
        visit.page.reload()
        page = visit.log_in(TOKEN)
        page.get_by_label("Theme").select_option("dark")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.get_by_role("button", name="Nodes").click()
        expect(page.locator("#map")).to_be_hidden()
        row(page, crowd.services[0].name).get_by_role("link").click()
        expect(page.locator("#detail")).to_be_visible()
        page.locator("#detail-size").press("ArrowLeft")
        expect(page.locator("#detail-size")).to_have_attribute("aria-valuenow", "680")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()


def test_a_browser_whose_storage_is_full(browse: Browse) -> None:
    """What it does not keep holds for as long as the page is open."""
    with Crowd(3, 0) as crowd:
        visit = browse(crowd.url)
        visit.context.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('full'); }")
        visit.page.reload()
        page = visit.log_in(TOKEN)
        page.get_by_role("button", name="Nodes").click()
        expect(page.locator("#map")).to_be_hidden()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        assert page.evaluate("preferences.tab.get('token')") == ""


def test_a_refused_token_is_not_remembered(browse: Browse) -> None:
    """One that is no longer valid is forgotten as well."""
    with Crowd(3, 0) as crowd:
        visit = browse(crowd.url)
        visit.page.get_by_role("checkbox", name="Remember on this device").check()
        page = visit.log_in(TOKEN)
        crowd.refuses = True
        crowd.cut(away=False)
        expect(page.locator("#login-error")).to_contain_text("Wrong token")
        assert page.evaluate(STORED) == []


def test_password_managers_know_the_login(browse: Browse) -> None:
    """A name and a current password, in a form; the name is out of sight and of the way of Tab."""
    with Crowd(1, 0) as crowd:
        page = browse(crowd.url).page
        kinds = page.locator("#login input").evaluate_all("(all) => all.map(({autocomplete}) => autocomplete)")
        assert kinds[:2] == ["username", "current-password"]
        expect(page.get_by_label("Token")).to_have_attribute("type", "password")
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        expect(page.locator('[name="username"]')).not_to_be_focused()


SCHEME = "getComputedStyle(document.documentElement).colorScheme"


def test_a_theme_is_kept(browse: Browse) -> None:
    """Light, dark, or as the system is; it is there before the first element is."""
    with Crowd(3, 0) as crowd:
        visit = browse(crowd.url, color_scheme="light")
        page = visit.log_in(TOKEN)
        assert page.evaluate(SCHEME) == "light dark"
        page.get_by_role("combobox", name="Theme").select_option("dark")
        assert page.evaluate(SCHEME) == "dark"
        visit.context.add_init_script(FIRST_THEME)
        page.reload()
        link(page, "live")
        assert page.evaluate("window.first") == "dark"
        expect(page.get_by_role("combobox", name="Theme")).to_have_value("dark")
        page.get_by_role("combobox", name="Theme").select_option("")
        assert page.evaluate(SCHEME) == "light dark"
        assert page.evaluate(STORED) == []


FIRST_THEME = """new MutationObserver((seen, observer) => {
  if (!document.body) return;
  window.first = document.documentElement.dataset.theme;
  observer.disconnect();
}).observe(document, {childList: true, subtree: true})"""


# Links


def copied(page: Page) -> Any:
    return page.evaluate("navigator.clipboard.readText()")


def test_a_link_is_copied(browse: Browse) -> None:
    """Of a view with its filters, and of an opened run; by the button, or the key y."""
    with Crowd(12, 0) as crowd:
        visit = browse(crowd.url, permissions=["clipboard-read", "clipboard-write"])
        page = visit.log_in(TOKEN)
        page.locator("#search").fill("team=red")
        page.get_by_role("button", name="Copy link").click()
        expect(page.locator("#share")).to_have_text("Copied")
        assert copied(page) == f"{crowd.url}/#/?q=team%3Dred"
        page.locator("#table tbody a").first.click()
        name = page.locator("#detail-name").inner_text()
        expect(page.locator("#share")).to_have_text("Copy link")
        page.keyboard.press("y")
        expect(page.locator("#share")).to_have_text("Copied")
        assert copied(page) == f"{crowd.url}/#/runs/{name}"
        other = visit.context.new_page()
        other.goto(copied(page))
        other.get_by_label("Token").fill(TOKEN)
        other.get_by_role("button", name="Connect").click()
        expect(other.locator("#detail-name")).to_have_text(name)


def test_a_link_is_copied_without_a_clipboard(browse: Browse) -> None:
    """Over plain HTTP a page has none."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url, permissions=["clipboard-read"]).log_in(TOKEN)
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
        page.get_by_role("button", name="Copy link").click()
        expect(page.locator("#share")).to_have_text("Copied")
        assert copied(page) == f"{crowd.url}/"
        expect(page.locator("#share")).to_be_focused()


def test_the_title_tells_what_is_open(browse: Browse) -> None:
    """An opened run and its status; else the view, and how the swarm is."""
    with Crowd(8, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        expect(page).to_have_title("4 running · quartermaster")
        name = crowd.services[1].name
        row(page, name).get_by_role("link").click()
        expect(page).to_have_title(f"{name}: complete · quartermaster")
        page.go_back()
        expect(page).to_have_title("4 running · quartermaster")
        failed = replace(crowd.services[0], status="failed", exit_code=1)
        say(crowd, "io.qmaster.service.failed", msgspec.structs.asdict(failed))
        expect(page).to_have_title("3 running, 1 failed · quartermaster")


@pytest.mark.parametrize("address", ["#/nothing", "#/live/x", "#nothing/at/all", "#/%E0%A4%A"])
def test_an_unknown_address_leads_to_the_live_view(browse: Browse, address: str) -> None:
    """With all of it."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/{address}")
        expect(page.locator("#table tbody tr[data-is]")).to_have_count(3)
        expect(page.locator('[data-view="live"]')).to_have_attribute("aria-current", "page")


def test_the_content_is_a_key_away(browse: Browse) -> None:
    """The first stop of Tab skips the header; it does not change the address."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        page.reload()
        link(page, "live")
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.locator("#live")).to_be_focused()
        expect(page).to_have_url(f"{crowd.url}/")


@pytest.mark.parametrize("width", [360, 390, 801, 1100, 1440, 1920])
def test_it_fits_any_window(browse: Browse, width: int) -> None:
    """Nothing is wider than it, with the longest list of views and an opened run."""
    size = {"width": width, "height": 800}
    with Crowd(12, 0) as crowd:
        page = browse(crowd.url, **({**PHONE, "viewport": size} if width < 801 else {"viewport": size})).log_in(TOKEN)
        fits = "document.documentElement.scrollWidth <= innerWidth"
        assert page.evaluate(fits)
        page.locator("#table tbody a").first.click()
        expect(page.locator("#detail")).to_be_visible()
        assert page.evaluate(fits)
