"""The status page's keyboard: one key for what is done often, and the command palette. All before the crowd."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Browse
from page_cases import VIEWS, Judge
from playwright.sync_api import Page, expect
from testbed.crowd import TOKEN, Crowd

DOCS = Path(__file__).parents[2] / "docs" / "page.md"
ROWS = "#table tbody tr[data-is]"


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def focused(page: Page) -> str:
    """The name of the row that the keyboard is on."""
    return page.locator("#table tr:focus-within bdi").inner_text()


BELOW_HEAD = """(row) => {
  const [head, here] = [document.querySelector('#table th'), row].map((each) => each.getBoundingClientRect());
  return here.top >= head.bottom - 1;
}"""


def test_rows_are_walked(browse: Browse) -> None:
    """j and k go down and up with a ring, also through rows that are not drawn yet; Enter opens; Esc closes."""
    with Crowd(300, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        names = page.locator("#table .name bdi").all_inner_texts()
        press(page, "j")
        assert focused(page) == names[0]
        press(page, "j", "j", "k")
        assert focused(page) == names[1]
        ring = page.locator("#table tr:focus-within").evaluate("(row) => getComputedStyle(row).outlineStyle")
        assert ring == "solid"
        for _ in range(60):
            press(page, "j")
        expect(page.locator("#table tr:focus-within")).to_have_attribute("aria-rowindex", "63")
        expect(page.locator("#table tr:focus-within")).to_be_in_viewport(ratio=1)
        for _ in range(50):
            press(page, "k")
        expect(page.locator("#table tr:focus-within")).to_have_attribute("aria-rowindex", "13")
        assert page.locator("#table tr:focus-within").evaluate(BELOW_HEAD)
        for _ in range(20):
            press(page, "k")
        assert focused(page) == names[0]
        expect(page.locator("#table tr:focus-within")).to_be_in_viewport(ratio=1)
        press(page, "Enter")
        expect(page.locator("#detail-name")).to_have_text(names[0])
        press(page, "Escape")
        expect(page.locator("#detail")).to_be_hidden()
        assert focused(page) == names[0]


def test_rows_are_selected(browse: Browse) -> None:
    """x selects the row of the keyboard, and again no longer; Esc clears the selection."""
    with Crowd(8, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        press(page, "j", "x", "j", "j", "x")
        expect(page.locator("#selection")).to_contain_text("2 selected")
        expect(page.locator(f"{ROWS} :checked")).to_have_count(2)
        press(page, "x")
        expect(page.locator("#selection")).to_contain_text("1 selected")
        press(page, "Escape")
        expect(page.locator("#selection")).to_be_hidden()


def test_esc_closes_what_is_on_top(browse: Browse) -> None:
    """The keys, the form, the palette; then an opened run, wherever the keyboard is; then the search."""
    with Crowd(8, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        press(page, "/")
        page.keyboard.type("team=red")
        press(page, "Tab", "j", "Enter")
        expect(page.locator("#detail")).to_be_visible()
        for key, dialog in (("?", "#keys"), ("r", "#form"), ("Control+k", "#palette")):
            press(page, key)
            expect(page.locator(dialog)).to_be_visible()
            press(page, "Escape")
            expect(page.locator(dialog)).to_be_hidden()
            expect(page.locator("#detail")).to_be_visible()
        page.locator(f"{ROWS} a").nth(1).focus()
        press(page, "Escape")
        expect(page.locator("#detail")).to_be_hidden()
        expect(page.locator("#search")).to_have_value("team=red")
        press(page, "Escape")
        expect(page.locator("#search")).to_have_value("")
        expect(page.locator(ROWS)).to_have_count(8)


def test_typed_letters_are_no_keys(browse: Browse) -> None:
    """In the search, in the form, and with a modifier they do nothing else."""
    with Crowd(8, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        press(page, "/")
        page.keyboard.type("jxr?gn/y")
        expect(page.locator("#search")).to_have_value("jxr?gn/y")
        press(page, "Escape")
        page.locator("#search").blur()
        press(page, "Alt+r", "Control+Shift+K")
        expect(page.locator("dialog[open]")).to_have_count(0)
        press(page, "r")
        page.locator("#field-image").fill("")
        page.keyboard.type("gh?/")
        expect(page.locator("#field-image")).to_have_value("gh?/")
        expect(page).to_have_url(f"{crowd.url}/#/")


def test_two_keys_lead_to_a_view(browse: Browse) -> None:
    """g and the first letter of its name."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        for link in page.locator("#views a").all():
            name = str(link.get_attribute("data-view"))
            press(page, "g", name[0])
            expect(link).to_have_attribute("aria-current", "page")
            expect(page.locator("main:visible")).to_have_id(name)
        press(page, "g", "l")
        expect(page.locator("main:visible")).to_have_id("live")


def test_the_keys_are_told(browse: Browse) -> None:
    """All of them, by ?; they are those of the documentation."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        press(page, "?")
        told = page.locator("#keys-list kbd").all_inner_texts()
        table = DOCS.read_text(encoding="utf-8").partition("| key | does |")[2].partition("\n\n")[0]
        assert told == re.findall(r"`([^`]+)`", "\n".join(line.split("|")[1] for line in table.splitlines()[2:]))


# The palette


def chosen(page: Page) -> Any:
    """The option that Enter takes, as a screen reader is told of it."""
    return page.locator(f"#{page.locator('#palette-input').get_attribute('aria-activedescendant')}")


def test_the_palette_leads_to_anything(browse: Browse) -> None:
    """By letters of its name in their order: a run, a node, a function, a view; and to a run that it does not know."""
    with Crowd(300, 0) as crowd:
        crowd.answers["GET /functions"] = {"success": True, "functions": [{"name": "thumbnails"}]}
        page = browse(crowd.url).log_in(TOKEN)
        where = {
            "trcd0217": "runs/transcode-00217",
            "host-4": "nodes/host-4",
            "thmb": "functions/thumbnails",
            "of long ago": "runs/of%20long%20ago",
            "live": "",
        }
        for typed, path in where.items():
            press(page, "Control+k")
            page.keyboard.type(typed)
            expect(page.locator("#palette-list li").first).to_be_visible()
            if typed == "thmb":
                expect(chosen(page)).to_contain_text("thumbnails")
            press(page, "Enter")
            expect(page).to_have_url(f"{crowd.url}/#/{path}")


def test_the_palette_is_a_combobox(browse: Browse) -> None:
    """The keyboard stays in the field; the arrows go through the options, around both ends."""
    with Crowd(30, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        page.get_by_role("button", name=re.compile("^Go to")).click()
        field = page.get_by_role("combobox", name="Run, function, node, view or action")
        field.fill("render")
        options = page.get_by_role("listbox", name="Results").get_by_role("option")
        count = options.count()
        expect(chosen(page)).to_have_attribute("aria-selected", "true")
        first = chosen(page).inner_text()
        press(page, "ArrowDown")
        assert chosen(page).inner_text() != first
        press(page, "ArrowUp", "ArrowUp")
        expect(options.nth(count - 1)).to_have_attribute("aria-selected", "true")
        expect(page.locator('#palette [aria-selected="true"]')).to_have_count(1)
        expect(field).to_be_focused()
        press(page, "ArrowDown")
        assert chosen(page).inner_text() == first
        name = options.nth(2).locator("bdi").inner_text()
        options.nth(2).click()
        expect(page.locator("#detail-name")).to_have_text(name)


def test_the_palette_acts(browse: Browse) -> None:
    """Run, stop what is opened, the theme, copy the link, sign out."""
    with Crowd(8, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)

        def act(words: str) -> None:
            press(page, "Control+k")
            page.keyboard.type(words)
            press(page, "Enter")

        act("run…")
        expect(page.locator("#form")).to_be_visible()
        press(page, "Escape")
        expect(page.locator("#form")).to_be_hidden()
        press(page, "j", "Enter")
        expect(page.locator("#stop")).to_be_visible()
        act("stop…")
        expect(page.locator("#confirm")).to_be_visible()
        press(page, "Escape")
        expect(page.locator("#confirm")).to_be_hidden()
        act("theme: dark")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        act("sign out")
        expect(page.get_by_label("Token")).to_be_visible()


LETTERS = """async () => {
  const input = document.getElementById('palette-input');
  const began = performance.now();
  for (const typed of ['t', 'tr', 'trc', 'trc0', 'trc09', 'trc', 'r', '']) {
    input.value = typed;
    input.dispatchEvent(new Event('input'));
    document.getElementById('palette-list').getBoundingClientRect();
  }
  return (performance.now() - began) / 8;
}"""


def test_the_palette_is_instant(browse: Browse, measured: Callable[[str], None]) -> None:
    """Before a thousand services a letter takes less than a tenth of a second."""
    with Crowd(1000, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        press(page, "Control+k")
        each = page.evaluate(LETTERS)
        measured(f"a letter in the palette takes {each:.1f} ms")
        assert each < 100


@pytest.mark.parametrize("view", VIEWS)
def test_the_palette_and_keys_are_usable_by_all(browse: Browse, view: str) -> None:
    """axe-core finds no serious fault; nor in a selection, nor while the page is away."""
    with Crowd(12, 0) as crowd:
        page = browse(crowd.url, **VIEWS[view]).log_in(TOKEN)
        judge, faults = Judge(page), {}
        page.get_by_role("button", name=re.compile("^Go to")).click()
        page.keyboard.type("e")
        faults["palette"] = judge.serious()
        press(page, "Escape")
        expect(page.locator("#palette")).to_be_hidden()
        press(page, "?")
        faults["keys"] = judge.serious()
        press(page, "Escape")
        expect(page.locator("#keys")).to_be_hidden()
        press(page, "j", "x")
        expect(page.locator("#selection")).to_be_visible()
        faults["selection"] = judge.serious()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        crowd.cut(away=True)
        expect(page.locator("#away")).to_be_visible()
        faults["away"] = judge.serious()
        assert faults == {name: [] for name in faults}
