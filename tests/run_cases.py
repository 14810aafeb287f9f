"""What the tests of runs look for."""

from typing import Any

from testbed import Engine, Reply, Server, eventually, sdk

MANAGED = "io.qmaster.managed"


def has_status(server: Server, run_id: str, status: str) -> Reply:
    """The answer of /status, as soon as the run has that status."""

    def reached() -> Any:
        reply = server.status(run_id)
        return reply if reply.status == 200 and reply["status"] == status else None

    reply: Reply = eventually(reached, 30, f"{run_id} is {status}: {server.status(run_id).text}", every=0.05)
    return reply


def service_spec(engine: Engine, service: str) -> dict[str, Any]:
    """What Docker has stored of a service."""
    return dict(sdk(engine).inspect_service(service)["Spec"])
