"""runtime: an asynchronous call is written to an instance once its attempt is on disk, and not otherwise."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fakes import until
from function_cases import version
from runtime_cases import Site, site

from qmaster.errors import CallTimedOut, HttpError, InstanceDied, JournalUnwritable, NoInstance
from qmaster.functions.invocations.invocation import Answer, Call, Invocation
from qmaster.models.functions import Version

__all__ = ["site"]

pytestmark = pytest.mark.gen_test(timeout=30)
Begin = Callable[[Invocation, str], Awaitable[None]]


def attempt(site: Site, called: Version, begin: Begin, call_id: str = "call") -> "asyncio.Task[Answer]":
    """An asynchronous call; ``begin`` is called with it and with the instance's run."""
    invocation = Invocation(
        Call(call_id, b"", "root"), asyncio.get_running_loop().time(), lambda run_id: begin(invocation, run_id)
    )
    return asyncio.create_task(site.stage.dispatcher.attempt(called, invocation))


async def begins(invocation: Invocation, run_id: str) -> None:
    invocation.call = invocation.call._replace(payload=b'"in"')


class Slow:
    """A beginning that takes until ``go`` is set; then it raises ``error``, if there is one."""

    def __init__(self, error: HttpError | None = None) -> None:
        self.begun = 0
        self.go = asyncio.Event()
        self.error = error

    async def __call__(self, invocation: Invocation, run_id: str) -> None:
        self.begun += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        await begins(invocation, run_id)


async def test_the_payload_comes_with_the_beginning(site: Site) -> None:
    """The instance that gets the call is named, and nothing is written before."""
    called, slow, named = version(), Slow(), []

    async def begin(invocation: Invocation, run_id: str) -> None:
        named.append(run_id)
        await slow(invocation, run_id)

    calling = attempt(site, called, begin)
    client = await site.client(await site.stage.instance())
    asking = asyncio.create_task(client.ask())
    await until(lambda: slow.begun)
    await asyncio.sleep(0.05)
    assert not asking.done()
    slow.go.set()
    got = await asking
    assert (got.body, got.headers["lambda-runtime-aws-request-id"], named) == (b'"in"', "call", ["run-1"])
    await client.post("invocation/call/response", b'"out"')
    assert (await calling).body == b'"out"'


async def test_the_timeout_begins_with_the_hand_over(site: Site) -> None:
    """The time that the journal takes is not the function's."""
    called, slow = version(timeout=0.3), Slow()
    calling = attempt(site, called, slow)
    client = await site.client(await site.stage.instance())
    asking = asyncio.create_task(client.ask())
    await until(lambda: slow.begun)
    await asyncio.sleep(0.5)
    slow.go.set()
    assert (await asking).status == 200
    with pytest.raises(CallTimedOut):
        await calling


@pytest.mark.parametrize("error", [JournalUnwritable("full"), RuntimeError("a defect")])
async def test_a_call_that_cannot_begin_is_not_made(site: Site, error: Exception) -> None:
    """The instance waits for another call, on the same connection; this one fails without an attempt."""
    called = version()

    async def broken(invocation: Invocation, run_id: str) -> None:
        raise error

    calling = attempt(site, called, broken)
    instance = await site.stage.instance()
    client = await site.client(instance)
    asking = asyncio.create_task(client.ask())
    with pytest.raises((JournalUnwritable, NoInstance)):
        await calling
    assert not asking.done()
    assert instance.state == "idle"
    again = attempt(site, called, begins, "again")
    assert (await asking).body == b'"in"'
    await client.post("invocation/again/response", b"1")
    assert (await again).body == b"1"


async def test_a_connection_that_closes_while_it_begins(site: Site) -> None:
    """The call waits for another instance; it begins once more."""
    called, slow = version(), Slow()
    calling = attempt(site, called, slow)
    instance = await site.stage.instance()
    client = await site.client(instance)
    await client.send("GET", "/2018-06-01/runtime/invocation/next")
    await until(lambda: slow.begun)
    client.close()
    await asyncio.sleep(0.05)
    slow.go.set()
    other = await site.client(instance)
    got = await other.ask()
    assert (got.body, slow.begun) == (b'"in"', 2)
    await other.post("invocation/call/response", b"1")
    assert (await calling).body == b"1"


@pytest.mark.parametrize("error", [None, JournalUnwritable("full")])
async def test_an_instance_that_is_killed_while_a_call_begins(site: Site, error: HttpError | None) -> None:
    """It gets no call, and is told to end; the call is lost with it."""
    called, slow = version(), Slow(error)
    calling = attempt(site, called, slow)
    instance = await site.stage.instance()
    client = await site.client(instance)
    asking = asyncio.create_task(client.ask())
    await until(lambda: slow.begun)
    site.stage.life.kill(instance, "node_down")
    slow.go.set()
    assert (await asking).status == 410
    with pytest.raises(InstanceDied):
        await calling
