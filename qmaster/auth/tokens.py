"""The tokens file: a TOML table for each name with its token's policy. It is read again when it changes."""

from __future__ import annotations

import hashlib
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
import structlog
from msgspec import Meta, Struct

from ..errors import BadRequest, ConfigError
from ..models.credentials import BOM
from ..models.images import Pattern
from ..models.paths import folder
from ..models.requests import (
    FUNCTIONS,
    HOST_NETWORK,
    MAX_OBJECT_NAME,
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
from .watched import WatchedFile, has_mode

Scope = Literal["run", "stop", "read", "invoke"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
MAX_PORT = 65535
MAX_RATE = 100_000
FUNCTIONS_EACH = 100  # functions of a token whose table does not say; each is up to ten configs of the swarm
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
# tomllib writes a table's name as Python's ('alice',). Anchored, because a name may be long and hold anything.
_KEY = re.compile(r"(Cannot [a-z ]+)\(((?:'[^']*',? ?)+)\)")
_PART = re.compile(r"'([^']*)'")
_NOTHING = hashlib.sha256(b"").digest()

Functions = Annotated[list[Annotated[str, Meta(pattern=FUNCTIONS, max_length=MAX_OBJECT_NAME)]], Meta(max_length=256)]
Patterns = Annotated[list[Annotated[str, Meta(min_length=1, max_length=1024)]], Meta(max_length=256)]
Ports = Annotated[int, Meta(ge=1, le=MAX_PORT)] | Annotated[str, Meta(max_length=64)]

log = structlog.get_logger(__name__)


class Table(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A table of the tokens file."""

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
    configs: Names = []
    volumes: Patterns = []
    mounts: Patterns = []
    resources: Patterns = []
    ports: list[Ports] = []
    functions: Functions = []
    max_functions: Annotated[int, Meta(ge=0, le=100_000)] = FUNCTIONS_EACH
    public: bool = False


class TokenPolicy(Struct, kw_only=True, frozen=True):
    """The policy of a token.

    None in ``images`` or a limit means no limit; ``max_memory`` is MiB, ``max_cpus`` cores, ``max_pids``
    processes, all of one replica; ``max_running`` counts runs, ``max_rate`` those begun in a minute, ``max_kept`` those
    that have ended and are still in the swarm; ``max_ttl`` is seconds. ``allow_relaxed``: its runs may be less
    hardened than by default. ``constraints`` are added to every run. ``ports`` are ranges of published ports,
    ``volumes`` patterns of names, ``mounts`` host folders, ``resources`` names of generic resources, with ``gpu`` for
    GPUs.
    ``functions`` are patterns of the functions that it may publish, see and call, ``max_functions`` how many of those
    there are may be its own; ``public``: their URLs may be open to callers without a token.
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
    configs: frozenset[str] = frozenset()
    volumes: tuple[str, ...] = ()
    mounts: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    ports: tuple[range, ...] = ()
    functions: tuple[str, ...] = ()
    max_functions: int = FUNCTIONS_EACH
    public: bool = False


def digest(token: bytes) -> bytes:
    """Return the SHA-256 of a token. Tokens are long and random, so one round is enough."""
    return hashlib.sha256(token).digest()


class TokenFile:
    """Reads the tokens file and passes on its policies; a file that cannot be read changes nothing.

    Args:
        path: the file.
        taken: digests that no table may have.
        changed: called with all policies of the file.
    """

    def __init__(self, path: Path, taken: Collection[bytes], changed: Callable[[Sequence[TokenPolicy]], None]) -> None:
        self._path = path
        self._taken = taken
        self._changed = changed
        self._file = WatchedFile(path, "--tokens-file", self._take, _refused)

    def load(self) -> None:
        """Read the file for the first time.

        Raises:
            ConfigError: it cannot be read, or has a mistake.
        """
        self._file.load()

    async def run(self) -> None:
        """Read the file again whenever it changes."""
        await self._file.run()

    def _take(self, content: bytes) -> None:
        grants = read(content, self._taken)
        self._changed(grants)
        log.info("tokens_loaded", names=[grant.name for grant in grants])
        # Who can write the file can add a token. The digests in it are not secret.
        mode = has_mode(self._path, stat.S_IWGRP | stat.S_IWOTH)
        if mode:
            log.warning("tokens_file_writable_by_others", mode=mode, advice=f"chmod go-w {self._path}")


def _refused(error: ConfigError) -> None:
    log.warning("tokens_file_wrong", error=str(error), advice="the tokens read before stay valid")


def read(content: bytes, taken: Collection[bytes] = ()) -> list[TokenPolicy]:
    """Read the content of a tokens file.

    Args:
        content: TOML.
        taken: digests that no table may have: the root token's.

    Raises:
        ConfigError: it has a mistake; the message names the table and the key.
    """
    try:
        tables = tomllib.loads(content.removeprefix(BOM).decode())
    except ValueError as error:  # tomllib's own, and UnicodeDecodeError
        raise ConfigError(f"it is not TOML: {_in_toml(str(error))}") from None
    except RecursionError:
        raise ConfigError("it is not TOML: nested too deeply") from None
    grants = [_grant(name, table) for name, table in tables.items()]
    owners = dict.fromkeys(taken, ROOT) | {_NOTHING: "an empty token"}
    for grant in grants:
        if grant.digest in owners:
            raise ConfigError(f"[{grant.name}] sha256: is already that of {owners[grant.digest]}")
        owners[grant.digest] = f"[{grant.name}]"
    return grants


def _in_toml(text: str) -> str:
    found = _KEY.match(text)
    return f"{found[1]}[{'.'.join(_PART.findall(found[2]))}]{text[found.end() :]}" if found else text


def _grant(name: str, table: Any) -> TokenPolicy:
    if not isinstance(table, dict):
        raise ConfigError(f"{quote(name)}: expected a table for each name, such as [alice]")
    if not NAME.fullmatch(name):
        raise ConfigError(f"[{quote(name)}]: expected a name of up to 63 characters of a-z, 0-9, - and _")
    if name == ROOT:
        raise ConfigError(f"[{name}]: this name is reserved for the root token; choose another")
    try:
        return _checked(name, convert(table, Table))
    except (BadRequest, ValueError) as error:
        text = re.sub(r"^unknown field", "unknown key", str(error))
        raise ConfigError(f"[{name}] {text}") from None


def _checked(name: str, table: Table) -> TokenPolicy:
    if HOST_NETWORK in table.networks:
        raise ValueError(f"networks: no token may use the network {HOST_NETWORK}")
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
            "configs": frozenset(table.configs),
            "volumes": tuple(table.volumes),
            "mounts": frozenset(map(folder, table.mounts)),
            "resources": frozenset(table.resources),
            "ports": tuple(map(_ports, table.ports)),
            "functions": tuple(table.functions),
            "max_functions": table.max_functions,
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
        raise ValueError(f"ports: {quote(str(entry))}: expected a published port, or a range such as '8000-8099'")
    return range(first, last + 1)
