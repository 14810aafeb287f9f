"""A machine of the testbed: namespaces for network, mounts, hostname and processes, held by one sleeping process.

When that process ends, the kernel ends everything in the machine; and it ends with the test run, however that ends.
So neither an engine nor a container can outlive the tests, not even after a `kill -9`.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from testbed.process import CommandFailed, Process, only_child, run, start

# Engines keep their data in memory: faster, and gone with the machine. The umount drops this mount namespace's copies
# of the other machines' network namespaces, which would keep those alive. SIGCHLD is ignored so that the kernel reaps
# what an ended program leaves: an engine takes a dead containerd for a running one as long as it is not reaped.
SETUP = """
umount --recursive --lazy /run/netns 2>/dev/null
mount -t tmpfs -o mode=755 none /run && mount -t tmpfs none "$2/data" && mount -t tmpfs none "$2/exec" &&
hostname "$1" && if [ -n "$3" ]; then enter "$3"; fi && echo ready && exec env --ignore-signal=CHLD sleep infinity
"""
# Another system's folder becomes the machine's root, but for what is the machine's own. Not by chroot: runc then cannot
# mount the root anew.
ENTER = """
enter() {
mount --bind "$1" "$1" && cd "$1" && for own in dev proc run sys tmp; do mount --rbind "/$own" "$own" || return; done &&
pivot_root . mnt
}
"""


class Machine:
    """One machine. Make it in the main thread: it ends with the thread that made it (prctl(2), PR_SET_PDEATHSIG).

    `system` is a folder with another system, whose programs the machine then runs in place of the host's.
    """

    def __init__(self, name: str, namespace: str, address: str, folder: Path, system: Path | None = None) -> None:
        self.name = name
        self.address = address
        self.folder = folder
        self.host = "/mnt" if system else ""
        """What goes before a path of the host in the machine; not before that of `folder`."""
        for part in ("data", "exec"):
            (folder / part).mkdir(parents=True)
        # Not `ip netns exec`: it mounts /sys anew and so hides the cgroups.
        argv = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{namespace}"]
        argv += ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        argv += ["sh", "-c", ENTER + SETUP, "sh", name, str(folder), str(system or "")]
        popen = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        assert popen.stdout
        assert popen.stderr
        with popen.stdout, popen.stderr:
            if popen.stdout.readline() != b"ready\n":
                raise CommandFailed(f"no machine {name}: {popen.stderr.read().decode(errors='replace')}")
        self._holder = Process(popen, only_child(popen.pid))
        self._started: list[Process] = []

    @property
    def holder(self) -> int:
        """The pid of the machine's first process."""
        return self._holder.pid

    def _enter(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--target={self.holder}", "--mount", "--net", "--uts", "--pid", "--", *argv]

    def start(self, argv: Sequence[str], log: str) -> Process:
        """Start a program in the machine; `log` is the file in its folder that takes the output."""
        entered = start(self._enter(argv), self.folder / log)
        process = Process(entered.popen, only_child(entered.pid))
        self._started.append(process)
        return process

    def run(self, *argv: str, timeout: float = 300) -> str:
        """Run a command in the machine to its end."""
        return run(*self._enter(argv), timeout=timeout)

    def processes(self, program: str) -> list[int]:
        """The pids (outside) of the programs of that name in the machine."""
        ours = _pid_namespace(self.holder)
        found = []
        for entry in Path("/proc").iterdir():
            try:
                named = entry.name.isdigit() and (entry / "comm").read_text().strip() == program
                if named and _pid_namespace(int(entry.name)) == ours:
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended while we looked
        return found

    def end(self) -> None:
        """End the machine with all that runs in it."""
        self._holder.kill()
        for process in self._started:
            process.kill()


def _pid_namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/pid").readlink())
