"""``POST /functions/{name}/invoke``: the body is the input, the answer's body the output."""

from __future__ import annotations

import hashlib

from ..errors import BadRequest
from ..functions.invocations import Answer, Call
from ..functions.replays import Left, key_of
from ..models import requests
from .raw import EMPTY, CallHandler


class InvokeHandler(CallHandler):
    """``POST /functions/{name}/invoke``."""

    def admit(self) -> None:
        identity = self.identify({}, "invoke")
        self.parameters()
        self._key = requests.check_key(self.request.headers.get_list("Idempotency-Key"))
        self.version = self.find(self.path_args[0], None, identity)
        self.take_room(identity.name, identity.grant is not None)

    async def post(self, name: str) -> None:
        key, trace_id = self._key, self.request.headers.get("X-Amzn-Trace-Id")
        call = Call(self.request_id, self.payload() or EMPTY, self.by or "", trace_id=trace_id, streams=key is None)
        answer = await (self.invoke(call) if key is None else self._once(key, call))
        self._describe(answer)
        await self.send_answer(answer)

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
