"""listing: what is there and what was removed in one order, page by page, each run once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from run_service_cases import SEEN, FakeCache, FakeJournal

from qmaster.api.filters import read_filters
from qmaster.events import rows
from qmaster.events.journal import Journal
from qmaster.events.rows import Key, Page, Record, RemovedQuery
from qmaster.models.responses import FunctionRef, Service, outcome
from qmaster.runs import listing
from qmaster.runs.listing import Listing, ListQuery, moment

pytestmark = pytest.mark.gen_test

ALL = ListQuery(removed=True)


def run(number: int, **over: object) -> Service:
    return msgspec.structs.replace(SEEN, id=f"s{number}", created_at=f"2026-01-01T00:00:{number:02d}Z", **over)


def gone(number: int, **over: object) -> Service:
    return run(number, status="removed", **over)


class Made:
    """A listing of these; the journal gives two runs a page."""

    def __init__(self, there: list[Service], removed: list[Service]) -> None:
        self.view, self.journal = FakeCache(*there), FakeJournal()
        self.journal.stored = {view.id: view for view in removed}
        self.listing = Listing(self.journal, self.view)

    async def ids(self, wanted: ListQuery, owner: str | None = None) -> list[int]:
        return (await self.page(wanted, owner))[0]

    async def page(self, wanted: ListQuery, owner: str | None = None) -> tuple[list[int], Key | None]:
        """The numbers of the runs, and the key that the next page begins behind."""
        parts = [part async for part in self.listing.parts(owner, wanted)]
        assert not any(part.next for part in parts[:-1])
        return [int(msgspec.json.decode(one)["id"][1:]) for part in parts for one in part.rows], parts[-1].next


async def test_both_are_in_one_order() -> None:
    """By the time of creation, the newest first, whichever page of the journal they are on."""
    made = Made([run(2), run(5), run(9)], [gone(number) for number in (1, 3, 4, 6, 7, 8)])
    assert await made.ids(ALL) == [9, 8, 7, 6, 5, 4, 3, 2, 1]


async def test_what_is_removed_meanwhile_is_listed_once() -> None:
    """Before its page is read, while it is read, and after it was shown."""
    made = Made([run(number) for number in range(1, 9)], [gone(number) for number in range(11, 15)])
    read = made.journal.removed

    async def removed(wanted: RemovedQuery, show: Callable[[bytes], bytes | None]) -> Page:
        page = await read(wanted, show)
        if made.view.views:
            view = made.view.views.pop()
            made.journal.stored[view.id] = msgspec.structs.replace(view, status="removed")
        return page

    made.journal.removed = removed  # type: ignore[method-assign]
    assert await made.ids(ALL) == [14, 13, 12, 11, 8, 7, 6, 5, 4, 3, 2, 1]


async def test_what_is_in_both_is_shown_as_it_is_there() -> None:
    """Its record may be of an earlier time."""
    made = Made([run(1)], [gone(1), gone(2)])
    parts = made.listing.parts(None, ALL)
    shown = [msgspec.json.decode(one, type=Service) async for part in parts for one in part.rows]
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
    assert [view.id for view in made.listing.there("bob", ListQuery()).views] == ["s4"]


async def test_parts_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs there are, and however large: of one that is larger, it alone."""
    monkeypatch.setattr(listing, "PART", 3000)
    made = Made([run(number, labels={"a": "x" * 1000}) for number in range(1, 20)], [])
    sizes = [sum(map(len, part.rows)) async for part in made.listing.parts(None, ListQuery())]
    assert len(sizes) > 5
    assert max(sizes) < 3000 + 2000


async def test_instances_are_listed_where_they_are_asked_for() -> None:
    """Those of one function, with `all` the removed ones too; without either, none."""
    hello, other = FunctionRef("hello", 1), FunctionRef("other", 2)
    made = Made([run(1), run(2, function=hello), run(3, function=other)], [gone(4), gone(5, function=hello)])
    assert await made.ids(ListQuery()) == [1]
    assert [view.id for view in made.listing.there(None, ListQuery()).views] == ["s1"]
    assert await made.ids(ALL) == [5, 4, 3, 2, 1]
    assert await made.ids(ListQuery(function="hello")) == [2]
    assert await made.ids(ListQuery(function="hello", removed=True)) == [5, 2]
    assert await made.ids(ListQuery(function="", removed=True)) == [4, 1]
    assert await made.ids(ListQuery(function="")) == [1]


async def test_instances_are_left_out_by_the_journal(tmp_path: Path) -> None:
    """Of what was removed, by its own condition."""
    made = await stored_in(tmp_path, "file", [gone(1), gone(2, function=FunctionRef("hello", 1)), gone(3)])
    assert await made.ids(ALL._replace(function="")) == [3, 1]
    assert await made.ids(ALL._replace(function="hello")) == [2]


DIGEST = "sha256:" + "a" * 64
CASES: list[tuple[dict[str, Any], list[int]]] = [
    ({"owners": {"alice"}}, [6, 1]),
    ({"owners": {"alice", ""}}, [6, 4, 1]),
    ({"reasons": {"timeout"}}, [5, 1]),
    ({"reasons": {"timeout", "oom"}}, [6, 5, 1]),
    ({"images": ["busybox"]}, [6, 5, 1]),
    ({"images": ["busybox:1"]}, [6, 1]),
    ({"images": ["docker.io/library/busybox:latest"]}, [5]),
    ({"images": [f"busybox@{DIGEST}"]}, [1]),
    ({"images": ["team/*", "registry.example.com/**"]}, [4, 3]),
    ({"since": "03"}, [6, 5, 4, 3]),
    ({"since": "03.000000001"}, [6, 5, 4]),
    ({"until": "03"}, [2, 1]),
    ({"until": "03.000000001"}, [3, 2, 1]),
    ({"since": "02", "until": "05"}, [4, 3, 2]),
    ({"page": 4}, [3, 2, 1]),
    ({"page": 4, "until": "06"}, [3, 2, 1]),
    ({"page": 4, "until": "02", "reasons": {"timeout"}}, [1]),
    ({"names": {"x"}, "owners": {"alice"}}, []),
]


def asked(given: dict[str, Any]) -> ListQuery:
    """A query, from how a test writes it."""
    fields: dict[str, Any] = {
        name: frozenset(value) if isinstance(value, set) else value for name, value in given.items()
    }
    for name in ("since", "until"):
        if name in given:
            fields[name] = moment(f"2026-01-01T00:00:{given[name]}Z")
    if "page" in given:
        fields["page"] = (f"2026-01-01T00:00:{given['page']:02d}Z", f"s{given['page']}")
    fields["images"] = tuple(read_filters({"image": given["images"]}).images) if "images" in given else ()
    return ALL._replace(**fields)


FILTERED: dict[int, dict[str, Any]] = {
    1: {"owner": "alice", "reason": "timeout", "image": f"busybox:1@{DIGEST}"},
    2: {"owner": "bob", "reason": "exit", "image": DIGEST},
    3: {"name": "x", "owner": "bob", "reason": "exit", "image": "registry.example.com/a/b"},
    4: {"owner": None, "reason": None, "image": f"team/busybox@{DIGEST}"},
    5: {"owner": "bob", "reason": "timeout", "image": "busybox"},
    6: {"owner": "alice", "reason": "oom", "image": "busybox:1"},
}


@pytest.mark.parametrize(("given", "ids"), CASES)
async def test_each_filter_holds_for_both(given: dict[str, Any], ids: list[int]) -> None:
    """Of what is there, of what was removed, and of both on one page."""
    for there in ({5, 6}, set(FILTERED), set[int]()):
        runs = [run(number, **FILTERED[number]) for number in there]
        made = Made(runs, [gone(number, **fields) for number, fields in FILTERED.items() if number not in there])
        assert await made.ids(asked(given)) == ids
        shown = made.listing.there(None, asked(given)).views
        assert [int(view.id[1:]) for view in shown] == [number for number in ids if number in there]


async def test_filters_are_those_of_the_journal(tmp_path: Path) -> None:
    """Its own conditions leave out nothing that matches; it is read in as many pieces as there are."""
    journal = Journal(tmp_path, 1000, 30)
    await journal.open()
    views = [gone(number, **fields) for number, fields in FILTERED.items()]
    records = [
        Record(view.id, "service", view.name, True, msgspec.json.encode(view), owner=view.owner or "") for view in views
    ]
    await journal.append([], records)
    for scanned in (1, 3000, rows.SCANNED_BYTES):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "SCANNED_BYTES", scanned)
            made = Made([], [])
            made.listing = Listing(journal, made.view)
            for given, ids in CASES:
                assert await made.ids(asked(given)) == ids, (given, scanned)
            assert await made.ids(ALL._replace(names=frozenset({"x", "y"}))) == [3]
            assert await made.ids(ALL, "bob") == [5, 3, 2]
            assert await made.ids(asked({"owners": {"alice"}}), "bob") == []
    await journal.close()


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("removed", [True, False])
async def test_pages_have_each_run_once(limit: int, removed: bool) -> None:
    """Though runs end and are removed between the pages; the last page says that it is."""
    made = Made([run(number) for number in (2, 5, 8, 9)], [gone(number) for number in (1, 3, 4, 6, 7)])
    wanted, found = ListQuery(removed=removed, limit=limit), list[int]()
    expected = [9, 8, 7, 6, 5, 4, 3, 2, 1] if removed else [9, 8, 5, 2]
    while True:
        ids, following = await made.page(wanted)
        assert len(ids) == min(limit, len(expected) - len(found))
        found += ids
        if following is None:
            break
        wanted = wanted._replace(page=following)
        if removed:  # the oldest that is there; and a new one is started
            made.view.views.sort(key=lambda view: view.created_at or "")
            view = made.view.views.pop(0)
            made.journal.stored[view.id] = msgspec.structs.replace(view, status="removed")
            made.view.views.append(run(20 + len(found)))
    assert found == expected


async def test_what_is_cut_off_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit, a listing of what was removed ends somewhere; the next page goes on there."""
    monkeypatch.setattr(listing, "MAX_REMOVED", 3)
    made = Made([run(9)], [gone(number) for number in range(1, 7)])
    ids, following = await made.page(ALL)
    assert ids == [9, 6, 5, 4]
    assert await made.page(ALL._replace(page=following)) == ([3, 2, 1], None)


def test_a_time_sorts() -> None:
    """Docker leaves out the zeros at the end of a fraction."""
    told = ["03Z", "03.000000001Z", "03.01Z", "03.0101Z", "03.1Z", "04Z"]
    assert sorted([*told[3:], *told[:3]], key=moment) == told


ENDED: dict[int, dict[str, Any]] = {
    1: {"reason": "exit", "exit_code": 0},
    2: {"reason": "exit", "exit_code": 3},
    3: {"reason": "exit", "exit_code": None},
    4: {"reason": "timeout", "exit_code": 0},
    5: {"reason": "stopped", "exit_code": 0},
    6: {"reason": "idle", "exit_code": 143},
    7: {"reason": None, "exit_code": None},
    8: {"reason": "unschedulable", "exit_code": None},
}
OUTCOMES = [({"complete"}, [6, 1]), ({"failed"}, [4, 3, 2]), ({"stopped"}, [5]), ({"complete", "stopped"}, [6, 5, 1])]
MANY = {f"no-{number}" for number in range(5000)}
NAMED = [
    ({"web-*"}, [2, 1]),
    ({"web-1", "d*", *MANY}, [3, 1]),
    ({"*1", "db"}, [3, 1]),
    ({"*"}, [3, 2, 1]),
    ({"WEB*"}, []),
    ({"eb-1"}, []),
]


@pytest.mark.parametrize("kept", ["cache", "journal", "file"])
async def test_outcomes_are_found_after_the_removal(tmp_path: Path, kept: str) -> None:
    """Of what is told of in the cache, of what was removed, and by the journal's own conditions."""
    made = await stored_in(tmp_path, kept, [gone(number, **fields) for number, fields in ENDED.items()])
    for outcomes, ids in OUTCOMES:
        assert await made.ids(ALL._replace(outcomes=frozenset(outcomes))) == ids, outcomes


@pytest.mark.parametrize("kept", ["cache", "journal", "file"])
async def test_names_may_be_patterns(tmp_path: Path, kept: str) -> None:
    """`*` is any text; the case counts; without it the name is the whole one."""
    made = await stored_in(tmp_path, kept, [gone(i + 1, name=name) for i, name in enumerate(("web-1", "web-2", "db"))])
    for names, ids in NAMED:
        assert await made.ids(ALL._replace(names=frozenset(names))) == ids, names


async def stored_in(folder: Path, kept: str, views: list[Service]) -> Made:
    """A listing of these."""
    made = Made(views, []) if kept == "cache" else Made([], views)
    if kept == "file":
        journal = Journal(folder, 1000, 30)
        await journal.open()
        await journal.append([], [Record(one.id, "service", one.name, True, msgspec.json.encode(one)) for one in views])
        made.listing = Listing(journal, made.view)
    return made


@pytest.mark.parametrize(
    ("status", "reason", "code", "told"),
    [
        ("running", None, None, None),
        ("stopping", "stopped", 0, None),
        ("complete", None, None, "complete"),
        ("failed", None, None, "failed"),
        ("failed", "stopped", 143, "stopped"),
        ("failed", "oom", 137, "failed"),
    ],
)
def test_an_outcome_is_of_what_has_ended(status: Any, reason: Any, code: int | None, told: str | None) -> None:
    """Also where the run is still there."""
    assert outcome(run(1, status=status, reason=reason, exit_code=code)) == told
