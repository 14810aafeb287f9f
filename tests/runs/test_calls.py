"""Function calls on real engines: wait, the result, timeout, ttl, and the last words of what is ended."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import pytest
from conftest import StartServer
from run_cases import MANAGED, has_status
from testbed import Engine, Proxy, Reply, Server, eventually, sdk
from testbed.faults import cut
from testbed.subscriber import Subscriber

from qmaster.models.requests import read_key

IMAGE = "busybox:local"
ECHO = "echo out-$0; echo err-$0 >&2; exit $1"
# Says something when it is told to end, and does not end by it.
STUBBORN = "trap 'echo last words' TERM; echo first words; while :; do sleep 0.1; done"
OBEDIENT = "trap 'echo last words; exit 7' TERM; echo first words; while :; do sleep 0.1; done"
KINDS = ["service", "container"]

Json = dict[str, Any]


def call(server: Server, script: str, *args: str, wait: object = 60, **fields: Any) -> Reply:
    """`POST /run` of a shell script, with `wait`."""
    return server.run(image=IMAGE, command=["sh", "-c", script, *args], wait=wait, memory=16, **fields)


def result_of(server: Server, run_id: str) -> Json:
    """The result of a run, as soon as there is one."""

    def read() -> Any:
        return server.status(run_id)["result"]

    found: Json = eventually(read, 40, f"{run_id} has a result: {server.status(run_id).text}", every=0.1)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_is_answered_with_its_end(shared: Server, kind: str) -> None:
    """Status, exit code and both streams; the same in the status document afterwards."""
    answer = call(shared, ECHO, "7", "3", type=kind)
    assert answer.status == 200
    assert (answer["success"], answer["status"], answer["reason"], answer["exit_code"]) == (True, "failed", "exit", 3)
    assert answer["result"] == {
        "exit_code": 3,
        "stdout": "out-7\n",
        "stderr": "err-7\n",
        "truncated": False,
        "tasks": [],
    }
    shown = {key: value for key, value in answer.json.items() if key != "warnings"}  # of this engine, at the start
    assert shared.status(answer["id"]).json == shown


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_takes_longer_is_answered_in_time(shared: Server, kind: str) -> None:
    """202 with what it has come to; it goes on, and its end can be waited for."""
    answer = call(shared, "sleep 2; echo done", wait=0.5, type=kind)
    assert answer.status == 202
    assert answer["status"] in ("pending", "preparing", "running")
    assert answer["result"] is None
    over = shared.call("GET", f"/status/{answer['id']}?wait=30")
    assert (over.status, over["status"], over["result"]["stdout"]) == (200, "complete", "done\n")


def test_the_end_is_told_at_once_and_its_result_after_it(shared: Server) -> None:
    """`complete` with no result, then `updated` with it: who waits for the end is not kept waiting for the output."""
    with Subscriber(shared) as subscriber:
        subscriber.until(lambda frame: frame["type"] == "snapshot")
        answer = call(shared, "echo hello")
        events: list[Json] = []
        while not events or events[-1]["data"].get("result") is None:
            frame = subscriber.until(lambda frame: frame["type"] == "event")
            if frame["event"]["type"].startswith("io.qmaster.service."):
                events.append(frame["event"])
    assert [event["type"].rpartition(".")[2] for event in events[-2:]] == ["complete", "updated"]
    assert events[-2]["data"]["result"] is None
    assert events[-1]["data"]["result"] == answer["result"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_job_keeps_its_last_words(shared: Server, engine: Engine, kind: str) -> None:
    """What it says as it is told to end is in the result, which outlives it."""
    run_id = call(shared, OBEDIENT, wait=False, type=kind)["id"]
    has_status(shared, run_id, "running")
    eventually(lambda: has_begun(engine), 20, "it has begun")
    assert shared.stop_service(run_id).status == 200
    gone = has_status(shared, run_id, "removed")
    assert (gone["reason"], gone["exit_code"]) == ("stopped", 7)
    assert gone["result"]["stdout"] == "first words\nlast words\n"
    assert gone["result"]["exit_code"] == 7


def has_begun(engine: Engine) -> bool:
    """Whether the job has said something: only then its handler of SIGTERM is there."""
    client = sdk(engine)
    return any(b"first words" in client.logs(each["Id"]) for each in client.containers())


def test_what_has_ended_is_read_before_a_stop_removes_it(shared: Server, engine: Engine) -> None:
    """The stop of an ended service answers when it is gone, and the result is there."""
    answer = call(shared, "echo kept; exit 4")
    assert shared.stop_service(answer["id"]).status == 200
    assert sdk(engine).services() == []
    gone = shared.status(answer["id"])
    assert (gone["status"], gone["exit_code"], gone["result"]["stdout"]) == ("removed", 4, "kept\n")


def test_what_ended_while_quartermaster_was_away_is_read_when_it_is_back(shared: Server) -> None:
    """Killed as the job ran, started when it had ended."""
    run_id = call(shared, "sleep 1; echo meanwhile; exit 6", wait=False)["id"]
    shared.kill()
    time.sleep(2.5)
    shared.start()
    assert result_of(shared, run_id) == {
        "exit_code": 6,
        "stdout": "meanwhile\n",
        "stderr": "",
        "truncated": False,
        "tasks": [],
    }


def test_of_several_replicas_each_has_its_output(shared: Server) -> None:
    """The result is that of the first that ended; `tasks` has all of them with their slots."""
    answer = call(shared, "hostname; exit 2", replicas=3)
    result = answer["result"]
    assert (answer["exit_code"], result["exit_code"]) == (2, 2)
    assert sorted(task["slot"] for task in result["tasks"]) == [1, 2, 3]
    assert {task["id"] for task in result["tasks"]} == {task["id"] for task in answer["tasks"]}
    assert len({task["stdout"] for task in result["tasks"]}) == 3
    assert result["stdout"] == result["tasks"][0]["stdout"]


def test_long_output_is_kept_by_its_end(start_server: StartServer, engine: Engine) -> None:
    """`--output-limit` bytes of each stream; a listing has the last 4 KiB."""
    server = start_server(engine.host, "--output-limit", "10000")
    whole = "".join(f"{n}\n" for n in range(1, 20001))
    for kind in KINDS:
        result = call(server, "seq 1 20000; echo only >&2", type=kind)["result"]
        assert (result["stdout"], result["stderr"], result["truncated"]) == (whole[-10000:], "only\n", True)
    listed = [each["result"] for each in server.call("GET", "/status")["services"]]
    assert [(each["stdout"], each["truncated"]) for each in listed] == [(whole[-4096:], True)] * 2


def test_what_never_ran_has_an_empty_result(shared: Server) -> None:
    """Rejected by the node: no exit code, and the reason says why; who waits is not kept waiting."""
    answer = shared.run(image="nosuch:1", wait=60)
    assert (answer.status, answer["status"], answer["reason"]) == (200, "failed", "image_not_found")
    assert answer["result"] == {"exit_code": None, "stdout": "", "stderr": "", "truncated": False, "tasks": []}


def test_a_client_that_hangs_up_stops_nothing(shared: Server) -> None:
    """The job goes on, and its result is kept."""
    with pytest.raises(TimeoutError):
        call_for(shared, 1.0, "sleep 2; echo alone", name="alone")
    assert result_of(shared, "alone")["stdout"] == "alone\n"


def call_for(server: Server, seconds: float, script: str, **fields: Any) -> Reply:
    """A call whose client has so much patience."""
    body = {"image": IMAGE, "command": ["sh", "-c", script], "wait": 60, **fields}
    return server.call("POST", "/run", json=body, timeout=seconds)


def test_a_stop_of_quartermaster_answers_those_who_wait(server: Server) -> None:
    """202 with what it has come to, at once: the stop is not held up."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, server, "sleep 30", wait=60)
        eventually(lambda: server.call("GET", "/status?status=running")["services"], 20, "it runs")
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 10
        assert answer.result(5).status == 202


# Timeout and ttl


@pytest.mark.patient
@pytest.mark.parametrize("kind", KINDS)
def test_what_runs_too_long_is_ended(shared: Server, kind: str) -> None:
    """SIGTERM, and SIGKILL after the grace period, as it ignores that; then it stays, with its last words."""
    began = time.monotonic()
    answer = call(shared, STUBBORN, type=kind, timeout=2)
    took = time.monotonic() - began
    assert (answer.status, answer["status"], answer["reason"]) == (200, "failed", "timeout")
    assert (answer["exit_code"], answer["result"]["exit_code"]) == (137, 137)
    assert answer["result"]["stdout"] == "first words\nlast words\n"
    assert 11 < took < 40


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_in_time_is_left_alone(shared: Server, kind: str) -> None:
    """Its own exit code and reason; the timer is forgotten."""
    answer = call(shared, "sleep 1; exit 5", type=kind, timeout=3)
    time.sleep(3)
    assert (answer["status"], answer["reason"], answer["exit_code"]) == ("failed", "exit", 5)
    later = shared.status(answer["id"])
    assert (later["status"], later["reason"], later["exit_code"]) == ("failed", "exit", 5)


def test_waiting_for_a_node_is_not_running(shared: Server) -> None:
    """The timeout counts from the first `running`."""
    run_id = call(shared, "exit 0", wait=False, timeout=1, constraints=["node.labels.there==yes"])["id"]
    pending = has_status(shared, run_id, "pending")
    time.sleep(2.5)
    assert shared.status(run_id)["status"] == pending["status"] == "pending"


@pytest.mark.patient
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_old_enough_is_removed(shared: Server, engine: Engine, kind: str) -> None:
    """After its time to live, but not within five seconds of its end; its record and result stay."""
    answer = call(shared, "echo kept", type=kind, ttl=3)
    assert (answer["status"], answer["ttl"]) == ("complete", 3.0)
    time.sleep(2)
    assert shared.status(answer["id"])["status"] == "complete"
    gone = has_status(shared, answer["id"], "removed")
    assert (gone["reason"], gone["exit_code"], gone["result"]["stdout"]) == ("exit", 0, "kept\n")
    eventually(lambda: not sdk(engine).services() + sdk(engine).containers(all=True), 20, "nothing is left")


@pytest.mark.patient
def test_what_fell_due_while_quartermaster_was_away_is_made_up_for(shared: Server) -> None:
    """A timeout, and a time to live. (Another quartermaster on the engine would see to them meanwhile.)"""
    old = [call(shared, "echo old", type=kind, ttl=1)["id"] for kind in KINDS]
    late = [call(shared, OBEDIENT, wait=False, type=kind, timeout=3)["id"] for kind in KINDS]
    for run_id in late:
        has_status(shared, run_id, "running")
    shared.kill()
    time.sleep(6)
    shared.start()
    for run_id in late:
        ended = has_status(shared, run_id, "failed")
        assert (ended["reason"], ended["exit_code"]) == ("timeout", 7)
        assert result_of(shared, run_id)["stdout"] == "first words\nlast words\n"
    for run_id in old:
        assert has_status(shared, run_id, "removed")["result"]["stdout"] == "old\n"


def test_options_are_the_defaults(start_server: StartServer, engine: Engine) -> None:
    """For a run that names none; 0 is none."""
    server = start_server(engine.host, "--timeout", "1.5", "--ttl", "0")
    answer = call(server, OBEDIENT)
    assert (answer["reason"], answer["timeout"], answer["ttl"]) == ("timeout", 1.5, None)
    assert call(server, "exit 0", timeout=9, ttl=60)["ttl"] == 60.0


@pytest.mark.patient
def test_a_stop_overtakes_a_timeout(shared: Server) -> None:
    """What is being ended for its time is removed where it is stopped meanwhile."""
    run_id = call(shared, STUBBORN, wait=False, timeout=1)["id"]
    has_status(shared, run_id, "stopping")
    assert shared.stop_service(run_id).status == 200
    gone = has_status(shared, run_id, "removed")
    assert (gone["reason"], gone["result"]["exit_code"]) == ("stopped", 137)
    assert gone["result"]["stdout"] == "first words\nlast words\n"


def test_what_crashes_again_and_again_is_ended_with_its_last_words(shared: Server) -> None:
    """Between two attempts, where it is most of the time: the next container is made already, and says nothing."""
    crash = {"restart": "any", "wait": False}
    timed, stopped = (call(shared, "echo words; exit 5", timeout=timeout, **crash)["id"] for timeout in (1, None))
    eventually(lambda: waits_again(shared.status(stopped).json), 10, "it waits for its restart")
    assert shared.stop_service(stopped).status == 200
    has_status(shared, stopped, "removed")
    for run_id, reason in ((timed, "timeout"), (stopped, "stopped")):
        assert result_of(shared, run_id)["stdout"] == "words\n"
        shown = shared.status(run_id)
        assert (shown["reason"], shown["exit_code"]) == (reason, 5)
        assert shared.call("GET", f"/logs/{run_id}").text == "words\n"


def waits_again(shown: Json) -> bool:
    """Whether it has run, and its next task is made and not started."""
    return shown["started_at"] is not None and [task["state"] for task in shown["tasks"]] == ["ready"]


# Keys


def keyed(server: Server, key: str, **fields: Any) -> Reply:
    """A run under a key."""
    return server.run({"Idempotency-Key": key}, **{"image": IMAGE, "command": "echo once", "memory": 16, **fields})


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_starts_one_run(shared: Server, engine: Engine, kind: str) -> None:
    """However often it comes, also after a restart and after the run is gone; another body is refused."""
    first = keyed(shared, f"a-{kind}", type=kind)
    again = keyed(shared, f"a-{kind}", type=kind, wait=30)
    assert (first.status, first.headers["Idempotency-Replayed"]) == (200, None)
    assert (again.status, again.headers["Idempotency-Replayed"]) == (200, "true")
    assert again["id"] == first["id"]
    assert again["result"]["stdout"] == "once\n"
    shared.restart()
    assert keyed(shared, f"a-{kind}", type=kind)["id"] == first["id"]
    assert shared.stop_service(first["id"]).status == 200
    has_status(shared, first["id"], "removed")
    assert keyed(shared, f"a-{kind}", type=kind)["id"] == first["id"]
    other = keyed(shared, f"a-{kind}", type=kind, command="echo twice")
    assert (other.status, "another request" in other["error"]) == (422, True)
    assert keyed(shared, f"b-{kind}", type=kind)["id"] != first["id"]
    assert len(sdk(engine).services()) + len(sdk(engine).containers(all=True, filters={"label": MANAGED})) <= 2


def test_what_could_not_start_is_tried_again_under_its_key(shared: Server) -> None:
    """Docker makes such a container before it refuses to start it: its name is not the key's run."""
    answers = [keyed(shared, f"c{n // 2}", type="container", command="/nowhere") for n in range(20)]
    assert [answer.status for answer in answers] == [400] * 20, [answer.text for answer in answers]


def test_two_quartermasters_start_one_run(start_server: StartServer, engine: Engine) -> None:
    """At the same moment, each with a journal of its own."""
    token = "the-same-token-for-both"
    servers = [start_server(engine.host, TOKEN=token) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: keyed(servers[n % 2], f"k{n // 8}", type=KINDS[n // 16]), range(32)))
    assert {answer.status for answer in answers} == {200}
    for key in range(4):
        assert len({answer["id"] for answer in answers[key * 8 : key * 8 + 8]}) == 1
    assert len({answer["id"] for answer in answers}) == 4
    assert sum(answer.headers["Idempotency-Replayed"] is None for answer in answers) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_whose_answer_the_engine_cut_off_is_adopted(
    engine: Engine, front: Proxy, behind: Server, kind: str
) -> None:
    """What was made is found by its name, also by the next call when the first was told of the fault."""
    path = "/services/create" if kind == "service" else "/containers/create"
    front.on(path, cut(after=1), times=1)
    first = keyed(behind, f"cut-{kind}", type=kind, command="sleep 60")
    assert first.status == 200
    assert keyed(behind, f"cut-{kind}", type=kind, command="sleep 60")["id"] == first["id"]
    made = sdk(engine).services() if kind == "service" else sdk(engine).containers(all=True, filters={"label": MANAGED})
    assert len(made) == 1


@pytest.mark.patient
def test_a_keyed_run_that_nobody_was_told_of_stays(start_server: StartServer, engine: Engine, proxy: Proxy) -> None:
    """Its caller will ask again: the engine did it, and went silent before it said so."""
    server = start_server(proxy.host)
    rule = proxy.on("/services", cut(after=1))  # the create, and every look for it
    first = keyed(server, "a", command="sleep 60")
    assert first.status in (502, 503)
    proxy.off(rule)
    (made,) = sdk(engine).services()
    eventually(lambda: "orphan_adopted" in server.logs(), 40, "it is adopted")
    again = keyed(server, "a", command="sleep 60")
    assert (again.status, again["id"], again.headers["Idempotency-Replayed"]) == (200, made["ID"], "true")


def test_a_foreign_service_of_a_keys_name_is_no_answer(shared: Server, engine: Engine) -> None:
    """Somebody has taken the name: 409, and theirs is left alone."""
    name = read_key(["a"], "root", {"image": IMAGE, "command": "echo once", "memory": 16})
    assert name
    spec = docker.types.ContainerSpec(image=IMAGE, args=["sleep", "60"])
    sdk(engine).create_service(docker.types.TaskTemplate(spec), name=name.name)
    refused = keyed(shared, "a")
    assert (refused.status, "use another key" in refused["error"]) == (409, True)
    assert len(sdk(engine).services()) == 1
