"""reconciler: hints and listings become events, over a swarm, containers and a journal that are plain data."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from fakes import CREATED, LATER, FakeContainers, FakeSwarm, container, service, task, until
from reconciler_cases import EPOCH, Journal, Json

from qmaster.engine.watcher import Change
from qmaster.errors import EngineAway, JournalUnwritable, NotAManager
from qmaster.events import cloudevents, frames
from qmaster.events.broker import News, Tags
from qmaster.models.responses import Service
from qmaster.runs.reconciler import publisher, schedule
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.publisher import Publisher
from qmaster.runs.reconciler.reconciler import Reconciler
from qmaster.runs.reconciler.schedule import Due

pytestmark = pytest.mark.gen_test(timeout=10)


def node(node_id: str = "n1", state: str = "ready") -> Json:
    return {"ID": node_id, "Spec": {"Role": "worker", "Availability": "active"}, "Status": {"State": state}}


class World:
    """A reconciler with all that it needs."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.swarm, self.containers = FakeSwarm(nodes=(node(),)), FakeContainers()
        self.journal = journal or Journal()
        self.published: list[News] = []
        self.stale_changes = 0
        self.publisher = Publisher(RunCache(), self.journal, self._publish)
        self.reconciler = Reconciler(self.swarm, self.containers, self.journal, self.publisher)
        self.reconciler.stale_listeners.append(self._stale_changed)
        self.told: list[Service] = []
        self.publisher.listeners.append(self.told.append)

    def _publish(self, news: list[News]) -> None:
        self.published += news

    def _stale_changed(self) -> None:
        self.stale_changes += 1

    def words(self, subject: str = "s1") -> list[str]:
        """What was told of a service or node, in order."""
        return [f["type"].removeprefix("io.qmaster.") for f in self.journal.written if f["subject"] == subject]

    def put(self, *tasks: Json, **spec: Any) -> None:
        """The swarm has the service s1 with these tasks."""
        self.swarm.there, self.swarm.its_tasks = [service(**spec)], list(tasks)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reconciler.run())
        try:
            await until(lambda: self.reconciler.stale_since is None)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def live(state: str, **over: Any) -> Json:
    return task(state, ID="t1", DesiredState="running", **over)


def ended(state: str, code: int) -> Json:
    return task(state, ID="t1", code=code)


async def test_a_start_lists_everything() -> None:
    """Nodes, services and containers are told, each with its record; it is stale no more."""
    world = World()
    world.put(live("running"))
    world.containers.there = [container()]
    async with world.running():
        pass
    assert world.words("n1") == ["node.joined"]
    assert world.words() == ["service.created", "task.running", "service.running"]
    assert world.words(container()["Id"]) == ["service.created", "service.running"]
    assert {record.kind for record in world.journal.kept.values()} == {"node", "service"}
    assert world.stale_changes == 1


async def test_an_event_is_published_as_it_is_in_the_journal() -> None:
    """In the same order, with its sequence in the cursor, and its tags for the filters."""
    world = World()
    world.put(live("running"), Labels={"team": "data", "io.qmaster.owner": "alice"})
    async with world.running():
        pass
    assert [one.sequence for one in world.published] == list(range(1, len(world.journal.written) + 1))
    sent = [json.loads(one.frame.payload) for one in world.published]
    assert [frame["event"] for frame in sent] == world.journal.written
    assert [frame["cursor"] for frame in sent] == [f"{EPOCH}:{n + 1}" for n in range(len(sent))]
    assert world.publisher.cursor_time == ""  # until the first turn is over, it does not know how late they are
    by_subject = {tags.subject: tags for _, tags, _ in world.published if tags and tags.topic != "task"}
    assert by_subject["s1"] == Tags("service", "s1", frozenset({"team=data"}), "alice")
    assert by_subject["n1"] == Tags("node", "n1", frozenset(), None)


async def test_a_hint_is_looked_at() -> None:
    """That service is listed at once, and again at short intervals while it is unsettled."""
    world = World()
    async with world.running():
        world.put(live("starting"))
        world.reconciler.hint(Change("service", "s1"))
        await until(lambda: "task.starting" in world.words())
        world.put(live("running"))
        await until(lambda: "service.running" in world.words())
        world.put(ended("complete", 0))
        await until(lambda: "service.complete" in world.words())
    assert world.reconciler.cache.services()[0].exit_code == 0
    assert world.swarm.names().count("nodes") == 1  # the one full listing at the start


async def test_an_end_without_a_hint_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that left the list of those that should run is looked at."""
    monkeypatch.setattr(schedule, "LATER", 0.01)  # less than SOON: one look at what is young, then sweeps
    world = World()
    world.put(live("running"))
    async with world.running():
        await until(lambda: not world.reconciler._schedule.young)  # so that only a sweep can find it
        world.put(ended("failed", 3))
        await until(lambda: "service.failed" in world.words())
    assert (world.told[-1].status, world.told[-1].reason, world.told[-1].exit_code) == ("failed", "exit", 3)


async def test_what_begins_late_and_ends_at_once_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swarm had no task for it while it was young, and wants none any more when it is swept."""
    monkeypatch.setattr(schedule, "LATER", 0.01)
    world = World()
    world.put()
    async with world.running():
        await until(lambda: not world.reconciler._schedule.young)  # so that only a sweep can find it
        world.put(ended("complete", 0))
        await until(lambda: "service.complete" in world.words())


async def test_a_look_counts_for_its_own_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for that of a slow container in the same turn: there would be a pause of four times as long."""
    world = World()
    world.put(live("starting"))
    spent: list[float] = []

    async def slow(container_id: str) -> None:
        await asyncio.sleep(0.5)

    due = Due(containers=["c1"], services=["s1"])
    monkeypatch.setattr(world.reconciler, "_list_container", slow)
    monkeypatch.setattr(world.reconciler._schedule, "take", lambda *_: due)
    monkeypatch.setattr(world.reconciler._schedule, "looked", lambda _, began, ended, __: spent.append(ended - began))
    await world.reconciler.load()
    await world.reconciler._turn()
    assert len(spent) == 1
    assert spent[0] < 0.5


async def test_what_goes_on_or_has_ended_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that was restarted the first task has ended; a sweep is one call, however many there are."""
    monkeypatch.setattr(schedule, "LATER", 0.01)
    world = World()
    world.put(ended("failed", 3), live("running", CreatedAt=LATER) | {"ID": "t2"})
    async with world.running():
        await until(lambda: world.swarm.names().count("wanted_tasks") > 3)
        assert world.swarm.names().count("tasks") <= 2  # the full listing, and one look
        world.put(ended("failed", 3), ended("complete", 0) | {"ID": "t2", "CreatedAt": LATER})
        world.reconciler.hint(Change("service", "s1"))
        await until(lambda: "service.complete" in world.words())
        asked = len(world.swarm.calls)
        await asyncio.sleep(0.1)
        assert len(world.swarm.calls) == asked


async def test_a_restart_that_swarm_gives_up_is_found_without_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that was rejected while it waited for its restart's delay: no task is left that should run."""
    monkeypatch.setattr(schedule, "LATER", 0.01)  # less than SOON: one look at what is young, then sweeps
    world = World()
    policy: Json = {"TaskTemplate": {"RestartPolicy": {"Condition": "on-failure", "MaxAttempts": 1}}}
    first = task("rejected", ID="t1")
    world.put(first, task("rejected", ID="t2", CreatedAt=LATER, DesiredState="ready"), **policy)
    async with world.running():
        await until(lambda: not world.reconciler._schedule.young)  # so that only a sweep can find it
        assert world.told[-1].status == "pending"
        world.put(first, task("rejected", ID="t2", CreatedAt=LATER), **policy)
        await until(lambda: "service.failed" in world.words())


async def test_why_a_task_waits_is_found_without_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler may say it long after the service was made, and the state stays the same."""
    monkeypatch.setattr(schedule, "LATER", 0.01)  # less than SOON: one look at what is young, then sweeps
    world = World()
    world.put(live("pending"))
    async with world.running():
        await until(lambda: not world.reconciler._schedule.young)  # so that only a sweep can find it
        world.put(live("pending", err="no suitable node (insufficient resources on 1 node)"))
        await until(lambda: "service.updated" in world.words())
    assert world.told[-1].reason == "unschedulable"


async def test_a_state_only_grows() -> None:
    """An older reading that comes last is not told."""
    world = World()
    world.put(live("running"))
    async with world.running():
        world.put(live("starting"))
        world.reconciler.hint(Change("service", "s1"))
        await until(lambda: world.swarm.names().count("services") == 2)
        await asyncio.sleep(0.1)
    assert world.words() == ["service.created", "task.running", "service.running"]


async def test_what_vanished_is_removed() -> None:
    """Found by a hint, with the engine's time, or by the listing after a reconnect; it is told once."""
    world = World()
    world.put(ended("complete", 0))
    async with world.running():
        world.swarm.there, world.swarm.its_tasks = [], []
        world.reconciler.hint(Change("service", "s1", 1_700_000_000.5, True))
        await until(lambda: "service.removed" in world.words())
        world.reconciler.hint(Change("relist"))
        await until(lambda: world.swarm.names().count("services") == 2)
        await asyncio.sleep(0.02)
    assert world.words().count("service.removed") == 1
    assert world.journal.written[-1]["time"] == "2023-11-14T22:13:20.500000Z"
    assert world.journal.kept["s1"].removed
    assert world.reconciler.cache.services() == []


async def test_a_listing_older_than_a_removal_brings_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was answered before the run was stopped, and is read after that."""
    world = World()
    world.put(live("pending"))
    async with world.running():
        services = world.swarm.services

        async def late() -> list[Json]:
            answer = await services()
            monkeypatch.setattr(world.swarm, "services", services)
            world.swarm.there, world.swarm.its_tasks = [], []
            world.reconciler.will_remove("s1")
            await world.reconciler.refresh("s1")
            return answer

        monkeypatch.setattr(world.swarm, "services", late)
        world.reconciler.hint(Change("relist"))
        await until(lambda: "service.removed" in world.words())
    assert (world.told[-1].status, world.told[-1].reason) == ("removed", "stopped")


async def test_what_happened_while_it_was_away_is_told_once() -> None:
    """It begins with what the journal has: only the difference is told."""
    before = World()
    before.put(live("running"))
    async with before.running():
        pass
    after = World(before.journal)
    after.put(ended("complete", 0))
    async with after.running():
        await until(lambda: after.reconciler.cache.services()[0].status == "complete")
    assert after.words() == [
        *["service.created", "task.running", "service.running"],
        *["task.complete", "service.complete"],
    ]
    assert after.words("n1") == ["node.joined"]


async def test_what_was_stopped_and_went_while_it_was_away_is_told_as_stopped() -> None:
    """The engine has no word of it any more, the journal has."""
    before = World()
    before.put(task("pending", ID="t1", DesiredState="running"))
    async with before.running():
        pass
    before.journal.ending["s1"] = "stopped"
    after = World(before.journal)
    async with after.running():
        await until(lambda: "service.removed" in after.words())
    assert after.journal.written[-1]["data"]["reason"] == "stopped"


@pytest.mark.slow
async def test_nothing_is_told_that_the_journal_does_not_have() -> None:
    """It is stale until it can write again; then all is told, once."""
    world = World()
    world.put(live("running"))
    async with world.running():
        world.journal.full = True
        world.put(ended("complete", 0))
        world.reconciler.hint(Change("service", "s1"))
        await until(lambda: world.reconciler.stale_since is not None)
        assert "service.complete" not in world.words()
        assert world.journal.position.last == len(world.published)
        world.journal.full = False
        await until(lambda: world.reconciler.stale_since is None)
    assert world.words()[-2:] == ["task.complete", "service.complete"]
    assert world.journal.position.last == len(world.published)


def time_of(cursor: str) -> float:
    parsed = frames.parse_cursor(cursor)
    assert parsed is not None
    return cloudevents.seconds_of(parsed[2])


@pytest.mark.slow
async def test_a_cursor_has_the_time_until_which_all_is_told() -> None:
    """Not that of its own event: what came while the journal was away, or quartermaster itself, may follow it."""
    world = World()
    world.put(live("starting"))
    async with world.running():
        world.put(live("running"))
        world.reconciler.hint(Change("service", "s1"))
        await until(lambda: "service.running" in world.words())
        world.journal.full = True
        away = time.time()
        world.put(ended("complete", 0))
        world.reconciler.hint(Change("service", "s1"))
        await until(lambda: world.reconciler.stale_since is not None)
        await until(lambda: time.time() > away + 0.01)
        world.journal.full = False
        await until(lambda: world.reconciler.stale_since is None)
    told = {event["type"]: time_of(event["id"]) for event in world.journal.written if "." in event["id"]}
    assert away - 5 < told["io.qmaster.service.running"] <= told["io.qmaster.service.complete"] <= away
    after = World(world.journal)
    async with after.running():
        pass
    last = world.journal.written[-1]
    assert last["type"] == "io.qmaster.service.removed"
    assert time_of(last["id"]) == told["io.qmaster.service.complete"]
    assert after.publisher.cursor_time in last["id"]


@pytest.mark.slow
async def test_a_journal_that_cannot_be_read_is_waited_for() -> None:
    """What it has told before is not known, so nothing is told."""
    world = World()
    world.put(live("running"))
    world.journal.unreadable = True
    running = asyncio.create_task(world.reconciler.run())
    await until(lambda: "services" in world.swarm.names())
    assert (world.journal.written, world.reconciler.stale_since is None) == ([], False)
    assert [view.status for view in world.reconciler.cache.services()] == ["running"]
    world.journal.unreadable = False
    await until(lambda: world.reconciler.stale_since is None)
    assert world.words() == ["service.created", "task.running", "service.running"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.parametrize("error", [EngineAway("away"), RuntimeError("something foreign")])
async def test_an_engine_that_is_away_makes_it_stale_not_blind(error: Exception) -> None:
    """The view stays as it was; when it is back everything is listed again."""
    world = World()
    world.put(live("running"))
    async with world.running():
        world.swarm.fails = {"services": error, "service": error, "wanted_tasks": error, "tasks": error}
        world.reconciler.hint(Change("relist"))
        if isinstance(error, EngineAway):
            await until(lambda: world.reconciler.stale_since is not None)
        else:
            await asyncio.sleep(0.1)
        assert [view.status for view in world.reconciler.cache.services()] == ["running"]
        assert "service.removed" not in world.words()
        world.put(ended("complete", 0))
        world.swarm.fails = {}
        await until(lambda: "service.complete" in world.words())


async def test_without_a_swarm_there_are_containers() -> None:
    """An engine that is no manager has nothing else to tell."""
    world = World()
    world.swarm.fails = {name: NotAManager("no swarm") for name in ("nodes", "services", "tasks", "wanted_tasks")}
    world.containers.there = [container()]
    async with world.running():
        assert [view.type for view in world.reconciler.cache.services()] == ["container"]
        await asyncio.sleep(0.1)
        assert world.reconciler.stale_since is None
    assert world.stale_changes == 1


async def test_nodes_are_listed_where_they_are_needed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks before the first listing gets them from Swarm; later ones are answered from what is known."""
    world = World()
    monkeypatch.setattr(world.reconciler.cache, "_reserved", pytest.fail)  # each run asks: no look at every task
    for _ in range(2):
        await world.reconciler.require_nodes()
        assert set(world.reconciler.cache.nodes.listed) == {"n1"}
    assert world.swarm.calls.count(("nodes",)) == 1


async def test_what_was_made_is_known_before_its_id_is_told() -> None:
    """With its record and `created`, and its intent settled; a listing that began before does not take it away."""
    world = World()
    async with world.running():
        world.swarm.there = [service()]  # a busy machine may look at it before the next line
        await world.reconciler.adopt_service("s1", service()["Spec"], "nonce")
        assert world.words() == ["service.created"]
        assert world.journal.settled == ["nonce"]
        found = world.reconciler.cache.find("s1")
        assert found is not None
        assert (found.status, found.name) == ("pending", "one")


async def test_a_run_that_cannot_be_written_is_not_told() -> None:
    """Whoever asked for it is told that; nobody else hears of it."""
    world = World()
    async with world.running():
        world.journal.full = True
        with pytest.raises(JournalUnwritable):
            await world.reconciler.adopt_service("s1", service()["Spec"], "nonce")
        assert (world.words(), world.journal.settled) == ([], [])


async def test_a_node_that_is_down_makes_its_services_unknown() -> None:
    """With the reason node_down; and back."""
    world = World()
    world.put(live("running"))
    async with world.running():
        for state, status in (("down", "unknown"), ("ready", "running")):
            world.swarm.its_nodes = [node(state=state)]
            world.reconciler.hint(Change("node", "n1"))
            await until(lambda status=status: world.reconciler.cache.services()[0].status == status)  # type: ignore[misc]
        await until(lambda: world.words("n1") == ["node.joined", "node.down", "node.ready"])
    assert world.words() == ["service.created", "task.running", "service.running", "service.updated", "service.running"]
    assert [view.reason for view in world.told if view.status == "unknown"] == ["node_down"]


async def test_a_container_of_ours_is_told_and_others_are_not() -> None:
    """By hints, as containers have no sweeps."""
    world = World()
    async with world.running():
        world.containers.there = [container("ours"), container("foreign", "other", ours=False)]
        for name in ("ours", "foreign"):
            world.reconciler.hint(Change("container", name))
        await until(lambda: world.words("ours") == ["service.created", "service.running"])
        world.containers.there = [container("ours", state={"Status": "exited", "ExitCode": 4})]
        world.reconciler.hint(Change("container", "ours"))
        await until(lambda: "service.failed" in world.words("ours"))
    assert world.words("foreign") == []


@pytest.mark.parametrize(
    ("seen", "is_now", "inspected"),
    [("running", "running", 2), ("running", "exited", 2), ("exited", "running", 2), ("exited", "exited", 1)],
)
async def test_a_container_that_has_ended_is_inspected_once(seen: str, is_now: str, inspected: int) -> None:
    """A full listing of many thousands is one call then; one that runs again is told."""
    world = World()
    for state in (seen, is_now):
        world.containers.there = [container("ours", state={"Status": state})]
        await world.reconciler._list_containers(0.0)
    assert world.containers.names().count("container") == inspected
    assert world.reconciler.cache.services()[0].status == {"running": "running", "exited": "complete"}[is_now]


async def test_a_key_is_of_a_name_and_not_of_an_id() -> None:
    """What has that id by chance is not the key's run."""
    world = World()
    world.put(ended("failed", 3), live("running", CreatedAt=LATER) | {"ID": "t2"}, Labels={"io.qmaster.body": "digest"})
    async with world.running():
        found = world.reconciler.cache.keyed("one")
        assert world.reconciler.cache.keyed("s1") is None
        assert [each.id for each in world.reconciler.cache.earlier("s1")] == ["t1"]
    assert found is not None
    assert (found[0].id, found[1]) == ("s1", "digest")


async def test_many_at_once_are_listed_together() -> None:
    """A burst of hints is one listing of tasks and one of services, not one each."""
    world = World()
    world.swarm.there = [service(f"s{n}", f"name-{n}") for n in range(100)]
    await world.reconciler._look_at(Due(services=[f"s{n}" for n in range(100)]))
    assert [(name, len(ids)) for name, *ids in world.swarm.calls] == [("tasks", 100), ("services", 100)]
    assert {view.created_at for view in world.reconciler.cache.services()} == {CREATED}
    assert len(world.reconciler.cache.services()) == 100


@pytest.mark.parametrize(
    ("tasks", "read"),
    [
        ((live("running", Version={"Index": 2}),), False),
        ((live("starting"), live("preparing", CreatedAt=LATER) | {"ID": "t2"}), True),
        ((ended("failed", 3),), True),
        ((), True),
    ],
    ids=["moved", "new", "ended", "missing"],
)
async def test_the_service_is_read_where_a_task_is_new_ended_or_missing(tasks: tuple[Json, ...], read: bool) -> None:
    """It may be that it was changed: all else its tasks tell."""
    world = World()
    world.put(live("starting"))
    await world.reconciler._list_some({"s1"}, {"s1"}, 0.0)
    world.swarm.calls.clear()
    world.put(*tasks)
    await world.reconciler._list_some({"s1"}, set(), 1.0)
    assert world.swarm.names() == ["tasks", "services"] if read else ["tasks"]
    (view,) = world.reconciler.cache.services()
    assert [each.state for each in view.tasks] == [each["Status"]["State"] for each in tasks][-1:]


@pytest.mark.parametrize("adopted", [True, False])
async def test_what_is_young_is_looked_at_in_a_moment(adopted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who made it, or its first hint, has said so already: the hints that follow wake nobody."""
    monkeypatch.setattr(schedule, "SOON", 0.1)
    world = World()
    async with world.running():
        began = time.monotonic()
        if adopted:
            await world.reconciler.adopt_service("s1", service()["Spec"], "nonce")
        else:
            world.reconciler.hint(Change("service", "s1"))
        world.put(live("starting"))
        await until(lambda: not world.reconciler._wake.is_set())
        for _ in range(3):
            world.reconciler.hint(Change("service", "s1"))
            assert not world.reconciler._wake.is_set()
        await until(lambda: "task.starting" in world.words())
        assert time.monotonic() - began >= 0.1
    assert world.swarm.names().count("services") == 2


async def test_a_change_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a service that was not young any more another change may come soon."""
    monkeypatch.setattr(schedule, "LATER", 0.01)
    world = World()
    world.put(live("starting"))
    async with world.running():
        await until(lambda: not world.reconciler._schedule.young)
        monkeypatch.setattr(schedule, "LATER", 1.0)
        world.put(live("running"))
        await until(lambda: "service.running" in world.words())
        assert set(world.reconciler._schedule.young) == {"s1"}


@pytest.mark.parametrize("known", [True, False])
async def test_what_is_gone_is_told_soon(known: bool) -> None:
    """Also of what had its first look before; of what was never known nothing is told."""
    world = World()
    async with world.running():
        if known:
            await world.reconciler.adopt_service("s1", service()["Spec"], "nonce")
        world.reconciler.hint(Change("service", "s1", 1_700_000_000.5, True))
        await until(lambda: "services" in world.swarm.names()[4:])
        await until(lambda: not known or "service.removed" in world.words())
    assert known or world.words() == []


async def test_who_hears_of_a_change_acts_for_nobody() -> None:
    """What a listener begins, and logs, is not the request's whose commit has told the change: it may be another's."""
    world = World()
    seen: list[Json] = []
    world.publisher.listeners.append(lambda view: seen.append(structlog.contextvars.get_contextvars()))
    with structlog.contextvars.bound_contextvars(request="r-1"):
        await world.reconciler.load()
        await world.reconciler.adopt_service("s1", service()["Spec"], "nonce")
    assert seen == [{}]


async def test_no_intent_is_settled_before_what_it_has_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where many are told in several transactions, and a run is adopted in the middle of them."""
    monkeypatch.setattr(publisher, "MOST_AT_ONCE", 1)
    world = World()
    await world.reconciler.load()
    for number in range(4):
        world.reconciler.cache.list_service(service(f"s{number}", f"name-{number}"), [], 1.0)
    telling = asyncio.create_task(world.publisher.commit())
    await asyncio.sleep(0)
    spec = service("a", "adopted")["Spec"]
    adopting = asyncio.create_task(world.reconciler.adopt_service("a", spec, "nonce"))
    while not telling.done():
        assert "nonce" not in world.journal.settled or "a" in world.journal.kept
        await asyncio.sleep(0)
    await adopting
    assert (world.journal.settled, set(world.journal.kept)) == (["nonce"], {"s0", "s1", "s2", "s3", "a"})
    assert [one.sequence for one in world.published] == list(range(1, len(world.journal.written) + 1))


async def test_what_cannot_be_told_in_the_middle_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the intent that was to be settled with it."""
    monkeypatch.setattr(publisher, "MOST_AT_ONCE", 1)
    world = World()
    await world.reconciler.load()
    for number in range(3):
        world.reconciler.cache.list_service(service(f"s{number}", f"name-{number}"), [], 1.0)
    adopting = asyncio.create_task(world.reconciler.adopt_service("a", service("a", "adopted")["Spec"], "nonce"))
    while not world.journal.kept:  # noqa: ASYNC110 - a turn of the loop at a time
        await asyncio.sleep(0)
    world.journal.full = True
    with pytest.raises(JournalUnwritable):
        await adopting
    assert world.journal.settled == []
    world.journal.full = False
    await world.publisher.commit(["nonce"])
    assert (world.journal.settled, set(world.journal.kept)) == (["nonce"], {"s0", "s1", "s2", "a"})
