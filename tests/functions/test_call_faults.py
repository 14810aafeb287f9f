"""What callers get when nodes, engines and quartermasters fail under their calls, and that nothing runs twice."""

from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from called import Function, timed
from conftest import StartServer
from testbed import Bed, Reply, Server, Swarm, eventually

pytestmark = pytest.mark.patient

AWAY = "node.hostname==b-worker-1"


@pytest.fixture
def server(bed: Bed, functions_swarm: Swarm, clean_bridged_swarm: Swarm) -> Iterator[Server]:
    """A quartermaster of the test's own, on the manager."""
    server = bed.server(functions_swarm.manager.host, bed.runtime())
    start(server)
    yield server
    server.kill()


def start(server: Server) -> None:
    server.start()
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")


def on_worker(server: Server, name: str = "far", **spec: object) -> Function:
    """A function whose instances run on the first worker."""
    return Function(server, name, constraints=[AWAY], **{"timeout": 60, **spec})


def begin(function: Function, seconds: float) -> "Future[Reply]":
    function.echo()
    call = function.call_later({"do": "sleep", "seconds": seconds})
    eventually(lambda: function.counts()["busy"] == 1, 10, "it runs")
    return call


def test_a_killed_engine_on_the_way_of_a_call(server: Server, functions_swarm: Swarm) -> None:
    """The container lives on, and so does the call: it is answered."""
    function = on_worker(server)
    call = begin(function, 3)
    functions_swarm.workers[0].kill()
    assert call.result(120).status == 200
    functions_swarm.workers[0].start()
    assert function.echo()


def test_a_cut_node_with_a_call(server: Server, functions_swarm: Swarm) -> None:
    """The caller is told within the function's timeout; when the node is back, calls are answered again."""
    function = on_worker(server, timeout=20)
    call = begin(function, 600)
    functions_swarm.workers[0].cut_off()
    reply, seconds = timed(lambda: call.result(300))
    assert (reply.status, reply["reason"]) in ((502, "instance_died"), (504, "timeout"))
    assert seconds < 60
    functions_swarm.workers[0].bring_back()
    eventually(lambda: function.call({"do": "echo"}).status == 200, 60, "calls are answered", every=0.5)


def test_a_killed_quartermaster(server: Server) -> None:
    """The connection of its caller is lost; the next process answers calls, and nothing runs twice."""
    function = on_worker(server)
    function.echo()
    call = function.call_later({"do": "tell", "seconds": 3})
    eventually(lambda: function.counts()["busy"] == 1, 10, "it runs")
    server.kill()
    assert isinstance(call.exception(60), OSError)
    start(server)
    assert function.echo()
    logs = [server.call("GET", f"/logs/{run['id']}").text for run in function.runs()]
    assert sum(text.count("-") for text in logs) == 4  # one id


def test_a_stopped_quartermaster(server: Server) -> None:
    """SIGTERM lets the call finish; calls of the next process are answered, if need be by another instance."""
    function = on_worker(server)
    call = begin(function, 2)
    assert server.terminate() == 0
    assert call.result(60).status == 200
    start(server)
    assert function.echo()


def test_two_quartermasters(bed: Bed, server: Server, functions_swarm: Swarm, start_server: StartServer) -> None:
    """Published at one, called at both, each with instances of its own; the first one lost, the other goes on."""
    functions_swarm.promote(*functions_swarm.workers)
    other = start_server(functions_swarm.workers[0].host, *bed.runtime(), TOKEN=server.token)
    eventually(lambda: other.call("GET", "/readyz").status == 200, 20, "it is ready")
    here = Function(server, "both")
    eventually(lambda: other.call("GET", "/functions/both").status == 200, 10, "the other one knows it")
    there = Function(other, "both")
    assert there.show()["version"] == 1
    assert here.echo()["host"] != there.echo()["host"]
    there.publish(env={"NUMBER": "2"})
    eventually(lambda: here.call({"do": "echo"}).headers["Qmaster-Version"] == "2", 10, "it calls the new one")
    server.kill()
    assert there.echo()["host"]
    there.delete()
    start(server)
    assert server.call("GET", "/functions/both").status == 404
