"""POST /run on a swarm of three nodes: placement, private images on workers, and waiting for room."""

import base64
import json
from typing import Any

from testbed import Registry, Reply, Server, Swarm, eventually, sdk, started

IMAGE = "busybox:local"
ON_A_WORKER = ["node.role==worker"]
ON_ONE_WORKER = ["node.hostname==worker-1"]


def shows(server: Server, service: str, **wanted: object) -> Reply:
    """The answer of /status, as soon as it shows all of that."""

    def reached() -> Any:
        reply = server.status(service)
        assert reply.status == 200, reply.text
        return reply if reply.json.items() >= wanted.items() else None

    reply: Reply = eventually(reached, 40, f"{service} shows {wanted}", every=0.05)
    return reply


def wrong(registry: Registry) -> str:
    """Credentials of a known user with another's password."""
    document = {"username": registry.alice.username, "password": registry.bob.password, "auth": "", "email": ""}
    return base64.b64encode(json.dumps(document).encode()).decode()


def node_memory(server: Server, hostname: str) -> int:
    """How many MiB a node has."""

    def found() -> int | None:
        nodes = server.call("GET", "/nodes")["nodes"]
        return next((node["memory"] for node in nodes if node["hostname"] == hostname), None)

    return int(eventually(found, 10, f"{hostname} is listed") or 0)


def test_a_private_image_runs_on_a_worker(swarm: Swarm, registry: Registry, swarm_shared: Server) -> None:
    """The credentials reach whichever worker it is placed on, and the image is pinned to its digest."""
    image = registry.push(swarm.manager, name="on-a-worker:1")
    fields: dict[str, Any] = {
        "image": image,
        "command": "nap 300",
        "constraints": ON_A_WORKER,
        "auth": registry.alice.auth,
    }
    service = started(swarm_shared.run(**fields, replicas=2))
    eventually(lambda: swarm_shared.status(service)["replicas"]["running"] == 2, 40, "both run", every=0.05)
    shown = swarm_shared.status(service)
    assert shown["status"] == "running"
    assert shown["image"] == f"{image}@{registry.digest(image)}"
    assert {task["node"] for task in shown["tasks"]} == {"worker-1", "worker-2"}
    for worker in swarm.workers:
        assert len(sdk(worker).containers()) == 1
    assert sdk(swarm.manager).containers() == []


def test_wrong_credentials_create_nothing(swarm: Swarm, registry: Registry, swarm_shared: Server) -> None:
    """502 that speaks of the registry, and no service."""
    image = registry.push(swarm.manager, name="refused:1")
    reply = swarm_shared.run(image=image, command="nap 300", constraints=ON_A_WORKER, auth=wrong(registry))
    assert reply.status == 502
    assert "registry" in reply["error"]
    assert registry.bob.password not in reply.text + swarm_shared.logs()
    assert sdk(swarm.manager).services() == []


def test_wrong_credentials_create_nothing_where_the_image_is_cached(
    swarm: Swarm, registry: Registry, swarm_shared: Server
) -> None:
    """A node that has a private image would start it for anybody: so the credentials are checked before."""
    image = registry.push(swarm.manager, name="cached:1")
    for node in swarm.nodes:
        sdk(node).pull(image, auth_config=registry.alice.auth_config)
    reply = swarm_shared.run(image=image, command="nap 300", auth=wrong(registry))
    assert (reply.status, "registry" in reply["error"]) == (502, True)
    assert sdk(swarm.manager).services() == []
    right = started(swarm_shared.run(image=image, command="nap 300", auth=registry.alice.auth))
    shows(swarm_shared, right, status="running")


def test_a_run_too_big_for_any_node_waits(swarm: Swarm, swarm_shared: Server) -> None:
    """It is accepted, and pending with the reason unschedulable, in Swarm's words."""
    memory = max(node_memory(swarm_shared, node.name) for node in swarm.nodes)
    service = started(swarm_shared.run(image=IMAGE, command="nap 300", memory=memory + 1))
    shown = shows(swarm_shared, service, status="pending", reason="unschedulable")
    assert "no suitable node" in shown["error"]
    assert shown["started_at"] is None
    assert swarm_shared.stop_service(service).status == 200
    eventually(lambda: sdk(swarm.manager).services() == [], 20, "what never ran is removed at once")


def test_a_run_starts_by_itself_when_there_is_room(swarm: Swarm, swarm_shared: Server) -> None:
    """Two runs that each want most of a node's memory: the second waits until the first is stopped."""
    most = node_memory(swarm_shared, "worker-1") * 6 // 10
    fields: dict[str, Any] = {"image": IMAGE, "command": "nap 300", "constraints": ON_ONE_WORKER, "memory": most}
    first = started(swarm_shared.run(**fields))
    shows(swarm_shared, first, status="running")
    second = started(swarm_shared.run(**fields))
    shows(swarm_shared, second, status="pending", reason="unschedulable")
    assert swarm_shared.stop_service(first).json == {"success": True, "id": first}
    shown = shows(swarm_shared, second, status="running", reason=None, error=None)
    assert shown["tasks"][0]["node"] == "worker-1"
    shows(swarm_shared, first, status="removed", exit_code=143)
