"""Many function calls on three nodes: each is answered with its own result, and under a key none runs twice."""

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import StartServer
from testbed import Bed, Proxy, Reply, Server, Swarm, eventually
from testbed.made import Made

CALLS = 100
CLIENTS = 20
ROUNDS = 30  # of cutting all connections to the engine
WITHIN = 150.0  # seconds that a caller tries
SCRIPT = "echo $0; echo err $0 >&2; exit $1"
AWAY = (OSError, http.client.HTTPException)
AGAIN = (500, 502, 503, 507)  # what a retry under a key may mend

Json = dict[str, Any]
Measured = Callable[[str], None]


@pytest.fixture(scope="module")
def swarm(bed: Bed) -> Iterator[Swarm]:
    """Three nodes of their own: after hundreds of services Swarm is slow for a while."""
    swarm = bed.swarm("calls", "calls-1", "calls-2")
    swarm.form()
    yield swarm
    for node in swarm.nodes:
        node.kill()


def fields(number: int) -> Json:
    """A call that says its number on both streams."""
    command = ["sh", "-c", SCRIPT, str(number), str(number % 7)]
    return {"image": "busybox:local", "command": command, "memory": 8, "wait": 60}


def check(number: int, answer: Reply) -> None:
    """Its own number, and its own exit code."""
    code = number % 7
    assert answer.status == 200, answer.text
    assert answer["status"] == ("failed" if code else "complete")
    assert (answer["exit_code"], answer["result"]["exit_code"]) == (code, code)
    assert (answer["result"]["stdout"], answer["result"]["stderr"]) == (f"{number}\n", f"err {number}\n")


def test_every_caller_gets_its_own_answer(swarm: Swarm, swarm_server: Server, measured: Measured) -> None:
    """100 calls from 20 clients, spread by Swarm over its nodes."""
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda number: swarm_server.run(**fields(number)), range(CALLS)))
    measured(f"{CALLS} calls in {time.monotonic() - began:.1f} s")
    for number, answer in enumerate(answers):
        check(number, answer)
    assert {task["node"] for answer in answers for task in answer["tasks"]} == {node.name for node in swarm.nodes}


def insist(server: Server, number: int) -> Reply:
    """Call under the number's key until there is an answer, as a careful client does."""
    until, last = time.monotonic() + WITHIN, ""
    while True:
        with contextlib.suppress(*AWAY):
            answer = server.run({"Idempotency-Key": f"call-{number}"}, **fields(number))
            if answer.status not in AGAIN and answer.status != 202:
                return answer
            last = f"{answer.status} {answer.text[:300]}"
        assert time.monotonic() < until, f"call {number} was not answered; last: {last}"
        time.sleep(random.uniform(0.1, 0.5))


def break_things(server: Server, proxy: Proxy, stopped: threading.Event) -> int:
    """Cut the engine's connections at random moments, and kill quartermaster once in the middle."""
    cuts = 0
    for number in range(ROUNDS):
        if stopped.wait(random.uniform(0.1, 1.0)):
            break
        cuts += proxy.cut_all()
        if number == ROUNDS // 3:
            server.kill()
            server.start()
    return cuts


@pytest.mark.timeout(400)
def test_under_a_key_nothing_runs_twice(
    bed: Bed, swarm: Swarm, start_server: StartServer, measured: Measured, request: pytest.FixtureRequest
) -> None:
    """Each call sent twice at once, again and again until it is answered, while connections break: one service each."""
    proxy = bed.proxy(swarm.manager)
    request.addfinalizer(proxy.close)
    server = start_server(proxy.host)
    created, stopped, began = Made(swarm.manager), threading.Event(), time.monotonic()
    with created.watching(), ThreadPoolExecutor(2 * CLIENTS + 1) as pool:
        breaking = pool.submit(break_things, server, proxy, stopped)
        answers = [pool.submit(insist, server, number // 2) for number in range(2 * CALLS)]
        try:
            replies = [each.result() for each in answers]
        finally:
            stopped.set()
        eventually(lambda: len(created.ids) >= CALLS, 10, "the engine has told of all")
        cuts = breaking.result()
    measured(f"{2 * CALLS} calls under {CALLS} keys, {cuts} connections cut, {time.monotonic() - began:.1f} s")
    assert len(created.ids) == len(set(created.ids)) == CALLS
    for number, answer in enumerate(replies):
        check(number // 2, answer)
    assert {answer["id"] for answer in replies} == set(created.ids)
