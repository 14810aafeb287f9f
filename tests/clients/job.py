"""Runs jobs by the generated Python client: `python job.py URL TOKEN` prints, as JSON, what the server answered."""

import json
import sys
from typing import Any

from quartermaster_client import AuthenticatedClient
from quartermaster_client.api.runs import list_, run, status, stop
from quartermaster_client.models import HelloFrame, Problem, RunRequest, RunRequestType, Status, StopRequest

IMAGE = "busybox:local"


def main(url: str, token: str) -> dict[str, Any]:
    client = AuthenticatedClient(base_url=url, token=token)
    request = RunRequest(image=IMAGE, command=["echo", "42"], type_=RunRequestType.CONTAINER, wait=True)
    ended = run.sync(client=client, body=request, idempotency_key="python")
    nap = run.sync(client=client, body=RunRequest(image=IMAGE, command="nap 300", name="python"))
    napping = status.sync("python", client=client)
    stopped = stop.sync(client=client, body=StopRequest(id=nap.id))
    refused = run.sync(client=client, body=RunRequest(image="No image"))
    assert isinstance(refused, Problem)
    with client.get_httpx_client().stream("GET", "/events") as stream:
        data = next(line for line in stream.iter_lines() if line.startswith("data: "))
    return {
        "output": ended.result.stdout,
        "took": (ended.finished_at - ended.created_at).total_seconds(),
        "same": napping.id == nap.id == stopped.id,
        "listed": [each.id == ended.id for each in list_.sync(client=client, status=[Status.COMPLETE]).services],
        "refused": refused.code,
        "protocol": HelloFrame.from_dict(json.loads(data.removeprefix("data: "))).protocol,
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))  # noqa: T201 - what it is for
