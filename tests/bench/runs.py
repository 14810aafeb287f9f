"""``POST /run``: how long one client waits, how many are started a second, and how soon `running` is heard."""

import contextlib
import json
import secrets
import statistics
import time
from collections.abc import Iterator
from typing import Any

from testbed import Engine, Server, eventually
from testbed.subscriber import Subscriber

from bench.calls import Caller, timed
from bench.figures import Reach, Row, beside, interleave
from bench.world import IMAGE, NOWHERE, World, in_threads, remove_services

MEMORY = 16 * 1024 * 1024
CLIENTS, THREADS = 16, 8
POLL_EVERY = 0.01
WORKER = "node.role==worker"


def measure(world: World) -> Iterator[Row]:
    with world.server(world.engine) as server, world.clean(world.engine):
        yield latency(world, server)
        yield throughput(world, server)
    with world.server(world.swarm.manager) as server, world.clean(world.swarm.manager):
        yield running(world, server)


def body(constraint: str = NOWHERE, command: str = "true") -> dict[str, Any]:
    """A run; of one that no node may take the engine makes nothing but the service."""
    return {"image": IMAGE, "command": command, "memory": 16, "constraints": [constraint]}


def create(client: Any, constraint: str = NOWHERE, command: str = "true") -> str:
    """The same with the SDK."""
    limits = {"MemoryBytes": MEMORY}
    template = {
        "ContainerSpec": {"Image": IMAGE, "Args": [command]},
        "RestartPolicy": {"Condition": "none"},
        "Resources": {"Limits": limits, "Reservations": limits},
        "Placement": {"Constraints": [constraint]},
    }
    name = f"by-the-sdk-{secrets.token_hex(8)}"  # of the names that Docker makes up, some collide
    return str(client.create_service(template, name=name)["ID"])


def emptied(engine: Engine, server: Server) -> None:
    """Remove all, and wait until quartermaster has seen it."""
    remove_services(engine)
    eventually(lambda: not server.call("GET", "/status")["services"], 30, "all are seen to be gone", every=0.05)


def latency(world: World, server: Server) -> Row:
    load, client = world.child("load"), world.engine.client(timeout=60)
    each = world.size(20, 10)

    def ours() -> float:
        done = load.ask("loop", port=server.port, request=post("/run", server.token, body()), clients=1, times=each)
        emptied(world.engine, server)
        return float(statistics.median(done["took"]) * 1000)

    def docker() -> float:
        with alone(world.engine, server):
            return statistics.median(timed(lambda: create(client))[0] for _ in range(each))

    taken = interleave(world.size(15, 2), ours, docker)
    return beside("`/run` p50, one client", taken, "ms", Reach(2.1), "the SDK's create")


def throughput(world: World, server: Server) -> Row:
    load = world.child("load")
    times = world.size(320, 64)

    def ours() -> float:
        done = load.ask(
            "loop", port=server.port, request=post("/run", server.token, body()), clients=CLIENTS, times=times
        )
        emptied(world.engine, server)
        return float(done["answers"] / done["seconds"])

    def docker() -> float:
        with alone(world.engine, server):
            return times / in_threads(world.engine, range(times), lambda client, _: create(client), THREADS)

    taken = interleave(world.size(7, 2), ours, docker)
    return beside(
        f"`/run` throughput, {CLIENTS} clients", taken, "/s", Reach(0.65, at_least=True), f"the SDK, {THREADS} threads"
    )


def running(world: World, server: Server) -> Row:
    """From the request until a subscriber has heard of `running`, and until it is seen on the engine: of one job."""
    caller = Caller(server)
    client: Any = world.swarm.manager.client(timeout=60)

    def both() -> tuple[float, float]:
        began = time.time()
        run_id = caller.ask("/run", **body(WORKER, "nap"))["id"]
        until_running(client, run_id)
        seen = time.time()
        subscriber.until(lambda frame: heard(frame, run_id))
        at = next(received.at for received in reversed(subscriber.received) if heard(received.frame, run_id))
        client.remove_service(run_id)
        return (at - began) * 1000, (seen - began) * 1000

    with Subscriber(server) as subscriber:
        ours, reference = zip(*(both() for _ in range(world.size(25, 2))), strict=True)
    caller.close()
    taken = list(ours), list(reference)
    return beside("`/run` → a subscriber hears `running` (worker)", taken, "ms", Reach(1.15), "polling every 10 ms")


def heard(frame: Any, run_id: str) -> bool:
    event = frame.get("event", {})
    return (event.get("subject"), event.get("type")) == (run_id, "io.qmaster.service.running")


def until_running(client: Any, service: str) -> None:
    while not any(task["Status"]["State"] == "running" for task in client.tasks({"service": service})):
        time.sleep(POLL_EVERY)


@contextlib.contextmanager
def alone(engine: Engine, server: Server) -> Iterator[None]:
    """The engine to itself: quartermaster stands still meanwhile. What was made is removed after."""
    server.freeze()
    try:
        yield
    finally:
        remove_services(engine)
        server.thaw()
        emptied(engine, server)


def post(path: str, token: str, fields: Any) -> str:
    """A request as it goes over the wire."""
    sent = json.dumps(fields)
    lines = [f"POST {path} HTTP/1.1", "Host: quartermaster", f"Authorization: Bearer {token}"]
    return "\r\n".join([*lines, f"Content-Length: {len(sent)}", "", sent])
