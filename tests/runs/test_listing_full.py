"""listing: pages of a hundred thousand removed runs, while runs end."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from run_service_cases import SEEN, FakeCache

from qmaster.api.filters import read_filters
from qmaster.events.journal import FILE, Journal
from qmaster.events.rows import Record
from qmaster.events.schema import upgrade
from qmaster.models.responses import Service
from qmaster.runs.listing import Listing, ListQuery

MANY = 100_000
PAGE_WITHIN = 0.05  # seconds, for a hundred runs; measured: 1 to 25 ms
BEGAN = 1767225600  # 2026-01-01, in seconds since 1970; a run is created in each second from then on
RARE = 9999  # one run in so many has a name, reason and image of its own
FILL = f"""
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {MANY - 1})
INSERT INTO records (id, kind, name, removed, at, view, owner, size)
SELECT printf('r%06d', n), 'service', iif(n % {RARE}, 'name', 'rare'), 1, 1e12, CAST(json_set(
    :view, '$.id', printf('r%06d', n), '$.created_at', strftime('%Y-%m-%dT%H:%M:%S', {BEGAN} + n, 'unixepoch') || '.2Z',
    '$.name', iif(n % {RARE}, 'name', 'rare'), '$.reason', iif(n % {RARE}, 'exit', 'timeout'), '$.exit_code', 0,
    '$.image', iif(n % {RARE}, 'busybox:1', 'team/rare:1'), '$.owner', iif(n % 3, 'alice', 'bob')
) AS BLOB), iif(n % 3, 'alice', 'bob'), 1000 FROM numbers
"""  # noqa: S608 - text of ours
pytestmark = [pytest.mark.gen_test, pytest.mark.slow, pytest.mark.late]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a journal with so many."""
    folder = tmp_path_factory.mktemp("many")
    db = sqlite3.connect(folder / FILE)
    upgrade(db, folder / FILE)
    view = msgspec.json.encode(msgspec.structs.replace(SEEN, status="removed")).decode()
    with db:
        db.execute(FILL, {"view": view})
    db.close()
    return folder


class Pages:
    """The pages of a listing, and how many seconds of processor each took: other work of the machine does not count."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.took: list[float] = []

    async def page(self, wanted: ListQuery) -> tuple[list[str], ListQuery | None]:
        began = time.process_time()
        parts = [part async for part in self.listing.parts(None, wanted)]
        self.took.append(time.process_time() - began)
        ids = [msgspec.json.decode(row)["id"] for part in parts for row in part.rows]
        following = parts[-1].next
        return ids, following and wanted._replace(page=following)


def there(number: int) -> Service:
    """A run that is not removed, in the order among those that are."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(BEGAN + number * 499))
    return msgspec.structs.replace(SEEN, id=f"s{number}", name=f"s{number}", created_at=f"{at}.5Z")


def created(run_id: str) -> float:
    """When it was created, in seconds since the first."""
    number = int(run_id[1:])
    return number + 0.2 if run_id[0] == "r" else number * 499 + 0.5


async def test_pages_of_many_have_each_once(folder: Path, measured: Callable[[str], None]) -> None:
    """To the end, while runs are removed: none is missing or twice; the last page takes as long as the first."""
    journal = Journal(folder, 1000, 1e9)
    await journal.open()
    view = FakeCache(*map(there, range(200)))
    pages, found = Pages(Listing(journal, view)), list[str]()
    wanted: ListQuery | None = read_filters({"all": ["1"], "limit": ["2000"]})
    while wanted is not None:
        ids, wanted = await pages.page(wanted)
        found += ids
        for gone in (view.views.pop(0), view.views.pop()):
            stored = msgspec.json.encode(msgspec.structs.replace(gone, status="removed"))
            await journal.append([], [Record(gone.id, "service", gone.name, True, stored, owner="root")])
    await journal.close()
    assert len(found) == len(set(found)) == MANY + 200
    assert found == sorted(found, key=created, reverse=True)
    first, last = min(pages.took[:10]), min(pages.took[-11:-1])
    measured(f"a page of 2,000: the first {first * 1000:.0f} ms, the last {last * 1000:.0f} ms")
    assert last < 3 * first


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({}, 100),
        ({"until": ["2026-01-01T05:00:00Z"]}, 100),
        ({"owner": ["bob"], "since": ["2026-01-01T03:00:00Z"]}, 100),
        ({"owner": ["bob", "alice"], "reason": ["exit"]}, 100),
        ({"reason": ["timeout"]}, 11),
        ({"outcome": ["failed"]}, 11),
        ({"outcome": ["failed"], "owner": ["bob"]}, 11),
        ({"name": ["*rar*"]}, 11),
        ({"function": [""], "reason": ["timeout"]}, 11),
        ({"name": ["rare"], "reason": ["timeout"], "owner": ["bob"]}, 11),
        ({"image": ["team/rare"]}, 11),
        ({"name": ["nobody"]}, 0),
    ],
    ids=str,
)
async def test_a_page_of_many_is_quick(
    folder: Path, query: dict[str, list[str]], count: int, measured: Callable[[str], None]
) -> None:
    """Wherever it is, and however few runs match."""
    journal = Journal(folder, 1000, 1e9)
    await journal.open()
    pages = Pages(Listing(journal, FakeCache()))
    wanted = read_filters({"all": ["1"], "limit": ["100"], **query})
    for _ in range(5):
        assert len((await pages.page(wanted))[0]) == count
    await journal.close()
    measured(f"{min(pages.took) * 1000:.1f} ms: {query}")
    assert min(pages.took) < PAGE_WITHIN
