"""jobs.runs: a job is a run under its publisher's present policy."""

from typing import Any

import pytest
from fakes import AUTH, FakeSwarm, grant, run, service
from function_cases import job, view

from qmaster.auth.authenticator import Identity
from qmaster.engine.spec import Job
from qmaster.errors import CannotStart, Forbidden, NotFound
from qmaster.functions.instances.runs import Publishers, Runners
from qmaster.functions.jobs.runs import JobRuns
from qmaster.models.credentials import Credentials
from qmaster.models.requests import RunRequest
from qmaster.models.responses import Service
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.reconciler import Reconciler
from qmaster.runs.service import RunService
from qmaster.runs.starter import RunStarter

pytestmark = pytest.mark.gen_test

CREDENTIALS = run(auth=AUTH).credentials()
UNUSED: Any = None


class Starter(RunStarter):
    """Keeps what is started."""

    def __init__(self) -> None:
        self.started: list[tuple[RunRequest, Identity, Job, Credentials | None]] = []

    async def start_job(self, request: RunRequest, by: Identity, made: Job, credentials: Credentials | None) -> str:
        self.started.append((request, by, made, credentials))
        return "run-1"


class Runs(RunService):
    """Has one run."""

    def __init__(self) -> None:
        pass

    async def status(self, name_or_id: str, by: Identity) -> Service:
        assert by.sees is None
        if name_or_id != "qm-job-1":
            raise NotFound("there is none")
        return view("run-1")


class Looks(Reconciler):
    def __init__(self, *views: Service) -> None:
        self.cache = Cache(*views)


class Cache(RunCache):
    def __init__(self, *views: Service) -> None:
        self.views = {each.id: each for each in views}

    def find(self, name_or_id: str, owner: str | None = None) -> Service | None:
        return self.views.get(name_or_id)


class Labelled(FakeSwarm):
    """A swarm whose services are found by a label."""

    async def labelled(self, label: str) -> list[dict[str, Any]]:
        key, _, value = label.partition("=")
        return [raw for raw in self.there if raw["Spec"]["Labels"].get(key) == value]


def runs_of(starter: Starter, **holders: Identity) -> JobRuns:
    publishers = Publishers(holders.get, lambda image, by: CREDENTIALS)
    runners = Runners(starter, Runs(), UNUSED, UNUSED, UNUSED)
    return JobRuns(runners, UNUSED, publishers, lambda: ("10.0.0.9", 9091))


async def test_a_job_is_started_for_its_publisher() -> None:
    """With the pinned image, the timeout of the function, and the publisher's credentials."""
    starter, called = Starter(), job(timeout=7, env={"A": "1"})
    assert await runs_of(starter, root=Identity("root")).start(called, "qm-job-1", "call-1", "in", True) == "run-1"
    ((request, by, made, credentials),) = starter.started
    assert (request.timeout, request.env, request.restart) == (7, {"A": "1"}, "none")
    assert (by.name, credentials) == ("root", CREDENTIALS)
    assert made == Job("qm-job-1", "call-1", "in", "hello", 1, called.id, called.image, "10.0.0.9:9091", True)


async def test_a_publisher_that_may_not_any_more_starts_none() -> None:
    """Where its token is gone, or does not name the function."""
    starter = Starter()
    with pytest.raises(CannotStart, match="is gone"):
        await runs_of(starter).start(job(), "qm-job-1", "call-1", "in", False)
    with pytest.raises(Forbidden, match="functions"):
        await runs_of(starter, root=Identity("alice", grant())).start(job(), "qm-job-1", "call-1", "in", False)
    assert starter.started == []


async def test_a_run_is_found_by_its_name() -> None:
    """Whoever its owner is; None if there was none."""
    runs = runs_of(Starter())
    assert await runs.look_up("qm-job-1") == view("run-1")
    assert await runs.look_up("qm-job-2") is None


async def test_those_that_wait_to_begin_are_found() -> None:
    """Those of this quartermaster; not those whose end is needed after a restart, nor instances."""
    labels = {"io.qmaster.runtime": "10.0.0.9:9091", "io.qmaster.ttl": "0s"}
    template = {"ContainerSpec": {"Image": "busybox"}}
    of_instance = {"ContainerSpec": {"Image": "busybox", "Hosts": ["10.0.0.9 s3cret.qm.internal"]}}
    swarm = Labelled(
        service("waits", Labels=labels, TaskTemplate=template),
        service("runs", Labels=labels, TaskTemplate=template),
        service("kept", Labels={**labels, "io.qmaster.ttl": "86400s"}, TaskTemplate=template),
        service("instance", Labels=labels, TaskTemplate=of_instance),
        service("another", Labels={**labels, "io.qmaster.runtime": "10.0.0.8:9091"}, TaskTemplate=template),
    )
    looks = Looks(*(view(each, "pending") for each in ("waits", "kept", "instance", "another")), view("runs"))
    runners = Runners(UNUSED, UNUSED, UNUSED, looks, UNUSED)
    runs = JobRuns(runners, swarm, Publishers(UNUSED, UNUSED), lambda: ("10.0.0.9", 9091))
    assert [each.id for each in await runs.waiting()] == ["waits"]
