"""Starts runs: of callers, and of functions. Belongs to the event loop.

Steps of a start: policy → intent in the journal → create at the engine → adopt into the cache → answer.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import structlog

from ..auth import policy
from ..auth.authenticator import Identity, RunRateLimiter
from ..engine import Engine, ports, spec, subfolders
from ..engine.containers import OwnContainer
from ..errors import (
    Conflict,
    EngineRefused,
    EngineUnavailable,
    HttpError,
    JournalUnwritable,
    NameTaken,
    PortTaken,
    RegistryRefused,
    TooManyCalls,
)
from ..events.journal import Journal
from ..events.rows import Intent
from ..models.credentials import Credentials
from ..models.requests import Key, Kind, RunRequest, Started
from ..models.responses import ROOT, DryRun
from .idempotency import IdempotencyStore
from .reconciler.cache import RunCache
from .reconciler.reconciler import Reconciler
from .recovery import Recovery
from .views.run_view import OVER

Json = dict[str, Any]

NAMES = 5  # how many names are tried for a run that gives none
_PORT_TAKEN = re.compile(r"port '([0-9]+)' is already in use by service '[^']*' \(([a-z0-9]+)\)")  # swarmkit's message

log = structlog.get_logger(__name__)


class RunConfig(NamedTuple):
    """Options of starts.

    Attributes:
        defaults: values for what a request leaves out.
        registries: the allowed registries of images; empty: any.
        reserved_ports: the ports that no run may publish, with what each is.
        check_callback: raises Forbidden if the URL of a field is none that callbacks may go to.
    """

    defaults: spec.Defaults
    registries: Collection[str] = ()
    reserved_ports: Mapping[ports.Port, str] = ports.SWARM
    check_callback: Callable[[str, str | None], None] = lambda field, url: None


class RunStarter:
    """Starts services and containers.

    Args:
        engine: starts them.
        journal: keeps the intent of each start.
        reconciler: adds a started run to the cache.
        recovery: looks for a run whose start has an unknown outcome.
        own: the container that this process runs in.
        config: the options.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        reconciler: Reconciler,
        recovery: Recovery,
        own: OwnContainer,
        config: RunConfig,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._reconciler = reconciler
        self._recovery = recovery
        self._own = own
        self._config = config
        self._cache = reconciler.cache
        self._callbacks = recovery.callbacks
        self._reserved_ports = dict(config.reserved_ports)
        self._starting = _Starting(reconciler.cache)
        self._idempotency = IdempotencyStore(journal, reconciler)

    def listens_at(self, port: int) -> None:
        """Reserve the port that quartermaster listens on."""
        self._reserved_ports[port, "tcp"] = ports.OWN

    async def run(self, request: RunRequest, by: Identity, key: Key | None = None) -> Started:
        """Start a service or a container, once per key; ``status`` finds it when this returns.

        Raises:
            Forbidden: the token may not run this.
            Conflict: its name or a port is taken, or the port is quartermaster's own.
            HttpError: nothing was started, or the outcome is unknown; recovery then looks for the run, and removes it
                unless it has a key.
        """
        request = await self._checked(request, by)
        if key is None:
            return await self._start(request, by, None)
        return await self._idempotency.once(key, lambda: self._start(request, by, key))

    async def dry_run(self, request: RunRequest, by: Identity) -> DryRun:
        """Check a request as ``run`` does, and return what would be run. Nothing is started or pulled.

        Raises:
            Forbidden: the token may not run this.
            Conflict: its name is taken, or a port is quartermaster's own.
            HttpError: what it needs is not there, or the engine did not answer.
        """
        request = await self._checked(request, by)
        mark = spec.stamp(request, by.name, None, self._journal.id)
        self._starting.check(request, mark, by)
        there = await self._is_there(request.type, mark.name)  # also asks whether the engine is a manager
        if there and request.name is not None:
            raise _taken(mark.name)
        warnings: list[str] = []
        if request.type == "container":
            spec.container(request, mark, self._config.defaults)
            await self._engine.containers.check_subfolders(subfolders.of(request, self._config.defaults.bind_mounts))
            containers, credentials = self._engine.containers, request.credentials()
            image = await containers.check_image(request.image, credentials, request.pulls, warnings)
        else:
            body = await self._service_body(request, mark, warnings)
            image = body["TaskTemplate"]["ContainerSpec"]["Image"]
        return DryRun(image=image, spec=request.shown(), warnings=warnings)

    async def _is_there(self, kind: Kind, name: str) -> bool:
        find = self._engine.containers.container if kind == "container" else self._engine.swarm.service
        return await find(name) is not None

    async def _checked(self, request: RunRequest, by: Identity) -> RunRequest:
        """Return a request with the policy of its token applied, whose callback and ports are allowed too.

        Raises:
            Forbidden: the token may not run this.
            Conflict: a port is quartermaster's own.
        """
        request = self.check(request, by)
        if request.callback is not None:
            self._config.check_callback("callback", request.callback)
        if request.ports:
            own_ports = await self._own.published_ports()
            ports.check(request.ports, self._reserved_ports | dict.fromkeys(own_ports, ports.OWN))
        return request

    async def _start(self, request: RunRequest, by: Identity, key: Key | None) -> Started:
        """Start a run. If a name that quartermaster has chosen is taken, choose another."""
        for _ in range(0 if request.name or key else NAMES - 1):
            with contextlib.suppress(NameTaken):
                return await self._start_once(request, by, key)
        return await self._start_once(request, by, key)

    async def _start_once(self, request: RunRequest, by: Identity, key: Key | None) -> Started:
        mark = spec.stamp(request, by.name, key, self._journal.id)
        warnings: list[str] = []  # parts of the request that could not be met
        with self._starting.counted(request, mark, by):
            run_id = await self._make(request, mark, warnings)
        log.info(
            "run_started", run=run_id, name=mark.name, type=request.type, image=request.image, owner=by.name, by=by.name
        )
        return Started(run_id, warnings=tuple(warnings))

    async def start_instance(
        self, request: RunRequest, by: Identity, made: spec.Instance, credentials: Credentials | None
    ) -> str:
        """Start an instance of a function, and return the id of its run.

        Args:
            request: the run as it was published; ``made.image`` is what runs.
            by: the publisher, with its present policy.
            made: what the instance has in addition.
            credentials: of the image's registry.

        Raises:
            Forbidden: the publisher may not run this now.
            HttpError: as ``run``.
        """
        request = self.check(request, by)
        mark = spec.instance_stamp(made, by.name)

        async def make(intent: Intent) -> str:
            objects = await self._objects(request)
            body = spec.instance(request, mark, made, self._config.defaults, objects)
            return await self._create_service(body, mark, intent, credentials)

        with self._starting.counted(request, mark, by):
            run_id = await self._settled(request, mark, make)
        log.info("instance_started", run=run_id, name=mark.name, function=made.function, version=made.number)
        return run_id

    async def start_job(
        self, request: RunRequest, by: Identity, made: spec.Job, credentials: Credentials | None
    ) -> str:
        """Start the run of a call of a job, and return its id; arguments and errors are those of ``start_instance``.

        If quartermaster is killed meanwhile, recovery keeps a run that is ``kept``.
        """
        request = self.check(request, by)
        mark = spec.job_stamp(made, by.name)

        async def make(intent: Intent) -> str:
            objects = await self._objects(request)
            body = spec.job(request, mark, made, self._config.defaults, objects)
            return await self._create_service(body, mark, intent._replace(keyed=made.kept), credentials)

        with self._starting.counted(request, mark, by):
            run_id = await self._settled(request, mark, make)
        log.info("job_started", run=run_id, name=mark.name, function=made.function, version=made.number)
        return run_id

    def check(self, request: RunRequest, by: Identity) -> RunRequest:
        """Return a request with the policy of its token applied.

        Raises:
            Forbidden: the token may not run this.
        """
        config, defaults = self._config, self._config.defaults
        return policy.allow(request, by.grant, config.registries, defaults.memory, defaults.ttl, defaults.bind_mounts)

    async def _make(self, request: RunRequest, mark: spec.Stamp, warnings: list[str]) -> str:
        make = self._make_container if request.type == "container" else self._make_service
        return await self._settled(request, mark, lambda intent: make(request, mark, intent, warnings))

    async def _settled(self, request: RunRequest, mark: spec.Stamp, make: Callable[[Intent], Awaitable[str]]) -> str:
        """Create and adopt a run; settle its intent, or give it to recovery if the outcome is unknown."""
        intent = Intent(mark.name, mark.nonce, request.type, mark.key is not None)
        try:
            return await make(intent)
        except HttpError as error:
            if _outcome_unknown(error):
                self._recovery.look_for(intent)
            else:
                with contextlib.suppress(JournalUnwritable):  # recovery will look for it and find nothing
                    await self._journal.settle(mark.nonce)
            if isinstance(error, Conflict) and not isinstance(error, PortTaken):
                raise _taken(mark.name) from None
            raise

    async def _make_service(self, request: RunRequest, mark: spec.Stamp, intent: Intent, warnings: list[str]) -> str:
        body = await self._service_body(request, mark, warnings)
        return await self._create_service(body, mark, intent, request.credentials(), request.callback)

    async def _service_body(self, request: RunRequest, mark: spec.Stamp, warnings: list[str]) -> Json:
        image = await self._engine.swarm.pin(request.image, request.credentials(), request.pulls, warnings)
        body = spec.service(request, mark, image, self._config.defaults, await self._objects(request))
        if request.no_new_privileges:
            await self._reconciler.require_nodes()
            warnings += self._cache.nodes.warn_of_older(named=mark.owner == ROOT)
        return body

    async def _objects(self, request: RunRequest) -> spec.Objects:
        """Return the ids of what a service's request names; check that the nodes can mount its host folders."""
        swarm = self._engine.swarm
        await swarm.check_subfolders(subfolders.of(request, self._config.defaults.bind_mounts))
        return spec.Objects(
            await swarm.network_ids(request.networks),
            await swarm.secret_ids(request.secrets),
            await swarm.config_ids(request.configs),
        )

    async def _create_service(
        self, body: Json, mark: spec.Stamp, intent: Intent, credentials: Credentials | None, callback: str | None = None
    ) -> str:
        swarm = self._engine.swarm
        await self._journal.intend(intent)
        try:
            service_id = await swarm.create(body, credentials)
        except HttpError as error:
            raise self._port_taken(error, mark.owner) or error from None
        try:
            await self._arm(service_id, mark, callback)
            await self._reconciler.adopt_service(service_id, body, mark.nonce)
        except JournalUnwritable:
            if mark.key is None:  # not acknowledged; with a key, a retry will find it
                await swarm.remove(service_id)
            raise
        return service_id

    async def _make_container(self, request: RunRequest, mark: spec.Stamp, intent: Intent, warnings: list[str]) -> str:
        containers, credentials = self._engine.containers, request.credentials()
        body = spec.container(request, mark, self._config.defaults)
        await containers.check_subfolders(subfolders.of(request, self._config.defaults.bind_mounts))
        await containers.prepare(request.image, credentials, request.pulls, warnings)
        await self._journal.intend(intent)
        container_id = await containers.create(body, mark.name, credentials, request.pulls, request.stdin)
        try:
            await self._arm(container_id, mark, request.callback)
            await self._reconciler.adopt_container(container_id, mark.nonce)
        except JournalUnwritable:
            if mark.key is None:
                await containers.remove(container_id)
            raise
        return container_id

    async def _arm(self, run_id: str, mark: spec.Stamp, callback: str | None) -> None:
        if callback is not None:
            await self._callbacks.arm(run_id, mark.owner, callback)

    def _port_taken(self, error: HttpError, owner: str) -> PortTaken | None:
        """Return the error that another service has the port; it names the service only if the token may see it."""
        said = _PORT_TAKEN.search(str(error))
        if said is None:
            return None
        port, holder = said[1], self._cache.find(said[2])
        if holder is None or owner not in (ROOT, holder.owner):
            return PortTaken(f"ports: {port} is taken: choose another")
        ended = ", which has ended" if holder.status in OVER else ""
        return PortTaken(
            f"ports: {port} is published by the run {holder.name!r} (id {holder.id}){ended}: "
            "stop it, which removes it, or choose another port"
        )


class _Starting:
    """Runs that are being started, counted until the cache has them.

    No await comes between a check and the entry, so that concurrent calls cannot exceed a limit, or give one name to
    runs of two types.
    """

    def __init__(self, cache: RunCache) -> None:
        self._cache = cache
        self._rates = RunRateLimiter()
        self._runs: dict[str, tuple[str, Kind, str]] = {}  # nonce → owner, type and name

    @contextlib.contextmanager
    def counted(self, request: RunRequest, mark: spec.Stamp, by: Identity) -> Iterator[None]:
        """Count a run while it is being started.

        Raises:
            HttpError: as ``check``.
            TooManyRuns: the owner has started as many runs within a minute as it may.
        """
        self.check(request, mark, by)
        if by.grant is not None and by.grant.max_rate is not None:
            self._rates.begin(by.name, by.grant.max_rate)
        self._runs[mark.nonce] = (by.name, request.type, mark.name)
        try:
            yield
        finally:
            del self._runs[mark.nonce]

    def check(self, request: RunRequest, mark: spec.Stamp, by: Identity) -> None:
        """Require that a run may be started now.

        Raises:
            Forbidden: the owner has as many unfinished runs as it may.
            NameTaken: a run of another type has the name.
        """
        if by.grant is not None and by.grant.max_running is not None:
            policy.check_running(by.grant, self._running(by.name))
        if mark.key is None and self._is_of_another_type(mark.name, request.type):
            raise _taken(mark.name)

    def _running(self, owner: str) -> int:
        starting = {(kind, name) for who, kind, name in self._runs.values() if who == owner}
        views = self._cache.services()
        there = {(view.type, view.name) for view in views if view.owner == owner and view.status not in OVER}
        return len(starting | there)

    def _is_of_another_type(self, name: str, kind: Kind) -> bool:
        """Return whether a run of the other type has the name; Docker itself would accept both."""
        there = self._cache.find(name)
        kinds = {starting for _, starting, taken in self._runs.values() if taken == name}
        if there is not None and there.name == name and there.status != "removed":
            kinds.add(there.type)
        return bool(kinds - {kind})


def _outcome_unknown(error: HttpError) -> bool:
    """Return whether a failed run may exist or may yet be created; or exists, but could not be journaled."""
    open_outcomes = (EngineUnavailable, EngineRefused, JournalUnwritable, TooManyCalls)  # TooManyCalls: of a later call
    return isinstance(error, open_outcomes) and not isinstance(error, RegistryRefused)


def _taken(name: str) -> NameTaken:
    return NameTaken(f"the name {name!r} is taken: choose another, or stop what has it")
