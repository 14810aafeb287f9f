"""Images: what a registry says of one, asked through the engine as often as ``pull_policy`` says; and pulls."""

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
from .client import CHANGE, LISTING, Calls, decode
from .errors import EngineBusy, EngineTimeout

PULL_WITHIN = 600.0  # seconds
# Seconds between two lines of progress: 26.1 with the containerd image store says nothing while it unpacks (measured).
SILENCE = 120.0
KEPT = 60.0  # seconds that an answer, or a silence, is believed
MAX_KEPT = 1000

_DENIED = re.compile(
    r"unauthorized|denied|no basic auth|authentication required|incorrect username|forbidden|(?<![:.\d])40[13]\b",
    re.IGNORECASE,
)
_MISSING = re.compile(r"manifest unknown|not found|name unknown|no such|(?<![:.\d])404\b", re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"|(?<![^\s"])[^\s"/]*/\S*')  # a URL or a reference: it holds a name that a caller chose


@dataclass(frozen=True)
class Answer:
    """``digest`` is set where the registry told one; ``said`` are its words, or the engine's, where it did not.

    ``last`` is the digest that a silent registry told within the minute before: credentials were right then.
    """

    kind: Literal["digest", "missing", "denied", "silent"]
    digest: str = ""
    said: str = ""
    last: str = ""


class Registry:
    """Digests of images, and whether credentials are right. Belongs to the event loop.

    Args:
        calls: for these questions alone, so that a slow registry holds up nobody else.
    """

    def __init__(self, calls: Calls, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls
        self._clock = clock
        self._salt = os.urandom(16)
        self._kept: OrderedDict[bytes, tuple[float, Answer]] = OrderedDict()
        # An owner's own: another's question would wait in the queue of whoever asked first.
        self._open: dict[tuple[str | None, bytes], asyncio.Task[Answer]] = {}

    async def pin(
        self,
        image: str,
        credentials: Credentials | None,
        pull: PullPolicy = "missing",
        warnings: list[str] | None = None,
    ) -> str:
        """The image with the digest that the registry has for it; as it is, where none is told.

        Args:
            pull: ``always`` wants the digest of now, ``missing`` one of the last minute; ``never`` asks nobody.
            warnings: takes that ``always`` was in vain.

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
            _require_welcome(reference.domain, answer)
        if fresh and not answer.digest and warnings is not None:
            warnings.append(_not_fresh(reference.domain, answer))
        digest = answer.digest if fresh else answer.digest or answer.last
        return f"{image}@{digest}" if digest and not reference.digest else image

    def _key(self, image: str, header: str | None) -> bytes:
        """A salted digest: credentials are not kept, not even in memory."""
        return hashlib.blake2b(f"{image}\0{header or ''}".encode(), key=self._salt).digest()

    async def _once(self, key: bytes, ask: Callable[[], Coroutine[Any, Any, Answer]], fresh: bool) -> Answer:
        """Ask once for all that want to know it now; what was told before counts for a while.

        Args:
            key: of the answer.
            ask: asks the registry.
            fresh: whether only an answer counts that comes from now on; a silence is believed all the same.
        """
        kept = self._kept.get(key)
        told = kept[1] if kept is not None and kept[0] >= self._clock() else None
        if told is not None and not (fresh and told.kind != "silent"):
            return told
        mine = (limiter.owner(), key)
        task = self._open.get(mine)
        if task is None:  # no await up to here: an owner's calls that come while its question is open share the answer
            task = self._open[mine] = asyncio.create_task(self._answered(key, ask, told))
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
        except (EngineAway, TooManyCalls):  # the engine's silence is not the registry's, and our queue is nobody's
            raise
        except HttpError as error:
            return _failure(str(error), image)
        return Answer("digest", digest=digest)


class _Descriptor(msgspec.Struct):
    digest: str


class _Distribution(msgspec.Struct, rename={"descriptor": "Descriptor"}):
    descriptor: _Descriptor


def _failure(said: str, image: str) -> Answer:
    """What the registry's words mean, whatever the image is called."""
    reference = Reference.parse(image)
    short = reference.path.removeprefix("library/")  # with a domain or a path it holds a slash
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
    return f"pull_policy: the registry {domain} {why}, so what is there already is used: {answer.said}"


def _require_welcome(domain: str, answer: Answer) -> None:
    if answer.kind == "denied":
        raise RegistryRefused(f"the registry {domain} refused the credentials in auth: {answer.said}")
    if answer.kind == "silent" and not answer.last:
        raise RegistryRefused(f"the registry {domain} did not answer, so auth could not be checked: {answer.said}")


class Images:
    """Pulls. Belongs to the event loop.

    Args:
        calls: for pulls alone, so that a large image holds up nobody else.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._pulling: dict[tuple[str | None, str, str], asyncio.Task[None]] = {}

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Pull an image; an owner's calls for the same one with the same credentials wait for one pull.

        Not another owner's: it would wait in the queue of whoever came first. Docker itself fetches no layer twice.

        Raises:
            RegistryRefused: the registry did not give it.
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
            # With its containerd image store an engine waits for a frozen registry without end (measured on 28.5).
            raise _refused(image, "no answer came in time") from error

    async def _read(self, image: str, header: str) -> None:
        """Docker's ``POST /images/create``: its failures come as a line of a stream that began with 200."""
        reference = Reference.parse(image)
        params = {"fromImage": reference.name, "tag": reference.digest or reference.tag or "latest"}
        headers = {"X-Registry-Auth": header} if header else {}
        try:
            async with asyncio.timeout(CHANGE):  # for the registry's first word
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
    """Where an image of this engine is inspected."""
    return f"/images/{quote(image, safe='/:')}/json"


def _refused(image: str, said: str) -> RegistryRefused:
    return RegistryRefused(f"the image {image} is not on this engine, and the registry did not give it: {said}")
