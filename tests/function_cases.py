"""Stand-ins for the tests of functions: versions as plain data, and instances whose runs the test ends."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from qmaster.engine.configs import Configs
from qmaster.errors import HttpError
from qmaster.functions.dispatcher import Dispatcher
from qmaster.functions.instances.autoscaler import Autoscaler
from qmaster.functions.instances.endings import Ending, Trouble
from qmaster.functions.instances.instance import Instance
from qmaster.functions.instances.launcher import Found, Launcher
from qmaster.functions.instances.lifecycle import Lifecycle
from qmaster.functions.invocations.invocation import Answer, Call, Ended, Reports
from qmaster.functions.jobs.jobs import Jobs
from qmaster.functions.jobs.runs import JobRuns
from qmaster.functions.versions.store import VersionStore
from qmaster.models.functions import FunctionSpec, Version, read_spec
from qmaster.models.responses import FunctionRef, Replicas, Result, Service

_ids: Iterator[int] = itertools.count(1)


def spec(**fields: Any) -> FunctionSpec:
    return read_spec({"image": "busybox", **fields})


def version(name: str = "hello", number: int = 1, **fields: Any) -> Version:
    """A published version; each call makes another config."""
    return Version(
        id=f"config-{next(_ids)}",
        function=name,
        number=number,
        spec=spec(**fields),
        image="busybox@sha256:" + "a" * 64,
        owner="root",
        published_at="2026-01-01T00:00:00Z",
    )


def call(payload: bytes = b"{}", **fields: Any) -> Call:
    return Call(f"call-{next(_ids)}", payload, "root", **fields)


def view(run_id: str, status: str = "running", **fields: Any) -> Service:
    """The run of an instance, as the reconciler publishes it."""
    shown: dict[str, Any] = {
        "type": "service",
        "image": "busybox",
        "command": None,
        "labels": {},
        "owner": "root",
        "reason": None,
        "error": None,
        "exit_code": None,
        "replicas": Replicas(1, 1, 0, 0),
        "created_at": None,
        "started_at": None,
        "finished_at": None,
        "removed_at": None,
        "memory": None,
        "cpus": None,
        "tasks": [],
        "function": FunctionRef("hello", 1),
    }
    return Service(id=run_id, name=run_id, **{**shown, "status": status, **fields})


def ended(run_id: str, code: int = 1, stderr: str = "", **fields: Any) -> Service:
    """The same once it has ended and its output is read."""
    result = Result(exit_code=code, stdout="", stderr=stderr, truncated=False, tasks=[])
    return view(run_id, "failed", **{"reason": "exit", "exit_code": code, "result": result, **fields})


def job(name: str = "hello", **fields: Any) -> Version:
    return version(name, runtime="job", **fields)


def job_over(run_id: str, code: int | None = 0, stdout: str = "", stderr: str = "", **fields: Any) -> Service:
    """The run of a job that has ended, and whose output is read."""
    result = Result(exit_code=code, stdout=stdout, stderr=stderr, truncated=False, tasks=[])
    given = {"reason": "exit", "exit_code": code, "result": result, "started_at": "2026-01-01T00:00:00Z", **fields}
    return view(run_id, **{"status": "complete" if code == 0 else "failed", **given})


class FakeVersions(VersionStore):
    """Versions as a test publishes them."""

    def __init__(self) -> None:
        super().__init__(Configs.__new__(Configs))
        self.trouble = None
        self.there: list[Version] = []

    def publish(self, *versions: Version) -> Version:
        self.there += versions
        for each in versions:
            self.changed(each.function)
        return versions[-1]

    def drop(self, name: str, number: int | None = None) -> None:
        """Remove one version of a function, or all."""
        self.there = [each for each in self.there if each.function != name or number not in (None, each.number)]
        self.changed(name)

    def changed(self, name: str) -> None:
        for listener in self.listeners:
            listener(name)

    def latest(self, name: str) -> Version | None:
        return max(self.versions(name), key=lambda each: each.number, default=None)

    def by_id(self, version_id: str) -> Version | None:
        return next((each for each in self.there if each.id == version_id), None)

    def find(self, name: str, number: int) -> Version | None:
        return next((each for each in self.versions(name) if each.number == number), None)

    def numbers(self, name: str) -> list[int]:
        return [each.number for each in self.versions(name)]

    def names(self) -> list[str]:
        return sorted({each.function for each in self.there})

    def versions(self, name: str) -> list[Version]:
        return [each for each in self.there if each.function == name]


class FakeLauncher(Launcher):
    """Runs that start at once, as far as the engine tells; ``started`` are their secrets, in order."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.begun: list[Version] = []
        self.marked: list[tuple[str, Ending]] = []
        self.killed: list[str] = []
        self.removed: list[str] = []
        self.there: list[Found] = []
        self.looked: list[str] = []
        self.refusal: HttpError | None = None
        self.trouble: Trouble | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self, version: Version, secret: str) -> str:
        self.begun.append(version)
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.started.append(secret)
        return f"run-{len(self.started)}"

    def forbids(self, version: Version) -> Trouble | None:
        return self.trouble

    async def mark(self, run_id: str, why: Ending) -> None:
        self.marked.append((run_id, why))

    def kill(self, run_id: str) -> None:
        self.killed.append(run_id)

    def remove(self, run_id: str) -> None:
        self.removed.append(run_id)

    def look(self, run_id: str) -> None:
        self.looked.append(run_id)

    def find(self, run_id: str) -> Service | None:
        return None

    async def running(self) -> list[Found]:
        return self.there


class Started(NamedTuple):
    """What a job was started with."""

    version: Version
    name: str
    invocation: str
    text: str
    kept: bool


class FakeJobRuns(JobRuns):
    """Runs of jobs that start at once, as far as the engine tells; the n-th has the id ``job-n``."""

    def __init__(self) -> None:
        self.started: list[Started] = []
        self.killed: list[str] = []
        self.removed: list[str] = []
        self.there: dict[str, Service] = {}  # by id, and by name
        self.refusal: HttpError | None = None
        self.output: bytes | HttpError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self, version: Version, name: str, invocation: str, text: str, kept: bool) -> str:
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        self.started.append(Started(version, name, invocation, text, kept))
        return f"job-{len(self.started)}"

    def find(self, run_id: str) -> Service | None:
        return self.there.get(run_id)

    async def look_up(self, name: str) -> Service | None:
        return self.there.get(name)

    async def refresh(self, run_id: str) -> Service | None:
        return self.there.get(run_id)

    async def stdout(self, view: Service, limit: int) -> bytes:
        if isinstance(self.output, HttpError):
            raise self.output
        if self.output is not None:
            return self.output
        assert view.result is not None
        return view.result.stdout.encode()

    def kill(self, run_id: str) -> None:
        self.killed.append(run_id)

    def remove(self, run_id: str) -> None:
        self.removed.append(run_id)


class Stage:
    """A dispatcher whose instances and jobs the test plays."""

    def __init__(self, nodes: int = 10) -> None:
        self.launcher, self.versions = FakeLauncher(), FakeVersions()
        self.calls: list[Ended] = []
        self.ends: list[tuple[str, str]] = []
        reports = Reports(self.calls.append, lambda function, reason: self.ends.append((function, reason)))
        self.life = Lifecycle(self.launcher, reports)
        self.scaler = Autoscaler(self.life, self.launcher, self.versions, lambda: nodes)
        self.runs = FakeJobRuns()
        self.jobs = Jobs(self.runs, self.versions, reports)
        self.dispatcher = Dispatcher(self.life, self.scaler, self.jobs)
        self.versions.listeners.append(self.dispatcher.versions_changed)
        self.running = asyncio.create_task(self.scaler.run())

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.life.close()
        await self.jobs.close()

    async def settle(self) -> None:
        """Let everything happen that can happen now."""
        for _ in range(20):
            await asyncio.sleep(0)

    def invoke(self, version: Version, payload: bytes = b"{}", **fields: Any) -> asyncio.Task[Answer]:
        return asyncio.create_task(self.dispatcher.invoke(version, call(payload, **fields)))

    async def instance(self, number: int = 1) -> Instance:
        """The instance that was started as the so-manieth, once it was."""
        async with asyncio.timeout(20):
            while len(self.launcher.started) < number:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await self.settle()
        found = self.dispatcher.instance(self.launcher.started[number - 1])
        assert found is not None
        return found

    async def warm(self, version: Version) -> Instance:
        """An instance that has served one call and asks for the next."""
        calling = self.invoke(version)
        instance = await self.instance(len(self.launcher.started) + 1)
        await self.serve(instance)
        await calling
        self.dispatcher.ask(instance, "")
        return instance

    async def serve(self, instance: Instance, body: bytes = b"{}") -> str:
        """Ask for a call, answer it, and return its id."""
        poll = self.dispatcher.ask(instance, "")
        async with asyncio.timeout(20):
            invocation = await poll.answer
        assert invocation is not None
        self.dispatcher.answer(instance, invocation.call.id, body, "application/json")
        return invocation.call.id


def pinned(version: Version, **fields: Any) -> Version:
    """The next version of the same function."""
    return msgspec.structs.replace(
        version, id=f"config-{next(_ids)}", number=version.number + 1, spec=spec(**fields) if fields else version.spec
    )
