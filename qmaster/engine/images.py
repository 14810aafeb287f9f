"""Images: digests from the registry, asked through the engine and cached by ``pull_policy``; and pulls."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from .. import limiter
from ..errors import EngineAway, EngineUnavailable, HttpError, RegistryRefused, TooManyCalls
from ..models.credentials import Credentials, hide
from ..models.images import Reference
from ..models.requests import PullPolicy
from .calls import CHANGE, LISTING, Calls, decode
from .errors import EngineBusy, EngineTimeout

PULL_WITHIN = 600.0  # seconds
# Seconds between two lines of progress: 26.1 with the containerd image store sends none while it unpacks (measured).
SILENCE = 120.0
KEPT = 60.0  # seconds that an answer, or the lack of one, is cached
MAX_KEPT = 1000

_DENIED = re.compile(
    r"unauthorized|denied|no basic auth|authentication required|incorrect username|forbidden|(?<![:.\d])40[13]\b",
    re.IGNORECASE,
)
_MISSING = re.compile(r"manifest unknown|not found|name unknown|no such|(?<![:.\d])404\b", re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"|(?<![^\s"])[^\s"/]*/\S*')  # a URL or a reference: it has a name that a caller chose


@dataclass(frozen=True)
class Answer:
    """A registry's answer. ``digest`` is set if it gave one, else ``said`` has its message, or the engine's.

    ``last`` is the digest that a silent registry gave in the minute before; the credentials were right then.
    """

    kind: Literal["digest", "missing", "denied", "silent"]
    digest: str = ""
    said: str = ""
    last: str = ""


class Registry:
    """Digests of images, and whether credentials are right. Belongs to the event loop.

    Args:
        calls: slots for registry requests only, so that a slow registry delays no other call.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, calls: Calls, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls
        self._clock = clock
        self._salt = os.urandom(16)
        self._kept: OrderedDict[bytes, tuple[float, Answer]] = OrderedDict()
        # Separate for each owner: a shared request would wait in the queue of the owner who made it.
        self._open: dict[tuple[str | None, bytes], asyncio.Task[Answer]] = {}

    async def pin(
        self,
        image: str,
        credentials: Credentials | None,
        pull: PullPolicy = "missing",
        warnings: list[str] | None = None,
    ) -> str:
        """Return the image with its digest from the registry, or unchanged if the registry gives none.

        Args:
            image: the reference.
            credentials: for the registry, or None.
            pull: ``always`` asks for the current digest, ``missing`` accepts one of the last minute, ``never`` sends
                no request.
            warnings: receives a warning if ``always`` got no digest.

        Raises:
            RegistryRefused: credentials were given, and the registry refused them or did not answer.
        """
        header = credentials.header() if credentials else None
        reference = Reference.parse(image)
        if pull == "never" or (reference.digest and header is None):
            return image
        fresh = pull == "always" and not reference.digest
        answer = await self._once(self._key(image, header), lambda: self._ask(image, header), fresh)
        if header is not None:
            _require_accepted(reference.domain, answer, credentials.source if credentials else "")
        if fresh and not answer.digest and warnings is not None:
            warnings.append(_not_fresh(reference.domain, answer))
        digest = answer.digest if fresh else answer.digest or answer.last
        return f"{image}@{digest}" if digest and not reference.digest else image

    def _key(self, image: str, header: str | None) -> bytes:
        """Return a salted digest, so that the cache does not hold credentials."""
        return hashlib.blake2b(f"{image}\0{header or ''}".encode(), key=self._salt).digest()

    async def _once(self, key: bytes, ask: Callable[[], Coroutine[Any, Any, Answer]], fresh: bool) -> Answer:
        """Return a cached answer, or send one request for all that ask at the same time.

        Args:
            key: the key of the answer.
            ask: sends the request to the registry.
            fresh: accept no cached answer, except that the registry is silent.
        """
        kept = self._kept.get(key)
        cached = kept[1] if kept is not None and kept[0] >= self._clock() else None
        if cached is not None and not (fresh and cached.kind != "silent"):
            return cached
        mine = (limiter.owner(), key)
        task = self._open.get(mine)
        if task is None:  # no await up to here, so an owner's calls at one time share the request
            task = self._open[mine] = asyncio.create_task(self._answered(key, ask, cached))
            task.add_done_callback(lambda _: self._open.pop(mine, None))
        return await asyncio.shield(task)

    async def _answered(
        self, key: bytes, ask: Callable[[], Coroutine[Any, Any, Answer]], before: Answer | None
    ) -> Answer:
        until = self._clock() + KEPT
        answer = await ask()
        if before is not None and answer.kind == "silent":
            answer = replace(answer, last=before.digest)
        self._kept[key] = (until, answer)
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return answer

    async def _ask(self, image: str, header: str | None) -> Answer:
        sent = {} if header is None else {"X-Registry-Auth": header}
        path = f"/distribution/{quote(image, safe='/:')}/json"
        try:
            said = await self._calls.call(lambda: self._calls.client.send("GET", path, headers=sent), LISTING)
            digest = decode(said, _Distribution).descriptor.digest
        except (EngineTimeout, EngineBusy) as error:
            return Answer("silent", said=str(error))
        except (EngineAway, TooManyCalls):  # not the registry's failure, but the engine's or our own queue's
            raise
        except HttpError as error:
            return _failure(str(error), image)
        return Answer("digest", digest=digest)


class _Descriptor(msgspec.Struct):
    digest: str


class _Distribution(msgspec.Struct, rename={"descriptor": "Descriptor"}):
    descriptor: _Descriptor


def _failure(said: str, image: str) -> Answer:
    """Classify the registry's message, ignoring the name of the image in it."""
    reference = Reference.parse(image)
    short = reference.path.removeprefix("library/")  # with a domain or a path it has a slash
    words = _QUOTED.sub(" ", said)
    for end in (f":{reference.tag or 'latest'}", f"@{reference.digest}"):
        words = words.replace(short + end, " ")
    if _DENIED.search(words):
        return Answer("denied", said=said)
    if _MISSING.search(words):
        return Answer("missing", said=said)
    return Answer("silent", said=said)


def _not_fresh(domain: str, answer: Answer) -> str:
    why = {"missing": "has no such image", "denied": "refused the image"}.get(answer.kind, "did not answer")
    return f"pull_policy: the registry {domain} {why}, so the local image is used: {answer.said}"


def _require_accepted(domain: str, answer: Answer, source: str) -> None:
    if answer.kind == "denied":
        raise RegistryRefused(f"the registry {domain} refused the credentials in {source}: {answer.said}")
    if answer.kind == "silent" and not answer.last:
        raise RegistryRefused(f"the registry {domain} did not answer, so {source} could not be checked: {answer.said}")


class Images:
    """Pulls. Belongs to the event loop.

    Args:
        calls: slots for pulls only, so that a large image delays no other call.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._pulling: dict[tuple[str | None, str, str], asyncio.Task[None]] = {}

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Pull an image. An owner's calls with the same image and credentials share one pull.

        Owners do not share: a shared pull would wait in the queue of the first. Docker itself fetches a layer once.

        Raises:
            RegistryRefused: the image could not be pulled.
        """
        header = credentials.header() if credentials else ""
        key = (limiter.owner(), image, header)
        task = self._pulling.get(key)
        if task is None:
            task = asyncio.create_task(self._pull(image, header))
            self._pulling[key] = task
            task.add_done_callback(lambda _: self._pulling.pop(key, None))
        await asyncio.shield(task)

    async def _pull(self, image: str, header: str) -> None:
        try:
            await self._calls.call(lambda: self._read(image, header), PULL_WITHIN)
        except EngineTimeout as error:
            # With the containerd image store an engine waits for a frozen registry for ever (measured on 28.5).
            raise _refused(image, "no answer came in time") from error

    async def _read(self, image: str, header: str) -> None:
        """Call ``POST /images/create``, which reports a failure as a line of a stream that began with 200."""
        reference = Reference.parse(image)
        params = {"fromImage": reference.name, "tag": reference.digest or reference.tag or "latest"}
        headers = {"X-Registry-Auth": header} if header else {}
        try:
            async with asyncio.timeout(CHANGE):  # until the registry's first answer
                body = await self._calls.client.open("POST", "/images/create", params, headers, SILENCE)
        except HttpError as error:
            if not error.of_engine or isinstance(error, EngineUnavailable):
                raise
            raise _refused(image, str(error)) from error
        with body:
            rest = b""
            while chunk := await body.read():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(bytes.strip, lines):
                    failure = decode(line, dict[str, Any]).get("error")
                    if failure:
                        raise _refused(image, hide(str(failure), header))


def image_path(image: str) -> str:
    """Return the path to inspect a local image."""
    return f"/images/{quote(image, safe='/:')}/json"


def _refused(image: str, said: str) -> RegistryRefused:
    return RegistryRefused(f"the image {image} is not on this engine, and the registry did not give it: {said}")
