"""Calls to a real engine that something is wrong with."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from testbed import Engine, Reply, Server, eventually, sdk, started

IMAGE = "busybox:local"
NAP: dict[str, Any] = {"image": IMAGE, "command": "nap 300"}
CREATE = r"/(services|containers)/create"


def becomes(server: Server, run_id: str, status: str) -> None:
    eventually(lambda: server.status(run_id)["status"] == status, 30, f"{run_id} is {status}", every=0.05)


def away(reply: Reply) -> str:
    """What a 503 says; it says too when to try again."""
    assert reply.status == 503, reply.text
    assert int(reply.headers["Retry-After"]) > 0
    return str(reply["error"])


def ready(server: Server) -> bool:
    return server.call("GET", "/readyz", token=False).status == 200


def runs_again(server: Server) -> str:
    """The id of the first run that succeeds, tried as a caller would who is told 503."""

    def tried() -> str:
        reply = server.run(**NAP)
        return "" if reply.status == 503 else started(reply)

    return eventually(tried, 40, "a run succeeds", every=0.1)


def made(engine: Engine) -> list[str]:
    """The ids of all services, and of the containers that are none of theirs."""
    client = sdk(engine)
    services = [service["ID"] for service in client.services()]
    containers = [each for each in client.containers(all=True) if "com.docker.swarm.task" not in each["Labels"]]
    return services + [each["Id"] for each in containers]


def in_background(server: Server, **fields: Any) -> "Future[Reply]":
    """A /run on a thread of its own."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(server.run, **fields)
    pool.shutdown(wait=False)
    return future
