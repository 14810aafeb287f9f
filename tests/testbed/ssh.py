"""An engine's machine reached over ssh, by a server, keys and a home that are the testbed's own."""

import os
from pathlib import Path

from testbed.engine import Engine
from testbed.process import Process, run
from testbed.wait import eventually

SSHD = "/usr/sbin/sshd"
CONFIG = """
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/home/.ssh/id_ed25519.pub
PidFile none
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
SetEnv PATH=/usr/sbin:/usr/bin:/sbin:/bin
"""
# The ssh command takes the home of the password file, not that of the environment.
WRAPPER = """#!/bin/sh
exec /usr/bin/ssh -i {home}/.ssh/id_ed25519 -o UserKnownHostsFile={home}/.ssh/known_hosts -F none "$@"
"""


class Ssh:
    """The way in; `env` is what the docker command and quartermaster take to go it. It is made closed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._process: Process | None = None
        folder = engine.folder / "ssh"
        home = folder / "home"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        for key in (folder / "host_key", home / ".ssh" / "id_ed25519"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", str(key))
        host_key = (folder / "host_key.pub").read_text()
        (home / ".ssh" / "known_hosts").write_text(f"{engine.address} {host_key}")
        (folder / "sshd_config").write_text(CONFIG.format(address=engine.address, folder=folder))
        self._config = folder / "sshd_config"
        path = f"{_wrapper(folder / 'bin', home)}{os.pathsep}{os.environ['PATH']}"
        self.env = {"DOCKER_HOST": f"ssh://root@{engine.address}", "HOME": str(home), "PATH": path}

    @staticmethod
    def available() -> bool:
        """Whether openssh-server is installed."""
        return Path(SSHD).exists()

    def start(self) -> None:
        """Open the way: the engine's socket is then at the usual path, where ssh forwards to."""
        if self._process and self._process.alive:
            return
        machine = self._engine.machine
        setup = f"mkdir -p /run/sshd && ln -sf {self._engine.socket} /run/docker.sock"
        machine.run("sh", "-c", setup)
        process = self._process = machine.start([SSHD, "-D", "-e", "-f", str(self._config)], "sshd.log")
        log = machine.folder / "sshd.log"
        eventually(lambda: "listening" in log.read_text() or not process.alive, 10, "sshd listens")
        if not process.alive:
            raise RuntimeError(f"sshd ended: {log.read_text()}")

    def stop(self) -> None:
        """Close it, and cut the connections that came in by it."""
        if self._process:
            self._process.kill()
            self._process = None
            for program in ("sshd", "sshd-session", "sshd-auth"):  # the latter two since OpenSSH 9.8
                for pid in self._engine.machine.processes(program):
                    os.kill(pid, 9)


def _wrapper(folder: Path, home: Path) -> Path:
    folder.mkdir()
    (folder / "ssh").write_text(WRAPPER.format(home=home))
    (folder / "ssh").chmod(0o755)
    return folder
