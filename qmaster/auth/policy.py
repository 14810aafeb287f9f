"""Pure: may they run this? A checked request and what a token may do → the request that is run, or what forbids it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from ..errors import Forbidden
from ..models.images import Reference
from ..models.requests import NAME_PREFIX, NEVER, PIDS_LIMIT, RunRequest, Ttl
from ..models.validation import quote
from .tokens import SCOPES, Scope, TokenPolicy


def require(grant: TokenPolicy | None, scope: Scope) -> None:
    """
    Raises:
        Forbidden: the token does not have the scope; the root token (None) has all.
    """
    if grant is not None and scope not in grant.scopes:
        has = ", ".join(one for one in SCOPES if one in grant.scopes)
        raise Forbidden(f"scopes: this needs the scope {scope}; the token has {has}")


def require_root(grant: TokenPolicy | None, what: str) -> None:
    """
    Raises:
        Forbidden: it is another than the root token.
    """
    if grant is not None:
        raise Forbidden(f"scopes: {what} for the root token only")


def allow(
    request: RunRequest, grant: TokenPolicy | None, registries: Collection[str], memory: int, ttl: float | None = None
) -> RunRequest:
    """The request as it may be run.

    Where anything was checked of an image, the reference that was checked is the one that is run.

    Args:
        request: what was asked.
        grant: the token's policy; None: full access.
        registries: those that images may come from; empty: any.
        memory: MiB, of a run that names none.
        ttl: seconds, of a run that names none; None: for ever.

    Raises:
        Forbidden: the message begins with the rule.
    """
    image = Reference.parse(request.image)
    if (grant is not None or registries) and image.domain != image.domain.lower():
        raise Forbidden("images: write the registry in lower case")
    if registries and image.domain not in registries:
        raise Forbidden(f"--registries: images from {quote(image.domain)} are not run here")
    if grant is None:
        return msgspec.structs.replace(request, image=image.canonical) if registries else request
    _check_image(image, grant)
    _check_name(request.name)
    _check_caps(request, grant)
    _check_relaxed(request, grant)
    _check_list("networks", request.networks, grant.networks)
    _check_list("secrets", request.secrets, grant.secrets)
    _check_ports(request.ports, grant)
    if grant.constraints and request.type == "container":
        raise Forbidden("constraints: this token starts services only, as it is bound to certain nodes")
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
    """
    Args:
        running: how many runs of the token have not ended.

    Raises:
        Forbidden: one more is too many.
    """
    limit = grant.max_running if grant else None
    if limit is not None and running >= limit:
        raise Forbidden(f"max_running: this token has {running} runs that have not ended, and may have {limit}")


def _check_image(image: Reference, grant: TokenPolicy) -> None:
    if grant.images is not None and not any(pattern.matches(image) for pattern in grant.images):
        raise Forbidden(f"images: this token may not run {image.canonical}")


def _check_name(name: str | None) -> None:
    if name is not None and name.lower().startswith(NAME_PREFIX):  # to Swarm a name's case does not matter
        raise Forbidden(f"name: {NAME_PREFIX}… is taken for runs under an Idempotency-Key")


def _check_caps(request: RunRequest, grant: TokenPolicy) -> None:
    for rule, asked, limit, unit in (
        ("max_memory", request.memory, grant.max_memory, " MiB"),
        ("max_cpus", request.cpus, grant.max_cpus, ""),
        ("max_replicas", request.replicas, grant.max_replicas, ""),
    ):
        if asked is not None and limit is not None and not asked <= limit:
            raise Forbidden(f"{rule}: this token's runs have at most {limit}{unit}, not {asked}")


def _check_relaxed(request: RunRequest, grant: TokenPolicy) -> None:
    if grant.allow_relaxed:
        return
    if not request.no_new_privileges:
        raise Forbidden("allow_relaxed: this token's runs have no_new_privileges; leave the field out")
    kept = request.kept()
    if kept:
        raise Forbidden(f"allow_relaxed: this token's runs drop {', '.join(kept)} too; add them to cap_drop")


def _pids(asked: int | None, grant: TokenPolicy) -> int | None:
    """The limit of a run's processes: 0 for none, None for the default."""
    most = grant.max_pids
    if most is None and not grant.allow_relaxed:
        most = PIDS_LIMIT
    if most is None:
        return asked
    if asked is None:
        return most if most < PIDS_LIMIT else None
    if not 1 <= asked <= most:
        raise Forbidden(f"max_pids: this token's runs have at most {most} processes, not {asked or 'any number'}")
    return asked


def _ttl(asked: Ttl | None, limit: float | None, default: float | None) -> Ttl | None:
    """How long a run stays after its end; None for the default."""
    if limit is None or (asked is None and default is not None and default <= limit):
        return asked
    if asked is not None and (asked == NEVER or asked > limit):
        raise Forbidden(
            f"max_ttl: this token's runs stay at most {limit:g} seconds after their end, not {_long(asked)}"
        )
    return limit if asked is None else asked


def _long(ttl: Ttl) -> str:
    return "for ever" if ttl == NEVER else f"{ttl:g}"


def _check_list(rule: str, asked: Iterable[str], allowed: Collection[str]) -> None:
    for name in asked:
        if name not in allowed:
            raise Forbidden(f"{rule}: this token may not use {quote(name)}")


def _check_ports(ports: Iterable[str], grant: TokenPolicy) -> None:
    for port in ports:
        published = int(port.partition(":")[0])
        if not any(published in allowed for allowed in grant.ports):
            raise Forbidden(f"ports: this token may not publish {published}")


def _memory(request: RunRequest, grant: TokenPolicy, memory: int) -> int | None:
    """Of a run that names none: what every such run has, but not more than the token may."""
    if request.memory is None and grant.max_memory is not None:
        return min(memory, grant.max_memory)
    return request.memory
