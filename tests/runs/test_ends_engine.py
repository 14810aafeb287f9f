"""Ends on real engines: they stay when what has ended is removed, their times are true, and restarts are counted."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from testbed import Engine, Server, eventually, sdk, started
from testbed.subscriber import Subscriber

from qmaster.models.units import parse_time

IMAGE = "busybox:local"
Json = dict[str, Any]


ENDS = ("exit_code", "finished_at", "result")


def removals(subscriber: Subscriber) -> dict[str, Json]:
    """What the stream said last of what was removed, by id."""
    kind = "io.qmaster.service.removed"
    return {event["subject"]: event["data"] for event in subscriber.events if event["type"] == kind}


def over(server: Server, run_id: str) -> Json:
    """A run that has ended, with its result."""
    return dict(server.call("GET", f"/status/{run_id}?wait=60", timeout=90).json)


def test_a_stopped_container_keeps_its_end(shared: Server) -> None:
    """Of 60, 15 at once: those that end by themselves, and those that are killed; also in each event of the stream."""

    def life(number: int) -> Json:
        ends = number % 4 != 0
        command = "sh -c 'exit 7'" if ends else "sh -c 'trap \"exit 9\" TERM; echo ready; while :; do sleep 0.05; done'"
        run_id = started(shared.run(image=IMAGE, command=command, type="container", memory=8))
        if ends:
            over(shared, run_id)
        else:  # else SIGTERM may come before the command, and the exit code is runc's own
            eventually(lambda: shared.call("GET", f"/logs/{run_id}").text == "ready\n", 30, f"{run_id} is ready")
        assert shared.stop_service(run_id).status == 200
        return over(shared, run_id)

    with Subscriber(shared) as subscriber, ThreadPoolExecutor(15) as pool:
        ended = list(pool.map(life, range(60)))
        ids = {view["id"] for view in ended}
        told: dict[str, Json] = {}
        eventually(lambda: told.update(removals(subscriber)) or ids <= told.keys(), 30, "all removals are told")
    for view in ended:
        assert [told[view["id"]][key] for key in ENDS] == [view[key] for key in ENDS]
    wrong = [view for view in ended if view["exit_code"] not in (7, 9, 137) or view["finished_at"] is None]
    assert wrong == []
    assert {view["status"] for view in ended} == {"removed"}
    assert all(view["exit_code"] == view["result"]["exit_code"] for view in ended)


@pytest.mark.parametrize("kind", ["service", "container"])
def test_the_times_of_short_runs_are_true(shared: Server, kind: str) -> None:
    """On this engine's own node the start is known of each, and comes before the end."""
    with ThreadPoolExecutor(4) as pool:
        views = list(
            pool.map(lambda _: shared.run(image=IMAGE, command="true", type=kind, wait=60, memory=8).json, range(8))
        )
    for view in views:
        begun, ended = parse_time(view["started_at"]), parse_time(view["finished_at"])
        assert begun, view
        assert ended
        assert begun <= ended
        shared.stop_service(view["id"])


@pytest.mark.patient
@pytest.mark.parametrize("kind", ["service", "container"])
def test_a_crash_loop_shows_itself(shared: Server, kind: str) -> None:
    """How often it has ended, and how it did last, also while it waits for its next attempt; after a restart too."""
    run_id = started(shared.run(image=IMAGE, command="sh -c 'exit 3'", type=kind, restart="any", memory=8))

    def attempts(least: int) -> Any:
        view = shared.status(run_id).json
        return view if view["restarts"] >= least else None

    view = eventually(lambda: attempts(2), 60, "it was restarted twice", every=0.05)
    assert view["status"] in ("pending", "preparing", "running")
    assert view["last_exit"]["finished_at"] is not None
    eventually(lambda: shared.status(run_id)["last_exit"]["exit_code"] == 3, 60, "a code was seen", every=0.02)
    count = shared.status(run_id)["restarts"]
    shared.restart()
    eventually(lambda: shared.call("GET", "/readyz").status == 200, 20, "it is ready")
    assert attempts(count), "the count began anew"
    eventually(lambda: attempts(count + 1), 60, "it goes on")
    shared.stop_service(run_id)


@pytest.mark.patient
def test_each_attempt_is_shown_with_its_code_and_times(shared: Server) -> None:
    """Three failures of a service that waits a second before each restart; also after a restart, and its removal."""
    run_id = started(
        shared.run(
            image=IMAGE,
            command="sh -c 'sleep 1; exit 3'",
            restart="on-failure",
            max_attempts=2,
            restart_delay=1,
            restart_window=600,
            memory=8,
        )
    )
    view = eventually(lambda: three(shared.status(run_id).json), 120, "it has failed three times")
    shared.restart()
    eventually(lambda: shared.call("GET", "/readyz").status == 200, 20, "it is ready")
    eventually(lambda: shared.status(run_id)["status"] == "failed", 60, "it is not restarted again")
    again = shared.status(run_id).json
    assert again["attempts"] == view["attempts"]
    assert [attempt["exit_code"] for attempt in view["attempts"]] == [3, 3, 3]
    assert all("non-zero exit (3)" in attempt["error"] for attempt in view["attempts"])
    assert len({attempt["task"] for attempt in view["attempts"]}) == 3
    for attempt in view["attempts"]:
        begun, ended = parse_time(attempt["started_at"]), parse_time(attempt["finished_at"])
        assert begun, attempt
        assert ended
        assert begun < ended
    ends = [parse_time(attempt["finished_at"]) for attempt in view["attempts"]]
    starts = [parse_time(attempt["started_at"]) for attempt in view["attempts"]]
    for before, after in zip(ends, starts[1:], strict=False):
        assert before
        assert after
        assert (after - before).total_seconds() >= 1
    shared.stop_service(run_id)
    eventually(lambda: shared.status(run_id)["status"] == "removed", 60, "it was removed")
    assert shared.status(run_id)["attempts"] == view["attempts"]


def three(view: Json) -> Any:
    return view if len(view["attempts"]) == 3 else None


def test_a_task_whose_record_is_gone_has_ended_all_the_same(engine: Engine, shared: Server) -> None:
    """Where Swarm keeps no history: what was told stays."""
    engine.cli("swarm", "update", "--task-history-limit", "0")
    try:
        view = shared.run(image=IMAGE, command="sh -c 'sleep 1; exit 7'", wait=30, memory=8).json
        assert (view["status"], view["exit_code"]) == ("failed", 7)
        other = started(shared.run(image=IMAGE, command="nap 300", memory=8))  # so that there are looks
        eventually(lambda: shared.status(other)["status"] == "running", 30, "the other runs")
        now = shared.status(view["id"]).json
        assert (now["status"], now["exit_code"], now["finished_at"]) == ("failed", 7, view["finished_at"])
        assert sdk(engine).tasks(filters={"service": view["id"]}) is not None
    finally:
        engine.cli("swarm", "update", "--task-history-limit", "5")
