"""From 100 services to 5,000: what a change costs, and the memory of each."""

import time
from collections.abc import Iterator

from testbed import Engine, Server, eventually
from testbed.subscriber import Subscriber

from bench.figures import Reach, Row, alone, beside
from bench.world import QUIET, World, cpu, in_threads, make_empty, memory, quiet, settle, settle_one, used

PAUSE = 0.1  # seconds between two changes


def measure(world: World) -> Iterator[Row]:
    yield changes(world)
    yield size(world)


def changes(world: World) -> Row:
    """Services whose only task has failed; from the second size on without tasks, as the engine itself grows slow."""
    few, many, most = world.size(100, 20), world.size(1000, 100), world.size(5000, 300)
    engine, times = world.own_engine("growth"), world.size(30, 5)
    pause = world.size(3, 1)
    with world.server(engine) as server:
        settle(engine, range(few))
        first = cost(engine, server, range(few, few + times), pause)
        settle(engine, range(few + times, many))
        in_threads(engine, range(many, most), make_empty)
        eventually(lambda: len(server.call("GET", "/status")["services"]) >= most, 60, "all are shown", every=0.5)
        last = cost(engine, server, range(most, most + times), pause)
    name = f"CPU per change at {most:,} services"
    return beside(name, ([last], [first]), "ms", Reach(1.5), f"at {few:,} services")


def size(world: World) -> Row:
    """Services of one task each, from a listing that is made up, through the view and the journal."""
    stage = world.child("stage")
    stage.ask("listen")
    many, most = world.size(1000, 200), world.size(5000, 1000)
    stage.ask("live", services=many, times=1)
    before = memory(stage.pid)
    stage.ask("live", services=most - many, times=1)
    grown = (memory(stage.pid) - before) / (most - many) / 1024
    return alone(f"memory per service, from {many:,} to {most:,}", [grown], Reach(6, "KB"))


def cost(engine: Engine, server: Server, names: range, pause: float) -> float:
    """Milliseconds of processor for a service that is made and fails, beyond what passes without one."""
    quiet(engine)
    eventually(lambda: used(server.pid, 1) < QUIET, 60, "its looks at what is new have ended")
    client = engine.client(timeout=60)
    before, began = cpu(server.pid), time.monotonic()
    time.sleep(pause)
    idle = (cpu(server.pid) - before) / (time.monotonic() - began)
    with Subscriber(server) as subscriber:
        subscriber.until(lambda frame: frame["type"] == "snapshot")
        before, began = cpu(server.pid), time.monotonic()
        for name in names:
            settle_one(client, name)
            subscriber.event(lambda event: event["type"].endswith("service.failed"))
            time.sleep(PAUSE)
        spent = cpu(server.pid) - before - idle * (time.monotonic() - began)
    return spent / len(names) * 1000
