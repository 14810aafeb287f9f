"""From 100 services to 5,000: what a change costs, and the memory of each."""

import time
from collections.abc import Iterator

from testbed import Engine, Server, eventually
from testbed.subscriber import Subscriber

from bench.figures import Reach, Row, alone, beside
from bench.world import QUIET, World, cpu, memory, quiet, settle, settle_one, used

PAUSE = 0.1  # seconds between two changes


def measure(world: World) -> Iterator[Row]:
    sizes = [world.size(100, 20), world.size(1000, 100), world.size(5000, 300)]
    engine = world.own_engine("growth")
    changes = world.size(30, 10)
    costs, used, there = [], [], 0
    with world.server(engine) as server:
        for size in sizes:
            settle(engine, range(there, size))
            quiet(engine)
            told(server, size)
            used.append(memory(server.pid))
            costs.append(cost(engine, server, range(size, size + changes)))
            there = size + changes
    name = f"CPU per change at {sizes[2]:,} services"
    yield beside(name, (costs[2:], costs[:1]), "ms", Reach(1.5), f"at {sizes[0]:,} services")
    if not world.quick:  # a few services take less than what comes and goes
        yield alone("memory per service", [(used[2] - used[1]) / (sizes[2] - sizes[1]) / 1024], Reach(4, "KB"))


def told(server: Server, services: int) -> None:
    """Wait until it shows all of them as they are."""

    def shown() -> bool:
        return len(server.call("GET", "/status?status=failed")["services"]) >= services

    eventually(shown, 60, "all are shown as failed", every=0.5)
    eventually(lambda: used(server.pid, 1) < QUIET, 60, "its looks at what is new have ended")


def cost(engine: Engine, server: Server, names: range) -> float:
    """Milliseconds of processor for a service that is made and fails, beyond what passes without one."""
    client = engine.client(timeout=60)
    before, began = cpu(server.pid), time.monotonic()
    time.sleep(3)
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
