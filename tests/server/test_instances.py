"""instances: the listener of the runtime API may be inherited, as systemd passes a socket."""

import os
import socket
import subprocess
import sys

import pytest

from qmaster.server.instances import inherited

# As a service manager does it: the socket is descriptor 3, and LISTEN_PID is the process that is then replaced.
PASS_ON = """
import os, socket, sys
given = int(sys.argv[1])
os.dup2(given, 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
"""
SHOW = """
import os
from qmaster.server.instances import inherited
[one] = inherited(os.environ)
print(one.getsockname()[1], one.getblocking())
"""


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_PID": str(os.getpid())}]
)
def test_nothing_is_inherited_that_was_not_passed(environ: dict[str, str]) -> None:
    """A child of a process that was passed one has its variables, but not its socket."""
    assert inherited(environ) == []


@pytest.mark.slow
def test_a_passed_socket_is_taken() -> None:
    """It listens already, so that clients connect while no process accepts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = subprocess.run(
            [sys.executable, "-c", PASS_ON, str(listener.fileno()), SHOW],
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.split() == [str(listener.getsockname()[1]), "False"]
