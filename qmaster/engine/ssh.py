"""Engines at ``ssh://``: paramiko, with all of its cryptography, is imported for them alone.

The SDK would import it for every engine, which is a fifth of the memory and of the time to start.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

LIBRARY = "paramiko"


def _import_sdk_alone() -> None:
    modules: dict[str, Any] = sys.modules
    if LIBRARY in modules or "docker" in modules:
        return
    modules[LIBRARY] = None  # an import fails, as where it is not installed, and the SDK does without
    try:
        importlib.import_module("docker")
    finally:
        del modules[LIBRARY]


def prepare() -> None:
    """Let the SDK reach engines at ``ssh://``; again is fine."""
    client: Any = importlib.import_module("docker.api.client")
    client.SSHHTTPAdapter = importlib.import_module("docker.transport.sshconn").SSHHTTPAdapter


_import_sdk_alone()
