"""dispatch: run, stop and status, on a swarm and containers that are not there."""

from typing import Any

import pytest
from fakes import AUTH, CONTAINER_ID, DIGEST, FakeContainers, FakeSwarm, container, node, service, task
from qmaster import dispatch as room
from qmaster import models
from qmaster.dispatch import Dispatch
from qmaster.errors import BadRequest, Conflict, EngineAway, HttpError, NotAManager, NotFound, RegistryRefused
from qmaster.models import RunRequest

pytestmark = pytest.mark.gen_test

OWN = "f" * 64


def run(**fields: Any) -> RunRequest:
    return models.convert({"image": "busybox", **fields}, RunRequest)


def make(swarm: FakeSwarm | None = None, containers: FakeContainers | None = None, own: str | None = None) -> Dispatch:
    return Dispatch(swarm or FakeSwarm(), containers or FakeContainers(), 250, own)


async def test_a_service_is_created_pinned_and_owned() -> None:
    """Its image with the registry's digest, the owner in a label; the answer is Swarm's id."""
    swarm = FakeSwarm()
    assert await make(swarm).run(run(name="one", networks=["a", "b"], secrets=["c"]), "alice") == "s-new"
    (_, body, credentials) = swarm.calls[-1]
    assert credentials is None
    assert body["TaskTemplate"]["ContainerSpec"]["Image"] == f"busybox@{DIGEST}"
    assert body["Labels"]["io.qmaster.owner"] == "alice"
    assert [network["Target"] for network in body["TaskTemplate"]["Networks"]] == ["id-a", "id-b"]
    assert body["TaskTemplate"]["ContainerSpec"]["Secrets"][0]["SecretID"] == "id-c"


async def test_a_containers_answer_is_its_id() -> None:
    """Created on this engine, not in the swarm."""
    swarm, containers = FakeSwarm(), FakeContainers()
    assert await make(swarm, containers).run(run(type="container", name="one"), "root") == "c-new"
    assert swarm.calls == []
    assert containers.calls[-1][:3:2] == ("create", "one")


@pytest.mark.parametrize("kind", ["service", "container"])
async def test_credentials_go_along_with_each_call(kind: str) -> None:
    """To whoever pulls, and to nothing else."""
    swarm, containers = FakeSwarm(), FakeContainers()
    await make(swarm, containers).run(run(type=kind, auth=AUTH), "root")
    sent = [call[-1] for fake in (swarm, containers) for call in fake.calls if call[0] in ("pin", "create")]
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
    """Wrong credentials, an unknown network or secret: nothing is created."""
    swarm = FakeSwarm()
    swarm.fails[where] = error
    with pytest.raises(type(error)):
        await make(swarm).run(run(auth=AUTH), "root")
    assert "create" not in swarm.names()


@pytest.mark.parametrize("kind", ["service", "container"])
async def test_a_name_that_is_taken_is_named(kind: str) -> None:
    """409 says which, and what to do; Docker's own words are left out."""
    swarm, containers = FakeSwarm(), FakeContainers()
    swarm.fails["create"] = containers.fails["create"] = Conflict("rpc error: name conflicts with an existing object")
    with pytest.raises(Conflict, match=r"^the name 'mine' is taken"):
        await make(swarm, containers).run(run(type=kind, name="mine"), "root")


@pytest.mark.parametrize("asked", ["s1", "one"])
async def test_a_service_is_found_by_id_and_name(asked: str) -> None:
    """With its tasks and their nodes."""
    view = await make(FakeSwarm(service(), tasks=(task("running"),), nodes=(node(),))).status(asked)
    assert (view.id, view.status, view.tasks[0].node) == ("s1", "running", "host-1")


@pytest.mark.parametrize("asked", [CONTAINER_ID, "box"])
async def test_a_container_of_ours_is_found_by_id_and_name(asked: str) -> None:
    """After the swarm did not know it."""
    assert (await make(None, FakeContainers(container())).status(asked)).id == CONTAINER_ID


async def test_a_container_of_others_is_not_there() -> None:
    """Neither shown nor stopped: 404, as if it did not exist."""
    containers = FakeContainers(container(ours=False))
    for call in (make(None, containers).status, make(None, containers).stop):
        with pytest.raises(NotFound):
            await call("box")
    assert "remove" not in containers.names()


@pytest.mark.parametrize("asked", ["", "..", "a/b", "a b", "a\n", "ä", "a?force=1", "-a", "x" * 256])
async def test_what_can_be_no_name_is_not_asked_of_docker(asked: str) -> None:
    """It would land in the path of Docker's API."""
    swarm, containers = FakeSwarm(), FakeContainers()
    with pytest.raises(NotFound):
        await make(swarm, containers).status(asked)
    assert swarm.calls == containers.calls == []


@pytest.mark.parametrize(
    ("asked", "kind"), [("s1", "service"), ("one", "service"), (CONTAINER_ID, "container"), ("box", "container")]
)
async def test_a_stop_removes_and_says_the_id(asked: str, kind: str) -> None:
    """By id or by name; only that one."""
    swarm, containers = FakeSwarm(service(), service("s2", "two")), FakeContainers(container())
    run_id = await make(swarm, containers).stop(asked)
    assert run_id == ("s1" if kind == "service" else CONTAINER_ID)
    removed = [call for fake in (swarm, containers) for call in fake.calls if call[0] == "remove"]
    assert removed == [("remove", run_id)]


async def test_a_second_stop_is_success_too() -> None:
    """And asks Docker for nothing more."""
    swarm = FakeSwarm(service())
    dispatch = make(swarm)
    assert await dispatch.stop("one") == await dispatch.stop("s1") == await dispatch.stop("one") == "s1"
    assert swarm.names().count("remove") == 1


async def test_what_was_stopped_is_still_shown() -> None:
    """As removed, with the time, by id and by name; in a listing only where it is asked for."""
    dispatch = make(FakeSwarm(service(), service("s2", "two"), tasks=(task("running"),)))
    await dispatch.stop("s1")
    view = await dispatch.status("one")
    assert (view.status, view.reason, (view.removed_at or "")[-1]) == ("removed", "stopped", "Z")
    assert await dispatch.status("s1") == view
    assert [view.id for view in await dispatch.listing()] == ["s2"]
    assert {view.id for view in await dispatch.listing(removed=True)} == {"s1", "s2"}


async def test_a_new_service_hides_an_old_one_of_its_name() -> None:
    """A name stands for what is there; the old one keeps its id."""
    swarm = FakeSwarm(service())
    dispatch = make(swarm)
    await dispatch.stop("one")
    swarm.there.append(service("s9", "one"))
    assert (await dispatch.status("one")).id == "s9"
    assert (await dispatch.status("s1")).status == "removed"


async def test_a_stop_that_failed_is_not_remembered() -> None:
    """The service is still there, and the next stop tries again."""
    swarm = FakeSwarm(service())
    swarm.fails["remove"] = EngineAway("away")
    dispatch = make(swarm)
    with pytest.raises(EngineAway):
        await dispatch.stop("s1")
    assert (await dispatch.status("s1")).status != "removed"
    swarm.fails.clear()
    assert await dispatch.stop("s1") == "s1"
    assert swarm.names().count("remove") == 2


async def test_the_memory_of_what_was_stopped_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first."""
    monkeypatch.setattr(room, "MAX_REMEMBERED", 2)
    dispatch = make(FakeSwarm(*(service(f"s{i}", f"name-{i}") for i in range(3))))
    for i in range(3):
        await dispatch.stop(f"s{i}")
    assert (await dispatch.status("s1")).status == (await dispatch.status("s2")).status == "removed"
    with pytest.raises(NotFound):
        await dispatch.status("s0")


async def test_it_does_not_stop_its_own_container() -> None:
    """409, also though it did not start itself."""
    containers = FakeContainers(container(OWN, "myself", ours=False))
    with pytest.raises(Conflict, match="itself"):
        await make(None, containers, OWN).stop("myself")
    assert "remove" not in containers.names()


async def test_it_does_not_stop_its_own_service() -> None:
    """The service that its container is a task of."""
    labels = {"com.docker.swarm.service.id": "s1"}
    swarm, containers = FakeSwarm(service()), FakeContainers(container(OWN, "me.1", ours=False, labels=labels))
    with pytest.raises(Conflict, match="itself"):
        await make(swarm, containers, OWN).stop("one")
    assert "remove" not in swarm.names()


async def test_it_stops_others_when_it_is_in_a_container() -> None:
    """Only itself is safe from it."""
    swarm = FakeSwarm(service())
    assert await make(swarm, FakeContainers(container(OWN, "me", ours=False)), OWN).stop("s1") == "s1"


async def test_containers_need_no_swarm() -> None:
    """On an engine that is no manager they run, are shown, listed and stopped."""
    swarm, containers = FakeSwarm(), FakeContainers(container())
    for name in ("service", "services", "tasks", "nodes"):
        swarm.fails[name] = NotAManager("no swarm")
    dispatch = make(swarm, containers)
    assert (await dispatch.status("box")).status == "running"
    assert [view.name for view in await dispatch.listing()] == ["box"]
    assert await dispatch.run(run(type="container"), "root") == "c-new"
    assert await dispatch.stop("box") == CONTAINER_ID
    assert (await dispatch.status("box")).status == "removed"


async def test_without_a_swarm_an_unknown_id_is_not_a_404() -> None:
    """It may be a service of the swarm that cannot be asked: 503."""
    swarm = FakeSwarm()
    swarm.fails["service"] = NotAManager("no swarm")
    with pytest.raises(NotAManager):
        await make(swarm).status("one")


@pytest.mark.parametrize("fake", ["swarm", "containers"])
async def test_an_engine_that_is_away_is_no_empty_listing(fake: str) -> None:
    """503, never a list that lacks what is there."""
    swarm, containers = FakeSwarm(service()), FakeContainers(container())
    {"swarm": swarm, "containers": containers}[fake].fails.update(
        dict.fromkeys(("services", "containers"), EngineAway("away"))
    )
    with pytest.raises(EngineAway):
        await make(swarm, containers).listing()


async def test_an_engine_that_is_away_makes_nothing_unknown() -> None:
    """503, not 404."""
    swarm = FakeSwarm()
    swarm.fails["service"] = EngineAway("away")
    with pytest.raises(EngineAway):
        await make(swarm).status("one")


async def test_a_listing_has_services_of_all_and_containers_of_ours_newest_first() -> None:
    """Each service with its own tasks."""
    services = [service("s1", "one"), {**service("s2", "two"), "CreatedAt": "2024-05-07T00:00:00.1Z"}]
    older = container(Created="2023-01-01T00:00:00.1Z")
    tasks = (task("running"), task("failed", code=3) | {"ServiceID": "s2"})
    dispatch = make(FakeSwarm(*services, tasks=tasks), FakeContainers(older, container("b", "b", ours=False)))
    views = await dispatch.listing()
    assert [(view.id, view.status) for view in views] == [
        ("s2", "failed"),
        ("s1", "running"),
        (CONTAINER_ID, "running"),
    ]
