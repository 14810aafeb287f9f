"""Watches a server from a process of its own: how long its event loop keeps others waiting, and its memory."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from testbed.server import ADDRESS, Server

# Where the server or the probe wait for a processor, that is the machine's fault, and the kernel tells it (schedstat).
# Then the loop is judged by the processor's time that it took before it answered; else by the time on the clock.
SCRIPT = """
import json, select, socket, sys, time
port, pid = int(sys.argv[1]), sys.argv[2]
wire = socket.create_connection((sys.argv[3], port), timeout=30)
wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def used_and_waited():
    server, own = [
        [int(field) / 1e9 for field in open(path).read().split()[:2]]
        for path in (f"/proc/{pid}/task/{pid}/schedstat", "/proc/self/schedstat")
    ]
    return server[0], server[1] + own[1]
waits = []
while not waits or not select.select([sys.stdin], [], [], 0.004)[0]:
    used, waited = used_and_waited()
    began = time.monotonic()
    wire.sendall(b"GET /livez HTTP/1.1\\r\\nHost: probe\\r\\n\\r\\n")
    answer = b""
    while b'"alive"' not in answer:
        data = wire.recv(65536)
        if not data:
            sys.exit("the connection was closed")
        answer += data
    took = time.monotonic() - began
    used_now, waited_now = used_and_waited()
    contended = waited_now - waited > 0.01
    waits.append((used_now - used if contended else took, took))
print(json.dumps(waits))
"""


class Waits(NamedTuple):
    """In seconds: the longest that the loop kept others waiting, and the longest wait for an answer of so many."""

    longest: float
    with_machine: float
    answers: int


class Probe:
    """Asks the server again and again while the context lasts; then `waits` has what it found."""

    def __init__(self, server: Server) -> None:
        self._argv = [sys.executable, "-S", "-c", SCRIPT, str(server.port), str(server.pid), ADDRESS]
        self.waits = Waits(0, 0, 0)

    def __enter__(self) -> "Probe":
        self._process = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        said, _ = self._process.communicate(b"end\n", timeout=60)
        if error is None:
            assert self._process.returncode == 0, "the probe has failed: see its words on stderr"
            found = json.loads(said)
            self.waits = Waits(max(one[0] for one in found), max(one[1] for one in found), len(found))


def resident(pid: int) -> int:
    """A process's memory in use, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
