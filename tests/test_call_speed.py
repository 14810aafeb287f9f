"""A function call beside Docker's own steps for the same job, in one run: what quartermaster adds.

``--speed-rounds 15`` is a measurement, the default a look. Bounds are generous: the figures are in the summary.
"""

import http.client
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import StartServer
from testbed import Engine, Server
from testbed.server import ADDRESS

pytestmark = pytest.mark.late

IMAGE = "busybox:local"
COMMAND = ["sh", "-c", "echo 42; exit 3"]
MEMORY = 16 * 1024 * 1024
LOOK_EVERY = 0.01
TERMINAL = ("complete", "failed", "rejected", "shutdown")

Measured = Callable[[str], None]


class Sdk:
    """Docker's own steps: create, start, wait, logs."""

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
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


@pytest.mark.parametrize(("kind", "reach"), [("service", 1.15), ("container", 1.25)])
def test_a_call_beside_dockers_own_steps(
    engine: Engine,
    start_server: StartServer,
    measured: Measured,
    request: pytest.FixtureRequest,
    kind: str,
    reach: float,
) -> None:
    """Interleaved, medians; far off fails, the reach is in the summary."""
    rounds = int(request.config.getoption("--speed-rounds"))
    caller = Caller(start_server(engine.host))
    sdk = Sdk(engine)
    docker_took, ours_took = [], []
    try:
        for _ in range(rounds):
            took, made = timed(getattr(sdk, kind))
            docker_took.append(took)
            getattr(sdk, f"remove_{kind}")(made)
            took, run_id = timed(lambda: caller.call(kind))
            ours_took.append(took)
            caller.stop(run_id)
    finally:
        caller.close()
    docker_median, ours_median = statistics.median(docker_took), statistics.median(ours_took)
    ratio = ours_median / docker_median
    spread = [f"{min(each) * 1000:.0f}-{max(each) * 1000:.0f}" for each in (docker_took, ours_took)]
    measured(
        f"{kind}: Docker {docker_median * 1000:.0f} ms ({spread[0]}), call {ours_median * 1000:.0f} ms ({spread[1]}), "
        f"{ratio:.2f} times (reach {reach}; {rounds} rounds)"
    )
    assert ratio < 2.5
