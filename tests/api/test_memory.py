"""The whole server: what one token leaves unread costs little memory, and another token nothing."""

import asyncio
import hashlib
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_server import service
from testbed import Server, eventually
from testbed.server import ADDRESS
from testbed.stub import Stub

from qmaster.events.journal import Journal
from qmaster.events.rows import Record

MIB = 1024 * 1024
RUNS, LABELS = 400, 60  # of a thousand bytes each: 24 MB in all
LABEL = "x" * 1000
UNREAD = 8
SHOWN, CROWD = 100, 40  # services of a snapshot (6 MB), and subscribers that do not read it: 240 MB in all
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
GROWTH = 40 * MIB  # bytes; before answers were sent in pieces it was over 200 MB
TOKENS = {name: f"the-token-of-{name}" for name in ("mallory", "bob")}


def rss(server: Server) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024


def record(number: int, owner: str, labels: int, status: str = "removed") -> Record:
    run_id, created = f"{owner}{number}", f"2026-01-01T00:00:00.{number:09d}Z"
    told: dict[str, Any] = {"owner": owner, "status": status, "created_at": created, "tasks": []}
    view = service(run_id, labels={f"k{n}": LABEL for n in range(labels)}, **told)
    return Record(run_id, "service", view["name"], status == "removed", msgspec.json.encode(view), owner=owner)


async def fill(folder: Path, runs: int, status: str) -> None:
    """The runs of a heavy and of a light user."""
    journal = Journal(folder, 1000, 30)
    await journal.open()
    for start in range(0, runs, 20):
        await journal.append([], [record(start + n, "mallory", LABELS, status) for n in range(20)])
    await journal.append([], [record(n, "bob", 0) for n in range(3)])
    await journal.close()


@pytest.fixture
def server(tmp_path: Path, stub: Stub) -> Iterator[Server]:
    """After a flood of runs, which are removed."""
    yield from serve(tmp_path, stub.host, RUNS, "removed")


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Server]:
    """With many large services, as they were when the engine was last seen."""
    yield from serve(tmp_path, "unix:///nowhere", SHOWN, "running")


def serve(tmp_path: Path, engine: str, runs: int, status: str) -> Iterator[Server]:
    entries = [
        f'[{name}]\nsha256 = "{hashlib.sha256(token.encode()).hexdigest()}"\nscopes = ["run", "stop", "read"]\n'
        for name, token in TOKENS.items()
    ]
    (tmp_path / "tokens.toml").write_text("\n".join(entries))
    data = tmp_path / "data"
    asyncio.run(fill(data, runs, status))
    made = Server(tmp_path / "home", engine, ["--tokens-file", str(tmp_path / "tokens.toml"), "--data-dir", str(data)])
    made.start()
    yield made
    made.kill()


def bob(server: Server, calls: int = 30) -> float:
    """The median of how long the light user's calls take, in seconds; each is answered."""
    times = []
    for number in range(calls):
        began = time.monotonic()
        reply = server.call("GET", "/status?all=1" if number % 2 else "/status/bob1", token=TOKENS["bob"])
        times.append(time.monotonic() - began)
        assert reply.status == 200, reply.text
    return statistics.median(times)


def ask_and_read_nothing(server: Server, path: str, headers: str = "") -> socket.socket:
    wire = socket.create_connection((ADDRESS, server.port))
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    token = f"Authorization: Bearer {TOKENS['mallory']}"
    wire.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{token}\r\n{headers}\r\n".encode())
    return wire


@pytest.mark.slow
def test_a_large_listing_takes_little_memory(server: Server, measured: Callable[[str], None]) -> None:
    """It is whole, in order, and valid JSON; and one run of it takes next to nothing."""
    before = rss(server)
    reply = server.call("GET", "/status?all=1", token=TOKENS["mallory"])
    assert [one["id"] for one in reply["services"]] == [f"mallory{n}" for n in reversed(range(RUNS))]
    assert set(reply.json) == {"success", "cursor", "services", "next_page"}
    one = server.call("GET", "/status?all=1&limit=1&label=k1", token=TOKENS["mallory"])
    assert [view["id"] for view in one["services"]] == [f"mallory{RUNS - 1}"]
    head = server.call("HEAD", "/status?all=1", token=TOKENS["mallory"])
    assert (head.status, head.text) == (200, "")
    measured(f"{len(reply.text) / MIB:.0f} MiB listed, {(rss(server) - before) / MIB:.0f} MiB more resident")
    assert rss(server) - before < GROWTH


@pytest.mark.patient
@pytest.mark.slow
def test_unread_answers_harm_nobody(server: Server, measured: Callable[[str], None]) -> None:
    """Eight large answers that nobody reads: another's calls are answered as before, and the readers are cut."""
    alone = bob(server)
    before = rss(server)
    with ExitStack() as stack:
        for _ in range(UNREAD):
            stack.enter_context(ask_and_read_nothing(server, "/status?all=1"))
        beside = bob(server)
        grown = rss(server) - before
        measured(f"{grown / MIB:.0f} MiB more resident, another's calls {alone * 1000:.1f} → {beside * 1000:.1f} ms")
        assert grown < GROWTH
        assert beside < 2 * alone + 0.05
        eventually(lambda: server.logs().count("slow_reader_cut") == UNREAD, 20, "all of them are cut")
    cut = [json.loads(line) for line in server.logs().splitlines() if "slow_reader_cut" in line]
    assert {line["by"] for line in cut} == {"mallory"}


@pytest.mark.patient
@pytest.mark.slow
@pytest.mark.parametrize("headers", [UPGRADE, ""], ids=["websocket", "sse"])
@pytest.mark.parametrize("alike", [False, True], ids=["own filters", "one filter"])
def test_unread_snapshots_harm_nobody(
    crowded: Server, headers: str, alike: bool, measured: Callable[[str], None]
) -> None:
    """A crowd of one token takes its snapshots and reads none: memory is bounded, another's calls are as before, and
    those who read nothing are disconnected."""
    alone = bob(crowded)
    before, most = rss(crowded), 0
    with ExitStack() as stack:
        for number in range(CROWD):
            path = f"/events?label=k{0 if alike else number}%3D{LABEL}"
            stack.enter_context(ask_and_read_nothing(crowded, path, headers))
        beside = bob(crowded)
        until = time.monotonic() + 8
        while time.monotonic() < until:
            most = max(most, rss(crowded) - before)
            time.sleep(0.05)
        measured(f"{most / MIB:.0f} MiB more resident, another's calls {alone * 1000:.1f} → {beside * 1000:.1f} ms")
        assert most < GROWTH
        assert beside < 2 * alone + 0.05
        eventually(lambda: "slow_consumer_cut" in crowded.logs(), 20, "the first are disconnected")
