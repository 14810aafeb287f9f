"""One engine: a dockerd on a machine of its own, and what can happen to it."""

import signal
import socket
from pathlib import Path
from typing import Any

import docker

from testbed import image
from testbed.machine import Machine
from testbed.net import Network
from testbed.process import Process, run
from testbed.wait import eventually

DOCKERD = "/usr/sbin/dockerd"
DOCKER = "/usr/bin/docker"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NO_NETWORK = ("--iptables=false", "--bridge=none")
# In place of the containerd that dockerd starts. Its collector of garbage looks again after 49 times the length of its
# last collection: with data in memory that is every 50 ms, 1 % of a processor for each idle engine. So: every second.
CONTAINERD = r"""#!/bin/sh
case $(grep '^version' "$2") in *[23]) scheduler='"io.containerd.gc.v1.scheduler"' ;; *) scheduler=scheduler ;; esac
printf '\n[plugins.%s]\npause_threshold = 0.0\n' "$scheduler" >>"$2"
PATH=${PATH#*:} exec containerd "$@"
"""
# Each engine has these in its own namespace, so all may have the same subnet.
BRIDGE = ("--bip=172.30.0.1/24",)


class Engine:
    """A dockerd. It is made stopped; `start` starts it.

    Its containers have no network, unless `bridge` gives them one: they then reach the host's address on the testbed's
    bridge. A container with a network takes 0.2 s longer to start. `programs`: a folder where dockerd looks first for
    the programs that it starts.
    """

    def __init__(
        self, machine: Machine, network: Network, *options: str, bridge: bool = False, programs: Path | None = None
    ) -> None:
        self.machine = machine
        self.name = machine.name
        self.address = machine.address
        self.folder = machine.folder
        self.socket = str(self.folder / "docker.sock")
        self.host = f"unix://{self.socket}"
        self._network = network
        self._options = (*(BRIDGE if bridge else NO_NETWORK), *options)
        self._path = f"{self.folder}/bin:" + (f"{programs}:{PATH}" if programs else PATH)
        self._dockerd: Process | None = None
        containerd = self.folder / "bin" / "containerd"
        containerd.parent.mkdir()
        containerd.write_text(CONTAINERD)
        containerd.chmod(0o755)
        self._clients: list[docker.APIClient] = []

    def _argv(self) -> list[str]:
        return [
            "env",
            f"PATH={self._path}",
            DOCKERD,
            f"--host={self.host}",
            f"--data-root={self.folder}/data",
            f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/exec/docker.pid",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{self._network.prefix}/{self.name}",
            *self._options,
        ]

    # What it is

    @property
    def up(self) -> bool:
        """Whether the engine answers a ping within a second."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(self.socket)
                connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
                return connection.recv(12) == b"HTTP/1.1 200"
        except OSError:
            return False

    @property
    def node_id(self) -> str:
        """The id of this engine's swarm node."""
        return str(self.client().info()["Swarm"]["NodeID"])

    @property
    def pid(self) -> int:
        """dockerd's."""
        assert self._dockerd, f"{self.name} is not started"
        return self._dockerd.pid

    def client(self, timeout: float = 60) -> docker.APIClient:
        """A new client of the engine, independent of all others."""
        client = docker.APIClient(base_url=self.host, version="auto", timeout=timeout)  # type: ignore[arg-type]
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        """Close the connections of the clients given out so far; a client still used opens new ones."""
        while self._clients:
            self._clients.pop().close()

    def cli(self, *args: str, timeout: float = 300) -> str:
        """The output of `docker ARGS…` on this engine, with a config folder of the engine's own."""
        env = {"PATH": PATH, "HOME": str(self.folder), "DOCKER_CONFIG": f"{self.folder}/cli"}
        return run(DOCKER, "-H", self.host, *args, timeout=timeout, env=env)

    def log(self) -> str:
        """What dockerd has logged."""
        return (self.folder / "dockerd.log").read_text(errors="replace")

    # What happens to it

    def start(self, timeout: float = 30) -> None:
        """Start dockerd and wait until it answers."""
        if self._dockerd and self._dockerd.alive:
            return
        dockerd = self._dockerd = self.machine.start(self._argv(), "dockerd.log")

        def ready() -> bool:
            if not dockerd.alive:
                raise RuntimeError(f"dockerd {self.name} ended: {self.log()[-2000:]}")
            return self.up

        eventually(ready, timeout, f"dockerd {self.name} answers; its log ends: {self.log()[-2000:]}")

    def stop(self, timeout: float = 40) -> None:
        """SIGTERM, as a shutdown of the machine does, and wait. It stops the containers first."""
        self._ended(lambda dockerd: dockerd.terminate(timeout))

    def kill(self) -> None:
        """SIGKILL, and wait until its containerd is gone too. Containers stay, until it starts again."""
        self._ended(lambda dockerd: dockerd.kill())

    def _ended(self, end: Any) -> None:
        if self._dockerd:
            end(self._dockerd)
            eventually(lambda: not self.machine.processes("containerd"), 20, f"the containerd of {self.name} is gone")
            self._dockerd = None

    def freeze(self) -> None:
        """SIGSTOP: connections are taken, and nothing is answered."""
        if self._dockerd:
            self._dockerd.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        if self._dockerd and self._dockerd.frozen:
            self._dockerd.thaw()

    def signal(self, number: int = signal.SIGHUP) -> None:
        """Any other signal to dockerd."""
        if self._dockerd:
            self._dockerd.signal(number)

    def cut_off(self) -> None:
        """Pull the machine's network cable. Its unix socket still works."""
        self._network.unplug(self.name)

    def bring_back(self) -> None:
        """Plug the cable in again."""
        self._network.plug(self.name)

    def restore(self) -> None:
        """Undo whatever a test did to the engine."""
        self.thaw()
        self.bring_back()
        if not (self._dockerd and self._dockerd.alive):
            self._dockerd = None
            self.start()

    # What is put on it

    def load_busybox(self) -> None:
        """Load the image `busybox:local`."""
        self.load_image(image.BUSYBOX)

    def load_image(self, name: str, **config: Any) -> None:
        """Load an image of busybox under that name; `config` as in Docker's image config (Cmd, Entrypoint, User, …)."""
        path = image.archive(Path(self.folder), name, **config)
        self.cli("load", "--quiet", "--input", str(path))
        path.unlink()

    def swarm_init(self, heartbeat: float = 5) -> None:
        """Make a swarm with this engine as its manager. A node is down after three heartbeats (seconds) missed."""
        client = self.client()
        spec = client.create_swarm_spec(dispatcher_heartbeat_period=int(heartbeat * 1e9))
        client.init_swarm(advertise_addr=self.address, listen_addr=f"{self.address}:2377", swarm_spec=spec)


def sdk(engine: Engine) -> Any:
    """A client without types: the SDK's leave some calls out."""
    return engine.client()
