"""asynchronous.invoker: accepted calls are on disk, attempted until one succeeds or none is left, and kept."""

import asyncio
import sqlite3
import time
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from asynchronous_cases import ALICE, ROOT, Desk, desk, fails
from fakes import grant, until
from function_cases import version
from testbed.wait import BUSY

from qmaster.auth.authenticator import Identity
from qmaster.errors import (
    BadRequest,
    CannotStart,
    Conflict,
    FunctionFailed,
    JournalFull,
    JournalUnwritable,
    KeyReused,
    NotFound,
    QueueFull,
)
from qmaster.functions.asynchronous import attempts, invoker, store
from qmaster.functions.asynchronous.ids import IdSource, address_of
from qmaster.functions.asynchronous.row import OVERHEAD, Content, Row
from qmaster.functions.instances.instance import Instance
from qmaster.functions.instances.launcher import Found
from qmaster.functions.invocations.invocation import Call, Invocation
from qmaster.models.functions import Version
from qmaster.models.invocations import InvocationView

pytestmark = pytest.mark.gen_test(timeout=60)


async def test_an_accepted_call_is_made_and_its_output_kept(tmp_path: Path) -> None:
    """It is queued first, then an instance gets it with its id, and the answer is shown."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        order = here.order(called, b'{"a": 1}', trace_id="Root=1", tick="then")
        assert await here.invoker.accept(called, order) == (order.id, "queued")
        view = await here.invoker.get(order.id, ROOT)
        assert (view.status, view.function, view.version, view.attempts) == ("queued", "hello", 1, [])
        here.play()
        ended = await here.over(view.id)
        assert (ended.status, bytes(ended.output), ended.error) == ("succeeded", b'{"a": 1}', None)
        assert (ended.scheduled_at, ended.owner) == ("then", "root")
        [attempt] = ended.attempts
        assert (attempt.instance, attempt.error) == ("run-1", None)
        assert ended.started_at == attempt.started_at
        assert ended.created_at <= attempt.started_at <= (attempt.ended_at or "") <= (ended.ended_at or "")
        [call] = here.handled
        assert (call.id, call.payload, call.trace_id) == (view.id, b'{"a": 1}', "Root=1")
        assert [each.id for each in here.ends] == [view.id]


async def test_accepted_survives_a_power_failure(tmp_path: Path) -> None:
    """The commit of an accepted call waits for the disk."""
    async with desk(tmp_path) as here:
        called, seen = here.stage.versions.publish(version()), []

        def note(db: sqlite3.Connection) -> None:
            seen.append(db.execute("PRAGMA synchronous").fetchone()[0])

        await here.invoker.accept(called, here.order(called), note)
        assert seen == [2], "FULL"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"a":[1,2]}', {"output": {"a": [1, 2]}}),
        (b"plain", {"output": "plain"}),
        (b'{"a":NaN}', {"output": '{"a":NaN}'}),
        (b"", {"output": ""}),
        (b"\xff\x00", {"output_base64": "/wA="}),
        (b"[" * 50_000 + b"]" * 50_000, {"output": "[" * 50_000 + "]" * 50_000}),
    ],
    ids=["json", "text", "nan", "empty", "binary", "deep"],
)
async def test_an_output_is_json_or_text_or_base64(tmp_path: Path, body: bytes, shown: dict[str, Any]) -> None:
    """Whatever it is, the view of it is JSON."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        here.handler = lambda call: body
        here.play()
        view = await here.over(await here.accept(called))
        told = msgspec.json.decode(msgspec.json.encode(view))
        assert {name: told[name] for name in ("output", "output_base64") if name in told} == shown


async def test_a_function_that_fails_twice_and_then_works(tmp_path: Path) -> None:
    """Three attempts under one id, with the time and the error of each, and growing pauses between them."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retry_delay=0.2))

        def third_time(call: Call) -> bytes:
            return fails(call) if len(here.handled) < 3 else b'"done"'

        here.handler = third_time
        here.play()
        view = await here.over(await here.accept(called))
        assert (view.status, bytes(view.output)) == ("succeeded", b'"done"')
        assert [each.error and each.error.type for each in view.attempts] == ["ValueError", "ValueError", None]
        assert {each.id for each in here.handled} == {view.id}
        ends, starts = [each.ended_at or "" for each in view.attempts], [each.started_at for each in view.attempts]
        assert ends[0] < starts[1] < ends[1] < starts[2]
        assert _seconds(starts[1]) - _seconds(ends[0]) >= 0.19
        assert _seconds(starts[2]) - _seconds(ends[1]) >= 0.39


async def test_a_function_that_always_fails_is_dead(tmp_path: Path) -> None:
    """After its retries, with the error of the last attempt and the stack."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=1, retry_delay=0.1))
        here.handler = fails
        here.play()
        view = await here.over(await here.accept(called))
        assert (view.status, len(view.attempts), len(here.handled)) == ("dead", 2, 2)
        assert view.error is not None
        assert (view.error.type, view.error.message, view.error.stack) == ("ValueError", "no", ["line 1"])


async def test_no_retries(tmp_path: Path) -> None:
    """The first failure is the last."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0))
        here.handler = fails
        here.play()
        assert len((await here.over(await here.accept(called))).attempts) == 1


async def test_too_large_an_output_is_dead_at_once(tmp_path: Path) -> None:
    """Trying again would not make it smaller."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retry_delay=0.1))
        here.handler = lambda call: b'"' + b"x" * attempts.MAX_OUTPUT + b'"'
        here.play()
        view = await here.over(await here.accept(called))
        assert (view.status, len(view.attempts)) == ("dead", 1)
        assert view.error is not None
        assert view.error.type == "Function.ResponseSizeTooLarge"


async def test_a_call_whose_instance_dies_is_made_again(tmp_path: Path) -> None:
    """It may have had effects: asynchronous calls run at least once."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retry_delay=0.1))
        here.gate.clear()
        here.play()
        invocation_id = await here.accept(called)
        await here.handles(1)
        instance = await here.stage.instance()
        here.stage.life.kill(instance, "node_down")
        here.gate.set()
        view = await here.over(invocation_id)
        assert view.status == "succeeded"
        assert [each.error and each.error.type for each in view.attempts] == ["Runtime.ExitError", None]


async def test_a_call_that_takes_too_long_is_made_again(tmp_path: Path) -> None:
    """Its instance is killed at the timeout."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(timeout=0.2, retry_delay=0.1, retries=1))
        here.gate.clear()
        here.play()
        view = await here.over(await here.accept(called))
        assert view.status == "dead"
        assert [each.error and each.error.type for each in view.attempts] == ["Sandbox.Timedout"] * 2


@pytest.mark.slow
async def test_an_instance_that_cannot_start_is_no_attempt(tmp_path: Path) -> None:
    """The call waits, and is made once an instance starts."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        here.stage.launcher.refusal = CannotStart("no such image", "image_not_found", 1)
        invocation_id = await here.accept(called)
        await until(lambda: len(here.stage.launcher.begun) >= 2)
        assert (await here.invoker.get(invocation_id, ROOT)).attempts == []
        here.stage.launcher.refusal = None
        here.play()
        assert len((await here.over(invocation_id)).attempts) == 1


async def test_the_next_version_is_tried_at_once(tmp_path: Path) -> None:
    """Although the last one could not start, and its next start is minutes away."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        here.stage.launcher.refusal = CannotStart("no such image", "image_not_found", 1)
        invocation_id = await here.accept(called)
        await until(lambda: here.stage.launcher.begun)
        await here.stage.settle()
        [line] = here.invoker._backlog.lines.values()
        line.refuse(asyncio.get_running_loop().time() + 300, "image_not_found")
        here.stage.launcher.refusal = None
        here.play()
        here.stage.versions.publish(version("hello", 2))
        assert (await here.over(invocation_id)).version == 2


@pytest.mark.slow
async def test_what_waits_longer_than_max_age_is_dead(tmp_path: Path) -> None:
    """With the reason why nothing could start, and without an attempt."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(max_age=1))
        here.stage.launcher.refusal = CannotStart("no such image", "image_not_found", 1)
        view = await here.over(await here.accept(called))
        assert (view.status, view.attempts) == ("dead", [])
        assert view.error is not None
        assert view.error.type == "MaxAgeExceeded"
        assert "image_not_found" in view.error.message


@pytest.mark.slow
async def test_what_is_too_old_is_dead_although_no_instance_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for now and then."""
    monkeypatch.setattr(attempts, "EXPIRE_EVERY", 0.1)
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(max_instances=1, max_age=1))
        here.gate.clear()
        here.play()
        running, waiting = await here.accept(called), await here.accept(called)
        await here.handles(1)
        assert (await here.over(waiting)).status == "dead"
        here.gate.set()
        assert (await here.over(running)).status == "succeeded"


async def test_no_retry_begins_after_max_age(tmp_path: Path) -> None:
    """The last error is shown at once, not hours later."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(max_age=30, retry_delay=60))
        here.handler = fails
        here.play()
        view = await here.over(await here.accept(called))
        assert (view.status, view.error and view.error.type) == ("dead", "ValueError")


async def test_the_queue_is_bounded(tmp_path: Path) -> None:
    """Beyond ``queue`` 429 with Retry-After, and nothing was accepted."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(queue=2))
        for _ in range(2):
            await here.accept(called)
        with pytest.raises(QueueFull) as refused:
            await here.accept(called)
        assert "Retry-After" in refused.value.headers
        assert len((await here.invoker.listing(ROOT, None, None, 10, None))[0]) == 2
        here.play()
        await here.handles(2)
        await until(lambda: not here.invoker.queued())
        await here.accept(called)


async def test_without_a_queue_there_are_no_asynchronous_calls(tmp_path: Path) -> None:
    """Although instances are free, as each call waits on disk first; the error says so."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(queue=0))
        with pytest.raises(QueueFull, match="'hello' has queue 0, so it takes no asynchronous calls"):
            await here.accept(called)


async def test_the_bytes_that_wait_are_bounded(tmp_path: Path) -> None:
    """507 beyond the room; a limited token has at most half of it. A row counts, and all that the caller sent."""
    async with desk(tmp_path, room=2 * (500 + OVERHEAD)) as here:
        called = here.stage.versions.publish(version())
        for fields in ({"trace_id": "x" * 500}, {"client_context": "x" * 500}):
            with pytest.raises(JournalFull):
                await here.accept(called, b"x", "alice", **fields)
        await here.accept(called, b"x" * 500, "alice")
        with pytest.raises(JournalFull):
            await here.accept(called, b"x", "alice")
        await here.accept(called, b"x" * 500, "root")
        with pytest.raises(JournalFull):
            await here.accept(called, b"x", "root")
        here.play()
        await until(lambda: len(here.ends) == 2)
        await here.accept(called, b"x" * 500, "alice")


async def test_what_is_over_keeps_nothing_of_its_call(tmp_path: Path) -> None:
    """Neither the payload nor the headers, whose bytes no longer count; they would be kept for a month."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        fields: dict[str, Any] = {"trace_id": "t", "client_context": "{}"}
        here.play()
        await here.over(await here.accept(called, **fields))
        here.gate.clear()
        await here.invoker.cancel(await here.accept(called, **fields), ROOT)
        query = "SELECT payload, client_context, trace_id FROM invocations"
        kept = await here.journal.read(lambda db: db.execute(query).fetchall())
        assert kept == [(None, None, None)] * 2


async def test_the_next_token_always_has_room(tmp_path: Path) -> None:
    """However many tokens wait with as much as they may, one that comes later can have some of the rest."""
    async with desk(tmp_path, room=64 * (500 + OVERHEAD)) as here:
        called = here.stage.versions.publish(version())
        for owner, share in (("alice", 32), ("bob", 16), ("carol", 8), ("dave", 4)):
            for _ in range(share):
                await here.accept(called, b"x" * 500, owner)
            with pytest.raises(JournalFull):
                await here.accept(called, b"x" * 500, owner)


async def test_owners_are_served_in_turn(tmp_path: Path) -> None:
    """One that has accepted a hundred calls lets another's pass after the next."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(max_instances=1))
        here.gate.clear()
        here.play()
        for _ in range(20):
            await here.accept(called, owner="alice")
        await here.handles(1)
        for owner in ("bob", "carol"):
            await here.accept(called, owner=owner)
        here.gate.set()
        await here.handles(22)
        assert {"bob", "carol"} <= {call.owner for call in here.handled[:5]}


async def test_no_more_in_flight_than_instances_take(tmp_path: Path) -> None:
    """So a synchronous call waits behind none of those that are queued."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(max_instances=2, concurrency=1))
        here.gate.clear()
        here.play()
        for _ in range(10):
            await here.accept(called)
        await here.handles(2)
        await here.stage.settle()
        assert (here.stage.dispatcher.stats("hello").queued, here.invoker.held_back("hello")) == (0, 8)
        calling = here.stage.invoke(called, b'"sync"')
        await here.stage.settle()
        here.gate.set()
        await calling
        assert b'"sync"' in [call.payload for call in here.handled[:5]]


async def test_few_wait_in_memory_for_an_instance(tmp_path: Path) -> None:
    """However many may run: what has no instance yet stays on disk."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(max_instances=2, concurrency=100, queue=1000))
        here.stage.launcher.gate.clear()
        ids = [await here.accept(called) for _ in range(300)]
        await until(lambda: here.stage.dispatcher.stats("hello").queued == attempts.MAX_WAITING)
        await here.stage.settle()
        [line] = here.invoker._backlog.lines.values()
        assert len(line.in_hand) == attempts.MAX_WAITING
        here.gate.clear()
        here.stage.launcher.gate.set()
        instance = await here.stage.instance()
        serving = [asyncio.create_task(here.serve_always(instance)) for _ in range(100)]
        await here.handles(100)  # as many as it takes at once
        here.gate.set()
        for each in ids:
            assert (await here.over(each)).status == "succeeded"
        for task in serving:
            task.cancel()


async def test_the_synchronous_queue_has_its_own_room(tmp_path: Path) -> None:
    """Asynchronous calls that wait for an instance do not count to it."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(queue=2))
        here.stage.launcher.gate.clear()
        for _ in range(2):
            await here.accept(called)
        await until(lambda: here.stage.dispatcher.stats("hello").queued == 2)
        assert here.invoker.held_back("hello") == 0
        calling = here.stage.invoke(called)
        await here.stage.settle()
        assert not calling.done()
        here.stage.launcher.gate.set()
        here.play()
        await calling


async def test_a_key_is_accepted_once(tmp_path: Path) -> None:
    """The second time is the first invocation; another payload is an error."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        first = await here.accept(called, b"1", key="k")
        assert await here.accept(called, b"1", key="k") == first
        with pytest.raises(KeyReused):
            await here.accept(called, b"2", key="k")
        here.play()
        await here.over(first)
        assert await here.accept(called, b"1", key="k") == first
        assert len(here.handled) == 1
        assert here.invoker.queued() == {}


async def test_a_key_is_replayed_though_the_queue_is_full(tmp_path: Path) -> None:
    """The call has its place already; a new one has none."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(queue=1))
        first = await here.accept(called, b"1", key="k")
        assert await here.accept(called, b"1", key="k") == first
        with pytest.raises(KeyReused):
            await here.accept(called, b"2", key="k")
        for key in ("another", None):
            with pytest.raises(QueueFull):
                await here.accept(called, b"1", key=key)
        assert here.invoker.queued() == {"hello": 1}


async def test_what_is_written_with_it(tmp_path: Path) -> None:
    """``also`` and ``at_end`` are in the transactions of the acceptance and of the end."""
    async with desk(tmp_path) as here:
        await here.journal.write(lambda db: db.execute("CREATE TABLE notes (note TEXT)"))
        here.invoker.at_end = lambda view, spec: (
            lambda db: db.execute("INSERT INTO notes VALUES (?)", (f"{view.status} {spec.image}",))
        )
        called = here.stage.versions.publish(version())
        order = here.order(called)
        await here.invoker.accept(called, order, lambda db: db.execute("INSERT INTO notes VALUES ('accepted')"))
        here.play()
        await here.over(order.id)
        notes = await here.journal.read(lambda db: db.execute("SELECT note FROM notes").fetchall())
        assert notes == [("accepted",), ("succeeded busybox",)]


async def test_who_sees_an_invocation(tmp_path: Path) -> None:
    """Its owner and the root token."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        of_root, of_alice = await here.accept(called), await here.accept(called, owner="alice")
        assert (await here.invoker.get(of_alice, ALICE)).id == of_alice
        for ask in (here.invoker.get, here.invoker.cancel, here.invoker.redrive):
            with pytest.raises(NotFound):
                await ask(of_root, ALICE)
        assert [view.id for view in (await here.invoker.listing(ALICE, None, None, 10, None))[0]] == [of_alice]
        assert [view.id for view in (await here.invoker.listing(ROOT, None, None, 10, None))[0]] == [of_alice, of_root]


async def test_a_listing_has_pages_and_filters(tmp_path: Path) -> None:
    """The newest first, each once."""
    async with desk(tmp_path) as here:
        hello, other = here.stage.versions.publish(version()), here.stage.versions.publish(version("other"))
        ids = [await here.accept(hello if n % 2 else other) for n in range(7)]
        await here.invoker.cancel(ids[0], ROOT)
        seen, page = [], None
        while True:
            views, page = await here.invoker.listing(ROOT, None, None, 3, page)
            seen += [view.id for view in views]
            if page is None:
                break
        assert seen == ids[::-1]
        assert [view.id for view in (await here.invoker.listing(ROOT, "hello", None, 10, None))[0]] == ids[5::-2]
        assert [view.id for view in (await here.invoker.listing(ROOT, None, "cancelled", 10, None))[0]] == ids[:1]
        assert (await here.invoker.listing(ROOT, "hello", "cancelled", 10, None)) == ([], None)
        with pytest.raises(BadRequest, match="page"):
            await here.invoker.listing(ROOT, None, None, 10, "x")


async def test_a_page_of_a_listing_has_a_size(tmp_path: Path) -> None:
    """Large stacks make it shorter; the next ones have the rest."""

    def fails_long(call: Call) -> bytes:
        raise FunctionFailed("ValueError", "no", ["x" * 1000] * 100)

    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0))
        here.handler = fails_long
        here.play()
        ids = [await here.accept(called) for _ in range(25)]
        for each in ids:
            assert (await here.over(each)).status == "dead"
        found: list[str] = []
        page = None
        while page is not None or not found:
            views, page = await here.invoker.listing(ROOT, None, None, 1000, page)
            assert len(views) <= 12
            found += [view.id for view in views]
        assert found == ids[::-1]


async def test_a_dead_one_is_tried_again(tmp_path: Path) -> None:
    """With its payload and all its retries; its attempts stay. Any other is a conflict."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0))
        here.handler = fails
        here.play()
        invocation_id = await here.accept(called, b'"again"')
        before = sum(here.invoker._backlog._bytes.values())
        await here.over(invocation_id)
        here.handler = lambda call: call.payload
        here.gate.clear()
        assert (await here.invoker.redrive(invocation_id, ROOT)).status == "queued"
        assert sum(here.invoker._backlog._bytes.values()) == before
        here.gate.set()
        view = await here.over(invocation_id)
        assert (view.status, bytes(view.output), len(view.attempts), view.error) == ("succeeded", b'"again"', 2, None)
        with pytest.raises(Conflict):
            await here.invoker.redrive(invocation_id, ROOT)


async def test_a_dead_one_is_tried_again_only_by_who_may_call(tmp_path: Path) -> None:
    """A token whose functions have changed since keeps what it has called, and calls nothing more."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0))
        here.handler = fails
        here.play()
        invocation_id = await here.accept(called, owner="alice")
        await here.over(invocation_id)
        without = Identity("alice", grant("alice", functions=("other-*",)))
        with pytest.raises(NotFound):
            await here.invoker.redrive(invocation_id, without)
        assert (await here.invoker.get(invocation_id, without)).status == "dead"
        assert (await here.invoker.redrive(invocation_id, ALICE)).status == "queued"


async def dead(here: Desk, called: Version, count: int, owner: str = "root", **fields: Any) -> list[str]:
    """Accept so many calls, and return their ids once they are dead."""
    here.handler = fails
    ids = [await here.accept(called, owner=owner, **fields) for _ in range(count)]
    for each in ids:
        assert (await here.over(each)).status == "dead"
    return ids


async def all_steps(here: Desk, by: Identity = ROOT) -> list[int]:
    """Redrive what is dead of ``hello``, and return how many calls each step has queued again."""
    steps: list[int] = []
    page: str | None = None
    while page is not None or not steps:
        count, page = await here.invoker.redrive_all("hello", page, by)
        steps.append(count)
    return steps


async def test_all_dead_ones_are_tried_again_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one function, the oldest first; one that dies again is in no later step."""
    monkeypatch.setattr(invoker, "REDRIVEN_AT_ONCE", 2)
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0, max_instances=1))
        other = here.stage.versions.publish(version("other", retries=0))
        here.play()
        first, ids = await dead(here, called, 1), await dead(here, other, 1)
        ids += await dead(here, called, 4)
        del here.handled[:]
        count, page = await here.invoker.redrive_all("hello", None, ROOT)
        await until(lambda: len(here.handled) == count == 2)
        await here.over(first[0])
        counts = [2]
        while page is not None:
            count, page = await here.invoker.redrive_all("hello", page, ROOT)
            counts.append(count)
        assert counts == [2, 2, 1]
        await until(lambda: len(here.handled) == 5)
        assert [call.id for call in here.handled] == [*first, *ids[1:]]
        for each in [*first, *ids]:
            view = await here.over(each)
            assert (view.status, len(view.attempts)) == ("dead", 1 if each == ids[0] else 2)


async def test_a_full_queue_ends_a_step(tmp_path: Path) -> None:
    """What has found no room stays dead, and the next step begins there; with no room at all it is refused."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0, max_instances=1, queue=3))
        here.play()
        ids = await dead(here, called, 3)
        ids += await dead(here, called, 1)
        here.handler = lambda call: call.payload
        here.gate.clear()
        del here.handled[:]
        running = await here.accept(called)
        await here.handles(1)
        count, page = await here.invoker.redrive_all("hello", None, ROOT)
        assert (count, here.invoker.queued()) == (3, {"hello": 3})
        with pytest.raises(QueueFull):
            await here.invoker.redrive_all("hello", page, ROOT)
        assert (await here.invoker.get(ids[3], ROOT)).status == "dead"
        here.gate.set()
        for each in (running, *ids[:3]):
            assert (await here.over(each)).status == "succeeded"
        assert await here.invoker.redrive_all("hello", page, ROOT) == (1, None)
        assert (await here.over(ids[3])).status == "succeeded"
        assert (here.invoker.queued(), here.invoker._backlog._bytes.total()) == ({}, 0)


async def test_a_step_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the journal writes each payload again."""
    monkeypatch.setattr(store, "MAX_REVIVED", 250_000)
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0))
        here.play()
        await dead(here, called, 5, payload=b'"' + b"x" * 100_000 + b'"')
        assert await all_steps(here) == [3, 2]


async def test_who_redrives_all(tmp_path: Path) -> None:
    """A token redrives its own, of functions that it may call; the root token everyone's."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0))
        here.play()
        mine, others = await dead(here, called, 1, "alice"), await dead(here, called, 1, "bob")
        here.handler = lambda call: call.payload
        with pytest.raises(NotFound):
            await here.invoker.redrive_all("hello", None, Identity("alice", grant("alice", functions=("other-*",))))
        with pytest.raises(NotFound):
            await here.invoker.redrive_all("absent", None, ROOT)
        assert await all_steps(here, ALICE) == [1]
        assert (await here.over(mine[0])).status == "succeeded"
        assert (await here.invoker.get(others[0], ROOT)).status == "dead"
        assert await all_steps(here) == [1]
        assert await all_steps(here) == [0]


async def test_an_owner_whose_share_is_full_holds_up_no_other(tmp_path: Path) -> None:
    """Where the root token redrives everyone's. With none queued again it is refused."""
    async with desk(tmp_path, room=8 * (500 + OVERHEAD)) as here:
        called = here.stage.versions.publish(version(retries=0, max_instances=1))
        here.play()
        [mine] = await dead(here, called, 1, "alice", payload=b"x" * 500)
        others = await dead(here, called, 2, "bob", payload=b"x" * 500)
        here.handler = lambda call: call.payload
        here.gate.clear()
        del here.handled[:]
        await here.accept(called, b"x", "root")
        await here.handles(1)
        for _ in range(3):
            await here.accept(called, b"x" * 500, "alice")
        assert await here.invoker.redrive_all("hello", None, ROOT) == (2, None)
        for by in (ROOT, ALICE):
            with pytest.raises(JournalFull):
                await here.invoker.redrive_all("hello", None, by)
        assert (await here.invoker.get(mine, ROOT)).status == "dead"
        here.gate.set()
        for each in others:
            assert (await here.over(each)).status == "succeeded"
        await until(lambda: here.invoker.queued() == {})
        assert await here.invoker.redrive_all("hello", None, ROOT) == (1, None)


@pytest.mark.parametrize("by", [ROOT, ALICE], ids=["root", "alice"])
async def test_a_step_looks_at_a_part_of_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Identity
) -> None:
    """However many calls of others are dead, or of its own are over."""
    monkeypatch.setattr(store, "SCANNED", 3)
    async with desk(tmp_path) as here:
        called, other = (here.stage.versions.publish(version(name, retries=0)) for name in ("hello", "other"))
        here.play()
        await dead(here, called, 5, "bob")
        await dead(here, other, 2, "alice")
        await dead(here, called, 2, "alice")
        assert await all_steps(here, by) == ([3, 2, 2, 0] if by is ROOT else [1, 1])


async def test_one_whose_version_is_gone_stays_dead(tmp_path: Path) -> None:
    """The others are tried again."""
    async with desk(tmp_path) as here:
        first = here.stage.versions.publish(version(retries=0))
        here.play()
        [named], [newest] = await dead(here, first, 1, qualifier=1), await dead(here, first, 1)
        here.stage.versions.publish(version("hello", 2))
        here.stage.versions.drop("hello", 1)
        here.handler = lambda call: call.payload
        assert await all_steps(here) == [1]
        assert (await here.over(newest)).status == "succeeded"
        assert (await here.invoker.get(named, ROOT)).status == "dead"


async def test_a_redrive_that_is_not_written_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay dead."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0))
        here.play()
        ids = await dead(here, called, 2)

        async def fail(*args: object, **options: object) -> None:
            raise JournalUnwritable("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(here.journal, "write", fail)
            with pytest.raises(JournalUnwritable):
                await here.invoker.redrive_all("hello", None, ROOT)
        assert (here.invoker.queued(), here.invoker._backlog._bytes.total()) == ({}, 0)
        assert (await here.invoker.get(ids[0], ROOT)).status == "dead"


async def test_one_that_waits_is_cancelled(tmp_path: Path) -> None:
    """No instance gets it; again is a success, and one that runs a conflict."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(max_instances=1))
        here.gate.clear()
        here.play()
        running, waiting = await here.accept(called), await here.accept(called)
        await here.handles(1)
        for _ in range(2):
            assert (await here.invoker.cancel(waiting, ROOT)).status == "cancelled"
        with pytest.raises(Conflict):
            await here.invoker.cancel(running, ROOT)
        here.gate.set()
        await here.over(running)
        assert [call.id for call in here.handled] == [running]
        assert here.invoker.queued() == {}


async def test_one_that_waits_for_an_instance_is_cancelled(tmp_path: Path) -> None:
    """Also where the dispatcher has it already."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        here.stage.launcher.gate.clear()
        invocation_id = await here.accept(called)
        await until(lambda: here.stage.dispatcher.stats("hello").queued == 1)
        await here.invoker.cancel(invocation_id, ROOT)
        await until(lambda: here.stage.dispatcher.stats("hello").queued == 0)
        here.stage.launcher.gate.set()
        here.play()
        await here.over(await here.accept(called))
        assert len(here.handled) == 1


async def test_the_newest_version_is_called_or_the_one_that_is_named(tmp_path: Path) -> None:
    """At each attempt; a version that is no longer kept makes the call dead."""
    async with desk(tmp_path) as here:
        first = here.stage.versions.publish(version(min_instances=0))
        here.stage.launcher.gate.clear()
        newest, named = await here.accept(first), await here.accept(first, qualifier=1)
        lost = await here.accept(first, qualifier=7)
        assert (await here.over(lost)).status == "dead"
        await here.invoker.cancel(newest, ROOT)
        here.stage.versions.publish(version("hello", 2))
        newest = await here.accept(first)
        here.stage.launcher.gate.set()
        here.play()
        assert (await here.over(newest)).version == 2
        assert (await here.over(named)).version == 1


async def test_a_removed_function_cancels_what_waits(tmp_path: Path) -> None:
    """Those that the dispatcher has too, and those that wait for a retry; what runs goes on."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(max_instances=2, retry_delay=600))
        here.handler = fails
        here.play()
        retried = await here.accept(called)
        await here.handles(1)
        await here.reaches(retried, "queued")
        here.handler = lambda call: b"1"
        here.gate.clear()
        running = [await here.accept(called) for _ in range(2)]
        await here.handles(3)  # both instances have a call now, and ask for no other before its end
        waiting = [await here.accept(called) for _ in range(3)]
        here.stage.versions.drop("hello")
        for each in [retried, *waiting]:
            assert (await here.over(each)).status == "cancelled"
        here.gate.set()
        for each in running:
            assert (await here.over(each)).status == "succeeded"
        assert here.invoker.queued() == {}
        assert len(here.handled) == 3


async def test_waiting_for_an_end_has_a_limit(tmp_path: Path) -> None:
    """The time that was asked for, and the caller's connection."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        here.stage.launcher.gate.clear()
        invocation_id = await here.accept(called)
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert (await here.invoker.when_over(invocation_id, 0.05, left, ROOT)).status == "queued"
        waiting = asyncio.create_task(here.invoker.when_over(invocation_id, 60, left, ROOT))
        await here.stage.settle()
        left.set_result(None)
        assert (await waiting).status == "queued"
        with pytest.raises(NotFound):
            await here.invoker.when_over("x", 60, left, ROOT)


async def test_a_stop_ends_the_waits(tmp_path: Path) -> None:
    """At once, and those that come later: callers must not hold up the end of quartermaster."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version())
        here.stage.launcher.gate.clear()
        invocation_id = await here.accept(called)
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(here.invoker.when_over(invocation_id, 3600, left, ROOT))
        await here.stage.settle()
        here.invoker.stop()
        async with asyncio.timeout(20):
            assert (await waiting).status == "queued"
            assert (await here.invoker.when_over(invocation_id, 3600, left, ROOT)).status == "queued"


async def test_an_id_tells_where_the_invocation_is(tmp_path: Path) -> None:
    """It is a UUID; the error for another quartermaster's names its address."""
    ids = IdSource()
    made = ids.new(("10.0.0.5", 9091))
    assert (uuid.UUID(made).version, uuid.UUID(made).variant, str(uuid.UUID(made))) == (8, uuid.RFC_4122, made)
    assert address_of(made) == "10.0.0.5"
    assert address_of(ids.new(None)) is None
    assert address_of("nothing") is None
    async with desk(tmp_path) as here:
        with pytest.raises(NotFound, match=r"the quartermaster at 10\.0\.0\.5 has it"):
            await here.invoker.get(made, ROOT)


async def test_ids_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of one moment, and while the clock is set back; those of two quartermasters differ all the same."""
    ids, others = IdSource(), IdSource()
    moments = [time.time_ns() + seconds * 10**9 for seconds in (0, 0, 0, 10, -10, -10, 20)]
    made, theirs = [], []
    for moment in moments * 2:
        monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment)
        made.append(ids.new(None))
        theirs.append(others.new(None))
    assert made == sorted(set(made))
    assert not set(made) & set(theirs)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=300)
async def test_a_hundred_thousand_that_wait_are_on_disk_only(tmp_path: Path, measured: Callable[[str], None]) -> None:
    """A start counts them within two seconds of a quiet machine, and keeps none in memory."""
    query = (
        "INSERT INTO invocations (id, function, qualifier, number, owner, status, created, due, until, max_age, size,"
        " payload) VALUES (?, 'hello', 0, 1, ?, 'queued', 1e9, 1e9, 1e10, 1e9, 712, ?)"
    )
    rows = [(str(number), f"owner {number % 10}", b"x" * 200) for number in range(100_000)]
    here = Desk(tmp_path)
    await here.journal.open()
    await here.journal.write(lambda db: db.executemany(query, rows))
    await here.close()
    tracemalloc.start()
    began = time.monotonic()
    try:
        async with desk(tmp_path) as here:
            await here.invoker.resume()
            took = time.monotonic() - began
            assert here.invoker.queued() == {"hello": 100_000}
            called = here.stage.versions.publish(version(queue=100_000))
            with pytest.raises(QueueFull):
                await here.accept(called)
            here.play()
            await here.handles(20)
            kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    measured(f"counted in {took:.2f} s, {kept / 1e6:.1f} MB")
    assert took < 2 * BUSY
    assert kept < 5e6


async def test_nothing_stays_in_memory_of_what_is_over(tmp_path: Path) -> None:
    """Functions come and go, and so do versions that are called by their number."""
    async with desk(tmp_path) as here:
        here.play()
        for number in range(20):
            called = here.stage.versions.publish(version(f"f{number}"))
            await here.over(await here.accept(called, qualifier=1))
        await until(lambda: not here.invoker._backlog.lines)
        backlog = here.invoker._backlog
        assert (backlog.queued(), dict(backlog._bytes), here.invoker._waiters) == ({}, {}, {})


async def test_a_failed_listener_stops_nothing(tmp_path: Path) -> None:
    """The others hear of the end."""
    async with desk(tmp_path) as here:

        def broken(view: InvocationView, status: str) -> None:
            raise RuntimeError

        here.invoker.listeners.insert(0, broken)
        called = here.stage.versions.publish(version())
        here.play()
        await here.over(await here.accept(called))
        assert len(here.ends) == 1


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


# --- in the middle of a hand-over -------------------------------------------------------------------------------------


async def handed_over(here: Desk, number: int = 1) -> tuple[Instance, Invocation]:
    """An instance that has got a call, before its attempt is written."""
    instance = await here.stage.instance(number)
    invocation = await here.stage.dispatcher.ask(instance, "").answer
    assert invocation is not None
    assert invocation.begin is not None
    return instance, invocation


async def begin(instance: Instance, invocation: Invocation) -> None:
    assert invocation.begin is not None
    await invocation.begin(instance.run_id or "")


async def test_cancelled_between_hand_over_and_attempt(tmp_path: Path) -> None:
    """The attempt does not begin, and the invocation stays cancelled."""
    async with desk(tmp_path) as here:
        invocation_id = await here.accept(here.stage.versions.publish(version()))
        instance, invocation = await handed_over(here)
        await here.invoker.cancel(invocation_id, ROOT)
        with pytest.raises(Conflict) as refused:
            await begin(instance, invocation)
        here.stage.dispatcher.refuse(instance, invocation, refused.value)
        await here.stage.settle()
        assert (await here.invoker.get(invocation_id, ROOT)).status == "cancelled"
        assert here.invoker.queued() == {}


async def test_an_instance_that_dies_between_hand_over_and_attempt(tmp_path: Path) -> None:
    """It had nothing: the call waits for another, without an attempt."""
    async with desk(tmp_path) as here:
        invocation_id = await here.accept(here.stage.versions.publish(version(retries=0)))
        instance, invocation = await handed_over(here)
        here.stage.life.kill(instance, "node_down")
        await here.stage.settle()
        with pytest.raises(Conflict):
            await begin(instance, invocation)
        here.play()
        view = await here.over(invocation_id)
        assert (view.status, len(view.attempts)) == ("succeeded", 1)


async def test_an_instance_that_dies_while_its_attempt_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt counts, as it is on disk, and the next one is made."""
    async with desk(tmp_path) as here:
        invocation_id = await here.accept(here.stage.versions.publish(version(retry_delay=0.1)))
        instance, invocation = await handed_over(here)
        written, go = here.store.begin, asyncio.Event()

        async def slow(row: Row, called: Version) -> Content | None:
            content = await written(row, called)
            await go.wait()
            return content

        monkeypatch.setattr(here.store, "begin", slow)
        beginning = asyncio.create_task(begin(instance, invocation))
        await here.reaches(invocation_id, "running")
        here.stage.life.kill(instance, "node_down")
        await here.stage.settle()
        go.set()
        await beginning
        here.play()
        view = await here.over(invocation_id)
        assert (view.status, len(view.attempts)) == ("succeeded", 2)


async def test_a_call_that_is_handed_back_has_one_attempt(tmp_path: Path) -> None:
    """Its connection had closed before it was written to; the next instance is shown instead."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=0))
        invocation_id = await here.accept(called)
        instance, invocation = await handed_over(here)
        await begin(instance, invocation)
        here.stage.dispatcher.hand_back(instance, invocation)
        here.handler = fails
        await here.serve(instance)
        view = await here.over(invocation_id)
        assert (view.status, len(view.attempts)) == ("dead", 1)


@pytest.mark.slow
async def test_a_call_that_is_handed_back_and_finds_no_other_had_no_attempt(tmp_path: Path) -> None:
    """It waits in the journal again, with all its retries."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=1, retry_delay=0.1, timeout=0.2))
        invocation_id = await here.accept(called)
        instance, invocation = await handed_over(here)
        await begin(instance, invocation)
        here.stage.dispatcher.hand_back(instance, invocation)
        assert (await here.reaches(invocation_id, "queued")).attempts == []
        here.handler = fails
        serving = asyncio.create_task(here.serve_always(instance))
        view = await here.over(invocation_id)
        serving.cancel()
        assert (view.status, len(view.attempts)) == ("dead", 2)


# --- after a restart --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def restarted(folder: Path, there: Version, *found: Found) -> AsyncIterator[Desk]:
    """The next process of a quartermaster that was killed, which adopts these instances."""
    here = Desk(folder)
    here.stage.versions.there = [there]
    here.stage.launcher.there = list(found)
    await here.journal.open()
    await here.stage.scaler.adopt(await here.invoker.called())
    await here.invoker.resume()
    await here.open()
    try:
        yield here
    finally:
        await here.close()


async def crash(here: Desk) -> None:
    """End as a killed process does: nothing more is written."""
    await here.journal.close()
    await here.invoker.close()
    await here.kill()


async def begun(folder: Path, called: Version) -> tuple[str, Found]:
    """A process that was killed while its instance had a call: the invocation, and the instance."""
    here = Desk(folder)
    await here.open()
    here.stage.versions.publish(called)
    here.gate.clear()
    here.play()
    invocation_id = await here.accept(called, b'"in"')
    await here.handles(1)
    instance = await here.stage.instance()
    await crash(here)
    return invocation_id, Found(instance.run_id or "", called.id, instance.secret)


async def test_what_was_accepted_before_a_crash_is_called_after_it(tmp_path: Path) -> None:
    """Also in the moment between the commit and the answer to the caller."""
    called = version()
    here = Desk(tmp_path)
    await here.open()
    here.stage.versions.publish(called)
    here.stage.launcher.gate.clear()
    ids = [await here.accept(called, str(n).encode()) for n in range(5)]
    await crash(here)
    async with restarted(tmp_path, called) as after:
        assert after.invoker.queued() == {"hello": 5}
        after.play()
        for n, each in enumerate(ids):
            view = await after.over(each)
            assert (bytes(view.output), len(view.attempts)) == (str(n).encode(), 1)


async def test_a_late_answer_is_taken(tmp_path: Path) -> None:
    """Of an instance that went on while quartermaster was away: the call is not made again."""
    called = version()
    invocation_id, found = await begun(tmp_path, called)
    async with restarted(tmp_path, called, found) as here:
        assert (await here.invoker.get(invocation_id, ROOT)).status == "running"
        instance = here.stage.dispatcher.instance(found.secret)
        assert instance is not None
        assert instance.state == "busy"
        here.stage.dispatcher.answer(instance, invocation_id, b'"late"', "application/json")
        view = await here.over(invocation_id)
        assert (view.status, bytes(view.output), len(view.attempts)) == ("succeeded", b'"late"', 1)
        assert here.handled == []


async def test_an_instance_that_asks_again_has_lost_its_call(tmp_path: Path) -> None:
    """Its answer went to the process that was killed: the call is made again, with its payload."""
    called = version(retry_delay=0.1)
    invocation_id, found = await begun(tmp_path, called)
    async with restarted(tmp_path, called, found) as here:
        instance = here.stage.dispatcher.instance(found.secret)
        assert instance is not None
        serving = asyncio.create_task(here.serve(instance))
        view = await here.over(invocation_id)
        await serving
        assert (view.status, bytes(view.output)) == ("succeeded", b'"in"')
        assert [each.error is None for each in view.attempts] == [False, True]


async def test_an_instance_that_is_gone_has_lost_its_call(tmp_path: Path) -> None:
    """The attempt failed; the next one is made by another."""
    called = version(retry_delay=0.1)
    invocation_id, _ = await begun(tmp_path, called)
    async with restarted(tmp_path, called) as here:
        here.play()
        view = await here.over(invocation_id)
        assert view.status == "succeeded"
        assert [each.error and each.error.type for each in view.attempts] == ["Runtime.ExitError", None]


async def test_an_instance_that_does_not_answer_has_its_deadline(tmp_path: Path) -> None:
    """From the hand-over, not from the restart; then it is killed."""
    called = version(timeout=0.5, retries=0)
    invocation_id, found = await begun(tmp_path, called)
    async with restarted(tmp_path, called, found) as here:
        view = await here.over(invocation_id)
        assert (view.status, view.error and view.error.type) == ("dead", "Sandbox.Timedout")
        assert here.stage.launcher.killed == [found.run_id]


async def test_the_last_attempt_of_a_killed_process_counts(tmp_path: Path) -> None:
    """Attempts are on disk before the hand-over: a call that kills quartermaster does not do so for ever."""
    called = version(retries=1, retry_delay=0.1)
    invocation_id, _ = await begun(tmp_path, called)
    async with restarted(tmp_path, called) as here:
        here.handler = fails
        here.play()
        view = await here.over(invocation_id)
        assert (view.status, len(view.attempts)) == ("dead", 2)


async def test_a_call_without_retries_whose_process_was_killed(tmp_path: Path) -> None:
    """It is made once more, as its instance may not have got it; and only once."""
    called = version(retries=0, retry_delay=0.1)
    invocation_id, _ = await begun(tmp_path, called)
    async with restarted(tmp_path, called) as here:
        here.gate.clear()
        here.play()
        await here.handles(1)
        assert (await here.invoker.get(invocation_id, ROOT)).status == "running"
        await crash(here)
    async with restarted(tmp_path, called) as here:
        here.play()
        view = await here.over(invocation_id)
        assert (view.status, len(view.attempts), here.handled) == ("dead", 2, [])


@pytest.mark.slow
async def test_an_end_that_was_not_committed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the answer and its commit: at least once, with the same id."""
    called = version(retry_delay=0.1)
    here = Desk(tmp_path)
    await here.open()
    here.stage.versions.publish(called)

    async def never(*_: object) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(here.store, "end", never)
    here.play()
    invocation_id = await here.accept(called)
    await here.handles(1)
    await here.stage.settle()
    await crash(here)
    async with restarted(tmp_path, called) as after:
        after.play()
        view = await after.over(invocation_id)
        assert (view.status, len(view.attempts)) == ("succeeded", 2)
        assert [call.id for call in after.handled] == [invocation_id]


async def test_a_function_that_was_removed_meanwhile(tmp_path: Path) -> None:
    """A call whose instance is gone is dead, as no other can be made; those that wait are cancelled."""
    called = version(max_instances=1, on_failure="https://example.com/failed")
    here = Desk(tmp_path)
    await here.open()
    here.stage.versions.publish(called)
    here.gate.clear()
    here.play()
    running, waiting = await here.accept(called), await here.accept(called)
    await here.handles(1)
    await crash(here)
    async with restarted(tmp_path, version("other")) as after:
        view = await after.over(running)
        assert (view.status, view.error and view.error.type) == ("dead", "Runtime.ExitError")
        assert (await after.over(waiting)).status == "cancelled"
        assert [(status, spec.on_failure) for status, spec in after.specs] == [("dead", called.spec.on_failure)]


@pytest.mark.parametrize("since", ["removed", "newer", "published again"])
async def test_an_instance_of_a_removed_version_finishes_its_call(tmp_path: Path, since: str) -> None:
    """It is adopted after a restart, its answer is taken, and it ends; one that has no call is killed."""
    called = version(on_failure="https://example.com/failed", env={"KEY": "value"})
    others = {"removed": version("other"), "newer": version("hello", 2), "published again": version()}
    invocation_id, found = await begun(tmp_path, called)
    idle = Found("idle", called.id, "s" * 32)
    async with restarted(tmp_path, others[since], found, idle) as here:
        assert here.stage.launcher.killed == ["idle"]
        instance = here.stage.dispatcher.instance(found.secret)
        assert instance is not None
        here.stage.dispatcher.answer(instance, invocation_id, b'"late"', "application/json")
        view = await here.over(invocation_id)
        assert (view.status, bytes(view.output), len(view.attempts)) == ("succeeded", b'"late"', 1)
        assert [(status, spec.on_failure) for status, spec in here.specs] == [("succeeded", called.spec.on_failure)]
        here.stage.dispatcher.ask(instance, "")
        await until(lambda: here.stage.launcher.marked == [(found.run_id, "update")])


async def test_an_attempt_that_fails_after_the_removal_is_the_last(tmp_path: Path) -> None:
    """It is dead with its error, although it had retries left: nobody could make them."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retries=2, retry_delay=0.1))
        named = here.stage.versions.publish(version("named", retries=2, retry_delay=0.1))
        here.stage.versions.publish(version("named", 2))
        here.handler = fails
        here.gate.clear()
        here.play()
        ids = [await here.accept(called), await here.accept(named, qualifier=1)]
        await here.handles(2)
        here.stage.versions.drop("hello")
        here.stage.versions.drop("named", 1)
        here.gate.set()
        for each in ids:
            view = await here.over(each)
            assert (view.status, view.error and view.error.type, len(view.attempts)) == ("dead", "ValueError", 1)


async def test_versions_are_kept_while_a_call_runs(tmp_path: Path) -> None:
    """On disk, without values of the environment and inputs of schedules; later ones of the function replace it."""
    every = {"cron": "@hourly", "input": "of the schedule"}
    called = version(max_instances=1, env={"KEY": "secret value"}, schedules=[every])
    invocation_id, found = await begun(tmp_path, called)
    there, last = version("hello", 2), version("hello", 3)
    async with restarted(tmp_path, called, found) as here:
        assert [(name, each.id) for name, each in (await here.invoker.called()).items()] == [(found.run_id, called.id)]
        [kept] = await kept_versions(here)
        assert b"KEY" not in kept[1]
        assert b"of the schedule" not in kept[1]
        here.stage.launcher.started.append("")  # the next run has another name
        here.play()
        here.stage.versions.publish(there)
        await here.over(await here.accept(there))
        assert {each for each, _ in await kept_versions(here)} == {called.id, there.id}
        instance = here.stage.life.of_run(found.run_id)
        assert instance is not None
        here.stage.dispatcher.answer(instance, invocation_id, b"1", "application/json")
        await here.over(invocation_id)
        here.stage.versions.publish(last)
        await here.over(await here.accept(last))
        assert [each for each, _ in await kept_versions(here)] == [last.id]
    async with restarted(tmp_path, last) as here:
        async with asyncio.timeout(20 * BUSY):
            while await kept_versions(here):  # noqa: ASYNC110 - the journal tells of no change
                await asyncio.sleep(0.01)


async def test_the_versions_of_many_functions_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of which no call runs: who publishes, calls and deletes one after another does not fill the journal."""
    monkeypatch.setattr(store, "VERSIONS_KEPT", 3)
    async with desk(tmp_path) as here:
        here.play()
        for number in range(8):
            each = here.stage.versions.publish(version(f"hello-{number}"))
            await here.over(await here.accept(each))
            here.stage.versions.drop(each.function)
            assert len(await kept_versions(here)) <= 3


async def test_a_journal_of_an_earlier_version_has_no_versions(tmp_path: Path) -> None:
    """The one with the number of the call is taken; if the function was removed, the call is dead."""
    called, removed = version(), version("removed")
    invocation_id, found = await begun(tmp_path, called)
    other_id, _ = await begun(tmp_path, removed)
    earlier = "ALTER TABLE invocations DROP COLUMN version; DROP TABLE called_versions;"
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        db.executescript(earlier)
    async with restarted(tmp_path, called, found) as here:
        instance = here.stage.dispatcher.instance(found.secret)
        assert instance is not None
        here.stage.dispatcher.answer(instance, invocation_id, b"1", "application/json")
        assert (await here.over(invocation_id)).status == "succeeded"
        view = await here.over(other_id)
        assert (view.status, view.error and view.error.type) == ("dead", "Runtime.ExitError")
        [attempt] = view.attempts
        assert attempt.error == view.error


async def kept_versions(here: Desk) -> list[tuple[str, bytes]]:
    query = "SELECT id, version FROM called_versions"
    return await here.journal.read(lambda db: db.execute(query).fetchall())


@pytest.mark.slow
async def test_a_full_disk_accepts_nothing_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No attempt begins that cannot be written, and an outcome is written once there is room again."""
    async with desk(tmp_path) as here:
        called = here.stage.versions.publish(version(retry_delay=0.1, max_instances=1))
        here.gate.clear()
        here.play()
        running = await here.accept(called)
        await here.handles(1)
        waiting = [await here.accept(called) for _ in range(3)]
        full = here.journal.write

        async def write(work: Any, *args: Any, **options: Any) -> None:
            raise JournalUnwritable("no space left on device")

        monkeypatch.setattr(here.journal, "write", write)
        with pytest.raises(JournalUnwritable):
            await here.accept(called)
        here.gate.set()
        await asyncio.sleep(0.2)
        assert len(here.handled) == 1
        assert (await here.invoker.get(running, ROOT)).status == "running"
        monkeypatch.setattr(here.journal, "write", full)
        for each in [running, *waiting]:
            view = await here.over(each)
            assert (view.status, len(view.attempts)) == ("succeeded", 1)
        assert len(here.handled) == 4
        assert here.invoker.queued() == {}
