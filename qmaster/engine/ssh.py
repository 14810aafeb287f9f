"""Engines at ``ssh://``: OpenSSH forwards the remote socket to a local one, which aiohttp and the SDK use."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import structlog

REMOTE_SOCKET = "/var/run/docker.sock"
FIRST_PAUSE, LAST_PAUSE = 0.3, 5.0  # seconds before a retry, doubled each time
MAX_REASON = 300  # characters
OPTIONS = {
    "BatchMode": "yes",  # no prompt for a password
    "ConnectTimeout": "10",
    "ControlPath": "none",  # a shared connection would outlive this process
    "ExitOnForwardFailure": "yes",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "StreamLocalBindMask": "0177",
    "StreamLocalBindUnlink": "yes",
}

log = structlog.get_logger(__name__)


def check_address(address: str) -> SplitResult:
    """Split ``ssh://[user@]host[:port][/path/of/the/socket]``.

    Raises:
        ValueError: the address is malformed.
    """
    parts = urlsplit(address)
    port = parts.port  # raises ValueError
    if not parts.hostname or parts.password is not None or parts.query or parts.fragment or port == 0:
        raise ValueError(f"expected ssh://user@host, ssh://user@host:22/run/user/1000/docker.sock, not {address!r}")
    return parts


class Tunnel:
    """An ssh process, restarted when it ends. Belongs to the event loop; ssh ends with this process.

    Args:
        address: ``ssh://[user@]host[:port][/path/of/the/socket]``.
    """

    def __init__(self, address: str) -> None:
        self._parts = check_address(address)
        self._folder = Path(tempfile.gettempdir(), f"qmaster-ssh-{secrets.token_hex(8)}")
        self._task: asyncio.Task[None] | None = None

    @property
    def socket(self) -> Path:
        """The local socket; nothing listens on it while the remote host is unreachable. Safe in any thread."""
        return self._folder / "docker.sock"

    def command(self) -> list[str]:
        """Return the ssh command. The remote ``cat`` ends when its stdin closes, so always with this process."""
        remote = self._parts.path.rstrip("/") or REMOTE_SOCKET
        options = [f"-o{name}={value}" for name, value in OPTIONS.items()]
        user = [f"-l{self._parts.username}"] if self._parts.username else []
        port = [f"-p{self._parts.port}"] if self._parts.port else []
        host = str(self._parts.hostname)
        return ["ssh", "-T", *options, *user, *port, f"-L{self.socket}:{remote}", "--", host, "cat"]

    def start(self) -> None:
        """Start ssh and keep it running."""
        self._folder.mkdir(mode=0o700)  # fails if it exists
        self._task = asyncio.create_task(self._run(), name="ssh")

    async def close(self) -> None:
        """Stop ssh."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause, logged = FIRST_PAUSE, ""
        while True:
            began = loop.time()
            reason = await self._forward()
            if reason != logged:
                log.warning("ssh_ended", reason=reason)
            lasted = loop.time() - began > LAST_PAUSE
            pause, logged = (FIRST_PAUSE, "") if lasted else (min(pause * 2, LAST_PAUSE), reason)
            await asyncio.sleep(pause)

    async def _forward(self) -> str:
        """Run ssh until it ends; return its last line of error output."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command(), stdin=pipe, stdout=asyncio.subprocess.DEVNULL, stderr=pipe
            )
        except OSError as error:
            return f"ssh cannot be started: {error.strerror}; install the OpenSSH client"
        try:
            said = await _last_words(process)
            await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        return said or f"ssh ended with {process.returncode}"


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """Return the last line of the process's stderr."""
    last = b""
    while process.stderr is not None and (data := await process.stderr.read(4096)):
        last = (last + data)[-4096:]
    lines = last.decode(errors="replace").strip().splitlines()
    return lines[-1][:MAX_REASON] if lines else ""
