"""5,000 subscribers on one quartermaster: the memory of each, how soon all are reached, and `/run` meanwhile."""

import statistics
from collections.abc import Iterator

from testbed import Server

from bench.calls import Caller, timed
from bench.child import Child
from bench.figures import Reach, Row, Taken, alone, beside
from bench.runs import body
from bench.stream import HELLO, SNAPSHOT, join
from bench.world import World, memory, remove_services

REACHED = 0.5  # seconds


def measure(world: World) -> Iterator[Row]:
    count = world.size(5000, 500)
    rounds = world.size(3, 1)
    who = f"{count:,} subscribers"
    costs: Taken = ([], [])
    for _ in range(rounds - 1):
        with world.server(world.engine) as server, Child("crowd") as crowd:
            take(costs, crowd, server, count)
    with world.server(world.engine) as server, world.clean(world.engine), Child("crowd") as crowd:
        before = asked(server, world.size(20, 5))
        take(costs, crowd, server, count)
        yield beside(f"{who}: memory of each", costs, "KB", Reach(1.3), "a bare Tornado websocket")
        meanwhile = asked(server, world.size(20, 5))
        reached = [reach(world, server, crowd, number) for number in range(world.size(10, 3))]
        came = crowd.ask("arrived", within=0)
        crowd.ask("leave")
        remove_services(world.engine)
        after = asked(server, world.size(20, 5))
    yield alone(f"{who}: all reached by a `/run`'s first event", reached, Reach(REACHED, "s"))
    yield alone(f"{who}: lost", [came["lost"]], Reach(0, "lost"))
    yield beside(f"{who}: `/run` p50 meanwhile", ([meanwhile], [(before + after) / 2]), "ms", Reach(2), "without them")


def asked(server: Server, times: int) -> float:
    caller = Caller(server)
    took = statistics.median(timed(lambda: caller.ask("/run", **body())["id"])[0] for _ in range(times))
    caller.close()
    return took


def take(costs: Taken, crowd: Child, server: Server, count: int) -> None:
    costs[0].append(joined(crowd, server.port, server.token, server.pid, count, SNAPSHOT))
    costs[1].append(bare(count))


def joined(crowd: Child, port: int, token: str, pid: int, count: int, first: str) -> float:
    """KB of memory that each of a crowd takes."""
    before = memory(pid)
    join(crowd, port, token, count, first)
    return (memory(pid) - before) / count / 1024


def bare(count: int) -> float:
    with Child("bare") as server, Child("crowd") as crowd:
        return joined(crowd, server.ask("listen"), "", server.pid, count, HELLO)


def reach(world: World, server: Server, crowd: Child, number: int) -> float:
    """Seconds from a request until all have its first event."""
    name = f"reached-{number}"
    crowd.ask("expect", text=f'"name":"{name}"', times=1)
    began = world.now()
    assert server.run(name=name, **body()).status == 200
    came = crowd.ask("arrived", within=20)
    assert not came["missing"], came
    return float(came["last"] - began)
