"""versions.announcer: publications and removals in the stream; each once, across restarts and quartermasters."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import StartServer
from fakes import FakeConfigs, until
from reconciler_cases import Journal
from testbed import Engine, Server, eventually, sdk
from testbed.server import free_port
from testbed.subscriber import Subscriber
from version_cases import AT, config, loaded, published

from qmaster.errors import JournalUnwritable
from qmaster.functions.versions import announcer
from qmaster.functions.versions.announcer import Announcer
from qmaster.functions.versions.store import VersionStore
from qmaster.models.functions import FunctionVersion, Version
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.functions import FunctionViews
from qmaster.runs.reconciler.publisher import Publisher

Json = dict[str, Any]
PUBLISHED, REMOVED = "io.qmaster.function.published", "io.qmaster.function.removed"


# --- over plain data --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def process(journal: Journal, configs: FakeConfigs) -> AsyncIterator[VersionStore]:
    """One process of a quartermaster: its store; it has listed."""
    publisher = Publisher(RunCache(), journal, lambda news: None)
    store = loaded(configs)
    made = Announcer(store, publisher)
    store.listeners.append(made.versions_changed)
    tasks = [asyncio.create_task(made.run()), asyncio.create_task(_restored(publisher))]
    try:
        yield store
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _restored(publisher: Publisher) -> None:
    """Read the journal, as the reconciler does."""
    while not publisher.cache.restored:
        with contextlib.suppress(JournalUnwritable):
            await publisher.restore()
        await asyncio.sleep(0.002)


def told(journal: Journal) -> list[tuple[str, str, int]]:
    return [(each["type"].rpartition(".")[2], each["subject"], each["data"]["version"]) for each in journal.written]


@pytest.mark.gen_test
async def test_each_change_is_told_once() -> None:
    """The first listing's, then what is published, rolled back by hand, and removed; values of env are never told."""
    journal, configs = Journal(), FakeConfigs(config("f", 1, env={"A": "hush"}))
    async with process(journal, configs) as store:
        await until(lambda: told(journal) == [("published", "f", 1)])
        assert (await store.add("f", 2, published())).number == 2
        await until(lambda: told(journal)[1:] == [("published", "f", 2)])
        await store.remove("f", 2)
        await until(lambda: told(journal)[2:] == [("published", "f", 1)])
        await store.remove("f", 1)
        await until(lambda: told(journal)[3:] == [("removed", "f", 1)])
    assert "hush" not in str(journal.written)
    assert journal.written[0]["data"]["spec"]["env"] == ["A"]
    times = [each["time"] for each in journal.written]
    assert times == sorted(times)  # a rollback by hand happened now, not when the older version was published


@pytest.mark.gen_test
async def test_a_restart_tells_what_changed_meanwhile_and_nothing_twice() -> None:
    """A function that was published, one that has another version, one that is gone; and one that stayed as it was."""
    journal = Journal()
    before = [config("stays", 1), config("grows", 1), config("goes", 1)]
    async with process(journal, FakeConfigs(*before)):
        await until(lambda: len(journal.written) == 3)
    after = [config("stays", 1), config("grows", 1), config("grows", 2), config("comes", 1)]
    async with process(journal, FakeConfigs(*after)):
        await until(lambda: len(journal.written) == 6)
    assert sorted(told(journal)[3:]) == [("published", "comes", 1), ("published", "grows", 2), ("removed", "goes", 1)]
    async with process(journal, FakeConfigs(*after)) as store:
        await store.add("last", 1, published())
        await until(lambda: told(journal)[6:] == [("published", "last", 1)])


@pytest.mark.gen_test
async def test_a_journal_that_is_full_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one that cannot be read at first."""
    monkeypatch.setattr(announcer, "RETRY_EVERY", 0.005)
    journal = Journal()
    journal.full = journal.unreadable = True
    async with process(journal, FakeConfigs(config("f", 1))) as store:
        await store.add("g", 1, published())
        journal.unreadable = False
        await asyncio.sleep(0.03)
        assert journal.written == []
        journal.full = False
        await until(lambda: sorted(told(journal)) == [("published", "f", 1), ("published", "g", 1)])


def version(number: int) -> Version:
    """A version as a store has it."""
    found = loaded(FakeConfigs(config("f", number))).latest("f")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("steps", "told_words"),
    [
        (["1", "take", "mark"], ["+1"]),
        (["1", "take", "mark", "1", "take"], ["+1"]),
        (["1", "take", "2", "mark", "take", "mark"], ["+1", "+2"]),
        (["1", "take", "gone", "mark", "take", "mark"], ["+1", "-1"]),
        (["1", "take", "mark", "2", "take", "1", "mark", "take", "mark"], ["+1", "+2", "+1"]),
        (["1", "gone", "take"], []),
        (["1", "take", "mark", "gone", "take", "1", "mark", "take", "mark"], ["+1", "-1", "+1"]),
        (["1", "2", "take", "mark"], ["+2"]),
    ],
)  # fmt: skip
def test_a_change_during_a_commit_is_told_by_the_next(steps: list[str], told_words: list[str]) -> None:
    """Whatever is shown while events are on their way to the journal; at the end nothing is left to tell."""
    views, taken, heard = FunctionViews(), [], []
    for step in steps:
        if step == "take":
            names, views.dirty = frozenset(views.dirty), set()
            taken = list(views.events(names, AT))
        elif step == "mark":
            for event in taken:
                assert isinstance(event.view, FunctionVersion)
                views.mark_published(event, event.view)
                heard.append(f"{'-' if event.type.endswith('removed') else '+'}{event.view.version}")
        else:
            views.show("f", None if step == "gone" else version(int(step)))
    assert heard == told_words
    assert (views.dirty, views._unpublished) == (set(), {})


@pytest.mark.gen_test
async def test_a_function_of_a_newer_quartermaster_is_not_removed() -> None:
    """Of its newest version nothing is told here."""
    journal, newer = Journal(), FakeConfigs(config("f", 1))
    async with process(journal, newer):
        await until(lambda: len(journal.written) == 1)
    await newer.create("qm-fn-f-2", {"io.qmaster.function": "f"}, b'{"spec": {"image": "a", "schedules": []}}')
    async with process(journal, newer) as store:
        await store.add("g", 1, published())
        await until(lambda: told(journal)[1:] == [("published", "g", 1)])


@pytest.mark.gen_test
async def test_a_function_may_have_the_name_of_a_runs_id() -> None:
    """Its record is another one."""
    journal = Journal()
    async with process(journal, FakeConfigs(config("owyw29mvaobgdhdt9u5lfd4zb", 1))):
        await until(lambda: len(journal.written) == 1)
    assert list(journal.kept) == ["function/owyw29mvaobgdhdt9u5lfd4zb"]


# --- on a real engine -------------------------------------------------------------------------------------------------

SPEC = {"image": "busybox:local", "pull_policy": "never", "labels": {"team": "blue"}}


def wait_listed(server: Server) -> None:
    """Wait until it knows the functions and is ready."""
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    eventually(lambda: server.call("GET", "/functions").status == 200, 20, "it has listed")


def publish(server: Server, name: str, **fields: Any) -> int:
    answer = server.call("PUT", f"/functions/{name}", json={**SPEC, **fields})
    assert answer.status == 201, answer.text
    return int(answer["version"])


def of(name: str, kind: str, version: int) -> Any:
    def wanted(event: Json) -> bool:
        return (event["type"], event["subject"], event["data"]["version"]) == (kind, name, version)

    return wanted


def test_two_quartermasters_tell_the_same(engine: Engine, start_server: StartServer) -> None:
    """What one publishes the other tells too; what happened while it was away it tells at its start, once."""
    one, other = (start_server(engine.host, QMASTER_RUNTIME_PORT=str(free_port())) for _ in range(2))
    for server in (one, other):
        wait_listed(server)
    with Subscriber(other) as stream, Subscriber(other, query="topic=function") as functions:
        assert "functions" not in stream.until(lambda frame: frame["type"] == "snapshot")
        assert functions.until(lambda frame: frame["type"] == "snapshot")["functions"] == []
        publish(one, "here")
        publish(one, "gone")
        for each in (stream, functions):
            data = each.event(of("gone", PUBLISHED, 1))["data"]
            assert (data["owner"], data["spec"]["labels"]) == ("root", {"team": "blue"})
        last = functions.frames[-1]["cursor"]
    other.terminate()
    assert publish(one, "here", memory=64) == 2
    assert one.call("DELETE", "/functions/gone").status == 200
    made = sdk(engine).configs(filters={"name": "qm-fn-here-1"})
    sdk(engine).remove_config(made[0]["ID"])  # of an older version nothing is told
    other.start()
    with Subscriber(other, since=last, query="topic=function") as again:
        again.event(of("gone", REMOVED, 1))
        again.event(of("here", PUBLISHED, 2))
        publish(one, "last")
        again.event(of("last", PUBLISHED, 1))
        assert len(again.events) == 3
    with Subscriber(other, query="topic=function") as fresh:
        shown = fresh.until(lambda frame: frame["type"] == "snapshot")["functions"]
        assert [(each["name"], each["version"]) for each in shown] == [("here", 2), ("last", 1)]
