"""RunService: run, stop and status, over an engine, a journal, a cache and a reaper that note what they are asked."""

import asyncio
from typing import Any

import msgspec
import pytest
from fakes import (
    AUTH,
    CONTAINER_ID,
    CREATED,
    DIGEST,
    LATER,
    Fake,
    FakeContainers,
    FakeSwarm,
    container,
    grant,
    run,
    service,
)
from msgspec.structs import replace
from run_service_cases import SEEN, FakeJournal, FakeReconciler, outcome

from qmaster.auth.authenticator import Identity
from qmaster.engine import Engine, ports, spec
from qmaster.engine.containers import OwnContainer
from qmaster.engine.spec import Defaults, Instance, Job
from qmaster.errors import (
    BadRequest,
    Conflict,
    EngineAway,
    EngineRefused,
    Forbidden,
    HttpError,
    JournalUnwritable,
    NotFound,
    PortTaken,
    RegistryRefused,
)
from qmaster.events.rows import Intent
from qmaster.models import results
from qmaster.models.requests import Key, Started
from qmaster.models.responses import Result, Service, Status
from qmaster.runs.callbacks import CallbackStore
from qmaster.runs.listing import Listing, ListQuery
from qmaster.runs.reaper import Reaper
from qmaster.runs.recovery import Recovery
from qmaster.runs.service import RunService
from qmaster.runs.starter import RunConfig, RunStarter
from qmaster.runs.views import container_status
from qmaster.runs.views.run_view import OVER

pytestmark = pytest.mark.gen_test

OWN = "f" * 64
ROOT = Identity("root")
ALICE = Identity("alice", grant(networks=frozenset({"a", "b"}), secrets=frozenset({"c"})))
BOX = container_status.container(container())


class FakeEngine(Engine):
    def __init__(self, swarm: FakeSwarm, containers: FakeContainers) -> None:
        self.swarm, self.containers = swarm, containers


class FakeReaper(Fake, Reaper):
    async def stop(self, view: Service) -> None:
        self.noted("stop", view.id)


class FakeRecovery(Recovery):
    def __init__(self, journal: FakeJournal) -> None:
        self.open: list[Intent] = []
        self.callbacks = CallbackStore(journal)

    def look_for(self, intent: Intent) -> None:
        self.open.append(intent)


class Components:
    """What starts, shows and stops runs, and all that it was given."""

    def __init__(self, *views: Service, own: str | None = None) -> None:
        self.swarm, self.containers = FakeSwarm(), FakeContainers()
        self.journal, self.reconciler, self.reaper = FakeJournal(), FakeReconciler(*views), FakeReaper()
        self.recovery = FakeRecovery(self.journal)
        own_container = OwnContainer(self.containers, self.swarm, own)
        self.starter = RunStarter(
            FakeEngine(self.swarm, self.containers),
            self.journal,
            self.reconciler,
            self.recovery,
            own_container,
            RunConfig(Defaults(250)),
        )
        callbacks = self.recovery.callbacks
        self.run_service = RunService(self.journal, self.reconciler, self.reaper, callbacks, own_container)
        self.listing = Listing(self.journal, self.reconciler.cache)

    def engine_calls(self) -> list[str]:
        return self.swarm.names() + self.containers.names()


def brief(text: bytes) -> Result:
    return results.result(results.decode(outcome(text)), results.BRIEF)


async def test_one_status_has_all_that_is_kept_of_the_output() -> None:
    """A listing has its end; where that is all, the journal is not asked."""
    short = replace(SEEN, status="complete", result=brief(b"short"))
    parts = Components(short, replace(SEEN, id="s2", name="two", status="complete", result=brief(b"x" * 5000)))
    parts.journal.outcomes = {"s2": outcome(b"x" * 5000)}
    assert (await parts.run_service.status("s1", ROOT)).result == short.result
    assert "outcome" not in parts.journal.names()
    whole = (await parts.run_service.status("two", ROOT)).result
    assert whole
    assert (whole.stdout, whole.truncated) == ("x" * 5000, False)


async def test_what_was_read_after_the_end_was_told_is_shown() -> None:
    """The service was removed by somebody else as its output was being read."""
    parts = Components()
    parts.journal.stored["s1"] = replace(SEEN, status="removed")
    parts.journal.outcomes["s1"] = outcome(b"late")
    found = (await parts.run_service.status("s1", ROOT)).result
    assert found
    assert found.stdout == "late"


async def test_a_journal_that_cannot_be_read_hides_no_status() -> None:
    """What is known is shown."""
    parts = Components(replace(SEEN, status="complete", result=brief(b"x" * 5000)))
    parts.journal.fails["outcome"] = JournalUnwritable("torn")
    shown = (await parts.run_service.status("s1", ROOT)).result
    assert shown
    assert (len(shown.stdout), shown.truncated) == (results.BRIEF, True)


async def test_who_waits_is_told_of_the_end() -> None:
    """With the whole result; when the time has passed, of what there is."""
    parts = Components(SEEN)
    left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert await parts.run_service.when_over("s1", 0.01, left, ROOT) == SEEN
    waiting = asyncio.create_task(parts.run_service.when_over(SEEN.name, 60, left, ROOT))
    await asyncio.sleep(0.01)
    over = replace(SEEN, status="complete", result=brief(b"said"))
    parts.reconciler.cache.views = [over]
    parts.run_service.waiters.notice(over)
    async with asyncio.timeout(5):
        assert await waiting == over
    with pytest.raises(NotFound):
        await parts.run_service.when_over("nobody", 60, left, ROOT)


@pytest.mark.parametrize("kind", ["service", "container"])
async def test_a_run_under_a_key_is_named_by_it(kind: str) -> None:
    """Its labels keep the key and the body's digest; the second call makes nothing."""
    parts, key = Components(), Key("qm-1", "digest")
    first = await parts.starter.run(run(type=kind), ROOT, key)
    made = parts.swarm if kind == "service" else parts.containers
    (create,) = [call for call in made.calls if call[0] == "create"]
    assert create[2 if kind == "container" else 1] == "qm-1" or create[1]["Name"] == "qm-1"
    labels = create[1]["Labels"]
    assert (labels["io.qmaster.key"], labels["io.qmaster.body"]) == ("qm-1", "digest")
    parts.journal.keys["qm-1"] = (msgspec.json.encode(replace(SEEN, id=first.id)), "digest")
    again = await parts.starter.run(run(type=kind), ROOT, key)
    assert (again, made.names().count("create")) == (first._replace(replayed=True), 1)


async def test_a_keyed_run_whose_outcome_is_open_is_looked_for_by_its_key() -> None:
    """So that it is adopted, not removed."""
    parts = Components()
    parts.swarm.fails["create"] = EngineAway("away")
    with pytest.raises(EngineAway):
        await parts.starter.run(run(), ROOT, Key("qm-1", "digest"))
    (intent,) = parts.recovery.open
    assert (intent.name, intent.keyed) == ("qm-1", True)


async def test_a_service_is_created_pinned_and_owned() -> None:
    """Its image with the registry's digest, the owner in a label; the answer is Swarm's id."""
    parts = Components()
    assert (await parts.starter.run(run(name="one", networks=["a", "b"], secrets=["c"]), ALICE)).id == "s-new"
    (_, body, credentials) = parts.swarm.calls[-1]
    assert credentials is None
    assert body["TaskTemplate"]["ContainerSpec"]["Image"] == f"docker.io/library/busybox:latest@{DIGEST}"
    assert body["Labels"]["io.qmaster.owner"] == "alice"
    assert [network["Target"] for network in body["TaskTemplate"]["Networks"]] == ["id-a", "id-b"]
    assert body["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["SecretID"] == "id-c"


async def test_a_containers_answer_is_its_id() -> None:
    """Created on this engine, not in the swarm."""
    parts = Components()
    assert (await parts.starter.run(run(type="container", name="one"), ROOT)).id == "c-new"
    assert parts.swarm.calls == []
    assert [call[2] for call in parts.containers.calls if call[0] == "create"] == ["one"]


@pytest.mark.parametrize("kind", ["service", "container"])
async def test_the_intent_is_written_before_the_engine_is_asked(kind: str) -> None:
    """With the nonce that the run carries: an acknowledged run is never lost. The reconciler closes it."""
    parts = Components()
    parts.journal.fails["intend"] = JournalUnwritable("full")
    with pytest.raises(JournalUnwritable):
        await parts.starter.run(run(type=kind), ROOT)
    assert "create" not in parts.engine_calls()
    parts.journal.fails.clear()
    run_id = (await parts.starter.run(run(type=kind, name="one"), ROOT)).id
    (intent,) = parts.journal.intents.values()
    made = next(call[1] for fake in (parts.swarm, parts.containers) for call in fake.calls if call[0] == "create")
    assert (intent.name, intent.nonce) == ("one", made["Labels"]["io.qmaster.run"])
    assert parts.reconciler.calls == [(f"adopt_{kind}", run_id, intent.nonce)]


@pytest.mark.parametrize("kind", ["service", "container"])
@pytest.mark.parametrize(
    ("error", "settled"),
    [(Conflict("x"), True), (BadRequest("x"), True), (EngineRefused("x"), False), (EngineAway("x"), False)],
)
async def test_an_intent_stays_only_where_its_outcome_is_open(kind: str, error: HttpError, settled: bool) -> None:
    """Recovery looks for what may have been made; a clear no needs no looking."""
    parts = Components()
    parts.swarm.fails["create"] = parts.containers.fails["create"] = error
    with pytest.raises(type(error)):
        await parts.starter.run(run(type=kind), ROOT)
    assert (parts.journal.intents == {}) is settled
    assert parts.recovery.open == list(parts.journal.intents.values())


@pytest.mark.parametrize("kind", ["service", "container"])
async def test_what_cannot_be_journalled_is_removed(kind: str) -> None:
    """Nobody was told of it: 507, and it does not go on running."""
    parts = Components()
    parts.reconciler.fails[f"adopt_{kind}"] = JournalUnwritable("full")
    with pytest.raises(JournalUnwritable):
        await parts.starter.run(run(type=kind), ROOT)
    assert parts.engine_calls()[-1] == "remove"


@pytest.mark.parametrize("kind", ["service", "container"])
async def test_under_a_key_it_stays_for_whoever_asks_again(kind: str) -> None:
    """Else the next call would be told of a run that was removed before it did anything."""
    parts = Components()
    parts.reconciler.fails[f"adopt_{kind}"] = JournalUnwritable("full")
    with pytest.raises(JournalUnwritable):
        await parts.starter.run(run(type=kind), ROOT, Key("qm-1", "digest"))
    assert parts.engine_calls()[-1] == "create"
    assert [intent.keyed for intent in parts.recovery.open] == [True]


@pytest.mark.parametrize("kind", ["service", "container"])
async def test_credentials_go_along_with_each_call(kind: str) -> None:
    """To whoever pulls, and to nothing else."""
    parts = Components()
    await parts.starter.run(run(type=kind, auth=AUTH), ROOT)
    calls = parts.swarm.calls + parts.containers.calls
    sent = [call[-1] for call in calls if call[0] in ("pin", "create")]
    assert sent
    assert all(credentials.username == "someone" for credentials in sent)


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("pin", RegistryRefused("no")),
        ("network_ids", BadRequest("networks: none")),
        ("secret_ids", BadRequest("secrets: none")),
    ],
)
async def test_what_is_wrong_fails_before_the_service_exists(where: str, error: HttpError) -> None:
    """Wrong credentials, an unknown network or secret: nothing is created; the error is the one that was raised."""
    parts = Components()
    parts.swarm.fails[where] = error
    with pytest.raises(type(error)):
        await parts.starter.run(run(auth=AUTH), ROOT)
    assert "create" not in parts.swarm.names()


async def test_what_has_ended_takes_no_place_of_those_that_may_run() -> None:
    """Nor what is another's; it stays in the view for as long as its record is kept."""
    others = [replace(SEEN, id=status, name=status, status=status, owner="bob") for status in OVER]
    parts = Components(*others, replace(SEEN, owner="alice"))
    one = Identity("bob", grant("bob", max_running=1))
    assert (await parts.starter.run(run(), one)).id == "s-new"
    parts.reconciler.cache.views.append(replace(SEEN, name="second", owner="bob"))
    with pytest.raises(Forbidden, match="max_running"):
        await parts.starter.run(run(), one)


@pytest.mark.parametrize(("there", "wanted"), [("service", "container"), ("container", "service")])
async def test_a_name_is_unique_across_services_and_containers(there: str, wanted: str) -> None:
    """Docker would take both, and nobody could say which is meant.

    What is removed has no name any more, of its own type Docker itself refuses a second, and an id is no name.
    """
    parts = Components(replace(SEEN, name="mine", type=there))
    with pytest.raises(Conflict, match=r"^the name 'mine' is taken"):
        await parts.starter.run(run(type=wanted, name="mine"), ROOT)
    assert not parts.engine_calls()
    for other in ({"status": "removed"}, {"type": wanted}, {"id": "mine", "name": "theirs"}):
        parts = Components(replace(SEEN, **{"name": "mine", "type": there, **other}))
        assert await parts.starter.run(run(type=wanted, name="mine"), ROOT)


async def test_a_name_is_unique_among_what_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused while the first is on its way."""
    parts = Components()

    async def create(*given: Any) -> str:
        with pytest.raises(Conflict, match=r"^the name 'mine' is taken"):
            await parts.starter.run(run(type="container", name="mine"), ROOT)
        assert not parts.containers.names()
        await parts.starter.run(run(type="container", name="other"), ROOT)
        return "s-new"

    monkeypatch.setattr(parts.swarm, "create", create)
    assert (await parts.starter.run(run(name="mine"), ROOT)).id == "s-new"
    assert "create" in parts.containers.names()


@pytest.mark.parametrize("kind", ["service", "container"])
@pytest.mark.parametrize("taken", [1, 4])
async def test_a_chosen_name_that_is_taken_is_chosen_again(
    monkeypatch: pytest.MonkeyPatch, kind: str, taken: int
) -> None:
    """With a nonce of its own, and no open intent of the names before; the caller is told nothing."""
    parts, asked = Components(), list[str]()
    made = parts.containers if kind == "container" else parts.swarm

    async def create(body: Any, *given: Any) -> str:
        asked.append(given[0] if kind == "container" else body["Name"])
        if len(asked) <= taken:
            raise Conflict("rpc error: name conflicts with an existing object")
        return "made"

    monkeypatch.setattr(made, "create", create)
    assert await parts.starter.run(run(type=kind), ROOT) == Started("made")
    assert len(set(asked)) == taken + 1
    (intent,) = parts.journal.intents.values()
    assert intent.name == asked[-1]
    assert parts.reconciler.calls[-1] == (f"adopt_{kind}", "made", intent.nonce)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["service", "container"])
@pytest.mark.parametrize(
    ("given", "key", "error", "tries"),
    [
        ({}, None, Conflict("name conflicts with an existing object"), 5),
        ({"name": "mine"}, None, Conflict("name conflicts with an existing object"), 1),
        ({}, Key("qm-1", "digest"), Conflict("name conflicts with an existing object"), 1),
        ({}, None, PortTaken("ports: 80 is taken"), 1),
        ({}, None, EngineRefused("no"), 1),
    ],
)
async def test_other_refusals_are_told_at_once(
    kind: str, given: dict[str, Any], key: Key | None, error: HttpError, tries: int
) -> None:
    """A name that was given, or is a key's, is not changed; and five chosen ones are enough."""
    parts = Components()
    parts.swarm.fails["create"] = parts.containers.fails["create"] = error
    with pytest.raises(type(error)):
        await parts.starter.run(run(type=kind, **given), ROOT, key)
    assert parts.engine_calls().count("create") == tries


async def test_a_chosen_name_is_unique_across_services_and_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker would take both."""
    names = iter(["bbbbbb", "cccccc"])
    monkeypatch.setattr(spec, "_letters", lambda: next(names))
    parts = Components(replace(SEEN, name="busybox-bbbbbb", type="container"))
    await parts.starter.run(run(), ROOT)
    assert [call[1]["Name"] for call in parts.swarm.calls if call[0] == "create"] == ["busybox-cccccc"]


@pytest.mark.parametrize("kind", ["service", "container"])
async def test_a_name_that_is_taken_is_named(kind: str) -> None:
    """409 says which, and what to do; Docker's own words are left out."""
    parts = Components()
    taken = Conflict("rpc error: name conflicts with an existing object")
    parts.swarm.fails["create"] = parts.containers.fails["create"] = taken
    with pytest.raises(Conflict, match=r"^the name 'mine' is taken"):
        await parts.starter.run(run(type=kind, name="mine"), ROOT)


@pytest.mark.parametrize("asked", ["s1", "one"])
async def test_what_is_in_the_view_is_not_asked_of_the_engine(asked: str) -> None:
    """By id and by name."""
    parts = Components(SEEN)
    assert await parts.run_service.status(asked, ROOT) == SEEN
    assert parts.engine_calls() == []
    assert parts.journal.calls == parts.reconciler.calls == []


async def test_what_is_removed_is_shown_from_its_record() -> None:
    """As it was written; a new service of its name hides it, but not its id."""
    parts = Components()
    gone = replace(SEEN, status="removed", reason="stopped", removed_at=LATER)
    parts.journal.stored = {"s1": gone, "one": gone}
    assert await parts.run_service.status("s1", ROOT) == await parts.run_service.status("one", ROOT) == gone
    parts.reconciler.cache.views.append(replace(SEEN, id="s9"))
    assert (await parts.run_service.status("one", ROOT)).id == "s9"
    assert (await parts.run_service.status("s1", ROOT)).status == "removed"


async def test_what_is_too_young_for_the_view_is_looked_up_once() -> None:
    """An id that is nowhere else is asked of the engine, and is a 404 only then."""
    parts = Components()
    parts.reconciler.young["s7"] = replace(SEEN, id="s7")
    assert (await parts.run_service.status("s7", ROOT)).id == "s7"
    with pytest.raises(NotFound, match="'s8'"):
        await parts.run_service.status("s8", ROOT)
    assert parts.reconciler.names() == ["look_up", "look_up"]
    with pytest.raises(NotFound, match=r"'f{64}'; a container is known only on its own engine"):
        await parts.run_service.status("f" * 64, ROOT)


async def test_an_engine_that_is_away_makes_nothing_unknown() -> None:
    """503, not 404."""
    parts = Components()
    parts.reconciler.fails["look_up"] = EngineAway("away")
    with pytest.raises(EngineAway):
        await parts.run_service.status("s1", ROOT)


async def test_a_journal_that_cannot_be_read_hides_nothing_that_is_there() -> None:
    """The engine still knows it."""
    parts = Components()
    parts.journal.fails["record"] = JournalUnwritable("broken")
    parts.reconciler.young["s1"] = SEEN
    assert await parts.run_service.status("s1", ROOT) == SEEN


@pytest.mark.parametrize("asked", ["", "..", "a/b", "a b", "a\n", "ä", "a?force=1", "-a", "x" * 256])
async def test_what_can_be_no_name_is_not_asked_of_anyone(asked: str) -> None:
    """It would land in the path of Docker's API."""
    parts = Components()
    for verb in (parts.run_service.status, parts.run_service.stop):
        with pytest.raises(NotFound):
            await verb(asked, ROOT)
    assert parts.engine_calls() == []
    assert parts.reconciler.calls == parts.journal.calls == []


@pytest.mark.parametrize(("asked", "run_id"), [("s1", "s1"), ("one", "s1"), (CONTAINER_ID, CONTAINER_ID)])
async def test_a_stop_is_handed_to_the_reaper(asked: str, run_id: str) -> None:
    """By id or by name; only that one."""
    parts = Components(replace(SEEN, id="s2", name="two"), SEEN, BOX)
    assert await parts.run_service.stop(asked, ROOT) == run_id
    assert parts.reaper.calls == [("stop", run_id)]


async def test_a_stop_of_what_is_removed_is_success_too() -> None:
    """And nothing is asked of the engine."""
    parts = Components()
    parts.journal.stored["one"] = replace(SEEN, status="removed")
    assert await parts.run_service.stop("one", ROOT) == "s1"
    assert parts.reaper.calls == parts.swarm.calls == []


async def test_a_stop_of_what_nobody_knows_is_a_404() -> None:
    """It is not taken for one that is removed."""
    parts = Components()
    with pytest.raises(NotFound):
        await parts.run_service.stop("one", ROOT)


async def test_a_stop_that_failed_is_told() -> None:
    """And the next tries again."""
    parts = Components(SEEN)
    parts.reaper.fails["stop"] = EngineAway("away")
    with pytest.raises(EngineAway):
        await parts.run_service.stop("s1", ROOT)
    parts.reaper.fails.clear()
    assert await parts.run_service.stop("s1", ROOT) == "s1"
    assert parts.reaper.names() == ["stop", "stop"]


@pytest.mark.parametrize("asked", ["one", "s1"])
async def test_it_does_not_stop_its_own_service(asked: str) -> None:
    """409 for the service that its container is a task of."""
    parts = Components(SEEN, own=OWN)
    parts.containers.there = [container(OWN, "me.1", ours=False, labels={"com.docker.swarm.service.id": "s1"})]
    with pytest.raises(Conflict, match="itself"):
        await parts.run_service.stop(asked, ROOT)
    assert parts.reaper.calls == []


async def test_it_does_not_stop_its_own_container() -> None:
    """409, also where the view does not know it, as quartermaster did not start itself; also where it did."""
    for views in ((), (replace(BOX, id=OWN, name="me"),)):
        parts = Components(*views, own=OWN)
        parts.containers.there = [container(OWN, "me", ours=bool(views))]
        for asked in (OWN, "me")[: 1 + len(views)]:
            with pytest.raises(Conflict, match="itself"):
                await parts.run_service.stop(asked, ROOT)
        assert parts.reaper.calls == []


async def test_it_stops_others_when_it_is_in_a_container() -> None:
    """Only itself is safe from it."""
    parts = Components(SEEN, own=OWN)
    parts.containers.there = [container(OWN, "me", ours=False)]
    assert await parts.run_service.stop("s1", ROOT) == "s1"


async def listed(parts: Components, wanted: ListQuery) -> list[Service]:
    found = parts.listing.parts(None, wanted)
    return [msgspec.json.decode(one, type=Service) async for part in found for one in part.rows]


async def test_a_listing_is_the_newest_first() -> None:
    """What is removed only where it is asked for, and nothing twice."""
    new = replace(SEEN, id="s2", name="two", created_at=LATER)
    gone = replace(SEEN, id="s0", name="gone", status="removed", created_at="2023-01-01T00:00:00.1Z")
    parts = Components(SEEN, new)
    parts.journal.stored = {"s0": gone, "s1": replace(SEEN, status="removed")}
    assert CREATED < LATER
    assert parts.listing.there(None, ListQuery()).views == [new, SEEN]
    assert await listed(parts, ListQuery(removed=True)) == [new, SEEN, gone]
    assert parts.engine_calls() == []


# --- ports ------------------------------------------------------------------------------------------------------------

HELD = "rpc error: code = InvalidArgument desc = port '8080' is already in use by service 'x' (s1) as an ingress port"


@pytest.mark.parametrize("by", [ROOT, Identity("bob", grant("bob", ports=(range(1, 65536),)))])
@pytest.mark.parametrize(
    "port", ["9393:80", "9443:80/tcp", "9494:80", "9595:1", "2377:80", "7946:80/udp", "4789:1/udp"]
)
async def test_the_ports_of_quartermaster_itself_are_refused(by: Identity, port: str) -> None:
    """Where it listens, where its container or its service is published, and Swarm's; to root too, and at once."""
    parts = Components(own=OWN)
    own = container(OWN, "me.1", ours=False, labels={"com.docker.swarm.service.id": "s-own"})
    own["HostConfig"] = {"PortBindings": {"9090/tcp": [{"HostIp": "", "HostPort": "9494"}], "9/tcp": None}}
    own["NetworkSettings"] = {"Ports": {"9090/tcp": [{"HostIp": "::", "HostPort": "9595"}], "1/tcp": None}}
    parts.containers.there = [own]
    published = {"Ports": [{"Protocol": "tcp", "TargetPort": 9090, "PublishedPort": 9443}]}
    parts.swarm.there = [{**service("s-own", "me"), "Endpoint": published}]
    parts.starter.listens_at(9393)
    with pytest.raises(Conflict, match=f"^ports: {port.partition(':')[0]}/"):
        await parts.starter.run(run(ports=["8080:80", port]), by)
    assert "create" not in parts.engine_calls()
    for other in ("9393:80/udp", "8080:9393", "2377:80/udp"):
        await parts.starter.run(run(ports=[other]), by)


@pytest.mark.parametrize(
    ("host", "port"),
    [("tcp://127.0.0.1:4243", 4243), ("tcp://host", 2375), ("ssh://user@host", 22), ("ssh://host:2222", 2222)],
)
def test_the_port_of_the_engine_is_reserved(host: str, port: int) -> None:
    """Swarm would publish it on the engine's node as well; a socket has none."""
    assert list(ports.of_engine(host)) == [(port, "tcp")]
    assert ports.of_engine("unix:///var/run/docker.sock") == ports.of_engine("") == {}


@pytest.mark.parametrize(
    ("status", "by", "says"),
    [
        ("complete", ROOT, "port 8080 is published by the run 'one' (id s1), which has ended: stop it"),
        ("running", ROOT, "port 8080 is published by the run 'one' (id s1): stop it"),
        ("complete", Identity("alice", grant(ports=(range(1, 65536),))), "ports: 8080 is taken: choose another"),
    ],
)
async def test_a_port_that_a_run_holds_is_a_conflict(status: Status, by: Identity, says: str) -> None:
    """The run is named to who may see it; and nothing is looked for later."""
    parts = Components(replace(SEEN, status=status, owner="bob"))
    parts.swarm.fails["create"] = BadRequest(f"the Docker engine refused: {HELD}")
    with pytest.raises(PortTaken) as raised:
        await parts.starter.run(run(ports=["8080:80"]), by)
    assert says.removeprefix("port ") in str(raised.value)
    assert (parts.recovery.open, parts.journal.intents) == ([], {})


# -- instances of functions

MADE = Instance("hello", 3, "config-1", f"busybox@{DIGEST}", 1, "s3cret", "10.0.0.9", 9091)


async def test_an_instance_runs_what_was_pinned() -> None:
    """No registry is asked; its service is named after the function, and its intent is settled."""
    parts = Components()
    await parts.starter.start_instance(run(image="busybox"), ROOT, MADE, None)
    assert "pin" not in parts.swarm.names()
    [(_, body, credentials)] = [call for call in parts.swarm.calls if call[0] == "create"]
    assert body["TaskTemplate"]["ContainerSpec"]["Image"] == MADE.image
    assert body["Name"].startswith("hello-")
    assert credentials is None


async def test_an_instance_has_its_publisher_s_policy_and_credentials() -> None:
    """As they are at this start."""
    parts = Components()
    publisher = Identity("alice", grant(max_memory=64, constraints=["node.labels.team==blue"]))
    await parts.starter.start_instance(run(image="busybox"), publisher, MADE, run(auth=AUTH).credentials())
    [(_, body, credentials)] = [call for call in parts.swarm.calls if call[0] == "create"]
    assert body["Labels"]["io.qmaster.owner"] == "alice"
    assert body["TaskTemplate"]["Resources"]["Limits"]["MemoryBytes"] == 64 * 1024 * 1024
    assert body["TaskTemplate"]["Placement"]["Constraints"] == ["node.labels.team==blue"]
    assert credentials == run(auth=AUTH).credentials()


async def test_an_instance_that_the_policy_forbids_is_not_made() -> None:
    """Its publisher had the network when it was published."""
    parts = Components()
    with pytest.raises(Forbidden, match="networks"):
        await parts.starter.start_instance(run(networks=["gone"]), ALICE, MADE, None)
    assert parts.engine_calls() == []


async def test_an_instance_counts_as_a_run_of_its_publisher() -> None:
    """``max_running`` holds for it."""
    parts = Components(replace(SEEN, owner="alice"))
    with pytest.raises(Forbidden, match="max_running"):
        await parts.starter.start_instance(run(), Identity("alice", grant(max_running=1)), MADE, None)


async def test_an_instance_of_unknown_outcome_is_looked_for() -> None:
    """And removed where it is found, as its secret is lost."""
    parts = Components()
    parts.swarm.fails["create"] = EngineAway("away")
    with pytest.raises(EngineAway):
        await parts.starter.start_instance(run(), ROOT, MADE, None)
    assert [intent.keyed for intent in parts.recovery.open] == [False]


# -- jobs of functions

JOB = Job("qm-job-1", "call-1", "in", "backup", 1, "config-1", f"busybox@{DIGEST}", "", kept=False)


async def test_a_job_is_a_service_with_its_input() -> None:
    """Under the policy of its publisher."""
    parts = Components()
    await parts.starter.start_job(run(image="busybox", timeout=5), ROOT, JOB, None)
    [(_, body, credentials)] = [call for call in parts.swarm.calls if call[0] == "create"]
    assert (body["Name"], credentials) == ("qm-job-1", None)
    assert "QMASTER_INPUT=in" in body["TaskTemplate"]["ContainerSpec"]["Env"]
    with pytest.raises(Forbidden, match="networks"):
        await parts.starter.start_job(run(networks=["gone"]), ALICE, JOB, None)


@pytest.mark.parametrize("kept", [True, False])
async def test_a_job_that_is_kept_outlives_a_kill_at_its_start(kept: bool) -> None:
    """Its intent says so on disk; where its outcome is only unknown, it is tried again, so its run is removed."""
    parts = Components()
    parts.swarm.fails["create"] = EngineAway("away")
    with pytest.raises(EngineAway):
        await parts.starter.start_job(run(), ROOT, JOB._replace(kept=kept), None)
    assert [intent.keyed for intent in parts.journal.intents.values()] == [kept]
    assert [intent.keyed for intent in parts.recovery.open] == [False]
