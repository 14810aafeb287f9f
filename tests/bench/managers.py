"""Past one machine: a quartermaster on each of three managers: what the engines do for them, and what they serve."""

import base64
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families
from testbed import Engine, Server, eventually
from testbed.subscriber import Subscriber

from bench.figures import Reach, Row, Samples, Taken, alone, beside, interleave
from bench.rest import LISTED
from bench.runs import create
from bench.stream import HELLO, SNAPSHOT, join
from bench.world import IMAGE, QUIET, World, cpu, in_threads, settle, settle_one, wait_ready
from qmaster.engine.labels import MANAGED, OWNER

CALLS = "qmaster_engine_call_duration_seconds_count"
FRAMES = "qmaster_frames_sent_total"
SUBSCRIBERS = "qmaster_subscribers"
FAILED = '"type":"io.qmaster.service.failed"'
CLIENTS = 3  # of each quartermaster; of one alone, as many as of all
ONE, ALL = 1, 3
# Seconds after which even a thousand new services are no longer looked at: they are young for ten, and long looks pause
# for up to fifteen.
YOUNG = 30

_JOBS = itertools.count(1)


def measure(world: World) -> Iterator[Row]:
    services = world.size(1000, 50)
    engines = managers(world)
    settle(engines[0], range(services))
    with three(world, engines) as site:
        yield site.untouched()
        yield from site.reads(services)
        yield site.deliveries(itertools.count(services))
        yield site.settled(services)
        yield from site.busy(world.size(1000, 1))


def managers(world: World) -> Sequence[Engine]:
    """The engines of a swarm, all of them managers, the one that leads first."""
    swarm = world.own_swarm("managers")
    swarm.promote(*swarm.workers)
    return sorted(swarm.nodes, key=lambda engine: not swarm.node(engine)["ManagerStatus"].get("Leader"))


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


class _Target(NamedTuple):
    port: int
    token: str


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
            self._ask(path, ALL, times=round(times * share / ALL))
        found = self.asked() - before
        for crowd in self.crowds:
            crowd.ask("leave")
        return alone(f"engine calls for {times:,} reads and {each * ALL} subscribers", [found], Reach(0, "calls"))

    def reads(self, services: int) -> Iterator[Row]:
        """From all at once. On few cores processes are in each other's way, whatever they are: see the references."""
        rounds, seconds = self.world.size(3, 1), self.world.size(8, 2) / 10
        others = [self.world.child("bare") for _ in self.servers[ONE:]]
        beside_others = [_Target(self.servers[0].port, self.servers[0].token)]
        beside_others += [_Target(other.ask("listen"), "") for other in others]

        def rate(path: str, count: int) -> float:
            """Reads a second, by as many clients."""
            return sum(float(one["answers"] / one["seconds"]) for one in self._ask(path, count, seconds=seconds))

        def cost(path: str, count: int, targets: Sequence[_Target] = ()) -> float:
            """Microseconds of processor a read."""
            before = self.cpu(count)
            done = self._ask(path, targets or count, seconds=seconds)
            return (self.cpu(count) - before) / sum(int(one["answers"]) for one in done[:count]) * 1e6

        for path, name in ((self._one(), "`GET /status/{id}`"), ("/status", f"`GET /status`, {services:,} services")):
            body = base64.b64encode(self.servers[0].call("GET", path).text.encode()).decode()
            for other in others:
                other.ask("body", path=path, body=body)
            costs = interleave(rounds, partial(cost, path, ALL), partial(cost, path, ONE, beside_others))
            yield beside(f"CPU per {name}, three at once", costs, "µs", Reach(1.25), "one, two bare handlers at once")
            rates = interleave(rounds, partial(rate, path, ALL), partial(rate, path, ONE))
            reach = Reach(0.8, at_least=True)
            yield beside(f"{name}, three on the same cores", rates, "/s", reach, "one")

    def _one(self) -> str:
        (one,) = self.servers[0].call("GET", "/status?limit=1")["services"]
        return f"/status/{one['id']}"

    def _ask(self, path: str, targets: int | Sequence[_Target], **how: float) -> list[Any]:
        """Ask the first so many quartermasters, or others, all at once: what each load says of it."""
        if isinstance(targets, int):
            targets = [_Target(server.port, server.token) for server in self.servers[:targets]]
        clients = CLIENTS * ALL // len(targets)
        loads = self.loads[: len(targets)]
        for load, (port, token) in zip(loads, targets, strict=True):
            lines = [f"GET {path} HTTP/1.1", "Host: quartermaster", f"Authorization: Bearer {token}", "", ""]
            load.tell("loop", port=port, request="\r\n".join(lines), clients=clients, **how)
        return [load.answer() for load in loads]

    def deliveries(self, numbers: Iterator[int]) -> Row:
        """Events of services that are made and fail, to a crowd on one, or spread over all."""
        each, changes = self.world.size(1000, 600), self.world.size(6, 2)
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
            alone, few = change()
            taken = interleave(self.world.size(3, 1), partial(cost, ALL), partial(cost, ONE))
        name = f"CPU per delivery, {each * ALL:,} subscribers, a third on each of three"
        return beside(name, taken, "µs", Reach(1.25), "all on one")

    # What the engines do

    def load(self, work: Callable[[], object]) -> Load:
        """What the engines use meanwhile."""
        before, began = [cpu(engine.pid) for engine in self.engines], time.monotonic()
        work()
        lasted = time.monotonic() - began
        each = [(cpu(engine.pid) - used) / lasted * 100 for engine, used in zip(self.engines, before, strict=True)]
        return Load(each[0], sum(each))

    def left(self, count: int) -> None:
        """Let only the first so many quartermasters go on. Fewer each time: so nobody has anything to make up for."""
        for server in self.servers[count:]:
            server.freeze()
        time.sleep(self.world.size(10, 2) / 10)

    def settled(self, services: int) -> Row:
        """Over a whole round of their listings, and with the engines left alone after."""
        busy = self.load(lambda: time.sleep(self.world.size(int(LISTED * 10), 5) / 10))
        self.left(0)
        idle = self.load(lambda: time.sleep(self.world.size(100, 5) / 10))
        name = f"engine CPU for each of three, {services:,} services settled"
        value = (busy.all - idle.all) / ALL
        samples = Samples((busy.all,), "%"), Samples((idle.all,), "%")
        return Row(name, samples[0], Reach(2, "% of a core"), value, samples[1], "the engines without them")

    def busy(self, services: int) -> Iterator[Row]:
        """So many wait for a node, so that each quartermaster sweeps; then a job runs now and then as well."""
        in_threads(self.engines[0], range(services), lambda client, _: create(client))
        eventually(lambda: self.load(lambda: time.sleep(0.5)).all < QUIET, 120, "the engines are quiet")
        for server in self.servers:
            server.thaw()
        time.sleep(self.world.size(YOUNG * 10, 5) / 10)
        seconds, jobs, pause = self.world.size(80, 5) / 10, self.world.size(4, 1), self.world.size(20, 5) / 10
        client: Any = self.engines[0].client(timeout=60)
        sweeping, working, asked = {}, {}, {}
        for count in (ALL, ONE, 0):
            self.left(count)
            before = self.counted(CALLS, count=count)
            sweeping[count] = self.load(lambda: time.sleep(seconds))
            working[count] = self.load(lambda: run_jobs(client, jobs, pause))
            asked[count] = (self.counted(CALLS, count=count) - before) / (seconds + jobs * pause)
        waiting, running = f"{services:,} more waiting", f"a job every {pause:.2g} s too"
        least = self.world.size(1, 3)  # percent of a core: a ratio to less says nothing, least of all after a look
        yield leaders(waiting, sweeping, least)
        yield each(waiting, sweeping)
        yield leaders(running, working, least)
        calls: Taken = [asked[ALL] / ALL], [asked[ONE]]
        yield beside("engine calls of each of three meanwhile", calls, "/s", Reach(1.25), "of one")


def leaders(when: str, loads: Mapping[int, Load], least: float) -> Row:
    """What the dockerd that leads does for three, and for one, which is its own."""
    by_all, by_one = (loads[count].leader - loads[0].leader for count in (ALL, ONE))
    return beside(f"the leader's CPU for three, {when}", ([by_all], [max(least, by_one)]), "%", Reach(3), "for one")


def each(when: str, loads: Mapping[int, Load]) -> Row:
    """What all engines do for each of three, and for one. A sweep takes a twentieth of the time at most."""
    by_all, by_one = ((loads[count].all - loads[0].all) / count for count in (ALL, ONE))
    name, ours, reference = f"engine CPU for each of three, {when}", Samples((by_all,), "%"), Samples((by_one,), "%")
    return Row(name, ours, Reach(5, "% of a core"), by_all, reference, "for one")


def counted(server: Server, name: str, but: str) -> float:
    families = text_string_to_metric_families(server.call("GET", "/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == name and sample.labels.get("kind") != but)


def run_jobs(client: Any, jobs: int, pause: float) -> None:
    """Runs, whose results each quartermaster reads, made without one: so they are the same where there is none."""
    template = {"ContainerSpec": {"Image": IMAGE, "Args": ["true"]}, "RestartPolicy": {"Condition": "none"}}
    for _ in range(jobs):
        client.create_service(template, name=f"job-{next(_JOBS)}", labels={MANAGED: "true", OWNER: "root"})
        time.sleep(pause)
