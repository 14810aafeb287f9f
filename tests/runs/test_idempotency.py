"""IdempotencyStore: a run under a key is started once, whoever asks again."""

import asyncio

import msgspec
import pytest
from fakes import CREATED, service
from swarm_cases import NODES, NOW

from qmaster.errors import Conflict, EngineAway, KeyReused, PortTaken
from qmaster.events.journal import Journal
from qmaster.models.requests import Key, Started
from qmaster.models.responses import Service
from qmaster.runs import idempotency
from qmaster.runs.idempotency import IdempotencyStore
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.reconciler import Reconciler
from qmaster.runs.views import status

pytestmark = pytest.mark.gen_test

KEY, OTHER_BODY, OTHER_KEY = Key("qm-1", "body"), Key("qm-1", "other"), Key("qm-2", "body")
Named = dict[str, tuple[Service, str]]  # name → run and digest
RUN = status.service(service(), [], NODES, NOW)


def run(run_id: str = "id-qm-1", **fields: object) -> Service:
    return msgspec.structs.replace(RUN, id=run_id, **fields)


class FakeJournal(Journal):
    def __init__(self) -> None:
        self.kept: Named = {}

    async def keyed(self, name: str) -> tuple[bytes, str] | None:
        await asyncio.sleep(0)
        kept = self.kept.get(name)
        return (msgspec.json.encode(kept[0]), kept[1]) if kept else None


class FakeCache(RunCache):
    def __init__(self, viewed: Named) -> None:
        self.viewed = viewed

    def keyed(self, name: str) -> tuple[Service, str] | None:
        return self.viewed.get(name)


class FakeReconciler(Reconciler):
    """``viewed`` is what it knows, ``there`` what the engine has."""

    def __init__(self) -> None:
        self.viewed: Named = {}
        self.there: Named = {}
        self.looked_at: Service | None = None
        self.cache = FakeCache(self.viewed)

    async def look_up(self, name_or_id: str) -> Service | None:
        await asyncio.sleep(0)
        if name_or_id not in self.there:
            return None
        self.viewed[name_or_id] = self.there[name_or_id]
        return RUN

    async def look_at_container(self, container_id: str) -> None:
        for name in [name for name, (view, _) in self.viewed.items() if view.id == container_id]:
            view, body = self.viewed[name]
            self.viewed[name] = (self.looked_at or view, body)


class Components:
    """Starting takes a while; where ``error`` is set it comes to nothing."""

    def __init__(self) -> None:
        self.journal, self.reconciler = FakeJournal(), FakeReconciler()
        self.store = IdempotencyStore(self.journal, self.reconciler)
        self.starts = 0
        self.error: Exception | None = None

    async def once(self, key: Key = KEY) -> Started:
        async def start() -> Started:
            self.starts += 1
            await asyncio.sleep(0.01)
            if self.error:
                raise self.error
            self.reconciler.viewed[key.name] = (run(f"id-{key.name}"), key.body)
            return Started(f"id-{key.name}")

        return await self.store.once(key, start)


async def test_the_first_call_starts_it_and_the_next_is_told_of_it() -> None:
    """The same id; the second answer is a replay."""
    parts = Components()
    assert await parts.once() == Started("id-qm-1", False)
    assert await parts.once() == Started("id-qm-1", True)
    assert parts.starts == 1


async def test_calls_at_the_same_time_start_one() -> None:
    """All get its id; one of them has started it."""
    parts = Components()
    answers = await asyncio.gather(*(parts.once() for _ in range(20)))
    assert {answer.id for answer in answers} == {"id-qm-1"}
    assert sorted(answer.replayed for answer in answers) == [False, *[True] * 19]
    assert parts.starts == 1


async def test_one_that_hangs_up_takes_nothing_along() -> None:
    """What was begun is finished for those who still wait."""
    parts = Components()
    first = asyncio.create_task(parts.once())
    await asyncio.sleep(0)
    second = asyncio.create_task(parts.once())
    await asyncio.sleep(0.001)
    first.cancel()
    assert (await second).id == "id-qm-1"
    assert parts.starts == 1


async def test_another_body_is_refused() -> None:
    """Also while the first is in flight."""
    parts = Components()
    first = asyncio.create_task(parts.once())
    await asyncio.sleep(0)
    with pytest.raises(KeyReused):
        await parts.once(OTHER_BODY)
    await first
    with pytest.raises(KeyReused):
        await parts.once(OTHER_BODY)
    assert parts.starts == 1


async def test_other_keys_are_other_runs() -> None:
    """Even with the same body."""
    parts = Components()
    assert {(await parts.once(key)).id for key in (KEY, OTHER_KEY)} == {"id-qm-1", "id-qm-2"}


async def test_the_journal_remembers_what_is_removed() -> None:
    """A key lives as long as the record."""
    parts = Components()
    parts.journal.kept["qm-1"] = (run("old"), "body")
    assert await parts.once() == Started("old", True)
    with pytest.raises(KeyReused):
        await parts.once(OTHER_BODY)
    assert parts.starts == 0


async def test_what_another_quartermaster_started_is_found_by_its_name() -> None:
    """The swarm refuses the second of two equal names; then its labels say whether it was the same request."""
    parts = Components()
    parts.error, parts.reconciler.there["qm-1"] = Conflict("taken"), (run("theirs"), "body")
    assert await parts.once() == Started("theirs", True)
    parts.reconciler.viewed.clear()
    with pytest.raises(KeyReused):
        await parts.once(OTHER_BODY)


async def test_a_foreign_service_of_that_name_is_a_conflict() -> None:
    """It has no digest: it is nobody's answer."""
    parts = Components()
    parts.error, parts.reconciler.there["qm-1"] = Conflict("taken"), (run("foreign"), "")
    with pytest.raises(Conflict, match="taken by something else"):
        await parts.once()


async def test_what_another_quartermaster_is_starting_shows_a_little_later() -> None:
    """Docker takes a container's name before it shows the container."""
    parts = Components()
    parts.error = Conflict("taken")
    asking = asyncio.create_task(parts.once())
    await asyncio.sleep(0.01)
    parts.reconciler.there["qm-1"] = (run("theirs"), "body")
    assert await asking == Started("theirs", True)


async def test_a_port_that_is_taken_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for a run of this key; one that has the port is there, and is the answer."""
    monkeypatch.setattr(idempotency, "LOOK_AGAIN", (0.0, 60.0))
    parts = Components()
    parts.error = PortTaken("ports: 80 is taken")
    async with asyncio.timeout(30):
        with pytest.raises(PortTaken):
            await parts.once()
        parts.reconciler.there["qm-1"] = (run("theirs"), "body")
        assert await parts.once() == Started("theirs", True)


async def test_what_had_the_name_and_went_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of it, so the caller may try again."""
    monkeypatch.setattr("qmaster.runs.idempotency.LOOK_AGAIN", (0.0, 0.01))
    parts = Components()
    parts.error = Conflict("taken")
    with pytest.raises(Conflict):
        await parts.once()


async def test_a_failure_is_everyones_and_is_not_kept() -> None:
    """Those who waited for it are told; who comes later tries anew."""
    parts = Components()
    parts.error = EngineAway("away")
    answers = await asyncio.gather(parts.once(), parts.once(), return_exceptions=True)
    assert [type(answer) for answer in answers] == [EngineAway, EngineAway]
    parts.error = None
    assert await parts.once() == Started("id-qm-1", False)
    assert parts.starts == 2


NOTHING = run(type="container", status="removed", reason="rejected")


async def test_what_could_not_be_started_is_tried_again() -> None:
    """Its first call was answered with an error, so the next is not told that it runs: of the journal or the view."""
    parts = Components()
    parts.journal.kept["qm-1"] = (NOTHING, "body")
    assert await parts.once() == Started("id-qm-1", False)
    parts.journal.kept["qm-1"] = (run(type="container", status="preparing"), "body")  # its end is still to be told
    parts.reconciler.viewed["qm-1"] = (NOTHING, "body")
    assert await parts.once() == Started("id-qm-1", False)
    assert parts.starts == 2


async def test_what_was_not_seen_to_start_is_looked_at_before_it_counts() -> None:
    """The view may be a moment behind the removal of what could not start."""
    parts = Components()
    parts.reconciler.viewed["qm-1"] = (run(type="container", status="preparing"), "body")
    assert await parts.once() == Started("id-qm-1", True)
    parts.reconciler.looked_at = NOTHING
    assert await parts.once() == Started("id-qm-1", False)
    assert parts.starts == 1


@pytest.mark.parametrize("view", [run(status="pending"), run(type="container", status="running", started_at=CREATED)])
async def test_what_runs_or_is_a_service_is_not_looked_at(view: Service) -> None:
    """It is the key's run, and the engine is not asked of it."""
    parts = Components()
    parts.reconciler.viewed["qm-1"] = (view, "body")
    parts.reconciler.looked_at = NOTHING
    assert await parts.once() == Started("id-qm-1", True)


async def test_what_was_removed_unseen_or_stopped_counts() -> None:
    """A service may have run between two looks; a container has; and who has stopped one knew of it."""
    parts = Components()
    replace = msgspec.structs.replace
    for view in (run(status="removed"), replace(NOTHING, started_at=CREATED), replace(NOTHING, reason="stopped")):
        parts.journal.kept["qm-1"] = (view, "body")
        assert (await parts.once()).replayed
    assert parts.starts == 0
