"""``GET /status`` and ``GET /status/{id}`` beside a bare Tornado handler that writes the same bytes."""

import base64
from collections.abc import Iterator
from functools import partial

from bench.child import Child
from bench.figures import Reach, Row, beside, interleave
from bench.world import World

CLIENTS = 8


def measure(world: World) -> Iterator[Row]:
    services = world.size(1000, 100)
    bare, load = world.child("bare"), world.child("load")
    port = bare.ask("listen")
    with world.server(world.settled(services)) as server:
        (one,) = server.call("GET", "/status?limit=1")["services"]
        for path, name, bound in (
            (f"/status/{one['id']}", "`GET /status/{id}`", 0.55),
            ("/status", f"`GET /status`, {services:,} services", 0.7),
        ):
            body = server.call("GET", path).text.encode()
            bare.ask("body", path=path, body=base64.b64encode(body).decode())
            taken = interleave(
                world.size(15, 2),
                partial(rate, world, load, server.port, path, server.token),
                partial(rate, world, load, port, path, server.token),
            )
            yield beside(name, taken, "/s", Reach(bound, at_least=True), "a bare Tornado handler, the same bytes")


def rate(world: World, load: Child, port: int, path: str, token: str) -> float:
    lines = [f"GET {path} HTTP/1.1", "Host: quartermaster", f"Authorization: Bearer {token}", "", ""]
    done = load.ask("loop", port=port, request="\r\n".join(lines), clients=CLIENTS, seconds=world.size(8, 5) / 10)
    return float(done["answers"] / done["seconds"])
