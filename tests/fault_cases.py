"""What the tests of faults look for."""

from typing import Any

from engine_cases import IMAGE, becomes
from testbed import Server, started

Json = dict[str, Any]


def shell(server: Server, script: str, **fields: Any) -> str:
    """The id of a run of a script."""
    return started(server.run(**{"image": IMAGE, "command": ["sh", "-c", script], "memory": 16, **fields}))


def has(server: Server, run_id: str, status: str, **keys: Any) -> Json:
    """Its status document, as soon as it has that status, and then these keys."""
    becomes(server, run_id, status)
    shown: Json = server.status(run_id).json
    assert {key: shown[key] for key in keys} == keys, shown
    return shown
