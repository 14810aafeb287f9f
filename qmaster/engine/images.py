"""Images of this engine: pulled once, however many wait for one."""

from __future__ import annotations

import asyncio
import json
import time

import docker.errors

from .. import limiter
from ..errors import RegistryRefused
from ..models.credentials import Credentials, hide
from ..models.images import Reference
from .client import Client
from .errors import EngineTimeout, explanation
from .pool import CHANGE, Pool

PULL_WITHIN = 600.0  # seconds
# Seconds between two lines of progress: 26.1 with the containerd image store says nothing while it unpacks (measured).
SILENCE = 120.0


class Images:
    """Pulls. Belongs to the event loop.

    Args:
        pool: for pulls alone, so that a large image holds up nobody else.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
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
            await self._pool.call(lambda client: _pull(client, image, header), PULL_WITHIN)
        except EngineTimeout as error:
            # With its containerd image store an engine waits for a frozen registry without end (measured on 28.5).
            raise _refused(image, "no answer came in time") from error


def _pull(client: Client, image: str, header: str) -> None:
    """Docker's ``POST /images/create``: its failures come as a line of a stream that began with 200."""
    reference = Reference.parse(image)
    params = {"fromImage": reference.name, "tag": reference.digest or reference.tag or "latest"}
    headers = {"X-Registry-Auth": header} if header else {}
    client.timeout = CHANGE  # for the registry's first word
    until = time.monotonic() + PULL_WITHIN
    try:
        with client.open_lines("/images/create", params, headers, SILENCE) as response:
            for line in response.iter_lines():
                if time.monotonic() > until:  # it holds a slot of its owner's, though nobody waits for it any more
                    raise _refused(image, f"it took longer than {PULL_WITHIN:g} s")
                progress = json.loads(line) if line.strip() else {}
                if "error" in progress:
                    raise _refused(image, hide(str(progress["error"]), header))
    except docker.errors.APIError as error:
        raise _refused(image, explanation(error)) from error


def _refused(image: str, said: str) -> RegistryRefused:
    return RegistryRefused(f"the image {image} is not on this engine, and the registry did not give it: {said}")
