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

from bench.child import Child
from bench.figures import Reach, Row, Samples, Taken, alone, beside, interleave
from bench.runs import create
from bench.stream import HELLO, SNAPSHOT, join
from bench.world import IMAGE, QUIET, World, cpu, in_threads, remove_services, settle, settle_one, wait_ready
from qmaster.lifecycle import MANAGED, OWNER

CALLS = "qmaster_engine_call_duration_seconds_count"
FRAMES = "qmaster_frames_sent_total"
SUBSCRIBERS = "qmaster_subscribers"
FAILED = '"type":"io.qmaster.service.failed"'
CLIENTS = 3  # of each quartermaster; of one alone, as many as of all
JOB_EVERY = 2.0  # seconds
NOISE = 0.1  # percent of a core: what is less is not told from nothing

_JOBS = itertools.count(1)


def measure(world: World) -> Iterator[Row]:
    services = world.size(1000, 60)
    with managers(world) as engines:
        settle(engines[0], range(services))
        yield from settled(world, engines, services)
        with servers(world, engines) as three:
            yield untouched(world, three)
            yield from reads(world, three, services)
            yield deliveries(world, engines[0], three, itertools.count(services))
        in_threads(engines[0], range(services), lambda client, _: create(client))
        yield from busy(world, engines, services)


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
def servers(world: World, engines: Sequence[Engine]) -> Iterator[list[Server]]:
    """A quartermaster on each; ready."""
    with launched(world, engines) as started:
        for server in started:
            wait_ready(server)
        yield started


@contextlib.contextmanager
def launched(world: World, engines: Sequence[Engine]) -> Iterator[list[Server]]:
    """A quartermaster on each; starting."""
    started = [world.bed.server(engine.host) for engine in engines]
    try:
        for server in started:
            server.launch()
        yield started
    finally:
        for server in started:
            server.kill()


# What the engines do


class Load(NamedTuple):
    """Percent of a core: of the dockerd that leads, and of all three."""

    leader: float
    all: float


def load(engines: Sequence[Engine], seconds: float, work: Callable[[float], None] = time.sleep) -> Load:
    """What the engines use meanwhile."""
    before, began = [cpu(engine.pid) for engine in engines], time.monotonic()
    work(seconds)
    lasted = time.monotonic() - began
    each = [(cpu(engine.pid) - used) / lasted * 100 for engine, used in zip(engines, before, strict=True)]
    return Load(each[0], sum(each))


def calm(engines: Sequence[Engine]) -> None:
    """Wait until the engines are done with what was made on them."""
    eventually(lambda: load(engines, 0.5).all < QUIET, 120, "the engines are quiet")


class Caused:
    """What quartermasters cause, in rounds: the load with one, and with three, less that without any."""

    def __init__(self, rounds: int, measure: Callable[[int], Load]) -> None:
        self.by_one: list[Load] = []
        self.by_three: list[Load] = []
        for at in range(rounds):
            order = (0, 1, 3) if at % 2 == 0 else (3, 1, 0)
            loads = {count: measure(count) for count in order}
            self.by_one.append(_beyond(loads[1], loads[0]))
            self.by_three.append(_beyond(loads[3], loads[0]))

    def rows(self, when: str, most: float) -> Iterator[Row]:
        leaders: Taken = [load.leader for load in self.by_three], [load.leader for load in self.by_one]
        yield beside(f"the leader's CPU caused by three, {when}", leaders, "%", Reach(3), "by one")
        each = alone(
            f"engine CPU caused by each of three, {when}",
            [load.all / 3 for load in self.by_three],
            Reach(most, "% of a core"),
        )
        reference = Samples(tuple(load.all for load in self.by_one), "%")
        ours = Samples(each.ours.values, "%")
        yield Row(each.figure, ours, each.reach, each.value, reference, "by one")


def _beyond(load: Load, idle: Load) -> Load:
    return Load(*(max(NOISE, mine - theirs) for mine, theirs in zip(load, idle, strict=True)))


def settled(world: World, engines: Sequence[Engine], services: int) -> Iterator[Row]:
    """From their start on: two listings of all in that time, where any later minute has one."""
    seconds = world.size(10, 1)

    def measure(count: int) -> Load:
        calm(engines)
        with launched(world, engines[:count]):
            return load(engines, seconds)

    yield from Caused(world.size(2, 1), measure).rows(f"{services:,} services settled", 2)


def busy(world: World, engines: Sequence[Engine], services: int) -> Iterator[Row]:
    """As many services wait for a node, so that each quartermaster sweeps, and a job runs now and then."""
    seconds = world.size(10, 2)
    client: Any = engines[0].client(timeout=60)
    asked: dict[int, list[float]] = {1: [], 3: []}

    def jobs(seconds: float) -> None:
        for _ in range(int(seconds / JOB_EVERY)):
            run_job(client)
            time.sleep(JOB_EVERY)

    def measure(count: int) -> Load:
        with servers(world, engines[:count]) as there:
            calm(engines)
            before = sum(counted(server, CALLS) for server in there)
            found = load(engines, seconds, jobs)
            if count:
                asked[count].append((sum(counted(server, CALLS) for server in there) - before) / seconds / count)
            return found

    when = f"{services:,} more wait, a job every {JOB_EVERY:.0f} s"
    yield from Caused(world.size(2, 1), measure).rows(when, 5)
    yield beside(f"engine calls of each of three, {when}", (asked[3], asked[1]), "/s", Reach(1.25), "of one")


def run_job(client: Any) -> None:
    """A run, whose result each quartermaster reads, made without one: so it is the same where there is none."""
    template = {"ContainerSpec": {"Image": IMAGE, "Args": ["true"]}, "RestartPolicy": {"Condition": "none"}}
    client.create_service(template, name=f"job-{next(_JOBS)}", labels={MANAGED: "true", OWNER: "root"})


def counted(server: Server, name: str, but: str = "none") -> float:
    """The sum of a metric over its labels, without those of a kind."""
    families = text_string_to_metric_families(server.call("GET", "/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return sum(sample.value for sample in samples if sample.name == name and sample.labels.get("kind") != but)


# What they serve


def untouched(world: World, three: Sequence[Server]) -> Row:
    """Engine calls while reads and subscribers come, but for the pings, which come with time."""
    times, each = world.size(10_000, 300), world.size(100, 10)
    loads, crowds = [world.child("load") for _ in three], [world.child("crowd") for _ in three]

    def asked() -> float:
        return sum(counted(server, CALLS, but="health") for server in three)

    def listed() -> bool:
        before = asked()
        time.sleep(0.5)
        return asked() == before

    eventually(listed, 20, "what is listed at the start is listed")
    before = asked()
    for crowd, server in zip(crowds, three, strict=True):
        join(crowd, server.port, server.token, each, SNAPSHOT)
    for path, share in ((one_of(three[0]), 0.9), ("/status", 0.1)):
        ask(loads, three, path, CLIENTS, times=round(times * share / len(three)))
    found = asked() - before
    for crowd in crowds:
        crowd.ask("leave")
    return alone(f"engine calls for {times:,} reads and {each * 3} subscribers", [found], Reach(0, "calls"))


def one_of(server: Server) -> str:
    """The path of one of the services."""
    (one,) = server.call("GET", "/status?limit=1")["services"]
    return f"/status/{one['id']}"


def ask(loads: Sequence[Child], servers: Sequence[Server], path: str, clients: int, **how: float) -> tuple[float, int]:
    """Let each load ask a server of its own, all at once; answers a second, and answers."""
    for load, server in zip(loads, servers, strict=True):
        lines = [f"GET {path} HTTP/1.1", "Host: quartermaster", f"Authorization: Bearer {server.token}", "", ""]
        load.tell("loop", port=server.port, request="\r\n".join(lines), clients=clients, **how)
    done = [load.answer() for load in loads]
    return sum(one["answers"] / one["seconds"] for one in done), sum(one["answers"] for one in done)


def reads(world: World, three: Sequence[Server], services: int) -> Iterator[Row]:
    """From all at once, or from one alone, by as many clients."""
    loads = [world.child("load") for _ in three]
    for path, name in ((one_of(three[0]), "`GET /status/{id}`"), ("/status", f"`GET /status`, {services:,} services")):
        rates: dict[int, list[float]] = {1: [], 3: []}

        def cost(count: int, path: str = path, rates: dict[int, list[float]] = rates) -> float:
            """Microseconds of processor a read."""
            asked, clients = three[:count], CLIENTS * len(three) // count
            before = total_cpu(asked)
            rate, answers = ask(loads[:count], asked, path, clients, seconds=world.size(15, 3) / 10)
            rates[count].append(rate)
            return (total_cpu(asked) - before) / answers * 1e6

        taken = interleave(world.size(5, 1), partial(cost, 3), partial(cost, 1))
        yield beside(f"CPU per {name}, three at once", taken, "µs", Reach(1.25), "one alone")
        reach = Reach(1.0, at_least=True)
        yield beside(f"{name}, three at once, on the same cores", (rates[3], rates[1]), "/s", reach, "one alone")


def total_cpu(servers: Sequence[Server]) -> float:
    return sum(cpu(server.pid) for server in servers)


def deliveries(world: World, leader: Engine, three: Sequence[Server], numbers: Iterator[int]) -> Row:
    """Events of services that are made and fail, to a crowd on one of three, or spread over all."""
    each, changes = world.size(1000, 300), world.size(10, 2)
    crowds, client = [world.child("crowd") for _ in three], leader.client(timeout=60)

    def change() -> tuple[float, float]:
        """Seconds of processor that the quartermasters use for some changes, and frames that they send."""
        cpus, sent = total_cpu(three), sum(counted(server, FRAMES) for server in three)
        for number in itertools.islice(numbers, changes):
            settle_one(client, number)
            for subscriber in subscribers:
                subscriber.event(lambda event: event["type"].endswith("service.failed"))
        return total_cpu(three) - cpus, sum(counted(server, FRAMES) for server in three) - sent

    def cost(at: Sequence[Server]) -> float:
        """Microseconds of processor for a delivery, beyond what the changes themselves cost."""
        alone, few = change()
        for crowd, server in zip(crowds, itertools.cycle(at), strict=False):
            since = quote(server.call("GET", "/status?limit=1")["cursor"])
            join(crowd, server.port, server.token, each, HELLO, f"/events?since={since}")
            crowd.ask("expect", text=FAILED, times=changes)
        spent, sent = change()
        for crowd in crowds:
            came = crowd.ask("arrived", within=20)
            assert (came["least"], came["lost"]) == (changes, 0), came
            crowd.ask("leave")
        eventually(lambda: sum(counted(server, SUBSCRIBERS) for server in three) == len(three), 20, "all have left")
        return (spent - alone) / (sent - few) * 1e6

    with contextlib.ExitStack() as stack:
        subscribers = [stack.enter_context(Subscriber(server)) for server in three]
        for subscriber in subscribers:
            subscriber.until(lambda frame: frame["type"] == "snapshot")
        taken = interleave(world.size(3, 1), partial(cost, three), partial(cost, three[:1]))
    name = f"CPU per delivery, {each * 3:,} subscribers, a third on each of three"
    return beside(name, taken, "µs", Reach(1.25), "all on one")
