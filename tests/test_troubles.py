"""The docs' troubles: each is brought about, and told in the words that its table shows."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testbed import Registry, Server, eventually
from testbed.server import ADDRESS

from docs import code, table

IMAGE = "busybox:local"
ROWS = [code(row["you see"])[0] for row in table("Troubleshooting")]
# What is told in the words of the code, by test_readme, and comes about in other tests: of an engine that is a worker,
# of a stop, and of a journal that is deleted.
TOLD_THERE = (
    "this engine is a swarm worker",
    "this swarm manager is locked",
    "quartermaster is stopping",
    "its file was deleted",
)


@dataclass
class Lab:
    """Where troubles are had; ``server`` is on a swarm of one node."""

    server: Server
    request: pytest.FixtureRequest
    folder: Path

    def on_start(self, **env: str) -> str:
        """What a quartermaster says that ends at once."""
        environ = {**self.server.env, **env}
        done = subprocess.run(
            [sys.executable, "-m", "qmaster"],
            env={name: value for name, value in environ.items() if value},
            cwd=self.server.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        return done.stderr

    def run(self, **fields: Any) -> str:
        """What is said of a run: the error, or that of its status as soon as it has one."""
        reply = self.server.run(**{"image": IMAGE, "memory": 16, **fields})
        if reply.status != 200:
            return str(reply["error"])
        return str(eventually(lambda: self.server.status(reply["id"])["error"], 30, "its status has an error"))

    def elsewhere(self, host: str, image: str = IMAGE) -> str:
        """What a quartermaster on another engine says of a run."""
        start_server = self.request.getfixturevalue("start_server")
        return str(start_server(host).run(image=image)["error"])

    def taken(self) -> str:
        self.run(name="clock", command="false")
        return self.run(name="clock")

    def of_registry(self, **fields: Any) -> str:
        """What is said of a run of the registry's image that is not in it."""
        registry: Registry = self.request.getfixturevalue("registry")
        return self.run(image=f"{registry.address}/tool", **fields).replace(registry.address, "registry.example.com")


AUTH = "eyJ1c2VybmFtZSI6Im5vYm9keSIsInBhc3N3b3JkIjoieCJ9"  # nobody's
TROUBLES: dict[str, Callable[[Lab], str]] = {
    "no token: set": lambda lab: lab.on_start(TOKEN=""),
    "cannot listen": lambda lab: lab.on_start(QMASTER_DATA_DIR=str(lab.folder)).replace(
        f"{ADDRESS}:{lab.server.port}", "*:9090"
    ),
    "another quartermaster": lambda lab: lab.on_start(PORT="0"),
    "no token: send": lambda lab: str(lab.server.call("GET", "/status", token=False)["error"]),
    "invalid token": lambda lab: str(lab.server.call("GET", "/status", token="another")["error"]),
    "engine is away": lambda lab: lab.elsewhere(f"unix://{lab.folder}/no.sock"),
    "is not a swarm manager: run": lambda lab: lab.elsewhere(lab.request.getfixturevalue("plain_engine").host),
    "not valid JSON": lambda lab: str(lab.server.call("POST", "/run", body=b"{'image': 'busybox'}")["error"]),
    "the name": Lab.taken,
    "No such image": Lab.of_registry,
    "not on this engine": lambda lab: lab.run(image="nosuch:1", type="container"),
    "did not answer": lambda lab: lab.run(image="user/image", auth=AUTH),
    "refused the credentials": lambda lab: lab.of_registry(auth=AUTH),
    "insufficient resources": lambda lab: lab.run(memory=10_000_000),
    "constraints not satisfied": lambda lab: lab.run(constraints=["node.labels.gpu==yes"]),
    "executable file not found": lambda lab: lab.run(command="nosuchprogram"),
    "non-zero exit": lambda lab: lab.run(command="sleep 1 && echo done"),
}


def test_each_trouble_is_had() -> None:
    """There is a way to each row, and no more."""
    rows = [[row for row in ROWS if words in row] for words in (*TROUBLES, *TOLD_THERE)]
    assert all(len(found) == 1 for found in rows)
    assert sorted(row for found in rows for row in found) == sorted(ROWS)


@pytest.mark.parametrize("words", TROUBLES)
def test_a_trouble_is_told_as_shown(words: str, shared: Server, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In a whole or, with "…" at its end, as a beginning."""
    shown = next(row for row in ROWS if words in row)
    said = TROUBLES[words](Lab(shared, request, tmp_path))
    assert shown in said or (shown.endswith(" …") and shown.removesuffix(" …") in said)
