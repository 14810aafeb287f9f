"""A private registry with three users, on the bridge's address."""

import base64
import http.client
import json
import secrets
import socket
from dataclasses import dataclass

from testbed.engine import Engine
from testbed.image import BUSYBOX
from testbed.machine import Machine
from testbed.process import Process, run
from testbed.wait import eventually

PORT = 5000
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = """
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "{address}", secret: {secret}}}
auth: {{htpasswd: {{realm: testbed, path: {folder}/htpasswd}}}}
"""


@dataclass(frozen=True)
class User:
    """Someone with an account at the registry."""

    username: str
    password: str

    @property
    def auth_config(self) -> dict[str, str]:
        """As the SDK's `auth_config` arguments take it."""
        return {"username": self.username, "password": self.password}

    @property
    def document(self) -> bytes:
        """The credentials as Docker's JSON document."""
        # The email's bytes encode to both characters in which the two base64 alphabets differ.
        fields = {**self.auth_config, "auth": "", "email": f"{self.username}@example.com?>?>??>>"}
        return json.dumps(fields).encode()

    @property
    def auth(self) -> str:
        """The document in base64's standard alphabet."""
        return base64.b64encode(self.document).decode()

    @property
    def auth_url(self) -> str:
        """The document in base64's URL alphabet."""
        return base64.urlsafe_b64encode(self.document).decode()


def login(username: str, password: str) -> str:
    """Credentials as a caller encodes them."""
    document = {"username": username, "password": password, "auth": "", "email": "a@example.com"}
    return base64.b64encode(json.dumps(document).encode()).decode()


class Registry:
    """The registry. It is made stopped; `start` starts it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.address = f"{machine.address}:{PORT}"
        self.repository = f"{self.address}/private"
        self.alice = User("alice", secrets.token_hex(12))
        self.bob = User("bob", secrets.token_hex(12))
        self.sample = User("user", "password")  # of docs/configuration.md
        self._process: Process | None = None
        folder = machine.folder
        config = CONFIG.format(folder=folder, address=self.address, secret=secrets.token_hex(8))
        (folder / "config.yml").write_text(config)
        # Cost 4: each request of an engine is checked anew.
        users = (self.alice, self.bob, self.sample)
        accounts = [run("htpasswd", "-Bbn", "-C", "4", each.username, each.password) for each in users]
        (folder / "htpasswd").write_text("\n".join(line.strip() for line in accounts) + "\n")

    def start(self) -> None:
        """Start the registry and wait until it takes connections."""
        if self._process and self._process.alive:
            return
        argv = ["docker-registry", "serve", str(self.machine.folder / "config.yml")]
        self._process = self.machine.start(argv, "registry.log")
        eventually(self._listens, 10, "the registry listens", ignoring=OSError)

    def _listens(self) -> bool:
        with socket.create_connection((self.machine.address, PORT), timeout=1):
            return True

    def stop(self) -> None:
        """End it; what was pushed stays."""
        if self._process:
            self._process.kill()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections are taken, and nothing is answered."""
        if self._process:
            self._process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        if self._process and self._process.frozen:
            self._process.thaw()

    def restore(self) -> None:
        """Undo whatever a test did to the registry."""
        self.thaw()
        self.start()

    def push(self, engine: Engine, image: str = BUSYBOX, name: str = "tool:1") -> str:
        """Push an engine's image as `REPOSITORY/NAME`, and return that reference.

        The engine does not keep the reference: a node that has a private image starts it with any credentials.
        """
        reference = f"{self.repository}/{name}"
        repository, _, tag = reference.rpartition(":")
        client = engine.client(timeout=60)
        client.tag(image, repository, tag)
        for line in client.push(repository, tag, stream=True, decode=True, auth_config=self.alice.auth_config):
            if "error" in line:
                raise RuntimeError(f"{reference} was not pushed: {line['error']}")
        client.remove_image(reference)
        return reference

    def digest(self, reference: str) -> str:
        """The digest of a pushed image, as "sha256:…"."""
        name, _, tag = reference.removeprefix(f"{self.address}/").rpartition(":")
        login = base64.b64encode(f"{self.alice.username}:{self.alice.password}".encode()).decode()
        connection = http.client.HTTPConnection(self.address, timeout=10)
        headers = {"Authorization": f"Basic {login}", "Accept": MANIFEST}
        connection.request("HEAD", f"/v2/{name}/manifests/{tag}", headers=headers)
        answer = connection.getresponse()
        connection.close()
        return answer.headers["Docker-Content-Digest"]

    def log_lines(self, containing: str = "") -> list[str]:
        """Its access log so far: a line per request answered, `… "HEAD /v2/private/tool/manifests/1 HTTP/1.1" …`."""
        text = (self.machine.folder / "registry.log").read_text(errors="replace")
        return [line for line in text.splitlines() if '] "' in line and containing in line]

    def count(self, containing: str = "/manifests/") -> int:
        """How many requests with that text it has answered so far."""
        return len(self.log_lines(containing))
