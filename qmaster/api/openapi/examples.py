"""The examples of requests and answers in ``/openapi.json``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

ID = "owyw29mvaobgdhdt9u5lfd4zb"
CURSOR = "5f3a9c1e.m2kq8x3d:1042"
RUNS: Mapping[str, Json] = {
    "service": {"image": "busybox", "command": "sleep 600", "name": "nap"},
    "function": {"image": "busybox", "command": "echo 42", "wait": True, "timeout": 30, "ttl": 600},
    "container": {"image": "busybox", "command": ["sh", "-c", "date"], "type": "container", "memory": 64},
    "everything": {
        "image": "busybox",
        "command": ["sh", "-c", "echo $GREETING; sleep 5"],
        "env": {"GREETING": "hello"},
        "labels": {"team": "blue"},
        "memory": 64,
        "cpus": 0.5,
        "replicas": 2,
        "restart": "on-failure",
        "max_attempts": 3,
        "constraints": ["node.role==manager"],
        "ports": ["8080:80"],
    },
}
SERVICE: Json = {
    "id": ID,
    "type": "service",
    "name": "busybox-kvtwrq",
    "image": "busybox:latest",
    "command": ["echo", "42"],
    "labels": {},
    "owner": "root",
    "status": "complete",
    "reason": "exit",
    "error": None,
    "exit_code": 0,
    "replicas": {"desired": 1, "running": 0, "complete": 1, "failed": 0},
    "created_at": "2026-11-22T20:29:03.085076548Z",
    "started_at": None,
    "finished_at": "2026-11-22T20:29:03.388668165Z",
    "removed_at": None,
    "memory": 250,
    "cpus": None,
    "timeout": 30.0,
    "ttl": 600.0,
    "callback": None,
    "restarts": 0,
    "last_exit": None,
    "attempts": [],
    "function": None,
    "spec": {"image": "busybox", "command": "echo 42", "timeout": 30.0, "ttl": 600.0},
    "tasks": [
        {
            "id": "sc11dpc1n5l24cej6mbkapkbc",
            "slot": 1,
            "node_id": "12ak1fe7r97il26rxmi85h0br",
            "node": "lab",
            "state": "complete",
            "message": "finished",
            "error": None,
            "exit_code": 0,
            "container_id": "322013969e2cf77449136694920c13e032ca53ba8d041d2ac2f4493709b1c614",
            "updated_at": "2026-11-22T20:29:03.388668165Z",
        }
    ],
    "result": {"exit_code": 0, "stdout": "42\n", "stderr": "", "truncated": False, "tasks": []},
}
NODE: Json = {
    "id": "12ak1fe7r97il26rxmi85h0br",
    "hostname": "lab",
    "role": "manager",
    "state": "ready",
    "availability": "active",
    "address": "192.0.2.1",
    "engine": "26.1.5",
    "memory": 7964,
    "cpus": 4.0,
    "reserved": {"memory": 250, "cpus": 0.0},
    "leader": True,
}

STATS: Json = {
    "success": True,
    "interval": 60,
    "start": "2026-11-22T20:29:00Z",
    "runs": {
        "started": [2, 0],
        "complete": [1, 1],
        "failed": [0, 0],
        "stopped": [0, 0],
        "duration_p50": [0.31, 4.2],
        "duration_p95": [0.31, 4.2],
        "queued_p50": [0.28, None],
        "queued_p95": [0.42, None],
    },
    "nodes": {"lab": {"memory_reserved": [250, 500]}},
    "functions": {"resize": {"calls": [12, 0], "errors": [1, 0], "p50": [0.021, None], "p95": [0.064, None]}},
}

VIEW: Json = {"success": True, **SERVICE}
