"""A restart of quartermaster whose runtime listener is inherited, as a systemd socket is: instances stay warm."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed import Bed, Reply, Server, Swarm, eventually
from testbed.lambdas import PYTHON

pytestmark = pytest.mark.patient

AWAY = 3.0  # seconds without a process that accepts
# What systemd does: descriptor 3 is the socket, and LISTEN_PID the process that becomes the server.
PASS_ON = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect(sys.argv[1])
    given = socket.recv_fds(asking, 1, 1)[1][0]
os.dup2(given, 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def listener(bed: Bed, tmp_path: Path) -> Iterator[socket.socket]:
    """A listening socket of the runtime API, which `tmp_path/passed` passes to whoever connects."""
    with (
        socket.create_server((bed.network.host, 0), backlog=100) as listener,
        socket.socket(socket.AF_UNIX) as door,
    ):
        door.bind(str(tmp_path / "passed"))
        door.listen()

        def pass_on() -> None:
            while True:
                try:
                    asking, _ = door.accept()
                except OSError:
                    return
                with asking:
                    socket.send_fds(asking, [b"1"], [listener.fileno()])

        threading.Thread(target=pass_on, daemon=True).start()
        yield listener
        door.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(bed: Bed, functions_swarm: Swarm, listener: socket.socket, tmp_path: Path) -> Iterator[Server]:
    """A quartermaster that is passed the socket at each start."""
    port = listener.getsockname()[1]
    flags = ["--runtime-port", str(port), "--advertise", bed.network.host]
    server = bed.server(functions_swarm.manager.host, flags)
    server.wrapper = [sys.executable, "-c", PASS_ON, str(tmp_path / "passed")]
    server.start()
    wait_ready(server)
    yield server
    server.call("DELETE", "/functions/kept")
    server.kill()


def wait_ready(server: Server) -> None:
    eventually(lambda: server.call("GET", "/readyz").status == 200, 30, "it is ready")


def echo(server: Server) -> Reply:
    reply = server.call("POST", "/functions/kept/invoke", json={"do": "echo"})
    assert reply.status == 200, reply.text
    return reply


def test_instances_stay_warm(server: Server) -> None:
    """They ask again and again while nobody answers; the next process knows them by their secrets."""
    spec = {"image": PYTHON, "command": ["app.any_of"], "memory": 128}
    assert server.call("PUT", "/functions/kept", json=spec).status in (200, 201)
    before = echo(server)
    server.terminate()
    time.sleep(AWAY)
    server.start()
    wait_ready(server)
    after = echo(server)
    assert after["host"] == before["host"]
    assert (after.headers["Qmaster-Cold"], after["calls"]) == ("false", before["calls"] + 1)
    lines = [json.loads(line) for line in server.logs().splitlines()]
    assert [line["event"] for line in lines].count("instance_started") == 1
