"""Data folders that older versions left, taken over by today's.

Each folder of `tests/data` was made on a real engine by the server of the commit that `told.json` names: a service that
ended, a failed container, a stopped service, a service under a key, one that runs, and one that runs with a timeout.
Then the server was terminated. `told.json` has what it answered (`runs`), what it sent to a subscriber after `cursor`
(`events`), and how Docker had stored the two services that still ran (`specs`).
"""

import json
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from run_cases import has_status
from testbed import Bed, Engine, Server, sdk
from testbed.server import ROOT
from testbed.subscriber import Subscriber, becomes, outcome

Json = dict[str, Any]

FOLDERS = ROOT / "tests" / "data"
IMAGE = "busybox:local"
KEY = {"Idempotency-Key": "once"}


def recreate(engine: Engine, told: Json) -> dict[str, str]:
    """Create the services that still ran, by their stored specs; their new ids by the old ones."""
    ids = {run["name"]: run_id for run_id, run in told["runs"].items()}
    new = {}
    for name, spec in told["specs"].items():
        options = {"mode": spec["Mode"], "endpoint_spec": spec["EndpointSpec"]}
        created = sdk(engine).create_service(spec["TaskTemplate"], name, spec["Labels"], **options)
        new[ids[name]] = created["ID"]
    return new


def unpack(source: Path, folder: Path, ids: dict[str, str]) -> None:
    """Make the data folder as if it had always been there: with its file's inode, no age, and the engine's ids."""
    shutil.unpack_archive(source / "data.tar.gz", folder, filter="data")
    connection = sqlite3.connect(folder / "journal.db")
    connection.execute("UPDATE meta SET value = ? WHERE key = 'inode'", (str((folder / "journal.db").stat().st_ino),))
    (newest,) = connection.execute("SELECT max(at) FROM records").fetchone()
    for table in ("facts", "records", "outcomes"):
        connection.execute(f"UPDATE {table} SET at = at + ?", (time.time() - newest,))  # noqa: S608 - names of ours
    for old, new in ids.items():
        connection.execute("UPDATE records SET id = ? WHERE id = ?", (new, old))
        for table, column in (("facts", "event"), ("records", "view")):
            text = f"CAST(replace(CAST({column} AS TEXT), ?, ?) AS BLOB)"
            connection.execute(f"UPDATE {table} SET {column} = {text}", (old, new))  # noqa: S608 - names of ours
    connection.commit()
    connection.close()


def upgraded(bed: Bed, engine: Engine, source: Path, told: Json) -> tuple[Server, dict[str, str]]:
    ids = recreate(engine, told)
    server = bed.server(engine.host)
    unpack(source, server.folder / "data", ids)
    server.start()
    return server, ids


@pytest.mark.parametrize("version", sorted(each.name for each in FOLDERS.iterdir()))
def test_a_data_folder_is_taken_over(bed: Bed, engine: Engine, version: str) -> None:
    """Runs, results and keys are there, a cursor resumes, and services go on, time out and can be stopped."""
    source = FOLDERS / version
    told = json.loads((source / "told.json").read_text())
    server, ids = upgraded(bed, engine, source, told)
    with Subscriber(server, told["cursor"]) as subscriber:
        assert subscriber.next()["type"] == "hello"
        assert [subscriber.next()["cursor"] for _ in told["events"]] == told["events"]
        going, limited = ids.values()
        runs_are_there(server, told, ids)
        assert server.status(going)["status"] == "running"
        assert outcome(subscriber.event(becomes(limited, "failed"))) == ("failed", "timeout", 143)
        assert server.stop_service("going").status == 200
        assert outcome(subscriber.event(becomes(going, "removed"))) == ("removed", "stopped", 143)
    assert server.failures() == []
    assert server.terminate() == 0


def runs_are_there(server: Server, told: Json, ids: dict[str, str]) -> None:
    """All are listed. What had ended kept its reason, exit code and result, and its key."""
    listed = {each["id"]: each for each in server.call("GET", "/status?all=1")["services"]}
    assert sorted(listed) == sorted(ids.get(each, each) for each in told["runs"])
    for run_id, run in told["runs"].items():
        shown = listed[ids.get(run_id, run_id)]
        same = ("name", "labels") if run_id in ids else ("name", "labels", "reason", "exit_code", "created_at")
        assert {key: shown[key] for key in same} == {key: run[key] for key in same}
        if run_id not in ids:  # those that had ended are not on this engine
            assert has_status(server, run_id, "removed")["result"] == run["result"]
        if run["name"].startswith("qm-"):
            fields: Json = {"image": IMAGE, "command": ["echo", "42"]}
            assert server.run(headers=KEY, **fields)["id"] == run_id
            assert server.run(headers=KEY, **fields | {"command": ["echo", "43"]}).status == 422
