"""asynchronous.events: the end of each invocation is in the stream once, whatever happens in between."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from asynchronous_cases import ROOT, Desk, desk, fails
from fakes import until
from function_cases import version

from qmaster.events.broker import News
from qmaster.functions.asynchronous.events import InvocationEvents
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.publisher import Publisher

pytestmark = pytest.mark.gen_test(timeout=60)


@asynccontextmanager
async def announcing(here: Desk) -> AsyncIterator[list[News]]:
    """The process has a stream: what is published."""
    news: list[News] = []
    publisher = Publisher(RunCache(), here.journal, news.extend)
    await publisher.restore()
    ends = InvocationEvents(here.store, publisher)
    here.invoker.listeners.append(ends.ended)
    task = asyncio.create_task(ends.run())
    try:
        yield news
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        here.invoker.listeners.remove(ends.ended)


async def stored(here: Desk) -> list[tuple[str, str, str]]:
    """The type, subject and owner of the events in the journal."""
    page = await here.journal.events(0, 100) or []
    return [(event.type, event.subject, event.owner) for event in page]


async def untold(here: Desk) -> int:
    query = "SELECT count(*) FROM invocations WHERE NOT told"
    return int(await here.journal.read(lambda db: db.execute(query).fetchone()[0]))


async def test_ends_are_events(tmp_path: Path) -> None:
    """Completed or failed, with the view but not the output; a cancelled one has none."""
    async with desk(tmp_path) as here, announcing(here) as news:
        called = here.stage.versions.publish(version(retries=0))
        here.stage.launcher.gate.clear()
        cancelled = await here.accept(called)
        await here.invoker.cancel(cancelled, ROOT)
        here.stage.launcher.gate.set()
        here.handler = lambda call: fails(call) if call.owner == "alice" else b'"secret"'
        here.play()
        good, bad = await here.accept(called), await here.accept(called, owner="alice")
        await until(lambda: len(news) == 2)
        assert sorted(await stored(here)) == [
            ("io.qmaster.invocation.completed", good, "root"),
            ("io.qmaster.invocation.failed", bad, "alice"),
        ]
        tags = {one.tags.subject: one.tags for one in news if one.tags}
        assert (tags[bad].topic, tags[bad].owner, tags[bad].function) == ("invocation", "alice", "hello")
        assert b"secret" not in b"".join(one.frame.sse for one in news)
        assert b'"type":"ValueError"' in b"".join(one.frame.sse for one in news)
        assert await untold(here) == 0


async def test_an_end_before_a_crash_is_told_after_it(tmp_path: Path) -> None:
    """Where the process ended between the end and its event; and none is told twice."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        here.play()
        ids = [await here.accept(called) for _ in range(3)]
        for each in ids:
            await here.over(each)
        assert await untold(here) == 3
    for _ in range(2):
        async with desk(tmp_path) as here, announcing(here):
            while await untold(here):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert sorted(subject for _, subject, _ in await stored(here)) == sorted(ids)
