"""listing: what is there and what was removed in one order, page by page, each run once."""

from collections.abc import Callable

import msgspec
import pytest
from run_service_cases import SEEN, FakeJournal, FakeReconciler

from qmaster.events.rows import Key, Page
from qmaster.models.responses import FunctionRef, Service
from qmaster.runs import listing
from qmaster.runs.listing import Listing, ListQuery

pytestmark = pytest.mark.gen_test

ALL = ListQuery(removed=True)


def run(number: int, **over: object) -> Service:
    return msgspec.structs.replace(SEEN, id=f"s{number}", created_at=f"2026-01-01T00:00:{number:02d}Z", **over)


def gone(number: int, **over: object) -> Service:
    return run(number, status="removed", **over)


class Made:
    """A listing of these; the journal gives two runs a page."""

    def __init__(self, there: list[Service], removed: list[Service]) -> None:
        self.view, self.journal = FakeReconciler(*there), FakeJournal()
        self.journal.stored = {view.id: view for view in removed}
        self.listing = Listing(self.journal, self.view)

    async def ids(self, wanted: ListQuery, owner: str | None = None) -> list[int]:
        pages = self.listing.pages(owner, wanted)
        return [int(msgspec.json.decode(one)["id"][1:]) async for page in pages for one in page]


async def test_both_are_in_one_order() -> None:
    """By the time of creation, the newest first, whichever page of the journal they are on."""
    made = Made([run(2), run(5), run(9)], [gone(number) for number in (1, 3, 4, 6, 7, 8)])
    assert await made.ids(ALL) == [9, 8, 7, 6, 5, 4, 3, 2, 1]


async def test_what_is_removed_meanwhile_is_listed_once() -> None:
    """Before its page is read, while it is read, and after it was shown."""
    made = Made([run(number) for number in range(1, 9)], [gone(number) for number in range(11, 15)])
    read = made.journal.removed

    async def removed(before: Key, owner: str | None, show: Callable[[bytes], bytes | None]) -> Page:
        page = await read(before, owner, show)
        if made.view.views:
            view = made.view.views.pop()
            made.journal.stored[view.id] = msgspec.structs.replace(view, status="removed")
        return page

    made.journal.removed = removed  # type: ignore[method-assign]
    assert await made.ids(ALL) == [14, 13, 12, 11, 8, 7, 6, 5, 4, 3, 2, 1]


async def test_what_is_in_both_is_shown_as_it_is_there() -> None:
    """Its record may be of an earlier time."""
    made = Made([run(1)], [gone(1), gone(2)])
    pages = made.listing.pages(None, ALL)
    shown = [msgspec.json.decode(one, type=Service) async for page in pages for one in page]
    assert [(view.id, view.status) for view in shown] == [("s2", "removed"), ("s1", SEEN.status)]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (ALL._replace(limit=3), [6, 5, 4]),
        (ALL._replace(names=frozenset({"odd"})), [5, 3, 1]),
        (ALL._replace(labels=(("n", "=", "4"),)), [4]),
        (ALL._replace(labels=(("n", "", ""),), limit=2), [6, 5]),
        (ALL._replace(statuses=frozenset({"removed"})), [4, 3, 2, 1]),
        (ALL._replace(statuses=frozenset({SEEN.status})), [6, 5]),
        (ALL._replace(removed=False), [6, 5]),
        (ALL._replace(removed=False, limit=1), [6]),
    ],
)
async def test_filters_and_the_limit_hold_for_both(wanted: ListQuery, ids: list[int]) -> None:
    """What is there and what was removed."""
    over = {number: {"name": "odd" if number % 2 else "even", "labels": {"n": str(number)}} for number in range(1, 7)}
    made = Made([run(n, **over[n]) for n in (5, 6)], [gone(n, **over[n]) for n in range(1, 5)])
    assert await made.ids(wanted) == ids


async def test_a_limit_reads_no_more_than_it_needs() -> None:
    """One page of the journal for one run; and none where nothing that is removed is wanted."""
    made = Made([], [gone(number) for number in range(1, 9)])
    await made.ids(ALL._replace(limit=1))
    assert made.journal.names() == ["removed"]
    await made.ids(ALL._replace(statuses=frozenset({"running"})))
    assert made.journal.names() == ["removed"]


async def test_an_owner_sees_its_own() -> None:
    """Of what is there and of what was removed."""
    made = Made([run(4, owner="bob"), run(3, owner="alice")], [gone(2, owner="bob"), gone(1, owner="alice")])
    assert await made.ids(ALL, "alice") == [3, 1]
    assert [view.id for view in made.listing.there("bob", ListQuery())] == ["s4"]


async def test_pages_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs there are, and however large: of one that is larger, it alone."""
    monkeypatch.setattr(listing, "PAGE", 3000)
    made = Made([run(number, labels={"a": "x" * 1000}) for number in range(1, 20)], [])
    sizes = [sum(map(len, page)) async for page in made.listing.pages(None, ListQuery())]
    assert len(sizes) > 5
    assert max(sizes) < 3000 + 2000


async def test_instances_are_listed_where_they_are_asked_for() -> None:
    """Those of one function, with `all` the removed ones too; without either, none."""
    hello, other = FunctionRef("hello", 1), FunctionRef("other", 2)
    made = Made([run(1), run(2, function=hello), run(3, function=other)], [gone(4), gone(5, function=hello)])
    assert await made.ids(ListQuery()) == [1]
    assert [view.id for view in made.listing.there(None, ListQuery())] == ["s1"]
    assert await made.ids(ALL) == [5, 4, 3, 2, 1]
    assert await made.ids(ListQuery(function="hello")) == [2]
    assert await made.ids(ListQuery(function="hello", removed=True)) == [5, 2]
