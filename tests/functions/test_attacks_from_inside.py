"""Attacks on the runtime API from inside an instance: they reach nobody but the function itself."""

import http.client
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from called import Function, timed
from testbed import Reply, Server, eventually

REFUSED = re.compile(r"HTTP/1.1 4\d\d|closed|ConnectionResetError|BrokenPipeError|.*ConnectionResetError")


@pytest.fixture(scope="module")
def attacker(functions_server: Server) -> Function:
    return Function(functions_server, "attacker", command=["attack.handler"], timeout=30, memory=512)


@pytest.fixture
def victim(functions_server: Server) -> Iterator[Function]:
    """A function that answers as ever when the attack is over."""
    function = Function(functions_server, "victim")
    function.echo()
    yield function
    assert function.echo()["calls"] > 1
    assert functions_server.call("GET", "/readyz").status == 200


def attack(attacker: Function, name: str, **arguments: Any) -> Reply:
    return attacker.call({"attack": name, "with": arguments})


@pytest.mark.parametrize(
    "name",
    [
        "poll_without_a_secret",
        "poll_with_another_secret",
        "two_hosts",
        "absolute_address",
        "init_error_of_another",
        "other_paths",
        "odd_methods",
        "large_answer_of_nobody",
        "large_head",
    ],
)
def test_what_has_no_secret_or_is_no_call_is_refused(attacker: Function, victim: Function, name: str) -> None:
    """With 4xx, or by closing the connection."""
    reply = attack(attacker, name)
    assert reply.status == 200, reply.text
    said = reply.json if isinstance(reply.json, list) else [reply.json]
    assert [line for line in said if not REFUSED.match(line)] == []


@pytest.mark.parametrize("name", ["answer_for_another", "smuggled"])
def test_an_answer_for_another_instances_call_counts_for_nothing(
    attacker: Function, victim: Function, name: str
) -> None:
    """Whoever knows the id of a call: its caller gets the answer of the instance that has it."""
    call = victim.call_later({"do": "tell", "seconds": 4})
    eventually(lambda: victim.counts()["busy"] == 1, 10, "it runs")
    (run,) = (run for run in victim.runs() if run["status"] == "running")

    def told() -> str:
        return victim.server.call("GET", f"/logs/{run['id']}").text.strip()

    call_id = eventually(told, 20, "its id is known").splitlines()[-1]
    assert attack(attacker, name, victim=call_id).status == 200
    reply = call.result(60)
    assert (reply.status, reply["seconds"]) == (200, 4)
    assert reply.headers["X-Request-ID"] == call_id


def test_answers_to_made_up_calls(attacker: Function, victim: Function) -> None:
    """They are taken, as clients end on anything else, and count for nothing."""
    reply = attack(attacker, "answer_made_up_calls")
    assert reply.status == 200
    assert all(re.match(r"HTTP/1.1 (202|404)", line) for line in reply.json)


def test_a_second_answer(attacker: Function, victim: Function) -> None:
    """The first counts."""
    assert attack(attacker, "answer_twice").text == '"the first"'


def test_more_questions_than_calls(functions_server: Server, victim: Function) -> None:
    """Who asks for the next call has given the present one up."""
    function = Function(functions_server, "asks", command=["attack.handler"], timeout=30)
    reply = attack(function, "many_polls")
    assert (reply.status, reply["reason"]) == (502, "instance_died")
    function.delete()


@pytest.mark.parametrize(("name", "most"), [("silent_connections", 64), ("flood", 1_000_000)])
def test_a_flood(attacker: Function, victim: Function, name: str, most: int) -> None:
    """Others' calls are answered meanwhile."""
    call = attacker.call_later({"attack": name})
    eventually(lambda: attacker.counts()["busy"] == 1, 10, "it runs")
    times = [timed(victim.echo_reply) for _ in range(20)]
    assert {reply.status for reply, _ in times} == {200}
    assert sorted(seconds for _, seconds in times)[10] < 1
    reply = call.result(120)
    assert reply.status == 200, reply.text
    assert reply.json <= most


def test_an_answer_that_is_too_large(attacker: Function, victim: Function) -> None:
    """A hundred megabytes: the caller is told, and no memory is taken."""
    reply = attack(attacker, "large_answer")
    assert (reply.status, reply["error_type"]) == (502, "Function.ResponseSizeTooLarge")


def test_a_head_that_comes_slowly(attacker: Function, victim: Function) -> None:
    """Its connection is closed after two seconds."""
    assert 1 < attack(attacker, "slow_head").json < 10


@pytest.mark.parametrize("name", ["slow_answer", "endless_stream"])
def test_an_answer_that_never_ends(functions_server: Server, victim: Function, name: str) -> None:
    """Ends with the function's timeout, or when it is too large; what has begun is cut off."""
    function = Function(functions_server, "endless", command=["attack.handler"], timeout=6)
    function.call({"attack": "poll_without_a_secret"})
    began, sent = time.monotonic(), 0
    try:
        assert attack(function, name).status in (502, 504)
    except http.client.IncompleteRead as cut:
        sent = len(cut.partial)
    assert sent <= 256 * 1024 * 1024
    assert time.monotonic() - began < 30
    function.delete()


def test_a_header_in_the_content_type(attacker: Function, victim: Function) -> None:
    """No header of the caller's answer is the instance's."""
    reply = attack(attacker, "header_in_content_type")
    assert "X-Forged" not in reply.headers
    assert "Set-Cookie" not in reply.headers
