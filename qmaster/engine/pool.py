"""All calls to the engine, each bounded in time and counted: by a few threads, or on the loop's own connections.

The threads own their clients and nothing else; all other state belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import structlog

from ..errors import EngineAway, HttpError
from ..limiter import FairLimiter
from ..threads import Threads
from .client import Client
from .errors import LATE, STOPPING, EngineStopping, EngineTimeout, EngineUnreached, broken_off, translate
from .lines import Lines

T = TypeVar("T")
Connect = Callable[[], Client]
Count = Callable[[str, str, float], None]

LISTING = 3.0  # seconds: pings and listings
CHANGE = 25.0  # seconds: the rest

log = structlog.get_logger(__name__)


class Pool:
    """Runs calls on the engine.

    Args:
        connect: makes a client; called in the thread that will use it.
        slots: how many calls run at once, with a share for each owner; a call has a thread as soon as it has a slot.
        name: of the threads.
        away: the error to raise at once while the engine is known to be away, else None.
        failed: told of each call that the engine did not answer (on the event loop).
        count: told of each call that was sent (on the event loop): its kind, its outcome (``ok``, ``refused``: the
            engine said no, ``timeout``, ``away``, ``cancelled``: nobody waits for it any more), and its seconds.
        lines: to the engine's socket, where it has one here: ``post`` takes them instead of a thread.
        spare: slots for calls that have no owner.
    """

    def __init__(
        self,
        connect: Connect,
        slots: int,
        name: str,
        away: Callable[[], EngineAway | None] = lambda: None,
        failed: Callable[[EngineAway], None] = lambda error: None,
        count: Count = lambda kind, outcome, seconds: None,
        lines: Lines | None = None,
        spare: int = 0,
    ) -> None:
        self._connect = connect
        self._lines = lines
        self._away = away
        self._failed = failed
        self._count = count
        self._kind = name.removeprefix("engine-")
        self._limiter = FairLimiter(slots, spare)
        self._threads = Threads(self._limiter.size, name)
        self._local = threading.local()
        self._flying: set[asyncio.Future[Any]] = set()
        self._stopping = False

    async def call(self, work: Callable[[Client], T], within: float, again: bool = False, kind: str = "") -> T:
        """Run ``work`` with a client in a thread.

        Args:
            work: the blocking call.
            within: seconds, from when it has its slot.
            again: whether it may be sent a second time where the connection broke (it changes nothing).
            kind: what it is counted as; left out, what the pool is for.

        Raises:
            HttpError: what the engine answered, or that it did not.
            TooManyCalls: it had no slot in time, and was not sent.
        """
        return await self._counted(lambda end: self._in_thread(work, within, again, end), within + 1, kind)

    async def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str], within: float, kind: str
    ) -> Any:
        """POST a JSON body, once, and decode the answer.

        Args:
            headers: only for this call.
            within, kind: as in ``call``.

        Raises:
            HttpError, TooManyCalls: as ``call``.
        """
        lines = self._lines
        if lines is None:
            return await self.call(lambda client: client.submit(path, body, headers), within, kind=kind)

        def begin(end: Callable[[], None]) -> asyncio.Future[Any]:
            sent = asyncio.ensure_future(lines.post(path, body, headers, self._refuse))
            sent.add_done_callback(lambda _: end())
            return sent

        return await self._counted(begin, within, kind)

    async def _counted(self, begin: Callable[[Callable[[], None]], asyncio.Future[T]], within: float, kind: str) -> T:
        """``begin`` is told what to call when the slot is free again, also where nobody waits for the answer then."""
        self._refuse()
        began, outcome = time.monotonic(), "cancelled"
        end = await self._limiter.take()
        try:
            answer = await self._sent(begin(end), within)
            outcome = "ok"
            return answer
        except EngineAway as error:
            outcome = "timeout" if isinstance(error, EngineTimeout) else "away"
            if not self._stopping:
                self._failed(error)
            raise
        except HttpError:
            outcome = "refused"
            raise
        finally:
            self._count(kind or self._kind, outcome, time.monotonic() - began)

    def give_up(self) -> None:
        """Wait for no answer any longer, and ask nothing more: quartermaster ends."""
        self._stopping = True
        self._limiter.refuse(lambda: EngineStopping(STOPPING))
        for future in list(self._flying):
            future.cancel()

    def close(self) -> None:
        """Take no more calls; those that run end by their own bounds, or with the process."""
        self.give_up()
        self._threads.end()
        if self._lines is not None:
            self._lines.close()

    def _in_thread(
        self, work: Callable[[Client], T], within: float, again: bool, end: Callable[[], None]
    ) -> asyncio.Future[T]:
        context = contextvars.copy_context()  # else the request's id would be missing in the thread's log lines
        done = self._threads.do(lambda: context.run(self._attempt, work, within, again))
        done.add_done_callback(lambda _: end())
        return asyncio.shield(done)  # the thread is taken until it has ended, whoever has left

    async def _sent(self, future: asyncio.Future[T], within: float) -> T:
        self._flying.add(future)
        try:
            async with asyncio.timeout(within):
                return await future
        except TimeoutError:
            raise EngineTimeout(LATE) from None
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._stopping and caller is not None and not caller.cancelling():
                raise EngineTimeout(STOPPING) from None
            raise
        finally:
            self._flying.discard(future)

    def _refuse(self) -> None:
        """Raise at once where the call would not be sent."""
        if self._stopping:
            raise EngineStopping(STOPPING)
        away = self._away()
        if away is not None:
            raise EngineUnreached(str(away))

    def _attempt(self, work: Callable[[Client], T], timeout: float, again: bool) -> T:
        self._refuse()  # it may have gone while this call was on its way
        try:
            return self._run(work, timeout)
        except HttpError as error:
            if not (again and broken_off(error)):
                raise
        return self._run(work, timeout)

    def _run(self, work: Callable[[Client], T], timeout: float) -> T:
        try:
            client = self._client()
            client.timeout = timeout
            return work(client)
        except HttpError:
            raise
        except Exception as error:  # the top of a thread: whatever the SDK raises becomes an error of ours
            known = translate(error)
            if isinstance(known, EngineAway):
                self._forget()
            raise known from error

    def _client(self) -> Client:
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._connect()
        return client

    def _forget(self) -> None:
        """Drop this thread's client: after a restart the engine may be of another version."""
        client: Client | None = getattr(self._local, "client", None)
        if client is not None:
            self._local.client = None
            client.close()
