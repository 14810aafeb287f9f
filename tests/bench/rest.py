"""What it takes to be there: the start, memory at rest, and what the engine does for it while nothing changes."""

import time
from collections.abc import Iterator

from bench.figures import Reach, Row, Samples, alone
from bench.world import World, memory, quiet, used, wait_ready

LISTED = 60.0  # seconds between two full listings


def measure(world: World) -> Iterator[Row]:
    yield from start(world)
    yield duty(world)


def start(world: World) -> Iterator[Row]:
    """Until `/readyz` answers 200, from a journal that is new; and the memory that is in use after."""
    took, used = [], []
    for _ in range(world.size(7, 2)):
        server = world.bed.server(world.engine.host)
        began = time.perf_counter()
        server.start()
        wait_ready(server)
        took.append(time.perf_counter() - began)
        time.sleep(1)
        used.append(memory(server.pid) / 1e6)
        server.kill()
    yield alone("start → ready", took, Reach(1.0, "s"))
    yield alone("memory at rest", used, Reach(75, "MB"))


def duty(world: World) -> Row:
    """Over a whole round of its listings, with the same engine left alone before and after."""
    services = world.size(1000, 100)
    engine = world.settled(services)
    quiet(engine)
    idle = [used(engine.pid, world.size(15, 1))]
    with world.server(engine):
        time.sleep(world.size(2, 1))
        busy = used(engine.pid, world.size(int(LISTED), 2))
    time.sleep(1)
    idle.append(used(engine.pid, world.size(15, 1)))
    without = sum(idle) / len(idle)
    name = f"engine CPU while {services:,} services are settled"
    samples = Samples((busy,), "%"), Samples(tuple(idle), "%")
    return Row(name, samples[0], Reach(2, "% of a core"), busy - without, samples[1], "the engine without it")
