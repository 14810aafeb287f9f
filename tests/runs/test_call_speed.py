"""A function call beside Docker's own steps for the same job, in one run: what quartermaster adds.

``--speed-rounds 15`` is a measurement, the default a look. Bounds are generous: the figures are in the summary.
"""

from collections.abc import Callable

import pytest
from bench.calls import call
from conftest import StartServer
from testbed import Engine

pytestmark = pytest.mark.late

Measured = Callable[[str], None]


@pytest.mark.parametrize("kind", ["service", "container"])
def test_a_call_beside_dockers_own_steps(
    engine: Engine, start_server: StartServer, measured: Measured, request: pytest.FixtureRequest, kind: str
) -> None:
    """Interleaved, medians; far off fails, the reach is in the summary."""
    row = call(engine, start_server(engine.host), kind, int(request.config.getoption("--speed-rounds")))
    measured(f"{row.ours}, Docker's own steps {row.reference}, {row.value:.2f} times (reach {row.reach})")
    assert row.value < 2.5
