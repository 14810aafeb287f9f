"""An invoker of asynchronous calls over a journal of its own, whose instances the test plays."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from fakes import grant, until
from function_cases import Stage

from qmaster.auth.authenticator import Identity
from qmaster.errors import FunctionFailed, HttpError
from qmaster.events.journal import MIB, Journal
from qmaster.functions.asynchronous.invoker import AsyncInvoker, Order
from qmaster.functions.asynchronous.store import InvocationStore
from qmaster.functions.instances.instance import Instance
from qmaster.functions.invocations.invocation import Call
from qmaster.models.functions import FunctionSpec, Version
from qmaster.models.invocations import InvocationView

ROOT = Identity("root")
ALICE = Identity("alice", grant("alice", functions=("*",)))
ROOM = 8 * MIB

Handler = Callable[[Call], bytes]


def succeeds(call: Call) -> bytes:
    return call.payload


def fails(call: Call) -> bytes:
    raise FunctionFailed("ValueError", "no", ["line 1"])


class Desk:
    """A quartermaster's invoker, with a dispatcher whose instances the test plays.

    Attributes:
        handled: the calls that instances got, in order.
        handler: what instances do; raises the error of a call.
        ends: the ends that listeners heard of.
        specs: the status and the spec of each end of which callbacks could be told.
    """

    def __init__(self, folder: Path, room: int = ROOM) -> None:
        self.journal = Journal(folder, 1000, 30)
        self.stage = Stage()
        self.stage.versions.listed.set()
        self.store = InvocationStore(self.journal)
        self.invoker = AsyncInvoker(self.stage.dispatcher, self.stage.versions, self.store, room)
        self.invoker.listeners.append(lambda view, status: self.ends.append(view))
        self.invoker.at_end = lambda view, spec: self.specs.append((view.status, spec))
        self.ends: list[InvocationView] = []
        self.specs: list[tuple[str, FunctionSpec]] = []
        self.handled: list[Call] = []
        self.handler: Handler = succeeds
        self.gate = asyncio.Event()  # instances answer while it is set
        self.gate.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        await self.journal.open()
        self._tasks.append(asyncio.create_task(self.invoker.run()))

    async def close(self) -> None:
        await self.invoker.close()
        await self.kill()
        with contextlib.suppress(RuntimeError):
            await self.journal.close()

    async def kill(self) -> None:
        """End without writing anything more, as far as a process can do that to itself."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.stage.close()

    def play(self) -> None:
        """Have all instances serve, also those that start later."""
        self._tasks.append(asyncio.create_task(self._play()))

    async def _play(self) -> None:
        known: set[str] = set()
        while True:
            for secret in set(self.stage.launcher.started) - known:
                known.add(secret)
                if (instance := self.stage.dispatcher.instance(secret)) is not None:
                    self._tasks.append(asyncio.create_task(self.serve_always(instance)))
            await asyncio.sleep(0.001)

    async def serve_always(self, instance: Instance) -> None:
        while await self.serve(instance):
            pass

    async def serve(self, instance: Instance) -> bool:
        """Serve one call as the runtime API does; return whether the instance goes on."""
        poll = self.stage.dispatcher.ask(instance, "")
        invocation = await poll.answer
        if invocation is None:
            return False
        if invocation.begin is not None:
            try:
                await invocation.begin(instance.run_id or "")
            except HttpError as error:
                self.stage.dispatcher.refuse(instance, invocation, error)
                return True
            self.stage.dispatcher.start_clock(instance, invocation)
        call = invocation.call
        self.handled.append(call)
        await self.gate.wait()
        try:
            body = self.handler(call)
        except HttpError as error:
            self.stage.dispatcher.fail(instance, call.id, error)
        else:
            self.stage.dispatcher.answer(instance, call.id, body, "application/json")
        return True

    def order(self, version: Version, payload: bytes = b"{}", owner: str = "root", **fields: Any) -> Order:
        return Order(self.invoker.new_id(), version.function, fields.pop("qualifier", None), owner, payload, **fields)

    async def accept(self, version: Version, payload: bytes = b"{}", owner: str = "root", **fields: Any) -> str:
        """Accept a call, and return its id."""
        return (await self.invoker.accept(version, self.order(version, payload, owner, **fields))).id

    async def over(self, invocation_id: str, seconds: float = 30) -> InvocationView:
        """The invocation once it is over."""
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        view = await self.invoker.when_over(invocation_id, seconds, left, ROOT)
        assert view.is_over, view
        return view

    async def reaches(self, invocation_id: str, status: str) -> InvocationView:
        """The invocation once it has this status."""
        async with asyncio.timeout(30):
            while (view := await self.invoker.get(invocation_id, ROOT)).status != status:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return view

    async def handles(self, number: int) -> None:
        """Wait until instances have got so many calls."""
        await until(lambda: len(self.handled) >= number)


@contextlib.asynccontextmanager
async def desk(folder: Path, **options: Any) -> AsyncIterator[Desk]:
    made = Desk(folder, **options)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
