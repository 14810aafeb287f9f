"""What the tests of functions share: a swarm whose nodes have the images of functions, and a quartermaster on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed import Bed, Server, Swarm, eventually, lambdas
from testbed.tidy import tidy


@pytest.fixture(scope="session")
def functions_swarm(bed: Bed, bridged_swarm: Swarm) -> Swarm:
    """`bridged_swarm`, with the images `lambdas.PYTHON` and `lambdas.SHELL` on each node."""
    for make in (lambdas.python, lambdas.shell):
        put_on(bridged_swarm, make(bed.root))
    return bridged_swarm


@pytest.fixture(scope="session")
def node_swarm(bed: Bed, functions_swarm: Swarm) -> Swarm:
    """The same, with `lambdas.NODE` too."""
    put_on(functions_swarm, lambdas.node(bed.root))
    return functions_swarm


def put_on(swarm: Swarm, archive: Path) -> None:
    lambdas.load(archive, swarm.nodes)
    archive.unlink()


@pytest.fixture(scope="module")
def functions_server(bed: Bed, functions_swarm: Swarm) -> Iterator[Server]:
    """A quartermaster on the manager of `functions_swarm`, which the tests of a file share; it is ready."""
    server = bed.server(functions_swarm.manager.host, bed.runtime())
    server.start()
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    yield server
    assert server.failures() == []
    server.kill()
    tidy(functions_swarm.manager, functions_swarm.nodes)
