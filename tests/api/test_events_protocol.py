"""`/events` as a client sees it: frames, tokens, cursors, filters, close codes, and readers that do not keep up."""

import json
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from testbed import Bed, Engine, Server, eventually
from testbed.subscriber import Connection, Sse, Subscriber, address, parse_sse

Json = dict[str, Any]
StartServer = Callable[..., Server]
Measured = Callable[[str], None]

SERVICE_KEYS = {
    "id", "type", "name", "image", "command", "labels", "owner", "status", "reason", "error", "exit_code", "replicas",
    "created_at", "started_at", "finished_at", "removed_at", "memory", "cpus", "timeout", "ttl", "tasks",
    "result", "restarts", "last_exit", "attempts", "function", "callback", "spec",
}  # fmt: skip
NODE_KEYS = {
    "id", "hostname", "role", "state", "availability", "address", "engine", "memory", "cpus", "reserved", "leader",
}  # fmt: skip
TASK_KEYS = {
    "id", "slot", "node_id", "node", "state", "message", "error", "exit_code", "container_id", "updated_at",
}  # fmt: skip
EVENT_KEYS = {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
NOWHERE = "node.labels.there-is==none"


@pytest.fixture(scope="module")
def stream(bed: Bed, engine: Engine) -> Iterator[Server]:
    """A quartermaster that the tests of this file share."""
    server = bed.server(engine.host, ["--allow-origin", "https://page.example"])
    server.start()
    ready(server)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def witness(stream: Server) -> Iterator[Subscriber]:
    """A subscriber that asked for a service that there is not, from the first test on."""
    with Subscriber(stream, query="service=nothing") as subscriber:
        yield subscriber


@pytest.fixture(autouse=True)
def _from_the_first_test_on(witness: Subscriber) -> None:
    """The witness is there before whatever a test does."""


def run(server: Server, **fields: Any) -> str:
    reply = server.run(image="busybox:local", **{"command": "nap", "memory": 16, **fields})
    assert reply.status == 200, reply.text
    return str(reply["id"])


def of(service: str, kind: str = "") -> Callable[[Json], bool]:
    """Events of a service, or only its `complete`, `removed` …"""
    return lambda event: event["subject"] == service and event["type"].endswith(kind and f".service.{kind}")


def ready(server: Server) -> None:
    eventually(lambda: server.call("GET", "/readyz").status == 200, 10, "it is ready")


def rss(server: Server) -> int:
    """Bytes of memory that the server has in use."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024


# --- frames -----------------------------------------------------------------------------------------------------------


def test_hello_snapshot_and_events_have_exactly_their_keys(stream: Server) -> None:
    """hello, then a snapshot of services and nodes, then each change as a CloudEvent, whose id is the cursor."""
    there = run(stream)
    with Subscriber(stream) as subscriber:
        hello = subscriber.next()
        assert hello == {"type": "hello", "protocol": "qmaster.v1", "version": hello["version"],
                         "cursor": hello["cursor"], "heartbeat": 15}  # fmt: skip
        snapshot = subscriber.next()
        assert set(snapshot) == {"type", "cursor", "services", "nodes"}
        (service,) = (each for each in snapshot["services"] if each["id"] == there)
        assert set(service) == SERVICE_KEYS
        assert [set(node) for node in snapshot["nodes"]] == [NODE_KEYS]
        ended = run(stream, command="true")
        end = subscriber.event(of(ended, "complete"))
        events = [event for event in subscriber.events if event["subject"] == ended]
        assert next(event["type"] for event in events) == "io.qmaster.service.created"
        assert all(set(event) == EVENT_KEYS for event in events)
        assert (end["specversion"], end["datacontenttype"]) == ("1.0", "application/json")
        assert end["source"] == "/qmaster/" + end["id"].partition(":")[0].partition(".")[0]
        for frame in (frame for frame in subscriber.frames[2:] if frame["type"] != "heartbeat"):
            assert set(frame) == {"type", "cursor", "event"}
            assert frame["cursor"] == frame["event"]["id"]
            is_task = frame["event"]["type"].startswith("io.qmaster.task.")
            of_task = SERVICE_KEYS - {"labels", "command", "spec", "attempts"} | {"task"}
            assert set(frame["event"]["data"]) == (of_task if is_task else SERVICE_KEYS)
            if is_task:
                assert set(frame["event"]["data"]["task"]) == TASK_KEYS
                assert frame["event"]["type"] == "io.qmaster.task." + frame["event"]["data"]["task"]["state"]


def test_the_listings_cursor_fits_the_streams(stream: Server) -> None:
    """From the cursor of `/status` or `/nodes` a stream goes on with what is newer than that listing."""
    before = run(stream, command="true")
    listing = stream.call("GET", "/status")
    assert before in [service["id"] for service in listing["services"]]
    nodes = stream.call("GET", "/nodes")
    assert [set(node) for node in nodes["nodes"]] == [NODE_KEYS]
    later = run(stream, command="true")
    with Subscriber(stream, listing["cursor"]) as subscriber:
        assert subscriber.next()["type"] == "hello"
        assert subscriber.next()["type"] == "event"
        subscriber.event(of(later, "complete"))
        created = [event["subject"] for event in subscriber.events if event["type"].endswith("service.created")]
        assert created == [later]


def test_a_run_and_its_stop_are_told_once_and_in_order(stream: Server) -> None:
    """created, running, stopping, removed with reason and exit code; the cursors grow by one without a filter."""
    with Subscriber(stream) as subscriber:
        service = run(stream)
        subscriber.event(of(service, "running"))
        assert stream.stop_service(service).status == 200
        removed = subscriber.event(of(service, "removed"))
        data = removed["data"]
        assert (data["status"], data["reason"], data["exit_code"]) == ("removed", "stopped", 143)
        assert data["removed_at"] == removed["time"]
        numbers = [int(event["id"].partition(":")[2]) for event in subscriber.events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        words = [e["type"].rpartition(".")[2] for e in subscriber.events if ".service." in e["type"]]
        assert [word for word in words if word != "updated"] == ["created", "running", "stopping", "removed"]


# --- who may read -----------------------------------------------------------------------------------------------------


def test_the_token_may_come_in_the_first_frame(stream: Server) -> None:
    """As browsers have to send it; what is said later means nothing."""
    with Subscriber(stream, token=False) as subscriber:
        subscriber.send(json.dumps({"type": "auth", "token": stream.token}))
        assert [subscriber.next()["type"] for _ in range(2)] == ["hello", "snapshot"]
        subscriber.send("not json")
        subscriber.event(of(run(stream, command="true"), "complete"))


def test_a_wrong_token_is_refused(stream: Server) -> None:
    """In the header 401 before any frame; in the first frame an error frame and 4401."""
    assert Subscriber(stream, token="wrong").status == 401
    with Subscriber(stream, token=False) as subscriber:
        subscriber.send(json.dumps({"type": "auth", "token": "wrong"}))
        assert subscriber.next() == {"type": "error", "code": 4401, "detail": "invalid token"}
        assert subscriber.closed() == 4401


@pytest.mark.parametrize(
    "said",
    [
        *["hello?", "{}", "[]", '{"type":"auth"}', '{"type":"auth","token":1}', "[" * 1000],
        *['{"type":"auth","token":"x","token":"TOKEN"}', '{"type":"auth","type":"auth","token":"TOKEN"}'],
        '{"type":"auth","token":"TOKEN","more":1}',
    ],
)
def test_a_first_frame_that_is_no_auth_is_malformed(stream: Server, said: str) -> None:
    """An error frame that says what was expected, and 4400; also where a key is there twice, as in a body."""
    with Subscriber(stream, token=False) as subscriber:
        subscriber.send(said.replace("TOKEN", stream.token))
        assert subscriber.next()["code"] == 4400
        assert subscriber.closed() == 4400


@pytest.mark.patient
def test_a_token_that_does_not_come_in_time(stream: Server) -> None:
    """4408 after five seconds; nothing was told in the meantime."""
    began = time.monotonic()
    with Subscriber(stream, token=False) as subscriber:
        assert subscriber.closed(8) == 4408
        assert 4 < time.monotonic() - began < 7
        assert [frame["type"] for frame in subscriber.frames] == ["error"]


def test_a_token_in_the_url_is_refused(stream: Server) -> None:
    """400, as everywhere."""
    assert Subscriber(stream, query=f"token={stream.token}").status == 400


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("https://hostile.example", False),
        ("null", False),
        ("https://page.example.hostile.example", False),
        ("https://page.example", True),
        ("http://{own}", True),
    ],
)
def test_only_known_pages_may_read(stream: Server, origin: str, welcome: bool) -> None:
    """A hostile Origin is refused with 403, with the right token too; the own one and --allow-origin are not.

    A page of --allow-origin may also read Server-Sent Events by `fetch`.
    """
    headers = {"Origin": origin.format(own=f"127.0.0.1:{stream.port}")}
    with Subscriber(stream, headers=headers) as subscriber:
        assert subscriber.status == (101 if welcome else 403)
    with Sse(stream, headers=headers) as sse:
        assert sse.status == (200 if welcome else 403)
        listed = origin if origin == "https://page.example" else None
        assert sse.answer.headers["Access-Control-Allow-Origin"] == listed


def test_too_many_that_show_no_token(stream: Server) -> None:
    """64 of one address may wait for their first frame; for one more the oldest is closed with 4429."""
    with Subscriber(stream, token=False) as oldest:
        crowd = [Connection(stream.port, "/events", {}) for _ in range(63)]
        try:
            with Subscriber(stream, token=False) as subscriber:
                assert oldest.closed() == 4429
                subscriber.send(json.dumps({"type": "auth", "token": stream.token}))
                assert subscriber.next()["type"] == "hello"
            with Subscriber(stream) as subscriber:
                assert subscriber.next()["type"] == "hello"
        finally:
            for connection in crowd:
                connection.close()


# --- cursors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["since=nonsense", "since=0123abcd:", "since=0123abcd:1x", "topic=x", "label=x", "x=1"]
)
def test_a_malformed_wish(stream: Server, query: str) -> None:
    """4400 with a word on the field; as Server-Sent Events 400."""
    with Subscriber(stream, query=query) as subscriber:
        error = subscriber.next()
        assert error["type"] == "error"
        assert query.partition("=")[0] in error["detail"]
        assert subscriber.closed() == 4400
    assert stream.call("GET", f"/events?{query}").status == 400


def test_a_cursor_of_another_epoch(stream: Server) -> None:
    """A gap that names both ends, a snapshot, and the live stream; also for a cursor that is yet to come."""
    epoch, _, number = stream.call("GET", "/status")["cursor"].partition(":")
    for since in ("0a0b0c0d:1", f"{epoch}:{int(number) + 1000}"):
        with Subscriber(stream, since) as subscriber:
            hello, gap, snapshot = (subscriber.next() for _ in range(3))
            assert gap == {"type": "gap", "reason": "epoch_changed", "from": since, "to": hello["cursor"]}
            assert snapshot["type"] == "snapshot"
            subscriber.event(of(run(stream, command="true"), "complete"))


def test_a_cursor_that_is_too_old(start_server: StartServer, engine: Engine) -> None:
    """They are kept by count: of a cursor before them a gap with cursor_expired and a snapshot; the oldest resumes."""
    server = start_server(engine.host, "--keep-facts", "1000")
    service = run(server)
    server.terminate()
    epoch = put_events(server, range(last_event(server) + 1, 2999))
    server.start()
    ready(server)
    with Subscriber(server, f"{epoch}:2998") as subscriber:
        server.stop_service(service)
        subscriber.event(of(service, "removed"))
    with Subscriber(server, f"{epoch}:1500") as subscriber:
        hello, gap, snapshot = (subscriber.next() for _ in range(3))
        expected = {"type": "gap", "reason": "cursor_expired", "from": f"{epoch}:1500", "to": hello["cursor"]}
        assert (gap, snapshot["type"]) == (expected, "snapshot")
    oldest = eventually(lambda: oldest_event(server), 5)
    assert 1900 < oldest < 2100
    with Subscriber(server, f"{epoch}:{oldest - 1}") as subscriber:
        assert [subscriber.next()["type"] for _ in range(2)] == ["hello", "event"]
        assert subscriber.events[0]["id"] == f"{epoch}:{oldest}"
    with Subscriber(server, f"{epoch}:{oldest - 2}") as subscriber:
        assert [subscriber.next()["type"] for _ in range(2)] == ["hello", "gap"]


def journal(server: Server) -> sqlite3.Connection:
    return sqlite3.connect(server.folder / "data" / "journal.db", timeout=10)


def oldest_event(server: Server) -> int:
    with journal(server) as connection:
        return int(connection.execute("SELECT max(seq) + 1 FROM pruned").fetchone()[0])


def last_event(server: Server) -> int:
    with journal(server) as connection:
        return int(connection.execute("SELECT max(seq) FROM facts").fetchone()[0])


def put_events(server: Server, numbers: range) -> str:
    """Write copies of an event that the journal has, and return its epoch; the server is stopped."""
    with journal(server) as connection:
        kind, event, subject = connection.execute(
            "SELECT type, event, subject FROM facts WHERE type LIKE '%service%'"
        ).fetchone()
        epoch = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0]
        document = json.loads(event)
        events = [(number, json.dumps({**document, "id": f"{epoch}:{number}"}).encode()) for number in numbers]
        rows = [(number, time.time(), "root", subject, len(event), kind, event) for number, event in events]
        connection.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return str(epoch)


# --- filters ----------------------------------------------------------------------------------------------------------


def test_filters_narrow_the_snapshot_the_replay_and_the_live_stream(stream: Server) -> None:
    """By topic, by service and by label, in all three the same."""
    since = stream.call("GET", "/status")["cursor"]
    red, blue = (run(stream, labels={"colour": colour, "shape": "round"}) for colour in ("red", "blue"))
    queries = {
        "label=colour%3Dred": ({red}, {"service", "task"}, 0),
        "label=colour%3Dred&label=shape%3Dround": ({red}, {"service", "task"}, 0),
        "label=colour%3Dred&label=shape%3Dsquare": (set(), set(), 0),
        f"service={blue}": ({blue}, {"service", "task"}, 0),
        f"service={blue}&topic=task": ({blue}, {"task"}, 0),
        "topic=task,service&label=shape%3Dround": ({red, blue}, {"service", "task"}, 0),
        "topic=service&topic=node&label=shape%3Dround": ({red, blue}, {"service"}, 1),
    }
    fresh = {query: Subscriber(stream, query=query) for query in queries}
    resumed = {query: Subscriber(stream, since, query=query) for query in queries}
    with Subscriber(stream, since) as everything:
        for service in (red, blue):
            eventually(partial(told, everything, of(service, "running")), 30)
        for service in (red, blue):
            stream.stop_service(service)
        for service in (red, blue):
            eventually(partial(told, everything, of(service, "removed")), 30)
    for query, (services, topics, nodes) in queries.items():
        for subscriber in (fresh[query], resumed[query]):
            if "service" in topics:
                eventually(partial(removed_all, subscriber, services), 5)
            assert {event["subject"] for event in subscriber.events} == services, query
            assert {event["type"].split(".")[2] for event in subscriber.events} == topics, query
            subscriber.leave()
        snapshot = fresh[query].frames[1]
        assert {service["id"] for service in snapshot["services"]} == services, query
        assert len(snapshot["nodes"]) == nodes, query
        if "service" in topics:
            assert len([e for e in resumed[query].events if e["type"].endswith("created")]) == len(services)


def told(subscriber: Subscriber, predicate: Callable[[Json], bool]) -> bool:
    return any(map(predicate, subscriber.events))


def removed_all(subscriber: Subscriber, services: Collection[str]) -> bool:
    return set(services) <= {event["subject"] for event in subscriber.events if event["type"].endswith(".removed")}


def test_who_asks_for_nodes_alone_gets_no_services(stream: Server) -> None:
    """In the snapshot and live."""
    with Subscriber(stream, query="topic=node") as subscriber, Subscriber(stream) as other:
        other.event(of(run(stream, command="true"), "complete"))
        snapshot = subscriber.until(lambda frame: frame["type"] == "snapshot")
        assert (snapshot["services"], len(snapshot["nodes"])) == ([], 1)
        assert subscriber.events == []


# --- Server-Sent Events -----------------------------------------------------------------------------------------------


def test_sse_has_the_same_frames_by_name(stream: Server) -> None:
    """hello and snapshot are named events; an event carries the CloudEvent alone, its id is the cursor."""
    with Sse(stream) as sse:
        assert sse.answer.headers["Content-Type"] == "text/event-stream"
        events = iter(sse)
        hello, snapshot = next(events), next(events)
        assert (hello.name, hello.id, hello.data["type"]) == ("hello", "", "hello")
        assert (snapshot.name, snapshot.id) == ("snapshot", snapshot.data["cursor"])
        service = run(stream, command="true")
        end = next(event for event in events if event.name.endswith("service.complete"))
        assert set(end.data) == EVENT_KEYS
        assert (end.id, end.name, service) == (end.data["id"], end.data["type"], end.data["subject"])
    with Sse(stream, address("0a0b0c0d:7")) as sse:
        assert [next(iter(sse)).name for _ in range(3)] == ["hello", "gap", "snapshot"]


def test_sse_wants_the_token(stream: Server) -> None:
    """401 without or with a wrong one."""
    assert stream.call("GET", "/events", token=False).status == 401
    assert stream.call("GET", "/events", token="wrong").status == 401


def curl(server: Server, *args: str) -> "subprocess.Popen[bytes]":
    argv = ["curl", "-sN", "--noproxy", "*", "-H", f"Authorization: Bearer {server.token}", *args]
    return subprocess.Popen([*argv, f"{server.url}/events"], stdout=subprocess.PIPE)


def test_curl_shows_the_stream_and_resumes(stream: Server) -> None:
    """`curl -N` prints events as they come, and `Last-Event-ID` goes on after one."""
    with curl(stream) as first:
        assert first.stdout
        events = (event for event in parse_sse(iter(first.stdout)) if event.name != "heartbeat")
        assert [next(events).name for _ in range(2)] == ["hello", "snapshot"]
        service = run(stream, command="true")
        seen = []
        for event in events:
            seen.append(event)
            if event.name == "io.qmaster.service.complete":
                break
        assert {event.data["subject"] for event in seen} == {service}
        first.terminate()
    with curl(stream, "-H", f"Last-Event-ID: {seen[0].id}") as second:
        assert second.stdout
        events = (event for event in parse_sse(iter(second.stdout)) if event.name != "heartbeat")
        assert next(events).name == "hello"
        assert [next(events) for _ in seen[1:]] == seen[1:]
        second.terminate()


# --- its end, and readers of all kinds --------------------------------------------------------------------------------


def test_the_end_is_told(start_server: StartServer, engine: Engine) -> None:
    """On SIGTERM each gets an error frame and 1001, resumes after the restart, and has missed nothing."""
    server = start_server(engine.host)
    service = run(server)
    with Subscriber(server) as subscriber, Sse(server) as sse:
        subscriber.event(of(service, "running"))
        assert server.terminate() == 0
        assert subscriber.closed() == 1001
        assert subscriber.frames[-1]["code"] == 1001
        assert list(sse)[-1].name == "error"
    server.start()
    with subscriber.resume() as resumed:
        assert resumed.next()["type"] == "hello"
        server.stop_service(service)
        resumed.event(of(service, "removed"))
        assert not any(frame["type"] in ("gap", "snapshot") for frame in resumed.frames)
        assert not any(of(service, "running")(event) for event in resumed.events)


def flood(engine: Engine, count: int, weight: int = 1) -> list[str]:
    """Create services that no node can take, as fast as the engine makes them; their ids."""
    client: Any = engine.client(timeout=30)
    template = {
        "ContainerSpec": {"Image": "busybox:local", "Args": ["nap"]},
        "Placement": {"Constraints": [NOWHERE]},
        "RestartPolicy": {"Condition": "none"},
    }
    labels = {"weight": "x" * weight}

    def create(number: int) -> str:
        return str(client.create_service(template, name=f"flood-{time.time_ns()}-{number}", labels=labels)["ID"])

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(create, range(count)))


def drain(engine: Engine, services: list[str]) -> None:
    client: Any = engine.client(timeout=30)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client.remove_service, services))


def test_a_flood_reaches_all(stream: Server, engine: Engine) -> None:
    """300 events within a second and more come to each of twenty subscribers, the same to all, in one order."""
    subscribers = [Subscriber(stream) for _ in range(20)]
    stream.freeze()  # what happens meanwhile is told at once
    services = flood(engine, 400)
    stream.thaw()
    for subscriber in subscribers:
        eventually(partial(all_unschedulable, subscriber, services), 20, "all are told")
    times = sorted(received.at for received in subscribers[0].received if received.frame["type"] == "event")
    busiest = max(sum(start <= at < start + 1 for at in times) for start in times)
    assert busiest >= 300
    orders = [[event["id"] for event in subscriber.events][: len(times)] for subscriber in subscribers]
    assert all(order == orders[0] for order in orders)
    for subscriber in subscribers:
        assert subscriber.close_code is None
        subscriber.leave()


def all_unschedulable(subscriber: Subscriber, services: list[str]) -> bool:
    found = {event["subject"] for event in subscriber.events if event["data"].get("reason") == "unschedulable"}
    return set(services) <= found


def all_refused(engine: Engine, services: list[str]) -> bool:
    """Whether Swarm itself says of each that no node suits it; it may take its time."""
    client: Any = engine.client()
    tasks = client.tasks({"service": services})
    return len({task["ServiceID"] for task in tasks if task["Status"].get("Err")}) == len(services)


def test_a_client_that_never_reads_is_cut(start_server: StartServer, engine: Engine, measured: Measured) -> None:
    """Within about six seconds of being behind; our memory grows by less than 4 MiB, and nobody else notices."""
    # One arena, which gives back what is free: else the allocator's own growth is all that is seen.
    server = start_server(engine.host, MALLOC_ARENA_MAX="1", MALLOC_TRIM_THRESHOLD_="65536")
    with Subscriber(server) as reader:
        reader.until(lambda frame: frame["type"] == "snapshot")
        before = 0
        for _ in range(2):  # the memory that the services themselves take
            services = heavy_load(engine, reader)
            before = max(before, rss(server))
            drain(engine, services)
            eventually(partial(removed_all, reader, services), 20)
            before = max(before, rss(server))
        lazy = Connection(server.port, "/events", {"Authorization": f"Bearer {server.token}"}, receive_buffer=4096)
        time.sleep(0.3)  # until it has joined, which nothing shows
        heavy_load(engine, reader)
        behind, grown = time.monotonic(), 0

        def cut() -> bool:
            nonlocal grown
            grown = max(grown, rss(server) - before)
            return "slow_consumer_cut" in server.logs()

        eventually(cut, 8, "it is cut")
        assert "\nqmaster_slow_consumers_cut_total 1.0\n" in server.call("GET", "/metrics").text
        measured(f"cut after {time.monotonic() - behind:.1f} s, memory grew by {grown / 1024:.0f} KiB")
        assert grown < 4 * 1024 * 1024  # the most that may ever wait for one reader
        with pytest.raises(OSError, match=r"ended|reset"):
            read_all(lazy)
        assert reader.close_code is None
        lazy.close()


def heavy_load(engine: Engine, reader: Subscriber) -> list[str]:
    """Let services be told of until that has made more than 1 MiB and what the kernel buffers; their ids."""
    services, read = [], reader.size
    while reader.size - read < 1_400_000:
        services += flood(engine, 3, 30_000)
        eventually(partial(all_refused, engine, services), 60, "the scheduler has said so of all", every=0.1)
        eventually(partial(all_unschedulable, reader, services), 20, "all are told")
    return services


def read_all(connection: Connection) -> None:
    while True:
        connection.receive()


def test_a_slow_but_steady_reader_gets_all(start_server: StartServer, engine: Engine, measured: Measured) -> None:
    """A snapshot of 1,000 services and a replay of 20,000 events, slowly: it is not cut, and our memory stays flat."""
    server = start_server(engine.host)
    service = run(server)
    with Subscriber(server) as subscriber:
        subscriber.event(of(service, "running"))
    server.terminate()
    first = last_event(server)
    epoch = put_events(server, range(first + 1, first + 20_001))
    put_services(server, 999)
    server.env["DOCKER_HOST"] = "unix:///nowhere/docker.sock"  # or it would find that the services are not there
    server.start()
    eventually(lambda: len(server.call("GET", "/status")["services"]) == 1000, 10, "the journal is read")
    with Subscriber(server) as warm:
        warm.until(lambda frame: frame["type"] == "snapshot")
    before = rss(server)
    peak = [0]
    done = threading.Event()
    watch = threading.Thread(target=lambda: _watch_memory(server, peak, done))
    watch.start()
    began = time.monotonic()
    fresh = Subscriber(server, pace=0.02, receive_buffer=16 * 1024)
    replay = Subscriber(server, last_of(epoch, first), pace=0.02)
    with fresh, replay:
        snapshot = fresh.until(lambda frame: frame["type"] == "snapshot", 60)
        replay.until(lambda frame: frame.get("cursor") == last_of(epoch, first + 20_000) and "event" in frame, 120)
        took = time.monotonic() - began
    done.set()
    watch.join()
    measured(f"{replay.size / 1e6:.0f} MB in {took:.1f} s, memory grew by {(peak[0] - before) / 1024:.0f} KiB")
    assert len(snapshot["services"]) == 1000
    assert [event["id"] for event in replay.events] == [last_of(epoch, first + i) for i in range(1, 20_001)]
    assert took > 5  # longer than a reader without progress would have had
    assert peak[0] - before < 8 * 1024 * 1024
    assert "slow_consumer_cut" not in server.logs()


def last_of(epoch: str, number: int) -> str:
    return f"{epoch}:{number}"


def _watch_memory(server: Server, peak: list[int], done: threading.Event) -> None:
    while not done.wait(0.02):
        peak[0] = max(peak[0], rss(server))


def put_services(server: Server, count: int) -> None:
    """Write copies of a service that the journal has; the server is stopped."""
    with journal(server) as connection:
        row = connection.execute("SELECT view FROM records WHERE kind = 'service' AND NOT removed").fetchone()
        view = json.loads(row[0])
        views = [{**view, "id": f"copy-{i}", "name": f"copy-{i}"} for i in range(count)]
        rows = [(v["id"], v["name"], time.time(), json.dumps(v).encode()) for v in views]
        connection.executemany("INSERT INTO records VALUES (?, 'service', ?, 0, ?, ?, '', 'root', 0)", rows)


# --- heartbeats: last, as the witness has heard some by now -----------------------------------------------------------


def test_heartbeats_carry_what_was_considered(stream: Server, witness: Subscriber) -> None:
    """Every 15 s at least; their cursor has moved on past what the filter kept back, and can be resumed from."""
    service = run(stream, command="true")
    eventually(lambda: stream.status(service)["status"] == "complete", 10)
    now = int(stream.call("GET", "/status")["cursor"].partition(":")[2])

    def past_it(frame: Json) -> bool:
        return frame["type"] == "heartbeat" and int(frame["cursor"].partition(":")[2]) >= now

    beat = witness.until(past_it, 20)
    assert set(beat) == {"type", "cursor", "time"}
    assert witness.events == []
    times = [received.at for received in witness.received if received.frame["type"] == "heartbeat"]
    assert all(later - earlier < 18 for earlier, later in pairwise(times))
    with Subscriber(stream, witness.cursor) as resumed:
        assert resumed.next()["type"] == "hello"
        after = run(stream, command="true")
        assert resumed.next()["event"]["subject"] == after
