"""Pure: the tokens file, a TOML table for each name, as what its token may do."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Collection
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from ..errors import BadRequest, ConfigError
from ..models.credentials import BOM
from ..models.images import Pattern
from ..models.requests import (
    HOST_NETWORK,
    MAX_PIDS,
    MAX_SECONDS,
    MAX_SHA256,
    MIN_CPUS,
    SHA256,
    Constraint,
    Names,
    convert,
)
from ..models.responses import ROOT
from ..models.validation import quote

Scope = Literal["run", "stop", "read"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
MAX_PORT = 65535
MAX_RATE = 100_000
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
# As tomllib writes a table's name: Python's ('alice',). Anchored, as a name may be long and hold anything.
_KEY = re.compile(r"(Cannot [a-z ]+)\(((?:'[^']*',? ?)+)\)")
_PART = re.compile(r"'([^']*)'")
_NOTHING = hashlib.sha256(b"").digest()

Ports = Annotated[int, Meta(ge=1, le=MAX_PORT)] | Annotated[str, Meta(max_length=64)]
MAX_TOKEN = 4096  # bytes, far more than any needs


class Table(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What a table of the file may hold."""

    sha256: Annotated[str, Meta(pattern=SHA256, max_length=MAX_SHA256)]
    scopes: Annotated[list[Scope], Meta(min_length=1)]
    images: list[Annotated[str, Meta(max_length=512)]] | None = None
    max_memory: Annotated[int, Meta(ge=6)] | None = None
    max_cpus: Annotated[float, Meta(ge=MIN_CPUS, le=10_000)] | None = None
    max_replicas: Annotated[int, Meta(ge=1)] | None = None
    max_running: Annotated[int, Meta(ge=1)] | None = None
    max_rate: Annotated[int, Meta(ge=1, le=MAX_RATE)] | None = None
    max_kept: Annotated[int, Meta(ge=0)] | None = None
    max_ttl: Annotated[float, Meta(ge=0, le=MAX_SECONDS)] | None = None
    max_pids: Annotated[int, Meta(ge=1, le=MAX_PIDS)] | None = None
    allow_relaxed: bool = False
    constraints: list[Constraint] = []
    networks: Names = []
    secrets: Names = []
    ports: list[Ports] = []


class TokenPolicy(Struct, kw_only=True, frozen=True):
    """What the token of a name may do.

    ``images`` and the caps are None where nothing is limited; ``max_memory`` is MiB, ``max_cpus`` cores, ``max_pids``
    processes, all of one replica; ``max_running`` counts runs, ``max_rate`` those begun in a minute, ``max_kept`` those
    that have ended and are still in the swarm; ``max_ttl`` is seconds. ``allow_relaxed``: its runs may be less
    hardened than by default. ``constraints`` are put on every run. ``ports`` are ranges of published ones.
    """

    name: str
    digest: bytes
    scopes: frozenset[Scope] = frozenset(SCOPES)
    images: tuple[Pattern, ...] | None = None
    max_memory: int | None = None
    max_cpus: float | None = None
    max_replicas: int | None = None
    max_running: int | None = None
    max_rate: int | None = None
    max_kept: int | None = None
    max_ttl: float | None = None
    max_pids: int | None = None
    allow_relaxed: bool = False
    constraints: tuple[str, ...] = ()
    networks: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    ports: tuple[range, ...] = ()


def digest(token: bytes) -> bytes:
    """What is kept of a token: it is long and random, so one round of SHA-256 does."""
    return hashlib.sha256(token).digest()


def read(content: bytes, taken: Collection[bytes] = ()) -> list[TokenPolicy]:
    """Read a tokens file.

    Args:
        content: TOML.
        taken: digests that no table may have: the root token's.

    Raises:
        ConfigError: it is not one; the message names the table and the key.
    """
    try:
        tables = tomllib.loads(content.removeprefix(BOM).decode())
    except ValueError as error:  # tomllib's own, and of what is not UTF-8
        raise ConfigError(f"it is not TOML: {_in_toml(str(error))}") from None
    except RecursionError:
        raise ConfigError("it is not TOML: nested too deeply") from None
    grants = [_grant(name, table) for name, table in tables.items()]
    owners = dict.fromkeys(taken, ROOT) | {_NOTHING: "an empty token"}
    for grant in grants:
        if grant.digest in owners:
            raise ConfigError(f"[{grant.name}] sha256: is that of {owners[grant.digest]} too")
        owners[grant.digest] = f"[{grant.name}]"
    return grants


def _in_toml(text: str) -> str:
    found = _KEY.match(text)
    return f"{found[1]}[{'.'.join(_PART.findall(found[2]))}]{text[found.end() :]}" if found else text


def _grant(name: str, table: Any) -> TokenPolicy:
    if not isinstance(table, dict):
        raise ConfigError(f"{quote(name)}: expected a table for each name, as [alice]")
    if not NAME.fullmatch(name):
        raise ConfigError(f"[{quote(name)}]: a name has up to 63 of a-z, 0-9, - and _")
    if name == ROOT:
        raise ConfigError(f"[{name}]: is the name of the root token; choose another")
    try:
        return _checked(name, convert(table, Table))
    except (BadRequest, ValueError) as error:
        text = re.sub(r"^unknown field", "unknown key", str(error))
        raise ConfigError(f"[{name}] {text}") from None


def _checked(name: str, table: Table) -> TokenPolicy:
    if HOST_NETWORK in table.networks:
        raise ValueError(f"networks: the network {HOST_NETWORK} is not allowed, to nobody")
    fields = msgspec.structs.asdict(table)
    del fields["sha256"]
    return TokenPolicy(
        **fields
        | {
            "name": name,
            "digest": bytes.fromhex(table.sha256),
            "scopes": frozenset(table.scopes),
            "images": None if table.images is None else tuple(map(_pattern, table.images)),
            "constraints": tuple(table.constraints),
            "networks": frozenset(table.networks),
            "secrets": frozenset(table.secrets),
            "ports": tuple(map(_ports, table.ports)),
        }
    )


def _pattern(text: str) -> Pattern:
    try:
        return Pattern.parse(text)
    except ValueError as error:
        raise ValueError(f"images: {quote(text)}: {error}") from None


def _ports(entry: int | str) -> range:
    found = _PORTS.fullmatch(str(entry))
    first = int(found[1]) if found else 0
    last = int(found[2] or first) if found else 0
    if not 1 <= first <= last <= MAX_PORT:
        raise ValueError(f"ports: {quote(str(entry))}: expected a published port, or a range as '8000-8099'")
    return range(first, last + 1)
