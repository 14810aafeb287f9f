"""A swarm of several engines on one network."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker

from testbed.engine import Engine
from testbed.wait import eventually

AWAY = (docker.errors.DockerException, OSError)


class Swarm:
    """The first engine is the manager, the others join as workers."""

    def __init__(self, engines: Sequence[Engine], registry: str) -> None:
        self.manager, *self.workers = engines
        self.nodes = list(engines)
        self.registry = registry
        """The address that each engine takes as an insecure registry, whether one runs there or not."""

    def form(self, heartbeat: float = 2) -> None:
        """Start all engines, join them, and put `busybox:local` on each."""
        _together([engine.start for engine in self.nodes])
        self.manager.swarm_init(heartbeat)
        token = self.manager.client().inspect_swarm()["JoinTokens"]["Worker"]
        joins = [lambda worker=worker: self._join(worker, token) for worker in self.workers]
        _together([*joins, *(engine.load_busybox for engine in self.nodes)])
        self.wait_ready()

    def _join(self, worker: Engine, token: str) -> None:
        client = worker.client()
        client.join_swarm([self.manager.address], token, f"{worker.address}:2377", worker.address)

    def node(self, engine: Engine) -> dict[str, Any]:
        """The manager's record of a node, found by its hostname."""
        nodes = self.manager.client().nodes()
        return next(node for node in nodes if node["Description"]["Hostname"] == engine.name)

    def wait_ready(self, timeout: float = 40) -> None:
        """Wait until the manager leads and sees every node ready."""

        def ready() -> bool:
            nodes = self.manager.client(timeout=3).nodes()
            return len(nodes) >= len(self.nodes) and all(node["Status"]["State"] == "ready" for node in nodes)

        eventually(ready, timeout, "all nodes are ready", every=0.05, ignoring=AWAY)

    def promote(self, *engines: Engine) -> None:
        """Make workers managers, and wait until they take part in the quorum."""
        for engine in engines:
            self._set_role(engine, "manager")

    def _set_role(self, engine: Engine, role: str) -> None:
        # A node's spec can change under us (the swarm rotates its role), which the engine refuses: "out of sequence".
        def update() -> bool:
            node = self.node(engine)
            spec: Any = {**node["Spec"], "Role": role, "Availability": "active"}
            if spec != node["Spec"]:
                self.manager.client().update_node(node["ID"], node["Version"]["Index"], spec)
            return True

        def settled() -> bool:
            status = self.node(engine).get("ManagerStatus", {}).get("Reachability")
            return status == "reachable" if role == "manager" else status is None

        # A change of the managers may keep an answer waiting for an election.
        eventually(update, 40, f"{engine.name} is made a {role}", every=0.1, ignoring=AWAY)
        eventually(settled, 40, f"{engine.name} is a {role}", every=0.05, ignoring=AWAY)
        control = role == "manager"
        eventually(lambda: engine.client().info()["Swarm"]["ControlAvailable"] == control, 20, ignoring=AWAY)

    def restore(self) -> None:
        """Undo whatever a test did to the nodes."""
        _together([engine.restore for engine in self.nodes])
        self.wait_ready()
        for worker in self.workers:
            self._set_role(worker, "worker")


def _together(calls: Sequence[Callable[[], object]]) -> None:
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()
