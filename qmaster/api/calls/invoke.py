"""``POST /functions/{name}/invoke``: the body is the input, the answer's body the output.

With ``Prefer: respond-async`` (RFC 7240) the call is made later, and the answer names its invocation.
"""

from __future__ import annotations

import hashlib
from http import HTTPStatus

from tornado.httputil import HTTPHeaders

from ...errors import BadRequest
from ...functions.asynchronous.invoker import MAX_PAYLOAD as MAX_LATER
from ...functions.invocations.invocation import MAX_PAYLOAD, Answer, Call
from ...functions.invocations.replays import Left, key_of
from ...models import requests
from .raw import EMPTY, CallHandler

RESPOND_ASYNC = "respond-async"


class InvokeHandler(CallHandler):
    """``POST /functions/{name}/invoke``."""

    def admit(self) -> None:
        identity = self.identify({}, "invoke")
        self.parameters()
        self._key = requests.check_key(self.request.headers.get_list("Idempotency-Key"))
        self.version = self.find(self.path_args[0], None, identity)
        self._later = responds_async(self.request.headers)
        self.take_room(identity.name, identity.grant is not None, MAX_LATER if self._later else MAX_PAYLOAD)

    async def post(self, name: str) -> None:
        key, trace_id = self._key, self.request.headers.get("X-Amzn-Trace-Id")
        call = Call(self.request_id, self.payload() or EMPTY, self.by or "", trace_id=trace_id, streams=key is None)
        if self._later:
            await self._accept(call)
            return
        answer = await (self.invoke(call) if key is None else self._once(key, call))
        self._describe(answer)
        await self.send_answer(answer)

    async def _accept(self, call: Call) -> None:
        key = None if self._key is None else key_of((call.owner, self.version.function, self._key))
        accepted = await self.accept(call, None, key)
        self.set_header("Preference-Applied", RESPOND_ASYNC)
        self.set_header("Location", f"/invocations/{accepted.id}")
        await self.answer({"success": True, "id": accepted.id, "status": accepted.status}, HTTPStatus.ACCEPTED)

    async def _once(self, key: str, call: Call) -> Answer:
        """Make the call of an idempotency key, or return its answer."""
        keyed = self.calls.keyed
        if keyed is None:
            raise BadRequest("Idempotency-Key: not supported by this quartermaster")
        hashed, digest = key_of((call.owner, self.version.function, key)), hashlib.sha256(call.payload).hexdigest()

        async def make(left: Left) -> Answer:
            answer, replayed = await keyed.once(
                call.owner, hashed, digest, lambda all_left: self.dispatch(call, all_left), left
            )
            if replayed:
                self.set_header("Idempotency-Replayed", "true")
            return answer

        return await self.ask(make)

    def _describe(self, answer: Answer) -> None:
        self.set_header("Qmaster-Instance", answer.instance)
        self.set_header("Qmaster-Version", answer.version)
        self.set_header("Qmaster-Duration-Ms", f"{answer.duration_ms:.2f}")
        self.set_header("Qmaster-Cold", "true" if answer.cold else "false")


def responds_async(headers: HTTPHeaders) -> bool:
    """Return whether a header ``Prefer`` has ``respond-async``; other preferences are ignored, as RFC 7240 says."""
    preferences = ",".join(headers.get_list("Prefer")).split(",")
    return any(each.partition(";")[0].strip().lower() == RESPOND_ASYNC for each in preferences)
