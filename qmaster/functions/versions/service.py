"""Publish, list, roll back and delete functions: the operations of the API on them. Belongs to the event loop.

Steps of a publication: policy → secrets and networks there? → pin the image → the next free number → prune → answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import structlog

from ...auth import policy
from ...auth.authenticator import Identity
from ...auth.registries import OPTION, RegistryAuth
from ...engine import subfolders
from ...engine.services import Swarm
from ...errors import Conflict, HttpError, NotFound
from ...models.functions import (
    Function,
    FunctionSpec,
    FunctionStats,
    FunctionVersion,
    Version,
    check_name,
    read_qualifier,
)
from ...models.images import Reference
from ...models.requests import PullPolicy, RunRequest
from ...models.responses import mask
from ...models.schedules import keys
from ...models.units import rfc3339
from ...models.validation import quote
from ..callbacks.webhooks import Receivers
from .store import VersionData, VersionStore

KEPT = 10  # versions of a function
TRIES = 32  # numbers to try, one for each publisher at this moment

log = structlog.get_logger(__name__)


class Published(NamedTuple):
    """What became of a publication; ``changed``: there is a new version."""

    function: Function
    changed: bool
    warnings: tuple[str, ...] = ()


class FunctionService:
    """The functions of the swarm.

    Args:
        store: their versions.
        swarm: pins images, and knows secrets and networks.
        registry_auth: the credentials with which functions pull.
        rules: the server's rules for runs.
        stats: what this quartermaster does for a function now.
        holder: returns the holder of the token with this name, None if there is none.

    Attributes:
        receivers: where callbacks may go.
    """

    def __init__(
        self,
        store: VersionStore,
        swarm: Swarm,
        registry_auth: RegistryAuth,
        rules: policy.Rules,
        stats: Callable[[str], FunctionStats] = lambda name: FunctionStats(),
        holder: Callable[[str], Identity | None] = lambda name: None,
    ) -> None:
        self._store = store
        self._swarm = swarm
        self._registry_auth = registry_auth
        self._rules = rules
        self._stats = stats
        self._holder = holder
        self.receivers = Receivers()

    # -- changes ---------------------------------------------------------------------------------------------------

    async def publish(self, name: str, spec: FunctionSpec, by: Identity) -> Published:
        """Publish a function: its first version, or the next; the same spec and digest again change nothing.

        Raises:
            BadRequest: the name cannot be one, or a secret or network does not exist.
            Forbidden: the token may not publish this.
            RegistryRefused: the registry refused the credentials of ``--registry-auth-file``, or did not answer.
            HttpError: the engine refused, or is not a swarm manager.
        """
        request = self._allowed(check_name(name), spec, by)
        await self._store.refresh(name)
        await self._require_objects(request)
        warnings: list[str] = []
        image = await self._pin(request, by, warnings)
        version, changed = await self._add(name, spec, image, by)
        return Published(self._view(version, by), changed, tuple(warnings))

    async def rollback(self, name: str, number: int, by: Identity) -> Published:
        """Publish a version again, with its image, as the newest.

        Raises:
            NotFound: the token sees no such function, or the version is no longer kept.
            Forbidden: the token may not publish this.
            HttpError: the engine refused, or is not a swarm manager.
        """
        self._require_seen(name, by)
        await self._store.refresh(name)
        if not self._store.numbers(name):
            raise _no_function(name)
        wanted = self._find(name, number)
        await self._require_objects(self._allowed(name, wanted.spec, by))
        version, changed = await self._add(name, wanted.spec, wanted.image, by)
        return Published(self._view(version, by), changed)

    async def delete(self, name: str, by: Identity) -> None:
        """Remove all versions of a function, the oldest first, so that no older one becomes the newest meanwhile.

        Raises:
            NotFound: the token sees no such function.
            HttpError: the engine refused, or is not a swarm manager; some of the versions may be removed.
        """
        self._require_seen(name, by)
        await self._store.refresh(name)
        numbers = self._store.numbers(name)
        if not numbers:
            raise _no_function(name)
        for number in numbers:
            await self._store.remove(name, number)
        log.info("function_deleted", function=name, versions=len(numbers), by=by.name)

    # -- queries ---------------------------------------------------------------------------------------------------

    def get(self, name: str, by: Identity) -> Function:
        """Return a function.

        Raises:
            NotFound: the token sees no such function.
            EngineUnavailable: the functions are not known, or there is no swarm.
        """
        return self._view(self.resolve(name, None, by), by)

    def listing(self, by: Identity) -> Iterator[Function]:
        """Return an iterator over the functions that a token sees, by name.

        Raises:
            EngineUnavailable: the functions are not known, or there is no swarm.
        """
        self._store.require()
        seen = (name for name in sorted(self._store.names()) if policy.sees_function(by.grant, name))
        return (self._view(version, by) for version in map(self._store.latest, seen) if version is not None)

    def versions(self, name: str, by: Identity) -> list[FunctionVersion]:
        """Return the versions of a function that are kept, the newest first.

        Raises:
            NotFound: the token sees no such function.
            EngineUnavailable: the functions are not known, or there is no swarm.
        """
        self.resolve(name, None, by)
        return [version.view() for version in self._store.versions(name)]

    def resolve(self, name: str, qualifier: str | None, by: Identity | None) -> Version:
        """Return the version that a call is for.

        Args:
            name: of the function.
            qualifier: the number of a version, or ``$LATEST``, as is None.
            by: the caller; None: somebody without a token, for whom only functions with a public URL are there.

        Raises:
            NotFound: there is no such function or version, or the token does not see it.
            EngineUnavailable: the functions are not known, or there is no swarm.
        """
        self._store.require()
        if by is not None:
            self._require_seen(name, by)
        number, latest = read_qualifier(name, qualifier), self._store.latest(name)
        if latest is None or (by is None and not self._is_open(latest)):
            raise _no_function(name)
        return latest if number is None else self._find(name, number)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _allowed(self, name: str, spec: FunctionSpec, by: Identity) -> RunRequest:
        """Return the run of an instance as the policy of the publisher has it now.

        Raises:
            Forbidden: the policy forbids it.
        """
        policy.check_function(by.grant, name, spec.url)
        self.receivers.check("on_success", spec.on_success)
        self.receivers.check("on_failure", spec.on_failure)
        return policy.allow(spec.request(), by.grant, *self._rules)

    async def _require_objects(self, request: RunRequest) -> None:
        await self._swarm.check_subfolders(subfolders.of(request, self._rules.bind_mounts))
        await self._swarm.network_ids(request.networks)
        await self._swarm.secret_ids(request.secrets)
        await self._swarm.config_ids(request.configs)

    async def _pin(self, request: RunRequest, by: Identity, warnings: list[str]) -> str:
        """Pin the image to the digest that it has now, and warn if nobody told it: each node then runs what it has."""
        credentials = self._registry_auth.credentials(request.image, by)
        said: list[str] = []
        pull: PullPolicy = "never" if request.pulls == "never" else "always"
        image = await self._swarm.pin(request.image, credentials, pull, said)
        if Reference.parse(image).digest is None:
            warnings += [
                f"image: nobody told a digest of {request.image}, so each node runs the image that it has under this "
                f"name, or pulls it; a changed image is no new version. A private registry needs {OPTION}",
                *said,
            ]
        return image

    async def _add(self, name: str, spec: FunctionSpec, image: str, by: Identity) -> tuple[Version, bool]:
        """Add the next version, unless the newest is the same; return it, and whether it is new.

        Of several publishers of one number Swarm refuses all but one: they read again, compare, and take the next.
        """
        if self._store.latest(name) is None:
            policy.check_functions(by.grant, self._published_by(by.name))
        published = VersionData(spec=spec, image=image, owner=by.name, published_at=rfc3339())
        taken = 0  # the last number that is not ours to have
        for _ in range(TRIES):
            latest = self._store.latest(name)
            if latest is not None and _is_same(latest, published):
                return latest, False
            number = max([taken, *self._store.numbers(name)]) + 1
            try:
                version = await self._store.add(name, number, published)
            except Conflict:
                await self._store.refresh(name)
                taken = number  # also where something else has the config's name
                continue
            log.info("function_published", function=name, version=number, image=image, owner=by.name, by=by.name)
            await self._prune(name)
            return version, True
        raise Conflict(f"the function {name!r} is being published by too many others; try again")

    async def _prune(self, name: str) -> None:
        """Remove all but the newest versions; what cannot be removed now is removed at the next publication."""
        for number in self._store.numbers(name)[:-KEPT]:
            try:
                await self._store.remove(name, number)
            except HttpError as error:
                log.warning("version_not_removed", function=name, version=number, reason=str(error))

    def _published_by(self, owner: str) -> int:
        latest = map(self._store.latest, self._store.names())
        return sum(version is not None and version.owner == owner for version in latest)

    def _find(self, name: str, number: int) -> Version:
        version = self._store.find(name, number)
        if version is None:
            raise NotFound(
                f"the function {quote(name)} has no version {number}; the newest {KEPT} are kept, see GET "
                f"/functions/{name}/versions"
            )
        return version

    def _require_seen(self, name: str, by: Identity) -> None:
        if not policy.sees_function(by.grant, name):
            raise _no_function(name)

    def _is_open(self, version: Version) -> bool:
        """Return whether a function has a public URL, and its publisher may still have one."""
        by = self._holder(version.owner)
        if by is None or version.spec.url != "public":
            return False
        return by.grant is None or (by.grant.public and policy.sees_function(by.grant, version.function))

    def _view(self, version: Version, by: Identity) -> Function:
        """Return what a token sees of a function; only the root token sees an engine's messages as they are."""
        stats = self._stats(version.function)
        errors = stats.last_errors
        if by.grant is not None:
            errors = [msgspec.structs.replace(each, message=_masked(each.message, version)) for each in errors]
        return Function(
            **version.fields(),
            instances=stats.instances,
            queued=stats.queued,
            last_errors=errors,
            schedules=stats.schedules,
        )


def _is_same(latest: Version, published: VersionData) -> bool:
    """Return whether a publication would change nothing.

    An image whose digest nobody told now is that of the newest version, whose digest somebody told.
    """
    there, asked = Reference.parse(latest.image), Reference.parse(published.image)
    same_image = there == asked or (asked.digest is None and (there.name, there.tag) == (asked.name, asked.tag))
    same_spec = latest.spec == published.spec and keys(latest.spec.schedules) == keys(published.spec.schedules)
    return (
        same_image and same_spec and latest.owner == published.owner
    )  # an input of 1 is equal to true, by its key not


def _masked(message: str, version: Version) -> str:
    """Return why an instance did not start, without names of others. Quoted names stay, as in the errors of runs."""
    return mask(message, [version.function, version.image, msgspec.to_builtins(version.spec)], quoted=False)


def _no_function(name: str) -> NotFound:
    return NotFound(f"no function has the name {quote(name)}")
