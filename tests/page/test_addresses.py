"""Addresses of the status page: views, filters and runs have one; Back and a reload lead where they should."""

import re

import msgspec
from conftest import Browse
from page_cases import PHONE, row
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


def test_the_parts_of_a_phone_have_addresses(browse: Browse) -> None:
    """One at a time is shown; Back leads between them, a reload stays, and filters go with them."""
    with Crowd(12, 0) as crowd:
        page = browse(crowd.url, **PHONE).log_in(TOKEN)
        services, nodes, timeline = (page.locator(each) for each in ("#table", "#map .machine >> nth=0", "#timeline"))
        page.locator("#search").fill("host-1")
        page.locator('[data-to="nodes"]').tap()
        expect(page).to_have_url(f"{crowd.url}/#/live/nodes?q=host-1")
        expect(nodes).to_be_visible()
        expect(services).to_be_hidden()
        page.locator('[data-to="timeline"]').tap()
        expect(page).to_have_url(f"{crowd.url}/#/live/timeline?q=host-1")
        expect(timeline.locator("li").first).to_be_visible()
        expect(nodes).to_be_hidden()
        page.reload()
        expect(timeline).to_be_visible()
        page.go_back()
        expect(nodes).to_be_visible()
        page.go_back()
        expect(services).to_be_visible()
        expect(page.locator("#search")).to_have_value("host-1")
        expect(nodes).to_be_hidden()


NAMES = """async (service) => {
  const store = await import('./static/store.js');
  const tell = (number, word, fields) => store.take({ type: 'event', event: {
    id: `${word}${number}`, type: `io.qmaster.service.${word}`, subject: `id${number}`, time: fields.created_at,
    data: { ...service, id: `id${number}`, ...fields },
  } });
  tell(1, 'created', { name: 'again', created_at: '2026-12-01T12:00:00Z' });
  tell(2, 'created', { name: 'again', created_at: '2026-12-01T12:01:00Z' });
  tell(1, 'removed', { name: 'again', created_at: '2026-12-01T12:00:00Z', status: 'removed' });
  const found = store.find('again').id;
  for (let n = 1000; n < 1600; n++) {
    const at = new Date(1.7e12 + 1000 * n).toISOString();
    tell(n, 'removed', { name: `name${n}`, created_at: at, removed_at: at, status: 'removed' });
  }
  return [found, store.address({ id: 'id1000', name: 'name1000' }), store.address({ id: 'id1599', name: 'name1599' })];
}"""


def test_a_name_is_that_of_the_newest_run(browse: Browse) -> None:
    """Also where the end of an older one is told later; and the names of runs that are forgotten are, too."""
    with Crowd(1, 0) as crowd:
        page = browse(crowd.url).log_in(TOKEN)
        service = msgspec.json.decode(msgspec.json.encode(crowd.services[0]))
        assert page.evaluate(NAMES, service) == ["id2", "id1000", "name1599"]
