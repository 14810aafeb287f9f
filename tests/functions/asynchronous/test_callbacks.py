"""Callbacks of asynchronous invocations: written with their end, told with their output."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asynchronous_cases import ROOT, Desk, fails
from fakes import until
from function_cases import version
from receivers import SECRET, Got, allowed, receiving, status
from standardwebhooks import Webhook

from qmaster.auth.policy import Rules
from qmaster.auth.registries import RegistryAuth
from qmaster.errors import Forbidden
from qmaster.functions.asynchronous.callbacks import REDRIVEN, InvocationBodies, InvocationCallbacks
from qmaster.functions.callbacks.queue import NOT_COVERED, CallbackQueue
from qmaster.functions.callbacks.sender import Resolver, Sender
from qmaster.functions.versions.service import FunctionService
from qmaster.models.functions import Version
from qmaster.models.invocations import InvocationView
from qmaster.runs.callbacks import CallbackStore

pytestmark = pytest.mark.gen_test


class Quartermaster(Desk):
    """An invoker, and what sends the callbacks of its calls."""

    def __init__(self, folder: Path, *prefixes: str, delays: tuple[float, ...] = (0.01, 0.01)) -> None:
        super().__init__(folder)
        self.callbacks = CallbackStore(self.journal)
        self.receivers = allowed(folder, *prefixes)
        bodies = InvocationBodies(self.store, lambda: self.journal.id)
        sender = Sender(self.receivers, Resolver())
        self.queue = CallbackQueue(self.callbacks, self.receivers, sender, {"invocation": bodies}, delays)
        of_invocations = InvocationCallbacks(self.queue)
        self.invoker.at_end = of_invocations.at_end
        self.invoker.listeners.append(of_invocations.ended)

    def publish(self, **fields: Any) -> Version:
        return self.stage.versions.publish(version(**fields))

    async def told(self, invocation_id: str, callbacks: int = 1) -> InvocationView:
        """The invocation once so many of its callbacks are delivered or given up."""
        async with asyncio.timeout(50):
            while True:
                view = await self.invoker.get(invocation_id, ROOT)
                if len(view.callbacks) == callbacks and not await self.callbacks.waiting():
                    return await self.invoker.get(invocation_id, ROOT)
                await asyncio.sleep(0.005)


@asynccontextmanager
async def working(qm: Quartermaster, sends: bool = True) -> AsyncIterator[Quartermaster]:
    """A process from its start to its end."""
    await qm.open()
    qm.play()
    task = asyncio.create_task(qm.queue.run()) if sends else None
    try:
        yield qm
    finally:
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await qm.queue.close()
        await qm.close()


def told(got: Got) -> Any:
    return Webhook(SECRET).verify(got.body, got.headers)


async def test_a_success_is_told_with_its_output(tmp_path: Path) -> None:
    """To `on_success` alone."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        called = qm.publish(on_success=receiver.url + "yes", on_failure=receiver.url + "no")
        view = await qm.told(await qm.accept(called, b'{"a": 1}'))
        (callback,) = view.callbacks
        assert (callback.url, callback.attempts, callback.last_error) == (receiver.url + "yes", 1, None)
        assert callback.delivered_at
        source = f"/qmaster/{qm.journal.id}"
    (got,) = receiver.got
    event = told(got)
    assert got.line == "POST /yes HTTP/1.1"
    assert (event["type"], event["subject"], event["source"]) == ("io.qmaster.invocation.completed", view.id, source)
    assert (event["id"], event["time"]) == (got.headers["webhook-id"], view.ended_at)
    data = event["data"]
    assert (data["id"], data["status"], data["function"], data["output"]) == (view.id, "succeeded", "hello", {"a": 1})
    assert len(data["attempts"]) == 1


async def test_a_dead_call_is_told_with_its_error(tmp_path: Path) -> None:
    """To `on_failure`, once all attempts have failed."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        qm.handler = fails
        called = qm.publish(on_success=receiver.url + "yes", on_failure=receiver.url + "no", retries=1, retry_delay=0.1)
        view = await qm.told(await qm.accept(called))
    (got,) = receiver.got
    event = told(got)
    assert (got.line, event["type"]) == ("POST /no HTTP/1.1", "io.qmaster.invocation.failed")
    assert (event["data"]["status"], event["data"]["error"]["type"]) == ("dead", "ValueError")
    assert len(event["data"]["attempts"]) == len(view.attempts) == 2


async def test_a_cancelled_call_is_not_told(tmp_path: Path) -> None:
    """Whoever cancelled it knows."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        qm.gate.clear()
        called = qm.publish(on_success=receiver.url, on_failure=receiver.url, max_instances=1)
        first = await qm.accept(called)
        await qm.handles(1)
        second = await qm.accept(called)
        await qm.invoker.cancel(second, ROOT)
        qm.gate.set()
        await qm.told(first)
        assert (await qm.invoker.get(second, ROOT)).callbacks == []
        assert len(receiver.got) == 1


async def test_a_function_without_callbacks_tells_nobody(tmp_path: Path) -> None:
    """The default."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        view = await qm.over(await qm.accept(qm.publish()))
        assert view.callbacks == []
        assert receiver.connections == 0


async def test_each_end_of_a_redriven_call_is_told(tmp_path: Path) -> None:
    """Its death, and then its success."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        qm.handler = fails
        called = qm.publish(on_success=receiver.url, on_failure=receiver.url, retries=0)
        dead = await qm.told(await qm.accept(called))
        qm.handler = lambda call: b"1"
        await qm.invoker.redrive(dead.id, ROOT)
        view = await qm.told(dead.id, 2)
        assert all(callback.delivered_at for callback in view.callbacks)
    kinds = [told(got)["type"].rpartition(".")[2] for got in receiver.got]
    assert kinds == ["failed", "completed"]


async def test_an_end_that_is_no_longer_so_is_not_told(tmp_path: Path) -> None:
    """A death whose callback waits, while the call is tried again and succeeds: a later try would tell a falsehood."""
    async with receiving(status(500), status(200)) as receiver:
        async with working(Quartermaster(tmp_path, receiver.url, delays=(600.0,)), sends=False) as qm:
            qm.handler = fails
            dead = await qm.over(await qm.accept(qm.publish(on_failure=receiver.url, retries=0)))
            assert dead.status == "dead"
            qm.handler = lambda call: b"1"
            await qm.invoker.redrive(dead.id, ROOT)
            await qm.reaches(dead.id, "succeeded")
        async with working(Quartermaster(tmp_path, receiver.url)) as again:
            view = await again.told(dead.id)
        assert view.callbacks[0].last_error == REDRIVEN
        assert receiver.connections == 0


async def test_the_callback_is_in_the_transaction_of_the_end(tmp_path: Path) -> None:
    """A process that dies right after it loses none: the next one sends it."""
    async with receiving() as receiver:
        async with working(Quartermaster(tmp_path, receiver.url), sends=False) as first:
            ended = await first.over(await first.accept(first.publish(on_success=receiver.url)))
            assert [callback.delivered_at for callback in ended.callbacks] == [None]
        async with working(Quartermaster(tmp_path, receiver.url)) as second:
            view = await second.told(ended.id)
        assert view.callbacks[0].delivered_at
        assert len(receiver.got) == 1


@pytest.mark.slow
async def test_two_hundred_ends_are_told(tmp_path: Path) -> None:
    """Each once, as nothing failed."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        called = qm.publish(on_success=receiver.url, max_instances=8, queue=1000)
        ids = await asyncio.gather(*(qm.accept(called) for _ in range(200)))
        await until(lambda: len(receiver.got) >= 200)
        for each in ids:
            await qm.told(each)
        assert sorted(told(got)["subject"] for got in receiver.got) == sorted(ids)


async def test_a_url_that_is_no_longer_allowed_is_shown(tmp_path: Path) -> None:
    """The function was published under other options."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url + "hooks")) as qm:
        view = await qm.told(await qm.accept(qm.publish(on_success=receiver.url + "other")))
        assert view.callbacks[0].last_error == NOT_COVERED
        assert receiver.connections == 0


@pytest.mark.parametrize("field", ["on_success", "on_failure"])
async def test_publishing_checks_the_urls(tmp_path: Path, field: str) -> None:
    """The error names the field and the option, to the root token too."""
    qm = Quartermaster(tmp_path, "https://hooks.example/team")
    service: Any = FunctionService(qm.stage.versions, None, RegistryAuth(), Rules((), 250, None))  # type: ignore[arg-type]
    service.receivers = qm.receivers
    good: Any = {field: "https://hooks.example/team/x"}
    bad: Any = {field: "https://hooks.example/teams"}
    service._allowed("hello", version(**good).spec, ROOT)
    with pytest.raises(Forbidden, match=f"^{field}: no prefix of the server's option --callbacks covers this URL"):
        service._allowed("hello", version(**bad).spec, ROOT)
    await qm.stage.close()


async def test_a_receiver_is_told_of_owners(tmp_path: Path) -> None:
    """Each callback has the owner of its call."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        called = qm.publish(on_success=receiver.url)
        for owner in ("root", "alice"):
            await qm.told(await qm.accept(called, owner=owner))
    assert [told(got)["data"]["owner"] for got in receiver.got] == ["root", "alice"]
