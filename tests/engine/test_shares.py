"""What one owner waits for is no other's wait: each beside a crowd of another token's, on a real engine."""

import contextlib
import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from testbed import Bed, Engine, Proxy, Registry, Reply, Server, eventually, started
from testbed.faults import delay

IMAGE = "busybox:local"
SLACK = 1.5  # seconds of a busy machine; the crowd takes longer than that for each turn
Measured = Callable[[str], None]


class Silent:
    """A registry that takes connections, and says nothing."""

    def __init__(self, address: str) -> None:
        self._listener = socket.create_server((address, 0))
        self.address = f"{address}:{self._listener.getsockname()[1]}"
        self._taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(self._listener.accept()[0])

    def close(self) -> None:
        """Hang up: who waits need not wait any longer. A second time it does nothing."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait for a connection, which ``close`` does not
        self._thread.join()
        self._listener.close()
        for each in self._taken:
            each.close()


@pytest.fixture
def silent(bed: Bed, engine: Engine) -> Iterator[Silent]:
    made = Silent(f"{bed.network.subnet}.253")
    yield made
    made.close()


class Both:
    """Alice and Bob, each with a token, on one server; ``crowd`` makes calls of Alice's that go on meanwhile."""

    def __init__(self, folder: Path, start: StartServer, host: str, pool: ThreadPoolExecutor) -> None:
        self._tokens = {name: secrets.token_hex(16) for name in ("alice", "bob")}
        tables = [
            f'[{name}]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nscopes = ["run", "stop", "read"]\n'
            for name, token in self._tokens.items()
        ]
        file = folder / "tokens.toml"
        file.write_text("".join(tables))
        file.chmod(0o600)
        self.server: Server = start(host, QMASTER_TOKENS_FILE=str(file))
        self._pool = pool
        eventually(lambda: self.server.call("GET", "/readyz").status == 200, 20, "it is ready")

    def run(self, whose: str, **fields: Any) -> Reply:
        run = {"image": IMAGE, "memory": 16, **fields}
        return self.server.call("POST", "/run", json=run, token=self._tokens[whose], timeout=120)

    def crowd(self, *runs: dict[str, Any]) -> list["Future[Reply]"]:
        """Alice's runs, all at once."""
        return [self._pool.submit(self.run, "alice", **run) for run in runs]

    def bobs(self, **fields: Any) -> tuple[float, Reply]:
        """How long one of Bob's took, which is never refused."""
        began = time.monotonic()
        reply = self.run("bob", **fields)
        assert reply.status == 200, reply.text
        return time.monotonic() - began, reply


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def both(tmp_path: Path, start_server: StartServer, engine: Engine, pool: ThreadPoolExecutor) -> Both:
    return Both(tmp_path, start_server, engine.host, pool)


def check(alone: list[float], beside: list[float], what: str, measured: Measured) -> None:
    measured(f"{what}: {max(alone):.2f} s alone, {max(beside):.2f} s beside the crowd")
    assert max(beside) < 2 * max(alone) + SLACK


@pytest.mark.patient
def test_a_silent_registry_is_waited_for_by_who_asked_it(
    both: Both, silent: Silent, registry: Registry, measured: Measured
) -> None:
    """Twelve runs of one token on it: another's go on as they do alone, with credentials and without."""
    kinds: list[dict[str, Any]] = [{}, {"auth": registry.alice.auth}]
    alone = [both.bobs(image=f"{registry.repository}/alone:{n}", **kinds[n % 2])[0] for n in range(4)]
    waiting = both.crowd(*({"image": f"{silent.address}/tool:{n}"} for n in range(12)))
    time.sleep(0.3)
    beside = [both.bobs(image=f"{registry.repository}/beside:{n}", **kinds[n % 2])[0] for n in range(6)]
    # The one that Alice asks for as well, behind her others.
    waiting += both.crowd({"image": f"{registry.repository}/shared:1"})
    time.sleep(0.1)
    beside.append(both.bobs(image=f"{registry.repository}/shared:1")[0])
    assert not all(each.done() for each in waiting)
    check(alone, beside, "a run", measured)
    assert [each.result().status for each in waiting] == [200] * 13  # unpinned, as Docker does


@pytest.mark.patient
def test_a_pull_is_waited_for_by_who_asked_for_it(
    both: Both, silent: Silent, registry: Registry, engine: Engine, measured: Measured
) -> None:
    """Six of one token's from a silent registry: another's container begins as soon as it does alone."""
    images = [registry.push(engine, name=f"pull-{n}:1") for n in range(3)]
    fields = {"type": "container", "command": "nap 300", "auth": registry.alice.auth}
    alone = [both.bobs(image=images[0], **fields)[0]]
    waiting = both.crowd(*({"image": f"{silent.address}/tool:{n}", "type": "container"} for n in range(6)))
    time.sleep(0.5)
    beside = [both.bobs(image=image, **fields)[0] for image in images[1:]]
    assert not any(each.done() for each in waiting)
    silent.close()
    check(alone, beside, "a container with its pull", measured)
    assert {each.result().status for each in waiting} <= {502, 503}


@pytest.mark.patient
def test_what_ended_with_a_long_log_delays_no_other_result(
    tmp_path: Path, start_server: StartServer, proxy: Proxy, pool: ThreadPoolExecutor, measured: Measured
) -> None:
    """Twelve ends of one token whose logs take four seconds each: another's result comes as it does alone."""
    both = Both(tmp_path, start_server, proxy.host, pool)
    fields = {"type": "container", "command": "echo said", "wait": 60}
    alone = [both.bobs(**fields)[0] for _ in range(2)]
    crowd = both.crowd(*({"type": "container", "command": "sleep 4"} for _ in range(12)))
    ids = [started(each.result()) for each in crowd]
    for each in ids:
        proxy.on(f"/containers/{each}/logs", delay(4))
    eventually(lambda: proxy.count("/logs") >= 2 + 4, 30, "their logs are asked for")
    time.sleep(0.5)
    told = [both.bobs(**fields) for _ in range(2)]
    assert [reply["result"]["stdout"] for _, reply in told] == ["said\n"] * 2
    assert not all(both.server.status(each)["result"] for each in ids)
    check(alone, [seconds for seconds, _ in told], "a result", measured)
