"""A function call beside Docker's own steps for the same job: create, start, wait, read the output."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from testbed import Engine, Server
from testbed.server import ADDRESS

from bench.figures import Reach, Row, beside, interleave
from bench.world import IMAGE, World

COMMAND = ["sh", "-c", "echo 42; exit 3"]
MEMORY = 16 * 1024 * 1024
LOOK_EVERY = 0.01
TERMINAL = ("complete", "failed", "rejected", "shutdown")
REACH = {"service": 1.10, "container": 1.20}


def measure(world: World) -> Iterator[Row]:
    with world.server(world.engine) as server, world.clean(world.engine):
        for kind in REACH:
            yield call(world.engine, server, kind, world.size(15, 3))


def call(engine: Engine, server: Server, kind: str, rounds: int) -> Row:
    """A sync call of a service, or of a container."""
    caller, sdk = Caller(server), Sdk(engine)

    def ours() -> float:
        took, run_id = timed(lambda: caller.call(kind))
        caller.stop(run_id)
        return took

    def docker() -> float:
        took, made = timed(getattr(sdk, kind))
        getattr(sdk, f"remove_{kind}")(made)
        return took

    try:
        taken = interleave(rounds, ours, docker)
    finally:
        caller.close()
    return beside(f"sync call, {kind}", taken, "ms", Reach(REACH[kind]), "Docker's own steps")


class Sdk:
    """Docker's own steps."""

    def __init__(self, engine: Engine) -> None:
        self._client: Any = engine.client(timeout=60)

    def container(self) -> str:
        client = self._client
        made = client.create_container(IMAGE, COMMAND, host_config=client.create_host_config(mem_limit=MEMORY))
        client.start(made["Id"])
        assert client.wait(made["Id"])["StatusCode"] == 3
        assert client.logs(made["Id"]) == b"42\n"
        return str(made["Id"])

    def remove_container(self, made: str) -> None:
        self._client.remove_container(made, force=True)

    def service(self) -> str:
        client = self._client
        limits = {"MemoryBytes": MEMORY}
        template = {
            "ContainerSpec": {"Image": IMAGE, "Args": COMMAND},
            "RestartPolicy": {"Condition": "none"},
            "Resources": {"Limits": limits, "Reservations": limits},
        }
        made = client.create_service(template)
        while True:
            tasks = client.tasks({"service": made["ID"]})
            if tasks and tasks[0]["Status"]["State"] in TERMINAL:
                break
            time.sleep(LOOK_EVERY)
        assert b"42\n" in b"".join(client.service_logs(made["ID"], stdout=True))
        return str(made["ID"])

    def remove_service(self, made: str) -> None:
        self._client.remove_service(made)


class Caller:
    """A client that keeps its connection, as one that calls often does."""

    def __init__(self, server: Server) -> None:
        self._connection = http.client.HTTPConnection(ADDRESS, server.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {server.token}"}

    def close(self) -> None:
        self._connection.close()

    def ask(self, path: str, **fields: Any) -> Any:
        self._connection.request("POST", path, json.dumps(fields), self._headers)
        return json.loads(self._connection.getresponse().read())

    def call(self, kind: str) -> str:
        answer = self.ask("/run", image=IMAGE, command=COMMAND, memory=16, wait=60, type=kind)
        assert (answer["exit_code"], answer["result"]["stdout"]) == (3, "42\n"), answer
        return str(answer["id"])

    def stop(self, run_id: str) -> None:
        assert self.ask("/stop", id=run_id)["success"]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds, and the result."""
    began = time.perf_counter()
    result = work()
    return (time.perf_counter() - began) * 1000, result
