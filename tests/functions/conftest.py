"""What the tests of functions share: a swarm whose nodes have the images of functions, and a quartermaster on it."""

from pathlib import Path

import pytest
from testbed import Bed, Swarm, lambdas


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
