"""What the tests of the status page share: rows and links by name, views, axe-core, and what the page costs."""

from typing import Any

import msgspec
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import CDPSession, Page, expect
from testbed import Client
from testbed.crowd import EPOCH, Crowd, stamp

from qmaster.events import frames

Json = dict[str, Any]

IMAGE = "busybox:local"
NAP: Json = {"image": IMAGE, "command": "nap", "memory": 16}
PAYLOAD = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>"
PHONE: Json = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
VIEWS: dict[str, Json] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", **PHONE},
}

expect.set_options(timeout=30_000)


def run(server: Client, **fields: Any) -> str:
    reply = server.run(**fields)
    assert reply.status == 200, reply.text
    return str(reply["id"])


def row(page: Page, name: str) -> Any:
    """The row of the service of that name."""
    return page.locator("#table tbody tr[data-is]").filter(has=page.get_by_role("link", name=name, exact=True))


def column(page: Page, hostname: str) -> Any:
    """The column of the node of that name."""
    return page.locator("#map .machine").filter(has=page.get_by_role("heading", name=hostname, exact=True))


def shows(page: Page, name: str, status: str) -> None:
    expect(row(page, name)).to_have_attribute("data-is", status)


def link(page: Page, word: str) -> None:
    """Wait until the badge says so."""
    expect(page.locator("#link")).to_have_attribute("data-link", word)


def say(crowd: Crowd, kind: str, data: Json) -> None:
    """Send everyone an event that nobody brought about."""
    event = {"id": f"{EPOCH}:1", "type": kind, "subject": data["id"], "time": stamp(), "data": data}
    crowd.say(frames.event(f"{EPOCH}:1", kind, msgspec.json.encode(event)))


class Judge:
    """axe-core in a page."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.evaluate(Axe().axe_script)

    def serious(self) -> list[str]:
        """What it finds that is serious or worse."""
        found = self._page.evaluate("axe.run({resultTypes: ['violations']}).then(({violations}) => violations)")
        return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


class Meter:
    """What the page costs, as Chromium's own counters tell it."""

    def __init__(self, page: Page) -> None:
        self._session: CDPSession = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def read(self) -> dict[str, float]:
        """Seconds of processor time, of the main thread and in all; bytes of heap, and elements, without garbage."""
        self._session.send("HeapProfiler.collectGarbage")
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return {metric["name"]: metric["value"] for metric in metrics}
