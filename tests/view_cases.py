"""What a quartermaster answers about its history, its functions and their calls, as the page's tests have it."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace
from testbed.crowd import service, stamp

from qmaster.models.responses import Service

Json = dict[str, Any]
DIGEST = "a" * 64


def gone(number: int, reason: Any = "exit", code: int | None = 0, **fields: Any) -> Service:
    """A run that was removed; it was created that many minutes ago."""
    now = datetime.now(UTC)
    created, started, ended = (stamp(60 * number - seconds, now) for seconds in (0, 0.3, 4.5))
    times = {"created_at": created, "started_at": started, "finished_at": ended}
    return replace(service(number, "removed", ended), reason=reason, exit_code=code, **times | fields)


def status(*runs: Service, next_page: str | None = None) -> Json:
    """The answer of ``GET /status``."""
    return {
        "success": True,
        "cursor": "c:1",
        "services": msgspec.json.decode(msgspec.json.encode(runs)),
        "next_page": next_page,
    }


def function(name: str = "resize", version: int = 3, **fields: Any) -> Json:
    """A function, as its version and as a list show it."""
    shown = {
        "name": name,
        "version": version,
        "image": f"registry.example.com/{name}:1@sha256:{DIGEST}",
        "owner": "root",
        "published_at": stamp(3600),
        "spec": {"image": f"registry.example.com/{name}:1", "runtime": "lambda", "url": "none", "timeout": 30.0},
        "instances": {"starting": 1, "idle": 2, "busy": 3},
        "queued": 4,
        "last_errors": [],
        "schedules": [],
    }
    return shown | fields


def stats(**functions: Json) -> Json:
    """The answer of ``GET /stats`` with the numbers of these functions."""
    return {"success": True, "interval": 60, "start": stamp(180), "runs": {}, "nodes": {}, "functions": functions}


def invocation(number: int = 1, status: str = "succeeded", **fields: Any) -> Json:
    """An asynchronous call."""
    shown = {
        "id": f"0000000{number}-7f3a-8a52-b0c4-0a0000052384",
        "function": "resize",
        "version": 3,
        "status": status,
        "owner": "root",
        "created_at": stamp(60 * number),
        "started_at": stamp(60 * number - 1),
        "ended_at": None if status in ("queued", "running") else stamp(60 * number - 3.5),
        "scheduled_at": None,
        "attempts": [],
        "error": None,
        "callbacks": [],
    }
    return shown | fields


def page_of(*calls: Json, next_page: str | None = None) -> Json:
    """The answer of ``GET /invocations``."""
    return {"success": True, "invocations": list(calls), "next_page": next_page}
