"""services: listings of some services and of their tasks, from a real engine."""

import asyncio
from collections.abc import Callable
from typing import Any

from testbed import Engine, eventually

from qmaster.engine import Endpoint
from qmaster.engine import Engine as OurEngine
from qmaster.engine.services import Swarm


def asked(engine: Engine, question: Callable[[Swarm], Any]) -> Any:
    """What the engine answers to quartermaster's own call."""

    async def ask() -> Any:
        ours = OurEngine(Endpoint.read(engine.host, {}))
        try:
            return await question(ours.swarm)
        finally:
            await ours.close()

    return asyncio.run(ask())


def made(engine: Engine, count: int) -> list[str]:
    """So many services of one task, by id."""
    client: Any = engine.client(timeout=60)
    template = {"ContainerSpec": {"Image": "busybox:local", "Args": ["nap", "300"]}}
    ids = [str(client.create_service(template, name=f"listed-{number}")["ID"]) for number in range(count)]
    eventually(lambda: {task["ServiceID"] for task in client.tasks()} >= set(ids), 20, "each has its task")
    return ids


def test_one_that_is_gone_hides_no_others_tasks(engine: Engine) -> None:
    """Docker answers 404 where one service of a filter is not there."""
    here, gone, never = *made(engine, 2), "n" * 25
    client: Any = engine.client(timeout=60)
    client.remove_service(gone)
    listed = asked(engine, lambda swarm: swarm.tasks(here, gone, never))
    assert {task["ServiceID"] for task in listed} == {here}
    assert list(asked(engine, lambda swarm: swarm.tasks(gone))) == []
    client.remove_service(here)


def test_services_are_listed_by_their_ids(engine: Engine) -> None:
    """Those that are there."""
    first, second, third = made(engine, 3)
    listed = asked(engine, lambda swarm: swarm.services(first, third, "n" * 25))
    assert {raw["ID"] for raw in listed} == {first, third}
    client: Any = engine.client(timeout=60)
    for each in (first, second, third):
        client.remove_service(each)
