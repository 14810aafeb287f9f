"""Calls that their callers may send again: each runs once, and its answer is kept. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import structlog

from ...errors import (
    CallFailed,
    CallTimedOut,
    Conflict,
    FunctionFailed,
    HttpError,
    InstanceDied,
    JournalUnwritable,
    KeyReused,
    NoInstance,
    ReplayedFailure,
)
from ...events.journal import Journal
from .invocation import Answer

REMEMBERED_FOR = 300.0  # seconds that an answer stays in memory
MAX_REMEMBERED = 64 * 1024 * 1024  # bytes of them
OVERHEAD = 1024  # bytes that an answer counts for in addition to its own
# A call that failed so was handed over, and may have had effects. After any other failure it may be made again.
HANDED_OVER = (FunctionFailed, InstanceDied, CallTimedOut)

Left = asyncio.Future[None]  # done when a caller has disconnected
Make = Callable[[Left], Awaitable[Answer]]
Outcome = Answer | HttpError

log = structlog.get_logger(__name__)


class SharedCall:
    """A call in flight that several callers wait for; once all of them have left, it is forgotten if it still waits.

    Args:
        make: makes the call.
        digest: of the request.
    """

    def __init__(self, make: Make, digest: str = "") -> None:
        self.digest = digest
        self._waiting = 0
        self._left: Left = asyncio.get_running_loop().create_future()
        self.task = asyncio.ensure_future(make(self._left))

    @property
    def abandoned(self) -> bool:
        return self._left.done()

    async def wait(self, left: Left) -> Answer:
        """Return the answer, or raise the error of the call; ``left`` is this caller's."""
        self._waiting += 1
        left.add_done_callback(self._leave)
        return await asyncio.shield(self.task)

    def _leave(self, left: Left) -> None:
        self._waiting -= 1
        if not self._waiting and not self._left.done():
            self._left.set_result(None)


class InFlight:
    """The calls in flight, by key."""

    def __init__(self) -> None:
        self._calls: dict[str, SharedCall] = {}

    async def join(self, key: str, digest: str, left: Left) -> Answer | None:
        """Wait for the call with this key, and return its answer; None if there is none.

        Raises:
            KeyReused: the call has another body.
            HttpError: the call failed.
        """
        while (call := self._calls.get(key)) is not None:
            if call.digest != digest:
                raise KeyReused("this Idempotency-Key was used with another body: use a new key for a new call")
            abandoned = call.abandoned
            try:
                return await call.wait(left)
            except NoInstance:
                if not abandoned:
                    raise
        return None

    async def start(self, key: str, digest: str, make: Make, left: Left) -> Answer:
        """Make a call, and return its answer."""
        call = self._calls[key] = SharedCall(make, digest)
        call.task.add_done_callback(lambda _: self._calls.pop(key, None))
        return await call.wait(left)


class RetryMemory:
    """Answers by ``amz-sdk-invocation-id``, in memory: AWS' SDKs send a call again when its answer is late.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flying = InFlight()
        self._kept: dict[str, OrderedDict[str, tuple[Outcome | None, float, int]]] = {}  # by owner and key
        self._bytes: dict[str, int] = {}  # by owner

    async def once(self, owner: str, key: str, make: Make, left: Left) -> Answer:
        """Make a call, or return the answer of an earlier one with this key; wait for one that is in flight.

        Raises:
            HttpError: the call failed, or the earlier one did.
        """
        flying = f"{owner}\0{key}"
        joined = await self._flying.join(flying, "", left)
        if joined is not None:
            return joined
        kept = self._find(owner, key)
        if isinstance(kept, HttpError):
            raise kept.with_traceback(None)
        return kept or await self._flying.start(
            flying, "", lambda all_left: self._run(owner, key, make, all_left), left
        )

    def claim(self, owner: str, key: str) -> None:
        """Count a call whose answer cannot be kept, as it is streamed.

        Raises:
            Conflict: a call with this key was made.
        """
        if key in self._living(owner):
            raise Conflict("this call was made before, and a streamed answer cannot be sent again")
        self._keep(owner, key, None, 0)

    def forget(self, owner: str, key: str) -> None:
        """Forget a call that was not handed over."""
        found = self._kept.get(owner, OrderedDict()).pop(key, None)
        if found is not None:
            self._count(owner, -found[2])

    async def _run(self, owner: str, key: str, make: Make, left: Left) -> Answer:
        try:
            answer = await make(left)
        except HANDED_OVER as error:
            self._keep(owner, key, error, _size(error))
            raise
        self._keep(owner, key, answer, len(answer.body))
        return answer

    def _find(self, owner: str, key: str) -> Outcome | None:
        return self._living(owner).get(key, (None,))[0]

    def _living(self, owner: str) -> OrderedDict[str, tuple[Outcome | None, float, int]]:
        """Return the answers of an owner; those that are too old are forgotten."""
        kept, before = self._kept.get(owner, OrderedDict()), self._clock() - REMEMBERED_FOR
        while kept and next(iter(kept.values()))[1] < before:
            self._drop_oldest(owner)
        return kept

    def _keep(self, owner: str, key: str, outcome: Outcome | None, size: int) -> None:
        for each in list(self._kept):
            self._living(each)
        size += OVERHEAD
        self._kept.setdefault(owner, OrderedDict())[key] = (outcome, self._clock(), size)
        self._count(owner, size)
        while sum(self._bytes.values()) > MAX_REMEMBERED:
            self._drop_oldest(max(self._bytes, key=lambda each: self._bytes[each]))

    def _drop_oldest(self, owner: str) -> None:
        _, (_, _, size) = self._kept[owner].popitem(last=False)
        self._count(owner, -size)

    def _count(self, owner: str, size: int) -> None:
        self._bytes[owner] = self._bytes.get(owner, 0) + size
        if not self._kept[owner]:
            del self._bytes[owner], self._kept[owner]


def _size(error: CallFailed) -> int:
    """Return about how many bytes an error has."""
    document = error.document if isinstance(error, FunctionFailed) else b""
    return len(str(error.members)) + len(document)


class _Stored(msgspec.Struct, omit_defaults=True):
    """An outcome in the journal: an answer, or a failure where ``status`` is set."""

    body: bytes = b""
    content_type: str = ""
    instance: str = ""
    version: int = 0
    duration_ms: float = 0.0
    cold: bool = False
    status: int = 0
    detail: str = ""
    members: dict[str, Any] = {}


class KeyedCalls:
    """Answers by ``Idempotency-Key``, in the journal: a key is committed before its call is handed over."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._flying = InFlight()

    async def once(self, owner: str, key: str, digest: str, make: Make, left: Left) -> tuple[Answer, bool]:
        """Make a call, or return the answer of an earlier one with this key; wait for one that is in flight.

        Args:
            owner: the name of the token.
            key: of ``key_of``.
            digest: of the body.
            make: makes the call.
            left: done when the caller has disconnected.

        Returns:
            The answer, and whether it is that of an earlier call.

        Raises:
            KeyReused: the earlier call had another body.
            Conflict: quartermaster ended during the earlier call, so that nobody knows its outcome.
            JournalUnwritable: the key cannot be kept; nothing was called.
            HttpError: the call failed, or the earlier one did.
        """
        joined = await self._flying.join(key, digest, left)
        if joined is not None:
            return joined, True
        replayed = False

        async def first(all_left: Left) -> Answer:
            nonlocal replayed
            kept = await self._journal.kept_answer(key)
            if kept is not None:
                replayed = True
                return _replay(*kept, digest)
            return await self._run(owner, key, digest, make, all_left)

        return await self._flying.start(key, digest, first, left), replayed

    async def _run(self, owner: str, key: str, digest: str, make: Make, left: Left) -> Answer:
        await self._journal.begin_call(key, owner, digest)
        try:
            answer = await make(left)
        except HANDED_OVER as error:
            await self._keep(key, _Stored(status=int(error.status), detail=str(error), members=error.members))
            raise
        except HttpError:
            await self._tolerate(self._journal.forget_call(key), key)
            raise
        await self._keep(key, _stored(answer))
        return answer

    async def _keep(self, key: str, stored: _Stored) -> None:
        await self._tolerate(self._journal.keep_answer(key, msgspec.msgpack.encode(stored)), key)

    async def _tolerate(self, writing: Awaitable[None], key: str) -> None:
        """Wait for a write; if it fails, the caller gets its answer all the same, and a later call a Conflict."""
        try:
            await writing
        except JournalUnwritable as error:
            log.warning("answer_not_kept", key=key, reason=str(error))


def key_of(parts: Iterable[str]) -> str:
    """Return a key, made of the names of the token and the function, and of what the caller sent."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _stored(answer: Answer) -> _Stored:
    return _Stored(answer.body, answer.content_type, answer.instance, answer.version, answer.duration_ms, answer.cold)


def _replay(digest: str, outcome: bytes | None, asked: str) -> Answer:
    """Return the answer of an earlier call.

    Raises:
        KeyReused: it had another body.
        Conflict: its outcome is unknown.
        CallFailed: it failed.
    """
    if digest != asked:
        raise KeyReused("this Idempotency-Key was used with another body: use a new key for a new call")
    if outcome is None:
        raise Conflict("quartermaster ended during the call with this Idempotency-Key, so its outcome is unknown")
    kept = msgspec.msgpack.decode(outcome, type=_Stored)
    if kept.status:
        raise ReplayedFailure(kept.detail, kept.status, kept.members)
    return Answer(kept.body, kept.content_type, kept.instance, kept.version, kept.duration_ms, kept.cold)
