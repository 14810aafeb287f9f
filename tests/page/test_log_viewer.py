"""The output of a run: what terminals make of it, search, follow, a hundred thousand lines, and hostile ones."""

import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Browse
from page_cases import IMAGE, PAYLOAD, VIEWS, Judge, Meter, run
from playwright.sync_api import Page, expect
from testbed import Server, eventually
from testbed.crowd import TOKEN, Crowd

Line = str | dict[str, Any]

# What is written, and what is seen of it.
SEEN = {
    "": "",
    "plain é ✓ 😀": "plain é ✓ 😀",
    "\x1b[31mred\x1b[0m \x1b[1;4;38;5;208mmany\x1b[m": "red many",
    "\x1b[>4;2m\x1b[?25l\x1b[2J\x1b[10;10Hscreen\x1b[ q\x1b[6n": "screen",
    "\x1b]0;title\x07a\x1b]2;title\x1b\\b\x9d0;title\x9cc": "abc",
    "\x1b]8;;https://example.com\x1b\\link\x1b]8;;\x1b\\ after": "link after",
    "\x1bPq#0;2;0\x1b\\a\x1b^private\x1b\\b\x1b_program\x1b\\c\x1bXstring\x1b\\d": "abcd",
    "\x90dcs\x9ca\x98sos\x9cb\x9epm\x9cc\x9fapc\x9cd": "abcd",
    "\x1b(B\x1b)0\x1b*A\x1b#8\x1b7\x1b8\x1bc\x1b=\x1b>charsets": "charsets",
    "\x9b1;31mC1\x9b0m\x85\x84": "C1",
    # Cut at the end, or broken off: no text is lost.
    "cut\x1b": "cut",
    "cut\x1b[": "cut",
    "cut\x1b[38;5": "cut",
    "a\x1b[31\x1b[32mb": "ab",
    "a\x1b[3éb": "aéb",
    "a\x1b]0;no end": "a0;no end",
    "a\x1bPno end\x1b[1mb": "ano endb",
    "a\x1b]0;stopped\x18b\x1b_stopped\x1ac": "abc",
    # Controls, and the direction of text.
    "a\0b\x07c\x0bd\x7fe": "a␀b␇c␋d␡e",
    "tab\there": "tab\there",
    "safe \u202eexe.txt\u202c \u2066x\u2069 a\u2028b": "safe <U+202E>exe.txt<U+202C> <U+2066>x<U+2069> a<U+2028>b",
    PAYLOAD: PAYLOAD,
    # What is written over.
    "windows\r": "windows",
    " 10 %\r 20 %\r100 %": "100 %",
    "long text\rshort": "shorttext",
    "long text\r\x1b[Kshort": "short",
    "\x1b[2K\r\x1b[1Gready": "ready",
    "abc\x1b[2D\x1b[1Kd": " dc",
    "abc\x1b[?1;31K\x1b[ Kd": "   d",
    "abc\b\bX\b\b\b\b\bY": "YXc",
    "😀😀\rab": "ab",
}
# What is written, and its runs: text and style.
STYLED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "a\x1b[1mb\x1b[22mc": [("a", {}), ("b", {"bold": True}), ("c", {})],
    "\x1b[2;3;4;7;9mx\x1b[22;23;24;27;29my": [
        ("x", {"faint": True, "italic": True, "under": True, "inverse": True, "strike": True}),
        ("y", {}),
    ],
    "\x1b[5;6;8;25;28mx": [("x", {})],
    "\x1b[21mx\x1b[4:0my\x1b[4:3mz": [("x", {"under": True}), ("y", {"under": False}), ("z", {"under": True})],
    "\x1b[31;42mx\x1b[39my\x1b[49mz": [("x", {"fg": "#c33", "bg": "#196"}), ("y", {"bg": "#196"}), ("z", {})],
    "\x1b[91;102mx": [("x", {"fg": "#f44", "bg": "#2c8"})],
    "\x1b[38;5;9mx\x1b[48;5;16my": [("x", {"fg": "#f44"}), ("y", {"fg": "#f44", "bg": "rgb(0,0,0)"})],
    "\x1b[38;5;208;1mx": [("x", {"fg": "rgb(255,135,0)", "bold": True})],
    "\x1b[38;5;232mx\x1b[38;5;255my": [("x", {"fg": "rgb(8,8,8)"}), ("y", {"fg": "rgb(238,238,238)"})],
    "\x1b[38;2;1;2;3;1mx": [("x", {"fg": "rgb(1,2,3)", "bold": True})],
    "\x1b[38:2::1:2:3;48:2:4:5:6mx": [("x", {"fg": "rgb(1,2,3)", "bg": "rgb(4,5,6)"})],
    "\x1b[58;5;1mx\x1b[58:2::1:2:3my": [("x", {"line": "#c33"}), ("y", {"line": "rgb(1,2,3)"})],
    "\x1b[1m\x1b[mx\x1b[3m\x1b[0my": [("x", {}), ("y", {})],
    "\x1b[31mab\rc": [("cb", {"fg": "#c33"})],
    "\x1b[31mab\x1b[0m\rc": [("c", {}), ("b", {"fg": "#c33"})],
}


def ansi(page: Page, call: str, argument: Any) -> Any:
    """What a function of ansi.js returns; ``call`` uses it as ``ansi``, and ``given``."""
    script = f"async (given) => {{ const ansi = await import('./static/ansi.js'); return {call}; }}"
    return page.evaluate(script, argument)


def output(lines: Iterable[Line]) -> bytes:
    """NDJSON as `/logs` answers: a line of text, or the fields that are not as usual."""
    made = []
    for number, line in enumerate(lines):
        fields = {"line": line} if isinstance(line, str) else line
        at = f"{datetime(2026, 12, 1, 12, tzinfo=UTC) + timedelta(seconds=number):%Y-%m-%dT%H:%M:%S}.000000007Z"
        made.append({"time": at, "stream": "stdout", "node": "host-1", "task": "task1", **fields})
    return b"".join(msgspec.json.encode(line) + b"\n" for line in made)


def opened(browse: Browse, crowd: Crowd, **options: Any) -> Page:
    """The page, with the first run open."""
    page = browse(crowd.url, **options).log_in(TOKEN)
    page.goto(f"{crowd.url}/#/runs/{crowd.services[0].name}")
    expect(page.locator("#log p").first).to_be_visible()
    return page


def rows(page: Page) -> Any:
    return page.locator("#log p")


def state(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator("#log-state")).to_have_text(text)


def press(page: Page, name: str) -> None:
    page.locator(f'[data-log="{name}"]').click()


def at_end(page: Page) -> None:
    """Wait until the box is scrolled to its end."""
    becomes(page, END)


END = "(box => box.scrollHeight - box.scrollTop - box.clientHeight < 4)(document.querySelector('#log'))"


def becomes(page: Page, true: str) -> None:
    """Wait until an expression is true; the page's policy forbids Playwright's own way."""
    eventually(lambda: page.evaluate(true), 6, true, every=0.1)


# What a line is


def test_a_line_is_what_a_terminal_shows(browse: Browse) -> None:
    """Sequences are gone, no text with them; what was written over is gone; the text alone is the same."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).page
        shown = ansi(page, "given.map(line => ansi.parse(line).runs.map(({ text }) => text).join(''))", list(SEEN))
        assert dict(zip(SEEN, shown, strict=True)) == SEEN
        assert ansi(page, "given.map(ansi.plain)", list(SEEN)) == list(SEEN.values())


def test_styles(browse: Browse) -> None:
    """SGR in all its ways to write colours; what is not known changes nothing."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).page
        found = ansi(page, "given.map(line => ansi.parse(line).runs)", list(STYLED))
        told = [[(run["text"], run["style"]) for run in runs] for runs in found]
        assert dict(zip(STYLED, told, strict=True)) == STYLED


def test_a_long_line_is_cut(browse: Browse) -> None:
    """Its beginning is parsed; of a progress bar, the end. Sequences without end take no time."""
    with Crowd(3, 0) as crowd:
        page = browse(crowd.url).page
        lines = ["x" * 8192, "x" * 8193, "".join(f"{n:5} %\r" for n in range(5000))]
        whole, cut, bar = ansi(page, "given.map(line => ansi.parse(line))", lines)
        assert (whole["cut"], len(whole["runs"][0]["text"])) == (False, 8192)
        assert (cut["cut"], len(cut["runs"][0]["text"])) == (True, 8192)
        assert (bar["cut"], bar["runs"][0]["text"]) == (True, " 4999 %")
        assert ansi(page, HOSTILE, list(ENDLESS)) < 5000


ENDLESS = ("\x1b]", "\x9d", "\x1b[3", "\x1b[999999999C", "\x1b[", "\b\r", "\r", "\x1b[38;2m")
# Milliseconds; the strings are made in the page, as it takes long to bring them there.
HOSTILE = """(() => {
  const lines = [...given.map((code) => `${code.repeat(300_000)}x`), '\x1b]' + 'x'.repeat(1_000_000)];
  const begun = performance.now();
  for (const line of lines) [ansi.parse(line), ansi.plain(line)];
  return performance.now() - begun;
})()"""


CONTRASTS = """async (styles) => {
  const { css } = await import('./static/ansi.js');
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const row = document.querySelector('#log p').appendChild(document.createElement('span'));
  const light = (colour) => {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const parts = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255);
    const linear = parts.map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05;
  };
  const paper = getComputedStyle(document.querySelector('#log')).backgroundColor;
  return styles.map((style) => {
    row.style.cssText = css(style);
    const { color, backgroundColor } = getComputedStyle(row);
    const [a, b] = [light(color), light(style.bg || style.inverse ? backgroundColor : paper)];
    return Math.max(a / b, b / a);
  });
}"""


@pytest.mark.parametrize("view", ["light", "dark"])
def test_every_colour_can_be_read(browse: Browse, view: str) -> None:
    """On the page's paper, and on every background, also its own colour: a contrast of 4.5."""
    numbers = "".join(f"\x1b[38;5;{number}mx" for number in range(256))
    with Crowd(3, 0, logs=output(["x"])) as crowd:
        page = opened(browse, crowd, **VIEWS[view])
        colours = [run["style"]["fg"] for run in ansi(page, "ansi.parse(given).runs", numbers)]
        styles = [{"fg": colour} for colour in colours] + [{"fg": colour, "bg": colour} for colour in colours]
        styles += [{"inverse": True}] + [{"fg": colour, "inverse": True} for colour in colours]
        found = page.evaluate(CONTRASTS, styles)
        assert [(style, contrast) for style, contrast in zip(styles, found, strict=True) if contrast < 4.5][:9] == []


# What comes in


def test_a_hostile_log(browse: Browse) -> None:
    """All of it is text: markup, sequences, directions, lines of 1 MiB; nothing runs, and the page stays quick."""
    mib = "<b>x</b>" * 131_072
    lines = [
        PAYLOAD,
        *SEEN,
        "\x1b[31;1m" + mib,
        "\x1b]0;" + mib,
        "\u202e" * 9000,
        mib,
        "\x1b[9999999C" * 900,
        "the end",
    ]
    with Crowd(3, 0, logs=output(lines)) as crowd:
        page = opened(browse, crowd)
        elements = page.locator("img, script").count()
        at_end(page)
        expect(rows(page).last).to_have_text("the end")
        expect(page.get_by_role("button", name="1,048,576 characters: show all").last).to_be_attached()
        assert rows(page).nth(-3).evaluate("row => row.firstChild.data.length") == 8192
        page.locator("#log").press("Home")
        expect(rows(page).first).to_have_text(PAYLOAD)
        shown = rows(page).all_text_contents()[1:20]
        assert shown == list(SEEN.values())[:19]
        assert page.locator("img, script").count() == elements
        assert page.locator("#log b").count() == 0


SHOWN = """async (text) => {
  const { lines, joined } = await import('./static/lines.js');
  const first = lines.findIndex((line) => line.text.startsWith(text.slice(0, 100)) && !line.joins);
  return [lines.slice(first, first + joined + 1).map((line) => line.text).join('') === text, joined, lines.at(-1).text];
}"""
LONGEST_ROW = "Math.max(...[...document.querySelectorAll('#log p')].map((row) => row.textContent.length))"


@pytest.mark.parametrize(
    "text", ["words and words " * 65_536, "\x1b[31mr\x1b[32mg" * 104_858], ids=["plain", "colours"]
)
def test_all_of_a_long_line(browse: Browse, text: str, measured: Callable[[str], None]) -> None:
    """Its parts follow each other, no other line moves; only those in sight are drawn; in a file, they are one line."""
    shown = text.replace("\x1b[31m", "").replace("\x1b[32m", "")
    with Crowd(3, 0, logs=output(["before", text, "the end"])) as crowd:
        page = opened(browse, crowd)
        expect(rows(page).last).to_have_text("the end")
        meter = Meter(page)
        before = meter.read()["TaskDuration"]
        page.get_by_role("button", name="show all").click()
        eventually(lambda: page.evaluate(SHOWN, shown)[0], 30, "all of it is there")
        measured(f"{meter.read()['TaskDuration'] - before:.2f} s of the main thread")
        is_whole, parts, last = page.evaluate(SHOWN, shown)
        assert (is_whole, last) == (True, "the end")
        assert parts >= len(shown) / 16_384
        page.locator("#log").press("Home")
        expect(rows(page).first).to_have_text("before")
        assert page.evaluate(LONGEST_ROW) <= 16_384
        assert page.evaluate("document.querySelectorAll('#log *').length") < 10_000
        state(page, "that is all")
        with page.expect_download() as download:
            press(page, "download")
        assert Path(download.value.path()).read_text(encoding="utf-8") == f"before\n{shown}\nthe end\n"
        page.locator("#log-search").fill("the end")
        expect(page.locator("#log-found")).to_have_text("1")
        page.keyboard.press("Enter")
        expect(page.locator("#log mark")).to_have_text(["the end"])


def test_a_hundred_thousand_lines(browse: Browse, measured: Callable[[str], None]) -> None:
    """Few of them are in the document; a screen further costs little; the oldest go, which is told."""
    many = output(f"\x1b[3{n % 8}mline {n}\x1b[0m " + "words " * (n % 40) for n in range(100_000))
    with Crowd(3, 0) as crowd:
        crowd.writing = True
        crowd.written.append(many)
        page = opened(browse, crowd)
        expect(rows(page).last).to_contain_text("line 99999 ")
        assert rows(page).count() < 150
        meter = Meter(page)
        before = meter.read()
        page.locator("#log").evaluate(SCROLL, 60)
        each = (meter.read()["TaskDuration"] - before["TaskDuration"]) / 60
        measured(f"a screen of 100,000 lines costs {1000 * each:.1f} ms, with {before['JSHeapUsedSize'] / 1e6:.0f} MB")
        assert each < 0.1
        page.locator("#log").press("Home")
        expect(rows(page).first).to_contain_text("line 0 ")
        crowd.written.append(output(["one more"]))
        state(page, "following; the first 5,001 lines were dropped")
        expect(rows(page).first).to_contain_text("line 5001 ")
        page.locator("#log").press("End")
        expect(rows(page).last).to_have_text("one more")


SCROLL = """async (box, screens) => {
  for (let i = 0; i < screens; i++) {
    box.scrollTop -= box.clientHeight;
    await new Promise(requestAnimationFrame);
  }
}"""


def test_five_thousand_lines_a_second(browse: Browse, measured: Callable[[str], None]) -> None:
    """They are followed, and the page has time for other things."""
    with Crowd(3, 0) as crowd:
        crowd.writing, crowd.flood = True, 5000
        page = opened(browse, crowd)
        meter = Meter(page)
        before, began = meter.read(), time.monotonic()
        longest = page.evaluate(LONGEST_PAUSE)
        busy = (meter.read()["TaskDuration"] - before["TaskDuration"]) / (time.monotonic() - began)
        measured(f"5,000 lines a second: {100 * busy:.0f} % of the main thread, {longest:.0f} ms without an answer")
        assert busy < 0.8
        assert longest < 1500
        at_end(page)
        assert int(str(rows(page).last.text_content()).split()[1]) > 10_000


LONGEST_PAUSE = """async () => {
  const end = performance.now() + 5000;
  let [longest, last] = [0, performance.now()];
  while (last < end) {
    await new Promise((go) => setTimeout(go));
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }
  return longest;
}"""


def test_parts_of_a_line_are_joined(browse: Browse) -> None:
    """Of each stream and task by itself; an unfinished last line too."""
    with Crowd(3, 0) as crowd:
        crowd.writing = True
        crowd.written.append(output([{"line": "begin ", "partial": True}, {"line": "other", "stream": "stderr"}]))
        page = opened(browse, crowd)
        expect(rows(page)).to_have_text(["begin ", "other"])
        crowd.written.append(output(["and end", "next"]))
        expect(rows(page)).to_have_text(["begin and end", "other", "next"])


def test_tasks_are_read_in_the_order_of_time(browse: Browse) -> None:
    """Though one comes after the other; a message of quartermaster's own, which has no time, stays where it is."""
    times = [f"2026-12-01T12:00:0{n}.000000000Z" for n in range(6)]
    lines: list[Line] = [
        {"line": f"line {n}", "time": times[n], "task": ("even1", "odd22")[n % 2]} for n in (0, 2, 4, 1, 3, 5)
    ]
    lines.insert(2, {"line": "note", "time": None, "stream": "qmaster", "task": None})
    with Crowd(3, 0, logs=output(lines)) as crowd:
        page = opened(browse, crowd)
        expect(rows(page)).to_have_text(["line 0", "line 1", "line 2", "note", "line 3", "line 4", "line 5"])
        labels = rows(page).evaluate_all("rows => rows.map((row) => row.dataset.source ?? '')")
        assert labels == ["even", "odd2", "even", "", "odd2", "even", "odd2"]


def test_there_is_none(browse: Browse) -> None:
    """None yet, none at all, none that can be read, and one that was cut off: each is told, and can be read again."""
    with Crowd(3, 0) as crowd:
        crowd.writing = True
        page = browse(crowd.url).log_in(TOKEN)
        page.goto(f"{crowd.url}/#/runs/{crowd.services[0].name}")
        state(page, "no output yet")
        crowd.writing = False
        state(page, "none")
        press(page, "again")
        state(page, "none here; docker service logs may have it")
        crowd.writing = True
        crowd.written.append(output(["so far"]))
        press(page, "again")
        state(page, "following")
        expect(page.locator('[data-log="again"]')).to_be_hidden()
        crowd.written.append(b"not JSON\n")
        state(page, "it was cut off")
        expect(rows(page)).to_have_text(["so far"])
        expect(page.locator('[data-log="again"]')).to_be_visible()


# What is done with it


def test_search(browse: Browse) -> None:
    """In all lines that are loaded: count, next, previous, whatever the case and the colour."""
    lines = [f"line {n}" + (" \x1b[31mNeedle\x1b[0m (a.b*" if n % 50 == 7 else "") for n in range(200)]
    with Crowd(3, 0, logs=output(lines)) as crowd:
        page = opened(browse, crowd)
        page.locator("#log").focus()
        page.keyboard.press("/")
        expect(page.locator("#log-search")).to_be_focused()
        found, gone_to = page.locator("#log-found"), page.locator("#log [aria-current]")
        page.keyboard.type("nEEDLE")
        expect(found).to_have_text("4")
        page.keyboard.press("Enter")
        expect(found).to_have_text("1 of 4")
        expect(gone_to).to_contain_text("line 7 ")
        expect(gone_to).to_be_in_viewport()
        expect(gone_to.locator("mark")).to_have_text(["Needle"])
        page.keyboard.press("Shift+Enter")
        expect(found).to_have_text("4 of 4")
        expect(gone_to).to_contain_text("line 157 ")
        press(page, "next")
        expect(found).to_have_text("1 of 4")
        page.locator("#log").focus()
        page.keyboard.press("n")
        page.keyboard.press("n")
        expect(gone_to).to_contain_text("line 107 ")
        page.keyboard.press("N")
        expect(gone_to).to_contain_text("line 57 ")
        page.keyboard.press("g")
        page.keyboard.press("n")
        expect(page).to_have_url(re.compile("#/numbers"))
        page.go_back()
        page.locator("#log-search").fill("needle")
        page.locator("#log-search").fill("(A.b*")
        expect(found).to_have_text("4")
        page.locator("#log-search").fill("nowhere")
        expect(found).to_have_text("0")
        expect(page.locator('[data-log="next"]')).to_be_disabled()
        page.keyboard.press("Escape")
        expect(found).to_have_text("")
        expect(page.locator("#log")).to_be_focused()
        expect(page.locator("#log mark")).to_have_count(0)
        expect(page.locator("#detail")).to_be_visible()


def test_a_match_deep_in_a_long_line(browse: Browse) -> None:
    """All of the line is shown where its beginning has no match; the matches before and after it keep their order."""
    with Crowd(3, 0, logs=output(["needle one", "x" * 20_000 + "needle", "needle two"])) as crowd:
        page = opened(browse, crowd)
        page.locator("#log").press("Home")
        page.locator("#log-search").fill("needle")
        expect(page.locator("#log-found")).to_have_text("3")
        for number in (1, 2, 3):
            page.keyboard.press("Enter")
            expect(page.locator("#log-found")).to_have_text(f"{number} of 3")
            expect(page.locator("#log [aria-current] mark")).to_have_text("needle")


def test_all_of_a_line_that_shows_nothing(browse: Browse) -> None:
    """It stays a line."""
    with Crowd(3, 0, logs=output(["before", "\x1b[31m" * 3000, "the end"])) as crowd:
        page = opened(browse, crowd)
        page.get_by_role("button", name="show all").click()
        expect(page.get_by_role("button", name="show all")).to_have_count(0)
        expect(rows(page)).to_have_count(3)
        with page.expect_download() as download:
            press(page, "download")
        assert Path(download.value.path()).read_text(encoding="utf-8") == "before\n\nthe end\n"


def test_a_match_across_the_parts_of_a_line(browse: Browse) -> None:
    """It is still counted once all of the line is shown, and leads to the line."""
    with Crowd(3, 0, logs=output(["needle one", "x" * 8_189 + "needle" + "x" * 9_000])) as crowd:
        page = opened(browse, crowd)
        page.get_by_role("button", name="show all").click()
        expect(page.get_by_role("button", name="show all")).to_have_count(0)
        page.locator("#log-search").fill("needle")
        expect(page.locator("#log-found")).to_have_text("1")
        page.locator("#log-search").fill("")
    with Crowd(3, 0, logs=output(["needle one", "x" * 8_189 + "needle" + "x" * 9_000])) as crowd:
        page = opened(browse, crowd)
        page.locator("#log-search").fill("needle")
        expect(page.locator("#log-found")).to_have_text("2")
        page.get_by_role("button", name="show all").click()
        expect(page.get_by_role("button", name="show all")).to_have_count(0)
        expect(page.locator("#log-found")).to_have_text("2")


def test_wrap_and_times(browse: Browse) -> None:
    """Long lines are wrapped or not; times are local, and whole where the pointer is. What is in sight stays."""
    lines = [f"line {n} " + "words " * 60 for n in range(150)]
    with Crowd(3, 0, logs=output(lines)) as crowd:
        page = opened(browse, crowd, timezone_id="Asia/Tokyo")
        expect(rows(page).last).to_contain_text("line 149 ")
        high = rows(page).last.evaluate("row => row.offsetHeight")
        press(page, "wrap")
        becomes(page, "document.querySelector('#log').scrollWidth > document.querySelector('#log').clientWidth")
        assert rows(page).last.evaluate("row => row.offsetHeight") < high / 3
        at_end(page)
        page.locator("#log").evaluate("box => (box.scrollTop = box.scrollHeight / 2)")
        first = upper(page)
        press(page, "wrap")
        becomes(page, "document.querySelector('#log p')?.offsetHeight > 30")
        assert abs(upper(page) - first) <= 1
        press(page, "times")
        last = rows(page).last
        expect(last).to_have_attribute("title", re.compile(r"2026-12-01T12:\d\d:\d\d\.\d{9}Z"))
        shown = last.evaluate("row => getComputedStyle(row, '::before').content + row.dataset.time")
        assert re.search(r"21:\d\d:\d\d", shown), shown


def upper(page: Page) -> int:
    """The number of the uppermost line in sight."""
    return int(page.evaluate(UPPER))


UPPER = """() => {
  const { top } = document.querySelector('#log').getBoundingClientRect();
  const row = [...document.querySelectorAll('#log p')].find((one) => one.getBoundingClientRect().bottom > top + 2);
  return row.textContent.match(/line (\\d+)/)[1];
}"""


def test_scrolling_up_pauses(browse: Browse) -> None:
    """What is read stays in its place; what is new is counted, and shown by a press."""
    with Crowd(3, 0) as crowd:
        crowd.writing = True
        crowd.written.append(output(f"line {n}" for n in range(300)))
        page = opened(browse, crowd)
        follow = page.locator('[data-log="follow"]')
        expect(rows(page).last).to_have_text("line 299")
        expect(follow).to_have_attribute("aria-pressed", "true")
        page.locator("#log").hover()
        page.mouse.wheel(0, -900)
        expect(follow).to_have_attribute("aria-pressed", "false")
        before = upper(page)
        crowd.written.append(output(f"line {n}" for n in range(300, 340)))
        expect(follow).to_have_text("Follow: 40 new")
        assert upper(page) == before
        follow.click()
        expect(rows(page).last).to_have_text("line 339")
        expect(follow).to_have_text("Follow")
        at_end(page)
        follow.click()
        crowd.written.append(output(["line 340"]))
        expect(follow).to_have_text("Follow: 1 new")


def test_earlier_lines(browse: Browse) -> None:
    """Ten times as many with each press, until there are no more; the line at which they meet stays in sight."""
    with Crowd(3, 0, logs=output(f"line {n}" for n in range(2500))) as crowd:
        page = opened(browse, crowd)
        state(page, "the last 200 lines")
        press(page, "earlier")
        state(page, "the last 2,000 lines")
        expect(page.get_by_text("line 2300", exact=True)).to_be_in_viewport()
        press(page, "earlier")
        state(page, "that is all")
        expect(page.locator('[data-log="earlier"]')).to_be_hidden()
        page.locator("#log").press("Home")
        expect(rows(page).first).to_have_text("line 0")
        assert crowd.log_queries == [f"follow=1&tail={tail}" for tail in (200, 2000, 20000)]


def test_one_stream(browse: Browse) -> None:
    """Errors alone, or all; each line of them is marked."""
    lines: list[Line] = [
        "out",
        {"line": "err", "stream": "stderr"},
        {"line": "note", "stream": "qmaster", "time": None, "task": None},
    ]
    with Crowd(3, 0, logs=output(lines)) as crowd:
        page = opened(browse, crowd)
        expect(rows(page)).to_have_text(["out", "err", "note"])
        page.get_by_label("Stream").select_option("stderr")
        expect(rows(page)).to_have_text(["err"])
        assert crowd.log_queries[-1] == "follow=1&tail=200&stream=stderr"
        assert "rgb" in rows(page).last.evaluate("row => getComputedStyle(row).boxShadow")


def test_copy_and_download(browse: Browse) -> None:
    """The text, without colours, times and prefixes: all of it, or what is selected; a file with the run's name."""
    lines: list[Line] = [
        "\x1b[31mred\x1b[0m",
        {"line": "10 %\r100 %", "task": "task2"},
        *(f"line {n}" for n in range(150)),
    ]
    with Crowd(3, 0, logs=output(lines)) as crowd:
        page = opened(browse, crowd, permissions=["clipboard-read", "clipboard-write"])
        state(page, "that is all")
        text = "red\n100 %\n" + "".join(f"line {n}\n" for n in range(150))
        press(page, "copy")
        assert page.evaluate("navigator.clipboard.readText()") == text
        rows(page).last.select_text()
        press(page, "copy")
        assert page.evaluate("navigator.clipboard.readText()").strip() == "line 149"
        with page.expect_download() as given:
            press(page, "download")
        assert given.value.suggested_filename == f"{crowd.services[0].name}.log"
        assert given.value.path().read_text(encoding="utf-8") == text
        press(page, "times")
        with page.expect_download() as given:
            press(page, "download")
        assert given.value.path().read_text(encoding="utf-8").startswith("2026-12-01T12:00:00.000000007Z red\n")


def test_a_selection_outlives_scrolling(browse: Browse) -> None:
    """What begins out of sight is still selected."""
    with Crowd(3, 0, logs=output(f"line {n}" for n in range(190))) as crowd:
        page = opened(browse, crowd)
        state(page, "that is all")
        page.locator("#log").press("Home")
        expect(rows(page).first).to_have_text("line 0")
        page.evaluate("getSelection().selectAllChildren(document.querySelector('#log p'))")
        page.locator("#log").press("End")
        expect(rows(page).last).to_have_text("line 189")
        assert page.evaluate("String(getSelection())").strip() == "line 0"


def test_full_width(browse: Browse) -> None:
    """The output takes the window, by a button or f; Escape gives the panel back, and then closes it."""
    with Crowd(3, 0, logs=output(f"line {n}" for n in range(150))) as crowd:
        page = opened(browse, crowd)
        page.locator("#log").press("f")
        becomes(page, "document.querySelector('#detail').clientWidth >= innerWidth - 2")
        expect(page.locator("#detail-facts")).to_be_hidden()
        assert page.locator("#log").evaluate("box => box.clientHeight") > 500
        at_end(page)
        page.locator("#log").press("Escape")
        expect(page.locator("#detail-facts")).to_be_visible()
        page.locator("#log").press("Escape")
        expect(page.locator("#detail")).to_be_hidden()


@pytest.mark.parametrize("view", VIEWS)
def test_it_is_usable_by_all(browse: Browse, view: str) -> None:
    """axe-core finds no serious fault, with all that the viewer can show; nothing is wider than the screen."""
    lines: list[Line] = [*SEEN, *STYLED, {"line": "err", "stream": "stderr", "task": "task2"}, "x" * 9000, "needle"]
    with Crowd(12, 0, logs=output(lines)) as crowd:
        page = opened(browse, crowd, **VIEWS[view])
        press(page, "times")
        page.locator("#log-search").fill("n")
        page.keyboard.press("Enter")
        expect(page.locator("#log mark").first).to_be_visible()
        assert Judge(page).serious() == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# On the swarm


def test_the_tasks_of_a_service(swarm_shared: Server, browse: Browse) -> None:
    """Each line has the slot and the task that wrote it, in a colour of its own; nobody's is missing."""
    script = "for n in 1 2 3; do echo $n from $HOSTNAME; echo late $n >&2; sleep 0.2; done; sleep 300"
    run(swarm_shared, image=IMAGE, command=["sh", "-c", script], name="talkers", replicas=2, memory=16)
    page = browse(swarm_shared.url).log_in(swarm_shared.token)
    page.goto(f"{swarm_shared.url}/#/runs/talkers")
    expect(rows(page)).to_have_count(12)
    state(page, "following")
    labels = rows(page).evaluate_all("rows => rows.map((row) => row.dataset.source)")
    assert {label.split(".")[0] for label in labels} == {"1", "2"}
    assert sorted(map(labels.count, set(labels))) == [6, 6]
    colours = rows(page).evaluate_all("rows => rows.map((row) => getComputedStyle(row, '::before').color)")
    assert len(set(zip(labels, colours, strict=True))) == 2
    assert len(set(colours)) == 2
    expect(page.locator('#log [data-stream="stderr"]')).to_have_count(6)
