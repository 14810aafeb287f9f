"""Functions: a warm call beside a bare hop, a cold one beside Swarm's own start, a death, and what idle ones cost."""

import base64
import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from testbed import Engine, Server, eventually
from testbed.lambdas import PYTHON, SHELL

from bench.calls import timed
from bench.figures import Reach, Row, Samples, alone, beside, interleave
from bench.runs import post, until_running
from bench.world import World, memory, quiet, used

EVENT = {"do": "echo", "number": 42}
CLIENTS = 16
MEMORY = 64  # MiB of an instance
CAT = {"image": SHELL, "command": ["cat"], "memory": 16}


def measure(world: World) -> Iterator[Row]:
    with serving(world) as server:
        yield from warm(world, server)
        yield death(world, server)
        yield cold(world, server)
    yield from published(world)
    yield from idle(world)


@contextlib.contextmanager
def serving(world: World) -> Iterator[Server]:
    """A quartermaster whose functions can be called; what it published is removed after."""
    with world.clean(world.bridged), world.server(world.bridged, *world.bed.runtime()) as server:
        yield server


def publish(server: Server, name: str, **fields: Any) -> None:
    reply = server.call("PUT", f"/functions/{name}", json={"memory": MEMORY, **fields})
    assert reply.status in (200, 201), reply.text


def invoke(server: Server, name: str, event: Any, status: int = 200) -> Any:
    reply = server.call("POST", f"/functions/{name}/invoke", json=event)
    assert reply.status == status, reply.text
    return reply.json


def idle_instances(server: Server, name: str) -> int:
    return int(server.call("GET", f"/functions/{name}")["instances"]["idle"])


def warm(world: World, server: Server) -> Iterator[Row]:
    """One client, then as many as there are instances; the reference answers the same bytes."""
    instances = world.size(CLIENTS, 2)
    publish(server, "warm", image=PYTHON, command=["app.any_of"], min_instances=instances, max_instances=instances)
    answer = json.dumps(invoke(server, "warm", EVENT)).encode()
    eventually(lambda: idle_instances(server, "warm") == instances, 120, "all instances are warm", every=0.1)
    load, leaf, hop = world.child("load"), world.child("bare"), world.child("hop")
    port = leaf.ask("listen")
    leaf.ask("body", path="/warm", body=base64.b64encode(answer).decode())
    there = hop.ask("listen", to=port)
    ours = {"port": server.port, "request": post("/functions/warm/invoke", server.token, EVENT)}
    reference = {"port": there, "request": post("/warm", "", EVENT)}

    def p50(**where: Any) -> float:
        return float(statistics.median(load.ask("loop", clients=1, times=world.size(200, 40), **where)["took"]) * 1000)

    def rate(**where: Any) -> float:
        done = load.ask("loop", clients=instances, times=world.size(1200, 100), **where)
        return float(done["answers"] / done["seconds"])

    hop_name = "a bare Tornado hop before a bare handler"
    taken = interleave(world.size(9, 2), lambda: p50(**ours), lambda: p50(**reference))
    yield beside("warm call p50, one client", taken, "ms", Reach(1.5), hop_name)
    taken = interleave(world.size(5, 2), lambda: rate(**ours), lambda: rate(**reference))
    name = f"warm calls, {CLIENTS} clients, {CLIENTS} instances"
    yield beside(name, taken, "/s", Reach(0.45, at_least=True), hop_name)
    server.call("DELETE", "/functions/warm")


def death(world: World, server: Server) -> Row:
    """From the call, whose function ends its process at once, until the caller has the answer."""
    publish(server, "dies", image=PYTHON, command=["app.any_of"])

    def once() -> float:
        invoke(server, "dies", EVENT)
        return timed(lambda: invoke(server, "dies", {"do": "leave", "code": 3}, 502))[0] / 1000

    row = alone("a death in a call → 502", [once() for _ in range(world.size(9, 2))], Reach(0.5, "s"))
    server.call("DELETE", "/functions/dies")
    return row


def cold(world: World, server: Server) -> Row:
    """A call of a function without an instance, until the answer."""
    client: Any = world.bridged.client(timeout=60)
    limit = {"MemoryBytes": 16 << 20}
    template = {
        "ContainerSpec": {"Image": SHELL, "Command": ["nap"], "StopGracePeriod": 0},
        "RestartPolicy": {"Condition": "none"},
        "Resources": {"Limits": limit, "Reservations": limit},
    }

    def ours() -> float:
        publish(server, "cold", **CAT)
        took = timed(lambda: invoke(server, "cold", EVENT))[0]
        server.call("DELETE", "/functions/cold")
        settled(world.bridged)
        return took

    def swarm() -> float:
        began = time.perf_counter()
        made = client.create_service(template)["ID"]
        until_running(client, made)
        took = (time.perf_counter() - began) * 1000
        client.remove_service(made)
        settled(world.bridged)
        return took

    taken = interleave(world.size(15, 2), ours, swarm)
    return beside("cold call, service", taken, "ms", Reach(1.15), "Swarm's own create → running")


def settled(engine: Engine) -> None:
    """Wait until no container of the round before is left."""
    eventually(lambda: not engine.client().containers(), 60, "the instance is gone", every=0.05)


def published(world: World) -> Iterator[Row]:
    """Functions that nobody calls: a quartermaster started with them beside one started without."""
    functions, seconds = world.size(1000, 300), world.size(10, 2)
    names = [f"rests-{number}" for number in range(functions)]
    sizes: dict[int, list[float]] = {0: [], functions: []}
    rest: dict[int, list[float]] = {0: [], functions: []}
    with serving(world) as server, ThreadPoolExecutor(8) as pool:
        for _ in range(world.size(3, 1)):
            for count in (0, functions):
                list(pool.map(lambda name: publish(server, name, **CAT), names[:count]))
                server.restart()
                eventually(lambda: server.call("GET", "/readyz").status == 200, 30, "it is ready")
                eventually(partial(knows, server, names[:count]), 30, "it knows the functions")
                time.sleep(2)
                sizes[count].append(memory(server.pid) / 1e3)
                rest[count].append(used(server.pid, seconds))
            list(pool.map(lambda name: server.call("DELETE", f"/functions/{name}"), names))
    name = f"{functions} functions, none warm"
    each = (statistics.median(sizes[functions]) - statistics.median(sizes[0])) / functions
    if not world.quick:  # a process is up to 1 MB larger or smaller than the one before
        yield Row(
            f"{name}: memory of each", Samples(tuple(sizes[functions]), "KB"), Reach(2, "KB"), each,
            Samples(tuple(sizes[0]), "KB"), "none published",
        )  # fmt: skip
    cpu = statistics.median(rest[functions]) - statistics.median(rest[0])
    yield Row(
        f"{name}: CPU at rest", Samples(tuple(rest[functions]), "%"), Reach(0.1, "% of a core"), cpu,
        Samples(tuple(rest[0]), "%"), "none published",
    )  # fmt: skip


def knows(server: Server, names: list[str]) -> bool:
    """Whether it has all of them; they are not listed, as the process would keep the memory of that."""
    return all(server.call("GET", f"/functions/{name}").status == 200 for name in names[-1:])


def used_by(pids: list[int], seconds: float) -> list[float]:
    """Percent of a core that each of these processes uses in the same time."""
    with ThreadPoolExecutor(len(pids)) as pool:
        return list(pool.map(lambda pid: used(pid, seconds), pids))


def idle(world: World) -> Iterator[Row]:
    """Warm instances that nobody calls, beside none."""
    instances, seconds = world.size(64, 4), world.size(60, 4)
    engine = world.bridged
    with serving(world) as server:
        quiet(engine)
        before = used_by([server.pid, engine.pid], seconds)
        publish(server, "idle", min_instances=instances, max_instances=instances, **CAT)
        eventually(lambda: idle_instances(server, "idle") == instances, 240, "all instances are warm", every=0.2)
        quiet(engine)
        after = used_by([server.pid, engine.pid], seconds)
    if world.quick:  # new services are looked at more often than in the minute of a measurement
        return
    for who, without, busy in zip(("quartermaster", "the engine"), before, after, strict=True):
        name = f"{instances} warm instances, idle: CPU of {who}"
        ours, reference = Samples((busy,), "%"), Samples((without,), "%")
        yield Row(name, ours, Reach(1, "% of a core"), busy - without, reference, "none")
