"""background: a task is kept, its failure is in the log, and none is left after ``close``."""

import asyncio

import pytest
from structlog.testing import capture_logs

from qmaster.background import BackgroundTasks

pytestmark = pytest.mark.gen_test


async def _raises() -> None:
    raise ValueError("no")


async def test_a_failure_is_in_the_log() -> None:
    """With what the task was about; nobody else hears of it."""
    tasks = BackgroundTasks("work_failed")
    with capture_logs() as lines:
        await asyncio.wait([tasks.start(_raises(), function="f")])
        await asyncio.sleep(0)
    ((line),) = lines
    assert (line["event"], line["log_level"], line["function"]) == ("work_failed", "error", "f")
    assert isinstance(line["exc_info"], ValueError)


async def test_close_cancels_and_waits() -> None:
    """Also for what a task does when it is cancelled; that is no failure."""
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("ended")

    tasks = BackgroundTasks("work_failed")
    with capture_logs() as lines:
        task = tasks.start(work())
        await asyncio.sleep(0)
        await tasks.close()
    assert (steps, task.cancelled(), lines) == (["ended"], True, [])
