"""Functions of a running quartermaster, for the tests that publish and call them."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from testbed import Reply, Server, eventually
from testbed.lambdas import PYTHON

MEMORY = 128


class Function:
    """One function. Its handler is `app.any_of` of the tests' image, unless its spec says otherwise."""

    def __init__(self, server: Server, name: str, **spec: Any) -> None:
        self.server = server
        self.name = name
        self.path = f"/functions/{name}"
        self.publish(**spec)

    def publish(self, **spec: Any) -> Reply:
        fields = {"image": PYTHON, "command": ["app.any_of"], "memory": MEMORY, **spec}
        reply = self.server.call("PUT", self.path, json=fields)
        assert reply.status in (200, 201), reply.text
        return reply

    def call(self, event: Any, headers: Mapping[str, str] | None = None) -> Reply:
        """Its answer, whatever it is."""
        return self.server.call("POST", f"{self.path}/invoke", json=event, headers=headers)

    def echo(self, text: str = "") -> Any:
        """The answer of `app.echo`."""
        reply = self.call({"do": "echo", "text": text})
        assert reply.status == 200, reply.text
        return reply.json

    def echo_reply(self) -> Reply:
        return self.call({"do": "echo"})

    def call_later(self, event: Any) -> "Future[Reply]":
        """The answer of a call that is made in a thread."""
        made: Future[Reply] = Future()

        def call() -> None:
            try:
                made.set_result(self.call(event))
            except OSError as error:
                made.set_exception(error)

        threading.Thread(target=call, daemon=True).start()
        return made

    def show(self) -> Reply:
        reply = self.server.call("GET", self.path)
        assert reply.status == 200, reply.text
        return reply

    def counts(self) -> dict[str, int]:
        """How many instances it has, by state."""
        return dict(self.show()["instances"])

    def wait_warm(self, instances: int = 1) -> None:
        eventually(lambda: self.counts()["idle"] >= instances, 30, f"{instances} are warm; {self.show().text}")

    def runs(self) -> list[Any]:
        """Its instances as runs, those that have ended too."""
        reply = self.server.call("GET", "/status?all=1")
        assert reply.status == 200, reply.text
        return [run for run in reply["services"] if (run["function"] or {}).get("name") == self.name]

    def delete(self) -> None:
        assert self.server.call("DELETE", self.path).status == 200


def timed(call: Callable[[], Reply]) -> tuple[Reply, float]:
    """An answer, and the seconds that it took."""
    began = time.monotonic()
    return call(), time.monotonic() - began


def all_called(function: Function, calls: int, clients: int, meanwhile: Callable[[], None]) -> list[Reply]:
    """Make so many calls of `app.echo` from so many threads while something else happens; their answers."""

    def one(number: int) -> Reply:
        return function.call({"do": "echo", "text": f"call {number}"})

    with ThreadPoolExecutor(clients) as pool:
        answers = [pool.submit(one, number) for number in range(calls)]
        meanwhile()
        return [answer.result() for answer in answers]


def own(replies: list[Reply]) -> bool:
    """Whether each of `all_called` got the answer to its own call."""
    texts = [json.loads(reply.text)["event"]["text"] for reply in replies if reply.status == 200]
    return texts == [f"call {number}" for number in range(len(replies))]
