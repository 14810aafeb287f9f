"""Calls of functions on real engines: once for each key, whole at their largest, and their output afterwards."""

import threading

import pytest
from called import Function
from testbed import Server, eventually
from testbed.subscriber import Subscriber

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def function(functions_server: Server) -> Function:
    """One that does what its event names."""
    made = Function(functions_server, "calls", timeout=20, max_instances=2)
    made.echo()
    return made


def test_a_key_is_one_call(function: Function) -> None:
    """Sent again, at once or later, it gets the first call's answer; a failure is an answer too."""
    key = {"Idempotency-Key": "order-4711"}
    replies = [function.call({"do": "echo"}, key) for _ in range(2)]
    assert [reply.status for reply in replies] == [200, 200]
    assert replies[0].json == replies[1].json
    assert [reply.headers.get("Idempotency-Replayed") for reply in replies] == [None, "true"]
    assert function.call({"do": "other"}, key).status == 422
    failed = {"Idempotency-Key": "order-4712"}
    first, again = (function.call({"do": "fail"}, failed) for _ in range(2))
    assert (first.status, again.status, first["error_message"]) == (502, 502, again["error_message"])


def test_two_calls_with_a_key_at_once_are_one(function: Function) -> None:
    """The second waits for the first."""
    key, replies = {"Idempotency-Key": "order-4713"}, []

    def call() -> None:
        replies.append(function.call({"do": "sleep", "seconds": 1}, key))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({reply.text for reply in replies}) == 1
    assert sorted(reply.headers.get("Idempotency-Replayed", "") for reply in replies) == ["", "true", "true"]


def test_the_largest_input_comes_back_whole(function: Function) -> None:
    """Nearly 6 MiB in, and out with what the function adds; one that grows over it is told."""
    text = "x" * (6 * MIB - 1000)
    reply = function.call({"do": "echo", "text": text})
    assert (reply.status, reply["event"]["text"] == text) == (200, True)
    over = function.call({"do": "echo", "text": "x" * (6 * MIB - 40)})
    assert (over.status, over["error_type"]) == (502, "Function.ResponseSizeTooLarge")
    assert function.call({"do": "echo", "text": "x" * 6 * MIB}).status == 413


def test_the_output_of_the_instances_is_the_functions(functions_server: Server) -> None:
    """Also of one that has ended; a follower gets what comes, until the function is deleted."""
    function = Function(functions_server, "talks", timeout=20)
    assert function.call({"do": "leave", "code": 3}).status == 502
    followed: list[str] = []

    def follow() -> None:
        followed.append(functions_server.call("GET", f"{function.path}/logs?follow=1", timeout=60).text)

    eventually(lambda: "about to leave" in functions_server.call("GET", f"{function.path}/logs").text, 20, "it is kept")
    thread = threading.Thread(target=follow)
    thread.start()
    function.echo()
    assert function.call({"do": "leave", "code": 3}).status == 502
    eventually(
        lambda: functions_server.call("GET", f"{function.path}/logs").text.count("about to leave") == 2, 20, "both are"
    )
    function.delete()
    thread.join(30)
    assert len(followed) == 1
    assert followed[0].count("about to leave") >= 2, followed[0]


def test_a_stream_tells_of_instances_where_they_are_asked_for(functions_server: Server) -> None:
    """By their function; a stream of all runs has none of them."""
    with Subscriber(functions_server) as plain, Subscriber(functions_server, query="function=heard") as asked:
        function = Function(functions_server, "heard", timeout=20)
        function.echo()
        asked.event(lambda event: event["type"].endswith("service.running"))
        function.delete()
        told = {event["data"]["function"]["name"] for event in asked.events if ".service." in event["type"]}
        assert told == {"heard"}
        assert not [event for event in plain.events if (event["data"].get("function") or {}).get("name")]
