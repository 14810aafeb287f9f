"""The testbed of one run: it makes machines, engines and servers, and removes all of them again."""

import atexit
import contextlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from testbed.claim import Claim
from testbed.engine import DOCKER, DOCKERD, Engine
from testbed.machine import Machine
from testbed.net import HUB, Network
from testbed.proxy import Proxy
from testbed.registry import PORT, Registry
from testbed.server import Server, free_port
from testbed.swarm import Swarm
from testbed.tls import TlsEngine

AnyEngine = TypeVar("AnyEngine", bound=Engine)


class Bed:
    """Make it, and everything in it, in the main thread (see `Machine`). `close` removes it; so does the run's end.

    `system` is a folder with another system, whose dockerd all engines then are.
    """

    def __init__(self, system: Path | None = None) -> None:
        if os.geteuid() != 0 or not all(map(os.path.exists, (DOCKERD, DOCKER))):
            raise RuntimeError("tests with an engine need root and docker.io (or leave them out: -m 'not engine')")
        self._system = system.resolve() if system else None
        self._owner = os.getpid()
        self._undo = contextlib.ExitStack()
        self._counter = itertools.count()
        self._claim = Claim()
        self._undo.callback(self._claim.release)
        atexit.register(self.close)
        self.root = self._claim.root
        self.network = Network(self._claim.prefix, self._claim.subnet)

    def __enter__(self) -> "Bed":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything, last made first. Again is fine."""
        if os.getpid() == self._owner:  # not when a fork of the tests' process ends
            self._undo.close()
            atexit.unregister(self.close)

    def _machine(self, name: str, address: str, system: Path | None = None) -> Machine:
        machine = Machine(name, self.network.namespace(name), address, self.root / name, system)
        self._undo.callback(machine.end)
        self._claim.process(machine.holder)
        return machine

    @property
    def registry_address(self) -> str:
        """Where the registry is, when it is started."""
        return f"{self.network.gateway}:{PORT}"

    def engine(self, name: str, *options: str, bridge: bool = False, programs: Path | None = None) -> Engine:
        """A new engine, not started; names have at most 15 characters. `options` are dockerd's; the rest: see there."""
        return self._engine(partial(Engine, bridge=bridge, programs=programs), name, options)

    def tls_engine(self, name: str, *options: str) -> TlsEngine:
        """A new engine that listens on TCP too, not started."""
        return self._engine(TlsEngine, name, options)

    def _engine(self, kind: Callable[..., AnyEngine], name: str, options: Sequence[str]) -> AnyEngine:
        machine = self._machine(name, self.network.attach(name), self._system)
        engine = kind(machine, self.network, f"--insecure-registry={self.registry_address}", *options)
        self._undo.callback(engine.close_clients)
        return engine

    def swarm(self, *names: str, bridge: bool = False) -> Swarm:
        """A new swarm of one manager and some workers, not formed; `bridge`: see `Engine`."""
        return Swarm([self.engine(name, bridge=bridge) for name in names], self.registry_address)

    def single(self, name: str) -> Engine:
        """A new engine, started: a swarm of one node, with `busybox:local`."""
        engine = self.engine(name)
        engine.start()
        engine.swarm_init()
        engine.load_busybox()
        return engine

    def three(self) -> Swarm:
        """A new swarm, formed: a manager and two workers, each with `busybox:local`."""
        swarm = self.swarm("manager", "worker-1", "worker-2")
        swarm.form()
        return swarm

    def registry(self) -> Registry:
        """The registry, not started; one per bed."""
        return Registry(self._machine(HUB, self.network.gateway))

    def proxy(self, engine: Engine) -> Proxy:
        """A new proxy in front of an engine, running."""
        proxy = Proxy(self.root / f"proxy{next(self._counter)}.sock", engine.socket)
        self._undo.callback(proxy.close)
        return proxy

    def runtime(self) -> list[str]:
        """A quartermaster's flags for a runtime API on a free port of the host, which instances on bridges reach."""
        return ["--runtime-port", str(free_port(self.network.host)), "--advertise", self.network.host]

    def server(self, host: str, args: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Server:
        """A new quartermaster, not started, on the engine at `host`."""
        server = Server(self.root / f"server{next(self._counter)}", host, args, env, started=self._claim.process)
        self._undo.callback(server.kill)
        return server
