"""instances.launcher: an instance is a run under its publisher's policy, and is found by what its service says."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from fakes import AUTH, FakeSwarm, grant, run, service
from function_cases import version

from qmaster.auth.authenticator import Identity
from qmaster.engine.spec import Instance
from qmaster.errors import CannotStart, EngineAway, Forbidden
from qmaster.functions.instances import scaling
from qmaster.functions.instances.endings import Ending
from qmaster.functions.instances.launcher import Found, Launcher
from qmaster.functions.instances.runs import Publishers, Runners
from qmaster.models.credentials import Credentials
from qmaster.models.requests import RunRequest
from qmaster.runs.outputs import OutputReader
from qmaster.runs.reaper import Reaper
from qmaster.runs.reconciler.reconciler import Reconciler
from qmaster.runs.starter import RunStarter

CREDENTIALS = run(auth=AUTH).credentials()


class Runs(RunStarter):
    """Keeps what is started; ``forbidden`` is what its check says."""

    def __init__(self) -> None:
        self.started: list[tuple[RunRequest, Identity, Instance, Credentials | None]] = []
        self.forbidden: Forbidden | None = None

    async def start_instance(
        self, request: RunRequest, by: Identity, made: Instance, credentials: Credentials | None
    ) -> str:
        self.started.append((request, by, made, credentials))
        return "run-1"

    def check(self, request: RunRequest, by: Identity) -> RunRequest:
        if self.forbidden is not None:
            raise self.forbidden
        return request


class Looks(Reconciler):
    def __init__(self) -> None:
        self.looked: list[str] = []

    def look(self, service_id: str) -> None:
        self.looked.append(service_id)


class Marked(FakeSwarm):
    """A swarm whose services may be marked."""

    def __init__(self, *services: Mapping[str, Any]) -> None:
        super().__init__(*map(dict, services))
        self.marked: list[tuple[str, str, str]] = []

    async def mark(self, service_id: str, label: str, why: str) -> bool:
        self.marked.append((service_id, label, why))
        return True

    async def labelled(self, label: str) -> list[dict[str, Any]]:
        key, _, value = label.partition("=")
        return [raw for raw in self.there if raw["Spec"]["Labels"].get(key) == value]


class Parts:
    def __init__(self, *services: Mapping[str, Any], address: tuple[str, int] | None = ("10.0.0.9", 9091)) -> None:
        self.runs, self.looks, self.swarm = Runs(), Looks(), Marked(*services)
        self.holders = {"root": Identity("root"), "alice": Identity("alice", grant())}
        publishers = Publishers(self.holders.get, lambda image, by: CREDENTIALS if by.name == "alice" else None)
        reaper = Reaper.__new__(Reaper)
        unused: Any = None
        runners = Runners(self.runs, unused, reaper, self.looks, OutputReader.__new__(OutputReader))
        self.launcher = Launcher(runners, self.swarm, publishers, lambda: address)


@pytest.mark.gen_test
async def test_an_instance_is_started_for_its_publisher() -> None:
    """With its version, the secret, the address of the runtime API, and the publisher's credentials."""
    parts, called = Parts(), version("hello", 4, timeout=30, concurrency=2)
    assert await parts.launcher.start(called, "s3cret") == "run-1"
    [(request, by, made, credentials)] = parts.runs.started
    assert made == Instance("hello", 4, called.id, called.image, 2, "s3cret", "10.0.0.9", 9091)
    assert request.timeout == scaling.label_lifetime(30)
    assert (by.name, credentials) == ("root", None)


@pytest.mark.gen_test
async def test_nothing_starts_for_a_publisher_that_is_gone() -> None:
    """503 ``policy``; nor while the address is not known."""
    parts = Parts()
    del parts.holders["root"]
    with pytest.raises(CannotStart) as refused:
        await parts.launcher.start(version(), "s3cret")
    assert refused.value.reason == "policy"
    assert parts.launcher.forbids(version()) is not None
    with pytest.raises(EngineAway):
        await Parts(address=None).launcher.start(version(), "s3cret")


def test_a_publisher_that_may_no_longer_have_the_name_or_the_url_is_refused() -> None:
    """Its table names the functions that it has, and whether their URLs may be open; now, not at publication."""
    parts = Parts()
    for may, called, says in (
        (grant(functions=("hello",)), version(), None),
        (grant(functions=("other",)), version(), "functions: "),
        (grant(functions=("hello",)), version(url="public"), "public: "),
        (grant(functions=("hello",), public=True), version(url="public"), None),
    ):
        parts.holders["alice"] = Identity("alice", may)
        trouble = parts.launcher.forbids(msgspec.structs.replace(called, owner="alice"))
        assert (trouble is None) is (says is None)
        assert trouble is None or (trouble.reason, trouble.message.startswith(says or "")) == ("policy", True)


def test_what_a_policy_forbids_now_is_said() -> None:
    """So that warm instances end."""
    parts = Parts()
    assert parts.launcher.forbids(version()) is None
    parts.runs.forbidden = Forbidden("images: no")
    trouble = parts.launcher.forbids(version())
    assert trouble is not None
    assert (trouble.reason, trouble.message) == ("policy", "images: no")


@pytest.mark.parametrize(
    ("why", "label"),
    [("idle", "idle"), ("update", "update"), ("lifetime", "idle"), ("policy", "idle"), ("room", "idle")],
)
@pytest.mark.gen_test
async def test_the_service_says_that_it_was_told_to_end(why: Ending, label: str) -> None:
    """In the two words that a run's reason has."""
    parts = Parts()
    await parts.launcher.mark("run-1", why)
    assert parts.swarm.marked == [("run-1", "io.qmaster.end", label)]
    assert parts.looks.looked == ["run-1"]


def instance(service_id: str, hosts: list[str] | None, **labels: str) -> dict[str, Any]:
    named = {f"io.qmaster.{key.replace('_', '-')}": value for key, value in labels.items()}
    raw = service(service_id, Labels={"io.qmaster.runtime": "10.0.0.9:9091", **named})
    raw["Spec"]["TaskTemplate"]["ContainerSpec"]["Hosts"] = hosts
    return raw


@pytest.mark.gen_test
async def test_the_instances_of_an_earlier_process_are_found() -> None:
    """Those of this address, with the secret of their hosts file; none that is being ended, or is another's."""
    parts = Parts(
        instance("a", ["10.0.0.9 s3cret.qm.internal"], function_version="config-1"),
        instance("b", ["10.0.0.9 other.qm.internal"], function_version="config-1", end="idle"),
        instance("c", ["10.0.0.9 other.qm.internal"], runtime="10.0.0.8:9091"),
        instance("d", None, function_version="config-1"),
        instance("e", ["10.0.0.9 somewhere.example"], function_version="config-1"),
    )
    assert await parts.launcher.running() == [Found("a", "config-1", "s3cret")]
