"""Past one machine: a quartermaster on each of three managers: what the engines do for them, and what they serve."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families
from testbed import Engine, Server, eventually
from testbed.subscriber import Subscriber
from testbed.tidy import tidy

from bench.figures import Reach, Row, Samples, Taken, alone, beside, interleave
from bench.rest import LISTED
from bench.runs import create
from bench.stream import HELLO, SNAPSHOT, join
from bench.world import IMAGE, World, cpu, in_threads, remove_services, settle, settle_one, wait_ready
from qmaster.lifecycle import MANAGED, OWNER

CALLS = "qmaster_engine_call_duration_seconds_count"
FRAMES = "qmaster_frames_sent_total"
SUBSCRIBERS = "qmaster_subscribers"
FAILED = '"type":"io.qmaster.service.failed"'
CLIENTS = 3  # of each quartermaster; of one alone, as many as of all
LEAST = 1.0  # percent of a core: a ratio to less says nothing
ONE, ALL = 1, 3

_JOBS = itertools.count(1)


def measure(world: World) -> Iterator[Row]:
    services = world.size(1000, 50)
    with managers(world) as engines:
        settle(engines[0], range(services))
        with three(world, engines) as site:
            yield site.untouched()
            yield from site.reads(services)
            yield site.deliveries(itertools.count(services))
            yield site.settled(services)
            in_threads(engines[0], range(services), lambda client, _: create(client))
            yield from site.busy(services)


@contextlib.contextmanager
def managers(world: World) -> Iterator[list[Engine]]:
    """The engines of the swarm, all of them managers, the one that leads first."""
    swarm = world.swarm
    swarm.promote(*swarm.workers)
    try:
        yield sorted(swarm.nodes, key=lambda engine: not swarm.node(engine)["ManagerStatus"].get("Leader"))
    finally:
        remove_services(swarm.manager)
        tidy(swarm.manager, swarm.nodes)
        swarm.restore()


@contextlib.contextmanager
def three(world: World, engines: Sequence[Engine]) -> Iterator["Site"]:
    """A quartermaster on each engine, ready, their first listings behind them."""
    started = [world.bed.server(engine.host) for engine in engines]
    try:
        for server in started:
            server.launch()
        site = Site(world, engines, started)
        for server in started:
            server.wait_alive()
            wait_ready(server)
        eventually(site.is_still, 20, "what is listed at the start is listed")
        yield site
    finally:
        for server in started:
            server.kill()


class Load(NamedTuple):
    """Percent of a core: of the dockerd that leads, and of all three."""

    leader: float
    all: float

    def beyond(self, other: "Load") -> "Load":
        return Load(self.leader - other.leader, self.all - other.all)


class Site:
    """Three engines, the leader first, a quartermaster on each, and their clients."""

    def __init__(self, world: World, engines: Sequence[Engine], servers: Sequence[Server]) -> None:
        self.world = world
        self.engines = engines
        self.servers = servers
        self.loads = [world.child("load") for _ in servers]
        self.crowds = [world.child("crowd") for _ in servers]

    def counted(self, name: str, but: str = "none", count: int = ALL) -> float:
        """A metric of the first so many, over all labels but a kind."""
        return sum(counted(server, name, but) for server in self.servers[:count])

    def asked(self) -> float:
        """Calls to the engines, but for the pings, which come with time."""
        return self.counted(CALLS, but="health")

    def is_still(self) -> bool:
        before = self.asked()
        time.sleep(0.3)
        return self.asked() == before

    def cpu(self, count: int = ALL) -> float:
        """Seconds of processor that the first so many quartermasters have used."""
        return sum(cpu(server.pid) for server in self.servers[:count])

    # What they serve

    def untouched(self) -> Row:
        """Engine calls while reads and subscribers come."""
        times, each = self.world.size(10_000, 300), self.world.size(100, 10)
        one, before = self._one(), self.asked()
        for crowd, server in zip(self.crowds, self.servers, strict=True):
            join(crowd, server.port, server.token, each, SNAPSHOT)
        for path, share in ((one, 0.9), ("/status", 0.1)):
            self._ask(ALL, path, times=round(times * share / ALL))
        found = self.asked() - before
        for crowd in self.crowds:
            crowd.ask("leave")
        return alone(f"engine calls for {times:,} reads and {each * ALL} subscribers", [found], Reach(0, "calls"))

    def reads(self, services: int) -> Iterator[Row]:
        """From all at once, and from one alone by as many clients."""
        seconds = self.world.size(10, 2) / 10
        for path, name in ((self._one(), "`GET /status/{id}`"), ("/status", f"`GET /status`, {services:,} services")):
            rates: dict[int, list[float]] = {ONE: [], ALL: []}

            def cost(count: int, path: str = path, rates: dict[int, list[float]] = rates) -> float:
                """Microseconds of processor a read."""
                before = self.cpu(count)
                rate, answers = self._ask(count, path, seconds=seconds)
                rates[count].append(rate)
                return (self.cpu(count) - before) / answers * 1e6

            taken = interleave(self.world.size(5, 1), partial(cost, ALL), partial(cost, ONE))
            yield beside(f"CPU per {name}, three at once", taken, "µs", Reach(1.5), "one alone")
            reach = Reach(1.0, at_least=True)
            yield beside(f"{name}, three on these cores", (rates[ALL], rates[ONE]), "/s", reach, "one alone")

    def _one(self) -> str:
        (one,) = self.servers[0].call("GET", "/status?limit=1")["services"]
        return f"/status/{one['id']}"

    def _ask(self, count: int, path: str, **how: float) -> tuple[float, int]:
        """Ask the first so many, all at once; answers a second, and answers."""
        asked = list(zip(self.loads[:count], self.servers[:count], strict=True))
        for load, server in asked:
            lines = [f"GET {path} HTTP/1.1", "Host: quartermaster", f"Authorization: Bearer {server.token}", "", ""]
            clients = CLIENTS * ALL // count
            load.tell("loop", port=server.port, request="\r\n".join(lines), clients=clients, **how)
        done = [load.answer() for load, _ in asked]
        return sum(one["answers"] / one["seconds"] for one in done), sum(one["answers"] for one in done)

    def deliveries(self, numbers: Iterator[int]) -> Row:
        """Events of services that are made and fail, to a crowd on one, or spread over all."""
        each, changes = self.world.size(1000, 300), self.world.size(10, 2)
        client = self.engines[0].client(timeout=60)

        def change() -> tuple[float, float]:
            """Seconds of processor that the quartermasters use for some changes, and frames that they send."""
            used, sent = self.cpu(), self.counted(FRAMES)
            for number in itertools.islice(numbers, changes):
                settle_one(client, number)
                for subscriber in subscribers:
                    subscriber.event(lambda event: event["type"].endswith("service.failed"))
            return self.cpu() - used, self.counted(FRAMES) - sent

        def cost(count: int) -> float:
            """Microseconds of processor for a delivery, beyond what the changes themselves cost."""
            alone, few = change()
            for crowd, server in zip(self.crowds, itertools.cycle(self.servers[:count]), strict=False):
                since = quote(server.call("GET", "/status?limit=1")["cursor"])
                join(crowd, server.port, server.token, each, HELLO, f"/events?since={since}")
                crowd.ask("expect", text=FAILED, times=changes)
            spent, sent = change()
            for crowd in self.crowds:
                came = crowd.ask("arrived", within=20)
                assert (came["least"], came["lost"]) == (changes, 0), came
                crowd.ask("leave")
            eventually(lambda: self.counted(SUBSCRIBERS) == len(subscribers), 20, "the crowds have left")
            return (spent - alone) / (sent - few) * 1e6

        with contextlib.ExitStack() as stack:
            subscribers = [stack.enter_context(Subscriber(server)) for server in self.servers]
            for subscriber in subscribers:
                subscriber.until(lambda frame: frame["type"] == "snapshot")
            taken = interleave(self.world.size(3, 1), partial(cost, ALL), partial(cost, ONE))
        name = f"CPU per delivery, {each * ALL:,} subscribers, a third on each of three"
        return beside(name, taken, "µs", Reach(1.5), "all on one")

    # What the engines do

    def load(self, work: Callable[[], object]) -> Load:
        """What the engines use meanwhile."""
        before, began = [cpu(engine.pid) for engine in self.engines], time.monotonic()
        work()
        lasted = time.monotonic() - began
        each = [(cpu(engine.pid) - used) / lasted * 100 for engine, used in zip(self.engines, before, strict=True)]
        return Load(each[0], sum(each))

    def wake(self, count: int) -> None:
        """Let so many quartermasters go on and the others stand still, until what was missed is made up for."""
        for server in self.servers[:count]:
            server.thaw()
        for server in self.servers[count:]:
            server.freeze()
        time.sleep(self.world.size(30, 5) / 10)

    def settled(self, services: int) -> Row:
        """Over a whole round of their listings, with the engines left alone before and after."""

        def load(count: int, seconds: float) -> Load:
            self.wake(count)
            return self.load(lambda: time.sleep(seconds))

        short, long = self.world.size(10, 1), self.world.size(int(LISTED), 1)
        idle, one, all_three, after = (load(n, long if n else short) for n in (0, ONE, ALL, 0))
        without = (idle.all + after.all) / 2
        name = f"engine CPU for each of three, {services:,} services settled"
        reference = Samples((one.all - without,), "%")
        value = (all_three.all - without) / ALL
        return Row(name, Samples((value,), "%"), Reach(2, "% of a core"), value, reference, "for one")

    def busy(self, services: int) -> Iterator[Row]:
        """As many services wait for a node, so that each quartermaster sweeps, and a job runs now and then."""
        jobs, pause = self.world.size(5, 1), self.world.size(2, 1)
        client: Any = self.engines[0].client(timeout=60)
        asked: dict[int, list[float]] = {0: [], ONE: [], ALL: []}
        loads: dict[int, list[Load]] = {0: [], ONE: [], ALL: []}

        def run() -> None:
            for _ in range(jobs):
                run_job(client)
                time.sleep(pause)

        for at in range(self.world.size(2, 1)):
            for count in (0, ONE, ALL) if at % 2 == 0 else (ALL, ONE, 0):
                self.wake(count)
                before = self.counted(CALLS, count=count)
                loads[count].append(self.load(run))
                asked[count].append((self.counted(CALLS, count=count) - before) / (jobs * pause * max(count, 1)))
        by_one, by_all = (list(map(Load.beyond, loads[count], loads[0])) for count in (ONE, ALL))
        when = f"{services:,} more wait, a job every {pause} s"
        leaders: Taken = [load.leader for load in by_all], [max(LEAST, load.leader) for load in by_one]
        yield beside(f"the leader's CPU for three, {when}", leaders, "%", Reach(3), "for one")
        ours, reference = Samples(tuple(load.all / ALL for load in by_all), "%"), [load.all for load in by_one]
        name = f"engine CPU for each of three, {when}"
        yield Row(name, ours, Reach(5, "% of a core"), ours.median, Samples(tuple(reference), "%"), "for one")
        yield beside(f"engine calls of each of three, {when}", (asked[ALL], asked[ONE]), "/s", Reach(1.25), "of one")


def counted(server: Server, name: str, but: str) -> float:
    families = text_string_to_metric_families(server.call("GET", "/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == name and sample.labels.get("kind") != but)


def run_job(client: Any) -> None:
    """A run, whose result each quartermaster reads, made without one: so it is the same where there is none."""
    template = {"ContainerSpec": {"Image": IMAGE, "Args": ["true"]}, "RestartPolicy": {"Condition": "none"}}
    client.create_service(template, name=f"job-{next(_JOBS)}", labels={MANAGED: "true", OWNER: "root"})
