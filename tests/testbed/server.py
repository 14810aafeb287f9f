"""quartermaster as a real process, and a small client of its API."""

import contextlib
import email.message
import fcntl
import http.client
import json as json_module
import os
import random
import secrets
import socket
import ssl
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from testbed.process import Process, start
from testbed.wait import eventually

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1"
_PORT_LOCKS = Path(tempfile.gettempdir()) / "qmaster-test-ports"
_KEPT_LOCKS: list[TextIO] = []
KEPT = {"PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV"}


@dataclass(frozen=True)
class Reply:
    """An answer. `headers` ignores case; `json` is None when the body is none."""

    status: int
    headers: email.message.Message
    text: str
    json: Any

    def __getitem__(self, key: str) -> Any:
        return self.json[key]


def started(reply: Reply) -> str:
    """The id that a run was answered with."""
    assert reply.status == 200, reply.text
    return str(reply["id"])


def free_port(address: str = ADDRESS) -> int:
    """A TCP port that nothing uses now, and that no other test process of this machine is given.

    It is none of those that the kernel gives to connections.
    """
    _PORT_LOCKS.mkdir(exist_ok=True)
    while True:
        port = random.randint(10_240, 32_000)
        lock = (_PORT_LOCKS / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as listener:
                listener.bind((address, port))
        except OSError:
            lock.close()
            continue
        _KEPT_LOCKS.append(lock)  # until this process ends
        return port


class Client:
    """The API of a quartermaster; each call has a connection of its own, so any thread may call."""

    def __init__(self, address: str, port: int, token: str, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.port = port
        self.token = token
        self.tls = tls

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        """A new connection, to be closed by the caller."""
        if self.tls:
            return http.client.HTTPSConnection(self.address, self.port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection(self.address, self.port, timeout=timeout)

    def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        token: bool | str = True,
        timeout: float = 120,
        body: bytes | None = None,
    ) -> Reply:
        """One request: with a body of JSON or of bytes, with the token, another one, or none."""
        sent = {}
        if token:
            sent["Authorization"] = f"Bearer {self.token if token is True else token}"
        if json is not None:
            body = json_module.dumps(json).encode()
            sent["Content-Type"] = "application/json"
        connection = self.connect(timeout)
        try:
            connection.request(method, path, body=body, headers={**sent, **(headers or {})})
            answer = connection.getresponse()
            return _reply(answer, answer.read())
        finally:
            connection.close()

    def run(self, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
        """`POST /run` with these fields."""
        return self.call("POST", "/run", json=fields, headers=headers, timeout=300)

    def stop_service(self, service: str) -> Reply:
        """`POST /stop`."""
        return self.call("POST", "/stop", json={"id": service})

    def status(self, service: str) -> Reply:
        """`GET /status/{id}`."""
        return self.call("GET", f"/status/{service}")


class Server(Client):
    """A process of `python -m qmaster`. It is made stopped; `start` starts it."""

    def __init__(
        self,
        folder: Path,
        host: str,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        started: Callable[[int], None] = lambda pid: None,
    ) -> None:
        """`folder` becomes its working directory and home; `started` is told the pid of each process."""
        super().__init__(ADDRESS, free_port(), "")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder.with_suffix(".log")
        self.url = f"http://{ADDRESS}:{self.port}"
        self.args = list(args)
        self.wrapper: list[str] = []
        """A program that becomes the server, with its arguments: `prlimit …`."""
        self.env = self._environment(host, env or {})
        self.token = self.env.get("TOKEN", "")
        self._started = started
        self._process: Process | None = None

    def _environment(self, host: str, extra: Mapping[str, str]) -> dict[str, str]:
        # Not the whole environment: proxies and certificate stores named there change how the SDK reaches an engine.
        env = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith("PYTHON")}
        path = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
        env |= {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "HOME": str(self.folder), "DOCKER_HOST": host}
        env |= {"PORT": str(self.port), "QMASTER_ADDRESS": ADDRESS, "QMASTER_RUNTIME_PORT": "0"}
        if "TOKEN_FILE" not in extra:
            env["TOKEN"] = secrets.token_hex(16)
        return env | dict(extra)

    # Its life

    @property
    def pid(self) -> int:
        assert self._process, "the server is not running"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def start(self, timeout: float = 15) -> None:
        """Start it and wait until it is alive."""
        self.launch()
        self.wait_alive(timeout)

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        argv = [*self.wrapper, sys.executable, "-m", "qmaster", *self.args]
        self._process = start(argv, self.log, self.folder, self.env)
        self._started(self._process.pid)

    def wait_alive(self, timeout: float = 15) -> None:
        """Wait until it answers."""
        process = self._process
        assert process, "the server is not running"

        def live() -> bool:
            if not process.alive:
                raise RuntimeError(f"the server ended with {process.popen.returncode}: {self.logs()[-3000:]}")
            return self.call("GET", "/livez", token=False, timeout=1).status == 200

        eventually(live, timeout, "the server is alive", ignoring=(OSError, http.client.HTTPException))

    def terminate(self, timeout: float = 30) -> int:
        """SIGTERM; its exit code."""
        assert self._process, "the server is not running"
        code = self._process.terminate(timeout)
        self._process = None
        return code

    def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """SIGTERM and start again: same port, token and folder."""
        self.terminate()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP."""
        if self._process:
            self._process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        if self._process:
            self._process.thaw()

    def failures(self, since: int = 0) -> list[Any]:
        """The lines of its log, from that character on, that tell of a failure; each of its lines is JSON."""
        lines = [json_module.loads(line) for line in self.logs()[since:].splitlines()]
        return [line for line in lines if line["level"] in ("error", "critical") or "exception" in line]

    def logs(self) -> str:
        """What it has written so far, over all restarts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _reply(answer: http.client.HTTPResponse, body: bytes) -> Reply:
    text = body.decode(errors="replace")
    parsed = None
    with contextlib.suppress(ValueError):
        parsed = json_module.loads(text)
    return Reply(answer.status, answer.headers, text, parsed)
