"""The stream: what a delivery costs, 5,000 subscribers at once, and events from the journal to a subscriber."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from bench.child import Child
from bench.figures import Reach, Row, alone, beside, interleave
from bench.frames import MARK
from bench.world import World

HELLO = '"type":"hello"'
SNAPSHOT = '"type":"snapshot"'
EVENT_BYTES = 300
BURST = 200
PAUSE = 0.02


def measure(world: World) -> Iterator[Row]:
    yield from deliveries(world)
    yield journal(world)


class Sending:
    """A server of the stream with a crowd on it."""

    def __init__(self, world: World, module: str, crowd: int) -> None:
        self.server, self.crowd = world.child(module), world.child("crowd")
        self.members = crowd
        at = self.server.ask("listen")
        join(self.crowd, at["port"], at["token"], crowd, HELLO if module == "broadcaster" else SNAPSHOT)

    def cost(self, frames: int, pause: float) -> float:
        """Microseconds of processor for one delivery."""
        self.crowd.ask("expect", text=MARK, times=frames)
        before = self.server.ask("cpu")
        self.server.ask("publish", frames=frames, size=EVENT_BYTES, pause=pause)
        came = self.crowd.ask("arrived", within=30)
        assert (came["least"], came["most"], came["lost"]) == (frames, frames, 0), came
        return float(self.server.ask("cpu") - before) / (frames * self.members) * 1e6


def join(crowd: Child, port: int, token: str, count: int, first: str, path: str = "/events") -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    came = crowd.ask("connect", port=port, path=path, count=count, headers=headers, first=first)
    assert not came["missing"], came


def deliveries(world: World) -> Iterator[Row]:
    crowd = world.size(1000, 200)
    ours, reference = Sending(world, "stage", crowd), Sending(world, "broadcaster", crowd)
    for how, frames, pause, bound in (("steady", 50, PAUSE, 0.6), (f"a burst of {BURST}", BURST, 0.0, 0.15)):
        taken = interleave(
            world.size(9, 2),
            partial(ours.cost, frames, pause),
            partial(reference.cost, frames, pause),
        )
        name = f"CPU per delivery, {crowd:,} subscribers, {EVENT_BYTES} bytes, {how}"
        yield beside(name, taken, "µs", Reach(bound), "`websockets` broadcast")


def journal(world: World) -> Row:
    """From a change in the listing through the journal to a subscriber."""
    stage, reader = world.child("stage"), world.child("crowd")
    at: Any = stage.ask("listen")
    join(reader, at["port"], at["token"], 1, SNAPSHOT)

    def rate() -> float:
        times = world.size(20, 5)
        events = 6 * 100 * times
        reader.ask("expect", text=MARK, times=events)
        began = world.now()
        assert stage.ask("live", services=100, times=times) == events
        came = reader.ask("arrived", within=60)
        assert came["least"] == events, came
        return float(events / (came["last"] - began))

    rates = [rate() for _ in range(world.size(5, 2))]
    return alone("events through the journal to a subscriber", rates, Reach(5000, "events/s", at_least=True))
