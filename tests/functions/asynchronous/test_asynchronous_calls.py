"""Asynchronous calls on real engines, as their callers see them: accepted, shown, tried again, cancelled, redriven."""

import base64
import json
import threading
import uuid
from typing import Any

import boto3
import pytest
from called import Function
from contract import check_answer
from testbed import Reply, Server, eventually
from testbed.subscriber import Subscriber

MIB = 1024 * 1024
LATER = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def function(functions_server: Server) -> Function:
    """One that does what its event names; what fails is tried again once, soon."""
    made = Function(functions_server, "later", timeout=20, max_instances=2, retries=1, retry_delay=0.1, queue=1000)
    made.echo()
    return made


def accepted(function: Function, event: Any, **headers: str) -> str:
    """The id of a call that is made later."""
    reply = function.call(event, {**LATER, **headers})
    assert (reply.status, reply["success"], reply["status"]) == (202, True, "queued"), reply.text
    assert reply.headers["Location"] == f"/invocations/{reply['id']}"
    return str(reply["id"])


def show(server: Server, invocation: str, query: str = "") -> Reply:
    reply = server.call("GET", f"/invocations/{invocation}{query}")
    assert reply.status == 200, reply.text
    check_answer("/invocations/{id}", "get", 200, reply.headers, reply.text.encode())
    return reply


def over(function: Function, invocation: str, *statuses: str) -> Reply:
    """The call once it is over."""
    reply = show(function.server, invocation, "?wait=60")
    assert reply["status"] in (statuses or ("succeeded",)), reply.text
    return reply


def test_a_call_is_made_later(function: Function) -> None:
    """Its output is there once it is over; the function saw the id that the caller got."""
    invocation = accepted(function, {"do": "echo", "text": "grüß"})
    shown = over(function, invocation)
    assert (shown["output"]["event"]["text"], shown["output"]["request_id"]) == ("grüß", invocation)
    assert (shown["function"], shown["version"], shown["owner"], shown["error"]) == ("later", 1, "root", None)
    (attempt,) = shown["attempts"]
    assert attempt["instance"] in {run["id"] for run in function.runs()}
    assert shown["created_at"] <= shown["started_at"] == attempt["started_at"] <= attempt["ended_at"]
    assert attempt["ended_at"] <= shown["ended_at"]
    assert uuid.UUID(invocation).version == 8
    assert show(function.server, invocation).json == shown.json


def test_a_wait_ends_in_time(function: Function) -> None:
    """With what is known then."""
    invocation = accepted(function, {"do": "sleep", "seconds": 3})
    assert show(function.server, invocation, "?wait=0.2")["status"] in ("queued", "running")
    shown = over(function, invocation)
    assert (shown["status"], shown["output"]) == ("succeeded", {"do": "sleep", "seconds": 3})


def test_an_output_is_json_text_or_bytes(functions_server: Server) -> None:
    """As the function gave it: the program of a shell writes what its input is."""
    made = functions_server.call("PUT", "/functions/raw", json=shell("cat <in"))
    assert made.status == 201, made.text
    for payload, shown in (
        (b'{"a": [1, null]}', {"output": {"a": [1, None]}}),
        ("grüß".encode(), {"output": "grüß"}),
        (b"\xff\xfe", {"output_base64": base64.b64encode(b"\xff\xfe").decode()}),  # without a NUL, where wget ends
    ):
        reply = functions_server.call("POST", "/functions/raw/invoke", body=payload, headers=LATER)
        told = show(functions_server, reply["id"], "?wait=60").json
        assert {key: told[key] for key in told if key.startswith("output")} == shown, told


def shell(program: str) -> dict[str, Any]:
    """A function of busybox: a client of the runtime API around a program with the files `in` and `out`."""
    api = "api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
    step = f"{program} >out; wget -qO- --post-file out $api/$(sed -n s/.*Request-Id:.//p head)/response"
    loop = f"{api}; while wget -qSO in $api/next 2>head; do {step}; done"
    return {"image": "busybox:local", "memory": 16, "command": ["sh", "-c", loop], "timeout": 20}


def test_what_fails_is_tried_again_and_given_up(function: Function) -> None:
    """Each attempt is told, with its error; a redrive begins anew; then it is dead again."""
    invocation = accepted(function, {"do": "fail"})
    shown = over(function, invocation, "dead")
    assert [attempt["error"]["type"] for attempt in shown["attempts"]] == ["ValueError"] * 2
    assert (shown["error"]["type"], shown["error"]["message"][:8]) == ("ValueError", "no good:")
    assert "app.py" in str(shown["error"]["stack"])
    assert "output" not in shown.json
    reply = function.server.call("POST", f"/invocations/{invocation}/redrive")
    assert (reply.status, reply["status"], reply["error"]) == (200, "queued", None), reply.text
    check_answer("/invocations/{id}/redrive", "post", 200, reply.headers, reply.text.encode())
    assert len(over(function, invocation, "dead")["attempts"]) == 4
    other = accepted(function, {"do": "echo"})
    over(function, other)
    assert function.server.call("POST", f"/invocations/{other}/redrive").status == 409


def test_an_instance_that_dies_is_an_attempt(function: Function) -> None:
    """With its exit code and last lines; another instance has the next one."""
    shown = over(function, accepted(function, {"do": "leave", "code": 3}), "dead")
    first, second = shown["attempts"]
    assert first["instance"] != second["instance"]
    assert "3" in first["error"]["message"]
    assert "about to leave" in str(shown["error"]["stack"])


def test_one_that_waits_is_cancelled(functions_server: Server) -> None:
    """It is never made; one that runs or is over cannot be; to cancel it again is a success."""
    function = Function(functions_server, "single", timeout=20, max_instances=1, queue=10)
    function.echo()
    busy = accepted(function, {"do": "sleep", "seconds": 3})
    eventually(lambda: show(functions_server, busy)["status"] == "running", 20, "it runs")
    waiting = accepted(function, {"do": "echo"})
    for _ in range(2):
        reply = functions_server.call("DELETE", f"/invocations/{waiting}")
        assert (reply.status, reply["status"], reply["attempts"]) == (200, "cancelled", []), reply.text
        check_answer("/invocations/{id}", "delete", 200, reply.headers, reply.text.encode())
    assert functions_server.call("DELETE", f"/invocations/{busy}").status == 409
    over(function, busy)
    assert functions_server.call("DELETE", f"/invocations/{busy}").status == 409
    over(function, accepted(function, {"do": "echo"}))
    assert show(functions_server, waiting)["attempts"] == []


def test_the_queue_has_an_end(functions_server: Server) -> None:
    """429 beyond it; what waits when the function is deleted is cancelled, what runs is finished."""
    function = Function(functions_server, "narrow", timeout=20, max_instances=1, queue=2)
    function.echo()
    running = accepted(function, {"do": "sleep", "seconds": 4})
    eventually(lambda: show(functions_server, running)["status"] == "running", 20, "it runs")
    waiting = [accepted(function, {"do": "echo"}) for _ in range(2)]
    full = function.call({"do": "echo"}, LATER)
    assert (full.status, full["reason"]) == (429, "queue_full"), full.text
    assert int(full.headers["Retry-After"]) > 0
    function.delete()
    for each in waiting:
        over(function, each, "cancelled")
    over(function, running)
    assert function.call({"do": "echo"}, LATER).status == 404


def test_calls_are_listed_by_page(function: Function) -> None:
    """The newest first, each once, without outputs; by function and status."""
    made = [accepted(function, {"do": "echo", "number": number}) for number in range(5)]
    for each in made:
        over(function, each)
    found: list[str] = []
    page = ""
    while True:
        query = f"/invocations?function=later&status=succeeded&limit=2{page}"
        listed = function.server.call("GET", query)
        check_answer("/invocations", "get", listed.status, listed.headers, listed.text.encode())
        assert all("output" not in one for one in listed["invocations"])
        found += [one["id"] for one in listed["invocations"]]
        if listed["next_page"] is None:
            break
        page = f"&page={listed['next_page']}"
    assert found[:5] == made[::-1]
    assert len(set(found)) == len(found)
    assert function.server.call("GET", "/invocations?function=nobody")["invocations"] == []
    assert function.server.call("GET", "/invocations?page=x").status == 400


def test_a_key_is_accepted_once(function: Function) -> None:
    """At once or later; another body is a 422."""
    ids: list[str] = []
    key = {"Idempotency-Key": "order-4711"}

    def call() -> None:
        reply = function.call({"do": "echo"}, {**LATER, **key})
        assert reply.status == 202, reply.text  # the call may have begun meanwhile
        ids.append(reply["id"])

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = function.call({"do": "echo"}, {**LATER, **key})
    assert (set(ids), again.headers["Idempotency-Replayed"]) == ({again["id"]}, "true")
    assert len(ids) == 4
    assert function.call({"do": "other"}, {**LATER, **key}).status == 422
    over(function, ids[0])
    assert function.call({"do": "echo"}, {**LATER, **key})["id"] == ids[0]


def test_sizes_are_limited(function: Function) -> None:
    """1 MiB in, else 413; 1 MiB out, else it is dead at once."""
    assert function.call({"do": "echo", "text": "x" * MIB}, LATER).status == 413
    shown = over(function, accepted(function, {"do": "big", "bytes": MIB + 2}), "dead")
    assert (shown["error"]["type"], len(shown["attempts"])) == ("Function.ResponseSizeTooLarge", 1)
    assert len(over(function, accepted(function, {"do": "big", "bytes": MIB - 100}))["output"]) > MIB - 200


def test_boto3_sends_an_event(function: Function) -> None:
    """202 and no payload; the id of its request is the call's."""
    client = boto3.client(
        "lambda",
        endpoint_url=function.server.url,
        region_name="local",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        aws_session_token=function.server.token,
    )
    payload = json.dumps({"do": "echo", "text": "by boto3"})
    answer = client.invoke(FunctionName="later", InvocationType="Event", Payload=payload)
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    shown = over(function, answer["ResponseMetadata"]["RequestId"])
    assert shown["output"]["event"]["text"] == "by boto3"
    client.close()


def test_the_stream_tells_each_end(function: Function) -> None:
    """To those who ask for it, without the output; a stream of all has none."""
    with (
        Subscriber(function.server) as plain,
        Subscriber(function.server, query="topic=invocation") as asked,
        Subscriber(function.server, query="function=later") as of_function,
    ):
        for subscriber in (plain, asked, of_function):
            subscriber.until(lambda frame: frame["type"] == "snapshot")
        good, bad = accepted(function, {"do": "echo"}), accepted(function, {"do": "fail"})
        for subscriber in (asked, of_function):
            told: dict[str, Any] = {}
            while len(told) < 2:
                event = subscriber.event(lambda event: event["type"].startswith("io.qmaster.invocation."))
                told[event["subject"]] = event
            assert told[good]["type"] == "io.qmaster.invocation.completed"
            assert told[bad]["type"] == "io.qmaster.invocation.failed"
            assert told[bad]["data"]["error"]["type"] == "ValueError"
            assert (told[good]["data"]["id"], told[good]["data"]["status"]) == (good, "succeeded")
            assert "output" not in told[good]["data"]
        assert not [event for event in plain.events if ".invocation." in event["type"]]


def test_another_quartermasters_call_is_told(functions_server: Server) -> None:
    """An id has the address of the quartermaster that made it."""
    elsewhere = (uuid.uuid4().int >> 48 << 48) & ~(0xF << 76) | 0x8 << 76 | int.from_bytes(bytes([10, 0, 0, 5])) << 16
    reply = functions_server.call("GET", f"/invocations/{uuid.UUID(int=elsewhere)}")
    assert (reply.status, "10.0.0.5" in reply["error"]) == (404, True), reply.text
    assert functions_server.call("GET", f"/invocations/{uuid.uuid4()}").status == 404
