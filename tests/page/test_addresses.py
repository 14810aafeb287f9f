"""Addresses of the status page: views, filters and runs have one; Back and a reload lead where they should."""

import re

from conftest import Browse
from page_cases import row
from playwright.sync_api import expect
from testbed.crowd import TOKEN, Crowd


def test_a_run_has_an_address(browse: Browse) -> None:
    """By its name; Back closes it, Forward opens it again, and a reload keeps it open."""
    with Crowd(12, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        name = crowd.services[3].name
        row(page, name).get_by_role("link").click()
        expect(page).to_have_url(f"{crowd.url}/#/runs/{name}")
        expect(page.locator("#detail-name")).to_have_text(name)
        page.go_back()
        expect(page.locator("#detail")).to_be_hidden()
        page.go_forward()
        expect(page.locator("#detail-name")).to_have_text(name)
        page.reload()
        expect(page.locator("#detail-name")).to_have_text(name)
        page.keyboard.press("Escape")
        expect(page).to_have_url(f"{crowd.url}/#/")


def test_a_filter_has_an_address(browse: Browse) -> None:
    """Status and search; a run opened beside them leaves them as they are."""
    with Crowd(30, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        page.locator('[data-filter="complete"]').click()
        page.locator("#search").fill("host-1")
        expect(page).to_have_url(f"{crowd.url}/#/?status=complete&q=host-1")
        count = page.locator("#table tbody tr[data-is]").count()
        page.locator("#table tbody a").first.click()
        expect(page).to_have_url(re.compile("#/runs/"))
        page.go_back()
        expect(page).to_have_url(f"{crowd.url}/#/?status=complete&q=host-1")
        page.reload()
        expect(page.locator("#table tbody tr[data-is]")).to_have_count(count)
        expect(page.locator("#search")).to_have_value("host-1")
