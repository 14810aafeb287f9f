"""What docs/operations.md says: copies of the journal, put back or moved, and two quartermasters."""

import shutil
import sqlite3
from pathlib import Path

from conftest import StartServer
from testbed import Engine, Server, eventually
from testbed.server import Reply
from testbed.subscriber import Subscriber

IMAGE = "busybox:local"
TOKEN = "the-same-token-for-both"


def keyed(server: Server, key: str) -> Reply:
    """A run under a key, whose end is waited for."""
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    reply = server.run({"Idempotency-Key": key}, image=IMAGE, command=f"echo {key}", memory=16, wait=True)
    assert (reply.status, reply["result"]["stdout"]) == (200, f"{key}\n")
    return reply


def stop(server: Server, run: Reply) -> None:
    assert server.stop_service(run["id"]).status == 200
    eventually(lambda: server.status(run["id"])["status"] == "removed", 20, "it is removed")


def first_frame(server: Server, since: str) -> str:
    """What comes after hello for who resumes: the type, and the reason of a gap."""
    with Subscriber(server, since) as subscriber:
        frame = subscriber.until(lambda frame: frame["type"] != "hello")
        return f"{frame['type']} {frame.get('reason', '')}".strip()


def test_a_journal_that_was_put_back(server: Server, tmp_path: Path) -> None:
    """It is as it was when it was copied; cursors are told of the gap, and a key whose run came and went runs again."""
    before = keyed(server, "before")
    stop(server, before)
    journal = server.folder / "data" / "journal.db"
    with sqlite3.connect(journal) as connection:
        connection.execute("VACUUM INTO ?", [str(tmp_path / "copy.db")])
    connection.close()
    gone = keyed(server, "gone")
    stop(server, gone)
    there = keyed(server, "there")
    cursor = server.call("GET", "/status")["cursor"]
    server.terminate()
    assert [path.name for path in journal.parent.glob("journal.db*")] == ["journal.db"]  # all is in the one file
    for path in journal.parent.glob("journal.*"):
        path.unlink()
    shutil.copy(tmp_path / "copy.db", journal)
    server.start()
    assert first_frame(server, cursor) == "gap epoch_changed"
    assert server.status(before["id"])["result"]["stdout"] == "before\n"
    assert keyed(server, "before").headers["Idempotency-Replayed"] == "true"
    assert keyed(server, "there")["id"] == there["id"]
    assert server.status(gone["id"]).status == 404
    assert keyed(server, "gone")["id"] != gone["id"]


def test_a_journal_that_was_moved(server: Server) -> None:
    """On its own disk it goes on; a copy of it, though nothing is missing, does not."""
    keyed(server, "one")
    data = server.folder / "data"
    for move, expected in ((Path.rename, "event"), (shutil.copytree, "gap epoch_changed")):
        cursor = server.call("GET", "/status")["cursor"]
        keyed(server, expected[:3])
        server.terminate()
        moved = data.with_name(f"moved-{expected[:3]}")
        move(data, moved)
        shutil.rmtree(data, ignore_errors=True)
        moved.rename(data)
        server.start()
        eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
        assert first_frame(server, cursor) == expected


def test_a_second_quartermaster(start_server: StartServer, engine: Engine) -> None:
    """It knows what is there, with results that it reads itself, and stops it; not what was gone before it came."""
    one = start_server(engine.host, TOKEN=TOKEN)
    gone, there = keyed(one, "gone"), keyed(one, "there")
    stop(one, gone)
    two = start_server(engine.host, TOKEN=TOKEN)
    again = keyed(two, "there")
    assert (again["id"], again.headers["Idempotency-Replayed"]) == (there["id"], "true")
    eventually(lambda: two.status(there["id"])["result"], 20, "it has read the result")
    assert two.status(there["id"])["result"] == one.status(there["id"])["result"]
    assert (one.status(gone["id"]).status, two.status(gone["id"]).status) == (200, 404)
    assert first_frame(two, one.call("GET", "/status")["cursor"]) == "gap epoch_changed"
    stop(two, there)
    eventually(lambda: one.status(there["id"])["status"] == "removed", 20, "the other one sees it")
    assert one.status(there["id"])["result"]["stdout"] == "there\n"
