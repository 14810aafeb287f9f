"""Run, stop and status: the three operations of the API on runs. Belongs to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import msgspec
import structlog

from ..auth import policy
from ..auth.authenticator import Identity, LineLimit, RunRateLimiter
from ..engine import ports, spec
from ..engine.spec import Defaults
from ..errors import (
    Conflict,
    EngineRefused,
    EngineUnavailable,
    HttpError,
    JournalUnwritable,
    NotFound,
    PortTaken,
    RegistryRefused,
    TooManyCalls,
)
from ..events.journal import Intent, Page
from ..events.journal import Key as ListKey
from ..models import results
from ..models.credentials import Credentials
from ..models.requests import Key, Kind, PullPolicy, RunRequest, Started
from ..models.responses import ROOT, Node, Service, warn_of_older_nodes
from .listing import Listing, ListQuery
from .status import OVER

Json = dict[str, Any]

# What no one sees is answered after a multiple of so many seconds: a service is found in one call to the engine, a
# container in two, and another's in none.
HIDDEN_STEP = 0.05
NOBODYS = "qm-nobodys"
_PORT_TAKEN = re.compile(r"port '([0-9]+)' is already in use by service '[^']*' \(([a-z0-9]+)\)")  # swarmkit's words
_PLAUSIBLE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")

log = structlog.get_logger(__name__)


class Swarm(Protocol):
    """What the run service needs of the swarm."""

    async def pin(self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]) -> str: ...
    async def network_ids(self, names: list[str]) -> list[str]: ...
    async def secret_ids(self, names: list[str]) -> list[str]: ...
    async def create(self, spec: Json, credentials: Credentials | None) -> str: ...
    async def service(self, name_or_id: str) -> Json | None: ...
    async def remove(self, service_id: str) -> None: ...


class Containers(Protocol):
    """What the run service needs of this engine's containers."""

    async def prepare(
        self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]
    ) -> None: ...
    async def create(self, config: Json, name: str, credentials: Credentials | None, pull: PullPolicy) -> str: ...
    async def container(self, name_or_id: str) -> Json | None: ...
    async def remove(self, container_id: str) -> None: ...


class Journal(Protocol):
    """What the run service needs of the journal."""

    async def intend(self, intent: Intent) -> None: ...
    async def settle(self, nonce: str) -> None: ...
    async def record(self, name_or_id: str, owner: str | None) -> bytes | None: ...
    async def removed(self, before: ListKey, owner: str | None, show: Callable[[bytes], bytes | None]) -> Page: ...
    async def outcome(self, run_id: str) -> bytes | None: ...


class Reconciler(Protocol):
    """What the run service needs of the reconciler: the cache, and that it takes in what was made."""

    def find(self, name_or_id: str, owner: str | None = None) -> Service | None: ...
    def services(self) -> list[Service]: ...
    def nodes(self) -> list[Node]: ...
    async def listed_nodes(self) -> list[Node]: ...
    async def look_up(self, name_or_id: str) -> Service | None: ...
    async def adopt_service(self, service_id: str, spec: Json, nonce: str) -> None: ...
    async def adopt_container(self, container_id: str, nonce: str) -> None: ...


class Reaper(Protocol):
    """What the run service needs of the reaper."""

    async def stop(self, view: Service) -> None: ...


class Recovery(Protocol):
    """What the run service needs of recovery."""

    def look_for(self, intent: Intent) -> None: ...


class IdempotencyStore(Protocol):
    """What the run service needs of the runs under keys."""

    async def once(self, key: Key, start: Callable[[], Awaitable[Started]]) -> Started: ...


class Waits(Protocol):
    """What the run service needs of those who wait."""

    async def until_over(self, view: Service, seconds: float, left: asyncio.Future[None]) -> None: ...


class RunService:
    """Runs, stops and shows services and containers.

    Args:
        swarm, containers: the engine.
        defaults: for what a run does not name.
        own_container: the id of the container that this process runs in, or None.
        registries: those that images may come from; empty: any.
        lines: bounds the log's lines about refused calls.
        reserved: ports that no run may publish, and what each is.
    """

    def __init__(
        self,
        swarm: Swarm,
        containers: Containers,
        journal: Journal,
        reconciler: Reconciler,
        reaper: Reaper,
        recovery: Recovery,
        idempotency: IdempotencyStore,
        waits: Waits,
        defaults: Defaults,
        own_container: str | None,
        registries: Collection[str] = (),
        lines: LineLimit | None = None,
        reserved: Mapping[ports.Port, str] = ports.SWARM,
    ) -> None:
        self._swarm = swarm
        self._containers = containers
        self._journal = journal
        self._reconciler = reconciler
        self._reaper = reaper
        self._recovery = recovery
        self._idempotency = idempotency
        self._waits = waits
        self._defaults = defaults
        self._own_container = own_container
        self._registries = registries
        self._lines = lines or LineLimit()
        self._reserved = dict(reserved)
        self._rates = RunRateLimiter()
        self._listing = Listing(journal, reconciler)
        self._starting: dict[str, tuple[str, Kind, str]] = {}  # nonce → owner, type and name

    async def run(self, request: RunRequest, by: Identity, key: Key | None = None) -> Started:
        """Start a service or a container, once for each key, and tell its id, which ``status`` knows from then on.

        Raises:
            Forbidden: the token may not run this.
            Conflict: it would publish a port of quartermaster itself.
            HttpError: nothing was started, or its outcome is open: then it is looked for, and removed unless it has
                a key.
        """
        request = policy.allow(request, by.grant, self._registries, self._defaults.memory, self._defaults.ttl)
        if request.ports:
            ports.check(request.ports, self._reserved | dict.fromkeys(await self._own_ports(), ports.OWN))
        if key is None:
            return await self._start(request, by, None)
        return await self._idempotency.once(key, lambda: self._start(request, by, key))

    def listens_at(self, port: int) -> None:
        """Reserve the port that quartermaster listens at."""
        self._reserved[port, "tcp"] = ports.OWN

    async def stop(self, name_or_id: str, by: Identity) -> str:
        """Stop and remove a service or a container of ours, and return its id; one that is removed is success too.

        Returns when the engine has accepted it; the end itself is told by the stream.

        Raises:
            NotFound: nobody knows it, or another token's owner has it.
            Conflict: it is quartermaster itself.
        """
        if name_or_id == self._own_container and by.sees is None:
            raise _itself()
        try:
            view = await self._find(name_or_id, by)
        except NotFound:  # containers that somebody else started are not shown, and we may be one of them
            if by.sees is None and name_or_id in await self._own_ids():
                raise _itself() from None
            raise
        if view.status == "removed":
            return view.id
        if view.id in await self._own_ids():
            raise _itself()
        await self._reaper.stop(view)
        log.info("stop", run=view.id, name=view.name, type=view.type, owner=view.owner, by=by.name)
        return view.id

    async def status(self, name_or_id: str, by: Identity) -> Service:
        """One service or container, also when it was removed, with all that is kept of its output.

        Raises:
            NotFound: nobody knows it, or it is another's.
        """
        view = await self._find(name_or_id, by)
        whole = view.result is not None and not view.result.truncated
        if whole or not (view.result or view.status == "removed"):
            return view
        with contextlib.suppress(JournalUnwritable):
            outcome = await self._journal.outcome(view.id)
            if outcome is not None:
                return msgspec.structs.replace(view, result=results.result(results.decode(outcome)))
        return view

    async def when_over(self, name_or_id: str, seconds: float, left: asyncio.Future[None], by: Identity) -> Service:
        """As ``status``, when the run is over, or after so many seconds, or when its caller has left.

        Raises:
            NotFound: nobody knows it, or it is another's.
        """
        view = await self._find(name_or_id, by)
        await self._waits.until_over(view, seconds, left)
        return await self.status(view.id, by)

    def listing(self, by: Identity, wanted: ListQuery) -> AsyncIterator[list[bytes]]:
        """Services of the swarm and the containers that quartermaster started here, each as JSON, in pages.

        The newest first; of another token than root's, only what it started.
        """
        return self._listing.pages(by.sees, wanted)

    def there(self, by: Identity, wanted: ListQuery) -> list[Service]:
        """Of a listing what was not removed."""
        return self._listing.there(by.sees, wanted)

    def nodes(self) -> list[Node]:
        return self._reconciler.nodes()

    async def _find(self, name_or_id: str, by: Identity) -> Service:
        """Find a run that the caller may see.

        Raises:
            NotFound: nobody has it, or another; to who sees only its own neither the words nor the time tell which.
        """
        began = time.monotonic()
        try:
            return await self._look_for(name_or_id, by)
        except NotFound:
            if by.sees is not None:
                elapsed = time.monotonic() - began
                await asyncio.sleep(HIDDEN_STEP - elapsed % HIDDEN_STEP)
            raise

    async def _look_for(self, name_or_id: str, by: Identity) -> Service:
        if not _PLAUSIBLE.fullmatch(name_or_id):
            raise NotFound("no service or container has this id or name")
        there = self._reconciler.find(name_or_id, by.sees)
        if there is not None:
            return there
        with contextlib.suppress(JournalUnwritable):
            stored = await self._journal.record(name_or_id, by.sees)
            if stored is not None:
                return msgspec.json.decode(stored, type=Service)
        found = self._reconciler.find(name_or_id)
        if found is None:  # it may be too young for the view
            found = await self._reconciler.look_up(name_or_id)
        elif by.sees is not None:  # it is another's: the engine is asked as for what nobody has
            await self._reconciler.look_up(NOBODYS)
        if found is not None and by.sees in (None, found.owner):
            return found
        if found is not None:
            asked = {"asked": name_or_id, "run": found.id, "owner": found.owner}
            if self._lines.allows("refused", by.name):
                log.warning("refused", by=by.name, code=404, **asked, reason="it is another's")
        raise NotFound(f"no service or container has the id or name {name_or_id!r}")

    async def _start(self, request: RunRequest, by: Identity, key: Key | None) -> Started:
        mark = spec.stamp(request, by.name, key)
        warnings: list[str] = []
        with self._counted(request, mark, by):
            run_id = await self._make(request, mark, key, warnings)
        log.info("run", run=run_id, name=mark.name, type=request.type, image=request.image, owner=by.name, by=by.name)
        return Started(run_id, warnings=tuple(warnings))

    @contextlib.contextmanager
    def _counted(self, request: RunRequest, mark: spec.Stamp, by: Identity) -> Iterator[None]:
        """Count a run from before it is begun until the cache has it.

        No other call comes between a look and its entry: of many at once no more are started than may, nor two of
        different types under one name.

        Raises:
            Forbidden: so many of the owner's have not ended as may run.
            Conflict: what has its name is of another type.
            TooManyRuns: the owner has begun as many within a minute as it may.
        """
        if by.grant is not None and by.grant.max_running is not None:
            policy.check_running(by.grant, self._running(by.name))
        if request.name is not None and self._is_of_another_type(request.name, request.type):
            raise _taken(mark.name)
        if by.grant is not None and by.grant.max_rate is not None:
            self._rates.begin(by.name, by.grant.max_rate)
        self._starting[mark.nonce] = (by.name, request.type, mark.name)
        try:
            yield
        finally:
            del self._starting[mark.nonce]

    def _running(self, owner: str) -> int:
        """How many runs of an owner have not ended: those in the cache, and those that are being started."""
        starting = {(kind, name) for who, kind, name in self._starting.values() if who == owner}
        there = {
            (view.type, view.name)
            for view in self._reconciler.services()
            if view.owner == owner and view.status not in OVER
        }
        return len(starting | there)

    def _is_of_another_type(self, name: str, kind: Kind) -> bool:
        """Whether a service has this name and a container is wanted, or the other way round: Docker would take both."""
        there = self._reconciler.find(name)
        kinds = {starting for _, starting, taken in self._starting.values() if taken == name}
        if there is not None and there.name == name and there.status != "removed":
            kinds.add(there.type)
        return bool(kinds - {kind})

    async def _make(self, request: RunRequest, mark: spec.Stamp, key: Key | None, warnings: list[str]) -> str:
        """Create it; ``warnings`` takes what it asks for and does not get."""
        intent = Intent(mark.name, mark.nonce, request.type, key is not None)
        start = self._run_container if request.type == "container" else self._run_service
        try:
            return await start(request, mark, intent, warnings)
        except PortTaken:
            await self._forget(mark.nonce)
            raise
        except Conflict:
            await self._forget(mark.nonce)
            raise _taken(mark.name) from None
        except HttpError as error:
            if _may_come_true(error):
                self._recovery.look_for(intent)
            else:
                await self._forget(mark.nonce)
            raise

    async def _run_service(self, request: RunRequest, mark: spec.Stamp, intent: Intent, warnings: list[str]) -> str:
        credentials = request.credentials()
        image = await self._swarm.pin(request.image, credentials, request.pulls, warnings)
        objects = spec.Objects(
            await self._swarm.network_ids(request.networks), await self._swarm.secret_ids(request.secrets)
        )
        body = spec.service(request, mark, image, self._defaults, objects)
        if request.no_new_privileges:
            nodes = await self._reconciler.listed_nodes()
            warnings += warn_of_older_nodes(nodes, named=mark.owner == ROOT)
        await self._journal.intend(intent)
        try:
            service_id = await self._swarm.create(body, credentials)
        except HttpError as error:
            raise self._port_taken(error, mark.owner) or error from None
        try:
            await self._reconciler.adopt_service(service_id, body, mark.nonce)
        except JournalUnwritable:
            if mark.key is None:  # nobody was told of it; under a key it is there for whoever asks again
                await self._swarm.remove(service_id)
            raise
        return service_id

    async def _run_container(self, request: RunRequest, mark: spec.Stamp, intent: Intent, warnings: list[str]) -> str:
        config = spec.container(request, mark, self._defaults)
        credentials = request.credentials()
        await self._containers.prepare(request.image, credentials, request.pulls, warnings)
        await self._journal.intend(intent)
        container_id = await self._containers.create(config, mark.name, credentials, request.pulls)
        try:
            await self._reconciler.adopt_container(container_id, mark.nonce)
        except JournalUnwritable:
            if mark.key is None:
                await self._containers.remove(container_id)
            raise
        return container_id

    def _port_taken(self, error: HttpError, owner: str) -> PortTaken | None:
        """The error that another service has the port; it is named only to who may see it."""
        said = _PORT_TAKEN.search(str(error))
        if said is None:
            return None
        port, holder = said[1], self._reconciler.find(said[2])
        if holder is None or owner not in (ROOT, holder.owner):
            return PortTaken(f"ports: {port} is taken: choose another")
        ended = ", which has ended" if holder.status in OVER else ""
        return PortTaken(
            f"ports: {port} is published by the run {holder.name!r} (id {holder.id}){ended}: "
            "stop it, which removes it, or choose another port"
        )

    async def _forget(self, nonce: str) -> None:
        """The run came to nothing, and that is known."""
        with contextlib.suppress(JournalUnwritable):  # then the reaper looks for it, and finds nothing
            await self._journal.settle(nonce)

    async def _own_ids(self) -> set[str]:
        """The container that this process runs in, its name, and the service that it is a task of."""
        raw = await self._own()
        if raw is None:
            return {self._own_container} if self._own_container else set()
        return {raw["Id"], raw["Name"].removeprefix("/"), _service_of(raw) or raw["Id"]}

    async def _own(self) -> Json | None:
        """The container that this process runs in, as inspected."""
        return None if self._own_container is None else await self._containers.container(self._own_container)

    async def _own_ports(self) -> set[ports.Port]:
        """The ports under which the container that this process runs in, or its service, is published."""
        raw = await self._own()
        if raw is None:
            return set()
        service_id = _service_of(raw)
        service = await self._swarm.service(service_id) if service_id else None
        return {*ports.of_container(raw), *(ports.of_service(service) if service else ())}


def _service_of(raw: Json) -> str | None:
    """The service that a container is a task of."""
    labels: Mapping[str, str] = raw["Config"].get("Labels") or {}
    return labels.get("com.docker.swarm.service.id")


def _may_come_true(error: HttpError) -> bool:
    """Whether the engine may have done, or do yet, what it gave no good answer to; or did what could not be kept."""
    known = (EngineUnavailable, EngineRefused, JournalUnwritable, TooManyCalls)  # that may be of a later call
    return isinstance(error, known) and not isinstance(error, RegistryRefused)


def _taken(name: str) -> Conflict:
    return Conflict(f"the name {name!r} is taken: choose another, or stop what has it")


def _itself() -> Conflict:
    return Conflict("this is quartermaster itself: it does not stop itself")
