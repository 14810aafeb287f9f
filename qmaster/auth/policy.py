"""Authorization: apply a token's policy to a checked request, or refuse it with the rule that forbids it. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

from ..errors import ConfigError, Forbidden
from ..models.compose import REALTIME
from ..models.images import Reference
from ..models.paths import holder, is_below
from ..models.requests import NAME_PREFIX, NEVER, PIDS_LIMIT, RunRequest, Ttl
from ..models.units import UNITS, amount
from ..models.validation import quote
from .tokens import SCOPES, Scope, TokenPolicy

GPU = "gpu"  # the name of ``gpus`` among a token's resources


def require(grant: TokenPolicy | None, scope: Scope) -> None:
    """Require a scope; the root token (None) has all scopes.

    Raises:
        Forbidden: the token lacks the scope.
    """
    if grant is not None and scope not in grant.scopes:
        has = ", ".join(one for one in SCOPES if one in grant.scopes)
        raise Forbidden(f"scopes: this call needs the scope {scope}; this token has {has}")


def require_root(grant: TokenPolicy | None, what: str) -> None:
    """Require the root token.

    Raises:
        Forbidden: it is not the root token.
    """
    if grant is not None:
        raise Forbidden(f"scopes: {what} for the root token only")


class Rules(NamedTuple):
    """The server's rules for runs.

    Attributes:
        registries: registries that images may come from; empty: any.
        memory: the default memory of a run, in MiB.
        ttl: the default ttl of a run, in seconds; None: ended runs are not removed.
        bind_mounts: the host folders that runs may mount, with those below.
    """

    registries: Collection[str]
    memory: int
    ttl: float | None = None
    bind_mounts: Collection[str] = ()


def allow(
    request: RunRequest,
    grant: TokenPolicy | None,
    registries: Collection[str],
    memory: int,
    ttl: float | None = None,
    bind_mounts: Collection[str] = (),
) -> RunRequest:
    """Return the request with the token's policy applied.

    If the image is checked, the checked reference is the one that runs.

    Args:
        request: the checked request.
        grant: the token's policy; None: full access.
        registries: registries that images may come from; empty: any.
        memory: the default memory of a run, in MiB.
        ttl: the default ttl of a run, in seconds; None: ended runs are not removed.
        bind_mounts: the host folders that runs may mount, with those below, whoever asks.

    Raises:
        Forbidden: the policy forbids it; the message begins with the rule.
    """
    _check_binds(request, bind_mounts)
    image = Reference.parse(request.image)
    if (grant is not None or registries) and image.domain != image.domain.lower():
        raise Forbidden(f"images: write the registry in lower case; got {quote(image.domain)}")
    if registries and image.domain not in registries:
        raise Forbidden(f"--registries: this server does not run images from {quote(image.domain)}")
    if grant is None:
        return msgspec.structs.replace(request, image=image.canonical) if registries else request
    _check_image(image, grant)
    _check_name(request.name)
    _check_caps(request, grant)
    _check_relaxed(request, grant)
    _check_list("networks", request.networks, grant.networks)
    _check_list("secrets", request.secrets, grant.secrets)
    _check_list("configs", request.configs, grant.configs)
    _check_list("resources", _resources(request), grant.resources)
    _check_ports(request.ports, grant)
    _check_volumes(request, grant, bind_mounts)
    if request.mode == "global" and grant.max_replicas is not None:
        raise Forbidden("max_replicas: this token may not run on every node; leave mode out")
    if grant.constraints and request.type == "container":
        raise Forbidden(
            "constraints: this token is limited to certain nodes, so it may not start containers; use type service"
        )
    return msgspec.structs.replace(
        request,
        image=image.canonical,
        memory=_memory(request, grant, memory),
        cpus=grant.max_cpus if request.cpus is None else request.cpus,
        pids_limit=_pids(request.pids_limit, grant),
        ttl=_ttl(request.ttl, grant.max_ttl, ttl),
        constraints=list(dict.fromkeys([*request.constraints, *grant.constraints])),
    )


def check_running(grant: TokenPolicy | None, running: int) -> None:
    """Require that the token may have one more run that has not ended.

    Args:
        grant: the token's policy; None: full access.
        running: how many of its runs have not ended.

    Raises:
        Forbidden: it has its maximum.
    """
    limit = grant.max_running if grant else None
    if limit is not None and running >= limit:
        raise Forbidden(f"max_running: this token may have at most {limit} runs that have not ended; it has {running}")


def sees_function(grant: TokenPolicy | None, name: str) -> bool:
    """Return whether a token may see, call, publish and delete the function with this name, as its scopes allow."""
    return grant is None or any(fnmatchcase(name, pattern) for pattern in grant.functions)


def check_function(grant: TokenPolicy | None, name: str, url: str = "none") -> None:
    """Require that a token may publish a function with this name and this kind of URL.

    Raises:
        Forbidden: it may not; the message begins with the rule.
    """
    if not sees_function(grant, name):
        raise Forbidden(f"functions: this token may not publish {quote(name)}")
    if url == "public" and grant is not None and not grant.public:
        raise Forbidden("public: this token may not open a function URL to callers without a token; use url token")


def check_functions(grant: TokenPolicy | None, published: int) -> None:
    """Require that a token may publish one more function.

    Args:
        grant: the token's policy; None: full access.
        published: how many of the functions that there are it has published.

    Raises:
        Forbidden: it has its maximum.
    """
    if grant is not None and published >= grant.max_functions:
        raise Forbidden(
            f"max_functions: this token may have at most {grant.max_functions} functions; it has {published}"
        )


def _check_image(image: Reference, grant: TokenPolicy) -> None:
    if grant.images is not None and not any(pattern.matches(image) for pattern in grant.images):
        raise Forbidden(f"images: this token may not run {image.canonical}")


def _check_name(name: str | None) -> None:
    if name is not None and name.lower().startswith(NAME_PREFIX):  # Swarm's names are case-insensitive
        raise Forbidden(f"name: the prefix {NAME_PREFIX} is reserved for runs with an Idempotency-Key")


def _check_caps(request: RunRequest, grant: TokenPolicy) -> None:
    for rule, asked, limit in (
        ("max_memory", request.memory, grant.max_memory),
        ("max_cpus", request.cpus, grant.max_cpus),
        ("max_replicas", request.replicas, grant.max_replicas),
    ):
        if asked is not None and limit is not None and not asked <= limit:
            most = str(limit).removesuffix(".0")
            most = amount(most, UNITS[rule]) if rule in UNITS else most
            raise Forbidden(f"{rule}: this token's runs may have at most {most}; got {asked}")


def _check_relaxed(request: RunRequest, grant: TokenPolicy) -> None:
    if grant.allow_relaxed:
        return
    if not request.no_new_privileges:
        raise Forbidden("allow_relaxed: this token may not set no_new_privileges to false; leave the field out")
    if REALTIME in request.ulimits:
        raise Forbidden(f"allow_relaxed: this token may not set ulimits.{REALTIME}; leave it out")
    kept = request.kept()
    if kept:
        raise Forbidden(f"allow_relaxed: this token's runs must drop {', '.join(kept)} as well; add them to cap_drop")


def _pids(asked: int | None, grant: TokenPolicy) -> int | None:
    """Return the limit of a run's processes; 0: no limit, None: the default."""
    most = grant.max_pids
    if most is None and not grant.allow_relaxed:
        most = PIDS_LIMIT
    if most is None:
        return asked
    if asked is None:
        return most if most < PIDS_LIMIT else None
    if not 1 <= asked <= most:
        raise Forbidden(f"max_pids: this token's runs may have at most {most} processes; got {asked or 'any number'}")
    return asked


def _ttl(asked: Ttl | None, limit: float | None, default: float | None) -> Ttl | None:
    """Return how long a run is kept after its end; None: the default."""
    if limit is None or (asked is None and default is not None and default <= limit):
        return asked
    if asked is not None and (asked == NEVER or asked > limit):
        raise Forbidden(
            f"max_ttl: this token's runs are kept at most {limit:g} seconds after their end; got {_text(asked)}"
        )
    return limit if asked is None else asked


def _text(ttl: Ttl) -> str:
    return NEVER if ttl == NEVER else f"{ttl:g}"


def _check_list(rule: str, asked: Iterable[str], allowed: Collection[str]) -> None:
    for name in asked:
        if name not in allowed:
            raise Forbidden(f"{rule}: this token may not use {quote(name)}")


def _check_binds(request: RunRequest, folders: Collection[str]) -> None:
    """Require that a host folder is one that the operator named, or below one."""
    for mount in request.mounts():
        if mount.kind == "bind" and holder(mount.source, folders) is None:
            raise Forbidden(
                f"--bind-mounts: this server does not mount the host folder {quote(mount.source)}; it mounts those "
                "that the option names, and those below them"
            )


def _check_volumes(request: RunRequest, grant: TokenPolicy, folders: Collection[str]) -> None:
    for mount in request.mounts():
        if mount.kind == "bind":
            _check_mount(mount.source, grant, folders)
        if mount.kind == "volume" and not any(fnmatchcase(mount.source, pattern) for pattern in grant.volumes):
            raise Forbidden(f"volumes: this token may not use the volume {quote(mount.source)}")


def _check_mount(source: str, grant: TokenPolicy, folders: Collection[str]) -> None:
    """Require that a token may mount a host folder.

    A folder in one of ``mounts`` may be a link, which the token's own runs have made. Docker follows it within the
    folder of ``--bind-mounts``, so that one must be the token's as a whole.
    """
    base = holder(source, folders)
    if source in grant.mounts or (base is not None and holder(base, grant.mounts) is not None):
        return
    text = f"mounts: this token may not mount the host folder {quote(source)}"
    if inside := holder(source, grant.mounts):
        text += f"; of {quote(inside)} only that folder itself, unless --bind-mounts names it"
    raise Forbidden(text)


def check_mounts(grants: Collection[TokenPolicy], folders: Collection[str]) -> None:
    """Require that no folder of ``mounts`` is inside another one that is itself below a folder of the server's.

    The runs that have the outer one could turn the inner one into a link to any other in the server's folder.

    Args:
        grants: all policies of the tokens file.
        folders: the host folders that runs may mount.

    Raises:
        ConfigError: a folder is inside another one.
    """
    owners = {each: grant.name for grant in grants for each in grant.mounts}
    for grant in grants:
        for folder in sorted(grant.mounts):
            base = holder(folder, folders)
            for outer in _parents(folder):
                if base is not None and outer in owners and outer != base and is_below(outer, base):
                    raise ConfigError(
                        f"[{grant.name}] mounts: {folder} is inside {outer} of [{owners[outer]}], whose runs could "
                        f"make it a link to another folder of {base}; choose folders side by side"
                    )


def _parents(path: str) -> Iterator[str]:
    while (path := posixpath.dirname(path)) != "/":
        yield path


def _resources(request: RunRequest) -> list[str]:
    return [*request.generic_resources, *([GPU] if request.gpus is not None else ())]


def _check_ports(ports: Iterable[str], grant: TokenPolicy) -> None:
    for port in ports:
        published = int(port.partition(":")[0])
        if not any(published in allowed for allowed in grant.ports):
            raise Forbidden(f"ports: this token may not publish {published}")


def _memory(request: RunRequest, grant: TokenPolicy, memory: int) -> int | None:
    """Return the memory of a run; without a value, the default, but not more than the token's limit.

    Raises:
        Forbidden: with what it has in memory as files, it is over the limit.
    """
    if grant.max_memory is None:
        return request.memory
    own = min(memory, grant.max_memory) if request.memory is None else request.memory
    files = (request.shm_size or 0) + sum(mount.size or 0 for mount in request.mounts() if mount.kind == "tmpfs")
    if own + files > grant.max_memory:
        raise Forbidden(
            f"max_memory: this token's runs may have at most {grant.max_memory} MiB; got {own + files:g} MiB, with "
            "shm_size and tmpfs"
        )
    return own
