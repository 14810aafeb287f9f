"""A real Chromium, driven by Playwright on a thread of its own, as its event loop would be in the way of others."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, sync_playwright

PROGRAM = "/usr/bin/chromium"
# No sandbox for root; and nothing that asks for the network by itself.
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

T = TypeVar("T")


class Chromium:
    """One browser. All calls to what Playwright gives out belong on its thread: see `do`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "chromium")
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None

    def do(self, work: Callable[[], T]) -> T:
        """What `work` returns, done on the browser's thread."""
        return self._thread.submit(work).result()

    def start(self) -> None:
        self.do(self._start)

    def _start(self) -> None:
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS.split())

    def close(self) -> None:
        self.do(self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._browser:
            self._browser.close()
        if self._playwright:
            self._playwright.stop()

    def context(self, **options: Any) -> BrowserContext:
        """A new profile, to be used on the browser's thread."""
        assert self._browser
        context = self._browser.new_context(viewport=options.pop("viewport", {"width": 1400, "height": 900}), **options)
        context.set_default_timeout(20_000)
        return context


class Visit:
    """A page at a quartermaster's address, and all that it did wrong or asked others for."""

    def __init__(self, chromium: Chromium, url: str, **options: Any) -> None:
        self.url = url
        self.context = chromium.context(**options)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(f"a dialog: {dialog.message}"))
        self.page.on("console", self._heard)
        self._failed: list[str] = []
        self.page.on("requestfailed", lambda request: self._failed.append(f"{request.url}: {request.failure}"))
        self._load()

    def _load(self) -> None:
        # When an interface of the machine comes or goes, which a testbed brings about, Chromium drops what it loads.
        for wait in (0, 300, 1000, 3000):
            self.page.wait_for_timeout(wait)
            self.page.goto(self.url)
            if self.page.evaluate("document.body.dataset.part"):  # its script runs
                return
        raise RuntimeError(f"the page does not load: {self._failed} {self.errors}")

    def _heard(self, message: ConsoleMessage) -> None:
        # The browser itself reports what was answered with an error, and connections that were refused.
        own = "Failed to load resource" in message.text or "WebSocket connection" in message.text
        if message.type in ("error", "warning") and not own:
            self.errors.append(message.text)

    def log_in(self, token: str) -> Page:
        """The page, live."""
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Connect").click()
        self.page.wait_for_selector('[data-link="live"]')
        self.page.wait_for_selector('[data-filter="current"] b:not(:empty)', state="attached")  # it is drawn
        return self.page

    def paths(self) -> set[str]:
        """The paths of what the page asked for, by any way."""
        return {"/" + request.split("/", 3)[3].partition("?")[0] for request in self.requests}

    def close(self) -> None:
        """Raises AssertionError: something went wrong in the page, or it asked another origin."""
        self.context.close()
        assert self.errors == [], self.errors
        own = (f"{self.url}/", f"{self.url.replace('http', 'ws', 1)}/")
        assert [request for request in self.requests if not request.startswith(own)] == []


def screenshot(page: Page, folder: Path, name: str) -> None:
    page.screenshot(path=folder / f"{name}.png")
