"""versions.store: what the swarm keeps of a function, with several stores on one swarm."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from fakes import FakeConfigs, until
from testbed import Engine, sdk
from version_cases import config, published

from qmaster.engine import Endpoint
from qmaster.engine import Engine as OurEngine
from qmaster.engine import configs as engine_configs
from qmaster.engine.configs import Config
from qmaster.engine.labels import FUNCTION
from qmaster.engine.watcher import Change, Watcher
from qmaster.errors import Conflict, EngineAway, EngineRefused, EngineUnavailable, NotAManager
from qmaster.functions.versions import store as versions
from qmaster.functions.versions.store import VersionStore
from qmaster.models.functions import FunctionSpec, Version

# --- on a real swarm --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def following(engine: Engine) -> AsyncIterator[VersionStore]:
    """A store that follows the swarm, as in a quartermaster."""
    ours = OurEngine(Endpoint.read(engine.host, {}))
    store = VersionStore(ours.configs)
    loop = asyncio.get_running_loop()

    def emit(change: Change) -> None:
        loop.call_soon_threadsafe(store.hint, change)

    watcher = Watcher(ours.events, emit)
    watcher.start()
    task = asyncio.create_task(store.run())
    try:
        yield store
    finally:
        watcher.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ours.close()


def on_two(engine: Engine, work: Callable[[VersionStore, VersionStore], Awaitable[None]]) -> None:
    """Run it with two stores that have listed the swarm."""

    async def run() -> None:
        async with following(engine) as one, following(engine) as other:
            await until(lambda: one.trouble is None and other.trouble is None)
            await work(one, other)

    asyncio.run(run())


def test_a_version_is_known_to_every_quartermaster(engine: Engine) -> None:
    """As it was published, to the last brace; the newest is the latest, and a hand that removes it rolls back."""

    async def work(one: VersionStore, other: VersionStore) -> None:
        told: list[str] = []
        other.listeners.append(told.append)
        first = await one.add("resize", 1, published(env={"A": "{{.Node.ID}} ä"}, labels={"team": "blue"}))
        second = await one.add("resize", 2, published(memory=64))
        assert one.versions("resize") == [second, first]
        await until(lambda: other.latest("resize") == second)
        assert other.find("resize", 1) == first == other.by_id(first.id)
        assert first.spec.env == {"A": "{{.Node.ID}} ä"}
        await asyncio.to_thread(sdk(engine).remove_config, second.id)
        await until(lambda: other.latest("resize") == one.latest("resize") == first)
        again = await other.add("resize", 2, published(memory=64))
        assert again.id != second.id
        await until(lambda: one.latest("resize") == again)
        await one.remove("resize", 1)
        await one.remove("resize", 2)
        await until(lambda: other.names() == [] == one.names())
        assert set(told) == {"resize"}
        assert len(told) >= 5

    on_two(engine, work)


def test_of_eight_publishers_at_once_one_has_the_number(engine: Engine) -> None:
    """Swarm refuses the others."""

    async def work(one: VersionStore, other: VersionStore) -> None:
        tries = [(one, other)[n % 2].add("race", 1, published(memory=64 + n)) for n in range(8)]
        done = await asyncio.gather(*tries, return_exceptions=True)
        made = [each for each in done if isinstance(each, Version)]
        assert len(made) == 1
        assert [type(each) for each in done if each not in made] == [Conflict] * 7
        await other.refresh("race")
        assert other.versions("race") == made

    on_two(engine, work)


def test_what_changed_unseen_is_listed(engine: Engine) -> None:
    """While no events came: a version more, and one fewer."""

    async def work() -> None:
        ours = OurEngine(Endpoint.read(engine.host, {}))
        store = VersionStore(ours.configs)
        first = await store.add("f", 1, published())
        await asyncio.to_thread(sdk(engine).remove_config, first.id)
        data = msgspec.json.encode(published())
        await asyncio.to_thread(sdk(engine).create_config, "qm-fn-g-3", data, {FUNCTION: "g"})
        await store.reload()
        assert (store.names(), store.numbers("g")) == (["g"], [3])
        await ours.close()

    asyncio.run(work())


def test_a_label_is_changed_by_one_of_two(engine: Engine) -> None:
    """Who read it before the other's change is refused; the data stays."""

    async def work() -> None:
        ours = OurEngine(Endpoint.read(engine.host, {}))
        made = await ours.configs.create("qm-marked", {"a": "1"}, b"data")
        read = await ours.configs.config(made)
        assert read is not None
        await ours.configs.relabel(read, {"a": "2"})
        with pytest.raises(EngineRefused, match="out of sequence"):
            await ours.configs.relabel(read, {"a": "3"})
        now = await ours.configs.config("qm-marked")
        assert now is not None
        assert (now.labels, now.data) == ({"a": "2"}, b"data")
        assert await ours.configs.config(made[:8]) is None
        await ours.close()

    asyncio.run(work())


def test_without_a_swarm_it_says_what_to_do(plain_engine: Engine) -> None:
    """The words that a run has."""

    async def work() -> None:
        async with following(plain_engine) as store:
            await until(lambda: isinstance(store.trouble, NotAManager))
            with pytest.raises(NotAManager, match="docker swarm init"):
                store.require()

    asyncio.run(work())


# --- over plain data --------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.gen_test


async def test_a_fresh_store_knows_nothing_yet() -> None:
    """And says so, until it has listed."""
    store = VersionStore(FakeConfigs(config("f", 1)))
    with pytest.raises(EngineUnavailable, match="not listed yet"):
        store.require()
    await store.reload()
    store.require()
    assert store.names() == ["f"]


async def test_other_configs_are_no_versions() -> None:
    """Without the label, with another name, or with a number that is none."""
    one = config("f", 1)
    others = [
        msgspec.structs.replace(one, id="1", name="app.conf"),
        msgspec.structs.replace(one, id="2", name="qm-fn-g-1"),
        msgspec.structs.replace(one, id="3", name="qm-fn-f-01"),
        msgspec.structs.replace(one, id="4", name="qm-fn-f-x"),
        msgspec.structs.replace(one, id="5", name="qm-fn-f-0"),
        msgspec.structs.replace(one, id="6", name="qm-fn-f-٣"),
        msgspec.structs.replace(one, id="7", name="qm-fn-f"),
        msgspec.structs.replace(one, id="8", labels={}),
    ]
    store = VersionStore(FakeConfigs(*others, one))
    await store.reload()
    assert store.numbers("f") == [1]
    assert store.names() == ["f"]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"spec": {"image": "busybox", "schedules": []}}'])
async def test_a_version_of_a_newer_quartermaster_is_not_replaced_by_an_older_one(data: bytes) -> None:
    """The function is unknown until then, rather than to run what was replaced; its number stays taken."""
    newer = msgspec.structs.replace(config("f", 2), data=data)
    store = VersionStore(FakeConfigs(config("f", 1), newer))
    await store.reload()
    assert store.latest("f") is None
    assert (store.numbers("f"), [each.number for each in store.versions("f")]) == ([1, 2], [1])


async def test_a_known_version_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swarm may have thousands, and they never change."""
    configs = FakeConfigs(config("f", 1), config("g", 1))
    store = VersionStore(configs)
    await store.reload()
    read, real = 0, engine_configs.read

    def counted(raw: msgspec.Raw) -> Config:
        nonlocal read
        read += 1
        return real(raw)

    monkeypatch.setattr(engine_configs, "read", counted)
    await configs.create("qm-fn-h-1", {FUNCTION: "h"}, config("h", 1).data)
    told: list[str] = []
    store.listeners.append(told.append)
    await store.reload()
    assert (read, told, sorted(store.names())) == (1, ["h"], ["f", "g", "h"])


class Slow(FakeConfigs):
    """A listing that is answered late, with what there was when it was asked."""

    def __init__(self, *configs: Config) -> None:
        super().__init__(*configs)
        self.gate = asyncio.Event()

    async def labelled(self, label: str) -> list[msgspec.Raw]:
        answer = await super().labelled(label)
        await self.gate.wait()
        return answer


async def test_an_old_listing_undoes_nothing() -> None:
    """Neither what was published while it was on its way, nor what was removed."""
    configs = Slow(config("f", 1))
    store = VersionStore(configs)
    configs.gate.set()
    await store.reload()
    configs.gate.clear()
    listing = asyncio.create_task(store.reload())
    await until(lambda: configs.names().count("labelled") == 2)
    await store.add("f", 2, published())
    await store.remove("f", 1)
    configs.gate.set()
    await listing
    assert store.numbers("f") == [2]


async def test_a_listing_from_before_the_last_one_of_all_undoes_nothing() -> None:
    """What only the later one has stays, until a listing after it lacks it."""
    configs = Slow(config("f", 1))
    store, old = VersionStore(configs), configs.gate
    refreshing = asyncio.create_task(store.refresh("f"))
    await until(lambda: configs.names().count("labelled") == 1)
    configs.gate = asyncio.Event()
    configs.gate.set()
    second = config("f", 2)
    configs.there[second.id] = second  # by another quartermaster
    await store.reload()
    old.set()
    await refreshing
    assert store.numbers("f") == [1, 2]
    del configs.there[second.id]
    await store.refresh("f")
    assert store.numbers("f") == [1]


async def test_it_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was known stays known while the engine is away; then all is listed again."""
    monkeypatch.setattr(versions, "FIRST_PAUSE", 0.001)
    configs = FakeConfigs(config("f", 1))
    store = VersionStore(configs)
    task = asyncio.create_task(store.run())
    await until(lambda: store.names() == ["f"])
    configs.fails["labelled"] = EngineAway("gone")
    store.hint(Change("relist"))
    await until(lambda: configs.names().count("labelled") > 3)
    store.require()
    assert store.names() == ["f"]
    del configs.fails["labelled"]
    configs.there.clear()
    await until(lambda: store.names() == [])
    task.cancel()


async def test_a_listener_that_fails_stops_no_other() -> None:
    """Each hears of the function."""
    store = VersionStore(FakeConfigs())
    told: list[str] = []

    def fails(name: str) -> None:
        raise ValueError(name)

    store.listeners += [fails, told.append]
    await store.add("f", 1, published())
    assert told == ["f"]


@pytest.mark.gen_test
async def test_a_version_that_leaves_fields_out_is_small() -> None:
    """Specs share the values of fields that were left at their default; what was given is each one's own."""
    given: dict[str, Any] = {
        "env": {"A": "1"},
        "labels": {"team": "red"},
        "idle": 5.0,
        "constraints": ["node.role==worker"],
    }
    configs = FakeConfigs(config("a", 1), config("b", 1), config("c", 1, **given))
    store = VersionStore(configs)
    await store.reload()
    a, b, c = (store.find(name, 1) for name in "abc")
    assert a
    assert b
    assert c
    assert all(getattr(a.spec, field) is getattr(b.spec, field) for field in ("env", "schedules", "tmpfs", "idle"))
    assert c.spec == FunctionSpec(image="busybox", **given)
    assert a.spec == published().spec
