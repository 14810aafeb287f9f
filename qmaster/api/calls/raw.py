"""Base of the handlers that call functions: raw bodies, a caller known before the body is read, raw answers."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import structlog
from tornado.http1connection import HTTP1Connection

from ...auth.authenticator import Authenticator, Identity
from ...errors import HttpError, NotFound, PayloadTooLarge, TooManyUnread
from ...events.unsent import Unsent
from ...functions.asynchronous.invoker import Accepted, AsyncInvoker, Order
from ...functions.dispatcher import Dispatcher
from ...functions.invocations.invocation import MAX_PAYLOAD, Answer, Call, Chunks
from ...functions.invocations.replays import KeyedCalls, Make, RetryMemory
from ...functions.versions.service import FunctionService
from ...models.functions import Version
from ..base import SLICE, BaseHandler
from ..limits import ConnectionLimiter
from .bodies import BodyLease, BodyLimiter, PublicCallers

# Bytes of too large a body that are read and dropped, as many clients read no answer before they have sent all of it.
MAX_DROPPED = 32 * 1024 * 1024
BODY_WITHIN = 60.0  # seconds for a body of 6 MiB; 10 for small ones would need 5 Mbit/s
MAX_UNREAD = 64 * 1024 * 1024  # bytes of answers of calls that a token may leave unread
HELD = 4 * SLICE  # bytes that a streamed answer counts as unread
NO_FUNCTIONS = "this quartermaster serves no functions; see --runtime-port"
EMPTY = b"{}"  # the input of a call without a body: the Python client fails on an empty one

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Calls:
    """What the handlers that call functions use.

    Attributes:
        functions: finds functions; None: this quartermaster serves none.
        dispatcher: calls them; None: this quartermaster serves none.
        connections: limits the calls that wait.
        domain: ``--function-domain``.
        bodies: limits the bodies in flight.
        public: limits the callers without a token.
        keyed: calls with an ``Idempotency-Key``; None: they are not supported.
        retries: calls that AWS' SDKs send again.
        asynchronous: takes calls that are made later; None: this quartermaster serves no functions.
    """

    functions: FunctionService | None
    dispatcher: Dispatcher | None
    connections: ConnectionLimiter
    domain: str = ""
    bodies: BodyLimiter = field(default_factory=BodyLimiter)
    public: PublicCallers = field(default_factory=PublicCallers)
    keyed: KeyedCalls | None = None
    retries: RetryMemory = field(default_factory=RetryMemory)
    asynchronous: AsyncInvoker | None = None


class CallHandler(BaseHandler):
    """A handler that calls a function. Its caller is known, and its room is taken, before the body is read.

    Attributes:
        version: the version to call.
    """

    version: Version

    def initialize(self, auth: Authenticator, busy: set[object], calls: Calls) -> None:
        super().initialize(auth, busy)
        self.calls = calls
        self.log_fields: dict[str, object] = {}
        self._lease: BodyLease | None = None
        self._most = MAX_PAYLOAD  # bytes of the body
        self._held = contextlib.ExitStack()
        self._left: asyncio.Future[None] | None = None  # done when the caller has disconnected

    def set_default_headers(self) -> None:
        if not hasattr(self, "request_id"):  # never the caller's: it is the invocation's id too
            self.request_id = str(uuid.uuid4())
        super().set_default_headers()

    # -- before the body -------------------------------------------------------------------------------------------

    def check_head(self) -> None:
        """Find out who calls what, and take the room that the call needs."""
        self.refuse_encoding()
        self.refuse_token_in_url()
        self.admit()

    def admit(self) -> None:
        """Set the version to call; raise where the caller may not call it."""
        raise NotImplementedError

    def find(self, name: str, qualifier: str | None, by: Identity | None) -> Version:
        """Return a version of a function.

        Args:
            name: the function's name.
            qualifier: a version's number, ``$LATEST``, or None for the newest.
            by: the caller; None: anybody, through a public URL.

        Raises:
            NotFound: there is none, or the caller may not call it.
        """
        if self.calls.functions is None or self.calls.dispatcher is None:
            raise NotFound(NO_FUNCTIONS)
        self.log_fields["function"] = name
        return self.calls.functions.resolve(name, qualifier, by)

    def take_room(self, owner: str, limited: bool, most: int = MAX_PAYLOAD) -> None:
        """Take a slot for the call, and room for its body.

        Args:
            owner: the name of the token, or whom a public URL's calls are counted to.
            limited: whether the owner is limited to its share of slots.
            most: the bytes that the body may have.

        Raises:
            PayloadTooLarge: the body is over ``most`` bytes.
            TooManyConnections: too many calls wait already.
            TooManyBodies: too many bytes of bodies are in flight.
            TooManyUnread: earlier answers are unread.
        """
        self._most = most
        length = self.content_length()
        if length > most and (length > MAX_DROPPED or self.request.headers.get("Expect")):
            raise self._too_large()
        self.require_read(1)
        self.hold(self.calls.connections.take("call", owner, limited).release)
        self._lease = self.calls.bodies.lease(owner)
        self.hold(self._lease.release)
        if length <= most:
            self._lease.grow_to(length)
        connection = cast(HTTP1Connection, self.request.connection)
        connection.set_max_body_size(sys.maxsize)  # ``data_received`` has the limit, as Tornado's answer is a bare 400
        connection.set_body_timeout(BODY_WITHIN)

    def hold(self, release: Callable[[], object]) -> None:
        """Call ``release`` when the request is over."""
        self._held.callback(release)

    # -- the body --------------------------------------------------------------------------------------------------

    def data_received(self, chunk: bytes) -> None:
        self._received += len(chunk)
        try:
            if self._received > MAX_DROPPED:
                raise self._too_large()
            if self._received > self._most:
                self._drop()
                return
            if self._lease is not None:
                self._lease.grow_to(self._received)  # a chunked body has no length
        except HttpError as error:
            self._chunks.clear()
            self._prepared = False  # the rest is not read
            self.send_error(int(error.status), exc_info=(type(error), error, None))
            return
        self._chunks.append(chunk)

    def _drop(self) -> None:
        """Drop the body, which is too large, and give its room back."""
        self._chunks.clear()
        if self._lease is not None:
            self._lease.release()

    def payload(self) -> bytes:
        """Return the whole body.

        Raises:
            PayloadTooLarge: it is larger than this call may be.
        """
        if self._received > self._most:
            raise self._too_large()
        self._begun = True
        body = b"".join(self._chunks)
        self._chunks.clear()
        return body

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body is over {self._most} bytes")

    # -- the call --------------------------------------------------------------------------------------------------

    async def invoke(self, call: Call) -> Answer:
        """Call the function, and return its answer."""
        return await self.ask(lambda left: self.dispatch(call, left))

    async def ask(self, make: Make) -> Answer:
        """Return the answer that ``make`` gets; a caller that disconnects is reported to it.

        Raises:
            TooManyUnread: too many earlier answers are unread.
        """
        self._left = asyncio.get_running_loop().create_future()
        answer = await make(self._left)
        self.log_fields |= {"version": answer.version, "instance": answer.instance, "cold": answer.cold}
        unsent: Unsent = self.settings["unsent"]
        if unsent.of(self.reader) > MAX_UNREAD:
            if answer.chunks is not None:
                await answer.chunks.aclose()
            raise TooManyUnread("the function has answered, but too many earlier answers are unread")
        return answer

    def dispatch(self, call: Call, left: asyncio.Future[None]) -> Awaitable[Answer]:
        if self.calls.dispatcher is None:
            raise NotFound(NO_FUNCTIONS)
        return self.calls.dispatcher.invoke(self.version, call, left)

    async def accept(self, call: Call, qualifier: int | None, key: str | None) -> Accepted:
        """Take a call that is made later, and return its invocation, which has an id of its own.

        Args:
            call: what is asked.
            qualifier: the version's number; None: the newest at each attempt.
            key: hashed; calls with the same key are taken once. None: there is none.
        """
        invoker = self.calls.asynchronous
        if invoker is None:
            raise NotFound(NO_FUNCTIONS)
        order = Order(
            invoker.new_id(),
            self.version.function,
            qualifier,
            call.owner,
            call.payload,
            client_context=call.client_context,
            trace_id=call.trace_id,
            key=key,
        )
        accepted = await invoker.accept(self.version, order)
        self.log_fields |= {"version": self.version.number, "invocation": accepted.id}
        if accepted.id != order.id:
            self.set_header("Idempotency-Replayed", "true")
        return accepted

    def on_finish(self) -> None:
        self._held.close()
        super().on_finish()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if not self._begun:
            self._held.close()
        if self._left is not None and not self._left.done():
            self._left.set_result(None)

    # -- the answer ------------------------------------------------------------------------------------------------

    async def send_answer(self, answer: Answer) -> None:
        """Send the function's answer as it is."""
        self.set_header("Content-Type", answer.content_type)
        if answer.chunks is not None:
            await self.send_chunks(answer.chunks)
        else:
            await self.send_whole(answer.body)

    async def send_whole(self, body: bytes) -> None:
        """Send an answer; a large one counts as unread, but is never refused, as the call was made."""
        if len(body) <= SLICE or self.request.method == "HEAD":
            self.finish(body)
        else:
            await self.send_slices(body)

    async def send_chunks(self, chunks: Chunks, first: bytes | None = None) -> None:
        """Send a streamed answer at the client's pace; one that breaks off ends without its last chunk.

        Args:
            chunks: the answer.
            first: what is sent before it, with the headers; None: they are sent with the first part.

        Raises:
            HttpError: the call failed before anything was sent.
        """
        self.set_header("X-Accel-Buffering", "no")
        begun = first is not None
        try:
            with self.unread(HELD):
                if first is not None:
                    self.write(first)
                    await self.pass_on()
                async for chunk in chunks:
                    self.write(chunk)
                    begun = True
                    await self.pass_on()
        except HttpError as error:
            if not begun:
                raise
            self.break_off(error)
        finally:
            await chunks.aclose()

    def break_off(self, error: HttpError) -> None:
        """Disconnect, so that no client takes a streamed answer for complete."""
        self.failure = self.without_token(str(error))
        log.warning("answer_cut_off", request=self.request_id, reason=self.failure)
        self.client_stream.close()
