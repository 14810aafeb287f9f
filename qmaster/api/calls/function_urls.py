"""Function URLs: ``ANY /fn/{name}/…``, and every path of ``NAME.domain`` under ``--function-domain``."""

from __future__ import annotations

import base64
import binascii
import contextlib
import time
from itertools import islice
from urllib.parse import parse_qsl

from ... import limiter
from ...auth.authenticator import Authenticator, Identity, source
from ...errors import BadRequest, CallFailed, NotFound, UrlFailed
from ...functions.invocations import urls
from ...functions.invocations.invocation import Answer, Call, Chunks
from ...functions.invocations.urls import UrlRequest, UrlResponse
from ..base import HEADERS, MAX_PARAMETERS, NO_TOKEN_IN_URL
from .raw import CallHandler, Calls

PUBLIC = "public URLs"  # the owner of the calls of public URLs: no token has a space in its name
KEPT_HEADERS = frozenset({"Server"})
TOKEN_HEADERS = ("authorization", "x-amz-security-token")


class FunctionUrlHandler(CallHandler):
    """``ANY /fn/{name}/…``."""

    ROUTE = "/fn/{name}"
    IS_SHARED = False  # the function itself says what other pages may read

    def initialize(self, auth: Authenticator, busy: set[object], calls: Calls) -> None:
        super().initialize(auth, busy, calls)
        self._is_public = False

    # -- before the body -------------------------------------------------------------------------------------------

    def refuse_encoding(self) -> None:
        """Accept any: the body is the function's."""

    def refuse_token_in_url(self) -> None:
        """Refuse a token of ours; another one is the function's. A thousand guesses in one query are not looked at."""
        sent = islice(parse_qsl(self.request.query, errors="replace"), MAX_PARAMETERS)
        if any(self._is_ours(value) for _, value in sent):
            raise BadRequest(NO_TOKEN_IN_URL)

    def admit(self) -> None:
        self._refuse_upgrade()
        name = self.name_of_function()
        identity = self._identify(name)
        if identity is None:
            self._admit_anybody()
        else:
            self.version = self.find(name, None, identity)
            if self.version.spec.url == "none":
                raise NotFound("this function has no URL; see its field url")
            self.take_room(identity.name, identity.grant is not None)

    def name_of_function(self) -> str:
        return self.path_args[0]

    def place(self) -> tuple[str, str]:
        """Return the prefix of the function's paths, and the path below it, as it was sent."""
        _, _, _, *rest = self.request.path.split("/", 3)
        return f"/fn/{self.path_args[0]}", "/" + "".join(rest)

    def _refuse_upgrade(self) -> None:
        asked = self.request.headers.get("Upgrade", "h2c").strip().lower()
        if asked != "h2c":  # clients that can speak HTTP/2 offer it, and go on without
            raise BadRequest("a function URL takes no upgrade, such as a websocket")

    def _identify(self, name: str) -> Identity | None:
        """Return the caller; None where the function is public.

        Without a token, a function that is not there looks like one that is not public.
        """
        with contextlib.suppress(NotFound):
            self.version = self.find(name, None, None)
            if self.version.spec.url == "public":
                return None
        return self.identify({}, "invoke")

    def _admit_anybody(self) -> None:
        self._is_public = True
        address = source(self.request.remote_ip or "")
        limiter.act_for(PUBLIC)
        self.hold(self.calls.public.enter(address))
        lease = self.calls.public.bodies.lease(address)
        self.hold(lease.release)
        lease.grow_to(self.content_length())
        self.take_room(PUBLIC, limited=True)

    def _is_ours(self, text: str) -> bool:
        return self._auth.recognizes(text)

    # -- the call --------------------------------------------------------------------------------------------------

    async def serve(self, *args: str) -> None:
        """Call the function with the request, and answer with its response."""
        prefix, path = self.place()
        request = UrlRequest(
            id=self.request_id,
            method=self.request.method or "",
            path=path,
            query=self.request.query,
            headers=list(self.request.headers.get_all()),
            body=self.payload(),
            address=self.request.remote_ip or "",
            scheme=self.request.protocol,
            prefix=prefix,
            at=time.time(),
        )
        call = Call(self.request_id, urls.event(request, self._secrets()), self.by or "", streams=True)
        try:
            answer = await self.invoke(call)
            await self._respond(answer, prefix)
        except CallFailed as error:
            raise UrlFailed(error) from error

    get = head = post = put = patch = delete = options = serve

    def _secrets(self) -> list[str]:
        """Return the names of headers that the function does not get: those with a token of ours."""
        return [
            name
            for name in TOKEN_HEADERS
            if not self._is_public or any(self._has_token(value) for value in self.request.headers.get_list(name))
        ]

    def _has_token(self, header: str) -> bool:
        scheme, _, rest = header.strip().partition(" ")
        given = [header.strip(), rest.strip()]
        if scheme.lower() == "basic":
            with contextlib.suppress(binascii.Error, ValueError):
                given += base64.b64decode(rest.strip()).decode("latin-1").split(":", 1)
        return any(map(self._is_ours, given))

    async def _respond(self, answer: Answer, prefix: str) -> None:
        if answer.chunks is None:
            response = urls.response(answer.body, answer.content_type, prefix)
            self._begin(response)
            await self._send(response)
        else:
            await self._send_stream(answer.chunks, answer.content_type, prefix)

    async def _send(self, response: UrlResponse) -> None:
        if response.status in (204, 304):  # they have no body
            self.finish()
        else:
            await self.send_whole(response.body)

    async def _send_stream(self, chunks: Chunks, content_type: str, prefix: str) -> None:
        try:
            response = await self._read_prelude(chunks, content_type, prefix)
            self._begin(response)
            if self.request.method == "HEAD" or response.status in (204, 304):
                self.finish()
            else:
                await self.send_chunks(chunks, response.body if urls.has_prelude(content_type) else None)
        finally:
            await chunks.aclose()

    async def _read_prelude(self, chunks: Chunks, content_type: str, prefix: str) -> UrlResponse:
        if not urls.has_prelude(content_type):
            return urls.response(b"", content_type or urls.BYTES, prefix)
        begun = b""
        async for chunk in chunks:
            begun += chunk
            found = urls.split_prelude(begun)
            if found is not None:
                return urls.begin(*found, prefix)
        return urls.response(begun, content_type, prefix)

    def _begin(self, response: UrlResponse) -> None:
        """Set the status and the headers: the function's, in place of those of every answer."""
        self.set_status(response.status)
        for name in HEADERS.keys() - KEPT_HEADERS:
            self.clear_header(name)
        seen: set[str] = set()
        for name, value in response.headers:
            (self.add_header if name.lower() in seen else self.set_header)(name, value)
            seen.add(name.lower())


class FunctionHostHandler(FunctionUrlHandler):
    """Every path of ``NAME.domain``: an origin of the function's own."""

    ANY_HOST = True

    def name_of_function(self) -> str:
        return self.request.host_name.removesuffix(f".{self.calls.domain}")

    def place(self) -> tuple[str, str]:
        return "", self.request.path or "/"
