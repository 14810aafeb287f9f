"""What the figures are taken on: engines, servers and children, each made when it is first asked for."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from testbed import Bed, Engine, Server, Swarm, eventually, lambdas
from testbed.tidy import tidy

from bench.child import Child

_NUMBERS = itertools.count(1)

IMAGE = "busybox:local"
NOWHERE = "node.labels.there-is==none"
QUIET = 5.0  # percent of a core
TOO_SMALL = 4 * 1024 * 1024  # bytes of memory: the engine takes such a service, and its node rejects the task at once


class World:
    """`quick`: a look, in seconds, in place of a measurement. `engine` and `swarm` may be given, else they are made."""

    def __init__(self, bed: Bed, quick: bool, engine: Engine | None = None, swarm: Swarm | None = None) -> None:
        self.bed = bed
        self.quick = quick
        self._given = engine, swarm
        self._settled: Engine | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._undo.close()

    def size(self, full: int, quick: int) -> int:
        """How much of something: in full, or for a look."""
        return quick if self.quick else full

    @cached_property
    def engine(self) -> Engine:
        """An engine that is a swarm of one node."""
        return self._given[0] or self.bed.single("single")

    @cached_property
    def swarm(self) -> Swarm:
        """A manager and two workers."""
        return self._given[1] or self.bed.three()

    @cached_property
    def bridged(self) -> Engine:
        """An engine that is a swarm of one node, whose containers reach the host, with the images of functions."""
        engine = self.bed.engine("bridged", bridge=True)
        self._undo.callback(engine.stop)
        engine.start()
        engine.swarm_init()
        engine.load_busybox()
        for make in (lambdas.python, lambdas.shell):
            lambdas.load(make(engine.folder), [engine])
        return engine

    def settled(self, services: int) -> Engine:
        """An engine on which so many services are settled, and stay."""
        if self._settled is None:
            self._settled = self.own_engine("settled")
            settle(self._settled, range(services))
        return self._settled

    def own_engine(self, name: str) -> Engine:
        """An engine, a swarm of one node, for this world alone, and stopped with it."""
        engine = self.bed.single(f"{name}{next(_NUMBERS)}")
        self._undo.callback(engine.stop)
        return engine

    def own_swarm(self, name: str) -> Swarm:
        """A swarm of a manager and two workers, for this world alone, and stopped with it."""
        swarm = self.bed.swarm(*(f"{name}{next(_NUMBERS)}" for _ in range(3)))
        for engine in swarm.nodes:
            self._undo.callback(engine.kill)
        swarm.form()
        return swarm

    @contextlib.contextmanager
    def server(self, engine: Engine, *args: str) -> Iterator[Server]:
        """A quartermaster on an engine, its view up to date; what it left on the engine is removed after."""
        server = self.bed.server(engine.host, args)
        server.start()
        wait_ready(server)
        try:
            yield server
        finally:
            server.kill()

    @contextlib.contextmanager
    def clean(self, engine: Engine) -> Iterator[None]:
        """What is made on an engine meanwhile is removed after."""
        try:
            yield
        finally:
            remove_services(engine)
            tidy(engine, [engine])

    def now(self) -> float:
        """The time by the clock that the children have too."""
        return time.monotonic()

    def child(self, module: str, *args: str) -> Child:
        return self._undo.enter_context(Child(module, *args))


def wait_ready(server: Server) -> None:
    eventually(lambda: server.call("GET", "/readyz").status == 200, 30, "quartermaster is ready", every=0.005)


def settle_one(client: Any, number: int) -> None:
    limits = {"Limits": {"MemoryBytes": TOO_SMALL}}
    container = {"Image": IMAGE, "Args": ["true"]}
    template = {"ContainerSpec": container, "RestartPolicy": {"Condition": "none"}, "Resources": limits}
    client.create_service(template, name=f"settled-{number}")


def make_empty(client: Any, number: int) -> None:
    """A service without tasks: some thousand rejected ones keep an engine of one node busy for minutes."""
    mode = {"Replicated": {"Replicas": 0}}
    client.create_service({"ContainerSpec": {"Image": IMAGE, "Args": ["true"]}}, name=f"empty-{number}", mode=mode)


def settle(engine: Engine, names: range) -> None:
    """Make services whose only task has failed, and which stay as they are: the cheapest there is."""
    in_threads(engine, names, settle_one)
    client: Any = engine.client(timeout=60)

    def all_settled() -> bool:
        return len([task for task in client.tasks() if task["Status"]["State"] == "rejected"]) >= names.stop

    eventually(all_settled, 120, "all tasks are rejected", every=0.5)


def remove_services(engine: Engine) -> None:
    """All of them, faster than one after the other."""
    client: Any = engine.client(timeout=60)
    in_threads(engine, client.services(), lambda client, raw: client.remove_service(raw["ID"]))


def in_threads(engine: Engine, items: Any, work: Callable[[Any, Any], object], threads: int = 8) -> float:
    """Do it for each item, with a client of the SDK a thread; the seconds that it took."""
    clients: list[Any] = [engine.client(timeout=60) for _ in range(threads)]
    todo = list(items)

    def some(which: int) -> None:
        for item in todo[which::threads]:
            work(clients[which], item)

    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        for done in [pool.submit(some, which) for which in range(threads)]:
            done.result()
        return time.perf_counter() - began


def cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3), which Python has for itself only


def used(pid: int, seconds: float) -> float:
    """Percent of a core that a process uses."""
    before, began = cpu(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu(pid) - before) / (time.monotonic() - began) * 100


def quiet(engine: Engine) -> None:
    """Wait until the engine is done with what was made on it."""
    eventually(lambda: used(engine.pid, 1) < QUIET, 120, f"{engine.name} is quiet")


def memory(pid: int) -> int:
    """Bytes of memory that a process has in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024
