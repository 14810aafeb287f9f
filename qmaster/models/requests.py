"""Requests: runs, stops and Idempotency-Keys, decoded and checked. Pure."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from ..errors import BadRequest
from . import compose
from .compose import MAX_SIZE, Limit, Mount, MountField, UlimitField
from .credentials import BOM, Credentials
from .images import Reference
from .units import numbers
from .urls import MAX_URL, check_url
from .validation import answer, explain, quote

T = TypeVar("T", bound=Struct)

LABEL_PREFIX = "io.qmaster."
DOCKER_PREFIX = "com.docker."
HOST_NETWORK = "host"
CLEARED = [""]  # how Docker writes an entrypoint that disables the image's
MAX_BODY = 128 * 1024
# Arrays and objects in a body, and their levels. Without a bound, decoding a body blocks the event loop for up to 30 ms
# before any token is known; a thousand such bodies at once block it for half a minute.
MAX_PARTS, MAX_DEPTH = 256, 32
# Bytes in UTF-8, of all strings of a field together.
MAX_LABELS = 8 * 1024
MAX_WORDS = 32 * 1024  # of command, of entrypoint and of env, each
# Characters of one string.
MAX_AUTH = 16 * 1024
MAX_NAME, MAX_OBJECT_NAME, MAX_USER, MAX_CONSTRAINT, MAX_PORT, MAX_WORKDIR = 63, 255, 255, 512, 64, 4096
MAX_SHA256 = 255
MAX_CAPABILITY = 64
MAX_ENTRY, MAX_SIGNAL = 1024, 16
MAX_STDIN = 64 * 1024
MIN_CPUS = 0.01  # the kernel's minimum: a quota of 1 ms in a period of 100 ms
NEVER: Final = "never"
# Seconds.
WAIT = 60.0  # for ``"wait": true``
MAX_WAIT = 86_400
MIN_TIMEOUT = 0.1
MAX_SECONDS = 3650 * 86_400
MAX_GRACE = 3600  # between the signal that stops a run and SIGKILL
MAX_DELAY = 86_400  # between two attempts, and of the window in which they count
MAX_PIDS = 4_194_304  # the maximum of a 64-bit kernel

# The default hardening of a job.
PIDS_LIMIT = 1024  # processes and threads
DROPPED = ("NET_RAW", "MKNOD", "AUDIT_WRITE")
ALL = "ALL"
NAME_PREFIX = "qm-"  # of the names of runs with an Idempotency-Key
NOT_DIGESTED = frozenset({"token", "auth", "wait"})
# Fields of a run that its ``spec`` does not show: what is secret, or may be, and what is not the run's own.
NOT_SHOWN = frozenset({"auth", "wait", "stdin"})
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_QUOTING, _WORD = re.compile(r"[\"'\\]"), re.compile(r"[^ \t\r\n]+")  # what shlex reads as quoting and as spaces
RESOURCE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_./-]{0,63}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

# Swarm's rule for a service's name. A container's may be longer, but one rule is used for both.
NAME = r"^[a-zA-Z0-9]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9])?$(?!\n)"
# The grammar of swarmkit's constraint parser (manager/constraint/constraint.go).
CONSTRAINT = r"^\s*[a-zA-Z_][a-zA-Z0-9_.-]+\s*(==|!=)[a-zA-Z0-9:_\s.*()?+\[\]\\^$|/-]+$(?!\n)"
PORT = r"^[0-9]{1,5}:[0-9]{1,5}(/(tcp|udp|sctp))?$(?!\n)"
OBJECT_NAME = r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}$(?!\n)"
USER = r"^[a-zA-Z0-9_][a-zA-Z0-9_.-]*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]*)?$(?!\n)"
WORKDIR = r"^/"
SIGNAL = r"^(SIG)?[A-Z][A-Z0-9+-]{1,14}$(?!\n)|^[1-9][0-9]?$(?!\n)"
HOSTNAME = r"^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?$(?!\n)"
SHA256 = r"^[0-9a-fA-F]{64}$(?!\n)"
CAPABILITY = r"^([cC][aA][pP]_)?[a-zA-Z][a-zA-Z_]{1,30}$(?!\n)"
FUNCTIONS = r"^[a-z0-9*]([a-z0-9_*-]{0,46}[a-z0-9*])?$(?!\n)"
# The words for each pattern in an error.
PATTERNS = {
    NAME: "up to 63 letters, digits, - and _, with a letter or digit at both ends",
    CONSTRAINT: "a constraint such as node.role==worker or node.labels.team!=blue",
    PORT: "PUBLISHED:TARGET, such as 8080:80, 8080:80/udp or 8080:80/sctp; an address or a range is not supported",
    OBJECT_NAME: "a name: up to 255 letters, digits, '.', - and _, beginning with a letter or digit",
    USER: "a user such as nobody or 1000:1000",
    SIGNAL: "a signal, such as SIGINT or 2",
    HOSTNAME: "the name of a host: up to 63 letters, digits, '.' and -",
    WORKDIR: "an absolute path, such as /srv",
    SHA256: "64 hexadecimal digits",
    FUNCTIONS: "the name of a function, or a pattern such as team-*",
    CAPABILITY: "the name of a Linux capability, such as NET_RAW, or ALL",
}

Kind = Literal["service", "container"]
PullPolicy = Literal["always", "missing", "never"]
Restart = Literal["none", "on-failure", "any"]
Mode = Literal["replicated", "global"]
# Linux's capabilities (capabilities(7)), and Docker's word for all of them.
CAPABILITIES = frozenset(
    """
    ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH
    FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN
    NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT
    SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM
    """.split()  # noqa: SIM905
)
Ttl = Annotated[float, Meta(ge=0, le=MAX_SECONDS)] | Literal["never"]
# The length is checked before the pattern, so no pattern is matched against a long string.
Names = Annotated[list[Annotated[str, Meta(pattern=OBJECT_NAME, max_length=MAX_OBJECT_NAME)]], Meta(max_length=64)]
Constraint = Annotated[str, Meta(pattern=CONSTRAINT, max_length=MAX_CONSTRAINT)]
Port = Annotated[str, Meta(pattern=PORT, max_length=MAX_PORT)]
Entry = Annotated[str, Meta(min_length=1, max_length=MAX_ENTRY)]


class RunFields(Struct, kw_only=True, frozen=True):
    """The fields that a run and a function share. ``memory`` is in MiB, ``cpus`` in cores."""

    image: Annotated[str, Meta(min_length=1, max_length=512, description="any image reference")]
    command: str | list[str] | None = None
    labels: dict[str, str] = {}
    env: dict[str, str] = {}
    workdir: Annotated[str, Meta(pattern=WORKDIR, max_length=MAX_WORKDIR)] | None = None
    user: Annotated[str, Meta(pattern=USER, max_length=MAX_USER)] | None = None
    entrypoint: str | list[str] | None = None
    memory: Annotated[int, Meta(ge=6, le=16 * 1024 * 1024)] | None = None
    cpus: Annotated[float, Meta(ge=MIN_CPUS, le=10_000)] | None = None
    constraints: Annotated[list[Constraint], Meta(max_length=64)] = []
    networks: Names = []
    secrets: Names = []
    pids_limit: Annotated[int, Meta(ge=0, le=MAX_PIDS)] | None = None
    cap_drop: (
        Annotated[list[Annotated[str, Meta(pattern=CAPABILITY, max_length=MAX_CAPABILITY)]], Meta(max_length=64)] | None
    ) = None
    no_new_privileges: bool = True
    healthcheck: bool | None = None
    pull_policy: PullPolicy | None = None
    init: bool | None = None
    stop_signal: Annotated[str, Meta(pattern=SIGNAL, max_length=MAX_SIGNAL)] | None = None
    stop_grace_period: Annotated[float, Meta(ge=0, le=MAX_GRACE)] | None = None
    hostname: Annotated[str, Meta(pattern=HOSTNAME, max_length=MAX_NAME)] | None = None
    extra_hosts: Annotated[list[Entry], Meta(max_length=64)] | Annotated[dict[str, Entry], Meta(max_length=64)] = []
    dns: Entry | Annotated[list[Entry], Meta(max_length=8)] = []
    read_only: bool = False
    tmpfs: Entry | Annotated[list[Entry], Meta(max_length=32)] = []
    shm_size: Annotated[int, Meta(ge=1, le=MAX_SIZE)] | None = None
    ulimits: dict[str, Limit | UlimitField] = {}
    volumes: Annotated[list[Entry | MountField], Meta(max_length=32)] = []
    configs: Names = []
    generic_resources: Annotated[dict[str, Annotated[int, Meta(ge=1, le=1_000_000)]], Meta(max_length=16)] = {}

    def mounts(self) -> list[Mount]:
        """Return ``volumes`` and ``tmpfs``.

        Raises:
            ValueError: an entry is wrong.
        """
        return compose.mounts(self.volumes, self.tmpfs)


class RunRequest(RunFields, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, frozen=True):
    """The body of ``POST /run``, without the token. ``memory`` is in MiB, ``cpus`` in cores, times are seconds."""

    type: Kind = "service"
    mode: Mode = "replicated"
    gpus: Annotated[int, Meta(ge=1, le=1024)] | Literal["all"] | None = None
    stdin: Annotated[str, Meta(max_length=MAX_STDIN)] | None = None
    auth: Annotated[str, Meta(max_length=MAX_AUTH)] | None = None
    name: Annotated[str, Meta(pattern=NAME, max_length=MAX_NAME)] | None = None
    replicas: Annotated[int, Meta(ge=1, le=10_000)] = 1
    restart: Restart = "none"
    max_attempts: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    restart_delay: Annotated[float, Meta(ge=0, le=MAX_DELAY)] | None = None
    restart_window: Annotated[float, Meta(ge=0, le=MAX_DELAY)] | None = None
    ports: Annotated[list[Port], Meta(max_length=64)] = []
    wait: bool | Annotated[float, Meta(ge=0, le=MAX_WAIT)] = False
    timeout: Annotated[float, Meta(ge=MIN_TIMEOUT, le=MAX_SECONDS)] | None = None
    ttl: Ttl | None = None
    callback: Annotated[str, Meta(max_length=MAX_URL)] | None = None

    def __post_init__(self) -> None:
        Reference.parse(self.image)
        words("command", self.command)
        if entrypoint_words(self.entrypoint) == CLEARED and self.command is None:
            raise ValueError(
                "command: is required if entrypoint is empty, because Docker then ignores the image's own command"
            )
        self.credentials()
        _check_text("workdir", [self.workdir or ""])
        if self.callback is not None:
            check_url("callback", self.callback)
        _check_labels(self.labels)
        _check_env(self.env)
        _check_ports(self.ports)
        _check_unique("cap_drop", self.capabilities() or [])
        for field in ("networks", "secrets", "ports", "configs"):
            _check_unique(field, getattr(self, field))
        self._check_shapes()
        if HOST_NETWORK in self.networks:
            raise ValueError(f"networks: the network {HOST_NETWORK} is not supported; use a swarm network")
        for field in ("max_attempts", "restart_delay", "restart_window"):
            if getattr(self, field) is not None and self.restart == "none":
                raise ValueError(f"{field}: needs restart on-failure or any; with none, the run is not restarted")
        if self.type == "container":
            self._check_container()

    def _check_shapes(self) -> None:
        """Read the fields that are shaped as in Compose."""
        if self.shm_size is not None and any(each.target == compose.SHARED_MEMORY for each in self.mounts()):
            raise ValueError(f"shm_size: tmpfs has {compose.SHARED_MEMORY} already; leave one of them out")
        self.mounts()
        compose.hosts(self.extra_hosts)
        compose.servers(self.dns)
        compose.limits(self.ulimits)
        for name in self.generic_resources:
            if not RESOURCE.fullmatch(name):
                raise ValueError(f"generic_resources: expected names such as gpu or nvidia.com/gpu; got {quote(name)}")
        if self.mode == "global" and self.replicas != 1:
            raise ValueError("replicas: a global service has one on each node; leave it out")
        if self.type == "service":
            for field, instead in (("gpus", "generic_resources"), ("stdin", "env or secrets")):
                if getattr(self, field) is not None:
                    raise ValueError(f"{field}: not supported for a service; use type container, or {instead}")

    def _check_container(self) -> None:
        if self.mode == "global":
            raise ValueError("mode: not supported for a container; leave it out, or use type service")
        for field in ("constraints", "networks", "secrets", "ports", "configs", "generic_resources"):
            if getattr(self, field):
                raise ValueError(f"{field}: not supported for a container; leave it out, or use type service")
        if self.stdin is not None and self.restart != "none":
            raise ValueError("stdin: is read once; leave restart out")
        if self.name is not None and len(self.name) < 2:
            raise ValueError("name: expected at least 2 characters for a container")
        if self.replicas != 1:
            raise ValueError("replicas: a container has one replica; leave it out, or use type service")
        for field in ("restart_delay", "restart_window"):
            if getattr(self, field) is not None:
                raise ValueError(f"{field}: not supported for a container; leave it out, or use type service")
        if self.max_attempts is not None and self.restart != "on-failure":
            raise ValueError("max_attempts: needs restart on-failure for a container")

    def credentials(self) -> Credentials | None:
        """Return the decoded credentials of the registry, or None."""
        return None if self.auth is None else Credentials.decode(self.auth)

    def capabilities(self) -> list[str] | None:
        """Return ``cap_drop`` in capitals and without ``CAP_``.

        Raises:
            ValueError: Linux has no such capability.
        """
        if self.cap_drop is None:
            return None
        names = [each.upper().removeprefix("CAP_") for each in self.cap_drop]
        for name in names:
            if name not in CAPABILITIES:
                raise ValueError(f"cap_drop: Linux has no capability {quote(name)}; use names such as NET_RAW, or ALL")
        return names

    def dropped(self) -> list[str]:
        """Return the capabilities that the run drops, in Docker's own spelling."""
        asked = self.capabilities()
        return [name if name == ALL else f"CAP_{name}" for name in (DROPPED if asked is None else asked)]

    def kept(self) -> list[str]:
        """Return the capabilities that the run keeps although jobs drop them by default."""
        asked = self.capabilities()
        return [] if asked is None or ALL in asked else [name for name in DROPPED if name not in asked]

    @property
    def pulls(self) -> PullPolicy:
        """``pull_policy``, by default as in Kubernetes: ``always`` for no tag or ``latest``, else ``missing``."""
        if self.pull_policy is not None:
            return self.pull_policy
        image = Reference.parse(self.image)
        return "missing" if image.digest or image.tag not in (None, "latest") else "always"

    @property
    def checks_health(self) -> bool:
        """Whether the image's HEALTHCHECK is on; by default it is off for a run that happens once."""
        return self.restart != "none" if self.healthcheck is None else self.healthcheck

    def shown(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as JSON values; of the environment only the names."""
        fields = {name: value for name, value in msgspec.to_builtins(self).items() if name not in NOT_SHOWN}
        return {**fields, "env": sorted(self.env)} if self.env else fields

    def __repr__(self) -> str:  # the default shows auth and env
        return f"RunRequest(type={self.type!r}, image={self.image!r})"


class StopRequest(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The body of ``POST /stop``, without the token: a full id or an exact name."""

    id: Annotated[str, Meta(min_length=1, max_length=255)]


class Key(NamedTuple):
    """An ``Idempotency-Key``: ``name`` is the run's, a hash of (token's name, key); ``body`` the request's digest."""

    name: str
    body: str


class Started(NamedTuple):
    """A run's id; ``replayed``: an earlier call started it; ``warnings``: settings that are not in force."""

    id: str
    replayed: bool = False
    warnings: tuple[str, ...] = ()


def decode_object(body: bytes) -> dict[str, Any]:
    """Decode a JSON object strictly: UTF-8, no NaN, no duplicate key, at most ``MAX_PARTS`` and ``MAX_DEPTH``.

    Raises:
        BadRequest: the body is not such an object.
    """
    _check_shape(body)
    try:
        body = body.removeprefix(BOM)  # RFC 8259, 8.1: a parser may ignore it
        document = msgspec.json.decode(body)
        json.loads(body.decode(), object_pairs_hook=_unique_keys)
    except _DuplicateKey as error:
        raise BadRequest(f"the body has the key {quote(str(error))} twice") from None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise BadRequest("the body is not valid JSON (UTF-8, one object)") from None
    if not isinstance(document, dict):
        raise BadRequest("the body is not a JSON object")
    return document


def convert(document: dict[str, Any], to: type[T], instead: Callable[[str], str | None] = lambda word: None) -> T:
    """Check a decoded object against a request type; durations and sizes may be strings.

    Args:
        document: the decoded object.
        to: the request type.
        instead: returns what to use instead of another tool's word; None for an unknown word.

    Raises:
        BadRequest: a field is wrong, unknown or missing; the message names it.
    """
    try:
        return msgspec.convert(numbers(document, to.__struct_fields__), to, strict=True)
    except msgspec.ValidationError as error:
        raise BadRequest(explain(str(error), document, to, PATTERNS, _INSTEAD.get(to, instead))) from None


def words(field: str, value: str | list[str] | None) -> list[str] | None:
    """Return a command as a list: a string is split as a shell splits words.

    Raises:
        ValueError: it is too long or empty, a quote is not closed, or it has a NUL.
    """
    if value is None:
        return None
    _check_size(field, [value] if isinstance(value, str) else value, MAX_WORDS)
    try:
        split = list(_split(value)) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{field}: {str(error).lower()}") from None
    if not split:
        raise ValueError(f"{field}: is empty; leave it out to run the image's own")
    _check_text(field, split)
    return split


@lru_cache(maxsize=4)  # a run splits its command four times, and 32 KiB with quotes take 10 ms
def _split(command: str) -> tuple[str, ...]:
    """Split as a shell does. ``shlex`` reads each character in Python, which only quotes and backslashes need."""
    return tuple(shlex.split(command) if _QUOTING.search(command) else _WORD.findall(command))


def entrypoint_words(value: str | list[str] | None) -> list[str] | None:
    """Return an entrypoint as a list; ``CLEARED`` if it is empty, which disables the image's own.

    Raises:
        ValueError: as ``words``.
    """
    if value is not None and not (value.strip() if isinstance(value, str) else value):
        return list(CLEARED)
    return words("entrypoint", value)


def wait_seconds(wait: bool | float) -> float | None:
    """Return the seconds of ``wait``; None: do not wait."""
    if isinstance(wait, bool):
        return WAIT if wait else None
    return wait


def read_key(values: Sequence[str], owner: str, document: Mapping[str, Any]) -> Key | None:
    """Return the idempotency key of a request, or None.

    Args:
        values: the values of the header ``Idempotency-Key``.
        owner: the name of the token; each token has its own keys.
        document: the decoded body.

    Raises:
        BadRequest: there are two keys, it is malformed, or the body has a name.
    """
    key = check_key(values)
    if key is None:
        return None
    if document.get("name") is not None:
        raise BadRequest("name: not supported with an Idempotency-Key, which sets the name; leave one of the two out")
    hashed = hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()
    return Key(NAME_PREFIX + hashed[:40], body_digest(document))


def check_key(values: Sequence[str]) -> str | None:
    """Return the idempotency key of a request, or None.

    Args:
        values: the values of the header ``Idempotency-Key``.

    Raises:
        BadRequest: there are two keys, or it is malformed.
    """
    if not values:
        return None
    if len(values) > 1:
        raise BadRequest(f"Idempotency-Key: expected one header; got {len(values)}")
    if not _KEY.fullmatch(values[0]):
        raise BadRequest("Idempotency-Key: expected 1 to 255 printable ASCII characters without spaces")
    return values[0]


def body_digest(document: Mapping[str, Any]) -> str:
    """Return the digest of a body without ``token``, ``auth`` and ``wait``; the order of its keys does not matter."""
    asked = {name: value for name, value in document.items() if name not in NOT_DIGESTED}
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _of_a_run(word: str) -> str | None:
    return answer(word, {field: field for field in RunRequest.__struct_fields__})


_INSTEAD: dict[type, Callable[[str], str | None]] = {RunRequest: _of_a_run}


class _DuplicateKey(Exception):
    pass


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        for key, _ in pairs:
            if unique.pop(key, pairs) is pairs:
                raise _DuplicateKey(key)
    return unique


def _check_shape(body: bytes) -> None:
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    if len(brackets) > 2 * MAX_PARTS:
        raise BadRequest(f"the body has more than {MAX_PARTS} arrays and objects; send fewer")
    if max(accumulate(1 if each in b"[{" else -1 for each in brackets), default=0) > MAX_DEPTH:
        raise BadRequest(f"the body is nested more than {MAX_DEPTH} levels deep; a request has three at most")


def _check_text(field: str, strings: Iterable[str]) -> None:
    if any("\0" in s for s in strings):
        raise ValueError(f"{field}: expected no NUL characters")


def _check_size(field: str, strings: Iterable[str], limit: int) -> None:
    size = sum(len(each.encode()) for each in strings)
    if size > limit:
        raise ValueError(f"{field}: expected at most {limit} bytes in all; got {size}")


def _check_unique(field: str, values: list[str]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{field}: expected each name once")


def _check_labels(labels: dict[str, str]) -> None:
    _check_size("labels", [*labels, *labels.values()], MAX_LABELS)
    for key, value in labels.items():
        if not key.strip():
            raise ValueError("labels: expected keys that are not empty")
        if key.strip().lower().startswith(LABEL_PREFIX):
            raise ValueError(f"labels: the prefix {LABEL_PREFIX} is reserved for quartermaster")
        if key.strip().lower().startswith(DOCKER_PREFIX):
            raise ValueError(f"labels: the prefix {DOCKER_PREFIX} is reserved for Docker")
        _check_text("labels", (key, value))


def _check_env(env: dict[str, str]) -> None:
    _check_size("env", [*env, *env.values()], MAX_WORDS)
    for key, value in env.items():
        if not key or "=" in key:
            raise ValueError("env: expected names that are not empty and have no '='")
        _check_text("env", (key, value))


def _check_ports(ports: list[str]) -> None:
    for port in ports:
        if not all(1 <= int(number) <= 65535 for number in port.partition("/")[0].split(":")):
            raise ValueError("ports: expected port numbers from 1 to 65535")
