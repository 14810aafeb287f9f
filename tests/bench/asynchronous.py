"""Asynchronous calls: how fast they are accepted and started, and what those that wait cost."""

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from fakes import FakeConfigs
from schedule_cases import EVERY_MINUTE, scheduled, site
from structlog.testing import capture_logs
from testbed import Server, eventually
from testbed.lambdas import SHELL

from bench.figures import Reach, Row, Samples, alone, beside, interleave
from bench.functions import CAT, EVENT, idle_instances, publish, serving
from bench.runs import post
from bench.world import NOWHERE, World, memory, wait_ready

CALLERS = 16
CLOCKS = (0.0, 2.0, -3.0)  # seconds by which those of three quartermasters differ
EACH = "an SQLite commit each, synced"
ASYNCHRONOUSLY = {"Prefer": "respond-async"}
NEVER = {"image": SHELL, "memory": 16, "constraints": [NOWHERE], "timeout": 3600, "queue": 100_000}


def measure(world: World) -> Iterator[Row]:
    yield from accepted(world)
    with serving(world) as server:
        yield over_http(world, server)
        yield started(world, server)
    yield from waiting(world)
    yield ticks(world)


def accepted(world: World) -> Iterator[Row]:
    """In a process of its own, without HTTP."""
    child = world.child("accepting")
    for callers, who, bound in ((1, "one caller", 0.5), (CALLERS, f"{CALLERS} callers", 3.0)):
        times = world.size(4000, 800)
        taken = interleave(
            world.size(9, 2),
            partial(child.ask, "accept", callers=callers, times=times),
            partial(child.ask, "commit", times=times),
        )
        yield beside(f"accepted calls, {who}, without HTTP", taken, "/s", Reach(bound, at_least=True), EACH)


def over_http(world: World, server: Server) -> Row:
    load, bare = world.child("load"), world.child("committing")
    publish(server, "later", **NEVER)
    head, _, rest = post("/functions/later/invoke", server.token, EVENT).partition("\r\n")
    ours = {"port": server.port, "request": f"{head}\r\nPrefer: respond-async\r\n{rest}"}
    reference = {"port": bare.ask("listen"), "request": post("/later", "", EVENT)}

    def rate(**where: Any) -> float:
        done = load.ask("loop", clients=1, times=world.size(400, 100), **where)
        return float(done["answers"] / done["seconds"])

    taken = interleave(world.size(9, 2), lambda: rate(**ours), lambda: rate(**reference))
    server.call("DELETE", "/functions/later")
    name = "a bare Tornado handler, " + EACH
    return beside("accepted calls over HTTP, one client", taken, "/s", Reach(0.5, at_least=True), name)


def started(world: World, server: Server) -> Row:
    """From the acceptance to the hand-over, by quartermaster's own times, while an instance is idle."""
    publish(server, "soon", **CAT, min_instances=1)
    eventually(lambda: idle_instances(server, "soon") == 1, 60, "an instance is warm", every=0.1)

    def once() -> float:
        reply = server.call("POST", "/functions/soon/invoke", json=EVENT, headers=ASYNCHRONOUSLY)
        assert reply.status == 202, reply.text
        one = server.call("GET", f"/invocations/{reply['id']}?wait=10")
        assert one["status"] == "succeeded", one.text
        return (moment(one["started_at"]) - moment(one["created_at"])) * 1000

    took = [once() for _ in range(world.size(300, 20))]
    server.call("DELETE", "/functions/soon")
    high = statistics.median(took) if world.quick else statistics.quantiles(took, n=100)[98]  # twenty have no p99
    return Row("accepted → started, idle instance: p99", Samples(tuple(took), "ms"), Reach(20, "ms"), high)


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def waiting(world: World) -> Iterator[Row]:
    """A start with so many calls that wait for an instance, beside one with none."""
    calls = world.size(100_000, 5_000)
    sizes: dict[int, list[float]] = {0: [], calls: []}
    took: dict[int, list[float]] = {0: [], calls: []}
    with world.clean(world.bridged), world.server(world.bridged, *world.bed.runtime()) as server:
        publish(server, "waits", **NEVER)
        for count in (0, calls):
            if count:
                server.terminate()
                folder = str(server.folder / "data")
                world.child("accepting").ask("accept", callers=100, times=count, folder=folder, function="waits")
                server.start()
                wait_ready(server)
                eventually(lambda: queued(server) == calls, 60, "it knows what waits", every=0.1)
            for _ in range(world.size(3, 1)):
                server.terminate()
                began = time.perf_counter()
                server.start()
                wait_ready(server)
                took[count].append(time.perf_counter() - began)
                eventually(partial(counts, server, count), 60, "it knows what waits", every=0.1)
                time.sleep(3)
                sizes[count].append(memory(server.pid) / 1e6)
        server.call("DELETE", "/functions/waits")
    name = f"{calls:,} calls that wait"
    more = statistics.median(sizes[calls]) - statistics.median(sizes[0])
    yield Row(
        f"{name}: memory", Samples(tuple(sizes[calls]), "MB"), Reach(30, "MB"), more,
        Samples(tuple(sizes[0]), "MB"), "none",
    )  # fmt: skip
    yield alone(f"{name}: start → ready", took[calls], Reach(2.0, "s"))


def queued(server: Server) -> int:
    return int(server.call("GET", "/functions/waits")["queued"])


def counts(server: Server, count: int) -> bool:
    reply = server.call("GET", "/functions/waits")
    return reply.status == 200 and reply["queued"] >= count


def ticks(world: World) -> Row:
    """Ticks of one schedule that are called exactly once, by three whose clocks differ, in this process."""
    count = world.size(1000, 100)
    calls = asyncio.run(called(count))
    once = sum(times == 1 for times in calls.values())
    name = f"{count:,} ticks, three quartermasters: called once"
    return Row(name, Samples((calls.total(),), "calls"), Reach(count, "ticks", at_least=True), once)


async def called(count: int) -> Counter[str]:
    """How often each tick was called."""
    function = scheduled("f", EVERY_MINUTE)
    with capture_logs(), tempfile.TemporaryDirectory() as folder:
        async with site(Path(folder), FakeConfigs(function), CLOCKS) as here:
            for _ in range(count):
                await here.pass_time()
            return Counter(here.ticks())
